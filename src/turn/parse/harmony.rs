//! Turns written as messages, each with a header that says to whom and on which channel: gpt-oss.
//!
//! ```text
//! <|start|>assistant to=functions.NAME<|channel|>commentary <|constrain|>json<|message|>{..}<|call|>
//! ```
//!
//! The prompt ends within a header, so a turn begins there. The channel `analysis` is reasoning, a recipient makes
//! a call on any channel, all else is content.

use std::ops::Range;

use serde_json::{Map, Value};

use super::dialect::{Call, Table, Think};
use super::json::{Scan, Scanned};
use super::machine::{Machine, Outcome, RawCall, Step, Then};
use super::view::{Found, Here, RegionEnd, View};
use crate::types::tree::Malformed;

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const CONSTRAIN: &str = "<|constrain|>";
const MESSAGE: &str = "<|message|>";
const END: &str = "<|end|>";
const CALL: &str = "<|call|>";
const RETURN: &str = "<|return|>";

/// A header with blanks or more in it is read by [`Message`].
const ANALYSIS: Think = Think { open: "<|channel|>analysis<|message|>", close: END, label: "", answer: &[] };

/// gpt-oss.
pub(super) static HARMONY: Table = Table {
    name: "harmony",
    think: Some(ANALYSIS),
    calls: &[
        Call { open: START, body: &|_, body| Box::new(Message::new(body, Part::Role)) },
        Call { open: CHANNEL, body: &|_, body| Box::new(Message::new(body, Part::Channel)) },
    ],
    frames: &[END],
    ends: &[CALL, RETURN],
    inner: &[CONSTRAIN, MESSAGE],
    in_template: "",
    bare: Some(&|_, body| Box::new(Message::new(body, Part::Bare))),
    signs: &[CHANNEL, CONSTRAIN, MESSAGE],
};

/// What ends the text of a call. The next message shows that it has ended.
const ENDERS: &[&str] = &[CALL, END, RETURN, START, CHANNEL];

/// Reads a header, and the text behind it if that is a call.
#[derive(Debug)]
struct Message {
    body: usize,
    state: State,
    part: Part,
    /// A role or a channel has been read that models write.
    known: bool,
    reasoning: bool,
    recipient: Option<Range<usize>>,
    /// A word that belongs to no part of a header. It is the content type, or `<|message|>` was forgotten and
    /// the text begins with it.
    extra: Option<usize>,
}

#[derive(Debug)]
enum State {
    /// Between the words of a header.
    Head(usize),
    /// In a word.
    Word(Range<usize>),
    /// Before the text of a call.
    Text(usize),
    Object(Scan),
    /// After the object, or in what is none.
    RegionEnd {
        from: usize,
        at: usize,
        body: Body,
    },
}

#[derive(Debug)]
enum Body {
    Call(RawCall),
    Broken(Malformed),
    /// Code, for a tool that takes text.
    Raw,
}

/// What the next word of a header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// At the start of the turn: behind the role, if it is a header at all.
    Bare,
    Role,
    Channel,
    Type,
    Rest,
}

impl Message {
    /// `body` is the place after the marker that opens the header.
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
            Part::Bare => return Some(Step::leave(self.body, Outcome::Content)),
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

    /// The header has ended without `<|message|>`: the text begins with the first word that is no header, or it
    /// was no header at all.
    fn no_message(&mut self, view: &View<'_>, at: usize) -> Option<Step> {
        match self.extra {
            _ if !self.known => Some(Step::leave(self.body, Outcome::Content)),
            Some(extra) => self.text(view, extra),
            None => self.text(view, at),
        }
    }

    /// The turn has ended within the header, or may have.
    fn head_ends(&mut self, view: &View<'_>, at: usize) -> Step {
        match view.end {
            None => Step::Wait,
            Some(_) if self.tool(view).is_some() && self.part != Part::Bare => Step::Wait,
            Some(_) if self.part == Part::Bare => Step::leave(self.body, Outcome::Content),
            Some(_) if self.known => Step::leave(self.extra.unwrap_or(at), Outcome::Marker),
            Some(RegionEnd::Cut) => Step::leave(at, Outcome::Marker),
            Some(RegionEnd::Clean) => Step::leave(self.body, Outcome::Content),
        }
    }

    /// Whom the message is for, if that is a tool.
    fn tool<'a>(&self, view: &View<'a>) -> Option<&'a str> {
        let recipient = &view.text[self.recipient.clone()?];
        (!matches!(recipient, "assistant" | "user" | "all")).then_some(recipient)
    }

    /// The text of the message begins at `at`.
    fn text(&mut self, view: &View<'_>, at: usize) -> Option<Step> {
        if self.tool(view).is_some() {
            self.state = State::Text(at);
            return None;
        }
        let then = if self.reasoning { Then::Reasoning(&ANALYSIS) } else { Then::Content };
        Some(Step::Leave { until: at, leaf: Outcome::Marker, then })
    }

    fn call_text(&mut self, view: &View<'_>, from: usize) -> Option<Step> {
        let at = view.skip_blank(from);
        self.state = State::Text(at);
        let functions = self.tool(view).is_some_and(|tool| tool.starts_with("functions."));
        // A real end marker ends the text that can be seen.
        let closed = at == view.text.len() && view.end == Some(RegionEnd::Clean) && view.is_real(at);
        self.state = match (view.bytes().get(at), marker_here(view, at)) {
            (None, _) | (_, None) if !closed => return Some(Step::Wait),
            (Some(b'{'), _) => State::Object(Scan::new(at)),
            // No arguments.
            (None, _) | (_, Some(CALL | END | RETURN)) => {
                let body = self.call(view, "{}", Value::Object(Map::new()));
                State::RegionEnd { from: at, at, body }
            }
            _ if functions => State::RegionEnd { from: at, at, body: Body::Broken(Malformed::Syntax) },
            _ => State::RegionEnd { from: at, at, body: Body::Raw },
        };
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
                (until, from..until, view.end == Some(RegionEnd::Clean))
            }
        };
        // The beginning of a closing marker at the end of an open segment belongs to that segment (rule R10 of
        // docs/parsing-rules.md).
        let rest = view.skip_blank(from);
        let is_cut = ENDERS.iter().any(|ender| view.is_cut_at(rest, ender));
        let text_end = text.end;
        let text = &view.text[text];
        let leaf = match std::mem::replace(body, Body::Raw) {
            _ if !closed => Outcome::Malformed(Malformed::Unfinished),
            // What has its end marker is not unfinished.
            Body::Broken(Malformed::Unfinished) if until > text_end => Outcome::Malformed(Malformed::Syntax),
            Body::Broken(reason) => Outcome::Malformed(reason),
            Body::Call(_) if !text.trim().is_empty() && !is_cut => Outcome::Malformed(Malformed::Syntax),
            Body::Call(call) => Outcome::Call(call),
            Body::Raw => match self.call(view, text, Value::String(text.to_owned())) {
                Body::Call(call) => Outcome::Call(call),
                _ => Outcome::Malformed(Malformed::NoName),
            },
        };
        Some(Step::leave(until, leaf))
    }
}

/// The marker that stands here; "" if none does, `None` if that cannot be said yet.
fn marker_here(view: &View<'_>, at: usize) -> Option<&'static str> {
    let markers = [MESSAGE, CHANNEL, CONSTRAIN, START, END, CALL, RETURN];
    if let Some(marker) = markers.into_iter().find(|marker| view.here(at, marker) == Here::Yes) {
        return Some(marker);
    }
    let wait = markers.into_iter().any(|marker| view.here(at, marker) == Here::NotYet);
    (!wait).then_some("")
}

impl Machine for Message {
    fn step(&mut self, view: &View<'_>) -> Step {
        loop {
            let step = match &mut self.state {
                State::Head(from) => {
                    let from = *from;
                    self.head(view, from)
                }
                State::Word(word) => {
                    let Range { start, end } = word.clone();
                    self.word(view, start, end)
                }
                State::Text(from) => {
                    let from = *from;
                    self.call_text(view, from)
                }
                State::Object(scan) => match scan.advance(view) {
                    // A string without an end must not swallow the messages that follow.
                    Scanned::More if view.end == Some(RegionEnd::Clean) => {
                        let (from, body) = (scan.start, Body::Broken(Malformed::Unfinished));
                        self.state = State::RegionEnd { from, at: from, body };
                        None
                    }
                    Scanned::More => Some(Step::Wait),
                    Scanned::Value(end) => {
                        let raw = &view.text[scan.start..end];
                        let body = match serde_json::from_str(raw) {
                            Ok(arguments) => self.call(view, raw, arguments),
                            Err(_) => Body::Broken(Malformed::Syntax),
                        };
                        self.state = State::RegionEnd { from: end, at: end, body };
                        None
                    }
                    Scanned::Bad(reason) => {
                        let from = scan.start;
                        self.state = State::RegionEnd { from, at: from, body: Body::Broken(reason) };
                        None
                    }
                },
                State::RegionEnd { .. } => self.end(view),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }
}
