//! Calls written as `call:NAME{KEY:VALUE}`, with strings between tokens that stand for quotes: Gemma 4.

use serde_json::Value;

use super::dialect::{Call, Table, Think};
use super::literal::{Expect, Literal, number};
use super::machine::{Bounds, Machine, Outcome, RawCall, Seek, Step, Tail};
use super::view::{Found, Here, RegionEnd, View};
use crate::types::tree::Malformed;

const CALL: &str = "call:";
/// Between two of these everything is data.
const QUOTE: &str = "<|\"|>";

const BOUNDS: Bounds = Bounds {
    close: "<tool_call|>",
    stops: &["<|tool_call>", "<|channel>", "<turn|>", "<|tool_response>", "<eos>"],
};

/// Gemma 4. After calls the model samples the opener of their results as its last token.
pub(super) static GEMMA4: Table = Table {
    name: "gemma4",
    think: Some(Think { open: "<|channel>", close: "<channel|>", label: "thought", answer: &[] }),
    calls: &[Call { open: "<|tool_call>", body: &|_, body| Box::new(GemmaCall::new(body)) }],
    frames: &[],
    ends: &["<turn|>", "<|tool_response>", "<eos>"],
    inner: &["<tool_call|>", QUOTE],
    in_template: "",
    bare: None,
    signs: &["<|tool_call>", "<|channel>", QUOTE],
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
    Open,
    /// In the name, which begins at `from`. `sure`: it is a call's, for `call:` was there.
    Name {
        from: usize,
        at: usize,
        sure: bool,
    },
    Arguments(Arguments),
    Tail(Tail, Option<RawCall>),
    Seek(Seek),
}

impl GemmaCall {
    fn new(body: usize) -> Self {
        Self { body, state: State::Open, name: String::new() }
    }

    fn open(&mut self, view: &View<'_>) -> Option<Step> {
        let at = view.skip_blank(self.body);
        self.state = match (view.here(at, CALL), view.bytes().get(at)) {
            // What ends with the bare word for an opener is prose.
            (_, None) if view.end == Some(RegionEnd::Clean) => {
                return Some(Step::leave(self.body, Outcome::Content));
            }
            (_, None) | (Here::NotYet, _) => return Some(Step::Wait),
            (Here::Yes, _) => State::Name { from: at + CALL.len(), at: at + CALL.len(), sure: true },
            // Some leave the word out, and keep the colon or not.
            (Here::No, Some(b':')) => State::Name { from: at + 1, at: at + 1, sure: false },
            (Here::No, Some(_)) => State::Name { from: at, at, sure: false },
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
            (b'{', true) if name.is_empty() => State::Seek(Seek::broken(self.body, Malformed::NoName)),
            (b'{', _) if !name.is_empty() => {
                self.name = name.to_owned();
                State::Arguments(Arguments::new(at, view.max_nesting))
            }
            (_, true) => State::Seek(Seek::broken(self.body, Malformed::Syntax)),
            (_, false) => State::Seek(Seek::suspect(self.body)),
        };
        None
    }
}

impl Machine for GemmaCall {
    fn step(&mut self, view: &View<'_>) -> Step {
        loop {
            let step = match &mut self.state {
                State::Open => self.open(view),
                State::Name { from, at, sure } => {
                    let (from, at, sure) = (*from, *at, *sure);
                    self.name(view, from, at, sure)
                }
                State::Arguments(arguments) => match arguments.advance(view) {
                    Ok(None) if view.end == Some(RegionEnd::Clean) => {
                        self.state = State::Seek(Seek::broken(self.body, Malformed::Unfinished));
                        None
                    }
                    Ok(None) => Some(Step::Wait),
                    Ok(Some(value)) => {
                        let call = RawCall {
                            id: None,
                            name: std::mem::take(&mut self.name),
                            arguments: value,
                            raw: view.text[arguments.start..arguments.at].to_owned(),
                        };
                        self.state = State::Tail(Tail::new(arguments.at), Some(call));
                        None
                    }
                    Err(reason) => {
                        self.state = State::Seek(Seek::broken(self.body, reason));
                        None
                    }
                },
                State::Tail(tail, call) => Some(tail.leave(view, BOUNDS, call)),
                State::Seek(seek) => Some(seek.step(view, BOUNDS)),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }
}

/// Reads `{KEY:VALUE}` to its end.
#[derive(Debug)]
struct Arguments {
    /// The place of the opening brace.
    start: usize,
    at: usize,
    literal: Literal,
    lexeme: Lexeme,
}

/// What `at` is in. The place is where it begins.
#[derive(Debug, Clone, Copy)]
enum Lexeme {
    None,
    String(usize),
    Word(usize),
}

impl Arguments {
    fn new(start: usize, max_nesting: usize) -> Self {
        Self { start, at: start, literal: Literal::new(max_nesting), lexeme: Lexeme::None }
    }

    /// The arguments; `at` is behind them, then. `None`: more text is needed.
    fn advance(&mut self, view: &View<'_>) -> Result<Option<Value>, Malformed> {
        loop {
            match self.lexeme {
                Lexeme::String(from) => {
                    let found = view.find(&[QUOTE], self.at);
                    let (Found::At(end, _) | Found::Until(end)) = found;
                    // A real marker is structure even in a string (rule R10 of docs/parsing-rules.md).
                    if view.next_real(self.at).is_some_and(|real| real.start < end) {
                        return Err(Malformed::Syntax);
                    }
                    self.at = end;
                    if matches!(found, Found::Until(_)) {
                        return Ok(None);
                    }
                    self.at += QUOTE.len();
                    self.lexeme = Lexeme::None;
                    self.literal.value(view.text[from..end].into())?;
                }
                Lexeme::Word(from) => {
                    let is_key = self.literal.expects_key(b':');
                    let ends =
                        |c: char| matches!(c, ',' | '{' | '}' | '[' | ']' | '<') || (is_key && c == ':');
                    let Some(len) = view.text[self.at..].find(ends) else {
                        self.at = view.text.len();
                        return Ok(None);
                    };
                    self.at += len;
                    self.lexeme = Lexeme::None;
                    let word = view.text[from..self.at].trim_end();
                    self.literal.value(if is_key { word.into() } else { scalar(word) })?;
                }
                Lexeme::None => {
                    self.at = view.skip_blank(self.at);
                    let Some(byte) = view.bytes().get(self.at).copied() else { return Ok(None) };
                    match (byte, view.here(self.at, QUOTE)) {
                        (_, Here::NotYet) => return Ok(None),
                        (_, Here::Yes) => {
                            self.at += QUOTE.len();
                            self.lexeme = Lexeme::String(self.at);
                            continue;
                        }
                        (b'{', _) => self.literal.open(b'}', Some(b':'))?,
                        (b'[', _) => self.literal.open(b']', None)?,
                        (b'<', _) => return Err(Malformed::Syntax),
                        (b',' | b'}', _) if self.literal.expect() == Expect::Value => {
                            self.literal.value("".into())?;
                            continue;
                        }
                        (b'}' | b']', _) => {
                            if let Some(value) = self.literal.close(byte)? {
                                self.at += 1;
                                return Ok(Some(value));
                            }
                        }
                        (b',', _) => self.literal.separate(byte)?,
                        (b':', _) => self.literal.separate(byte)?,
                        _ if matches!(self.literal.expect(), Expect::ItemOrEnd | Expect::Value) => {
                            self.lexeme = Lexeme::Word(self.at);
                            continue;
                        }
                        _ => return Err(Malformed::Syntax),
                    }
                    self.at += 1;
                }
            }
        }
    }
}

/// What stands without quotes: as JSON if it is some, else a string, for there is no other way to take it.
fn scalar(word: &str) -> Value {
    serde_json::from_str(word).ok().or_else(|| number(word)).unwrap_or_else(|| word.into())
}
