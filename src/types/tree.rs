//! The tree of a conversation: a branch for each turn, with leaves that hold text and its ids.
//!
//! Two promises hold for a branch that the parser builds:
//!
//! - If you join the texts of its leaves, the result is the text received.
//! - If you join the ids of its leaves, the result is the list of ids received.
//!
//! Each marker and each blank is therefore part of a leaf. [`Leaf::inner`] returns the text without
//! markers, trimmed, for people to read. This method does not change the leaf.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ids::TokenId;
use crate::error::escape::printable;
use crate::error::macros::{display_as_str, names};

names! {
    /// The speaker of a turn.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    #[non_exhaustive]
    pub enum Role {
        /// Instructions to the model, including its tools.
        System = "system",
        /// A person, or a program that acts for a person.
        User = "user",
        /// The model.
        Assistant = "assistant",
        /// Results of tool calls.
        Tool = "tool",
    }
}

/// A turn of the conversation.
///
/// ```
/// use tokenwire::{Dialect, ResponseParser};
///
/// let mut parser = ResponseParser::new(Dialect::by_name("hermes")?);
/// parser.push("<think>Easy.</think>Paris.", None);
/// let (branch, _) = parser.finish(None);
/// assert_eq!((branch.reasoning(), branch.content()), ("Easy.".into(), "Paris.".into()));
/// assert_eq!(branch.text(), "<think>Easy.</think>Paris.");
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Branch {
    /// The speaker.
    pub role: Role,
    /// The parts of the turn, in order.
    pub leaves: Vec<Leaf>,
}

/// A part of a turn: its text as received, and the ids of the text.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Leaf {
    /// The kind of the leaf.
    #[serde(flatten)]
    pub kind: LeafKind,
    /// The text as received, including markers and blanks.
    pub text: String,
    /// The ids of the tokens whose first byte is in `text`.
    ///
    /// A token without text belongs to the leaf before it.
    pub ids: Vec<TokenId>,
    /// The number of tokens in this leaf whose id the server did not send.
    ///
    /// If this number is zero in all leaves, no id is missing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ids_missing: u32,
    /// The range of `text` between the opening and the closing markers.
    pub(crate) inner: Range<usize>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The content of a leaf.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum LeafKind {
    /// Ordinary text: the answer itself, or the text of a system or user turn.
    Content,
    /// Reasoning.
    #[serde(alias = "thinking")]
    Reasoning,
    /// A complete tool call.
    ToolCall(ToolCall),
    /// A tool call that cannot be run.
    Malformed {
        /// The reason why the call cannot be run.
        reason: Malformed,
    },
    /// The result of a tool call.
    ToolResult {
        /// The id of the call.
        call_id: String,
        /// The name of the tool.
        name: String,
    },
    /// A part of the structure that does not belong to another leaf.
    ///
    /// Examples are the end of the turn, the frame around a list of calls, and the text that a
    /// template puts around a turn.
    Marker,
}

impl LeafKind {
    /// Returns the stable name, which the command line also prints.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Reasoning => "reasoning",
            Self::ToolCall(_) => "tool_call",
            Self::Malformed { .. } => "malformed",
            Self::ToolResult { .. } => "tool_result",
            Self::Marker => "marker",
        }
    }
}

/// A tool call as the model wrote it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ToolCall {
    /// The id that the model wrote, in a format with ids (Kimi, Mistral, Cohere).
    ///
    /// In other formats, the ids are `call_0`, `call_1` and so on, counted within the turn.
    pub id: String,
    /// The name of the tool. The model may write a name that no tool has.
    pub name: String,
    /// The arguments. They are a JSON object in every format in which arguments have names.
    pub arguments: Value,
    /// The arguments as the model wrote them.
    pub raw: String,
}

/// A complete tool call, delivered while the model may still be writing.
///
/// The tree contains the same call, with the same id.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PendingToolCall {
    /// The id of the call, see [`ToolCall::id`].
    pub id: String,
    /// The name of the tool. The model may write a name that no tool has.
    pub name: String,
    /// The arguments. They are a JSON object in every format in which arguments have names.
    pub arguments: Value,
    /// The arguments as the model wrote them.
    pub raw: String,
    /// The number of the token that completed the call, counted from 0.
    ///
    /// If only the end of the turn completed the call, this is the total number of tokens.
    pub at_token: u64,
}

/// The reason why a tool call cannot be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Malformed {
    /// The turn ended inside the call.
    Unfinished,
    /// The JSON, the tags or the literals of the call do not parse.
    Syntax,
    /// The call has no name.
    NoName,
    /// The call is nested deeper than [`Limits::max_nesting`](crate::Limits::max_nesting).
    TooDeep,
    /// The call is larger than [`Limits::max_arguments_bytes`](crate::Limits::max_arguments_bytes).
    TooLarge,
}

impl Malformed {
    /// Returns the reason in words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unfinished => "the turn ended inside the call",
            Self::Syntax => "the call's body does not parse",
            Self::NoName => "the call has no name",
            Self::TooDeep => "the call is nested too deep",
            Self::TooLarge => "the call's arguments are too large",
        }
    }
}

display_as_str!(Role, Malformed);

impl Leaf {
    /// Creates a leaf from text and ids, without markers.
    #[must_use]
    pub fn new(kind: LeafKind, text: impl Into<String>, ids: Vec<TokenId>) -> Self {
        let text = text.into();
        let inner = 0..text.len();
        Self { kind, text, ids, ids_missing: 0, inner }
    }

    /// Returns the text without its markers, trimmed.
    ///
    /// Use this text for display, not for the next prompt.
    #[must_use]
    pub fn inner(&self) -> &str {
        self.without_markers().trim()
    }

    /// Returns the text without its markers, with all blanks.
    pub(crate) fn without_markers(&self) -> &str {
        self.text.get(self.inner.clone()).unwrap_or_default()
    }

    /// Returns the id of the call, if this leaf is a tool result.
    pub(crate) fn result_of(&self) -> Option<&str> {
        if let LeafKind::ToolResult { call_id, .. } = &self.kind { Some(call_id) } else { None }
    }

    /// Returns the tool call, if this leaf is a tool call.
    #[must_use]
    pub fn tool_call(&self) -> Option<&ToolCall> {
        if let LeafKind::ToolCall(call) = &self.kind { Some(call) } else { None }
    }
}

impl Branch {
    /// Creates a turn without leaves.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self { role, leaves: Vec::new() }
    }

    /// Returns all ids in order. In a turn of the model, they are exactly the ids received.
    pub fn ids(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.leaves.iter().flat_map(|leaf| leaf.ids.iter().copied())
    }

    /// Returns the text as received, including markers and blanks.
    #[must_use]
    pub fn text(&self) -> String {
        self.leaves.iter().map(|leaf| leaf.text.as_str()).collect()
    }

    /// Returns the number of tokens whose id the server did not send.
    #[must_use]
    pub fn ids_missing(&self) -> u64 {
        self.leaves.iter().map(|leaf| u64::from(leaf.ids_missing)).sum()
    }

    /// Returns the texts of all content leaves that are not empty, trimmed.
    ///
    /// The texts are joined with line feeds.
    #[must_use]
    pub fn content(&self) -> String {
        self.folded(|kind| matches!(kind, LeafKind::Content))
    }

    /// Returns the texts of all reasoning leaves that are not empty, trimmed.
    ///
    /// The texts are joined with line feeds.
    #[must_use]
    pub fn reasoning(&self) -> String {
        self.folded(|kind| matches!(kind, LeafKind::Reasoning))
    }

    fn folded(&self, wanted: impl Fn(&LeafKind) -> bool) -> String {
        let texts = self.leaves.iter().filter(|leaf| wanted(&leaf.kind)).map(Leaf::inner);
        texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
    }

    /// Returns the complete tool calls, in the order in which the model wrote them.
    pub fn tool_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.leaves.iter().filter_map(Leaf::tool_call)
    }

    /// Returns the leaf that contains the call with this id.
    #[must_use]
    pub fn find_call(&self, id: &str) -> Option<&Leaf> {
        self.leaves.iter().find(|leaf| leaf.tool_call().is_some_and(|call| call.id == id))
    }
}

// Display and Debug

/// The maximum number of characters of a leaf's text in one line of the tree.
const MAX_LINE_CHARS: usize = 100;

/// Prints a tree with one line per leaf: kind, number of ids, and the text without markers.
///
/// Control characters are escaped.
impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.role.as_str())?;
        for (n, leaf) in self.leaves.iter().enumerate() {
            let joint = if n + 1 == self.leaves.len() { "└─" } else { "├─" };
            write!(f, "\n{joint} {leaf}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<11} {:>5} ids  ", self.kind.as_str(), self.ids.len())?;
        if self.ids_missing > 0 {
            write!(f, "({} without id)  ", self.ids_missing)?;
        }
        if let LeafKind::Malformed { reason } = &self.kind {
            write!(f, "({reason}) ")?;
        }
        let line: Cow<'_, str> = match &self.kind {
            LeafKind::ToolCall(call) => format!("{} {}({})", call.id, call.name, call.arguments).into(),
            LeafKind::ToolResult { call_id, name } => format!("{call_id} {name} = {}", self.inner()).into(),
            LeafKind::Marker => self.text.as_str().into(),
            _ => self.inner().into(),
        };
        f.write_str(&printable(&line, MAX_LINE_CHARS))
    }
}

/// Prints the leaf on one line, because most leaves are printed in lists.
impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, text, ids, ids_missing, inner } = self;
        write!(f, "{kind:?} {text:?} {ids:?}")?;
        if *inner != (0..text.len()) {
            write!(f, " inner {inner:?}")?;
        }
        if *ids_missing > 0 {
            write!(f, " and {ids_missing} without id")?;
        }
        Ok(())
    }
}
