//! The tree of a conversation: branches with a role, leaves with their text and the ids it came from.
//!
//! Two promises hold for a branch that the parser made. The texts of its leaves, joined, are the text
//! received; their ids, joined, are the ids received. So every marker and every blank stands in some leaf.
//! What a person wants to read is a view: [`Leaf::inner`] leaves markers out and trims, and changes nothing.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ids::TokenId;
use crate::error::escape::printable;
use crate::error::macros::{display_as_str, names};

names! {
    /// Who speaks in a branch.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    #[non_exhaustive]
    pub enum Role {
        /// Instructions to the model, the tools among them.
        System = "system",
        /// A person, or the program for them.
        User = "user",
        /// The model.
        Assistant = "assistant",
        /// Results of tool calls.
        Tool = "tool",
    }
}

/// One turn of the conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Branch {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub leaves: Vec<Leaf>,
}

/// A piece of a turn: its text as it came, and the ids it came from.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Leaf {
    /// What it is.
    #[serde(flatten)]
    pub kind: LeafKind,
    /// The text as it came, markers and blanks included.
    pub text: String,
    /// The ids of the tokens whose first byte is in `text`, and of the tokens without text behind them.
    pub ids: Vec<TokenId>,
    /// Tokens of this leaf whose id the server did not send. While it is zero everywhere, `ids` is all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ids_missing: u32,
    /// Where in `text` the markers end and begin again.
    pub(crate) inner: Range<usize>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What a leaf is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum LeafKind {
    /// Text for the reader.
    Content,
    /// Reasoning.
    #[serde(alias = "thinking")]
    Reasoning,
    /// A complete call.
    ToolCall(ToolCall),
    /// What began as a call and is none that can be run.
    Malformed {
        /// Why it cannot.
        reason: Malformed,
    },
    /// What a call gave.
    ToolResult {
        /// The call's id.
        call_id: String,
        /// The tool's name.
        name: String,
    },
    /// Structure that belongs to no other leaf: the end of the turn, the frame around a list of calls, what a
    /// template puts around a turn.
    Marker,
}

impl LeafKind {
    /// The stable name, as the command line prints it.
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

/// A call as the model wrote it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ToolCall {
    /// The id that the format carries (Kimi, Mistral, Cohere), else `call_0`, `call_1`, ... in the turn.
    pub id: String,
    /// The tool's name. It is not checked against the tools.
    pub name: String,
    /// The arguments: an object for every format that names them.
    pub arguments: Value,
    /// The arguments as they were written.
    pub raw: String,
}

/// A complete tool call, handed out while the model may still be writing. The same call stands in the tree,
/// under the same id.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PendingToolCall {
    /// See [`ToolCall::id`].
    pub id: String,
    /// The tool's name. It is not checked against the tools.
    pub name: String,
    /// The arguments: an object for every format that names them.
    pub arguments: Value,
    /// The arguments as they were written.
    pub raw: String,
    /// Which token completed it, counted from 0. A call that only the end of the turn completes has the number
    /// of tokens here.
    pub at_token: u64,
}

/// Why something that began as a call is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Malformed {
    /// The turn ended inside it.
    Unfinished,
    /// Its JSON, its tags or its literals do not parse.
    Syntax,
    /// It has no name.
    NoName,
    /// It is nested deeper than [`Limits::max_nesting`](crate::Limits::max_nesting).
    TooDeep,
    /// Its arguments are larger than [`Limits::max_arguments_bytes`](crate::Limits::max_arguments_bytes).
    TooLarge,
}

impl Malformed {
    /// In words.
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
    /// A leaf of text and ids, without markers.
    #[must_use]
    pub fn new(kind: LeafKind, text: impl Into<String>, ids: Vec<TokenId>) -> Self {
        let text = text.into();
        let inner = 0..text.len();
        Self { kind, text, ids, ids_missing: 0, inner }
    }

    /// The text without the markers around it, trimmed: for reading, not for the next prompt.
    #[must_use]
    pub fn inner(&self) -> &str {
        self.without_markers().trim()
    }

    /// The text without the markers around it, blanks and all.
    pub(crate) fn without_markers(&self) -> &str {
        self.text.get(self.inner.clone()).unwrap_or_default()
    }

    /// The id of the call whose result this is, if it is one.
    pub(crate) fn result_of(&self) -> Option<&str> {
        match &self.kind {
            LeafKind::ToolResult { call_id, .. } => Some(call_id),
            _ => None,
        }
    }

    /// The call, if it is one.
    #[must_use]
    pub fn tool_call(&self) -> Option<&ToolCall> {
        match &self.kind {
            LeafKind::ToolCall(call) => Some(call),
            _ => None,
        }
    }
}

impl Branch {
    /// A turn with nothing in it yet.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self { role, leaves: Vec::new() }
    }

    /// All ids in order: of the assistant's turns, exactly those received.
    pub fn ids(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.leaves.iter().flat_map(|leaf| leaf.ids.iter().copied())
    }

    /// The text as it came, markers and blanks included.
    #[must_use]
    pub fn text(&self) -> String {
        self.leaves.iter().map(|leaf| leaf.text.as_str()).collect()
    }

    /// Tokens of the turn whose id the server did not send.
    #[must_use]
    pub fn ids_missing(&self) -> u64 {
        self.leaves.iter().map(|leaf| u64::from(leaf.ids_missing)).sum()
    }

    /// What the reader is told: each content leaf trimmed, empty ones left out, joined with line feeds.
    #[must_use]
    pub fn content(&self) -> String {
        self.folded(|kind| matches!(kind, LeafKind::Content))
    }

    /// The reasoning, joined in the same way.
    #[must_use]
    pub fn reasoning(&self) -> String {
        self.folded(|kind| matches!(kind, LeafKind::Reasoning))
    }

    fn folded(&self, wanted: impl Fn(&LeafKind) -> bool) -> String {
        let texts = self.leaves.iter().filter(|leaf| wanted(&leaf.kind)).map(Leaf::inner);
        texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
    }

    /// The complete calls, in the order written.
    pub fn tool_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.leaves.iter().filter_map(Leaf::tool_call)
    }

    /// The leaf of the call with this id.
    #[must_use]
    pub fn find_call(&self, id: &str) -> Option<&Leaf> {
        self.leaves.iter().find(|leaf| leaf.tool_call().is_some_and(|call| call.id == id))
    }
}

// For people

/// The most of a leaf's text that a line of the tree shows, in characters.
const MAX_LINE_CHARS: usize = 100;

/// A tree, a line a leaf: kind, number of ids, the text without markers. Control characters are escaped.
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

/// On one line, since a list of them is what one looks at.
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
