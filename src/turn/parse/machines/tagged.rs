//! Reads calls written as `<function=NAME>`, with `<parameter=KEY>` around raw values.
//!
//! The models of the Qwen3-Coder family and Seed-OSS write calls this way.

use std::ops::Range;
use std::sync::Arc;

use super::json::{JsonCalls, JsonForm};
use crate::turn::parse::machine::{
    Bounds, CallEnd, Machine, OpenCall, RawCall, RawLeaf, Recovery, Step, leave_at_marker,
};
use crate::turn::parse::marker::Marker;
use crate::turn::parse::view::{Found, Match, View};
use crate::types::tree::Malformed;

pub(crate) const FUNCTION: &str = "<function=";
pub(crate) const FUNCTION_END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";

/// Describes the variant of such calls that a family of models uses.
#[derive(Debug)]
pub(crate) struct TaggedForm {
    pub(crate) bounds: Bounds,
    /// The bounds of a function that appears without the opener of the region.
    pub(crate) alone: Bounds,
    /// The opener of the region. If an opener follows an end marker, a value ends before this
    /// opener.
    pub(crate) open: Marker,
    /// `true` if each tag of a value is on its own line.
    ///
    /// The value then does not include one newline after the opening tag and one newline before the
    /// closing tag. The closing tag counts only at the start of a line (R4 in
    /// docs/parsing-rules.md).
    pub(crate) framed: bool,
    /// The JSON form that the region may have instead, because some models write JSON.
    pub(crate) json: Option<Arc<JsonForm>>,
}

/// Reads the functions of one region, and the end marker of the region.
#[derive(Debug)]
pub(crate) struct TaggedCalls {
    form: Arc<TaggedForm>,
    /// The end of the last leaf, or the offset after the opener.
    body: usize,
    /// `true` if the region has an opener. An end marker is then expected.
    opened: bool,
    /// The search for the end of the current tag continues at this offset.
    tag: usize,
    state: State,
    call: OpenCall,
}

#[derive(Debug)]
enum State {
    Open,
    /// Reads the name of the function. The name begins at this offset.
    Name(usize),
    /// Reads the text between parameters.
    Parameters(usize),
    /// Reads the name of a parameter. The name begins at this offset.
    Key(usize),
    Value(ValueScan),
    CallEnd(CallEnd, Option<RawCall>),
    Recovery(Recovery),
    Json(JsonCalls),
}

impl TaggedCalls {
    /// Creates a reader.
    ///
    /// `body` is the offset after the opener. If there is no opener, `body` is the offset of
    /// `<function=`.
    pub(crate) fn new(form: Arc<TaggedForm>, body: usize, opened: bool) -> Self {
        Self { form, body, opened, tag: body, state: State::Open, call: OpenCall::default() }
    }

    fn open(&mut self, view: &View<'_>) -> Option<Step> {
        // The text before this call looks like an opener, but its ids show that it is ordinary
        // text. The call is then ordinary text, too (R9 in docs/parsing-rules.md).
        if !self.opened && view.text[..self.body].trim_end().ends_with(&*self.form.open) {
            return Some(Step::content(self.body));
        }
        let at = view.skip_blank(self.body);
        self.state = match (view.here(at, FUNCTION), view.bytes().get(at), &self.form.json) {
            (Match::Yes, ..) => State::Name(at + FUNCTION.len()),
            (Match::Partial, ..) => return Some(Step::Wait),
            (Match::No, None, _) if view.ended_cleanly() => return Some(Step::content(self.body)),
            (Match::No, ..) if view.is_cut_short(at, &[FUNCTION]) => return Some(Step::Wait),
            (Match::No, Some(b'{' | b'['), Some(json)) => {
                State::Json(JsonCalls::new(json.clone(), self.body))
            }
            (Match::No, ..) => State::Recovery(Recovery::suspect(self.body)),
        };
        None
    }

    /// Returns the text between `from` and the next `>`.
    ///
    /// This text must not contain a `<` or a line end.
    fn until_bracket<'a>(&mut self, view: &View<'a>, from: usize) -> Result<&'a str, Option<Step>> {
        self.tag = self.tag.max(from);
        match view.text[self.tag..].find(['>', '<', '\n']).map(|len| self.tag + len) {
            Some(end) if view.bytes()[end] == b'>' => Ok(&view.text[from..end]),
            Some(_) => Err(self.broken(Malformed::Syntax)),
            None => {
                self.tag = view.text.len();
                Err(Some(Step::Wait))
            }
        }
    }

    /// Handles a call that cannot be read.
    ///
    /// If there is no opener, a single `<function=NAME>` may be part of prose.
    fn broken(&mut self, reason: Malformed) -> Option<Step> {
        let has_parameter =
            !self.call.arguments.is_empty() || matches!(self.state, State::Key(_) | State::Value(_));
        if !self.opened && !has_parameter {
            return Some(Step::content(self.body));
        }
        let body = if self.opened { self.body } else { self.body + FUNCTION.len() };
        self.state = State::Recovery(Recovery::broken(body, reason));
        None
    }

    fn parameters(&mut self, view: &View<'_>, from: usize) -> Option<Step> {
        let at = view.skip_blank(from);
        let close = &self.form.bounds.close;
        self.state = match (view.here(at, PARAMETER), view.here(at, FUNCTION_END), view.here(at, close)) {
            (Match::Yes, ..) => State::Key(at + PARAMETER.len()),
            (_, Match::Yes, _) => return self.function_end(view, at, at + FUNCTION_END.len()),
            // `</function>` is missing, but the call is still complete.
            (.., Match::Yes) => return self.function_end(view, at, at),
            (Match::No, Match::No, Match::No)
                if !view.is_cut_short(at, &[PARAMETER, FUNCTION_END, &**close]) =>
            {
                return self.broken(Malformed::Syntax);
            }
            _ => return Some(Step::Wait),
        };
        None
    }

    fn function_end(&mut self, view: &View<'_>, raw_end: usize, end: usize) -> Option<Step> {
        let call = self.call.end(view, raw_end);
        if self.opened {
            self.state = State::CallEnd(CallEnd::new(end), Some(call));
            return None;
        }
        // If there is no opener, the end marker of the region may still follow. This marker then
        // does not belong to any call.
        self.state = State::CallEnd(CallEnd::new(end), None);
        Some(Step::Leaf { until: end, leaf: RawLeaf::Call(call) })
    }

    /// Reads the text after `</function>`: the end of the region, or another function.
    fn after_function(&mut self, view: &View<'_>) -> Option<Step> {
        let State::CallEnd(end, call) = &mut self.state else { return None };
        if !self.opened {
            return Some(leave_at_marker(view, end.body_end, &self.form.bounds.close));
        }
        match view.here(view.skip_blank(end.body_end), FUNCTION) {
            Match::No => Some(end.leave(view, &self.form.bounds, call)),
            Match::Partial => Some(Step::Wait),
            Match::Yes => {
                let (until, call) = (end.body_end, call.take());
                self.body = until;
                self.state = State::Open;
                call.map(|call| Step::Leaf { until, leaf: RawLeaf::Call(call) })
            }
        }
    }

    fn name(&mut self, view: &View<'_>, from: usize) -> Option<Step> {
        let name = match self.until_bracket(view, from) {
            Ok("") => return self.broken(Malformed::NoName),
            Ok(name) => name,
            Err(step) => return step,
        };
        let after = from + name.len() + 1;
        self.call = OpenCall::new(name.trim(), after);
        self.state = State::Parameters(after);
        None
    }

    fn key(&mut self, view: &View<'_>, from: usize) -> Option<Step> {
        let key = match self.until_bracket(view, from) {
            Ok(key) => key,
            Err(step) => return step,
        };
        self.state = State::Value(ValueScan::new(key.trim().to_owned(), from + key.len() + 1));
        None
    }

    fn value(&mut self, view: &View<'_>) -> Option<Step> {
        let State::Value(scan) = &mut self.state else { return None };
        match scan.step(view, &self.form, self.opened) {
            ValueEnd::More => return Some(Step::Wait),
            ValueEnd::Missing => return self.broken(Malformed::Syntax),
            ValueEnd::Value(range, after) => {
                let value = self.form.unframed(&view.text[range]);
                let value = view.tools.value(&self.call.name, &scan.key, value);
                self.call.arguments.insert(std::mem::take(&mut scan.key), value);
                self.state = State::Parameters(after);
            }
        }
        None
    }

    /// Finds the end of a broken function.
    ///
    /// If the region has no opener, the function ends without the end marker of the region.
    /// However, this end marker may still follow.
    fn recover(&mut self, view: &View<'_>) -> Option<Step> {
        let State::Recovery(recovery) = &mut self.state else { return None };
        if self.opened {
            return Some(recovery.step(view, &self.form.bounds));
        }
        Some(match recovery.step(view, &self.form.alone) {
            Step::Leave { until, leaf, .. } => {
                self.state = State::CallEnd(CallEnd::new(until), None);
                Step::Leaf { until, leaf }
            }
            step => step,
        })
    }
}

impl Machine for TaggedCalls {
    fn advance(&mut self, view: &View<'_>) -> Option<Step> {
        match self.state {
            State::Open => self.open(view),
            State::Name(from) => self.name(view, from),
            State::Parameters(from) => self.parameters(view, from),
            State::Key(from) => self.key(view, from),
            State::Value(_) => self.value(view),
            State::CallEnd(..) => self.after_function(view),
            State::Recovery(_) => self.recover(view),
            State::Json(ref mut json) => Some(json.step(view)),
        }
    }
}

impl TaggedForm {
    /// Returns the value without the newlines that belong to its tags.
    fn unframed<'a>(&self, value: &'a str) -> &'a str {
        if !self.framed {
            return value;
        }
        let value = value.strip_prefix('\n').unwrap_or(value);
        value.strip_suffix('\n').unwrap_or(value)
    }
}

/// Finds the end of a raw value.
///
/// A closing tag in the text of the value must not end the value. If the real closing tag is
/// missing, the value must not include the calls after it. In formats with tags on their own lines,
/// a closing tag therefore counts only at the start of a line, or alone on its line.
///
/// A value may mention the end marker of the region. This marker ends the search only in one of
/// these cases:
///
/// - The marker is real.
/// - It directly follows `</function>`, which is at the start of a line or after a closing tag.
/// - Another opener or the end of the turn follows it.
///
/// If the search ends at this marker, the value ends at its first closing tag in any position. If
/// there is no closing tag, the value ends at the last `</function>`.
#[derive(Debug)]
struct ValueScan {
    key: String,
    start: usize,
    at: usize,
    /// The first closing tag that does not end the value because of its position.
    inline: Option<usize>,
    /// The last `</function>`.
    function_end: Option<usize>,
    /// The first end marker of the region.
    close: Option<usize>,
    /// Up to this offset, the rest of the line after a closing tag is blank.
    line: usize,
}

/// Returns whether a value ends with `</function>` in a position that does not occur in prose.
///
/// Such a position is the start of a line, or directly after a closing tag.
fn ends_function(value: &str) -> bool {
    let Some(before) = value.trim_end().strip_suffix(FUNCTION_END) else { return false };
    before.ends_with('\n') || before.trim_end().ends_with(PARAMETER_END)
}

#[derive(Debug)]
enum ValueEnd {
    More,
    /// The range of the value, and the offset after its closing tag.
    Value(Range<usize>, usize),
    /// The value has no closing tag.
    Missing,
}

impl ValueScan {
    fn new(key: String, start: usize) -> Self {
        Self { key, start, at: start, inline: None, function_end: None, close: None, line: start }
    }

    fn step(&mut self, view: &View<'_>, form: &TaggedForm, opened: bool) -> ValueEnd {
        let close = &*form.bounds.close;
        let markers = [PARAMETER_END, FUNCTION_END, close, if opened { &*form.open } else { FUNCTION }];
        loop {
            let found = view.find(&markers, self.at);
            let (Found::At(at, _) | Found::Until(at)) = found;
            // A real marker ends the call, even in a value (R10 in docs/parsing-rules.md).
            if view.next_real(self.at).is_some_and(|real| real.start < at) {
                return ValueEnd::Missing;
            }
            self.at = at;
            let marker = match found {
                Found::At(_, marker) => marker,
                Found::Until(_) if view.end.is_some() && self.close.is_some() => return self.bounded(),
                Found::Until(_) => return ValueEnd::More,
            };
            if marker == PARAMETER_END {
                match self.counts(view, form, at) {
                    Match::Yes => return self.value(view, form, at),
                    Match::Partial => return ValueEnd::More,
                    Match::No => _ = self.inline.get_or_insert(at),
                }
            } else if marker == FUNCTION_END {
                if self.close.is_none() {
                    self.function_end = Some(at);
                }
            } else if marker == close {
                if view.is_real(at) || ends_function(&view.text[self.start..at]) {
                    return self.bounded();
                }
                self.close.get_or_insert(at);
            } else if self.close.is_some() || view.is_real(at) {
                return self.bounded();
            }
            self.at = at + marker.len();
        }
    }

    /// Returns the value before the closing tag at `at`. The indentation belongs to the tag.
    fn value(&self, view: &View<'_>, form: &TaggedForm, at: usize) -> ValueEnd {
        let value = &view.text[self.start..at];
        let line = value.rfind('\n').map_or(0, |newline| newline + 1);
        let indented = form.framed && value.starts_with('\n') && value[line..].trim().is_empty();
        let end = if indented { self.start + line } else { at };
        ValueEnd::Value(self.start..end, at + PARAMETER_END.len())
    }

    /// Returns whether the closing tag at `at` ends the value.
    fn counts(&mut self, view: &View<'_>, form: &TaggedForm, at: usize) -> Match {
        if !form.framed || !view.text[self.start..].starts_with('\n') {
            return Match::Yes;
        }
        let before = view.text[self.start..at].trim_end_matches([' ', '\t', '\r']);
        if !before.ends_with('\n') {
            return Match::No;
        }
        if self.start + before.len() == at {
            return Match::Yes;
        }
        // An indented closing tag ends the value only if the tag is alone on its line.
        let behind = self.line.max(at + PARAMETER_END.len());
        let rest = view.text[behind..].trim_start_matches([' ', '\t', '\r']);
        self.line = view.text.len() - rest.len();
        match rest.chars().next() {
            Some('\n') => Match::Yes,
            Some(_) => Match::No,
            None if view.end.is_none() => Match::Partial,
            None => Match::Yes,
        }
    }

    /// Finds the end of a value that has no closing tag before the end of the region.
    fn bounded(&self) -> ValueEnd {
        match (self.inline, self.function_end) {
            (Some(at), _) => ValueEnd::Value(self.start..at, at + PARAMETER_END.len()),
            (None, Some(at)) => ValueEnd::Value(self.start..at, at),
            (None, None) => ValueEnd::Missing,
        }
    }
}
