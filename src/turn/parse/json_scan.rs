//! Finds where a JSON value ends, without reading it.

use super::view::View;
use crate::types::tree::Malformed;

/// Follows a JSON object or list to its end, whatever stands in its strings. It is strict about structure, so
/// that a string without an end is noticed soon; numbers and words are left to the real parser.
#[derive(Debug)]
pub(super) struct JsonScan {
    /// The place of its opening brace.
    pub(super) start: usize,
    at: usize,
    /// Open braces and brackets.
    open: Vec<u8>,
    expect: Expect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    /// After `[`: a value or its end.
    ValueOrEnd,
    /// After `{`: a key or its end.
    KeyOrEnd,
    Key,
    Colon,
    /// After a value: a comma or the end.
    Comma,
    /// In a string, which is a key or not.
    String {
        key: bool,
    },
    Escape {
        key: bool,
    },
    /// In a number, `true`, `false`, `null`.
    Word,
}

#[derive(Debug)]
pub(super) enum Scanned {
    More,
    /// It ended before this place.
    Value(usize),
    Bad(Malformed),
}

impl JsonScan {
    /// `start` is the place of a `{` or `[`.
    pub(super) fn new(start: usize) -> Self {
        Self { start, at: start, open: Vec::new(), expect: Expect::Value }
    }

    pub(super) fn advance(&mut self, view: &View<'_>) -> Scanned {
        // A real marker is structure even in a string (rule R10 of docs/parsing-rules.md).
        let real = view.next_real(self.at).map(|real| real.start);
        let end = real.unwrap_or(view.text.len());
        while self.at < end {
            let byte = view.bytes()[self.at];
            match self.byte(byte, view.max_nesting) {
                Ok(false) => {}
                Ok(true) => return Scanned::Value(self.at),
                Err(reason) => return Scanned::Bad(reason),
            }
        }
        if real.is_some() { Scanned::Bad(Malformed::Syntax) } else { Scanned::More }
    }

    /// Takes one byte; true if it has ended the value.
    fn byte(&mut self, byte: u8, max_nesting: usize) -> Result<bool, Malformed> {
        self.at += 1;
        let bad = Err(Malformed::Syntax);
        self.expect = match (self.expect, byte) {
            (Expect::String { key }, b'\\') => Expect::Escape { key },
            (Expect::String { key: true }, b'"') => Expect::Colon,
            (Expect::String { key: false }, b'"') => Expect::Comma,
            (Expect::String { .. }, 0..0x20) => return bad,
            (string @ Expect::String { .. }, _) => string,
            (Expect::Escape { key }, _) => Expect::String { key },
            (Expect::Word, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'-' | b'.') => Expect::Word,
            (expect, b' ' | b'\t' | b'\n' | b'\r') => {
                if expect == Expect::Word {
                    Expect::Comma
                } else {
                    expect
                }
            }
            (Expect::KeyOrEnd | Expect::Key, b'"') => Expect::String { key: true },
            (Expect::Value | Expect::ValueOrEnd, b'"') => Expect::String { key: false },
            (Expect::Colon, b':') => Expect::Value,
            (Expect::Value | Expect::ValueOrEnd, b'{' | b'[') => {
                if self.open.len() >= max_nesting {
                    return Err(Malformed::TooDeep);
                }
                self.open.push(byte);
                if byte == b'{' { Expect::KeyOrEnd } else { Expect::ValueOrEnd }
            }
            (Expect::Value | Expect::ValueOrEnd, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-') => {
                Expect::Word
            }
            (Expect::Word | Expect::Comma, b',') => match self.open.last() {
                Some(b'{') => Expect::Key,
                _ => Expect::Value,
            },
            (Expect::Word | Expect::Comma | Expect::KeyOrEnd, b'}') if self.open.last() == Some(&b'{') => {
                self.open.pop();
                Expect::Comma
            }
            (Expect::Word | Expect::Comma | Expect::ValueOrEnd, b']') if self.open.last() == Some(&b'[') => {
                self.open.pop();
                Expect::Comma
            }
            _ => return bad,
        };
        Ok(self.open.is_empty())
    }
}
