//! Reads calls written as a Python list of calls, such as `[f(a=1, b='x'), g()]`.
//!
//! The arguments are literals. Llama 3.2, Llama 4 and LFM2 write calls this way.

use std::sync::Arc;

use serde_json::Value;

use super::json::{JsonCalls, JsonForm};
use crate::turn::parse::lexer::{Bracket, Lexer, Quote, Syntax};
use crate::turn::parse::literal::number;
use crate::turn::parse::machine::{
    Bounds, Machine, RawCall, RawLeaf, Recovery, Step, leave_at_marker, may_end,
};
use crate::turn::parse::view::{Match, View};
use crate::types::tree::Malformed;

/// Describes the variant of such calls that a family of models uses.
#[derive(Debug)]
pub(crate) struct PythonForm {
    pub(crate) bounds: Bounds,
    /// The JSON form that the region may have instead, because some models write JSON.
    ///
    /// `None` if the format has no markers. Text that is not a list of calls is then ordinary text
    /// (R8 in docs/parsing-rules.md).
    pub(crate) json: Option<Arc<JsonForm>>,
}

/// Reads the calls of one list, and the end marker if it is present.
///
/// Each call is returned at its closing parenthesis.
#[derive(Debug)]
pub(crate) struct PythonCalls {
    form: Arc<PythonForm>,
    /// The offset after the opener or after the last leaf.
    body: usize,
    /// `true` if it is certain that the text is a list of calls.
    ///
    /// The first call of the list shows this, even if the call is malformed.
    sure: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Skips the blanks after the opener.
    Open,
    /// Reads the text between calls. The last call ends at this offset.
    List(usize),
    /// Reads the name of a call. The name begins at `from`.
    Name { from: usize, at: usize },
    /// Reads the arguments of the call with this name.
    Arguments(String, Lexer),
    /// Skips a call that cannot be parsed.
    Skip(Skip),
    /// Reads the text after the list.
    ListEnd(usize),
    /// Skips text that is not a list of calls, or a broken list.
    Recovery(Recovery),
    /// Reads a region in JSON form.
    Json(JsonCalls),
}

impl PythonCalls {
    /// Creates a reader.
    ///
    /// `body` is the offset after the opener. If there is no opener, `body` is the offset of the
    /// list.
    pub(crate) fn new(form: Arc<PythonForm>, body: usize) -> Self {
        Self { form, body, sure: false, state: State::Open }
    }

    fn open(&mut self, view: &View<'_>) -> Option<Step> {
        let at = view.skip_blank(self.body);
        self.state = match (view.bytes().get(at), &self.form.json) {
            // If the turn ends directly after the opener, the opener is prose.
            (None, _) if view.ended_cleanly() => return Some(Step::content(self.body)),
            (None, _) => return Some(Step::Wait),
            (Some(b'['), _) => State::List(at + 1),
            (Some(b'{'), Some(json)) => State::Json(JsonCalls::new(json.clone(), self.body)),
            (Some(_), _) => State::Recovery(Recovery::suspect(self.body)),
        };
        None
    }

    /// Reads the text between calls.
    ///
    /// A missing comma is accepted, because it is clear where each call ends.
    fn list(&mut self, view: &View<'_>, from: usize) -> Option<Step> {
        let mut at = view.skip_blank(from);
        while self.sure && view.bytes().get(at) == Some(&b',') {
            at = view.skip_blank(at + 1);
        }
        let close = &self.form.bounds.close;
        self.state = match (view.bytes().get(at), &self.form.json) {
            // The list is complete, except for its closing bracket.
            (None, _) if view.end.is_some() && self.sure => return Some(Step::marker(at)),
            (Some(_), _) if self.sure && may_end(view, at, close) => {
                return Some(leave_at_marker(view, at, close));
            }
            (None, None) if view.end.is_some() => return Some(Step::content(self.body)),
            (None, _) => return Some(Step::Wait),
            (Some(b']'), json) if self.sure || json.is_some() => State::ListEnd(at + 1),
            (Some(b'{'), Some(json)) if !self.sure => State::Json(JsonCalls::new(json.clone(), self.body)),
            (Some(_), _) => State::Name { from: at, at },
        };
        None
    }

    fn name(&mut self, view: &View<'_>, from: usize, at: usize) -> Option<Step> {
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
        let Some(len) = view.text[at..].find(|c| !is_name(c)) else {
            if view.end.is_some() && self.form.json.is_none() {
                return Some(Step::content(self.body));
            }
            self.state = State::Name { from, at: view.text.len() };
            return Some(Step::Wait);
        };
        let at = at + len;
        let name = &view.text[from..at];
        self.state = if view.bytes()[at] == b'(' && name.starts_with(|c: char| c.is_alphabetic() || c == '_')
        {
            State::Arguments(name.to_owned(), Lexer::new(&SYNTAX, at, view.max_nesting))
        } else if self.form.json.is_none() {
            return Some(Step::content(self.body));
        } else if self.sure {
            State::Skip(Skip::new(from, Malformed::Syntax))
        } else {
            State::Recovery(Recovery::suspect(self.body))
        };
        None
    }

    fn arguments(&mut self, view: &View<'_>) -> Option<Step> {
        let State::Arguments(name, lexer) = &mut self.state else { return None };
        match lexer.advance(view) {
            Ok(None) if view.ended_cleanly() && self.form.json.is_some() => {
                self.state = State::Recovery(Recovery::broken(self.body, Malformed::Unfinished));
            }
            Ok(None) => return Some(Step::Wait),
            Ok(Some(arguments)) => {
                let raw = view.text[lexer.start + 1..lexer.at - 1].to_owned();
                let (until, name) = (lexer.at, std::mem::take(name));
                return self.element(until, RawLeaf::Call(RawCall { id: None, name, arguments, raw }));
            }
            Err(_) if !self.sure && self.form.json.is_none() => return Some(Step::content(self.body)),
            Err(reason) => self.state = State::Skip(Skip::new(lexer.start, reason)),
        }
        None
    }

    fn skip(&mut self, view: &View<'_>) -> Option<Step> {
        let State::Skip(skip) = &mut self.state else { return None };
        let reason = skip.reason;
        match skip.step(view, &self.form.bounds) {
            Skipped::More => Some(Step::Wait),
            Skipped::To(until) => self.element(until, RawLeaf::Malformed(reason)),
            Skipped::Bound => {
                self.state = State::Recovery(Recovery::broken(self.body, reason));
                None
            }
        }
    }

    /// Returns a step with one call of the list. The list continues after this call.
    fn element(&mut self, until: usize, leaf: RawLeaf) -> Option<Step> {
        self.body = until;
        self.sure = true;
        self.state = State::List(until);
        Some(Step::Leaf { until, leaf })
    }
}

impl Machine for PythonCalls {
    fn advance(&mut self, view: &View<'_>) -> Option<Step> {
        match self.state {
            State::Open => self.open(view),
            State::List(from) => self.list(view, from),
            State::Name { from, at } => self.name(view, from, at),
            State::Arguments(..) => self.arguments(view),
            State::Skip(_) => self.skip(view),
            State::ListEnd(end) => Some(leave_at_marker(view, end, &self.form.bounds.close)),
            State::Recovery(ref mut recovery) => Some(recovery.step(view, &self.form.bounds)),
            State::Json(ref mut json) => Some(json.step(view)),
        }
    }
}

/// Skips a call that cannot be parsed, so that the other calls of its list are still read.
///
/// The skipped text ends at the closing parenthesis of the call, or at a comma or bracket of the
/// list (R7 in docs/parsing-rules.md).
#[derive(Debug)]
struct Skip {
    at: usize,
    depth: usize,
    quote: Option<u8>,
    reason: Malformed,
}

enum Skipped {
    More,
    To(usize),
    /// The region ended before the call.
    Bound,
}

impl Skip {
    fn new(at: usize, reason: Malformed) -> Self {
        Self { at, depth: 0, quote: None, reason }
    }

    fn step(&mut self, view: &View<'_>, bounds: &Bounds) -> Skipped {
        while let Some(byte) = view.bytes().get(self.at).copied() {
            match (byte, self.quote) {
                (b'<', _) => match bounds.here(view, self.at) {
                    Match::Yes => return Skipped::Bound,
                    Match::Partial => return Skipped::More,
                    Match::No => {}
                },
                (b'\\', Some(_)) if self.at + 1 == view.text.len() => return Skipped::More,
                (b'\\', Some(_)) => self.at += 1,
                // The quote may have been an apostrophe. This code assumes that a string ends on
                // the line where it begins.
                (b'\n', Some(_)) => self.quote = None,
                (b'\'' | b'"', None) => self.quote = Some(byte),
                (_, Some(quote)) if byte == quote => self.quote = None,
                (_, Some(_)) => {}
                (b'(' | b'[' | b'{', None) => self.depth += 1,
                (b')' | b']' | b'}', None) if self.depth > 1 => self.depth -= 1,
                (b')' | b']' | b'}', None) if self.depth == 1 => return Skipped::To(self.at + 1),
                (b']' | b',', None) if self.depth == 0 => return Skipped::To(self.at),
                (_, None) => {}
            }
            self.at += 1;
        }
        Skipped::More
    }
}

/// The syntax `(NAME=VALUE, ..)` with Python literals.
static SYNTAX: Syntax = Syntax {
    outer: Bracket { open: b'(', close: b')', separator: Some(b'=') },
    brackets: &[
        Bracket { open: b'(', close: b')', separator: None },
        Bracket { open: b'[', close: b']', separator: None },
        Bracket { open: b'{', close: b'}', separator: Some(b':') },
    ],
    quotes: &[
        Quote { text: "\"\"\"", escapes: true, lines: true },
        Quote { text: "\"", escapes: true, lines: false },
        Quote { text: "'''", escapes: true, lines: true },
        Quote { text: "'", escapes: true, lines: false },
    ],
    quoted_keys: false,
    empty_values: false,
    is_of_word: |c, _| c.is_alphanumeric() || matches!(c, '_' | '.' | '+' | '-'),
    key: argument_name,
    scalar,
};

fn argument_name(word: &str) -> Option<Value> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    (word.chars().all(is_name) && !word.starts_with(char::is_numeric)).then(|| word.into())
}

/// Returns the value of a word without quotes, in the notation of Python or JSON.
fn scalar(word: &str) -> Option<Value> {
    match word {
        "True" | "true" => Some(true.into()),
        "False" | "false" => Some(false.into()),
        "None" | "null" => Some(Value::Null),
        _ => number(word),
    }
}
