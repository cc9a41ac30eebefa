//! Tokens to a tree: reasoning, content and tool calls, told apart while the model writes. Pure.
//!
//! Each file uses only files of earlier rows:
//!
//! | files | what they have |
//! | --- | --- |
//! | `marker`, `schema` | the texts of a dialect; the types of arguments |
//! | `view` | the turn so far, in which real markers differ from text that only looks like one |
//! | `raw`, `elements`, `json_scan`, `literal`, `lexer` | how values are read; several machines share these |
//! | `machine`, `table` | what reads a region of calls; what a dialect consists of |
//! | `machines/` | the machines, one file for each way of writing calls |
//! | `record`, `compile`, `dialect` | a dialect in JSON, the same as a table, the list of all dialects |
//! | `input`, `engine` | the tokens of a turn, and how they become leaves |

mod compile;
pub(crate) mod dialect;
mod elements;
pub(crate) mod engine;
mod input;
mod json_scan;
mod lexer;
mod literal;
mod machine;
mod machines;
mod marker;
mod raw;
mod record;
mod schema;
mod table;
mod view;

use serde_json::Value;

use self::dialect::Dialect;
use self::engine::{Engine, Start};
use self::schema::Schemas;
use crate::config::Limits;
pub(crate) use crate::types::ids::is_clean;
use crate::types::ids::{FinishReason, TokenId};
use crate::types::token::StreamToken;
pub(crate) use crate::types::tree::PendingToolCall;
use crate::types::tree::{Branch, Role};

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
    pub(crate) engine: Engine,
    /// For a turn that is run on a thread.
    pub(crate) max_turn_bytes: usize,
    branch: Branch,
}

impl ResponseParser {
    /// A parser for one turn in this dialect: no tools known, markers told by their text, starting in content.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        let max_turn_bytes = Limits::default().max_turn_bytes;
        Self { engine: Engine::new(&dialect), max_turn_bytes, branch: Branch::new(Role::Assistant) }
    }

    /// The tools' schemas, each `{"name", "parameters"}` or that under `function` as chat endpoints take them.
    /// Formats that write arguments as raw text get their types from them; without a schema a value is a string.
    #[must_use]
    pub fn tools(mut self, tools: &[Value]) -> Self {
        self.engine.tools = Schemas::new(tools);
        self
    }

    /// The model's added tokens, each its text and its id:
    /// [`Tokenizer::added_tokens`](crate::Tokenizer::added_tokens), or any pairs. A marker that is one of them then
    /// counts only as that token; the same characters spelled with other tokens are text. A text
    /// whose token came without an id is still matched as text.
    ///
    /// ```
    /// use tokenwire::{Dialect, ResponseParser};
    ///
    /// let parser = ResponseParser::new(Dialect::by_name("hermes")?);
    /// let mut parser = parser.markers([("<tool_call>", 151_657), ("</tool_call>", 151_658)]);
    /// parser.push("<tool_call>", Some(27));
    /// let (turn, _) = parser.finish(None);
    /// assert_eq!(turn.content(), "<tool_call>", "spelled with another token, so it is text");
    /// # Ok::<(), tokenwire::Error>(())
    /// ```
    #[must_use]
    pub fn markers<'a, T>(mut self, added: impl IntoIterator<Item = T>) -> Self
    where
        T: Into<(&'a str, TokenId)>,
    {
        self.engine.know(added.into_iter().map(Into::into));
        self
    }

    /// What the prompt has opened. Default: [`Start::Content`].
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.engine.begin(start);
        self
    }

    /// Of the limits, [`max_nesting`](Limits::max_nesting) and
    /// [`max_arguments_bytes`](Limits::max_arguments_bytes) are used: a call that passes one is malformed. So is
    /// [`max_turn_bytes`](Limits::max_turn_bytes), by [`run`](Self::run) alone.
    #[must_use]
    pub fn limits(mut self, limits: &Limits) -> Self {
        self.engine.max_nesting = limits.max_nesting;
        self.engine.max_arguments_bytes = limits.max_arguments_bytes;
        self.max_turn_bytes = limits.max_turn_bytes;
        self
    }

    /// Takes one token, as the stream gave it: its text, which may be empty, and its id, if it is known.
    /// Returns the calls that it has completed, in the order written.
    pub fn push(&mut self, text: &str, id: Option<TokenId>) -> Vec<PendingToolCall> {
        self.engine.push(&mut self.branch, text, id)
    }

    /// Takes one item of a stream: a token as [`push`](Self::push) does, and what a chat endpoint has told apart itself
    /// (reasoning, calls) as a leaf of its kind. The end of the stream is not for here.
    pub fn push_item(&mut self, item: &StreamToken) -> Vec<PendingToolCall> {
        self.engine.push_item(&mut self.branch, item)
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
        let calls = self.engine.finish(&mut self.branch, is_clean(finish));
        (self.branch, calls)
    }

    /// Ends a turn whose stream broke off, as [`finish`](Self::finish) does with `length`.
    #[must_use]
    pub fn cut_off(mut self) -> (Branch, Vec<PendingToolCall>) {
        let calls = self.engine.finish(&mut self.branch, false);
        (self.branch, calls)
    }
}
