//! Removes credentials from everything that is shown.
//!
//! Some servers repeat a rejected key in their messages, headers and logs.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use super::Error;
use super::escape::printable;

/// The maximum length of a request id or server header that is kept or logged, in characters.
const MAX_WORD_CHARS: usize = 256;
/// The text that replaces a credential.
pub(crate) const REDACTED: &str = "[redacted]";
/// The number of characters of a truncated credential that may be shown.
///
/// Three characters are enough for `sk-`, which many keys share.
const MAX_SHOWN: usize = 3;
/// The minimum length of a value that is redacted, in characters.
///
/// For a server without keys, the key is often `x` or `EMPTY`, and the value of a header may be
/// `1`. Such short values also appear in ordinary text, above all in token ids. Real secrets are
/// longer. [`ApiClientBuilder::api_key`](crate::ApiClientBuilder::api_key) documents this limit.
const MIN_CHARS: usize = 8;

/// The credentials of a request.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<Box<str>>);

impl Secrets {
    /// Collects the values of these headers, because the values may be credentials.
    ///
    /// `sensitive` contains the name and the value of each header.
    pub(crate) fn of<'a>(sensitive: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let values = sensitive.into_iter().map(|(name, value)| {
            let key = value.strip_prefix("Bearer ").filter(|_| is_authorization(name));
            key.unwrap_or(value)
        });
        Self(values.filter(|value| value.len() >= MIN_CHARS).map(Into::into).collect())
    }

    /// Collects only the API key.
    pub(crate) fn key_of<'a>(sensitive: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self::of(sensitive.into_iter().filter(|(name, _)| is_authorization(name)))
    }

    /// Returns `text` with all credentials redacted.
    pub(crate) fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.0.iter().fold(Cow::Borrowed(text), |text, secret| match redact(secret, &text) {
            Some(clean) => Cow::Owned(clean),
            None => text,
        })
    }

    /// Redacts, escapes and shortens a server's text that is kept or logged.
    pub(crate) fn word(&self, word: &str) -> String {
        printable(&self.redact(word), MAX_WORD_CHARS)
    }

    /// Overwrites the credentials in bytes that arrived in pieces.
    ///
    /// Each byte becomes a `*`, so lengths and boundaries stay the same.
    pub(crate) fn mask(&self, pieces: &mut [&mut [u8]]) {
        if self.0.is_empty() {
            return;
        }
        let whole = pieces.concat();
        let mut found = Vec::new();
        for secret in self.0.iter().map(|secret| secret.as_bytes()) {
            found.extend(places(secret, &whole));
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

fn is_authorization(name: &str) -> bool {
    name.eq_ignore_ascii_case("authorization")
}

/// Returns `text` with `secret` redacted, or `None` if `text` does not contain it.
///
/// A secret that is cut off by the end of the text or by a `…` is also redacted.
pub(crate) fn redact(secret: &str, text: &str) -> Option<String> {
    let mut out = String::new();
    for (n, piece) in text.split('…').enumerate() {
        if n > 0 {
            out.push('…');
        }
        let mut from = 0;
        for found in places(secret.as_bytes(), piece.as_bytes()) {
            // Both ends are ASCII characters, or the end of the piece.
            out.push_str(&piece[from..found.start]);
            out.push_str(REDACTED);
            from = found.end;
        }
        out.push_str(&piece[from..]);
    }
    (out != text).then_some(out)
}

/// Returns the ranges of `text` that contain `secret`.
///
/// Characters of the secret may be escaped as in JSON. The last range may contain only the
/// beginning of the secret.
fn places(secret: &[u8], text: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let Some(first) = secret.first() else { return found };
    let mut from = 0;
    while let Some(at) = memchr::memchr2(*first, b'\\', &text[from..]).map(|at| from + at) {
        let rest = &text[at..];
        // A backslash that belongs to the secret may appear unescaped or escaped.
        let len = length_at(secret, rest, literal).or_else(|| length_at(secret, rest, in_json));
        found.extend(len.map(|len| at..at + len));
        from = at + len.unwrap_or(1);
    }
    found
}

/// Returns the length of the secret at the beginning of `text`.
///
/// If the text ends inside the secret, this is the length of the text.
fn length_at(secret: &[u8], text: &[u8], read: fn(&[u8]) -> Read) -> Option<usize> {
    let mut at = 0;
    for (n, byte) in secret.iter().enumerate() {
        match read(&text[at..]) {
            Read::Byte(read, len) if read == *byte => at += len,
            Read::Cut if n > MAX_SHOWN => return Some(text.len()),
            _ => return None,
        }
    }
    Some(at)
}

/// The result of reading the first character of a text.
enum Read {
    /// The character is this byte. The number counts the bytes that represent it in the text.
    Byte(u8, usize),
    /// The text ends before the byte is known.
    Cut,
}

fn literal(text: &[u8]) -> Read {
    text.first().map_or(Read::Cut, |byte| Read::Byte(*byte, 1))
}

/// Reads a character that may be escaped as in JSON.
///
/// JSON writers differ. Some writers escape `/` as `\/`. Some writers escape `<` and `-` as
/// `\u003c` and `\u002d`.
fn in_json(text: &[u8]) -> Read {
    match text {
        [] | [b'\\'] => Read::Cut,
        [b'\\', b'u', digits @ ..] => {
            let Some(digits) = digits.get(..4) else { return Read::Cut };
            let code = std::str::from_utf8(digits).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
            // Credentials contain only ASCII.
            Read::Byte(code.unwrap_or(u8::MAX), 6)
        }
        [b'\\', b't', ..] => Read::Byte(b'\t', 2),
        [b'\\', byte, ..] => Read::Byte(*byte, 2),
        [byte, ..] => Read::Byte(*byte, 1),
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Error {
    /// Removes the credentials of the request, in case the server repeated them.
    pub(crate) fn redacted(self, secrets: &Secrets) -> Self {
        self.with(|inner| {
            if let Cow::Owned(clean) = secrets.redact(&inner.message) {
                inner.message = clean.into();
            }
            let Some(server) = &mut inner.server else { return };
            let words = [&mut server.kind, &mut server.code, &mut server.param].into_iter().flatten();
            for text in words.chain([&mut server.message]) {
                *text = secrets.redact(text).into_owned();
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        Secrets::of([
            ("authorization", "Bearer sk-canary"),
            ("x-api-key", "hk-feather"),
            ("x-quoted", r#"q"uo\te/d"#),
            ("x-a", "short"),
        ])
    }

    #[test]
    fn credentials_are_redacted_even_when_truncated() {
        for (text, clean) in [
            ("bad key sk-canary!", "bad key [redacted]!"),
            ("sk-canary and hk-feather", "[redacted] and [redacted]"),
            ("sk-canary and sk-can…", "[redacted] and [redacted]…"),
            ("but \"text/sk-can…\": hk-feat…", "but \"text/[redacted]…\": [redacted]…"),
            ("ends in sk-", "ends in sk-"),
            ("short and not-secret", "short and not-secret"),
            // Texts of different JSON writers, complete or cut inside an escape.
            (r#"{"key":"sk\u002dcanary"}"#, r#"{"key":"[redacted]"}"#),
            (r#"{"key":"\u0073k-canar\u0079"}"#, r#"{"key":"[redacted]"}"#),
            (r#"{"key":"q\"uo\\te\/d"}"#, r#"{"key":"[redacted]"}"#),
            (r#"{"key":"q\"uo\\te/d"}"#, r#"{"key":"[redacted]"}"#),
            (r#"{"key":"q\u0022uo\u005Cte\u002fd"}"#, r#"{"key":"[redacted]"}"#),
            (r#"q"uo\te/d as it is"#, "[redacted] as it is"),
            (r#"{"key":"q\"uo\"#, r#"{"key":"[redacted]"#),
            (r#"{"key":"q\"uo\u00…"#, r#"{"key":"[redacted]…"#),
            (r#"{"text":"ask-\u2014 \u00"#, r#"{"text":"ask-\u2014 \u00"#),
        ] {
            assert_eq!(secrets().redact(text), clean);
        }
        assert!(!format!("{:?}", secrets()).contains("canary"));
    }

    #[test]
    fn masked_bytes_keep_their_length_at_every_boundary() {
        let whole = b"a sk-canary b hk-feather c sk-cana";
        for cut in 0..=whole.len() {
            let mut bytes = *whole;
            let (front, back) = bytes.split_at_mut(cut);
            secrets().mask(&mut [front, back]);
            assert_eq!(&bytes, b"a ********* b ********** c *******", "cut at {cut}");
        }
    }
    /// Tests each escape of every possible character of a credential, alone and all together.
    #[test]
    fn credentials_are_found_in_every_json_spelling() {
        let all: String = (b'!'..=b'~').map(char::from).collect();
        let by_serde = |text: &str| serde_json::to_string(text).unwrap();
        let by_number = |text: &str| text.bytes().map(|byte| format!("\\u{byte:04x}")).collect::<String>();
        for secret in [all.clone(), all.chars().rev().collect(), r#"\"\\"/\"\"#.to_owned()] {
            for shown in
                [secret.clone(), by_serde(&secret), by_serde(&secret).replace('/', "\\/"), by_number(&secret)]
            {
                let clean = redact(&secret, &format!("a {shown} b")).unwrap();
                assert_eq!(clean.replace('"', ""), format!("a {REDACTED} b"), "{shown}");
                let mut bytes = shown.clone().into_bytes();
                Secrets(vec![secret.as_str().into()]).mask(&mut [&mut bytes]);
                assert!(bytes.iter().all(|byte| matches!(byte, b'*' | b'"')), "{shown}");
            }
        }
    }
}
