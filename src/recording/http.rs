//! Implements the small part of HTTP/1.1 that recordings and the mock server need.
//!
//! The functions parse the head of a message and remove the framing of its body. They do no input
//! or output. The client never uses this module, because ureq parses its responses.

use memchr::memmem;

/// The received part of a body, without its framing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Body {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The state of the body.
    pub state: BodyState,
}

/// The state of a body according to its framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyState {
    /// All bytes that the framing announced arrived.
    Complete,
    /// The body ends before its announced end.
    Cut,
    /// The framing is invalid. The body contains only the bytes before the invalid framing.
    Broken,
}

/// The result of [`dechunk`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dechunked {
    /// The bytes of all chunks, including a last chunk that is incomplete.
    pub body: Vec<u8>,
    /// [`BodyState::Complete`] if the zero-length chunk and the blank line after it arrived.
    pub state: BodyState,
    /// The number of input bytes up to the end of the last complete chunk or trailer.
    ///
    /// The next response would begin after these bytes.
    pub consumed: usize,
}

/// Removes the chunked framing (RFC 9112 section 7.1). Extensions and trailers are skipped.
///
/// ```
/// use tokenwire::recording::{BodyState, dechunk};
///
/// let dechunked = dechunk(b"3\r\nabc\r\n0\r\n\r\n");
/// assert_eq!(dechunked.body, b"abc");
/// assert_eq!(dechunked.state, BodyState::Complete);
/// ```
#[must_use]
pub fn dechunk(framed: &[u8]) -> Dechunked {
    let mut out = Dechunked { body: Vec::new(), state: BodyState::Cut, consumed: 0 };
    loop {
        let Some(line) = take_line(&framed[out.consumed..]) else { return out };
        let Some(size) = chunk_size(line) else {
            out.state = BodyState::Broken;
            return out;
        };
        // `take_line` found the CRLF of this line in `framed`. Therefore, `start` is at most the
        // length of `framed`.
        let start = out.consumed + line.len() + 2;
        if size == 0 {
            out.consumed = start;
            return skip_trailers(framed, out);
        }
        let came = framed.len() - start;
        if came < size {
            out.body.extend_from_slice(&framed[start..]);
            return out;
        }
        let end = start + size;
        out.body.extend_from_slice(&framed[start..end]);
        match framed[end..] {
            [b'\r', b'\n', ..] => out.consumed = end + 2,
            [] | [b'\r'] => return out,
            _ => {
                out.state = BodyState::Broken;
                return out;
            }
        }
    }
}

fn skip_trailers(framed: &[u8], mut out: Dechunked) -> Dechunked {
    while let Some(line) = take_line(&framed[out.consumed..]) {
        out.consumed += line.len() + 2;
        if line.is_empty() {
            out.state = BodyState::Complete;
            break;
        }
    }
    out
}

/// Returns the bytes before the first CRLF.
fn take_line(bytes: &[u8]) -> Option<&[u8]> {
    memmem::find(bytes, b"\r\n").map(|end| &bytes[..end])
}

/// Parses the size of a chunk: `1*HEXDIG`, optionally followed by a semicolon and an extension.
fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    let text = std::str::from_utf8(digits).ok()?;
    // `from_str_radix` accepts a sign, but RFC 9112 does not.
    if text.starts_with('+') {
        return None;
    }
    usize::from_str_radix(text, 16).ok()
}

/// The first line and the headers of a request or a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) first_line: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// Parses the head at the start of `bytes`. Returns the head and its length including the blank
    /// line.
    ///
    /// Returns `None` until the blank line has arrived, and `Some(Err(()))` if the bytes are not a
    /// head.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Result<(Self, usize), ()>> {
        let end = memmem::find(bytes, b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = text.split("\r\n");
        let first_line = lines.next().unwrap_or_default().to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').filter(|(name, _)| !name.is_empty())?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        let headers = lines.map(header).collect::<Option<_>>();
        Some(headers.map(|headers| (Self { first_line, headers }, end + 4)).ok_or(()))
    }

    /// Returns the status code in the first line, or 0 if the line does not contain a status code.
    pub(crate) fn status(&self) -> u16 {
        self.first_line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked"))
    }

    pub(crate) fn content_length(&self) -> Option<usize> {
        self.header("content-length")?.parse().ok()
    }

    /// Returns whether the sender of this head closes the connection after the body.
    ///
    /// Only the mock server uses this method.
    #[cfg(feature = "testing")]
    pub(crate) fn closes(&self) -> bool {
        self.first_line.contains("HTTP/1.0")
            || self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

pub(crate) fn find_header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
}

/// Returns the head of the final response and the offset of its body.
///
/// Heads with a 1xx status are skipped.
pub(crate) fn response_head(raw: &[u8]) -> Option<(Head, usize)> {
    let mut start = 0;
    loop {
        let (head, length) = Head::parse(&raw[start..])?.ok()?;
        start += length;
        if !(100..200).contains(&head.status()) {
            return Some((head, start));
        }
    }
}

/// Returns the body of a raw response.
///
/// If the head announces no length, the body ends with the connection. `ended_well` then decides
/// whether the body is complete.
pub(crate) fn response_body(raw: &[u8], ended_well: bool) -> Body {
    let Some((head, start)) = response_head(raw) else {
        return Body { bytes: Vec::new(), state: BodyState::Cut };
    };
    let framed = &raw[start..];
    if head.is_chunked() {
        let Dechunked { body, state, consumed: _ } = dechunk(framed);
        return Body { bytes: body, state };
    }
    let announced = head.content_length();
    let length = announced.unwrap_or(framed.len()).min(framed.len());
    let complete = announced.map_or(ended_well, |announced| announced == length);
    let state = if complete { BodyState::Complete } else { BodyState::Cut };
    Body { bytes: framed[..length].to_vec(), state }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dechunk_removes_the_framing() {
        use BodyState::{Broken, Complete, Cut};
        let cases: &[(&str, &str, BodyState, usize)] = &[
            ("3\r\nabc\r\n0\r\n\r\n", "abc", Complete, 13),
            ("3\r\nabc\r\n2;x=1\r\nde\r\n0\r\nT: v\r\n\r\nHTTP", "abcde", Complete, 30),
            ("0A\r\n0123456789\r\n0\r\n\r\n", "0123456789", Complete, 21),
            ("3 \r\nabc\r\n0\r\n\r\n", "abc", Complete, 14),
            ("3\r\nabc\r\n0\r\n", "abc", Cut, 11),
            ("3\r\nabc\r\n", "abc", Cut, 8),
            ("3\r\nabc\r", "abc", Cut, 0),
            ("3\r\nab", "ab", Cut, 0),
            ("ffffffffffffffff\r\nab", "ab", Cut, 0),
            ("", "", Cut, 0),
            ("3\r\nabcd\r\n", "abc", Broken, 0),
            ("xyz\r\nabc\r\n", "", Broken, 0),
            ("-1\r\n", "", Broken, 0),
            ("+1\r\n", "", Broken, 0),
            ("\r\n", "", Broken, 0),
            ("10000000000000000\r\n", "", Broken, 0),
        ];
        for (framed, body, state, consumed) in cases {
            let expected = Dechunked { body: body.as_bytes().to_vec(), state: *state, consumed: *consumed };
            assert_eq!(dechunk(framed.as_bytes()), expected, "{framed:?}");
        }
    }

    #[test]
    fn a_cut_chunked_body_is_a_prefix_and_never_complete() {
        let framed = b"3\r\nabc\r\n1a;ext\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nA: b\r\n\r\n";
        let whole = dechunk(framed);
        assert_eq!((whole.state, whole.consumed), (BodyState::Complete, framed.len()));
        for cut in 0..framed.len() {
            let part = dechunk(&framed[..cut]);
            assert_eq!(part.state, BodyState::Cut, "cut at {cut}");
            assert!(whole.body.starts_with(&part.body) && part.consumed <= cut, "cut at {cut}");
        }
    }

    #[test]
    fn the_head_decides_where_a_body_ends() {
        use BodyState::{Complete, Cut};
        let cases: &[(&str, bool, &str, BodyState)] = &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc", false, "ab", Complete),
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", true, "abc", Cut),
            ("HTTP/1.1 200 OK\r\n\r\nabc", true, "abc", Complete),
            ("HTTP/1.1 200 OK\r\n\r\nabc", false, "abc", Cut),
            (
                "HTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx",
                false,
                "x",
                Complete,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
                false,
                "a",
                Complete,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Le", true, "", Cut),
            ("HTTP/1.1 200 OK\r\nno header\r\n\r\nabc", true, "", Cut),
        ];
        for (raw, ended_well, body, state) in cases {
            let expected = Body { bytes: body.as_bytes().to_vec(), state: *state };
            assert_eq!(response_body(raw.as_bytes(), *ended_well), expected, "{raw:?}");
        }
    }
}
