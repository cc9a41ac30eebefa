//! Calls written as JSON objects, alone or in a list.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::dialect::{CHATML_ENDS, Call, THINK, Table};
use super::machine::{Bounds, Machine, Outcome, RawCall, Seek, Step, Tail, leave_at_marker, may_end};
use super::view::{End, View};
use crate::Malformed;

/// How a family of models writes such calls.
#[derive(Debug)]
pub(super) struct JsonForm {
    pub(super) bounds: Bounds,
    /// The keys that may hold the name, the arguments, the id.
    pub(super) name: &'static [&'static str],
    pub(super) arguments: &'static [&'static str],
    pub(super) id: &'static [&'static str],
    /// Without arguments it is no call. So it is where no marker says that one follows (rule R8).
    pub(super) needs_arguments: bool,
}

/// Between `<tool_call>` and its end.
pub(super) const TOOL_CALL: Bounds =
    Bounds { close: "</tool_call>", stops: &["<tool_call>", "<|im_end|>", "<|endoftext|>"] };

pub(super) static HERMES_JSON: JsonForm = JsonForm {
    bounds: TOOL_CALL,
    name: &["name"],
    arguments: &["arguments", "parameters"],
    id: &["id"],
    needs_arguments: false,
};

/// Hermes, Qwen2.5, Qwen3, Granite 4, Reka, MiMo.
pub(super) static HERMES: Table = Table {
    name: "hermes",
    think: Some(THINK),
    calls: &[Call { open: "<tool_call>", body: |_, body| Box::new(JsonCalls::new(&HERMES_JSON, body)) }],
    frames: &[],
    ends: CHATML_ENDS,
    inner: &["</tool_call>"],
    bare: None,
    signs: &[],
};

/// Reads `{..}` or `[{..}, ..]`, then the end marker if the form has one.
#[derive(Debug)]
pub(super) struct JsonCalls {
    form: &'static JsonForm,
    body: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing but blanks so far.
    Open,
    Object(Scan),
    /// The object is read, its end marker is not.
    Tail(Tail, Option<RawCall>),
    /// In a list, between elements: here is the last one's end.
    List(usize),
    Element(Scan),
    /// After the list: here is its end.
    ListEnd(usize),
    Seek(Seek),
}

impl JsonCalls {
    /// `body` is the place after the opener.
    pub(super) fn new(form: &'static JsonForm, body: usize) -> Self {
        Self { form, body, state: State::Open }
    }

    fn open(&mut self, view: &View<'_>) -> Option<Step> {
        let at = view.skip_blank(self.body);
        self.state = match view.bytes().get(at) {
            // What ends with the bare word for an opener is prose.
            None if view.end == Some(End::Clean) => return Some(Step::leave(self.body, Outcome::Content)),
            None => return Some(Step::Wait),
            Some(b'{') => State::Object(Scan::new(at)),
            Some(b'[') => State::List(at + 1),
            Some(_) => State::Seek(Seek::suspect(self.body)),
        };
        None
    }

    /// Between the elements of a list. Commas are not counted: a model that forgets one has said enough.
    fn list(&mut self, view: &View<'_>, from: usize) -> Option<Step> {
        let mut at = view.skip_blank(from);
        while view.bytes().get(at) == Some(&b',') {
            at = view.skip_blank(at + 1);
        }
        let close = self.form.bounds.close;
        let has_call = view.text[..from].ends_with('}');
        self.state = match view.bytes().get(at) {
            // Only the bracket is missing.
            None if has_call && view.end.is_some() => return Some(Step::leave(at, Outcome::Marker)),
            Some(_) if has_call && may_end(view, at, close) => {
                return Some(leave_at_marker(view, at, close));
            }
            None => return Some(Step::Wait),
            Some(b']') => State::ListEnd(at + 1),
            Some(b'{') => State::Element(Scan::new(at)),
            Some(_) => State::Seek(Seek::broken(from, Malformed::Syntax)),
        };
        None
    }
}

impl Machine for JsonCalls {
    fn step(&mut self, view: &View<'_>) -> Step {
        loop {
            let step = match &mut self.state {
                State::Open => self.open(view),
                State::Object(scan) => match scan.advance(view) {
                    // A string without an end must not swallow the end marker and all that follows.
                    Scanned::More if view.end == Some(End::Clean) => {
                        self.state = State::Seek(Seek::broken(self.body, Malformed::Unfinished));
                        None
                    }
                    Scanned::More => Some(Step::Wait),
                    Scanned::Value(end) => {
                        self.state = match self.form.call(&view.text[scan.start..end]) {
                            Ok(call) => State::Tail(Tail::new(end), Some(call)),
                            Err(reason) => State::Seek(Seek::broken(self.body, reason)),
                        };
                        None
                    }
                    Scanned::Bad(reason) => {
                        self.state = State::Seek(Seek::broken(self.body, reason));
                        None
                    }
                },
                State::Tail(tail, call) => Some(tail.leave(view, self.form.bounds, call)),
                State::List(from) => {
                    let from = *from;
                    self.list(view, from)
                }
                State::Element(scan) => match scan.advance(view) {
                    Scanned::More if view.end == Some(End::Clean) => {
                        self.state = State::Seek(Seek::broken(scan.start, Malformed::Unfinished));
                        None
                    }
                    Scanned::More => Some(Step::Wait),
                    Scanned::Value(until) => {
                        let leaf = match self.form.call(&view.text[scan.start..until]) {
                            Ok(call) => Outcome::Call(call),
                            Err(reason) => Outcome::Malformed(reason),
                        };
                        self.state = State::List(until);
                        Some(Step::Leaf { until, leaf })
                    }
                    Scanned::Bad(reason) => {
                        self.state = State::Seek(Seek::broken(scan.start, reason));
                        None
                    }
                },
                State::ListEnd(end) => {
                    let end = *end;
                    Some(leave_at_marker(view, end, self.form.bounds.close))
                }
                State::Seek(seek) => Some(seek.step(view, self.form.bounds)),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }
}

impl JsonForm {
    /// The call that an object is.
    pub(super) fn call(&self, object: &str) -> Result<RawCall, Malformed> {
        let fields: BTreeMap<Cow<'_, str>, &RawValue> =
            serde_json::from_str(object).map_err(|_| Malformed::Syntax)?;
        let first = |keys: &[&str]| keys.iter().find_map(|key| fields.get(*key)).map(|raw| raw.get());
        let value = |raw: &str| serde_json::from_str::<Value>(raw).map_err(|_| Malformed::Syntax);
        let Value::String(name) = first(self.name).map_or(Ok(Value::Null), value)? else {
            return Err(Malformed::NoName);
        };
        let (arguments, raw) = match first(self.arguments) {
            Some(raw) => (value(raw)?, raw),
            None if self.needs_arguments => return Err(Malformed::Syntax),
            None => (Value::Object(serde_json::Map::new()), "{}"),
        };
        let id = match first(self.id).map(value).transpose()? {
            Some(Value::String(id)) => Some(id),
            // Some write a number.
            Some(Value::Number(id)) => Some(id.to_string()),
            _ => None,
        };
        Ok(RawCall { id, name, arguments, raw: raw.to_owned() })
    }
}

// Where a JSON value ends

/// Follows a JSON object or list to its end, whatever stands in its strings. It is strict about structure, so
/// that a string without an end is noticed soon; numbers and words are left to the real parser.
#[derive(Debug)]
pub(super) struct Scan {
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

pub(super) enum Scanned {
    More,
    /// It ended before this place.
    Value(usize),
    Bad(Malformed),
}

impl Scan {
    /// `start` is the place of a `{` or `[`.
    pub(super) fn new(start: usize) -> Self {
        Self { start, at: start, open: Vec::new(), expect: Expect::Value }
    }

    pub(super) fn advance(&mut self, view: &View<'_>) -> Scanned {
        // A real marker is structure even in a string (rule R10).
        let real = view.next_real(self.at).map(|real| real.start);
        let end = real.unwrap_or(view.text.len());
        while self.at < end {
            let byte = view.bytes()[self.at];
            match self.byte(byte, view.nesting_max) {
                Ok(false) => {}
                Ok(true) => return Scanned::Value(self.at),
                Err(reason) => return Scanned::Bad(reason),
            }
        }
        if real.is_some() { Scanned::Bad(Malformed::Syntax) } else { Scanned::More }
    }

    /// Takes one byte; true if it has ended the value.
    fn byte(&mut self, byte: u8, nesting_max: usize) -> Result<bool, Malformed> {
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
                if self.open.len() >= nesting_max {
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
