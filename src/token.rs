//! What comes out of a stream: tokens with ids, the end, and whether the ids are all there.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Malformed, PendingToolCall};

/// A token's number in the model's vocabulary, as the server counts.
pub type TokenId = u32;

/// One item of a stream. After [`Done`](Self::Done) or [`Error`](Self::Error) nothing follows.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StreamToken {
    /// A piece of the answer. Text and id do not go in step: the tokens of one character carry their ids
    /// first and the text with the last; a stop token has an id and often no text; a server that
    /// gives no ids sends text alone. A token never has neither.
    Token {
        /// Text that became readable with this token; empty where there is none yet.
        text: String,
        /// The server's id; `None` where it sent none. Never guessed.
        id: Option<TokenId>,
    },
    /// A piece of reasoning that the server told apart itself, on its chat endpoint. Text and id as in
    /// [`Token`](Self::Token).
    Reasoning {
        /// Text; empty for ids that came beside the text of another item.
        text: String,
        /// The server's id; `None` where it sent none.
        id: Option<TokenId>,
    },
    /// A tool call that the server told apart itself, on its chat endpoint, put together from its pieces. It comes when it
    /// is complete: when the next call begins, at the finish reason, or at the terminator. The ids it was made
    /// of, if the server sends them, came before as tokens without text.
    ToolCall(Box<PendingToolCall>),
    /// What began as a tool call of a chat endpoint and is none that can be run: its arguments are no JSON object, the
    /// answer was cut off inside it, it has no name, or it is larger than
    /// [`Limits::arguments_bytes_max`](crate::Limits::arguments_bytes_max). Of one that is too large, more may follow.
    MalformedCall {
        /// The name, if there is one, and the arguments as they were written.
        text: String,
        /// Why it cannot be run.
        reason: Malformed,
    },
    /// The answer is complete: a finish reason or the terminator was seen.
    #[non_exhaustive]
    Done {
        /// The server's own count of tokens, if it sent one.
        usage: Option<Usage>,
        /// Why the model stopped; `None` if only the terminator came.
        finish: Option<FinishReason>,
    },
    /// The stream failed. All tokens received before are in the channel before this.
    Error(Error),
}

impl StreamToken {
    /// The text that it holds in memory, in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        match self {
            Self::Token { text, .. } | Self::Reasoning { text, .. } | Self::MalformedCall { text, .. } => {
                text.len()
            }
            Self::ToolCall(call) => call.id.len() + call.name.len() + call.raw.len(),
            Self::Done { .. } | Self::Error(_) => 0,
        }
    }
}

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
            other => Self::Other(crate::error::printable(other, 64).into()),
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

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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

/// Why ids are not exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Inexact {
    /// Text came, and not one id.
    NoIds,
    /// Text came, and not one id, although the server gives ids and was asked for them: something on the way, a router
    /// or a proxy, drops them or what asks for them.
    Dropped,
    /// Some text came without an id while other text had one.
    TextWithoutId,
    /// The ids of characters that span several tokens are withheld (llama.cpp sends the last one only), or that of the end
    /// token (llama.cpp's chat streams).
    LostInCharacter {
        /// Ids received.
        received: u64,
        /// Tokens the server counted.
        counted: u64,
    },
    /// The server counted another number of tokens.
    CountDiffers {
        /// Ids received.
        received: u64,
        /// Tokens the server counted.
        counted: u64,
    },
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

impl fmt::Display for Inexact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIds => f.write_str("the server sent no ids"),
            Self::Dropped => f.write_str(
                "no ids came, although this server gives them and was asked: dropped on the way, by a router or proxy",
            ),
            Self::TextWithoutId => f.write_str("some text came without an id"),
            Self::LostInCharacter { received, counted } => write!(
                f,
                "{received} of {counted} ids: the server withholds those inside characters of several tokens, and a chat's end token"
            ),
            Self::CountDiffers { received, counted } => {
                write!(f, "{received} ids received, the server counted {counted}")
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_small_because_every_channel_slot_holds_one() {
        assert!(size_of::<StreamToken>() <= 48, "{}", size_of::<StreamToken>());
    }

    #[test]
    fn finish_words_survive_and_foreign_ones_are_escaped() {
        for word in ["stop", "length", "tool_calls", "abort", "content_filter", "repetition"] {
            assert_eq!(FinishReason::from_wire(word).as_str(), word);
        }
        assert_eq!(FinishReason::from_wire("a\u{7}").as_str(), "a\\u{7}");
        assert_eq!(FinishReason::from_wire("eos_token"), FinishReason::Stop);
    }
}
