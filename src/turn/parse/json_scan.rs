//! Finds the end of a JSON value without decoding the value.

use super::view::View;
use crate::types::tree::Malformed;

/// Finds the end of a JSON object or list. Brackets inside strings do not matter.
///
/// The scan checks the structure strictly, so that it detects early that a string has no end. It
/// does not check numbers and words. The JSON parser checks them later.
#[derive(Debug)]
pub(super) struct JsonScan {
    /// The offset of the opening brace or bracket.
    pub(super) start: usize,
    at: usize,
    /// The open braces and brackets.
    open: Vec<u8>,
    expect: Expect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    /// A value or the end of the list, after `[`.
    ValueOrEnd,
    /// A key or the end of the object, after `{`.
    KeyOrEnd,
    Key,
    Colon,
    /// A comma or the end of the object or list, after a value.
    Comma,
    /// The rest of a string. The field is `true` if the string is a key.
    String(bool),
    Escape(bool),
    /// The rest of a number, `true`, `false` or `null`.
    Word,
}

#[derive(Debug)]
pub(super) enum Scanned {
    More,
    /// The value is complete and ends directly before this offset.
    Value(usize),
    Bad(Malformed),
}

impl JsonScan {
    /// Creates a scan. `start` is the offset of a `{` or `[`.
    pub(super) fn new(start: usize) -> Self {
        Self { start, at: start, open: Vec::new(), expect: Expect::Value }
    }

    pub(super) fn advance(&mut self, view: &View<'_>) -> Scanned {
        // A real marker ends the call, even in a string (R10 in docs/parsing-rules.md).
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

    /// Processes one byte. Returns `true` if the value ends with this byte.
    fn byte(&mut self, byte: u8, max_nesting: usize) -> Result<bool, Malformed> {
        self.at += 1;
        let bad = Err(Malformed::Syntax);
        self.expect = match (self.expect, byte) {
            (Expect::String(key), b'\\') => Expect::Escape(key),
            (Expect::String(true), b'"') => Expect::Colon,
            (Expect::String(false), b'"') => Expect::Comma,
            (Expect::String(_), 0..0x20) => return bad,
            (string @ Expect::String(_), _) => string,
            (Expect::Escape(key), _) => Expect::String(key),
            (Expect::Word, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'-' | b'.') => Expect::Word,
            (Expect::Word, b' ' | b'\t' | b'\n' | b'\r') => Expect::Comma,
            (expect, b' ' | b'\t' | b'\n' | b'\r') => expect,
            (Expect::KeyOrEnd | Expect::Key, b'"') => Expect::String(true),
            (Expect::Value | Expect::ValueOrEnd, b'"') => Expect::String(false),
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
            // In ASCII, the code of a closing bracket is the code of its opening bracket plus 2.
            (Expect::Word | Expect::Comma | Expect::KeyOrEnd | Expect::ValueOrEnd, b'}' | b']')
                if self.open.last() == Some(&(byte - 2)) =>
            {
                self.open.pop();
                Expect::Comma
            }
            _ => return bad,
        };
        Ok(self.open.is_empty())
    }
}
