//! Parses a turn: keeps the state between tokens, and converts each token into leaves.
//!
//! Read these notes before you change this file.
//!
//! The whole turn is stored as one text. All positions are offsets in this text. The text before
//! the offset `committed` is already in leaves. The text after this offset is undecided. The
//! undecided text is either a few bytes that may become a marker, or the region of a call.
//!
//! The result does not depend on where the text is cut into tokens, because no decision uses text
//! whose meaning could still change. If the text ends with the beginning of a marker, a search
//! stops at this beginning ([`Found::Until`]). Every machine stops at this beginning, too.
//!
//! ```text
//!            ┌────────── close ──────────┐       ┌── Leave ──┐
//!            ▼                           │       ▼           │
//!   start ─▶ content ── its opener ───▶ reasoning    content ─ call opener ─▶ region (a machine)
//!            └─ frame, end of turn: a marker leaf, then content again
//! ```
//!
//! Each id belongs to the leaf that contains the first byte of its token. `tokens` contains the
//! offset of this byte for each token, in order. If a token has no text, `tokens` contains the
//! offset of the previous byte. When text is added to a leaf, the tokens whose offset is in this
//! text are added, too. Therefore, the leaves together always contain exactly the ids received,
//! regardless of the machines' decisions.
//!
//! A decision is normally final. Only one decision can be reversed, at the end of the turn (R2 in
//! docs/parsing-rules.md). This decision is about reasoning that contains the draft of a call and
//! was never closed.
//!
//! - To add a dialect, add a file to `dialects/` and a line to the list in `dialect`.
//! - To support a new way to write calls, write a [`Machine`] in `machines/` and add a variant to
//!   `record::Inside`.

use std::sync::Arc;

use super::dialect::Dialect;
use super::input::Input;
use super::machine::{Machine, RawCall, RawLeaf, Step, Then};
use super::marker::{Marker, Reasoning};
use super::schema::Schemas;
use super::table::Table;
use super::view::{FirstBytes, Found, Match, RealMarkers, RegionEnd, View};
use crate::config::Limits;
use crate::types::ids::TokenId;
use crate::types::token::StreamToken;
use crate::types::tree::{Branch, Leaf, LeafKind, Malformed, PendingToolCall, ToolCall};

/// The part of a turn that the prompt has already opened.
///
/// ```
/// use tokenwire::{Dialect, ResponseParser, Start};
///
/// let parser = ResponseParser::new(Dialect::by_name("hermes")?);
/// let mut parser = parser.start(Start::Reasoning);
/// parser.push("Hm.</think>Hello", None);
/// let (turn, _) = parser.finish(None);
/// assert_eq!((turn.reasoning().as_str(), turn.content().as_str()), ("Hm.", "Hello"));
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// The prompt has not opened any part of the turn.
    #[default]
    Content,
    /// The prompt ends with the opener of reasoning.
    Reasoning,
}

/// The parser without its branch.
///
/// The branch is stored separately, because it may be in a context with other readers.
#[derive(Debug)]
pub(crate) struct Engine {
    table: Arc<Table>,
    pub(super) tools: Schemas,
    pub(crate) limits: Limits,
    /// The markers that the parser searches for in content.
    ///
    /// In open reasoning, the parser searches for `draft_markers` instead.
    content_markers: Vec<Marker>,
    content_first_bytes: FirstBytes,
    draft_markers: Vec<Marker>,
    input: Input,
    /// The text before this offset is already in leaves.
    committed: usize,
    /// The offset where the last leaf begins, and the index of its first token.
    ///
    /// `None` if the branch does not contain a leaf of this turn yet.
    leaf_start: Option<(usize, usize)>,
    state: State,
    /// The number of tokens that the parser has received.
    pushed: u64,
    calls: u32,
    out: Vec<PendingToolCall>,
}

#[derive(Debug)]
enum State {
    Content {
        /// The search for a marker continues at this offset.
        at: usize,
    },
    Reasoning {
        markers: Arc<Reasoning>,
        /// `true` at the start of the reasoning. A repeated opener or a label may follow.
        opening: bool,
        at: usize,
        /// The offset of the first opener of a call in the reasoning.
        draft: Option<usize>,
    },
    Region {
        open: usize,
        /// The offset after the opener.
        body: usize,
        machine: Box<dyn Machine>,
        /// The search for a real end-of-turn marker continues at this offset.
        no_end_before: usize,
    },
}

impl State {
    /// Returns the state at the start of reasoning. The opener ends at `at`.
    fn reasoning(markers: Arc<Reasoning>, at: usize) -> Self {
        Self::Reasoning { markers, opening: true, at, draft: None }
    }
}

impl Engine {
    pub(super) fn new(dialect: &Dialect) -> Self {
        let table = dialect.table.clone();
        let content_markers = table.content_markers();
        let mut new = Self {
            table,
            tools: Schemas::default(),
            limits: Limits::default(),
            content_first_bytes: FirstBytes::of(&content_markers),
            content_markers,
            draft_markers: Vec::new(),
            input: Input::default(),
            committed: 0,
            leaf_start: None,
            state: State::Content { at: 0 },
            pushed: 0,
            calls: 0,
            out: Vec::new(),
        };
        new.begin(Start::Content);
        new
    }

    /// Sets the added tokens of the model. Only tokens that occur in the markers of the dialect are
    /// used.
    pub(super) fn know<'a>(&mut self, added: impl Iterator<Item = (&'a str, TokenId)>) {
        self.input.markers = RealMarkers::new(&self.table.markers(), added);
    }

    pub(super) fn begin(&mut self, start: Start) {
        let Table { reasoning, bare, .. } = &*self.table;
        self.state = match (start, reasoning, bare) {
            (Start::Reasoning, Some(reasoning), _) => State::reasoning(reasoning.clone(), 0),
            (_, _, Some(body)) => State::Region { open: 0, body: 0, machine: body(0, 0), no_end_before: 0 },
            (_, _, None) => State::Content { at: 0 },
        };
    }

    /// Returns the size of the text in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.input.text.len()
    }

    // Tokens become text.

    pub(crate) fn push(
        &mut self,
        branch: &mut Branch,
        text: &str,
        id: Option<TokenId>,
    ) -> Vec<PendingToolCall> {
        self.input.take(text, id);
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
                self.push_call(branch, Self::kind_of(call), &call.raw);
                vec![(**call).clone()]
            }
            StreamToken::MalformedCall { text, reason } => {
                self.push_call(branch, LeafKind::Malformed { reason: *reason }, text);
                Vec::new()
            }
            StreamToken::Done { .. } | StreamToken::Error(_) => Vec::new(),
        }
    }

    /// Returns the kind of the leaf that contains this call.
    fn kind_of(call: &PendingToolCall) -> LeafKind {
        let PendingToolCall { id, name, arguments, raw, at_token: _ } = call.clone();
        LeafKind::ToolCall(ToolCall { id, name, arguments, raw })
    }

    /// Adds reasoning that the server has already separated.
    fn push_reasoning(&mut self, branch: &mut Branch, text: &str, id: Option<TokenId>) {
        self.settle(branch);
        self.ensure_reasoning(branch);
        self.input.add_token(text, id);
        self.extend_to_here(branch);
        self.pushed += 1;
    }

    /// Adds a call that the server has already separated, or a malformed call.
    ///
    /// The ids of the call have arrived earlier, as tokens without text.
    fn push_call(&mut self, branch: &mut Branch, kind: LeafKind, text: &str) {
        self.settle(branch);
        let goes_on = matches!(kind, LeafKind::Malformed { .. }) && self.is_in(branch, &kind);
        if !goes_on {
            // The server sends the ids of a call before the call. All tokens without text since the
            // last text therefore belong to the call.
            self.leaf_start = Some((self.committed, self.input.owned));
            branch.leaves.push(Leaf::new(kind, "", Vec::new()));
        }
        self.input.add_text(text);
        self.extend_to_here(branch);
        if let Some(leaf) = branch.leaves.last_mut().filter(|leaf| leaf.ids.is_empty()) {
            leaf.ids_missing = 1;
        }
    }

    /// Adds all text received so far to leaves, because the next item begins a separate leaf.
    fn settle(&mut self, branch: &mut Branch) {
        self.input.flush_group();
        self.advance(branch, Some(RegionEnd::Cut));
    }

    /// Adds all remaining text to the last leaf.
    fn extend_to_here(&mut self, branch: &mut Branch) {
        let at = self.input.text.len();
        self.extend_inside(branch, at);
        self.state = State::Content { at };
    }

    pub(crate) fn finish(&mut self, branch: &mut Branch, clean: bool) -> Vec<PendingToolCall> {
        self.input.flush_group();
        let end = if clean { RegionEnd::Clean } else { RegionEnd::Cut };
        self.advance(branch, Some(end));
        self.end_reasoning(branch, end);
        // The remaining tokens have no text, and no text has arrived after these tokens.
        if self.input.owned < self.input.tokens.len() {
            if self.leaf_start.is_none() {
                self.begin_leaf(branch, LeafKind::Marker);
            }
            self.own_tokens(branch, usize::MAX);
        }
        std::mem::take(&mut self.out)
    }

    // Text becomes leaves.

    /// Converts as much of the text as possible into leaves.
    fn advance(&mut self, branch: &mut Branch, end: Option<RegionEnd>) {
        loop {
            let went_on = match &self.state {
                State::Content { at } => self.content(branch, *at, end),
                State::Reasoning { opening: true, .. } => self.reasoning_opens(branch, end),
                State::Reasoning { opening: false, .. } => self.reasoning(branch, end),
                State::Region { .. } => self.region(branch, end),
            };
            if !went_on {
                return;
            }
        }
    }

    fn view(&self, end: Option<RegionEnd>) -> View<'_> {
        View {
            text: &self.input.text,
            blank_from: self.input.blank_from,
            marks: &self.input.markers,
            tools: &self.tools,
            ends: &self.table.ends,
            max_nesting: self.limits.max_nesting,
            end,
        }
    }

    fn content(&mut self, branch: &mut Branch, at: usize, end: Option<RegionEnd>) -> bool {
        let may_be = self.content_first_bytes.any_in(&self.input.text.as_bytes()[at..]);
        let found = if may_be {
            self.view(end).find(&self.content_markers, at)
        } else {
            Found::Until(self.input.text.len())
        };
        let (at, len) = match found {
            Found::At(at, marker) => (at, marker.len()),
            Found::Until(at) => {
                self.extend_content(branch, at);
                self.state = State::Content { at };
                return false;
            }
        };
        self.extend_content(branch, at);
        let table = self.table.clone();
        let body = at + len;
        let marker = &self.input.text[at..body];
        if let Some(reasoning) = table.reasoning.as_ref().filter(|reasoning| *reasoning.open == *marker) {
            self.begin_leaf(branch, LeafKind::Reasoning);
            self.extend_outside(branch, body);
            self.state = State::reasoning(reasoning.clone(), body);
        } else if let Some(region) = table.region(marker) {
            let machine = (region.body)(at, body);
            self.state = State::Region { open: at, body, machine, no_end_before: body };
        } else {
            self.add_leaf(branch, LeafKind::Marker, body);
            self.state = State::Content { at: body };
        }
        true
    }

    /// Skips a repeated opener and the label at the start of reasoning.
    ///
    /// See R2 in docs/parsing-rules.md.
    fn reasoning_opens(&mut self, branch: &mut Branch, end: Option<RegionEnd>) -> bool {
        let State::Reasoning { markers, at: from, .. } = &self.state else { return false };
        let (markers, from) = (markers.clone(), *from);
        let view = self.view(end);
        let at = view.skip_blank(from);
        let inside = match view.here(at, &markers.open) {
            Match::Yes => at + markers.open.len(),
            Match::Partial => return false,
            Match::No => match label_end(&view, from, markers.label.as_deref(), &markers.close) {
                // Another opener with its own label may follow the label.
                Some(inside) if inside > from => inside,
                Some(at) => {
                    self.draft_markers =
                        std::iter::once(&markers.close).chain(self.table.openers()).cloned().collect();
                    self.state = State::Reasoning { markers, opening: false, at, draft: None };
                    return true;
                }
                None => return false,
            },
        };
        self.ensure_reasoning(branch);
        self.extend_outside(branch, inside);
        self.state = State::reasoning(markers, inside);
        true
    }

    fn reasoning(&mut self, branch: &mut Branch, end: Option<RegionEnd>) -> bool {
        let State::Reasoning { markers, at, draft, .. } = &self.state else { return false };
        let view = self.view(end);
        // After the first draft of a call, only the end of the reasoning matters.
        let found = match draft {
            None => view.find(&self.draft_markers, *at),
            Some(_) => view.find(std::slice::from_ref(&markers.close), *at),
        };
        let (to, is_close, goes_on) = match found {
            Found::At(at, marker) => (at, *marker == *markers.close, Some(at + marker.len())),
            Found::Until(at) => (at, false, None),
        };
        if is_close || (goes_on.is_none() && to > self.committed) {
            self.ensure_reasoning(branch);
            self.extend_inside(branch, to);
        }
        match (goes_on, &mut self.state) {
            (Some(after), _) if is_close => {
                self.extend(branch, after);
                self.state = State::Content { at: after };
            }
            (Some(after), State::Reasoning { at, draft, .. }) => (*at, *draft) = (after, Some(to)),
            (None, State::Reasoning { at, .. }) => *at = to,
            _ => {}
        }
        goes_on.is_some()
    }

    /// Resolves reasoning that is still open at the end of the turn.
    ///
    /// The reasoning then ends at its first call, or at the frame that begins the answer. An
    /// end-of-turn marker is never part of the reasoning.
    fn end_reasoning(&mut self, branch: &mut Branch, end: RegionEnd) {
        let State::Reasoning { draft, .. } = &self.state else { return };
        let Table { ends, reasoning, .. } = &*self.table;
        let trimmed = self.input.text.trim_end();
        let view = self.view(Some(end));
        let turn_end = ends.iter().filter_map(|end| Some((trimmed.strip_suffix(&**end)?.len(), end)));
        let turn_end = turn_end.filter(|(at, end)| {
            self.leaf_start.is_some_and(|(start, _)| *at >= start) && view.here(*at, end) == Match::Yes
        });
        // Several end-of-turn markers may match, because some of them consist of two parts. The
        // longest marker is used.
        let turn_end = turn_end.map(|(at, _)| at).min();
        if let (Some(draft), RegionEnd::Clean) = (*draft, end) {
            let before_rewind = (branch.clone(), self.committed, self.input.owned, self.leaf_start);
            let before = branch.leaves.len().saturating_sub(1);
            let mut answer = reasoning.iter().flat_map(|reasoning| reasoning.answer.iter());
            let is_answer = answer.any(|open| self.input.text[draft..].starts_with(&**open));
            self.rewind(branch, draft);
            self.advance(branch, Some(end));
            // A malformed call also ends the reasoning. If the draft turns out not to be a call,
            // the reasoning continues.
            let is_call =
                |leaf: &Leaf| matches!(leaf.kind, LeafKind::ToolCall(_) | LeafKind::Malformed { .. });
            if is_answer || branch.leaves[before..].iter().any(is_call) {
                return;
            }
            (*branch, self.committed, self.input.owned, self.leaf_start) = before_rewind;
        }
        if let Some(at) = turn_end {
            self.rewind(branch, at);
            self.advance(branch, Some(end));
        }
    }

    /// Removes the text after `at` from the last leaf, which is open reasoning.
    ///
    /// Content then begins at `at`.
    fn rewind(&mut self, branch: &mut Branch, at: usize) {
        let Some((start, first_token)) = self.leaf_start else { return };
        let inner = branch.leaves.pop().map_or(0, |leaf| leaf.inner.start);
        (self.committed, self.input.owned) = (start, first_token);
        if at > start {
            self.begin_leaf(branch, LeafKind::Reasoning);
            self.extend_inside(branch, at);
            if let Some(leaf) = branch.leaves.last_mut() {
                leaf.inner.start = inner.min(leaf.text.len());
            }
        }
        self.state = State::Content { at };
    }

    /// Advances the machine of the region by one step.
    fn region(&mut self, branch: &mut Branch, end: Option<RegionEnd>) -> bool {
        let State::Region { open, body, mut machine, no_end_before } =
            std::mem::replace(&mut self.state, State::Content { at: self.committed })
        else {
            return false;
        };
        let mut view = self.view(end);
        // A real end-of-turn marker always ends the turn. The call before this marker has then
        // ended cleanly.
        let (limit, turn_end) = self.region_limit(open, body, no_end_before);
        if limit < view.text.len() {
            view.text = &view.text[..limit];
            view.end = turn_end.then_some(RegionEnd::Clean);
        }
        let (ended, seen) = (view.end.is_some(), view.text.len());
        let (until, leaf, then) = match machine.step(&view) {
            Step::Wait if ended => (seen, RawLeaf::Malformed(Malformed::Unfinished), Some(Then::Content)),
            Step::Wait if limit < self.input.text.len() => {
                (seen, RawLeaf::Malformed(Malformed::TooLarge), Some(Then::Content))
            }
            Step::Wait => {
                self.state = State::Region { open, body, machine, no_end_before: seen };
                return false;
            }
            Step::Leaf { until, leaf } => (until, leaf, None),
            Step::Leave { until, leaf, then } => (until, leaf, Some(then)),
        };
        // If the region is not a call, its opener becomes content. The search must not find this
        // opener again.
        let until = if matches!(leaf, RawLeaf::Content) { until.max(body) } else { until };
        self.add_outcome(branch, until, leaf);
        self.state = match then {
            None => {
                let no_end_before = no_end_before.max(until);
                State::Region { open: until, body: until, machine, no_end_before }
            }
            Some(Then::Content) => State::Content { at: until },
            Some(Then::Reasoning(markers)) => State::reasoning(markers, until),
        };
        true
    }

    /// Returns the end of the text that a region may read, and whether the turn ends at this
    /// offset.
    ///
    /// The opener of the region is at `open..body`.
    fn region_limit(&self, open: usize, body: usize, from: usize) -> (usize, bool) {
        let mut limit =
            open.saturating_add(self.limits.max_arguments_bytes).max(body).min(self.input.text.len());
        while !self.input.text.is_char_boundary(limit) {
            limit -= 1;
        }
        let limit = self.input.markers.end_of_real_around(limit);
        let is_end = |atom: &str| self.table.ends.iter().any(|end| **end == *atom);
        let turn_end = self.input.markers.real_from(from).find(|(_, atom)| is_end(atom));
        match turn_end {
            Some((at, _)) if at <= limit => (at, true),
            _ => (limit, false),
        }
    }

    // Leaves

    fn add_outcome(&mut self, branch: &mut Branch, until: usize, outcome: RawLeaf) {
        match outcome {
            RawLeaf::Content => self.extend_content(branch, until),
            RawLeaf::Marker | RawLeaf::Malformed(_) if until <= self.committed => {}
            RawLeaf::Marker => self.add_leaf(branch, LeafKind::Marker, until),
            RawLeaf::Malformed(reason) => self.add_leaf(branch, LeafKind::Malformed { reason }, until),
            RawLeaf::Call(RawCall { id, name, arguments, raw }) => {
                let id = id.unwrap_or_else(|| format!("call_{}", self.calls));
                self.calls += 1;
                let call = PendingToolCall { id, name, arguments, raw, at_token: self.pushed };
                self.add_leaf(branch, Self::kind_of(&call), until);
                self.out.push(call);
            }
        }
    }

    /// Adds the text up to `until` to the content.
    ///
    /// If the last leaf is content, the text is added to that leaf. If a region was not a call, its
    /// text is also added to that leaf.
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

    fn ensure_reasoning(&mut self, branch: &mut Branch) {
        // Open reasoning is the last leaf. Reasoning that the prompt opened has no leaf yet.
        if !self.is_in(branch, &LeafKind::Reasoning) {
            self.begin_leaf(branch, LeafKind::Reasoning);
        }
    }

    /// Returns whether the last leaf belongs to this turn and has this kind.
    fn is_in(&self, branch: &Branch, kind: &LeafKind) -> bool {
        self.leaf_start.is_some() && branch.leaves.last().is_some_and(|leaf| leaf.kind == *kind)
    }

    fn add_leaf(&mut self, branch: &mut Branch, kind: LeafKind, until: usize) {
        self.begin_leaf(branch, kind);
        self.extend_inside(branch, until);
    }

    fn begin_leaf(&mut self, branch: &mut Branch, kind: LeafKind) {
        // Tokens without text belong to the same leaf as the text before these tokens.
        self.own_tokens(branch, self.committed);
        self.leaf_start = Some((self.committed, self.input.owned));
        branch.leaves.push(Leaf::new(kind, "", Vec::new()));
    }

    /// Adds the text up to `until` to the last leaf, as a part of its inner text.
    fn extend_inside(&mut self, branch: &mut Branch, until: usize) {
        self.extend(branch, until);
        if let Some(leaf) = branch.leaves.last_mut() {
            leaf.inner.end = leaf.text.len();
        }
    }

    /// Adds the text up to `until` to the last leaf, as an opener before its inner text.
    fn extend_outside(&mut self, branch: &mut Branch, until: usize) {
        self.extend_inside(branch, until);
        if let Some(leaf) = branch.leaves.last_mut() {
            leaf.inner.start = leaf.text.len();
        }
    }

    /// Adds the text up to `until` to the last leaf, after its inner text.
    fn extend(&mut self, branch: &mut Branch, until: usize) {
        // The text of a marker token is never divided, even if another marker of the dialect begins
        // inside it.
        let whole = self.input.markers.shows_all(self.committed);
        let until = if whole { until } else { self.input.markers.end_of_real_around(until) };
        let until = until.max(self.committed);
        if let Some(leaf) = branch.leaves.last_mut() {
            if whole {
                leaf.text.push_str(&self.input.text[self.committed..until]);
            } else {
                for shown in self.input.markers.shown(self.committed..until) {
                    leaf.text.push_str(&self.input.text[shown]);
                }
            }
        }
        self.committed = until;
        self.own_tokens(branch, until);
    }

    /// Adds the tokens that begin before `until` to the last leaf.
    fn own_tokens(&mut self, branch: &mut Branch, until: usize) {
        let Some(leaf) = branch.leaves.last_mut() else { return };
        let tokens = self.input.tokens[self.input.owned..].iter().take_while(|token| token.at < until);
        for token in tokens {
            self.input.owned += 1;
            match token.id {
                Some(id) => leaf.ids.push(id),
                None => leaf.ids_missing += u32::from(token.has_text),
            }
        }
    }
}

/// Returns the offset after the label.
///
/// Returns `None` if more text is needed to find the end of the label.
fn label_end(view: &View<'_>, from: usize, label: Option<&str>, close: &str) -> Option<usize> {
    let Some(label) = label else { return Some(from) };
    match view.here(from, label) {
        Match::No => Some(from),
        Match::Partial => None,
        Match::Yes => {
            let end = from + label.len();
            match (view.bytes().get(end), view.here(end, close)) {
                (Some(b'\n'), _) | (_, Match::Yes) => Some(end),
                (_, Match::Partial) => None,
                (None, Match::No) => Some(end),
                (Some(_), Match::No) => Some(from),
            }
        }
    }
}
