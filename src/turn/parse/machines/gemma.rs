//! Reads calls written as `call:NAME{KEY:VALUE}`, as in Gemma 4.
//!
//! A special token replaces the quotes around a string.

use std::sync::{Arc, LazyLock};

use crate::turn::parse::lexer::{Bracket, Lexer, Quote, Syntax};
use crate::turn::parse::literal::number;
use crate::turn::parse::machine::{Bounds, CallEnd, Machine, RawCall, Recovery, Step};
use crate::turn::parse::marker::{List, Reasoning};
use crate::turn::parse::table::{Region, Table};
use crate::turn::parse::view::{Match, View};
use crate::types::tree::Malformed;

const CALL: &str = "call:";
/// The special token that serves as a quote. All text between two quotes is data.
const QUOTE: &str = "<|\"|>";

static BOUNDS: LazyLock<Bounds> = LazyLock::new(|| {
    let stops = ["<|tool_call>", "<|channel>", "<turn|>", "<|tool_response>", "<eos>"];
    Bounds::new("<tool_call|>".into(), stops.into_iter().collect())
});

/// Returns the table of Gemma 4.
///
/// After the calls, the last token of the model is the opener of the results of the calls.
pub(crate) fn table() -> Table {
    let open = "<|tool_call>";
    Table {
        name: "gemma4".into(),
        reasoning: Some(Arc::new(Reasoning {
            open: "<|channel>".into(),
            close: "<channel|>".into(),
            label: Some("thought".into()),
            answer: List::default(),
        })),
        calls: vec![Region { open: open.into(), body: Arc::new(|_, body| Box::new(GemmaCall::new(body))) }],
        ends: ["<turn|>", "<|tool_response>", "<eos>"].into_iter().collect(),
        inner: ["<tool_call|>", QUOTE].into_iter().collect(),
        signs: [open, "<|channel>", QUOTE].into_iter().collect(),
        ..Table::default()
    }
}

/// The syntax `{KEY:VALUE, ..}`.
///
/// A word without quotes may be a value in the notation of JSON or Python. Any other word without
/// quotes is a string.
static SYNTAX: Syntax = Syntax {
    outer: Bracket { open: b'{', close: b'}', separator: Some(b':') },
    brackets: &[
        Bracket { open: b'{', close: b'}', separator: Some(b':') },
        Bracket { open: b'[', close: b']', separator: None },
    ],
    quotes: &[Quote { text: QUOTE, escapes: false, lines: true }],
    quoted_keys: true,
    empty_values: true,
    is_of_word: |c, is_key| !(matches!(c, ',' | '{' | '}' | '[' | ']' | '<') || is_key && c == ':'),
    key: |word| Some(word.into()),
    scalar: |word| {
        let value = serde_json::from_str(word).ok().or_else(|| number(word));
        Some(value.unwrap_or_else(|| word.into()))
    },
};

/// Reads one call and its end marker.
#[derive(Debug)]
struct GemmaCall {
    body: usize,
    state: State,
    name: String,
}

#[derive(Debug)]
enum State {
    /// Skips the blanks after the opener.
    Open,
    /// Reads the name, which begins at `from`. `sure` is `true` if the word `call:` was present.
    Name { from: usize, at: usize, sure: bool },
    /// Reads the arguments.
    Arguments(Lexer),
    /// Searches for the end marker after the arguments.
    CallEnd(CallEnd, Option<RawCall>),
    /// Skips text that is not a call, or a broken call.
    Recovery(Recovery),
}

impl GemmaCall {
    fn new(body: usize) -> Self {
        Self { body, state: State::Open, name: String::new() }
    }

    fn open(&mut self, view: &View<'_>) -> Option<Step> {
        let at = view.skip_blank(self.body);
        self.state = match (view.here(at, CALL), view.bytes().get(at)) {
            // If the turn ends directly after the opener, the opener is prose.
            (_, None) if view.ended_cleanly() => return Some(Step::content(self.body)),
            (_, None) | (Match::Partial, _) => return Some(Step::Wait),
            (Match::Yes, _) => State::Name { from: at + CALL.len(), at: at + CALL.len(), sure: true },
            // Some models leave out the word `call`, with or without its colon.
            (Match::No, Some(b':')) => State::Name { from: at + 1, at: at + 1, sure: false },
            (Match::No, Some(_)) => State::Name { from: at, at, sure: false },
        };
        None
    }

    fn name(&mut self, view: &View<'_>, from: usize, at: usize, sure: bool) -> Option<Step> {
        let ends = |c: char| {
            if sure {
                matches!(c, '{' | '}' | '<' | '\n')
            } else {
                !c.is_alphanumeric() && !matches!(c, '_' | '-' | '.' | '/' | ':')
            }
        };
        let Some(len) = view.text[at..].find(ends) else {
            self.state = State::Name { from, at: view.text.len(), sure };
            return Some(Step::Wait);
        };
        let at = at + len;
        let name = view.text[from..at].trim();
        self.state = match (view.bytes()[at], sure) {
            (b'{', true) if name.is_empty() => {
                State::Recovery(Recovery::broken(self.body, Malformed::NoName))
            }
            (b'{', _) if !name.is_empty() => {
                self.name = name.to_owned();
                State::Arguments(Lexer::new(&SYNTAX, at, view.max_nesting))
            }
            (_, true) => State::Recovery(Recovery::broken(self.body, Malformed::Syntax)),
            (_, false) => State::Recovery(Recovery::suspect(self.body)),
        };
        None
    }

    fn arguments(&mut self, view: &View<'_>) -> Option<Step> {
        let State::Arguments(lexer) = &mut self.state else { return None };
        self.state = match lexer.advance(view) {
            Ok(None) if view.ended_cleanly() => {
                State::Recovery(Recovery::broken(self.body, Malformed::Unfinished))
            }
            Ok(None) => return Some(Step::Wait),
            Ok(Some(arguments)) => {
                let (name, end) = (std::mem::take(&mut self.name), lexer.at);
                let raw = view.text[lexer.start..end].to_owned();
                State::CallEnd(CallEnd::new(end), Some(RawCall { id: None, name, arguments, raw }))
            }
            Err(reason) => State::Recovery(Recovery::broken(self.body, reason)),
        };
        None
    }
}

impl Machine for GemmaCall {
    fn advance(&mut self, view: &View<'_>) -> Option<Step> {
        match self.state {
            State::Open => self.open(view),
            State::Name { from, at, sure } => self.name(view, from, at, sure),
            State::Arguments(_) => self.arguments(view),
            State::CallEnd(ref mut end, ref mut call) => Some(end.leave(view, &BOUNDS, call)),
            State::Recovery(ref mut recovery) => Some(recovery.step(view, &BOUNDS)),
        }
    }
}
