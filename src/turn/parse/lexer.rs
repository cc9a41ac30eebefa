//! Reads values in notations other than JSON, while the text of the values arrives.
//!
//! [`Syntax`] describes the differences between the notations.

use serde_json::Value;

use super::literal::{ValueBuilder, unescaped};
use super::view::{Found, Match, View};
use crate::types::tree::Malformed;

/// Describes how a notation writes strings, lists and maps.
#[derive(Debug)]
pub(super) struct Syntax {
    /// The outermost map, which contains the arguments.
    pub(super) outer: Bracket,
    pub(super) brackets: &'static [Bracket],
    /// The quotes. If two quotes begin with the same text, the longer quote comes first.
    pub(super) quotes: &'static [Quote],
    /// `true` if the keys of the arguments may be in quotes.
    pub(super) quoted_keys: bool,
    /// `true` if a missing value is the empty string.
    pub(super) empty_values: bool,
    /// Returns whether a character can be in a word without quotes.
    ///
    /// A word is a key of the arguments or a scalar.
    pub(super) is_of_word: fn(char, is_key: bool) -> bool,
    /// Returns the key that a word represents, or `None` if the word is malformed.
    ///
    /// `scalar` returns the value that a word represents.
    pub(super) key: fn(&str) -> Option<Value>,
    pub(super) scalar: fn(&str) -> Option<Value>,
}

/// The brackets around a list or a map. A map has a separator between key and value.
#[derive(Debug)]
pub(super) struct Bracket {
    pub(super) open: u8,
    pub(super) close: u8,
    pub(super) separator: Option<u8>,
}

/// A quote, which begins and ends a string. It may be a marker of the dialect.
#[derive(Debug)]
pub(super) struct Quote {
    pub(super) text: &'static str,
    /// `true` if a backslash begins an escape, as in Python.
    pub(super) escapes: bool,
    /// `true` if the string may contain line ends.
    pub(super) lines: bool,
}

/// Reads the arguments of one call up to their end.
#[derive(Debug)]
pub(super) struct Lexer {
    syntax: &'static Syntax,
    pub(super) start: usize,
    /// The offset after the text that the lexer has read.
    pub(super) at: usize,
    value: ValueBuilder,
    lexeme: Lexeme,
}

/// The kind of text at `at`, and the offset where this text begins.
#[derive(Debug, Clone, Copy)]
enum Lexeme {
    None,
    Word(usize),
    String(usize, &'static Quote),
}

/// The result of reading a part of a string, a word or a bracket.
enum Progress {
    /// More text is needed.
    More,
    /// The string, word or bracket is complete.
    Next,
    /// The arguments are complete.
    RegionEnd(Value),
}

type Read = Result<Progress, Malformed>;

impl Lexer {
    /// Creates a lexer. `start` is the offset of the outermost opening bracket.
    pub(super) fn new(syntax: &'static Syntax, start: usize, max_nesting: usize) -> Self {
        Self { syntax, start, at: start, value: ValueBuilder::new(max_nesting), lexeme: Lexeme::None }
    }

    /// Returns the arguments when they are complete, or `None` if more text is needed.
    pub(super) fn advance(&mut self, view: &View<'_>) -> Result<Option<Value>, Malformed> {
        // A real marker ends the call, even in a string (R10 in docs/parsing-rules.md).
        let real = self.next_real(view);
        let text = &view.text[..real.unwrap_or(view.text.len())];
        loop {
            let progress = match self.lexeme {
                Lexeme::None => self.begin(view, text),
                Lexeme::Word(from) => self.word(text, from),
                Lexeme::String(from, quote) => self.string(view, text, from, quote),
            };
            match progress? {
                Progress::Next => {}
                Progress::RegionEnd(value) => return Ok(Some(value)),
                Progress::More if real.is_some() => return Err(Malformed::Syntax),
                Progress::More => return Ok(None),
            }
        }
    }

    /// Returns the offset of the next real marker that is not a quote.
    fn next_real(&self, view: &View<'_>) -> Option<usize> {
        let mut from = self.at;
        loop {
            let real = view.next_real(from)?;
            let text = &view.text[real.clone()];
            if !self.syntax.quotes.iter().any(|quote| quote.text == text) {
                return Some(real.start);
            }
            from = real.end;
        }
    }

    /// Processes a bracket or a separator, or begins a string or a word.
    fn begin(&mut self, view: &View<'_>, text: &str) -> Read {
        let Syntax { outer, brackets, .. } = self.syntax;
        self.at = view.skip_blank(self.at).min(text.len());
        let Some(first) = text[self.at..].chars().next() else { return Ok(Progress::More) };
        let byte = text.as_bytes()[self.at];
        if let Some(read) = self.begin_string(view, byte) {
            return read;
        }
        let is_separator = |bracket: &Bracket| bracket.separator == Some(byte);
        if self.at == self.start {
            self.value.open(outer.close, outer.separator)?;
        } else if let Some(bracket) = brackets.iter().find(|bracket| bracket.open == byte) {
            self.value.open(bracket.close, bracket.separator)?;
        } else if self.syntax.empty_values && self.value.expects_value() && matches!(byte, b',' | b'}') {
            self.value.value("".into())?;
            return Ok(Progress::Next);
        } else if brackets.iter().any(|bracket| bracket.close == byte) {
            if let Some(value) = self.value.close(byte)? {
                self.at += 1;
                return Ok(Progress::RegionEnd(value));
            }
        } else if byte == b',' || is_separator(outer) || brackets.iter().any(is_separator) {
            self.value.separate(byte)?;
        } else if self.value.expects_item() && (self.syntax.is_of_word)(first, self.expects_key()) {
            self.lexeme = Lexeme::Word(self.at);
            return Ok(Progress::Next);
        } else {
            return Err(Malformed::Syntax);
        }
        self.at += 1;
        Ok(Progress::Next)
    }

    /// Begins a string. Returns `None` if no quote begins with `byte`.
    fn begin_string(&mut self, view: &View<'_>, byte: u8) -> Option<Read> {
        let may_begin = self.value.expects_item() && (self.syntax.quoted_keys || !self.expects_key());
        for quote in self.syntax.quotes.iter().filter(|quote| quote.text.as_bytes()[0] == byte) {
            match view.here(self.at, quote.text) {
                _ if !may_begin => return Some(Err(Malformed::Syntax)),
                Match::Partial => return Some(Ok(Progress::More)),
                Match::Yes => {
                    self.at += quote.text.len();
                    self.lexeme = Lexeme::String(self.at, quote);
                    return Some(Ok(Progress::Next));
                }
                Match::No => {}
            }
        }
        None
    }

    /// Reads a word. A word is complete only when other text follows it.
    fn word(&mut self, text: &str, from: usize) -> Read {
        let is_key = self.expects_key();
        let Some(len) = text[self.at..].find(|c| !(self.syntax.is_of_word)(c, is_key)) else {
            self.at = text.len();
            return Ok(Progress::More);
        };
        self.at += len;
        let word = text[from..self.at].trim_end();
        let value = if is_key { (self.syntax.key)(word) } else { (self.syntax.scalar)(word) };
        self.take(value)
    }

    fn string(&mut self, view: &View<'_>, text: &str, from: usize, quote: &Quote) -> Read {
        let Some(end) = self.string_end(view, text, quote)? else { return Ok(Progress::More) };
        self.at = end + quote.text.len();
        let string = &text[from..end];
        self.take(if quote.escapes { unescaped(string).map(Value::from) } else { Some(string.into()) })
    }

    /// Adds the value of a complete string or word to the arguments.
    fn take(&mut self, value: Option<Value>) -> Read {
        self.lexeme = Lexeme::None;
        self.value.value(value.ok_or(Malformed::Syntax)?)?;
        Ok(Progress::Next)
    }

    /// Returns the offset of the closing quote, or `None` if more text is needed.
    fn string_end(&mut self, view: &View<'_>, text: &str, quote: &Quote) -> Result<Option<usize>, Malformed> {
        if !quote.escapes {
            let (at, found) = match view.find(&[quote.text], self.at) {
                Found::At(at, _) => (at, at < text.len()),
                Found::Until(at) => (at, false),
            };
            self.at = at.min(text.len());
            return Ok(found.then_some(at));
        }
        let (bytes, quote_bytes) = (text.as_bytes(), quote.text.as_bytes());
        while let Some(byte) = bytes.get(self.at) {
            let rest = &bytes[self.at..];
            match byte {
                b'\\' if rest.len() < 2 => return Ok(None),
                b'\\' => self.at += 1,
                b'\n' if !quote.lines => return Err(Malformed::Syntax),
                _ if rest.starts_with(quote_bytes) => return Ok(Some(self.at)),
                _ if quote_bytes.starts_with(rest) => return Ok(None),
                _ => {}
            }
            self.at += 1;
        }
        Ok(None)
    }

    /// Returns whether a key of the arguments may come next.
    fn expects_key(&self) -> bool {
        self.syntax.outer.separator.is_some_and(|separator| self.value.expects_key(separator))
    }
}
