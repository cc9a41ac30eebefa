//! Turns of a conversation to the ids of the next prompt. Pure.
//!
//! A letter to whoever changes this next. The ids of a prompt are the ids of all leaves of all turns, in order: there is
//! no other place where they are kept. Turns that the caller adds have text only, until [`Context::begin_response`]
//! renders them: what closes the model's last turn, all turns after it and the opener of the model's next
//! turn are written on one [`Sheet`], which cuts template text at the family's tokens and encodes what stands
//! between two of them at once, across leaves and turns. What a caller or a tool has written is never cut, so that a
//! spelled `<|im_end|>` in it stays text.
//!
//! ```text
//!  ids of turns ─┬─ the model's: as received ── close, if not sampled ┐
//!                └─ rendered before: never touched again              ├─ Sheet ─▶ leaves ─▶ ids
//!                                          turns added since, opener ─┘
//! ```
//!
//! Two things change ids that were there already, and [`Prefix`] says so: old thinking that is dropped, and
//! a turn whose ids did not all come. To add a family, add a table in `family`.

mod family;
mod sheet;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use self::family::ChatFormat;
use self::family::{ResultText, Results, Table};
use self::sheet::Sheet;
use crate::ast::{Branch, Leaf, LeafKind, Role, ToolCall};
use crate::error::printable;
use crate::{Error, ErrorKind, IdsExact, Limit, Start, TokenId};

/// Text to ids, as far as a prompt needs it. [`Tokenizer`](crate::Tokenizer) does it; so can any tokenizer of yours.
pub trait Encode: Send + Sync {
    /// The tokens of plain text, whatever it spells: no marker comes out. With each its place: the byte of `text` at
    /// which it begins, in order.
    ///
    /// # Errors
    ///
    /// If the text cannot be encoded.
    fn encode_text(&self, text: &str) -> Result<Vec<(TokenId, usize)>, Error>;

    /// The id of the marker of this name (`<|im_end|>`), if the vocabulary has it as a token of its own.
    fn token(&self, name: &str) -> Option<TokenId>;
}

/// A conversation, and the ids of its next prompt.
///
/// The next prompt is this prompt's ids, the ids received, what closes the model's turn if it was not sampled, the
/// turns added since, and the opener of the model's next turn. So servers find their cache, and the model sees what
/// it has written, token by token.
///
/// ```
/// use tokenwire::{ChatFormat, Context, Encode, Error, IdsExact, Prefix, ResponseParser, TokenId};
///
/// struct Chars; // An encoder for the example: each character is a token.
/// impl Encode for Chars {
///     fn encode_text(&self, text: &str) -> Result<Vec<(TokenId, usize)>, Error> {
///         Ok(text.char_indices().map(|(at, c)| (c as TokenId, at)).collect())
///     }
///     fn token(&self, name: &str) -> Option<TokenId> {
///         ["<|im_start|>", "<|im_end|>"].iter().zip(900_000..).find(|(t, _)| **t == name).map(|(_, id)| id)
///     }
/// }
///
/// let format = ChatFormat::by_name("qwen2_5")?;
/// let mut context = Context::new(format, Chars).context_tokens_max(4_096);
/// context.user("Hi!");
/// let prompt = context.begin_response()?; // Send prompt.ids, and parse what comes from prompt.start on.
///
/// let mut parser = ResponseParser::new(format.dialect()?).start(prompt.start);
/// parser.push("Hello.", Some(7));
/// parser.push("", Some(900_001));
/// context.add_response(parser.finish(None).0, IdsExact::Yes)?;
///
/// context.user("And?");
/// let next = context.begin_response()?;
/// assert_eq!(next.prefix, Prefix::Kept);
/// assert!(next.ids.starts_with(&[&prompt.ids[..], &[7, 900_001]].concat()));
/// # Ok::<(), Error>(())
/// ```
///
/// Text is taken as it is: templates that trim it are left to the caller. A vocabulary that puts a space before
/// every text (SentencePiece with a dummy prefix) gets one after every marker.
///
/// Cloning copies the turns; rendering a prompt costs time in its length.
#[derive(Clone)]
pub struct Context {
    format: ChatFormat,
    encoder: Arc<dyn Encode>,
    thinking: bool,
    keep_thinking: bool,
    when_inexact: WhenInexact,
    context_tokens_max: Option<usize>,
    turns: Vec<Branch>,
    /// So many turns have ids; those after them wait to be rendered.
    rendered: usize,
    /// The last of them is being written by the model.
    is_open: bool,
    /// What is known of the model's turns, by their place.
    responses: BTreeMap<usize, Response>,
}

/// How a turn of the model began and ended.
#[derive(Debug, Clone, Copy)]
struct Response {
    /// What lets the model speak, without what is said about thinking.
    head: &'static str,
    start: Start,
    /// The branch begins with a leaf that the model did not write.
    has_head: bool,
    ids: IdsExact,
}

/// What to do about a turn of the model whose ids did not all come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenInexact {
    /// Encode its text again. The ids are then those of the text, not those that the model sampled, and
    /// [`Prefix::Reencoded`] says so.
    #[default]
    Reencode,
    /// Fail with [`InexactIds`](ErrorKind::InexactIds).
    Refuse,
    /// Take the ids that came. What came without id is missing in the prompt.
    Take,
}

/// The next prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prompt {
    /// Its ids.
    pub ids: Vec<TokenId>,
    /// What it has opened, for the parser of the answer.
    pub start: Start,
    /// Whether it begins with the prompt before and the ids received.
    pub prefix: Prefix,
}

/// Whether a prompt begins with the ids of the prompt before it followed by the ids received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prefix {
    /// It does.
    Kept,
    /// Not from this turn on, counted from 0: its thinking was dropped.
    ThinkingDropped {
        /// The turn.
        turn: usize,
    },
    /// Not from this turn on: its ids did not all come and its text was encoded again.
    Reencoded {
        /// The turn.
        turn: usize,
    },
}

/// What the next prompt changes in the context.
struct Plan {
    /// Turns that are new or other than before; the last is the model's next.
    turns: BTreeMap<usize, Branch>,
    response: Response,
    prefix: Prefix,
}

impl Context {
    /// An empty conversation. Thinking is on, old thinking is kept, there is no limit of tokens.
    #[must_use]
    pub fn new(format: ChatFormat, encoder: impl Encode + 'static) -> Self {
        Self {
            format,
            encoder: Arc::new(encoder),
            thinking: true,
            keep_thinking: true,
            when_inexact: WhenInexact::default(),
            context_tokens_max: None,
            turns: Vec::new(),
            rendered: 0,
            is_open: false,
            responses: BTreeMap::new(),
        }
    }

    /// Whether the prompt lets the model think, where the family has a switch. Default true; false is
    /// [`Unsupported`](ErrorKind::Unsupported) at [`begin_response`](Self::begin_response) for families that
    /// always think. Set it before the first turn is rendered: some families say it in the system turn.
    #[must_use]
    pub fn thinking(mut self, on: bool) -> Self {
        self.thinking = on;
        self
    }

    /// Whether thinking stays in the prompt after the next user's turn. Default true. If false, it is dropped as
    /// the family's template does it, from the tree too, and the prefix is not kept then.
    #[must_use]
    pub fn keep_thinking(mut self, keep: bool) -> Self {
        self.keep_thinking = keep;
        self
    }

    /// What to do about turns whose ids did not all come. Default: [`WhenInexact::Reencode`].
    #[must_use]
    pub fn when_inexact(mut self, policy: WhenInexact) -> Self {
        self.when_inexact = policy;
        self
    }

    /// The longest prompt, in tokens; what the model writes is not counted in. Default: no limit.
    #[must_use]
    pub fn context_tokens_max(mut self, tokens: usize) -> Self {
        self.context_tokens_max = Some(tokens);
        self
    }

    // Turns in

    /// Adds a system turn: the text as it is, the tools in it as the family describes them.
    pub fn system(&mut self, text: impl Into<String>) {
        self.add(Role::System, text.into());
    }

    /// Adds a user's turn.
    pub fn user(&mut self, text: impl Into<String>) {
        self.add(Role::User, text.into());
    }

    fn add(&mut self, role: Role, text: String) {
        let mut branch = Branch::new(role);
        branch.leaves.push(Leaf::new(LeafKind::Content, text, Vec::new()));
        self.turns.push(branch);
    }

    /// Adds what a call of the last response gave. Results may come in any order, while the response is still being
    /// written, and after a user's next turn: they stand behind the response, in the order of the calls. A
    /// call may stay without result.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the last response has no such call, if its result is there
    /// already, or if a prompt was made since.
    pub fn tool_result(&mut self, call_id: &str, text: impl Into<String>) -> Result<(), Error> {
        let after = self.turns.iter().rposition(|turn| turn.role == Role::Assistant);
        let at = after.map_or(0, |response| response + 1);
        let calls: Vec<&ToolCall> = after.iter().flat_map(|n| self.turns[*n].tool_calls()).collect();
        let unfit = |why: &str| Error::invalid(format!("{why} {:?}", printable(call_id, ID_CHARS_MAX)));
        let order = |id: &str| calls.iter().position(|call| call.id == id);
        let place = order(call_id).ok_or_else(|| unfit("the last response has no call"))?;
        let name = calls[place].name.clone();
        if at < self.rendered {
            return Err(unfit("too late for the result of"));
        }
        let there = self.turns.get(at).filter(|turn| turn.role == Role::Tool);
        let is_new = there.is_none();
        let mut branch = there.cloned().unwrap_or_else(|| Branch::new(Role::Tool));
        let place_of = |leaf: &Leaf| match &leaf.kind {
            LeafKind::ToolResult { call_id, .. } => order(call_id),
            _ => None,
        };
        if branch.leaves.iter().any(|leaf| place_of(leaf) == Some(place)) {
            return Err(unfit("there is already a result of"));
        }
        let kind = LeafKind::ToolResult { call_id: call_id.to_owned(), name };
        let n = branch.leaves.partition_point(|leaf| place_of(leaf) < Some(place));
        branch.leaves.insert(n, Leaf::new(kind, text, Vec::new()));
        if is_new {
            // A user's turn that was added while the model wrote stands behind.
            self.turns.insert(at, branch);
        } else {
            self.turns[at] = branch;
        }
        Ok(())
    }

    // The model's turns

    /// The next prompt. From here on the model's turn is open: give what comes to
    /// [`add_response`](Self::add_response). Turns can be added meanwhile; the next prompt has to wait.
    ///
    /// # Errors
    ///
    /// [`Limit`](ErrorKind::Limit) with [`Limit::ContextTokens`] if the prompt is too long;
    /// [`InvalidInput`](ErrorKind::InvalidInput) if there is nothing to respond to or the last response has not
    /// ended; [`Unsupported`](ErrorKind::Unsupported) if the family has no such turn or this crate does not know
    /// how it is written; [`InexactIds`](ErrorKind::InexactIds) by [`WhenInexact::Refuse`]; what the encoder says.
    /// The context is then as it was.
    pub fn begin_response(&mut self) -> Result<Prompt, Error> {
        let plan = self.plan()?;
        let len = self.len_with(&plan);
        if let Some(max) = self.context_tokens_max.filter(|max| len > *max) {
            let limit = Limit::ContextTokens;
            let message = format!("the prompt has {len} tokens: {} is {max}", limit.as_str());
            return Err(Error::new(ErrorKind::Limit(limit), message));
        }
        let Plan { turns, response, prefix } = plan;
        self.responses.insert(self.turns.len(), response);
        for (n, branch) in turns {
            match self.turns.get_mut(n) {
                Some(turn) => *turn = branch,
                None => self.turns.push(branch),
            }
        }
        self.rendered = self.turns.len();
        self.is_open = true;
        Ok(Prompt { ids: self.ids().collect(), start: response.start, prefix })
    }

    /// What the model has written, as the parser made it, and whether its ids are all there, as the stream's report
    /// has it. A turn that was cut off is added in the same way: what closes it is then put behind it.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if no response was begun.
    pub fn add_response(&mut self, turn: Branch, ids: IdsExact) -> Result<(), Error> {
        let open = self.response_mut().ok_or_else(|| Error::invalid("no response was begun"))?;
        open.leaves.extend(turn.leaves);
        self.end_response(ids);
        Ok(())
    }

    /// The model's turn while it is being written.
    pub(crate) fn response_mut(&mut self) -> Option<&mut Branch> {
        self.rendered.checked_sub(1).filter(|_| self.is_open).and_then(|n| self.turns.get_mut(n))
    }

    /// The model's turn, which the parser's thread has written, has ended, however it did; whether its ids are all
    /// there, as the stream's report has it. Without an open turn it does nothing.
    pub fn end_response(&mut self, ids: IdsExact) {
        if !self.is_open {
            return;
        }
        self.is_open = false;
        if let Some(mut response) = self.responses.last_entry() {
            response.get_mut().ids = ids;
        }
    }

    /// Takes back the last response, open or ended, if nothing came after it: to ask again.
    pub fn discard_response(&mut self) {
        if self.turns.last().is_some_and(|turn| turn.role == Role::Assistant) {
            self.turns.pop();
            self.is_open = false;
            self.rendered = self.turns.len();
            self.responses.remove(&self.turns.len());
        }
    }

    // What is there

    /// All turns. Those added since the last prompt have text only: what the template puts around it and the ids
    /// come with [`begin_response`](Self::begin_response).
    #[must_use]
    pub fn turns(&self) -> &[Branch] {
        &self.turns
    }

    /// How many tokens the next prompt would have; when there is nothing to respond to, or a response is open, the
    /// tokens that are there.
    ///
    /// # Errors
    ///
    /// As [`begin_response`](Self::begin_response), but for the limit.
    pub fn len_tokens(&self) -> Result<usize, Error> {
        match self.turns.last() {
            Some(turn) if turn.role != Role::Assistant && !self.is_open => Ok(self.len_with(&self.plan()?)),
            _ => Ok(self.ids().count()),
        }
    }

    /// How turns are written.
    #[must_use]
    pub fn format(&self) -> ChatFormat {
        self.format
    }

    fn ids(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.turns.iter().flat_map(Branch::ids)
    }

    fn len_with(&self, plan: &Plan) -> usize {
        let last = plan.turns.keys().last().copied().unwrap_or_default();
        let turns = (0..=last).filter_map(|n| plan.turns.get(&n).or_else(|| self.turns.get(n)));
        turns.map(|turn| turn.ids().count()).sum()
    }

    // Rendering

    fn plan(&self) -> Result<Plan, Error> {
        if self.is_open {
            return Err(Error::invalid("the last response has not ended"));
        }
        if self.turns.last().is_none_or(|turn| turn.role == Role::Assistant) {
            return Err(Error::invalid("nothing to respond to"));
        }
        let mut turns = BTreeMap::new();
        let mut prefix = Prefix::Kept;
        // The turn that has not been closed. After a response was discarded there is none.
        let unclosed = self.rendered.checked_sub(1).filter(|n| self.turns.len() > *n + 1);
        let unclosed = unclosed.filter(|n| self.responses.contains_key(n));
        if let Some(n) = unclosed.filter(|n| !self.is_exact(*n)) {
            match self.when_inexact {
                WhenInexact::Take => {}
                WhenInexact::Refuse => return Err(self.inexact(n)),
                WhenInexact::Reencode => {
                    turns.insert(n, self.reencoded(n, None)?);
                    prefix = Prefix::Reencoded { turn: n };
                }
            }
        }
        for n in self.thoughts_to_drop() {
            let Some(instead) = self.table().dropped else {
                return Err(self.unsupported("does not say how old thinking is dropped"));
            };
            turns.insert(n, self.reencoded(n, Some(instead))?);
            let first = match prefix {
                Prefix::ThinkingDropped { turn } | Prefix::Reencoded { turn } => turn,
                Prefix::Kept => n,
            };
            if n <= first {
                prefix = Prefix::ThinkingDropped { turn: n };
            }
        }
        let response = self.render(unclosed, &mut turns)?;
        Ok(Plan { turns, response, prefix })
    }

    fn table(&self) -> &'static Table {
        self.format.table()
    }

    fn sheet(&self) -> Sheet<'_> {
        Sheet::new(&*self.encoder, self.table())
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::new(ErrorKind::Unsupported, format!("the chat format {} {what}", self.format.name()))
    }

    fn is_exact(&self, turn: usize) -> bool {
        let ids = self.responses.get(&turn).map(|response| response.ids);
        !matches!(ids, Some(IdsExact::No(_))) && self.turns[turn].ids_missing() == 0
    }

    fn inexact(&self, turn: usize) -> Error {
        let why = match self.responses.get(&turn).map(|response| response.ids) {
            Some(IdsExact::No(why)) => why.to_string(),
            _ => format!("{} tokens came without id", self.turns[turn].ids_missing()),
        };
        Error::new(ErrorKind::InexactIds, format!("the ids of turn {turn} are not all there: {why}"))
    }

    /// The model's turns before the last user's turn in which there is thinking, if it is to be dropped.
    fn thoughts_to_drop(&self) -> Vec<usize> {
        let user = self.turns.iter().rposition(|turn| turn.role == Role::User);
        let before = user.filter(|_| !self.keep_thinking).unwrap_or(0);
        let thinks = |turn: &Branch| turn.leaves.iter().any(|leaf| leaf.kind == LeafKind::Thinking);
        self.responses.range(..before).map(|(n, _)| *n).filter(|n| thinks(&self.turns[*n])).collect()
    }

    /// A turn of the model, its ids made from its text; with `instead` in the place of its thinking. What the parser
    /// took for text stays text, whatever it spells.
    fn reencoded(&self, turn: usize, instead: Option<&str>) -> Result<Branch, Error> {
        let branch = &self.turns[turn];
        let response = self.responses.get(&turn);
        let has_head = response.is_some_and(|response| response.has_head);
        let (head, said) = branch.leaves.split_at(usize::from(has_head).min(branch.leaves.len()));
        let mut sheet = self.sheet();
        let mut sources = Vec::new();
        let mut leaves = Vec::new();
        match instead {
            Some(instead) => {
                sheet.begin(LeafKind::Marker);
                sources.push(None);
                let head = response.map_or("", |response| response.head);
                sheet.template(head)?;
                // A turn that went on behind results, without a header, did not begin with an opener either.
                sheet.template(if head.is_empty() { "" } else { instead })?;
            }
            // The prompt that the model has answered stays as it was.
            None => leaves.extend_from_slice(head),
        }
        // Templates that put nothing in the place of thinking leave out the blanks behind it.
        let mut trims = instead.is_some_and(str::is_empty);
        for leaf in said {
            if instead.is_some() && leaf.kind == LeafKind::Thinking {
                continue;
            }
            sheet.begin(leaf.kind.clone());
            sources.push(Some(leaf));
            let text = if trims { leaf.text.trim_start() } else { &leaf.text };
            trims = trims && text.is_empty();
            match &leaf.kind {
                LeafKind::Marker => sheet.structured(text, true)?,
                LeafKind::ToolCall(_) | LeafKind::Malformed { .. } => sheet.structured(text, false)?,
                LeafKind::Thinking => {
                    let [open, inner, close] = sheet::parts(leaf);
                    sheet.structured(open, true)?;
                    sheet.plain(inner);
                    sheet.structured(close, true)?;
                }
                LeafKind::Content | LeafKind::ToolResult { .. } => sheet.plain(text),
            }
        }
        for (mut leaf, source) in sheet.finish()?.into_iter().zip(sources) {
            if let Some(source) = source.filter(|source| source.text == leaf.text) {
                leaf.inner = source.inner.clone();
            }
            if leaf.kind != LeafKind::Marker || !leaf.text.is_empty() {
                leaves.push(leaf);
            }
        }
        let mut new = Branch::new(branch.role);
        new.leaves = leaves;
        Ok(new)
    }

    /// Renders what follows the last response, into `turns`: its close, the turns added since, the head of the
    /// next response.
    fn render(
        &self,
        unclosed: Option<usize>,
        turns: &mut BTreeMap<usize, Branch>,
    ) -> Result<Response, Error> {
        let mut sheet = self.sheet();
        // Each turn's place and how many leaves are its own.
        let mut shares = Vec::new();
        if let Some(n) = unclosed {
            sheet.begin(LeafKind::Marker);
            let turn = turns.get(&n).unwrap_or(&self.turns[n]);
            self.close(&mut sheet, n, turn)?;
            shares.push((n, sheet.len()));
        }
        for n in self.rendered..self.turns.len() {
            sheet.begin(LeafKind::Marker);
            self.turn(&mut sheet, n)?;
            shares.push((n, sheet.len()));
        }
        sheet.begin(LeafKind::Marker);
        let mut response = self.opening(&mut sheet)?;
        shares.push((self.turns.len(), sheet.len()));

        let mut leaves = sheet.finish()?.into_iter();
        let mut taken = 0;
        for (n, until) in shares {
            let own = leaves.by_ref().take(until - taken);
            let own = own.filter(|leaf| leaf.kind != LeafKind::Marker || !leaf.text.is_empty());
            taken = until;
            let branch = turns.entry(n).or_insert_with(|| match self.turns.get(n) {
                None => Branch::new(Role::Assistant),
                Some(turn) if n < self.rendered => turn.clone(),
                Some(turn) => Branch::new(turn.role),
            });
            branch.leaves.extend(own);
            response.has_head = !branch.leaves.is_empty();
        }
        Ok(response)
    }

    /// What the model's turn lacks at its end.
    fn close(&self, sheet: &mut Sheet<'_>, n: usize, turn: &Branch) -> Result<(), Error> {
        let table = self.table();
        let before_results = self.turns.get(n + 1).is_some_and(|next| next.role == Role::Tool);
        let close = if before_results { table.close_before_results } else { table.close };
        let sampled = turn.ids().last();
        let is = |names: &[&str]| sampled.is_some() && names.iter().any(|name| sheet.id(name) == sampled);
        let (ended, stopped) = (is(table.ends), is(table.stops));
        let thinking = self.has_open_thinking(sheet, n, turn, sampled);
        let skip = if ended { sheet.first_id(close).or(sampled) } else { sampled };
        sheet.skip(skip);
        if let (Some(think), true, false) = (table.think, thinking, ended || stopped) {
            sheet.template(think.close)?;
        }
        sheet.template(close)
    }

    fn has_open_thinking(
        &self,
        sheet: &Sheet<'_>,
        n: usize,
        turn: &Branch,
        sampled: Option<TokenId>,
    ) -> bool {
        let Some(response) = self.responses.get(&n) else { return false };
        match turn.leaves.get(usize::from(response.has_head)..).and_then(<[Leaf]>::last) {
            None => response.start == Start::Reasoning,
            Some(leaf) => {
                // A closer can have come as an id without text.
                let closer = self.table().think.and_then(|think| sheet.id(think.close));
                let closed = leaf.inner.end < leaf.text.len() || (closer.is_some() && closer == sampled);
                leaf.kind == LeafKind::Thinking && !closed
            }
        }
    }

    /// A turn that the caller has added.
    fn turn(&self, sheet: &mut Sheet<'_>, n: usize) -> Result<(), Error> {
        let (table, turn) = (self.table(), &self.turns[n]);
        let think = if self.thinking { table.system_think } else { "" };
        if n == 0 {
            sheet.template(table.begin)?;
            if let (false, Role::User, Some(system)) = (think.is_empty(), turn.role, table.system) {
                for piece in [system.open, think, system.close] {
                    sheet.template(piece)?;
                }
            }
        }
        let text = turn.text();
        match turn.role {
            Role::Tool => {
                let Some(results) = &table.results else {
                    return Err(self.unsupported("has no tool results"));
                };
                return self.results(sheet, results, turn);
            }
            Role::System => {
                let is_second = self.turns[..n].iter().any(|turn| turn.role == Role::System);
                let second = table.developer.filter(|_| is_second);
                let Some(system) = second.or(table.system) else {
                    return Err(self.unsupported("has no system turn"));
                };
                sheet.template(system.open)?;
                if !is_second {
                    sheet.template(think)?;
                }
                sheet.begin(LeafKind::Content);
                sheet.plain(&text);
                sheet.template(system.close)?;
            }
            Role::User | Role::Assistant => {
                sheet.template(table.user.open)?;
                sheet.begin(LeafKind::Content);
                sheet.plain(&text);
                if !self.thinking && !text.ends_with(table.user_off) {
                    sheet.template(table.user_off)?;
                }
                sheet.template(table.user.close)?;
            }
        }
        Ok(())
    }

    fn results(&self, sheet: &mut Sheet<'_>, results: &Results, turn: &Branch) -> Result<(), Error> {
        let Results { all, each, between, text } = results;
        sheet.template(all.open)?;
        for (n, leaf) in turn.leaves.iter().enumerate() {
            let LeafKind::ToolResult { call_id, name } = &leaf.kind else { continue };
            if n > 0 {
                let Some(between) = between else {
                    return Err(self.unsupported("does not say how several results are written"));
                };
                sheet.template(between)?;
            }
            fill(sheet, each.open, call_id, name)?;
            sheet.begin(leaf.kind.clone());
            let is_json = || serde_json::from_str::<serde::de::IgnoredAny>(&leaf.text).is_ok();
            match text {
                ResultText::JsonString => sheet.plain(&json_string(&leaf.text)),
                ResultText::Json if !is_json() => sheet.plain(&json_string(&leaf.text)),
                ResultText::Json | ResultText::AsIs => sheet.plain(&leaf.text),
            }
            fill(sheet, each.close, call_id, name)?;
        }
        sheet.template(all.close)
    }

    /// The generation prompt.
    fn opening(&self, sheet: &mut Sheet<'_>) -> Result<Response, Error> {
        let table = self.table();
        let after_results = self.turns.last().is_some_and(|turn| turn.role == Role::Tool);
        let next = if after_results { table.next_after_results } else { table.next };
        let opener = match next.off {
            _ if self.thinking => next.on,
            Some(off) => off,
            None => return Err(self.unsupported("does not say how thinking is turned off")),
        };
        sheet.template(next.head)?;
        sheet.template(opener)?;
        let opens = table.think.is_some_and(|think| opener.trim_end().ends_with(think.open));
        let start = if opens { Start::Reasoning } else { Start::Content };
        Ok(Response { head: next.head, start, has_head: false, ids: IdsExact::Unknown })
    }
}

/// The longest id of a call that a message shows, in characters.
const ID_CHARS_MAX: usize = 100;

/// A piece of the template with the call's id and name in it, which are plain text: the model wrote them.
fn fill(sheet: &mut Sheet<'_>, template: &str, id: &str, name: &str) -> Result<(), Error> {
    let id_json = json_string(id);
    let mut rest = template;
    loop {
        let values = [("{name}", name), ("{id}", id), ("{id:json}", &id_json)];
        let places = values.iter().filter_map(|(key, value)| Some((rest.find(key)?, key.len(), *value)));
        let Some((at, len, value)) = places.min_by_key(|(at, ..)| *at) else { break };
        sheet.template(&rest[..at])?;
        sheet.plain(value);
        rest = &rest[at + len..];
    }
    sheet.template(rest)
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A tree, turn by turn.
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, turn) in self.turns.iter().enumerate() {
            let end = if n == 0 { "" } else { "\n" };
            write!(f, "{end}{turn}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, encoder: _, thinking, keep_thinking, when_inexact, .. } = self;
        let Self { context_tokens_max, turns, rendered, is_open, responses, .. } = self;
        f.debug_struct("Context")
            .field("format", format)
            .field("thinking", thinking)
            .field("keep_thinking", keep_thinking)
            .field("when_inexact", when_inexact)
            .field("context_tokens_max", context_tokens_max)
            .field("turns", turns)
            .field("rendered", rendered)
            .field("is_open", is_open)
            .field("responses", responses)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
