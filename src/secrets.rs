//! Credentials kept out of what is shown: some servers put the key that they refuse into their messages,
//! headers and logs.

use std::borrow::Cow;
use std::fmt;

use ureq::http::HeaderMap;
use ureq::http::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::error::printable;

/// The longest request id or header of the server's that is kept or logged, in characters.
const WORD_CHARS_MAX: usize = 256;
/// What stands in place of a credential.
pub(crate) const REDACTED: &str = "[redacted]";
/// So much of a credential's beginning may show where a text was cut: `sk-`, which is in every key.
const SHOWN_MAX: usize = 3;
/// What is shorter is not looked for: the `x` or `EMPTY` that is given to a server which wants no key would be found
/// in places where it means something else.
const CHARS_MIN: usize = 8;

/// The credentials that a request is sent with.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<Box<str>>);

impl Secrets {
    /// The API key and every other value that is marked as sensitive.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self::among(headers.iter())
    }

    /// The API key alone.
    pub(crate) fn key_of(headers: &HeaderMap) -> Self {
        Self::among(headers.iter().filter(|(name, _)| *name == AUTHORIZATION))
    }

    fn among<'a>(headers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>) -> Self {
        let values = headers.filter(|(_, value)| value.is_sensitive()).filter_map(|(name, value)| {
            let value = value.to_str().ok()?;
            let key = value.strip_prefix("Bearer ").filter(|_| name == AUTHORIZATION);
            Some(key.unwrap_or(value)).filter(|value| value.len() >= CHARS_MIN)
        });
        Self(values.map(Into::into).collect())
    }

    /// `text` without any of them.
    pub(crate) fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.0.iter().fold(Cow::Borrowed(text), |text, secret| match redact(secret, &text) {
            Some(clean) => Cow::Owned(clean),
            None => text,
        })
    }

    /// A word of the server's, to be kept or logged: printable, not long, and without any of them.
    pub(crate) fn word(&self, word: &str) -> String {
        printable(&self.redact(word), WORD_CHARS_MAX)
    }

    /// Overwrites them in bytes that came in several pieces, each byte with a `*`: lengths and cuts stay.
    pub(crate) fn mask(&self, pieces: &mut [&mut [u8]]) {
        if self.0.is_empty() {
            return;
        }
        let whole = pieces.concat();
        let mut found = Vec::new();
        for secret in self.0.iter().map(|secret| secret.as_bytes()) {
            found.extend(memchr::memmem::find_iter(&whole, secret).map(|at| at..at + secret.len()));
            // The bytes may end inside of it.
            let cut = (SHOWN_MAX + 1..secret.len()).rev().find(|len| whole.ends_with(&secret[..*len]));
            found.extend(cut.map(|len| whole.len() - len..whole.len()));
        }
        let mut begins = 0;
        for piece in pieces {
            for range in &found {
                let from = range.start.clamp(begins, begins + piece.len()) - begins;
                let to = range.end.clamp(begins, begins + piece.len()) - begins;
                piece[from..to].fill(b'*');
            }
            begins += piece.len();
        }
    }
}

/// `text` without `secret`, also without its beginning at the end of the text and where the text was cut; `None` if it is not in
/// it.
pub(crate) fn redact(secret: &str, text: &str) -> Option<String> {
    let clean = text.replace(secret, REDACTED);
    let uncut = |piece: &str| {
        let len = (SHOWN_MAX + 1..secret.len()).rev().find(|len| piece.ends_with(&secret[..*len]))?;
        Some(piece[..piece.len() - len].to_owned() + REDACTED)
    };
    let pieces: Vec<String> =
        clean.split('…').map(|piece| uncut(piece).unwrap_or_else(|| piece.to_owned())).collect();
    let clean = pieces.join("…");
    (clean != text).then_some(clean)
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("authorization", "Bearer sk-canary"), ("x-api-key", "hk-feather"), ("x-a", "short")]
        {
            let (name, value) = crate::http::header(name, value).unwrap();
            headers.insert(name, value);
        }
        headers.insert("x-request-id", "not-secret".parse().unwrap());
        Secrets::of(&headers)
    }

    #[test]
    fn a_text_loses_every_credential_whole_and_cut() {
        for (text, clean) in [
            ("bad key sk-canary!", "bad key [redacted]!"),
            ("sk-canary and hk-feather", "[redacted] and [redacted]"),
            ("sk-canary and sk-can…", "[redacted] and [redacted]…"),
            ("but \"text/sk-can…\": hk-feat…", "but \"text/[redacted]…\": [redacted]…"),
            ("ends in sk-", "ends in sk-"),
            ("short and not-secret", "short and not-secret"),
        ] {
            assert_eq!(secrets().redact(text), clean);
        }
        assert!(!format!("{:?}", secrets()).contains("canary"));
    }

    #[test]
    fn bytes_lose_them_at_every_cut_and_keep_their_length() {
        let whole = b"a sk-canary b hk-feather c sk-cana";
        for cut in 0..=whole.len() {
            let mut bytes = *whole;
            let (front, back) = bytes.split_at_mut(cut);
            secrets().mask(&mut [front, back]);
            assert_eq!(&bytes, b"a ********* b ********** c *******", "cut at {cut}");
        }
    }
}
