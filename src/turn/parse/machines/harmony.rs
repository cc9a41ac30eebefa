//! Reads turns written as messages, as in gpt-oss.
//!
//! Each message has a header that names its recipient and its channel:
//!
//! ```text
//! <|start|>assistant to=functions.NAME<|channel|>commentary <|constrain|>json<|message|>{..}<|call|>
//! ```
//!
//! The prompt ends inside a header, so a turn begins inside this header. Text on the channel
//! `analysis` is reasoning. A message to a tool is a call, regardless of its channel. All other
//! text is content.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value};

use crate::turn::parse::json_scan::{JsonScan, Scanned};
use crate::turn::parse::machine::{Machine, RawCall, RawLeaf, Step, Then};
use crate::turn::parse::marker::{List, Reasoning};
use crate::turn::parse::table::{Region, Table};
use crate::turn::parse::view::{Found, Match, RegionEnd, View};
use crate::types::tree::Malformed;

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const CONSTRAIN: &str = "<|constrain|>";
const MESSAGE: &str = "<|message|>";
const END: &str = "<|end|>";
const CALL: &str = "<|call|>";
const RETURN: &str = "<|return|>";

/// The markers around reasoning. [`Message`] reads the headers that contain blanks or additional
/// words.
static ANALYSIS: LazyLock<Arc<Reasoning>> = LazyLock::new(|| {
    Arc::new(Reasoning {
        open: "<|channel|>analysis<|message|>".into(),
        close: END.into(),
        label: None,
        answer: List::default(),
    })
});

/// Returns the table of gpt-oss.
pub(crate) fn table() -> Table {
    let region = |open: &str, part| Region {
        open: open.into(),
        body: Arc::new(move |_, body| Box::new(Message::new(body, part))),
    };
    Table {
        name: "harmony".into(),
        reasoning: Some(ANALYSIS.clone()),
        calls: vec![region(START, Part::Role), region(CHANNEL, Part::Channel)],
        frames: [END].into_iter().collect(),
        ends: [CALL, RETURN].into_iter().collect(),
        inner: [CONSTRAIN, MESSAGE].into_iter().collect(),
        bare: Some(Arc::new(|_, body| Box::new(Message::new(body, Part::Bare)))),
        signs: [CHANNEL, CONSTRAIN, MESSAGE].into_iter().collect(),
        ..Table::default()
    }
}

/// The markers that end the text of a call. They include the markers that begin the next message.
const ENDERS: &[&str] = &[CALL, END, RETURN, START, CHANNEL];

/// Reads a header. If the message is a call, also reads the text after the header.
#[derive(Debug)]
struct Message {
    body: usize,
    state: State,
    part: Part,
    /// `true` if the header contains a known role or channel.
    known: bool,
    reasoning: bool,
    recipient: Option<Range<usize>>,
    /// The offset of a word that does not belong to any part of the header.
    ///
    /// This word is the content type, or the first word of the text if the model left out
    /// `<|message|>`.
    extra: Option<usize>,
}

#[derive(Debug)]
enum State {
    /// Reads the text between the words of a header.
    Head(usize),
    /// Reads a word.
    Word(Range<usize>),
    /// Begins the text of a call.
    Text(usize),
    /// Reads the object with the arguments.
    Object(JsonScan),
    /// Searches for the end of the message, after the object or in text that is not an object.
    RegionEnd { from: usize, at: usize, body: Body },
}

#[derive(Debug)]
enum Body {
    Call(RawCall),
    Broken(Malformed),
    /// Text instead of JSON, for a tool that takes code.
    Raw,
}

/// The part of a header that the next word belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The start of the turn. If a header begins here, its role is already in the prompt.
    Bare,
    Role,
    Channel,
    Type,
    Rest,
}

impl Message {
    /// Creates a reader. `body` is the offset after the marker that opens the header.
    fn new(body: usize, part: Part) -> Self {
        Self {
            body,
            state: State::Head(body),
            part,
            known: false,
            reasoning: false,
            recipient: None,
            extra: None,
        }
    }

    fn head(&mut self, view: &View<'_>, from: usize) -> Option<Step> {
        let at = view.skip_blank(from);
        self.state = State::Head(at);
        let Some(_) = view.bytes().get(at) else { return Some(self.head_ends(view, at)) };
        match marker_here(view, at) {
            None => return Some(Step::Wait),
            Some("") => self.state = State::Word(at..at),
            Some(MESSAGE) => return self.text(view, at + MESSAGE.len()),
            Some(marker @ (CHANNEL | CONSTRAIN)) => {
                self.part = if marker == CHANNEL { Part::Channel } else { Part::Type };
                self.state = State::Head(at + marker.len());
            }
            Some(START) if self.part == Part::Bare && self.recipient.is_none() => {
                self.part = Part::Role;
                self.state = State::Head(at + START.len());
            }
            Some(_) => return self.no_message(view, at),
        }
        None
    }

    fn word(&mut self, view: &View<'_>, start: usize, from: usize) -> Option<Step> {
        let mut at = from;
        while let Some(byte) = view.bytes().get(at) {
            match (byte, marker_here(view, at)) {
                (b' ' | b'\t' | b'\n' | b'\r', _) => break,
                (_, Some("")) => at += 1,
                (_, Some(_)) => break,
                (_, None) => {
                    self.state = State::Word(start..at);
                    return Some(Step::Wait);
                }
            }
        }
        if at == view.text.len() && view.end.is_none() {
            self.state = State::Word(start..at);
            return Some(Step::Wait);
        }
        self.state = State::Head(at);
        let word = &view.text[start..at];
        if word.len() > "to=".len() && word.starts_with("to=") && self.extra.is_none() {
            self.recipient = Some(start + "to=".len()..at);
            return None;
        }
        match self.part {
            Part::Bare => return Some(Step::content(self.body)),
            Part::Role => self.known = word == "assistant",
            Part::Channel => {
                self.known = matches!(word, "analysis" | "commentary" | "final");
                self.reasoning = word == "analysis";
            }
            Part::Type => {}
            Part::Rest if self.extra.is_none() => self.extra = Some(start),
            Part::Rest => return self.no_message(view, at),
        }
        self.part = Part::Rest;
        None
    }

    /// Handles a header that ended without `<|message|>`.
    ///
    /// The text begins with the first word that does not belong to the header. If there is no known
    /// role or channel, the text is not a header.
    fn no_message(&mut self, view: &View<'_>, at: usize) -> Option<Step> {
        match self.extra {
            _ if !self.known => Some(Step::content(self.body)),
            Some(extra) => self.text(view, extra),
            None => self.text(view, at),
        }
    }

    /// Returns the next step if the text ends inside the header.
    fn head_ends(&mut self, view: &View<'_>, at: usize) -> Step {
        match view.end {
            None => Step::Wait,
            Some(_) if self.tool(view).is_some() && self.part != Part::Bare => Step::Wait,
            Some(_) if self.part == Part::Bare => Step::content(self.body),
            Some(_) if self.known => Step::leave(self.extra.unwrap_or(at), RawLeaf::Marker),
            Some(RegionEnd::Cut) => Step::marker(at),
            Some(RegionEnd::Clean) => Step::content(self.body),
        }
    }

    /// Returns the recipient of the message, if the recipient is a tool.
    fn tool<'a>(&self, view: &View<'a>) -> Option<&'a str> {
        let recipient = &view.text[self.recipient.clone()?];
        (!matches!(recipient, "assistant" | "user" | "all")).then_some(recipient)
    }

    /// Begins the text of the message at `at`.
    fn text(&mut self, view: &View<'_>, at: usize) -> Option<Step> {
        if self.tool(view).is_some() {
            self.state = State::Text(at);
            return None;
        }
        let then = if self.reasoning { Then::Reasoning(ANALYSIS.clone()) } else { Then::Content };
        Some(Step::Leave { until: at, leaf: RawLeaf::Marker, then })
    }

    fn call_text(&mut self, view: &View<'_>, from: usize) -> Option<Step> {
        let at = view.skip_blank(from);
        self.state = State::Text(at);
        let functions = self.tool(view).is_some_and(|tool| tool.starts_with("functions."));
        // `true` if the text of this view ends at a real end marker.
        let closed = at == view.text.len() && view.ended_cleanly() && view.is_real(at);
        self.state = match (view.bytes().get(at), marker_here(view, at)) {
            (None, _) | (_, None) if !closed => return Some(Step::Wait),
            (Some(b'{'), _) => State::Object(JsonScan::new(at)),
            // The call has no arguments.
            (None, _) | (_, Some(CALL | END | RETURN)) => {
                let body = self.call(view, "{}", Value::Object(Map::new()));
                State::RegionEnd { from: at, at, body }
            }
            _ if functions => State::RegionEnd { from: at, at, body: Body::Broken(Malformed::Syntax) },
            _ => State::RegionEnd { from: at, at, body: Body::Raw },
        };
        None
    }

    fn object(&mut self, view: &View<'_>) -> Option<Step> {
        let State::Object(scan) = &mut self.state else { return None };
        let start = scan.start;
        let (from, body) = match scan.advance(view) {
            // If a string has no end, it must not include the messages after the call.
            Scanned::More if view.ended_cleanly() => (start, Body::Broken(Malformed::Unfinished)),
            Scanned::More => return Some(Step::Wait),
            Scanned::Value(end) => {
                let raw = &view.text[start..end];
                let call = |arguments| self.call(view, raw, arguments);
                (end, serde_json::from_str(raw).map_or(Body::Broken(Malformed::Syntax), call))
            }
            Scanned::Bad(reason) => (start, Body::Broken(reason)),
        };
        self.state = State::RegionEnd { from, at: from, body };
        None
    }

    fn call(&self, view: &View<'_>, raw: &str, arguments: Value) -> Body {
        let tool = self.tool(view).unwrap_or_default();
        match tool.strip_prefix("functions.").unwrap_or(tool) {
            "" => Body::Broken(Malformed::NoName),
            name => Body::Call(RawCall { id: None, name: name.to_owned(), arguments, raw: raw.to_owned() }),
        }
    }

    fn end(&mut self, view: &View<'_>) -> Option<Step> {
        let State::RegionEnd { from, at, body } = &mut self.state else { return None };
        let from = *from;
        let (until, text, closed) = match view.find(ENDERS, *at) {
            Found::At(at, START | CHANNEL) => (at, from..at, true),
            Found::At(at, ender) => (at + ender.len(), from..at, true),
            Found::Until(until) => {
                *at = until;
                if view.end.is_none() {
                    return Some(Step::Wait);
                }
                (until, from..until, view.ended_cleanly())
            }
        };
        // If the turn ends inside the end marker, the received part of the marker belongs to the
        // call (R10 in docs/parsing-rules.md).
        let rest = view.skip_blank(from);
        let is_cut = ENDERS.iter().any(|ender| view.is_cut_at(rest, ender));
        let text_end = text.end;
        let text = &view.text[text];
        let leaf = match std::mem::replace(body, Body::Raw) {
            _ if !closed => RawLeaf::Malformed(Malformed::Unfinished),
            // If the call has an end marker, the reason cannot be `Unfinished`.
            Body::Broken(Malformed::Unfinished) if until > text_end => RawLeaf::Malformed(Malformed::Syntax),
            Body::Broken(reason) => RawLeaf::Malformed(reason),
            Body::Call(_) if !text.trim().is_empty() && !is_cut => RawLeaf::Malformed(Malformed::Syntax),
            Body::Call(call) => RawLeaf::Call(call),
            Body::Raw => match self.call(view, text, Value::String(text.to_owned())) {
                Body::Call(call) => RawLeaf::Call(call),
                _ => RawLeaf::Malformed(Malformed::NoName),
            },
        };
        Some(Step::leave(until, leaf))
    }
}

/// Returns the marker at the offset `at`, or `""` if this text is not a marker.
///
/// Returns `None` if more text is needed to identify the marker.
fn marker_here(view: &View<'_>, at: usize) -> Option<&'static str> {
    let markers = [MESSAGE, CHANNEL, CONSTRAIN, START, END, CALL, RETURN];
    if let Some(marker) = markers.into_iter().find(|marker| view.here(at, marker) == Match::Yes) {
        return Some(marker);
    }
    let wait = markers.into_iter().any(|marker| view.here(at, marker) == Match::Partial);
    (!wait).then_some("")
}

impl Machine for Message {
    fn advance(&mut self, view: &View<'_>) -> Option<Step> {
        match self.state {
            State::Head(from) => self.head(view, from),
            State::Word(Range { start, end }) => self.word(view, start, end),
            State::Text(from) => self.call_text(view, from),
            State::Object(_) => self.object(view),
            State::RegionEnd { .. } => self.end(view),
        }
    }
}
