//! Reads values in notations other than JSON, as their text comes. The notations differ in a few points, which
//! [`Syntax`] lists.

use serde_json::Value;

use super::literal::{ValueBuilder, unescaped};
use super::view::{Found, Match, View};
use crate::types::tree::Malformed;

/// How a notation writes strings, lists and maps.
#[derive(Debug)]
pub(super) struct Syntax {
    /// The outermost map: the arguments.
    pub(super) outer: Bracket,
    pub(super) brackets: &'static [Bracket],
    /// Of two that begin alike, the longer first.
    pub(super) quotes: &'static [Quote],
    /// Whether the keys of the arguments may stand in quotes.
    pub(super) quoted_keys: bool,
    /// Whether a missing value is the empty string.
    pub(super) empty_values: bool,
    /// The characters of a word without quotes. A word is a key of the arguments or a scalar.
    pub(super) is_of_word: fn(char, is_key: bool) -> bool,
    /// The key or value that a word stands for. `None`: it is malformed.
    pub(super) key: fn(&str) -> Option<Value>,
    pub(super) scalar: fn(&str) -> Option<Value>,
}

/// What encloses a list or a map. A map has a separator between key and value.
#[derive(Debug)]
pub(super) struct Bracket {
    pub(super) open: u8,
    pub(super) close: u8,
    pub(super) separator: Option<u8>,
}

/// What encloses a string. A quote may be a marker of the dialect.
#[derive(Debug)]
pub(super) struct Quote {
    pub(super) text: &'static str,
    /// Whether a backslash begins an escape, as in Python.
    pub(super) escapes: bool,
    /// Whether the string may go over several lines.
    pub(super) lines: bool,
}

/// Reads the arguments of one call to their end.
#[derive(Debug)]
pub(super) struct Lexer {
    syntax: &'static Syntax,
    start: usize,
    at: usize,
    value: ValueBuilder,
    lexeme: Lexeme,
}

/// What `at` is in. The place is where it begins.
#[derive(Debug, Clone, Copy)]
enum Lexeme {
    None,
    Word(usize),
    String(usize, &'static Quote),
}

/// How far a piece has been read.
enum Progress {
    /// More text is needed.
    More,
    /// The piece is complete.
    Next,
    /// The arguments are complete.
    RegionEnd(Value),
}

type Read = Result<Progress, Malformed>;

impl Lexer {
    /// `start` is the place of the outermost opening bracket.
    pub(super) fn new(syntax: &'static Syntax, start: usize, max_nesting: usize) -> Self {
        Self { syntax, start, at: start, value: ValueBuilder::new(max_nesting), lexeme: Lexeme::None }
    }

    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// The place after what has been read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The arguments; `None`: more text is needed.
    pub(super) fn advance(&mut self, view: &View<'_>) -> Result<Option<Value>, Malformed> {
        // A real marker is structure even in a string (rule R10 of docs/parsing-rules.md).
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

    /// The place of the next real marker that is not a quote.
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

    /// Takes a bracket or a separator, or begins a string or a word.
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

    /// `None`: the byte begins no quote.
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

    /// A word has an end only where something follows it.
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

    /// The piece is complete.
    fn take(&mut self, value: Option<Value>) -> Read {
        self.lexeme = Lexeme::None;
        self.value.value(value.ok_or(Malformed::Syntax)?)?;
        Ok(Progress::Next)
    }

    /// The place of the closing quote.
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

    /// Whether a key of the arguments comes next.
    fn expects_key(&self) -> bool {
        self.syntax.outer.separator.is_some_and(|separator| self.value.expects_key(separator))
    }
}
