//! Calls written as JSON objects, alone or in a list.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::machine::{Bounds, Machine, Outcome, RawCall, Seek, Step, Tail, leave_at_marker, may_end};
use super::view::{RegionEnd, View};
use crate::types::tree::Malformed;

/// How a family of models writes such calls.
#[derive(Debug)]
pub(super) struct JsonForm {
    pub(super) bounds: Bounds,
    /// The keys that may hold the name, the arguments, the id.
    pub(super) name: &'static [&'static str],
    pub(super) arguments: &'static [&'static str],
    pub(super) id: &'static [&'static str],
    /// Without arguments it is no call. So it is where no marker says that one follows (rule R8 of
    /// docs/parsing-rules.md).
    pub(super) needs_arguments: bool,
}

/// Reads `{..}` or `[{..}, ..]`, then the end marker if the form has one.
#[derive(Debug)]
pub(super) struct JsonCalls {
    form: &'static JsonForm,
    body: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing but blanks up to here.
    Open(usize),
    Object(Scan),
    /// The object is read, its end marker is not.
    Tail(Tail, Option<RawCall>),
    /// In a list, between elements: after the bracket or the last element, and up to where only blanks and commas
    /// stand.
    List(usize, usize),
    Element(Scan),
    /// An object that does not parse, alone or in a list.
    Broken(Broken),
    /// And up to where only blanks stand behind it.
    BrokenElement(Broken, usize),
    /// After the list: here is its end.
    ListEnd(usize),
    Seek(Seek),
}

impl JsonCalls {
    /// `body` is the place after the opener.
    pub(super) fn new(form: &'static JsonForm, body: usize) -> Self {
        Self { form, body, state: State::Open(body) }
    }

    fn open(&mut self, view: &View<'_>, from: usize) -> Option<Step> {
        let at = view.skip_blank(from);
        self.state = State::Open(at);
        self.state = match view.bytes().get(at) {
            // What ends with the bare word for an opener is prose.
            None if view.end == Some(RegionEnd::Clean) => {
                return Some(Step::leave(self.body, Outcome::Content));
            }
            None => return Some(Step::Wait),
            Some(b'{') => State::Object(Scan::new(at)),
            Some(b'[') => State::List(at + 1, at + 1),
            Some(_) => State::Seek(Seek::suspect(self.body)),
        };
        None
    }

    /// Between the elements of a list. Commas are not counted: a model that forgets one has said enough.
    fn list(&mut self, view: &View<'_>, from: usize, at: usize) -> Option<Step> {
        let mut at = view.skip_blank(at);
        while view.bytes().get(at) == Some(&b',') {
            at = view.skip_blank(at + 1);
        }
        self.state = State::List(from, at);
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
            // A list of something else.
            Some(_) if view.bytes()[from - 1] == b'[' => State::Seek(Seek::suspect(self.body)),
            Some(_) => State::Seek(Seek::broken(from, Malformed::Syntax)),
        };
        None
    }

    /// A broken element ends where its brackets balance, if the list goes on there.
    fn broken_element(&mut self, view: &View<'_>) -> Option<Step> {
        let State::BrokenElement(broken, at) = &mut self.state else { return None };
        let end = match broken.step(view, self.form.bounds) {
            Ok(end) => end,
            Err(step) => return Some(step),
        };
        let reason = broken.reason;
        *at = view.skip_blank(end.max(*at));
        match view.bytes().get(*at) {
            None => Some(Step::Wait),
            Some(b',' | b']') => {
                self.state = State::List(end, end);
                Some(Step::Leaf { until: end, leaf: Outcome::Malformed(reason) })
            }
            Some(_) => {
                self.state = State::Seek(Seek::broken(end, reason));
                None
            }
        }
    }
}

impl Machine for JsonCalls {
    fn step(&mut self, view: &View<'_>) -> Step {
        loop {
            let step = match &mut self.state {
                State::Open(from) => {
                    let from = *from;
                    self.open(view, from)
                }
                State::Object(scan) => match scan.advance(view) {
                    // A string without an end must not swallow the end marker and all that follows.
                    Scanned::More if view.end == Some(RegionEnd::Clean) => {
                        self.state = State::Seek(Seek::broken(self.body, Malformed::Unfinished));
                        None
                    }
                    Scanned::More => Some(Step::Wait),
                    Scanned::Value(end) => {
                        self.state = match self.form.call(&view.text[scan.start..end]) {
                            Ok(call) => State::Tail(Tail::new(end), Some(call)),
                            Err(reason) => State::Broken(Broken::new(scan.start, reason)),
                        };
                        None
                    }
                    Scanned::Bad(reason) => {
                        self.state = State::Broken(Broken::new(scan.start, reason));
                        None
                    }
                },
                State::Tail(tail, call) => Some(tail.leave(view, self.form.bounds, call)),
                State::List(from, at) => {
                    let (from, at) = (*from, *at);
                    self.list(view, from, at)
                }
                State::Element(scan) => match scan.advance(view) {
                    Scanned::More if view.end == Some(RegionEnd::Clean) => {
                        self.state = State::Seek(Seek::broken(scan.start, Malformed::Unfinished));
                        None
                    }
                    Scanned::More => Some(Step::Wait),
                    Scanned::Value(until) => {
                        let leaf = match self.form.call(&view.text[scan.start..until]) {
                            Ok(call) => Outcome::Call(call),
                            Err(reason) => Outcome::Malformed(reason),
                        };
                        self.state = State::List(until, until);
                        Some(Step::Leaf { until, leaf })
                    }
                    Scanned::Bad(reason) => {
                        self.state = State::BrokenElement(Broken::new(scan.start, reason), 0);
                        None
                    }
                },
                State::Broken(broken) => Some(broken.leave(view, self.form.bounds)),
                State::BrokenElement(..) => self.broken_element(view),
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
        if name.is_empty() {
            return Err(Malformed::NoName);
        }
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

/// An object that does not parse. It ends where its brackets balance, or before that with its region.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) reason: Malformed,
    seek: Seek,
    at: usize,
    open: usize,
    string: bool,
    escape: bool,
    end: Option<usize>,
}

impl Broken {
    /// `start` is the place of its opening brace.
    pub(super) fn new(start: usize, reason: Malformed) -> Self {
        let seek = Seek::broken(start, reason);
        Self { reason, seek, at: start, open: 0, string: false, escape: false, end: None }
    }

    /// Its end; else what can be said of its region.
    pub(super) fn step(&mut self, view: &View<'_>, bounds: Bounds) -> Result<usize, Step> {
        let step = self.seek.step(view, bounds);
        let seen = match &step {
            Step::Wait => self.seek.clear_to(),
            Step::Leaf { until, .. } | Step::Leave { until, .. } => *until,
        };
        while self.end.is_none() && self.at < seen {
            self.byte(view.bytes()[self.at]);
        }
        self.end.ok_or(step)
    }

    /// The same as the step of a machine that has nothing more to read: an end marker is waited for if there is
    /// one.
    pub(super) fn leave(&mut self, view: &View<'_>, bounds: Bounds) -> Step {
        match self.step(view, bounds) {
            Ok(end) if bounds.close.is_empty() => Step::leave(end, Outcome::Malformed(self.reason)),
            Ok(_) => self.seek.step(view, bounds),
            Err(step) => step,
        }
    }

    fn byte(&mut self, byte: u8) {
        self.at += 1;
        match byte {
            _ if self.escape => self.escape = false,
            b'\\' if self.string => self.escape = true,
            b'"' => self.string = !self.string,
            b'{' | b'[' if !self.string => self.open += 1,
            b'}' | b']' if !self.string => {
                self.open -= 1;
                self.end = (self.open == 0).then_some(self.at);
            }
            _ => {}
        }
    }
}
