//! Tokens to a tree: reasoning, content and tool calls, told apart while the model writes. Pure.
//!
//! A letter to whoever changes this next. The whole turn is kept as one text; everything else is a place in it.
//! `committed` is how far the text is in leaves. Behind it stands what is not decided yet: a few bytes
//! that may become a marker, or the region of a call. Nothing here depends on where the text was cut into
//! tokens, because no decision is made on text that could still become something else: a search that meets the
//! beginning of a marker at the end of the text stops there ([`view::Found::Until`]), and so does every machine.
//!
//! ```text
//!            ┌────────── close ──────────┐       ┌── Leave ──┐
//!            ▼                           │       ▼           │
//!   start ─▶ content ── think opener ─▶ reasoning content ─ call opener ─▶ region (a machine)
//!            └─ frame, end of turn: a marker leaf, and content goes on
//! ```
//!
//! Ids follow their tokens' first bytes: `tokens` holds for each the place of that byte (of a token without
//! text, the byte before it), in order, and a leaf takes those that lie in it when its text is committed. So
//! joined leaf ids are the ids received, whatever the machines decide.
//!
//! One decision is taken back, and only at the end of the turn: reasoning that was never closed and in which
//! a call was drafted (rule R2 of docs/parsing-rules.md). To add a dialect, add a file to `dialects/`; to read
//! calls in a new way, write a [`machine::Machine`], and a variant of [`record::Inside`] for it.

mod bare_json;
pub(crate) mod dialect;
mod elements;
mod gemma;
mod harmony;
mod headed;
mod invoke;
mod json;
mod keep;
mod literal;
mod machine;
mod pairs;
mod python;
mod raw;
mod record;
mod schema;
mod tagged;
mod view;

use std::collections::HashMap;

use serde_json::Value;

pub use self::dialect::{Dialect, MAX_DIALECT_BYTES, MAX_DIALECTS};
use self::dialect::{Table, Think};
use self::machine::{Machine, Outcome, RawCall, Step, Then};
use self::schema::Schemas;
use self::view::{Firsts, Found, Here, Marks, RegionEnd, View, is_blank};
use crate::config::Limits;
pub(crate) use crate::types::ids::is_clean;
use crate::types::ids::{FinishReason, TokenId};
use crate::types::token::StreamToken;
pub(crate) use crate::types::tree::PendingToolCall;
use crate::types::tree::{Branch, Leaf, LeafKind, Malformed, Role, ToolCall};

/// What the prompt has opened when the model begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// Nothing.
    #[default]
    Content,
    /// Reasoning: the prompt ends with the opener of reasoning.
    Reasoning,
}

/// Parses one turn of the model, token by token: use it by hand, or let [`run`](Self::run) do so on a thread.
///
/// It is total: odd output ends as content or as a malformed leaf, never as an error. The result is the same
/// for every way of cutting the text into tokens. Time is linear in the text; memory is a small multiple of
/// it.
///
/// ```
/// use tokenwire::{Dialect, ResponseParser};
///
/// let mut parser = ResponseParser::new(Dialect::by_name("hermes")?);
/// let mut calls = Vec::new();
/// for (text, id) in [("Hi! <tool", 1), ("_call>{\"name\": \"now\"}</tool_call", 2), ("> ...", 3)] {
///     calls.extend(parser.push(text, Some(id)));
/// }
/// assert_eq!((calls[0].name.as_str(), calls[0].at_token), ("now", 2));
///
/// let (turn, more) = parser.finish(None);
/// assert!(more.is_empty());
/// assert_eq!(turn.content(), "Hi!\n...");
/// assert_eq!(turn.ids().collect::<Vec<_>>(), [1, 2, 3]);
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug)]
pub struct ResponseParser {
    pub(crate) core: Core,
    /// For a turn that is run on a thread.
    pub(crate) max_turn_bytes: usize,
    branch: Branch,
}

impl ResponseParser {
    /// A parser for one turn in this dialect: no tools known, markers told by their text, starting in content.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        let max_turn_bytes = Limits::default().max_turn_bytes;
        Self { core: Core::new(dialect), max_turn_bytes, branch: Branch::new(Role::Assistant) }
    }

    /// The tools' schemas, each `{"name", "parameters"}` or that under `function` as chat endpoints take them.
    /// Formats that write arguments as raw text get their types from them; without a schema a value is a string.
    #[must_use]
    pub fn tools(mut self, tools: &[Value]) -> Self {
        self.core.tools = Schemas::new(tools);
        self
    }

    /// The model's added tokens, text and id, as
    /// [`Tokenizer::added_tokens`](crate::Tokenizer::added_tokens) has them. A marker that is one of them then
    /// counts only as that token; the same characters spelled with other tokens are text. A text
    /// whose token came without an id is still matched as text.
    #[must_use]
    pub fn markers(mut self, added: &HashMap<String, TokenId>) -> Self {
        self.core.marks = Marks::new(&self.core.dialect.markers(), added);
        self
    }

    /// What the prompt has opened. Default: [`Start::Content`].
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.core.begin(start);
        self
    }

    /// Of the limits, [`max_nesting`](Limits::max_nesting) and
    /// [`max_arguments_bytes`](Limits::max_arguments_bytes) are used: a call that passes one is malformed. So is
    /// [`max_turn_bytes`](Limits::max_turn_bytes), by [`run`](Self::run) alone.
    #[must_use]
    pub fn limits(mut self, limits: &Limits) -> Self {
        self.core.max_nesting = limits.max_nesting;
        self.core.max_arguments_bytes = limits.max_arguments_bytes;
        self.max_turn_bytes = limits.max_turn_bytes;
        self
    }

    /// Takes one token, as the stream gave it: its text, which may be empty, and its id, if it is known.
    /// Returns the calls that it has completed, in the order written.
    pub fn push(&mut self, text: &str, id: Option<TokenId>) -> Vec<PendingToolCall> {
        self.core.push(&mut self.branch, text, id)
    }

    /// Takes one item of a stream: a token as [`push`](Self::push) does, and what a chat endpoint has told apart itself
    /// (reasoning, calls) as a leaf of its kind. The end of the stream is not for here.
    pub fn push_item(&mut self, item: &StreamToken) -> Vec<PendingToolCall> {
        self.core.push_item(&mut self.branch, item)
    }

    /// The turn so far. Text that may still become a marker or a call is not in it yet.
    #[must_use]
    pub fn branch(&self) -> &Branch {
        &self.branch
    }

    /// Ends the turn: the whole branch, and the calls that its end has completed. `finish` is why the model
    /// stopped, as [`StreamToken::Done`] has it; `None` counts as a clean end. A turn
    /// that was cut off (`length`, `abort`, a broken stream) hands out no call whose end was not seen.
    #[must_use]
    pub fn finish(mut self, finish: Option<&FinishReason>) -> (Branch, Vec<PendingToolCall>) {
        let calls = self.core.finish(&mut self.branch, is_clean(finish));
        (self.branch, calls)
    }

    /// Ends a turn whose stream broke off, as [`finish`](Self::finish) does with `length`.
    #[must_use]
    pub fn cut_off(mut self) -> (Branch, Vec<PendingToolCall>) {
        let calls = self.core.finish(&mut self.branch, false);
        (self.branch, calls)
    }
}

/// The parser, without the branch it writes to: that stands in a context that others read.
#[derive(Debug)]
pub(crate) struct Core {
    dialect: Dialect,
    tools: Schemas,
    marks: Marks,
    max_nesting: usize,
    max_arguments_bytes: usize,
    /// What content is searched for, and what open reasoning is.
    content_markers: Vec<&'static str>,
    content_firsts: Firsts,
    draft_markers: Vec<&'static str>,
    /// The whole turn; markers that the server left out are in it.
    text: String,
    /// From here on it is blank.
    blank_from: usize,
    tokens: Vec<Token>,
    /// A token whose text reads like markers that its id is not.
    group: Option<Group>,
    /// Up to here the text is in leaves, and as many tokens are.
    committed: usize,
    owned: usize,
    /// Where the last leaf begins, and its first token. `None`: the branch's leaves, if it has any, are not of
    /// this turn's tokens.
    leaf_start: Option<(usize, usize)>,
    state: State,
    /// Tokens pushed.
    pushed: u64,
    calls: u32,
    out: Vec<PendingToolCall>,
}

#[derive(Debug)]
struct Token {
    /// The place of the token's first byte; without text, of the byte before it.
    at: usize,
    id: Option<TokenId>,
    /// It is a token of its own. A marker that was left out of the text and a text of several tokens are one.
    has_text: bool,
}

/// Several tokens with one text, as far as they have come. A chunk with several ids has the text at the first
/// of them: whether a marker in it is real is told by the ids that follow.
#[derive(Debug)]
struct Group {
    text: String,
    ids: Vec<TokenId>,
    /// What in the text reads like a marker: its place and the marker.
    look_alikes: Vec<(usize, usize)>,
    /// Up to here it is known of them whether they are real: ids and text have the same order.
    decided: usize,
    /// Those that are: place, marker, the number of the id.
    real: Vec<(usize, usize, usize)>,
}

impl Group {
    fn add(&mut self, id: TokenId, atom: Option<usize>) {
        let left = self.look_alikes[self.decided..].iter();
        if let Some(n) = left.map(|(_, look)| Some(*look)).position(|look| look == atom && atom.is_some()) {
            let (at, atom) = self.look_alikes[self.decided + n];
            self.real.push((at, atom, self.ids.len()));
            self.decided += n + 1;
        }
        self.ids.push(id);
    }

    fn is_decided(&self) -> bool {
        self.decided == self.look_alikes.len()
    }
}

#[derive(Debug)]
enum State {
    Content {
        /// Up to here there is no marker.
        at: usize,
    },
    Reasoning {
        think: &'static Think,
        /// Still at its beginning, where openers are repeated and the label stands.
        opening: bool,
        at: usize,
        /// The first opener of a call in it.
        draft: Option<usize>,
    },
    Region {
        open: usize,
        /// After the opener.
        body: usize,
        machine: Box<dyn Machine>,
        /// Up to here there is no real end of the turn.
        no_end_before: usize,
    },
}

impl State {
    /// Thinking whose opener ends at `at`.
    fn reasoning(think: &'static Think, at: usize) -> Self {
        Self::Reasoning { think, opening: true, at, draft: None }
    }
}

impl Core {
    fn new(dialect: Dialect) -> Self {
        let Table { think, calls, frames, ends, .. } = dialect.table();
        let openers = || calls.iter().map(|call| call.open).chain(frames.iter().copied());
        let reasoning = think.iter().flat_map(|think| [think.open, think.close]);
        let limits = Limits::default();
        let content_markers: Vec<_> = reasoning.chain(openers()).chain(ends.iter().copied()).collect();
        let mut new = Self {
            dialect,
            tools: Schemas::default(),
            marks: Marks::default(),
            max_nesting: limits.max_nesting,
            max_arguments_bytes: limits.max_arguments_bytes,
            content_firsts: Firsts::of(content_markers.iter().copied()),
            content_markers,
            draft_markers: Vec::new(),
            text: String::new(),
            blank_from: 0,
            tokens: Vec::new(),
            group: None,
            committed: 0,
            owned: 0,
            leaf_start: None,
            state: State::Content { at: 0 },
            pushed: 0,
            calls: 0,
            out: Vec::new(),
        };
        new.begin(Start::Content);
        new
    }

    fn begin(&mut self, start: Start) {
        let table = self.dialect.table();
        self.state = match (start, &table.think, table.bare) {
            (Start::Reasoning, Some(think), _) => State::reasoning(think, 0),
            (_, _, Some(body)) => State::Region { open: 0, body: 0, machine: body(0, 0), no_end_before: 0 },
            (_, _, None) => State::Content { at: 0 },
        };
    }

    /// Bytes of text taken.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    // Tokens in

    pub(crate) fn push(
        &mut self,
        branch: &mut Branch,
        text: &str,
        id: Option<TokenId>,
    ) -> Vec<PendingToolCall> {
        self.take(text, id);
        self.advance(branch, None);
        self.pushed += 1;
        std::mem::take(&mut self.out)
    }

    pub(crate) fn push_item(&mut self, branch: &mut Branch, item: &StreamToken) -> Vec<PendingToolCall> {
        match item {
            StreamToken::Token { text, id } => self.push(branch, text, *id),
            StreamToken::Reasoning { text, id } => {
                self.push_reasoning(branch, text, *id);
                Vec::new()
            }
            StreamToken::ToolCall(call) => {
                let PendingToolCall { id, name, arguments, raw, at_token: _ } = (**call).clone();
                let kind = LeafKind::ToolCall(ToolCall { id, name, arguments, raw });
                self.push_call(branch, kind, &call.raw);
                vec![(**call).clone()]
            }
            StreamToken::MalformedCall { text, reason } => {
                self.push_call(branch, LeafKind::Malformed { reason: *reason }, text);
                Vec::new()
            }
            StreamToken::Done { .. } | StreamToken::Error(_) => Vec::new(),
        }
    }

    /// Reasoning that the server has told apart.
    fn push_reasoning(&mut self, branch: &mut Branch, text: &str, id: Option<TokenId>) {
        self.settle(branch);
        self.ensure_thinking(branch);
        self.add_token(text, id);
        self.extend_to_here(branch);
        self.pushed += 1;
    }

    /// A call that the server has told apart, or what is none. Its ids came before, as tokens without text.
    fn push_call(&mut self, branch: &mut Branch, kind: LeafKind, text: &str) {
        self.settle(branch);
        let goes_on = matches!(kind, LeafKind::Malformed { .. }) && self.is_in(branch, &kind);
        if !goes_on {
            // The tokens without text since the last text are its own: a server sends its ids before it.
            self.leaf_start = Some((self.committed, self.owned));
            branch.leaves.push(Leaf::new(kind, "", Vec::new()));
        }
        self.add_text(text);
        self.extend_to_here(branch);
        if let Some(leaf) = branch.leaves.last_mut().filter(|leaf| leaf.ids.is_empty()) {
            leaf.ids_missing = 1;
        }
    }

    /// Decides about all the text there is: what follows came as something of its own.
    fn settle(&mut self, branch: &mut Branch) {
        self.flush_group();
        self.advance(branch, Some(RegionEnd::Cut));
    }

    /// All the text goes to the last leaf.
    fn extend_to_here(&mut self, branch: &mut Branch) {
        let at = self.text.len();
        self.extend_inside(branch, at);
        self.state = State::Content { at };
    }

    pub(crate) fn finish(&mut self, branch: &mut Branch, clean: bool) -> Vec<PendingToolCall> {
        self.flush_group();
        let end = if clean { RegionEnd::Clean } else { RegionEnd::Cut };
        self.advance(branch, Some(end));
        self.end_thinking(branch, end);
        // Tokens without text, where no text came after which they could stand.
        if self.owned < self.tokens.len() {
            if self.leaf_start.is_none() {
                self.begin_leaf(branch, LeafKind::Marker);
            }
            self.own_tokens(branch, usize::MAX);
        }
        std::mem::take(&mut self.out)
    }

    fn take(&mut self, text: &str, id: Option<TokenId>) {
        match (&mut self.group, id) {
            (Some(group), Some(id)) if text.is_empty() => {
                group.add(id, self.marks.atom_of(id));
                if group.is_decided() {
                    self.flush_group();
                }
                return;
            }
            _ => self.flush_group(),
        }
        let Some(id) = id else {
            let from = self.text.len();
            self.add_token(text, None);
            if !text.is_empty() {
                self.marks.add_without_id(from..self.text.len());
            }
            return;
        };
        let look_alikes = self.marks.look_alikes(text);
        if look_alikes.is_empty() {
            match self.marks.atom_of(id) {
                None => self.add_token(text, Some(id)),
                // Its text was left out: what came with it is the text of the tokens behind it.
                Some(atom) => {
                    self.add_hidden(atom, id);
                    self.add_text(text);
                }
            }
            return;
        }
        let (ids, decided, real) = (Vec::new(), 0, Vec::new());
        let mut group = Group { text: text.to_owned(), ids, look_alikes, decided, real };
        group.add(id, self.marks.atom_of(id));
        let is_decided = group.is_decided();
        self.group = Some(group);
        if is_decided {
            self.flush_group();
        }
    }

    fn add_token(&mut self, text: &str, id: Option<TokenId>) {
        let at = self.text.len();
        let has_text = !text.is_empty();
        // The bytes of a character may be spread over tokens. Its text comes with the last of them; those before
        // it, fewer than it has bytes, came without text and begin where it begins.
        let spread = text.chars().next().map_or(0, |first| first.len_utf8() - 1);
        let before = self.tokens[self.owned..].iter_mut().rev();
        for token in before.take(spread).take_while(|token| !token.has_text) {
            token.at = at;
        }
        self.tokens.push(Token { at: if has_text { at } else { at.saturating_sub(1) }, id, has_text });
        self.add_text(text);
    }

    /// A marker whose token has come and whose text has not.
    fn add_hidden(&mut self, atom: usize, id: TokenId) {
        let at = self.text.len();
        self.marks.add_real(at, atom, false);
        self.tokens.push(Token { at, id: Some(id), has_text: true });
        let text = self.marks.atom_text(atom).to_owned();
        self.add_text(&text);
    }

    fn add_text(&mut self, text: &str) {
        if let Some(last) = text.bytes().rposition(|byte| !is_blank(byte)) {
            self.blank_from = self.text.len() + last + 1;
        }
        self.text.push_str(text);
    }

    /// Of a group's tokens it is known where the first begins and where the markers do. What stands between two
    /// markers is the text of the first token there that is no marker's; those without text stand in their order.
    fn flush_group(&mut self) {
        let Some(group) = self.group.take() else { return };
        let ends = group.real.iter().map(|(at, atom, n)| (*at, *n, Some(*atom)));
        let ends = ends.chain([(group.text.len(), group.ids.len(), None)]);
        let (mut from, mut first) = (0, 0);
        for (end, until, marker) in ends {
            let mut text = &group.text[from..end];
            for id in &group.ids[first..until] {
                match self.marks.atom_of(*id) {
                    Some(atom) => self.add_hidden(atom, *id),
                    None => self.add_token(std::mem::take(&mut text), Some(*id)),
                }
            }
            self.add_text(text);
            let Some(atom) = marker else { return };
            self.marks.add_real(self.text.len(), atom, true);
            (from, first) = (end + self.marks.atom_text(atom).len(), until + 1);
            self.add_token(&group.text[end..from], Some(group.ids[until]));
        }
    }

    // Text to leaves

    /// Decides all that can be decided.
    fn advance(&mut self, branch: &mut Branch, end: Option<RegionEnd>) {
        loop {
            let went_on = match &self.state {
                State::Content { at } => self.content(branch, *at, end),
                State::Reasoning { think, opening: true, at, .. } => {
                    self.thinking_opens(branch, think, *at, end)
                }
                State::Reasoning { think, opening: false, at, draft } => {
                    self.reasoning(branch, think, *at, *draft, end)
                }
                State::Region { .. } => self.region(branch, end),
            };
            if !went_on {
                return;
            }
        }
    }

    fn view(&self, end: Option<RegionEnd>) -> View<'_> {
        View {
            text: &self.text,
            blank_from: self.blank_from,
            marks: &self.marks,
            tools: &self.tools,
            ends: self.dialect.table().ends,
            max_nesting: self.max_nesting,
            end,
        }
    }

    fn content(&mut self, branch: &mut Branch, at: usize, end: Option<RegionEnd>) -> bool {
        let may_be = self.content_firsts.any_in(&self.text.as_bytes()[at..]);
        let found = if may_be {
            self.view(end).find(&self.content_markers, at)
        } else {
            Found::Until(self.text.len())
        };
        let (at, marker) = match found {
            Found::At(at, marker) => (at, marker),
            Found::Until(at) => {
                self.extend_content(branch, at);
                self.state = State::Content { at };
                return false;
            }
        };
        self.extend_content(branch, at);
        let table = self.dialect.table();
        let body = at + marker.len();
        if let Some(think) = table.think.as_ref().filter(|think| think.open == marker) {
            self.begin_leaf(branch, LeafKind::Reasoning);
            self.extend_outside(branch, body);
            self.state = State::reasoning(think, body);
        } else if let Some(call) = table.calls.iter().find(|call| call.open == marker) {
            let machine = (call.body)(at, body);
            self.state = State::Region { open: at, body, machine, no_end_before: body };
        } else {
            self.add_leaf(branch, LeafKind::Marker, body);
            self.state = State::Content { at: body };
        }
        true
    }

    /// A second opener at the start of reasoning is markup, and so is the label (rule R2 of docs/parsing-rules.md).
    fn thinking_opens(
        &mut self,
        branch: &mut Branch,
        think: &'static Think,
        from: usize,
        end: Option<RegionEnd>,
    ) -> bool {
        let view = self.view(end);
        let at = view.skip_blank(from);
        let inside = match view.here(at, think.open) {
            Here::Yes => at + think.open.len(),
            Here::NotYet => return false,
            Here::No => match label_end(&view, from, think.label, think.close) {
                Some(inside) => {
                    if inside > from {
                        self.ensure_thinking(branch);
                        self.extend_outside(branch, inside);
                        // What is repeated may have a label too.
                        self.state = State::reasoning(think, inside);
                        return true;
                    }
                    let Table { calls, frames, .. } = self.dialect.table();
                    let openers = calls.iter().map(|call| call.open).chain(frames.iter().copied());
                    self.draft_markers = std::iter::once(think.close).chain(openers).collect();
                    self.state = State::Reasoning { think, opening: false, at: inside, draft: None };
                    return true;
                }
                None => return false,
            },
        };
        self.ensure_thinking(branch);
        self.extend_outside(branch, inside);
        self.state = State::reasoning(think, inside);
        true
    }

    fn reasoning(
        &mut self,
        branch: &mut Branch,
        think: &'static Think,
        at: usize,
        draft: Option<usize>,
        end: Option<RegionEnd>,
    ) -> bool {
        let view = self.view(end);
        // Once a call is drafted, no other is looked for.
        let found = match draft {
            None => view.find(&self.draft_markers, at),
            Some(_) => view.find(&[think.close], at),
        };
        match found {
            Found::At(at, marker) if marker == think.close => {
                self.ensure_thinking(branch);
                self.extend_inside(branch, at);
                self.extend(branch, at + marker.len());
                self.state = State::Content { at: at + marker.len() };
                true
            }
            Found::At(draft, marker) => {
                let at = draft + marker.len();
                self.state = State::Reasoning { think, opening: false, at, draft: Some(draft) };
                true
            }
            Found::Until(at) => {
                if at > self.committed {
                    self.ensure_thinking(branch);
                    self.extend_inside(branch, at);
                }
                self.state = State::Reasoning { think, opening: false, at, draft };
                false
            }
        }
    }

    /// At the end of the turn: in reasoning that was never closed, the first call ends it, or the frame of an
    /// answer; if there is none, an end of the turn is still no thought.
    fn end_thinking(&mut self, branch: &mut Branch, end: RegionEnd) {
        let State::Reasoning { draft, .. } = &self.state else { return };
        let Table { ends, think, .. } = self.dialect.table();
        let trimmed = self.text.trim_end();
        let view = self.view(Some(end));
        let turn_end = ends.iter().filter_map(|end| Some((trimmed.strip_suffix(end)?.len(), *end)));
        let turn_end = turn_end.filter(|(at, end)| {
            self.leaf_start.is_some_and(|(start, _)| *at >= start) && view.here(*at, end) == Here::Yes
        });
        // Some are written in two parts.
        let turn_end = turn_end.map(|(at, _)| at).min();
        if let (Some(draft), RegionEnd::Clean) = (*draft, end) {
            let kept = (branch.clone(), self.committed, self.owned, self.leaf_start);
            let before = branch.leaves.len().saturating_sub(1);
            let mut answer = think.iter().flat_map(|think| think.answer);
            let is_answer = answer.any(|open| self.text[draft..].starts_with(open));
            self.rewind(branch, draft);
            self.advance(branch, Some(end));
            // A broken call has ended it too. What turns out to be none has not.
            let is_call =
                |leaf: &Leaf| matches!(leaf.kind, LeafKind::ToolCall(_) | LeafKind::Malformed { .. });
            if is_answer || branch.leaves[before..].iter().any(is_call) {
                return;
            }
            (*branch, self.committed, self.owned, self.leaf_start) = kept;
        }
        if let Some(at) = turn_end {
            self.rewind(branch, at);
            self.advance(branch, Some(end));
        }
    }

    /// Takes the text from `at` on out of the last leaf, which is open reasoning: content begins there.
    fn rewind(&mut self, branch: &mut Branch, at: usize) {
        let Some((start, first_token)) = self.leaf_start else { return };
        let inner = branch.leaves.pop().map_or(0, |leaf| leaf.inner.start);
        (self.committed, self.owned) = (start, first_token);
        if at > start {
            self.begin_leaf(branch, LeafKind::Reasoning);
            self.extend_inside(branch, at);
            if let Some(leaf) = branch.leaves.last_mut() {
                leaf.inner.start = inner.min(leaf.text.len());
            }
        }
        self.state = State::Content { at };
    }

    /// Lets the machine of the region go one step.
    fn region(&mut self, branch: &mut Branch, end: Option<RegionEnd>) -> bool {
        let State::Region { open, body, mut machine, no_end_before } =
            std::mem::replace(&mut self.state, State::Content { at: self.committed })
        else {
            return false;
        };
        let mut view = self.view(end);
        // A real end of the turn is structure wherever it stands, and a clean end for the call before it.
        let (limit, turn_end) = self.region_limit(open, body, no_end_before);
        if limit < view.text.len() {
            view.text = &view.text[..limit];
            view.end = turn_end.then_some(RegionEnd::Clean);
        }
        let (ended, seen) = (view.end.is_some(), view.text.len());
        let (until, leaf, then) = match machine.step(&view) {
            Step::Wait if ended => (seen, Outcome::Malformed(Malformed::Unfinished), Some(Then::Content)),
            Step::Wait if limit < self.text.len() => {
                (seen, Outcome::Malformed(Malformed::TooLarge), Some(Then::Content))
            }
            Step::Wait => {
                self.state = State::Region { open, body, machine, no_end_before: seen };
                return false;
            }
            Step::Leaf { until, leaf } => (until, leaf, None),
            Step::Leave { until, leaf, then } => (until, leaf, Some(then)),
        };
        // What was no call is content, its opener at least: it must not be found again.
        let until = if matches!(leaf, Outcome::Content) { until.max(body) } else { until };
        self.add_outcome(branch, until, leaf);
        self.state = match then {
            None => {
                let no_end_before = no_end_before.max(until);
                State::Region { open: until, body: until, machine, no_end_before }
            }
            Some(Then::Content) => State::Content { at: until },
            Some(Then::Reasoning(think)) => State::reasoning(think, until),
        };
        true
    }

    /// How much of the text a region may see, whose opener stands at `open..body`, and whether the turn ends
    /// there.
    fn region_limit(&self, open: usize, body: usize, from: usize) -> (usize, bool) {
        let mut limit = open.saturating_add(self.max_arguments_bytes).max(body).min(self.text.len());
        while !self.text.is_char_boundary(limit) {
            limit -= 1;
        }
        let limit = self.marks.end_of_real_around(limit);
        let ends = self.dialect.table().ends;
        let turn_end = self.marks.real_from(from).find(|(_, atom)| ends.contains(atom));
        match turn_end {
            Some((at, _)) if at <= limit => (at, true),
            _ => (limit, false),
        }
    }

    // Leaves

    fn add_outcome(&mut self, branch: &mut Branch, until: usize, outcome: Outcome) {
        match outcome {
            Outcome::Content => self.extend_content(branch, until),
            Outcome::Marker | Outcome::Malformed(_) if until <= self.committed => {}
            Outcome::Marker => self.add_leaf(branch, LeafKind::Marker, until),
            Outcome::Malformed(reason) => self.add_leaf(branch, LeafKind::Malformed { reason }, until),
            Outcome::Call(RawCall { id, name, arguments, raw }) => {
                let id = id.unwrap_or_else(|| format!("call_{}", self.calls));
                self.calls += 1;
                let at_token = self.pushed;
                let call = ToolCall { id, name, arguments, raw };
                let ToolCall { id, name, arguments, raw } = call.clone();
                self.out.push(PendingToolCall { id, name, arguments, raw, at_token });
                self.add_leaf(branch, LeafKind::ToolCall(call), until);
            }
        }
    }

    /// Content goes on in the leaf it is in, even after a region that turned out to be none.
    fn extend_content(&mut self, branch: &mut Branch, until: usize) {
        if until <= self.committed {
            return;
        }
        let last = branch.leaves.last().map(|leaf| &leaf.kind);
        if self.leaf_start.is_none() || !matches!(last, Some(LeafKind::Content)) {
            self.begin_leaf(branch, LeafKind::Content);
        }
        self.extend_inside(branch, until);
    }

    fn ensure_thinking(&mut self, branch: &mut Branch) {
        // An open one is the last leaf; one that the prompt has opened is not there yet.
        if !self.is_in(branch, &LeafKind::Reasoning) {
            self.begin_leaf(branch, LeafKind::Reasoning);
        }
    }

    /// Whether the last leaf is of this turn and this kind.
    fn is_in(&self, branch: &Branch, kind: &LeafKind) -> bool {
        self.leaf_start.is_some() && branch.leaves.last().is_some_and(|leaf| leaf.kind == *kind)
    }

    fn add_leaf(&mut self, branch: &mut Branch, kind: LeafKind, until: usize) {
        self.begin_leaf(branch, kind);
        self.extend_inside(branch, until);
    }

    fn begin_leaf(&mut self, branch: &mut Branch, kind: LeafKind) {
        // Tokens without text stay with what came before them.
        self.own_tokens(branch, self.committed);
        self.leaf_start = Some((self.committed, self.owned));
        branch.leaves.push(Leaf::new(kind, "", Vec::new()));
    }

    /// The text up to `until` goes to the last leaf, as what it is about.
    fn extend_inside(&mut self, branch: &mut Branch, until: usize) {
        self.extend(branch, until);
        if let Some(leaf) = branch.leaves.last_mut() {
            leaf.inner.end = leaf.text.len();
        }
    }

    /// The text up to `until` goes to the last leaf, as an opener.
    fn extend_outside(&mut self, branch: &mut Branch, until: usize) {
        self.extend_inside(branch, until);
        if let Some(leaf) = branch.leaves.last_mut() {
            leaf.inner.start = leaf.text.len();
        }
    }

    /// The text up to `until` goes to the last leaf, as its end if nothing else is said.
    fn extend(&mut self, branch: &mut Branch, until: usize) {
        // A marker's token is never divided, whatever else the dialect's markers are like.
        let whole = self.marks.shows_all(self.committed);
        let until = if whole { until } else { self.marks.end_of_real_around(until) };
        let until = until.max(self.committed);
        if let Some(leaf) = branch.leaves.last_mut() {
            if whole {
                leaf.text.push_str(&self.text[self.committed..until]);
            } else {
                for shown in self.marks.shown(self.committed..until) {
                    leaf.text.push_str(&self.text[shown]);
                }
            }
        }
        self.committed = until;
        self.own_tokens(branch, until);
    }

    /// Gives the last leaf the tokens before `until`.
    fn own_tokens(&mut self, branch: &mut Branch, until: usize) {
        let Some(leaf) = branch.leaves.last_mut() else { return };
        let tokens = self.tokens[self.owned..].iter().take_while(|token| token.at < until);
        for token in tokens {
            self.owned += 1;
            match token.id {
                Some(id) => leaf.ids.push(id),
                None => leaf.ids_missing += u32::from(token.has_text),
            }
        }
    }
}

/// The place after the label; `None` if that cannot be said yet.
fn label_end(view: &View<'_>, from: usize, label: &str, close: &str) -> Option<usize> {
    if label.is_empty() {
        return Some(from);
    }
    match view.here(from, label) {
        Here::No => Some(from),
        Here::NotYet => None,
        Here::Yes => {
            let end = from + label.len();
            match (view.bytes().get(end), view.here(end, close)) {
                (Some(b'\n'), _) | (_, Here::Yes) => Some(end),
                (_, Here::NotYet) => None,
                (None, Here::No) => Some(end),
                (Some(_), Here::No) => Some(from),
            }
        }
    }
}
