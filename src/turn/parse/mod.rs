//! Parses the output of a model into a tree of reasoning, content and tool calls.
//!
//! The parser works while the model writes. It does no input or output.
//!
//! Each file uses only files from earlier rows of this table:
//!
//! | files | contents |
//! | --- | --- |
//! | `built_in` | the names of the built-in dialects and chat formats |
//! | `marker`, `schema` | the texts of a dialect, and the types of arguments |
//! | `view` | the turn so far, in which real markers differ from text that only looks like one |
//! | `raw`, `elements`, `json_scan`, `literal`, `lexer` | the readers of values that several machines share |
//! | `machine`, `table` | the trait of a machine, which reads a region of calls, and the parts of a dialect |
//! | `machines/` | the machines, one file for each way to write calls |
//! | `record`, `compile`, `dialect` | a dialect in JSON, its conversion into a table, and the list of all dialects |
//! | `input`, `engine` | the tokens of a turn, and their conversion into leaves |

pub(crate) mod built_in;
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

/// Parses one turn of the model, token by token.
///
/// You can call the methods yourself, or let [`run`](Self::run) call them on a thread.
///
/// - The parser accepts every input. Unexpected output becomes content or a malformed leaf, never
///   an error.
/// - The result is the same wherever the text is cut into tokens.
/// - The time is linear in the length of the text. The memory is a small multiple of this length.
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
#[must_use]
pub struct ResponseParser {
    pub(crate) engine: Engine,
    branch: Branch,
}

impl ResponseParser {
    /// Creates a parser for one turn in this dialect.
    ///
    /// The parser starts in content, has no tools and recognizes markers by their text.
    pub fn new(dialect: Dialect) -> Self {
        Self { engine: Engine::new(&dialect), branch: Branch::new(Role::Assistant) }
    }

    /// Sets the schemas of the tools.
    ///
    /// Each tool is an object with `name` and `parameters`, or an object with these two under
    /// `function`, as in requests to chat endpoints. Formats that write arguments as raw text take
    /// the types of the values from the schemas. Without a schema, a value is a string.
    pub fn tools(mut self, tools: &[Value]) -> Self {
        self.engine.tools = Schemas::new(tools);
        self
    }

    /// Sets the added tokens of the model, each with its text and its id.
    ///
    /// Pass [`Tokenizer::added_tokens`](crate::Tokenizer::added_tokens), or any other pairs. A
    /// marker that is an added token then counts only as that token. The same characters in other
    /// tokens are text. If a token arrives without an id, its text is still compared with the
    /// markers.
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
    pub fn markers<'a, T>(mut self, added: impl IntoIterator<Item = T>) -> Self
    where
        T: Into<(&'a str, TokenId)>,
    {
        self.engine.know(added.into_iter().map(Into::into));
        self
    }

    /// Sets what the prompt has already opened. The default is [`Start::Content`].
    pub fn start(mut self, start: Start) -> Self {
        self.engine.begin(start);
        self
    }

    /// Sets the limits of the parser.
    ///
    /// A call that exceeds [`max_nesting`](Limits::max_nesting) or
    /// [`max_arguments_bytes`](Limits::max_arguments_bytes) is malformed. [`run`](Self::run) also
    /// uses [`max_turn_bytes`](Limits::max_turn_bytes). The other limits have no effect on the
    /// parser.
    pub fn limits(mut self, limits: &Limits) -> Self {
        self.engine.limits = *limits;
        self
    }

    /// Takes the next token of the stream and returns the calls that it completes, in text order.
    ///
    /// `text` may be empty. `id` is `None` if the server did not send the id.
    pub fn push(&mut self, text: &str, id: Option<TokenId>) -> Vec<PendingToolCall> {
        self.engine.push(&mut self.branch, text, id)
    }

    /// Takes one item of a stream and returns the calls that it completes.
    ///
    /// A token is handled as in [`push`](Self::push). Reasoning and calls that a chat endpoint has
    /// already separated become leaves of their kind. [`StreamToken::Done`] and
    /// [`StreamToken::Error`] have no effect: end the turn with [`finish`](Self::finish) or
    /// [`cut_off`](Self::cut_off).
    pub fn push_item(&mut self, item: &StreamToken) -> Vec<PendingToolCall> {
        self.engine.push_item(&mut self.branch, item)
    }

    /// Returns the turn so far.
    ///
    /// Text that may still become a marker or a call is not included yet.
    #[must_use]
    pub fn branch(&self) -> &Branch {
        &self.branch
    }

    /// Ends the turn and returns its branch, and the calls that the end of the turn completes.
    ///
    /// `finish` is the finish reason in [`StreamToken::Done`]. `None` counts as a clean end. If the
    /// turn was cut off (`length`, `abort`, a broken stream), a call is returned only if its end
    /// was received.
    #[must_use]
    pub fn finish(mut self, finish: Option<&FinishReason>) -> (Branch, Vec<PendingToolCall>) {
        let calls = self.engine.finish(&mut self.branch, is_clean(finish));
        (self.branch, calls)
    }

    /// Ends a turn whose stream broke off, like [`finish`](Self::finish) with the reason `length`.
    #[must_use]
    pub fn cut_off(mut self) -> (Branch, Vec<PendingToolCall>) {
        let calls = self.engine.finish(&mut self.branch, false);
        (self.branch, calls)
    }
}
