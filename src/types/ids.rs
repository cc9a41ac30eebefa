//! Token ids, and what a server says at the end: usage, why the model stopped, whether all ids arrived.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::escape::printable;
use crate::error::macros::display_as_str;

/// A token's number in the model's vocabulary, as the server counts.
pub type TokenId = u32;

/// The server's count of tokens for one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated, over all choices; the stop token is counted.
    pub completion_tokens: u32,
    /// Prompt tokens that came from the server's prefix cache, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u32>,
    /// Generated tokens that were reasoning, where the server says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u32>,
}

impl Usage {
    /// Prompt and completion together.
    #[must_use]
    pub fn total_tokens(&self) -> u64 {
        u64::from(self.prompt_tokens) + u64::from(self.completion_tokens)
    }
}

/// Why the model stopped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// A stop token or stop string (`stop`; TGI's `eos_token`, `stop_sequence`).
    Stop,
    /// The limit of tokens, or the context was full (`length`).
    Length,
    /// The model called tools (`tool_calls`), on chat endpoints.
    ToolCalls,
    /// The server gave the request up, for example because somebody aborted it there (`abort`).
    Abort,
    /// The server took part of the answer away (`content_filter`).
    ContentFilter,
    /// Anything else, as the server wrote it; at most 64 characters, control characters escaped.
    Other(Box<str>),
}

impl FinishReason {
    /// From the server's word.
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

    /// The word, in OpenAI's spelling where there is one.
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

/// Whether the ids received are all the ids the server generated, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IdsExact {
    /// Every generated token's id was received: the count equals the server's own.
    Yes,
    /// They are not, and why.
    No(Inexact),
    /// Nothing can be said: the server gave ids but no count of its own, or the stream broke off.
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
    /// True for [`Yes`](Self::Yes) only.
    #[must_use]
    pub fn is_exact(self) -> bool {
        self == Self::Yes
    }
}

/// Why ids are not exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Inexact {
    /// Text came, and not one id.
    #[error("the server sent no ids")]
    NoIds,
    /// Text came, and not one id, although the server gives ids and was asked for them: something on the way, a router
    /// or a proxy, drops them or what asks for them.
    #[error(
        "no ids came, although this server gives them and was asked: dropped on the way, by a router or proxy"
    )]
    Dropped,
    /// Some text came without an id while other text had one.
    #[error("some text came without an id")]
    TextWithoutId,
    /// The ids of characters that span several tokens are withheld (llama.cpp sends the last one only), or that of the end
    /// token (llama.cpp's chat streams).
    #[error(
        "{received} of {counted} ids: the server withholds those inside characters of several tokens, and a chat's end token"
    )]
    LostInCharacter {
        /// Ids received.
        received: u64,
        /// Tokens the server counted.
        counted: u64,
    },
    /// The server counted another number of tokens.
    #[error("{received} ids received, the server counted {counted}")]
    CountDiffers {
        /// Ids received.
        received: u64,
        /// Tokens the server counted.
        counted: u64,
    },
}

/// Whether the model has stopped by itself.
pub(crate) fn is_clean(finish: Option<&FinishReason>) -> bool {
    matches!(finish, None | Some(FinishReason::Stop | FinishReason::ToolCalls))
}
