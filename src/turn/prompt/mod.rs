//! Builds the ids of the next prompt from the turns of a conversation.
//!
//! The code is pure: it does no I/O.
//!
//! This text is for maintainers. The ids of a prompt are the ids of all leaves of all turns, in
//! order. The ids are stored only in the leaves. Turns that the caller adds have only text until
//! [`Context::begin_response`] renders them. `begin_response` writes three parts on one [`sheet`]:
//! the end of the model's last turn, all later turns, and the opening of the model's next turn. An
//! opening is the text after which the model answers.
//!
//! The sheet splits template text at the family's tokens. It encodes the text between two tokens
//! in one piece, across leaves and turns. It never splits text from the caller or from a tool. If
//! such text spells `<|im_end|>`, it stays text.
//!
//! ```text
//!  ids of turns ─┬─ of the model: as received ── close, unless sampled ┐
//!                └─ rendered earlier: never changed                    ├─ Sheet ─▶ leaves ─▶ ids
//!                                          turns added since, opening ─┘
//! ```
//!
//! Only two events change ids that already exist. Old reasoning is dropped, or a turn is encoded
//! again because ids are missing. [`Prefix`] reports both events. To add a family, add a file to
//! `families/`. The README in that folder describes the keys.

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

/// Encodes text into the ids that a prompt needs.
///
/// [`Tokenizer`](crate::Tokenizer) implements this trait. You can implement it for your tokenizer.
pub trait Encode: Send + Sync {
    /// Encodes plain text, and returns each id with the byte of `text` at which its token begins.
    ///
    /// The positions must be in ascending order. If the text spells a marker, the marker must stay
    /// text.
    ///
    /// # Errors
    ///
    /// Returns an error if the text cannot be encoded.
    fn encode_text(&self, text: &str) -> Result<Vec<(TokenId, usize)>, Error>;

    /// Returns the id of the marker with this name, such as `<|im_end|>`.
    ///
    /// Returns `None` if the marker is not a token of the vocabulary.
    fn token(&self, name: &str) -> Option<TokenId>;
}

/// A conversation, and the ids of its next prompt.
///
/// The next prompt consists of these parts, in this order:
///
/// 1. the ids of the earlier prompt;
/// 2. the ids received from the model;
/// 3. the text that ends the model's turn, unless the model wrote this text;
/// 4. the turns that you added after the model's turn;
/// 5. the text that opens the model's next turn.
///
/// The server can then use its prefix cache, and the prompt contains exactly the tokens that the
/// model wrote.
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
/// The text of a turn is used unchanged. If the family's template trims text, trim the text before
/// you add it. Some vocabularies put a space before each text (SentencePiece with a dummy prefix).
/// With such a vocabulary, the prompt has a space after each marker.
///
/// A clone copies the turns. The cost of a prompt grows with its length.
#[derive(Debug, Clone)]
#[must_use]
pub struct Context {
    format: ChatFormat,
    encoder: Arc<dyn Encode>,
    reasoning: bool,
    keep_reasoning: bool,
    when_inexact: WhenInexact,
    max_context_tokens: Option<usize>,
    turns: Vec<Branch>,
    /// The number of turns that have ids. Later turns are not rendered yet.
    rendered: usize,
    /// True while the model writes the last rendered turn.
    is_open: bool,
    /// The state of the model's turns, by their position.
    responses: BTreeMap<usize, Response>,
}

/// The state of a turn of the model, apart from its leaves.
#[derive(Debug, Clone, Copy)]
struct Response {
    /// The text at the start of the opening, without the part about reasoning.
    head: &'static str,
    start: Start,
    /// True if the branch begins with a leaf that the model did not write.
    has_head: bool,
    ids: IdsExact,
}

/// Selects what happens to a turn of the model that has missing ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenInexact {
    /// Encodes the text of the turn again.
    ///
    /// The new ids belong to the text, and may differ from the ids that the model sampled.
    /// [`Prefix::Reencoded`] reports this.
    #[default]
    Reencode,
    /// Fails with [`InexactIds`](ErrorKind::InexactIds).
    Refuse,
    /// Uses the ids that arrived. The prompt lacks the tokens that arrived without an id.
    Take,
}

/// The next prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prompt {
    /// The ids of the prompt.
    pub ids: Vec<TokenId>,
    /// The state in which the parser of the answer starts: in content or in reasoning.
    pub start: Start,
    /// Reports whether the prompt begins with the earlier prompt and the ids received.
    pub prefix: Prefix,
}

/// Reports whether a prompt begins with the ids of the earlier prompt and the ids received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prefix {
    /// The prompt begins with the ids of the earlier prompt and the ids received.
    Kept,
    /// The prompt differs from this turn on, because reasoning was dropped.
    ReasoningDropped {
        /// The number of the turn, counted from 0.
        turn: usize,
    },
    /// The prompt differs from this turn on, because a turn with missing ids was encoded again.
    Reencoded {
        /// The number of the turn, counted from 0.
        turn: usize,
    },
}

impl Context {
    /// Creates an empty conversation.
    ///
    /// Reasoning is on, old reasoning is kept, and the number of tokens is not limited.
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
        /// Sets whether the prompt lets the model reason, if the family has a switch. Default true.
        ///
        /// If a family always reasons, `false` makes [`begin_response`](Self::begin_response)
        /// return [`Unsupported`](ErrorKind::Unsupported). Set this option before the first prompt,
        /// because some families write it into the system turn.
        reasoning: bool,
        /// Sets whether reasoning stays in the prompt after the next user turn. Default true.
        ///
        /// With `false`, reasoning is dropped from the prompt and from the tree, as in the family's
        /// template. The prompt then does not begin with the earlier prompt.
        keep_reasoning: bool,
        /// Sets what to do with turns that have missing ids. Default [`WhenInexact::Reencode`].
        when_inexact: WhenInexact,
        /// Sets the maximum length of a prompt, in tokens. Default: no limit.
        ///
        /// The limit does not include the model's answer.
        max_context_tokens: usize,
    }

    // Adding turns

    /// Adds a system turn. The text must describe the tools in the way that the family expects.
    pub fn system(&mut self, text: impl Into<String>) {
        self.add(Role::System, text.into());
    }

    /// Adds a user turn.
    pub fn user(&mut self, text: impl Into<String>) {
        self.add(Role::User, text.into());
    }

    fn add(&mut self, role: Role, text: String) {
        let mut branch = Branch::new(role);
        branch.leaves.push(Leaf::new(LeafKind::Content, text, Vec::new()));
        self.turns.push(branch);
    }

    /// Adds the result of a tool call of the last response.
    ///
    /// You may add results in any order. You may add them while the model is still writing the
    /// response, or after the next user turn. In the prompt, the results always follow the
    /// response, in the order of the calls. A call may stay without a result.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](ErrorKind::InvalidInput) if the last response has no such call, if
    /// the call already has a result, or if the next prompt was already made.
    pub fn tool_result(&mut self, call_id: &str, text: impl Into<String>) -> Result<(), Error> {
        let after = self.turns.iter().rposition(|turn| turn.role == Role::Assistant);
        let at = after.map_or(0, |response| response + 1);
        let calls: Vec<&ToolCall> = after.iter().flat_map(|n| self.turns[*n].tool_calls()).collect();
        let unfit = |why: &str| Error::invalid(format!("{why} {:?}", printable(call_id, MAX_ID_CHARS)));
        if !calls.iter().any(|call| call.id == call_id) {
            return Err(unfit("the last response has no call"));
        }
        if at < self.rendered {
            return Err(unfit("a prompt was already made without the result of the call"));
        }
        let earlier = self.turns.get(at).filter(|turn| turn.role == Role::Tool);
        let mut results = earlier.map_or_else(Vec::new, |turn| turn.leaves.clone());
        let is_new = earlier.is_none();
        results.push(Leaf::new(LeafKind::Content, text, Vec::new()));
        // A model may use one id for several calls. The results of these calls are matched in the
        // order of the calls.
        let mut branch = Branch::new(Role::Tool);
        for ToolCall { id, name, .. } in calls {
            let belongs = |leaf: &Leaf| leaf.result_of().unwrap_or(call_id) == id;
            if let Some(n) = results.iter().position(belongs) {
                let kind = LeafKind::ToolResult { call_id: id.clone(), name: name.clone() };
                branch.leaves.push(Leaf { kind, ..results.remove(n) });
            }
        }
        if !results.is_empty() {
            return Err(unfit("there is already a result of the call"));
        }
        if is_new {
            // A user turn that was added while the model wrote follows the results.
            self.turns.insert(at, branch);
        } else {
            self.turns[at] = branch;
        }
        Ok(())
    }

    // The model's turns

    /// Returns the next prompt, and opens the model's turn.
    ///
    /// Pass the answer to [`add_response`](Self::add_response). You may add turns while the model's
    /// turn is open. Make the next prompt only after the model's turn has ended.
    ///
    /// # Errors
    ///
    /// - [`Limit`](ErrorKind::Limit) with [`Limit::ContextTokens`] if the prompt is too long.
    /// - [`InvalidInput`](ErrorKind::InvalidInput) if there is nothing to respond to, or if the
    ///   last response has not ended.
    /// - [`Unsupported`](ErrorKind::Unsupported) if the chat format does not define a part that the
    ///   prompt needs, such as a system turn or tool results.
    /// - [`InexactIds`](ErrorKind::InexactIds) if ids are missing and [`WhenInexact::Refuse`] is
    ///   set.
    /// - Any error that the encoder returns.
    ///
    /// After an error, the context is unchanged.
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

    /// Adds the model's answer, as the parser returned it, and ends the model's turn.
    ///
    /// `ids` is the `ids_exact` of the stream's report. Use this method also for a turn that was
    /// cut off. The next prompt then closes the turn.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](ErrorKind::InvalidInput) if no response was begun.
    pub fn add_response(&mut self, turn: Branch, ids: IdsExact) -> Result<(), Error> {
        let none = || Error::invalid("no response was begun: call begin_response first");
        let open = self.response_mut().ok_or_else(none)?;
        open.leaves.extend(turn.leaves);
        self.end_response(ids);
        Ok(())
    }

    /// Returns the model's turn while the model writes it.
    pub(crate) fn response_mut(&mut self) -> Option<&mut Branch> {
        self.rendered.checked_sub(1).filter(|_| self.is_open).and_then(|n| self.turns.get_mut(n))
    }

    /// Ends the model's turn after the parser's thread has written it.
    ///
    /// `ids` is the `ids_exact` of the stream's report. It does not matter how the turn ended.
    /// Without an open turn, this method does nothing.
    pub fn end_response(&mut self, ids: IdsExact) {
        let was_open = std::mem::take(&mut self.is_open);
        if let Some(mut response) = self.responses.last_entry().filter(|_| was_open) {
            response.get_mut().ids = ids;
        }
    }

    /// Removes the last response, open or ended, if no turn follows it.
    ///
    /// You can then make the prompt again.
    pub fn discard_response(&mut self) {
        if self.turns.last().is_some_and(|turn| turn.role == Role::Assistant) {
            self.turns.pop();
            self.is_open = false;
            self.rendered = self.turns.len();
            self.responses.remove(&self.turns.len());
        }
    }

    // Reading the conversation

    /// Returns all turns.
    ///
    /// Turns added since the last prompt have only text. [`begin_response`](Self::begin_response)
    /// adds their ids and the text that the template puts around them.
    #[must_use]
    pub fn turns(&self) -> &[Branch] {
        &self.turns
    }

    /// Returns the number of tokens of the next prompt.
    ///
    /// If there is nothing to respond to, or if a response is open, it returns the number of tokens
    /// in the conversation.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`begin_response`](Self::begin_response), except the error for
    /// the limit.
    pub fn len_tokens(&self) -> Result<usize, Error> {
        match self.turns.last() {
            Some(turn) if turn.role != Role::Assistant && !self.is_open => Ok(self.len_with(&self.plan()?)),
            _ => Ok(self.ids().count()),
        }
    }

    /// Returns the chat format.
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

/// The maximum length of a call id in a message, in characters.
const MAX_ID_CHARS: usize = 100;

/// Prints the turns as trees, one after the other.
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
