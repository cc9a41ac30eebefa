//! Parses the output of a model into a tree of reasoning, content and tool calls.
//!
//! The parser works while the model writes. It does no input or output.
//!
//! The comments in this folder use these words:
//!
//! - A *dialect* describes how a family of models writes reasoning and calls. A *family* is a group
//!   of models that write in the same way.
//! - A *record* is a dialect in JSON. A *table* is the compiled form of a dialect.
//! - A *marker* is a text with a special meaning in a dialect, such as `<tool_call>`. A marker is
//!   *real* if the id of its token identifies it.
//! - An *opener* is a marker that begins reasoning or calls.
//! - A *leaf* is one part of the resulting tree: reasoning, content, a call or a marker.
//! - A *frame* is a marker that becomes a leaf and has no other effect.
//! - A *region* is the text from the opener of calls to their end marker. A *machine* reads the
//!   regions that are written in one way.
//! - A *stop* is a marker that ends a region whose end marker is missing. The *bounds* of a region
//!   are its end marker and its stops. *Other text* is text in a region that does not belong to a
//!   call.
//! - An *offset* is a position in the text of the turn, in bytes.
//! - *Prose* is ordinary text that only mentions a marker.
//!
//! Each file uses only files from earlier rows of this table:
//!
//! | files | contents |
//! | --- | --- |
//! | `built_in` | the names of the built-in dialects and chat formats |
//! | `marker`, `schema` | the markers of a dialect, and the types of arguments |
//! | `view` | the text of the turn so far, and the real markers in it |
//! | `raw`, `elements`, `json_scan`, `literal`, `lexer` | readers of values for several machines |
//! | `machine`, `table` | the trait of a machine, and the compiled form of a dialect |
//! | `machines/` | the machines, one file for each way to write calls |
//! | `record`, `compile`, `dialect` | dialects in JSON, their conversion, and a list of them |
//! | `input`, `engine` | the tokens of a turn, and the conversion of their text into leaves |

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
/// - The result does not depend on where the text is cut into tokens.
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
    /// By default, the turn starts with content, there are no tools, and markers are recognized by
    /// their text.
    pub fn new(dialect: Dialect) -> Self {
        Self { engine: Engine::new(&dialect), branch: Branch::new(Role::Assistant) }
    }

    /// Sets the schemas of the tools.
    ///
    /// Each tool is an object with `name` and `parameters`, or an object with both keys under
    /// `function`, as in requests to chat endpoints. In formats with arguments as raw text, the
    /// schemas define the types of the values. Without a schema, a value is a string.
    pub fn tools(mut self, tools: &[Value]) -> Self {
        self.engine.tools = Schemas::new(tools);
        self
    }

    /// Sets the added tokens of the model, each with its text and its id.
    ///
    /// Pass [`Tokenizer::added_tokens`](crate::Tokenizer::added_tokens), or any other pairs. A
    /// marker that is an added token is then recognized only by the id of that token. The same
    /// characters in other tokens are text. If a token arrives without an id, its text is still
    /// compared with the markers.
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

    /// Sets the part of the turn that the prompt has already opened. The default is
    /// [`Start::Content`].
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

    /// Parses the next token and returns the calls that this token completes, in text order.
    ///
    /// `text` may be empty. `id` is `None` if the server did not send the id.
    pub fn push(&mut self, text: &str, id: Option<TokenId>) -> Vec<PendingToolCall> {
        self.engine.push(&mut self.branch, text, id)
    }

    /// Parses one item of a stream and returns the calls that this item completes.
    ///
    /// A token is handled as in [`push`](Self::push). If a chat endpoint has already separated the
    /// reasoning and the calls, they become leaves of the corresponding kind. [`StreamToken::Done`]
    /// and [`StreamToken::Error`] have no effect. To end the turn, call [`finish`](Self::finish) or
    /// [`cut_off`](Self::cut_off).
    pub fn push_item(&mut self, item: &StreamToken) -> Vec<PendingToolCall> {
        self.engine.push_item(&mut self.branch, item)
    }

    /// Returns the part of the turn that is already parsed.
    ///
    /// Text that may still become a marker or a call is not included.
    #[must_use]
    pub fn branch(&self) -> &Branch {
        &self.branch
    }

    /// Ends the turn. Returns its branch and the calls that the end of the turn completes.
    ///
    /// `finish` is the finish reason in [`StreamToken::Done`]. `None` means that the turn ended
    /// cleanly. If the turn was cut off (`length`, `abort`, a broken stream), a call is returned
    /// only if its end was received.
    #[must_use]
    pub fn finish(mut self, finish: Option<&FinishReason>) -> (Branch, Vec<PendingToolCall>) {
        let calls = self.engine.finish(&mut self.branch, is_clean(finish));
        (self.branch, calls)
    }

    /// Ends a turn whose stream broke off.
    ///
    /// The result is the same as from [`finish`](Self::finish) with the reason `length`.
    #[must_use]
    pub fn cut_off(mut self) -> (Branch, Vec<PendingToolCall>) {
        let calls = self.engine.finish(&mut self.branch, false);
        (self.branch, calls)
    }
}
