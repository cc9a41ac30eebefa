//! Turns of a conversation to the ids of the next prompt. Pure.
//!
//! A letter to whoever changes this next. The ids of a prompt are the ids of all leaves of all turns, in order: there is
//! no other place where they are kept. Turns that the caller adds have text only, until [`Context::begin_response`]
//! renders them: what closes the model's last turn, all turns after it and the opener of the model's next
//! turn are written on one [`sheet`], which cuts template text at the family's tokens and encodes what stands
//! between two of them at once, across leaves and turns. What a caller or a tool has written is never cut, so that a
//! spelled `<|im_end|>` in it stays text.
//!
//! ```text
//!  ids of turns ─┬─ the model's: as received ── close, if not sampled ┐
//!                └─ rendered before: never touched again              ├─ Sheet ─▶ leaves ─▶ ids
//!                                          turns added since, opener ─┘
//! ```
//!
//! Two things change ids that were there already, and [`Prefix`] says so: old reasoning that is dropped, and
//! a turn whose ids did not all come. To add a family, add a file to `families/`: its README says how.

pub(crate) mod family;
mod render;
mod sheet;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use self::family::ChatFormat;
use self::render::Plan;
use super::parse::engine::Start;
use crate::error::escape::printable;
use crate::error::macros::setters;
use crate::error::{Error, ErrorKind, Limit};
use crate::types::ids::{IdsExact, TokenId};
use crate::types::tree::{Branch, Leaf, LeafKind, Role, ToolCall};

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
/// let mut context = Context::new(format, Chars).max_context_tokens(4_096);
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
#[derive(Debug, Clone)]
pub struct Context {
    format: ChatFormat,
    encoder: Arc<dyn Encode>,
    reasoning: bool,
    keep_reasoning: bool,
    when_inexact: WhenInexact,
    max_context_tokens: Option<usize>,
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
    /// What lets the model speak, without what is said about reasoning.
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
    /// Not from this turn on, counted from 0: its reasoning was dropped.
    ReasoningDropped {
        /// The turn.
        turn: usize,
    },
    /// Not from this turn on: its ids did not all come and its text was encoded again.
    Reencoded {
        /// The turn.
        turn: usize,
    },
}

impl Context {
    /// An empty conversation. Thinking is on, old reasoning is kept, there is no limit of tokens.
    #[must_use]
    pub fn new(format: ChatFormat, encoder: impl Encode + 'static) -> Self {
        Self {
            format,
            encoder: Arc::new(encoder),
            reasoning: true,
            keep_reasoning: true,
            when_inexact: WhenInexact::default(),
            max_context_tokens: None,
            turns: Vec::new(),
            rendered: 0,
            is_open: false,
            responses: BTreeMap::new(),
        }
    }

    setters! {
        /// Whether the prompt lets the model think, where the family has a switch. Default true; false is
        /// [`Unsupported`](ErrorKind::Unsupported) at [`begin_response`](Self::begin_response) for families that
        /// always think. Set it before the first turn is rendered: some families say it in the system turn.
        reasoning: bool,
        /// Whether reasoning stays in the prompt after the next user's turn. Default true. If false, it is dropped as
        /// the family's template does it, from the tree too, and the prefix is not kept then.
        keep_reasoning: bool,
        /// What to do about turns whose ids did not all come. Default: [`WhenInexact::Reencode`].
        when_inexact: WhenInexact,
        /// The longest prompt, in tokens; what the model writes is not counted in. Default: no limit.
        max_context_tokens: usize,
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
        let unfit = |why: &str| Error::invalid(format!("{why} {:?}", printable(call_id, MAX_ID_CHARS)));
        if !calls.iter().any(|call| call.id == call_id) {
            return Err(unfit("the last response has no call"));
        }
        if at < self.rendered {
            return Err(unfit("too late for the result of"));
        }
        let earlier = self.turns.get(at).filter(|turn| turn.role == Role::Tool);
        let mut results = earlier.map_or_else(Vec::new, |turn| turn.leaves.clone());
        let is_new = earlier.is_none();
        results.push(Leaf::new(LeafKind::Content, text, Vec::new()));
        // A model may use one id for several calls. The results of such calls are in the order of the calls.
        let mut branch = Branch::new(Role::Tool);
        for ToolCall { id, name, .. } in calls {
            let belongs = |leaf: &Leaf| leaf.result_of().unwrap_or(call_id) == id;
            if let Some(n) = results.iter().position(belongs) {
                let kind = LeafKind::ToolResult { call_id: id.clone(), name: name.clone() };
                branch.leaves.push(Leaf { kind, ..results.remove(n) });
            }
        }
        if !results.is_empty() {
            return Err(unfit("there is already a result of"));
        }
        if is_new {
            // A user's turn that was added while the model wrote is after the results.
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
        if let Some(max) = self.max_context_tokens.filter(|max| len > *max) {
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
}

/// The longest id of a call that a message shows, in characters.
const MAX_ID_CHARS: usize = 100;

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

impl fmt::Debug for dyn Encode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encode")
    }
}

#[cfg(test)]
mod tests;
