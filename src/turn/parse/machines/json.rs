//! Reads calls written as JSON objects: either a single object or a list of objects.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::turn::parse::json_scan::{JsonScan, Scanned};
use crate::turn::parse::machine::{
    Bounds, CallEnd, Machine, RawCall, RawLeaf, Recovery, Step, leave_at_marker, may_end,
};
use crate::turn::parse::marker::List;
use crate::turn::parse::view::View;
use crate::types::tree::Malformed;

/// Describes the variant of JSON calls that a family of models uses.
#[derive(Debug)]
pub(crate) struct JsonForm {
    pub(crate) bounds: Bounds,
    pub(crate) keys: Keys,
    /// `true` if an object without arguments is not a call.
    ///
    /// Arguments are required if the format has no opener for calls (R8 in docs/parsing-rules.md).
    pub(crate) needs_arguments: bool,
}

/// The keys that may hold the name, the arguments and the id of a call.
///
/// If an object contains several of these keys, the first key in the list is used.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Keys {
    pub(crate) name: List,
    pub(crate) arguments: List,
    pub(crate) id: List,
}

impl Default for Keys {
    fn default() -> Self {
        let list = |keys: &[&str]| keys.iter().copied().collect();
        Self { name: list(&["name"]), arguments: list(&["arguments", "parameters"]), id: list(&["id"]) }
    }
}

/// Reads `{..}` or `[{..}, ..]`, and then the end marker if the format has an end marker.
#[derive(Debug)]
pub(crate) struct JsonCalls {
    form: Arc<JsonForm>,
    body: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Skips blanks before the object or list. The text is blank up to this offset.
    Open(usize),
    Object(JsonScan),
    /// Searches for the end marker after the object.
    CallEnd(CallEnd, Option<RawCall>),
    /// Reads the text between the elements of a list.
    ///
    /// The first offset is the end of the opening bracket or of the last element. The text between
    /// the first and the second offset contains only blanks and commas.
    List(usize, usize),
    Element(JsonScan),
    /// Skips an object that cannot be parsed, alone or in a list.
    Broken(Broken),
    /// Reads the text after a broken element of a list. Up to this offset, this text is blank.
    BrokenElement(Broken, usize),
    /// Reads the text after the list, which ends at this offset.
    ListEnd(usize),
    Recovery(Recovery),
}

impl JsonCalls {
    /// Creates a reader. `body` is the offset after the opener.
    pub(crate) fn new(form: Arc<JsonForm>, body: usize) -> Self {
        Self { form, body, state: State::Open(body) }
    }

    fn open(&mut self, view: &View<'_>, from: usize) -> Option<Step> {
        let at = view.skip_blank(from);
        self.state = State::Open(at);
        self.state = match view.bytes().get(at) {
            // If the turn ends directly after the opener, the opener is prose.
            None if view.ended_cleanly() => return Some(Step::content(self.body)),
            None => return Some(Step::Wait),
            Some(b'{') => State::Object(JsonScan::new(at)),
            Some(b'[') => State::List(at + 1, at + 1),
            Some(_) => State::Recovery(Recovery::suspect(self.body)),
        };
        None
    }

    /// Reads a single object, which is not in a list.
    fn object(&mut self, view: &View<'_>) -> Option<Step> {
        let State::Object(scan) = &mut self.state else { return None };
        let start = scan.start;
        self.state = match scan.advance(view) {
            // If a string has no end, it must not include the end marker and the text after this
            // marker.
            Scanned::More if view.ended_cleanly() => {
                State::Recovery(Recovery::broken(self.body, Malformed::Unfinished))
            }
            Scanned::More => return Some(Step::Wait),
            Scanned::Value(end) => match self.form.call(&view.text[start..end]) {
                Ok(call) => State::CallEnd(CallEnd::new(end), Some(call)),
                Err(reason) => State::Broken(Broken::new(start, reason)),
            },
            Scanned::Bad(reason) => State::Broken(Broken::new(start, reason)),
        };
        None
    }

    /// Reads an element of a list.
    fn element(&mut self, view: &View<'_>) -> Option<Step> {
        let State::Element(scan) = &mut self.state else { return None };
        let start = scan.start;
        self.state = match scan.advance(view) {
            Scanned::More if view.ended_cleanly() => {
                State::Recovery(Recovery::broken(start, Malformed::Unfinished))
            }
            Scanned::More => return Some(Step::Wait),
            Scanned::Value(until) => {
                let leaf = match self.form.call(&view.text[start..until]) {
                    Ok(call) => RawLeaf::Call(call),
                    Err(reason) => RawLeaf::Malformed(reason),
                };
                self.state = State::List(until, until);
                return Some(Step::Leaf { until, leaf });
            }
            Scanned::Bad(reason) => State::BrokenElement(Broken::new(start, reason), 0),
        };
        None
    }

    /// Reads the text between the elements of a list.
    ///
    /// A missing comma is accepted, because it is clear where each call ends.
    fn list(&mut self, view: &View<'_>, from: usize, at: usize) -> Option<Step> {
        let mut at = view.skip_blank(at);
        while view.bytes().get(at) == Some(&b',') {
            at = view.skip_blank(at + 1);
        }
        self.state = State::List(from, at);
        let close = &self.form.bounds.close;
        let has_call = view.text[..from].ends_with('}');
        self.state = match view.bytes().get(at) {
            // The list is complete, except for its closing bracket.
            None if has_call && view.end.is_some() => return Some(Step::marker(at)),
            Some(_) if has_call && may_end(view, at, close) => return Some(leave_at_marker(view, at, close)),
            None => return Some(Step::Wait),
            Some(b']') => State::ListEnd(at + 1),
            Some(b'{') => State::Element(JsonScan::new(at)),
            // The text is a list, but not a list of calls.
            Some(_) if view.bytes()[from - 1] == b'[' => State::Recovery(Recovery::suspect(self.body)),
            Some(_) => State::Recovery(Recovery::broken(from, Malformed::Syntax)),
        };
        None
    }

    /// Ends a broken element at the offset where its brackets balance, if the list continues after
    /// it.
    fn broken_element(&mut self, view: &View<'_>) -> Option<Step> {
        let State::BrokenElement(broken, at) = &mut self.state else { return None };
        let end = match broken.step(view, &self.form.bounds) {
            Ok(end) => end,
            Err(step) => return Some(step),
        };
        let reason = broken.reason;
        *at = view.skip_blank(end.max(*at));
        match view.bytes().get(*at) {
            None => Some(Step::Wait),
            Some(b',' | b']') => {
                self.state = State::List(end, end);
                Some(Step::Leaf { until: end, leaf: RawLeaf::Malformed(reason) })
            }
            Some(_) => {
                self.state = State::Recovery(Recovery::broken(end, reason));
                None
            }
        }
    }
}

impl Machine for JsonCalls {
    fn advance(&mut self, view: &View<'_>) -> Option<Step> {
        match self.state {
            State::Open(from) => self.open(view, from),
            State::Object(_) => self.object(view),
            State::CallEnd(ref mut end, ref mut call) => Some(end.leave(view, &self.form.bounds, call)),
            State::List(from, at) => self.list(view, from, at),
            State::Element(_) => self.element(view),
            State::Broken(ref mut broken) => Some(broken.leave(view, &self.form.bounds)),
            State::BrokenElement(..) => self.broken_element(view),
            State::ListEnd(end) => Some(leave_at_marker(view, end, &self.form.bounds.close)),
            State::Recovery(ref mut recovery) => Some(recovery.step(view, &self.form.bounds)),
        }
    }
}

impl JsonForm {
    /// Returns the call that an object represents.
    pub(crate) fn call(&self, object: &str) -> Result<RawCall, Malformed> {
        let fields: BTreeMap<Cow<'_, str>, &RawValue> =
            serde_json::from_str(object).map_err(|_| Malformed::Syntax)?;
        let first = |keys: &List| keys.iter().find_map(|key| fields.get(&**key)).map(|raw| raw.get());
        let value = |raw: &str| serde_json::from_str::<Value>(raw).map_err(|_| Malformed::Syntax);
        let Value::String(name) = first(&self.keys.name).map_or(Ok(Value::Null), value)? else {
            return Err(Malformed::NoName);
        };
        if name.is_empty() {
            return Err(Malformed::NoName);
        }
        let (arguments, raw) = match first(&self.keys.arguments) {
            Some(raw) => (value(raw)?, raw),
            None if self.needs_arguments => return Err(Malformed::Syntax),
            None => (Value::Object(serde_json::Map::new()), "{}"),
        };
        let id = match first(&self.keys.id).map(value).transpose()? {
            Some(Value::String(id)) => Some(id),
            // Some models write the id as a number.
            Some(Value::Number(id)) => Some(id.to_string()),
            _ => None,
        };
        Ok(RawCall { id, name, arguments, raw: raw.to_owned() })
    }
}

/// An object that cannot be parsed.
///
/// The object ends when its brackets balance. If the region ends earlier, the object ends with the
/// region.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) reason: Malformed,
    recovery: Recovery,
    at: usize,
    open: usize,
    string: bool,
    escape: bool,
    end: Option<usize>,
}

impl Broken {
    /// Creates the object. `start` is the offset of its opening brace.
    pub(crate) fn new(start: usize, reason: Malformed) -> Self {
        let recovery = Recovery::broken(start, reason);
        Self { reason, recovery, at: start, open: 0, string: false, escape: false, end: None }
    }

    /// Returns the offset where the object ends.
    ///
    /// If the end is not known yet, returns a step for the region instead.
    pub(crate) fn step(&mut self, view: &View<'_>, bounds: &Bounds) -> Result<usize, Step> {
        let step = self.recovery.step(view, bounds);
        let seen = match &step {
            Step::Wait => self.recovery.at,
            Step::Leaf { until, .. } | Step::Leave { until, .. } => *until,
        };
        while self.end.is_none() && self.at < seen {
            self.byte(view.bytes()[self.at]);
        }
        self.end.ok_or(step)
    }

    /// Returns the last step of a machine that has read the whole object.
    ///
    /// If the format has an end marker, the machine waits for this marker.
    pub(crate) fn leave(&mut self, view: &View<'_>, bounds: &Bounds) -> Step {
        match self.step(view, bounds) {
            Ok(end) if bounds.close.is_empty() => Step::malformed(end, self.reason),
            Ok(_) => self.recovery.step(view, bounds),
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
