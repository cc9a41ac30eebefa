//! Calls written as a Python list of calls, `[f(a=1, b='x'), g()]`, with literals for arguments: Llama 3.2 and 4,
//! LFM2.

use serde_json::Value;

use super::json::{JsonCalls, JsonForm};
use super::literal::{Expect, Literal, number};
use super::machine::{Bounds, Machine, Outcome, RawCall, Seek, Step, leave_at_marker, may_end};
use super::view::{Here, RegionEnd, View};
use crate::types::tree::Malformed;

/// How a family writes them.
#[derive(Debug)]
pub(super) struct PythonForm {
    pub(super) bounds: Bounds,
    /// What stands between the markers besides: some models fall back to JSON. `None`: there are no markers, and
    /// what is no list of calls is ordinary text (rule R8 of docs/parsing-rules.md).
    pub(super) json: Option<&'static JsonForm>,
}

/// Reads the calls of one list and the end marker, if there is one. Each call is handed out at its closing
/// parenthesis.
#[derive(Debug)]
pub(super) struct PythonCalls {
    form: &'static PythonForm,
    /// After the opener, or the end of the last leaf.
    body: usize,
    /// A call of this list has been handed out, or was malformed: it is a list of calls.
    sure: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    /// Between calls: here is the last one's end.
    List(usize),
    /// In a call's name, which begins at `from`.
    Name {
        from: usize,
        at: usize,
    },
    /// After a call's name.
    Arguments(String, Arguments),
    Skip(Skip),
    /// After the list.
    ListEnd(usize),
    Seek(Seek),
    Json(JsonCalls),
}

impl PythonCalls {
    /// `body` is the place after the opener, or that of the list if it has none.
    pub(super) fn new(form: &'static PythonForm, body: usize) -> Self {
        Self { form, body, sure: false, state: State::Open }
    }

    fn open(&mut self, view: &View<'_>) -> Option<Step> {
        let at = view.skip_blank(self.body);
        self.state = match (view.bytes().get(at), self.form.json) {
            // What ends with the bare word for an opener is prose.
            (None, _) if view.end == Some(RegionEnd::Clean) => return Some(self.content()),
            (None, _) => return Some(Step::Wait),
            (Some(b'['), _) => State::List(at + 1),
            (Some(b'{'), Some(json)) => State::Json(JsonCalls::new(json, self.body)),
            (Some(_), _) => State::Seek(Seek::suspect(self.body)),
        };
        None
    }

    /// Commas are not counted: a model that forgets one has said enough.
    fn list(&mut self, view: &View<'_>, from: usize) -> Option<Step> {
        let mut at = view.skip_blank(from);
        while self.sure && view.bytes().get(at) == Some(&b',') {
            at = view.skip_blank(at + 1);
        }
        let close = self.form.bounds.close;
        self.state = match (view.bytes().get(at), self.form.json) {
            // Only the bracket is missing.
            (None, _) if view.end.is_some() && self.sure => return Some(Step::leave(at, Outcome::Marker)),
            (Some(_), _) if self.sure && may_end(view, at, close) => {
                return Some(leave_at_marker(view, at, close));
            }
            (None, None) if view.end.is_some() => return Some(self.content()),
            (None, _) => return Some(Step::Wait),
            (Some(b']'), json) if self.sure || json.is_some() => State::ListEnd(at + 1),
            (Some(b'{'), Some(json)) if !self.sure => State::Json(JsonCalls::new(json, self.body)),
            (Some(_), _) => State::Name { from: at, at },
        };
        None
    }

    fn name(&mut self, view: &View<'_>, from: usize, at: usize) -> Option<Step> {
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
        let Some(len) = view.text[at..].find(|c| !is_name(c)) else {
            if view.end.is_some() && self.form.json.is_none() {
                return Some(self.content());
            }
            self.state = State::Name { from, at: view.text.len() };
            return Some(Step::Wait);
        };
        let at = at + len;
        let name = &view.text[from..at];
        self.state = if view.bytes()[at] == b'(' && name.starts_with(|c: char| c.is_alphabetic() || c == '_')
        {
            State::Arguments(name.to_owned(), Arguments::new(at, view.max_nesting))
        } else if self.form.json.is_none() {
            return Some(self.content());
        } else if self.sure {
            State::Skip(Skip::new(from, Malformed::Syntax))
        } else {
            State::Seek(Seek::suspect(self.body))
        };
        None
    }

    /// It was no call: without markers, that makes it ordinary text.
    fn content(&self) -> Step {
        Step::leave(self.body, Outcome::Content)
    }

    /// One call of the list, and the list goes on.
    fn element(&mut self, until: usize, leaf: Outcome) -> Option<Step> {
        self.body = until;
        self.sure = true;
        self.state = State::List(until);
        Some(Step::Leaf { until, leaf })
    }
}

impl Machine for PythonCalls {
    fn step(&mut self, view: &View<'_>) -> Step {
        loop {
            let step = match &mut self.state {
                State::Open => self.open(view),
                State::List(from) => {
                    let from = *from;
                    self.list(view, from)
                }
                State::Name { from, at } => {
                    let (from, at) = (*from, *at);
                    self.name(view, from, at)
                }
                State::Arguments(name, arguments) => match arguments.advance(view) {
                    Ok(None) if view.end == Some(RegionEnd::Clean) && self.form.json.is_some() => {
                        self.state = State::Seek(Seek::broken(self.body, Malformed::Unfinished));
                        None
                    }
                    Ok(None) => Some(Step::Wait),
                    Ok(Some(value)) => {
                        let raw = view.text[arguments.start + 1..arguments.at - 1].to_owned();
                        let (until, name) = (arguments.at, std::mem::take(name));
                        let call = RawCall { id: None, name, arguments: value, raw };
                        self.element(until, Outcome::Call(call))
                    }
                    Err(_) if !self.sure && self.form.json.is_none() => Some(self.content()),
                    Err(reason) => {
                        self.state = State::Skip(Skip::new(arguments.start, reason));
                        None
                    }
                },
                State::Skip(skip) => match skip.step(view, self.form.bounds) {
                    Skipped::More => Some(Step::Wait),
                    Skipped::To(until) => {
                        let reason = skip.reason;
                        self.element(until, Outcome::Malformed(reason))
                    }
                    Skipped::Bound => {
                        self.state = State::Seek(Seek::broken(self.body, skip.reason));
                        None
                    }
                },
                State::ListEnd(end) => {
                    let end = *end;
                    Some(leave_at_marker(view, end, self.form.bounds.close))
                }
                State::Seek(seek) => Some(seek.step(view, self.form.bounds)),
                State::Json(json) => Some(json.step(view)),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }
}

/// Passes over a call that does not parse, so that the others of its list still count (rule R7 of
/// docs/parsing-rules.md): to its closing parenthesis, or to a comma or bracket of the list.
#[derive(Debug)]
struct Skip {
    at: usize,
    depth: usize,
    quote: Option<u8>,
    reason: Malformed,
}

enum Skipped {
    More,
    To(usize),
    /// The region ends before the call does.
    Bound,
}

impl Skip {
    fn new(at: usize, reason: Malformed) -> Self {
        Self { at, depth: 0, quote: None, reason }
    }

    fn step(&mut self, view: &View<'_>, bounds: Bounds) -> Skipped {
        while let Some(byte) = view.bytes().get(self.at).copied() {
            match (byte, self.quote) {
                (b'<', _) => {
                    let markers = bounds.stops.iter().chain([&bounds.close]).filter(|m| !m.is_empty());
                    let mut here = markers.map(|marker| view.here(self.at, marker));
                    match here.find(|here| *here != Here::No) {
                        Some(Here::Yes) => return Skipped::Bound,
                        Some(_) => return Skipped::More,
                        None => {}
                    }
                }
                (b'\\', Some(_)) if self.at + 1 == view.text.len() => return Skipped::More,
                (b'\\', Some(_)) => self.at += 1,
                // It may have been an apostrophe: no string goes beyond its line.
                (b'\n', Some(_)) => self.quote = None,
                (b'\'' | b'"', None) => self.quote = Some(byte),
                (_, Some(quote)) if byte == quote => self.quote = None,
                (_, Some(_)) => {}
                (b'(' | b'[' | b'{', None) => self.depth += 1,
                (b')' | b']' | b'}', None) if self.depth > 1 => self.depth -= 1,
                (b')' | b']' | b'}', None) if self.depth == 1 => return Skipped::To(self.at + 1),
                (b']' | b',', None) if self.depth == 0 => return Skipped::To(self.at),
                (_, None) => {}
            }
            self.at += 1;
        }
        Skipped::More
    }
}

/// Reads `(NAME=VALUE, ..)` to its end.
#[derive(Debug)]
struct Arguments {
    /// The place of the opening parenthesis.
    start: usize,
    at: usize,
    literal: Literal,
    lexeme: Lexeme,
}

/// What `at` is in. The place is where it begins.
#[derive(Debug, Clone, Copy)]
enum Lexeme {
    None,
    Word(usize),
    String { from: usize, quote: &'static str },
}

impl Arguments {
    fn new(start: usize, max_nesting: usize) -> Self {
        Self { start, at: start, literal: Literal::new(max_nesting), lexeme: Lexeme::None }
    }

    /// The arguments; `at` is behind them, then. `None`: more text is needed.
    fn advance(&mut self, view: &View<'_>) -> Result<Option<Value>, Malformed> {
        // A real marker is structure even in a string (rule R10 of docs/parsing-rules.md).
        let real = view.next_real(self.at).map(|real| real.start);
        let value = self.read(&view.text[..real.unwrap_or(view.text.len())])?;
        if value.is_none() && real.is_some() { Err(Malformed::Syntax) } else { Ok(value) }
    }

    fn read(&mut self, text: &str) -> Result<Option<Value>, Malformed> {
        loop {
            match self.lexeme {
                Lexeme::Word(from) => {
                    let Some(len) = text[self.at..].find(|c| !is_of_word(c)) else {
                        self.at = text.len();
                        return Ok(None);
                    };
                    self.at += len;
                    self.lexeme = Lexeme::None;
                    let word = &text[from..self.at];
                    let is_name = self.literal.expects_key(b'=');
                    let value = if is_name { argument_name(word) } else { scalar(word) };
                    self.literal.value(value.ok_or(Malformed::Syntax)?)?;
                }
                Lexeme::String { from, quote } => {
                    let Some(end) = self.string_end(text, quote)? else { return Ok(None) };
                    self.at = end + quote.len();
                    self.lexeme = Lexeme::None;
                    let value = unescaped(&text[from..end]).ok_or(Malformed::Syntax)?;
                    self.literal.value(value.into())?;
                }
                Lexeme::None => {
                    let rest = text[self.at..].trim_start_matches([' ', '\t', '\n', '\r']);
                    self.at = text.len() - rest.len();
                    let Some(first) = rest.chars().next() else { return Ok(None) };
                    let may_begin = matches!(self.literal.expect(), Expect::ItemOrEnd | Expect::Value);
                    match first {
                        '\'' | '"' if may_begin && !self.literal.expects_key(b'=') => {
                            let quotes = if first == '"' { ["\"\"\"", "\""] } else { ["'''", "'"] };
                            // Two are an empty string, unless a third follows.
                            if rest.len() < 3 && quotes[0].starts_with(rest) {
                                return Ok(None);
                            }
                            let quote = if rest.starts_with(quotes[0]) { quotes[0] } else { quotes[1] };
                            self.at += quote.len();
                            self.lexeme = Lexeme::String { from: self.at, quote };
                            continue;
                        }
                        '(' if self.at == self.start => self.literal.open(b')', Some(b'='))?,
                        '(' => self.literal.open(b')', None)?,
                        '[' => self.literal.open(b']', None)?,
                        '{' => self.literal.open(b'}', Some(b':'))?,
                        ')' | ']' | '}' => {
                            if let Some(value) = self.literal.close(first as u8)? {
                                self.at += 1;
                                return Ok(Some(value));
                            }
                        }
                        ',' | ':' | '=' => self.literal.separate(first as u8)?,
                        _ if may_begin && is_of_word(first) => {
                            self.lexeme = Lexeme::Word(self.at);
                            continue;
                        }
                        _ => return Err(Malformed::Syntax),
                    }
                    self.at += 1;
                }
            }
        }
    }

    /// The place of the closing quote.
    fn string_end(&mut self, text: &str, quote: &str) -> Result<Option<usize>, Malformed> {
        let bytes = text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            let rest = &bytes[self.at..];
            match byte {
                b'\\' if rest.len() < 2 => return Ok(None),
                b'\\' => self.at += 1,
                b'\n' if quote.len() == 1 => return Err(Malformed::Syntax),
                _ if rest.starts_with(quote.as_bytes()) => return Ok(Some(self.at)),
                _ if quote.as_bytes().starts_with(rest) => return Ok(None),
                _ => {}
            }
            self.at += 1;
        }
        Ok(None)
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '+' | '-')
}

fn argument_name(word: &str) -> Option<Value> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    (word.chars().all(is_name) && !word.starts_with(char::is_numeric)).then(|| word.into())
}

/// What stands without quotes, in the words of Python or JSON.
fn scalar(word: &str) -> Option<Value> {
    match word {
        "True" | "true" => Some(true.into()),
        "False" | "false" => Some(false.into()),
        "None" | "null" => Some(Value::Null),
        _ => number(word),
    }
}

/// A string without its escapes; `None` if one of them stands for no character.
fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let escape = rest[at + 1..].chars().next()?;
        rest = &rest[at + 1 + escape.len_utf8()..];
        let plain = match escape {
            '\n' => continue,
            '\\' | '\'' | '"' => escape,
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            'x' => char::from_u32(hex(&mut rest, 2)?)?,
            'U' => char::from_u32(hex(&mut rest, 8)?)?,
            'u' => match hex(&mut rest, 4)? {
                // As JSON writes what is beyond four digits: both halves.
                high @ 0xD800..0xDC00 => {
                    rest = rest.strip_prefix("\\u")?;
                    let low = hex(&mut rest, 4)?.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
                    char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + low)?
                }
                code => char::from_u32(code)?,
            },
            '0'..='7' => {
                let more = rest.bytes().take(2).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
                let octal = |code, digit: u8| code * 8 + u32::from(digit - b'0');
                let code = rest[..more].bytes().fold(octal(0, escape as u8), octal);
                rest = &rest[more..];
                char::from_u32(code)?
            }
            'N' => return None,
            // Python keeps both characters.
            other => {
                out.push('\\');
                other
            }
        };
        out.push(plain);
    }
    out.push_str(rest);
    Some(out)
}

/// The number that so many digits are, which are taken from `rest`.
fn hex(rest: &mut &str, digits: usize) -> Option<u32> {
    let (number, after) = rest.split_at_checked(digits)?;
    if !number.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    *rest = after;
    u32::from_str_radix(number, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_as_python_reads_them() {
        for (text, expected) in [
            (r"a\n\t\r\a\b\f\v", "a\n\t\r\u{7}\u{8}\u{c}\u{b}"),
            (r#"\\ \' \""#, r#"\ ' ""#),
            (r"\d \/ \é", r"\d \/ \é"),
            (r"\x41\u00e9\U0001F600", "Aé😀"),
            (r"\ud83d\ude00", "😀"),
            (r"\0 \101 \1011 \18", "\0 A A1 \u{1}8"),
            ("a\\\nb", "ab"),
        ] {
            assert_eq!(unescaped(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            r"\x4",
            r"\xé0",
            r"\u00e",
            r"\ud83d",
            r"\ud83dx",
            r"\ud83d\u0041",
            r"\udc00",
            r"\U00110000",
            r"\N{BULLET}",
            r"a\",
        ] {
            assert_eq!(unescaped(text), None, "{text}");
        }
    }
}
