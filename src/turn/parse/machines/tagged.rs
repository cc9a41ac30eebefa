//! Calls written as `<function=NAME>` with `<parameter=KEY>` around raw values: the Qwen3-Coder family, Seed-OSS.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::json::{JsonCalls, JsonForm};
use crate::turn::parse::machine::{
    Bounds, CallEnd, Machine, RawCall, RawLeaf, Recovery, Step, leave_at_marker,
};
use crate::turn::parse::marker::Marker;
use crate::turn::parse::view::{Found, Match, RegionEnd, View};
use crate::types::tree::Malformed;

pub(crate) const FUNCTION: &str = "<function=";
pub(crate) const FUNCTION_END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";

/// How a family writes them.
#[derive(Debug)]
pub(crate) struct TaggedForm {
    pub(crate) bounds: Bounds,
    /// Of a function without the region's opener.
    pub(crate) alone: Bounds,
    /// The region's opener; where a value holds one after an end marker, the value has ended before.
    pub(crate) open: Marker,
    /// One newline after the opening and one before the closing tag of a value are not part of it, and the
    /// closing tag counts only at the start of a line (rule R4 of docs/parsing-rules.md).
    pub(crate) framed: bool,
    /// What a body may be besides: some models fall back to JSON.
    pub(crate) json: Option<Arc<JsonForm>>,
}

/// Reads the functions of one region and its end marker.
#[derive(Debug)]
pub(crate) struct TaggedCalls {
    form: Arc<TaggedForm>,
    /// The end of the last leaf, or the place after the opener.
    body: usize,
    /// The region's opener was there, so its end marker is waited for.
    opened: bool,
    /// Up to here the tag that is being read has no end.
    tag: usize,
    state: State,
    name: String,
    arguments: Map<String, Value>,
    /// Where the arguments begin.
    raw: usize,
}

#[derive(Debug)]
enum State {
    Open,
    /// In the function's name, which begins here.
    Name(usize),
    /// Between parameters.
    Parameters(usize),
    /// In a parameter's name, which begins here.
    Key(usize),
    Value(ValueScan),
    CallEnd(CallEnd, Option<RawCall>),
    Recovery(Recovery),
    Json(JsonCalls),
}

impl TaggedCalls {
    /// `body` is the place after the opener, or that of `<function=` if the opener is missing.
    pub(crate) fn new(form: Arc<TaggedForm>, body: usize, opened: bool) -> Self {
        Self {
            form,
            body,
            opened,
            tag: body,
            state: State::Open,
            name: String::new(),
            arguments: Map::new(),
            raw: body,
        }
    }

    fn open(&mut self, view: &View<'_>) -> Option<Step> {
        // Where ids are known and the opener is only spelled, so is the call (rule R9 of docs/parsing-rules.md).
        if !self.opened && view.text[..self.body].trim_end().ends_with(&*self.form.open) {
            return Some(Step::leave(self.body, RawLeaf::Content));
        }
        let at = view.skip_blank(self.body);
        self.state = match (view.here(at, FUNCTION), view.bytes().get(at), &self.form.json) {
            (Match::Yes, ..) => State::Name(at + FUNCTION.len()),
            (Match::Partial, ..) => return Some(Step::Wait),
            (Match::No, None, _) if view.end == Some(RegionEnd::Clean) => {
                return Some(Step::leave(self.body, RawLeaf::Content));
            }
            (Match::No, ..) if view.is_cut_short(at, &[FUNCTION]) => return Some(Step::Wait),
            (Match::No, Some(b'{' | b'['), Some(json)) => {
                State::Json(JsonCalls::new(json.clone(), self.body))
            }
            (Match::No, ..) => State::Recovery(Recovery::suspect(self.body)),
        };
        None
    }

    /// The text from `from` up to `>`, which holds no `<` and no line end.
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

    /// Without an opener, `<function=NAME>` alone may stand in prose.
    fn broken(&mut self, reason: Malformed) -> Option<Step> {
        let has_parameter =
            !self.arguments.is_empty() || matches!(self.state, State::Key(_) | State::Value(_));
        if !self.opened && !has_parameter {
            return Some(Step::leave(self.body, RawLeaf::Content));
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
            // `</function>` is missing, and all that it would have ended is there.
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
        let call = RawCall {
            id: None,
            name: std::mem::take(&mut self.name),
            arguments: Value::Object(std::mem::take(&mut self.arguments)),
            raw: view.text[self.raw..raw_end].to_owned(),
        };
        if self.opened {
            self.state = State::CallEnd(CallEnd::new(end), Some(call));
            return None;
        }
        // Without an opener, the end marker may still come. It is nobody's, then.
        self.state = State::CallEnd(CallEnd::new(end), None);
        Some(Step::Leaf { until: end, leaf: RawLeaf::Call(call) })
    }

    /// After `</function>`: the region's end, or another function.
    fn after_function(&mut self, view: &View<'_>) -> Option<Step> {
        let State::CallEnd(end, call) = &mut self.state else { return None };
        if !self.opened {
            return Some(leave_at_marker(view, end.body_end(), &self.form.bounds.close));
        }
        match view.here(view.skip_blank(end.body_end()), FUNCTION) {
            Match::No => Some(end.leave(view, &self.form.bounds, call)),
            Match::Partial => Some(Step::Wait),
            Match::Yes => {
                let (until, call) = (end.body_end(), call.take());
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
        self.name = name.trim().to_owned();
        self.raw = from + name.len() + 1;
        self.state = State::Parameters(self.raw);
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
                let value = view.tools.value(&self.name, &scan.key, value);
                self.arguments.insert(std::mem::take(&mut scan.key), value);
                self.state = State::Parameters(after);
            }
        }
        None
    }

    /// A function without the region's opener ends by itself; the end marker may still come.
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
    /// A value without the newlines that belong to the tags.
    fn unframed<'a>(&self, value: &'a str) -> &'a str {
        if !self.framed {
            return value;
        }
        let value = value.strip_prefix('\n').unwrap_or(value);
        value.strip_suffix('\n').unwrap_or(value)
    }
}

/// Looks for the end of a raw value.
///
/// A closing tag inside the value must not end it, and a missing one must not make it swallow the calls behind.
/// So where values stand on lines of their own, only a closing tag at the start of a line counts, or one alone on
/// its line. The region's end marker is in the way of a value only if it is real, stands right behind
/// `</function>` (at the start of a line, or behind a closing tag), or is followed by another opener or the end of the turn: a value may well speak of it. Then
/// the first closing tag counts wherever it stands, else the last `</function>`.
#[derive(Debug)]
struct ValueScan {
    key: String,
    start: usize,
    at: usize,
    /// The first closing tag that does not count.
    inline: Option<usize>,
    /// The last `</function>`.
    function_end: Option<usize>,
    /// The first end marker of the region.
    close: Option<usize>,
    /// Up to here the line behind a closing tag is blank.
    line: usize,
}

/// Whether a value ends with `</function>`, at the start of a line or right behind a closing tag: so nobody writes it
/// in a sentence.
fn ends_function(value: &str) -> bool {
    let Some(before) = value.trim_end().strip_suffix(FUNCTION_END) else { return false };
    before.ends_with('\n') || before.trim_end().ends_with(PARAMETER_END)
}

#[derive(Debug)]
enum ValueEnd {
    More,
    /// The value, and the place after its closing tag.
    Value(Range<usize>, usize),
    /// It has none.
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
            // A real marker is structure even in a value (rule R10 of docs/parsing-rules.md).
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

    /// The value that the closing tag at `at` ends. The indentation is the tag's.
    fn value(&self, view: &View<'_>, form: &TaggedForm, at: usize) -> ValueEnd {
        let value = &view.text[self.start..at];
        let line = value.rfind('\n').map_or(0, |newline| newline + 1);
        let indented = form.framed && value.starts_with('\n') && value[line..].trim().is_empty();
        let end = if indented { self.start + line } else { at };
        ValueEnd::Value(self.start..end, at + PARAMETER_END.len())
    }

    /// Whether the closing tag at `at` ends the value.
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
        // Indented, and alone on its line?
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

    /// The end of a value that the region's end has cut short.
    fn bounded(&self) -> ValueEnd {
        match (self.inline, self.function_end) {
            (Some(at), _) => ValueEnd::Value(self.start..at, at + PARAMETER_END.len()),
            (None, Some(at)) => ValueEnd::Value(self.start..at, at),
            (None, None) => ValueEnd::Missing,
        }
    }
}
