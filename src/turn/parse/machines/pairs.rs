//! Reads calls written as a name followed by pairs of `<arg_key>` and `<arg_value>`, as in GLM.

use std::sync::Arc;

use crate::turn::parse::machine::{Bounds, CallEnd, Machine, OpenCall, RawCall, Recovery, Step};
use crate::turn::parse::marker::{Marker, Tag};
use crate::turn::parse::raw::{RawEnd, RawForm, RawScan, TagEnd, TagScan};
use crate::turn::parse::view::{Match, RegionEnd, View};
use crate::types::tree::Malformed;

/// Describes the variant of such calls that a family of models uses.
#[derive(Debug)]
pub(crate) struct PairForm {
    pub(crate) bounds: Bounds,
    pub(crate) key: Tag,
    /// The opening tag of a value. `values` contains the closing tag.
    pub(crate) value: Marker,
    pub(crate) values: RawForm,
}

/// Reads one call and its end marker.
#[derive(Debug)]
pub(crate) struct PairCalls {
    form: Arc<PairForm>,
    /// The offset after the opener.
    body: usize,
    state: State,
    call: OpenCall,
}

#[derive(Debug)]
enum State {
    /// Skips blanks after the opener.
    Open,
    /// Reads the name, which begins at the first offset. The name was read up to the second offset.
    Name(usize, usize),
    /// Reads the text between pairs.
    Pairs(usize),
    Key(TagScan),
    /// Reads the text between a key and its value.
    Middle(String, usize),
    Value(String, RawScan),
    CallEnd(CallEnd, Option<RawCall>),
    Recovery(Recovery),
}

/// The next state, and the step to return before this state begins, if there is a step.
type Next = (State, Option<Step>);

impl PairCalls {
    pub(crate) fn new(form: Arc<PairForm>, body: usize) -> Self {
        Self { form, body, state: State::Open, call: OpenCall::default() }
    }

    fn next(&mut self, view: &View<'_>, state: State) -> Next {
        match state {
            State::Open => self.open(view),
            State::Name(start, at) => self.name(view, start, at),
            State::Pairs(from) => self.pairs(view, from),
            State::Key(tag) => self.key(view, tag),
            State::Middle(key, from) => self.middle(view, key, from),
            State::Value(key, scan) => self.value(view, key, scan),
            State::CallEnd(mut end, mut call) => {
                let step = end.leave(view, &self.form.bounds, &mut call);
                (State::CallEnd(end, call), Some(step))
            }
            State::Recovery(mut recovery) => {
                let step = recovery.step(view, &self.form.bounds);
                (State::Recovery(recovery), Some(step))
            }
        }
    }

    fn broken(at: usize) -> Next {
        (State::Recovery(Recovery::broken(at, Malformed::Syntax)), None)
    }

    fn open(&mut self, view: &View<'_>) -> Next {
        let at = view.skip_blank(self.body);
        match (view.bytes().get(at), view.end) {
            // If the turn ends directly after the opener, the opener is prose.
            (None, Some(RegionEnd::Clean)) => (State::Open, Some(Step::content(self.body))),
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
                self.call = OpenCall::new(&view.text[start..at], at);
                (State::Pairs(at), None)
            }
            Some(_) => (State::Recovery(Recovery::suspect(self.body)), None),
            None if view.end.is_some() && self.is_spaced(view) => {
                (State::Open, Some(Step::content(self.body)))
            }
            None => (State::Name(start, at), Some(Step::Wait)),
        }
    }

    /// Returns whether a space precedes the name.
    ///
    /// Models do not write this space in a call, but it is common in prose.
    fn is_spaced(&self, view: &View<'_>) -> bool {
        view.bytes()[self.body] == b' '
    }

    fn pairs(&mut self, view: &View<'_>, from: usize) -> Next {
        let at = view.skip_blank(from);
        let without = self.call.arguments.is_empty();
        let PairForm { bounds, key, .. } = &*self.form;
        let wait = (State::Pairs(from), Some(Step::Wait));
        match (view.here(at, &key.open), view.here(at, &bounds.close), view.any_here(at, &bounds.stops)) {
            (Match::Yes, ..) => (State::Key(TagScan::new(at + key.open.len())), None),
            // The text is prose, such as "between <tool_call> and </tool_call>".
            (_, Match::Yes, _) if without && self.is_spaced(view) => {
                (State::Recovery(Recovery::suspect(self.body)), None)
            }
            (_, Match::Yes, _) => self.end(view, from, at),
            (Match::Partial, ..) | (_, Match::Partial, _) | (.., Match::Partial) => wait,
            (.., Match::Yes) if without => {
                (State::Pairs(from), Some(Step::malformed(at, Malformed::Unfinished)))
            }
            _ if view.is_cut_short(at, &[&*bounds.close]) && !without => self.end(view, from, at),
            _ if view.is_cut_short(at, &[&*bounds.close, &*key.open]) => wait,
            _ if without => (State::Recovery(Recovery::suspect(self.body)), None),
            // The end marker is missing, or other text precedes the end marker.
            _ => self.end(view, from, from),
        }
    }

    fn end(&mut self, view: &View<'_>, body_end: usize, raw_end: usize) -> Next {
        let call = self.call.end(view, raw_end);
        (State::CallEnd(CallEnd::new(body_end), Some(call)), None)
    }

    fn key(&self, view: &View<'_>, mut tag: TagScan) -> Next {
        match tag.step(view, &self.form.key.close) {
            TagEnd::More => (State::Key(tag), Some(Step::Wait)),
            TagEnd::Missing(at) => Self::broken(at),
            TagEnd::Text(key, after) => (State::Middle(key.trim().to_owned(), after), None),
        }
    }

    fn middle(&mut self, view: &View<'_>, key: String, from: usize) -> Next {
        let at = view.skip_blank(from);
        let value = &self.form.value;
        match view.here(at, value) {
            Match::Yes => (State::Value(key, RawScan::new(at + value.len())), None),
            Match::No if !view.is_cut_short(at, &[&**value]) => Self::broken(at),
            Match::Partial | Match::No => (State::Middle(key, from), Some(Step::Wait)),
        }
    }

    fn value(&mut self, view: &View<'_>, key: String, mut scan: RawScan) -> Next {
        match scan.step(view, &self.form.values) {
            RawEnd::More => (State::Value(key, scan), Some(Step::Wait)),
            RawEnd::Missing(at) => Self::broken(at),
            RawEnd::Value(range, after) => {
                let value = view.tools.value(&self.call.name, &key, &view.text[range]);
                self.call.arguments.insert(key, value);
                (State::Pairs(after), None)
            }
        }
    }
}

/// Returns whether the name of a tool may contain this byte.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':' | b'/') || !byte.is_ascii()
}

impl Machine for PairCalls {
    fn advance(&mut self, view: &View<'_>) -> Option<Step> {
        let state = std::mem::replace(&mut self.state, State::Open);
        let (state, step) = self.next(view, state);
        self.state = state;
        step
    }
}
