//! Token ids, and the values that a server reports at the end: usage and finish reason.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::escape::printable;
use crate::error::macros::display_as_str;

/// The number of a token in the model's vocabulary, as the server uses it.
pub type TokenId = u32;

/// The server's token counts for one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// The number of prompt tokens.
    pub prompt_tokens: u32,
    /// The number of generated tokens in all choices, including stop tokens.
    pub completion_tokens: u32,
    /// The number of prompt tokens from the server's prefix cache, if the server reports this
    /// number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u32>,
    /// The number of generated tokens that were reasoning, if the server reports this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u32>,
}

impl Usage {
    /// Returns the sum of prompt tokens and completion tokens.
    #[must_use]
    pub fn total_tokens(&self) -> u64 {
        u64::from(self.prompt_tokens) + u64::from(self.completion_tokens)
    }
}

/// The reason why the model stopped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model wrote a stop token or a stop string (`stop`).
    ///
    /// TGI calls this reason `eos_token` or `stop_sequence`.
    Stop,
    /// The token limit was reached, or the context was full (`length`).
    Length,
    /// The model called tools, on a chat endpoint (`tool_calls`).
    ToolCalls,
    /// The server gave up, for example because the request was aborted on the server (`abort`).
    Abort,
    /// The server removed a part of the answer (`content_filter`).
    ContentFilter,
    /// Any other reason, as the server wrote it.
    ///
    /// The text has at most 64 characters, and control characters are escaped.
    Other(Box<str>),
}

impl FinishReason {
    /// Converts the server's name of the reason.
    #[must_use]
    pub fn from_wire(word: &str) -> Self {
        match word {
            "stop" | "eos_token" | "stop_sequence" | "eos" => Self::Stop,
            "length" => Self::Length,
            "tool_calls" | "function_call" => Self::ToolCalls,
            "abort" => Self::Abort,
            "content_filter" => Self::ContentFilter,
            other => Self::Other(printable(other, 64).into()),
        }
    }

    /// Returns the name of the reason, in OpenAI's spelling if OpenAI defines the reason.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::Abort => "abort",
            Self::ContentFilter => "content_filter",
            Self::Other(word) => word,
        }
    }
}

display_as_str!(FinishReason);

/// Reports whether the ids received are all ids that the server generated, in order.
///
/// ```
/// use tokenwire::{IdsExact, Inexact};
///
/// assert!(IdsExact::Yes.is_exact());
/// assert_eq!(IdsExact::No(Inexact::NoIds).to_string(), "not exact: the server sent no ids");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IdsExact {
    /// All ids were received: their number equals the server's own count.
    Yes,
    /// Some ids are missing, for this reason.
    No(Inexact),
    /// It is not known whether ids are missing: the server sent no count, or the stream broke off.
    Unknown,
}

impl fmt::Display for IdsExact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("exact"),
            Self::No(why) => write!(f, "not exact: {why}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl IdsExact {
    /// Returns true only for [`Yes`](Self::Yes).
    #[must_use]
    pub fn is_exact(self) -> bool {
        self == Self::Yes
    }
}

/// The reason why ids are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Inexact {
    /// Text arrived, but no ids.
    #[error("the server sent no ids")]
    NoIds,
    /// Text arrived without ids, although this server sends ids and they were requested.
    ///
    /// A router or proxy on the way removes either the ids or the field that requests them.
    #[error(
        "no ids arrived, although this server sends them on request: a router or proxy on the way removes them"
    )]
    Dropped,
    /// A part of the text arrived without an id.
    #[error("a part of the text arrived without an id")]
    TextWithoutId,
    /// The server withholds some ids.
    ///
    /// llama.cpp sends only the last id of a character that spans several tokens. Its chat streams
    /// also lack the id of the end token.
    #[error(
        "{received} of {counted} ids: the server withholds ids inside multi-token characters, and the end token of a chat"
    )]
    LostInCharacter {
        /// The number of ids received.
        received: u64,
        /// The number of tokens that the server counted.
        counted: u64,
    },
    /// The number of ids received differs from the server's token count.
    #[error("{received} ids received, but the server counted {counted} tokens")]
    CountDiffers {
        /// The number of ids received.
        received: u64,
        /// The number of tokens that the server counted.
        counted: u64,
    },
}

/// Returns whether the model stopped by itself.
pub(crate) fn is_clean(finish: Option<&FinishReason>) -> bool {
    matches!(finish, None | Some(FinishReason::Stop | FinishReason::ToolCalls))
}
