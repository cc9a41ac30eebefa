//! Calls written as a bare name with pairs of `<arg_key>` and `<arg_value>` behind it: GLM.

use serde_json::{Map, Value};

use super::invoke::Tag;
use super::machine::{Bounds, Machine, Outcome, RawCall, Seek, Step, Tail};
use super::raw::{RawEnd, RawForm, RawScan, TagEnd, TagScan};
use super::view::{Here, RegionEnd, View};
use crate::types::tree::Malformed;

/// How a family writes them.
#[derive(Debug)]
pub(super) struct PairForm {
    pub(super) bounds: Bounds,
    pub(super) key: Tag,
    /// What opens a value; its closing tag is in `values`.
    pub(super) value: &'static str,
    pub(super) values: RawForm,
}

/// Reads one call and its end marker.
#[derive(Debug)]
pub(super) struct PairCalls {
    form: &'static PairForm,
    /// After the opener.
    body: usize,
    state: State,
    name: String,
    arguments: Map<String, Value>,
    /// Where the arguments begin.
    raw: usize,
}

#[derive(Debug)]
enum State {
    /// Nothing but blanks so far.
    Open,
    /// In the name: where it begins, and up to where it has been read.
    Name(usize, usize),
    /// Between pairs.
    Pairs(usize),
    Key(TagScan),
    /// Between a key and its value.
    Middle(String, usize),
    Value(String, RawScan),
    Tail(Tail, Option<RawCall>),
    Seek(Seek),
}

/// The next state, and the step if there is one to be taken first.
type Next = (State, Option<Step>);

impl PairCalls {
    pub(super) fn new(form: &'static PairForm, body: usize) -> Self {
        Self { form, body, state: State::Open, name: String::new(), arguments: Map::new(), raw: body }
    }

    fn next(&mut self, view: &View<'_>, state: State) -> Next {
        match state {
            State::Open => self.open(view),
            State::Name(start, at) => self.name(view, start, at),
            State::Pairs(from) => self.pairs(view, from),
            State::Key(tag) => self.key(view, tag),
            State::Middle(key, from) => self.middle(view, key, from),
            State::Value(key, scan) => self.value(view, key, scan),
            State::Tail(mut tail, mut call) => {
                let step = tail.leave(view, self.form.bounds, &mut call);
                (State::Tail(tail, call), Some(step))
            }
            State::Seek(mut seek) => {
                let step = seek.step(view, self.form.bounds);
                (State::Seek(seek), Some(step))
            }
        }
    }

    fn broken(at: usize) -> Next {
        (State::Seek(Seek::broken(at, Malformed::Syntax)), None)
    }

    fn open(&mut self, view: &View<'_>) -> Next {
        let at = view.skip_blank(self.body);
        match (view.bytes().get(at), view.end) {
            // What ends with the bare word for an opener is prose.
            (None, Some(RegionEnd::Clean)) => (State::Open, Some(Step::leave(self.body, Outcome::Content))),
            (None, _) => (State::Open, Some(Step::Wait)),
            (Some(_), _) => (State::Name(at, at), None),
        }
    }

    fn name(&mut self, view: &View<'_>, start: usize, from: usize) -> Next {
        let rest = &view.bytes()[from..];
        let len = rest.iter().position(|byte| !is_of_name(*byte)).unwrap_or(rest.len());
        let at = from + len;
        match view.bytes().get(at) {
            Some(b'<' | b' ' | b'\t' | b'\n' | b'\r') if at > start => {
                self.name = view.text[start..at].to_owned();
                self.raw = at;
                (State::Pairs(at), None)
            }
            Some(_) => (State::Seek(Seek::suspect(self.body)), None),
            None if view.end.is_some() && self.is_spaced(view) => {
                (State::Open, Some(Step::leave(self.body, Outcome::Content)))
            }
            None => (State::Name(start, at), Some(Step::Wait)),
        }
    }

    /// There is a space before the name. No model writes one, but prose does.
    fn is_spaced(&self, view: &View<'_>) -> bool {
        view.bytes()[self.body] == b' '
    }

    fn pairs(&mut self, view: &View<'_>, from: usize) -> Next {
        let at = view.skip_blank(from);
        let without = self.arguments.is_empty();
        match (
            view.here(at, self.form.key.open),
            view.here(at, self.form.bounds.close),
            view.any_here(at, self.form.bounds.stops),
        ) {
            (Here::Yes, ..) => (State::Key(TagScan::new(at + self.form.key.open.len())), None),
            // "Between <tool_call> and </tool_call>".
            (_, Here::Yes, _) if without && self.is_spaced(view) => {
                (State::Seek(Seek::suspect(self.body)), None)
            }
            (_, Here::Yes, _) => self.end(view, from, at),
            (Here::NotYet, ..) | (_, Here::NotYet, _) | (.., Here::NotYet) => {
                (State::Pairs(from), Some(Step::Wait))
            }
            (.., Here::Yes) if without => {
                (State::Pairs(from), Some(Step::leave(at, Outcome::Malformed(Malformed::Unfinished))))
            }
            _ if view.is_cut_short(at, &[self.form.bounds.close]) && !without => self.end(view, from, at),
            _ if view.is_cut_short(at, &[self.form.bounds.close, self.form.key.open]) => {
                (State::Pairs(from), Some(Step::Wait))
            }
            _ if without => (State::Seek(Seek::suspect(self.body)), None),
            // The end marker is missing, or there is other text before it.
            _ => self.end(view, from, from),
        }
    }

    fn end(&mut self, view: &View<'_>, body_end: usize, raw_end: usize) -> Next {
        let call = RawCall {
            id: None,
            name: std::mem::take(&mut self.name),
            arguments: Value::Object(std::mem::take(&mut self.arguments)),
            raw: view.text[self.raw..raw_end].to_owned(),
        };
        (State::Tail(Tail::new(body_end), Some(call)), None)
    }

    fn key(&self, view: &View<'_>, mut tag: TagScan) -> Next {
        match tag.step(view, self.form.key.close) {
            TagEnd::More => (State::Key(tag), Some(Step::Wait)),
            TagEnd::Missing(at) => Self::broken(at),
            TagEnd::Text(key, after) => (State::Middle(key.trim().to_owned(), after), None),
        }
    }

    fn middle(&mut self, view: &View<'_>, key: String, from: usize) -> Next {
        let at = view.skip_blank(from);
        match view.here(at, self.form.value) {
            Here::Yes => (State::Value(key, RawScan::new(at + self.form.value.len())), None),
            Here::No if !view.is_cut_short(at, &[self.form.value]) => Self::broken(at),
            Here::NotYet | Here::No => (State::Middle(key, from), Some(Step::Wait)),
        }
    }

    fn value(&mut self, view: &View<'_>, key: String, mut scan: RawScan) -> Next {
        match scan.step(view, &self.form.values) {
            RawEnd::More => (State::Value(key, scan), Some(Step::Wait)),
            RawEnd::Missing(at) => Self::broken(at),
            RawEnd::Value(range, after) => {
                let value = view.tools.value(&self.name, &key, &view.text[range]);
                self.arguments.insert(key, value);
                (State::Pairs(after), None)
            }
        }
    }
}

/// What a tool's name is written with.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':' | b'/') || !byte.is_ascii()
}

impl Machine for PairCalls {
    fn step(&mut self, view: &View<'_>) -> Step {
        loop {
            let state = std::mem::replace(&mut self.state, State::Open);
            let (state, step) = self.next(view, state);
            self.state = state;
            if let Some(step) = step {
                return step;
            }
        }
    }
}
