//! What comes out of a stream: tokens with ids, the end, and whether the ids are all there.

use super::ids::{FinishReason, TokenId, Usage};
use super::tree::{Malformed, PendingToolCall};
use crate::error::Error;

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
    /// [`Limits::max_arguments_bytes`](crate::Limits::max_arguments_bytes). Of one that is too large, more may follow.
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
