//! The items of a stream: tokens with ids, and the end.

use super::ids::{FinishReason, TokenId, Usage};
use super::tree::{Malformed, PendingToolCall};
use crate::error::Error;

/// An item of a stream.
///
/// [`Done`](Self::Done) or [`Error`](Self::Error) is the last item.
///
/// ```
/// use tokenwire::{Error, StreamToken};
///
/// fn text(items: impl IntoIterator<Item = StreamToken>) -> Result<String, Error> {
///     let mut text = String::new();
///     for item in items {
///         match item {
///             StreamToken::Token { text: piece, .. } => text += &piece,
///             StreamToken::Error(error) => return Err(error),
///             _ => {}
///         }
///     }
///     Ok(text)
/// }
/// # let (sender, tokens) = tokenwire::crossbeam_channel::unbounded();
/// # for (text, id) in [("Hel", 1), ("lo", 2)] {
/// #     sender.send(StreamToken::Token { text: text.into(), id: Some(id) }).unwrap();
/// # }
/// # drop(sender);
/// # assert_eq!(text(tokens)?, "Hello");
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StreamToken {
    /// A piece of the answer.
    ///
    /// Text and ids are not always in step:
    ///
    /// - If a character spans several tokens, each token has an id, and the last one has the text.
    /// - A stop token has an id and often no text.
    /// - A server that sends no ids sends text alone.
    ///
    /// A token always has text or an id.
    Token {
        /// The text that this token completed; empty if it completed none.
        text: String,
        /// The server's id; `None` if the server sent none. Ids are never guessed.
        id: Option<TokenId>,
    },
    /// A piece of reasoning that the server separated itself, on its chat endpoint.
    ///
    /// Text and id are as in [`Token`](Self::Token).
    Reasoning {
        /// The text; empty for ids whose text is in another item.
        text: String,
        /// The server's id; `None` if the server sent none.
        id: Option<TokenId>,
    },
    /// A complete tool call that the server separated itself, on its chat endpoint.
    ///
    /// The call is joined from its pieces. It arrives as soon as it is complete: when the next call
    /// begins, at the finish reason, or at the terminator. If the server sends the ids of the call,
    /// they arrive earlier, as tokens without text.
    ToolCall(Box<PendingToolCall>),
    /// A tool call of a chat endpoint that cannot be run.
    ///
    /// Its arguments are not a JSON object, the answer was cut off inside it, it has no name, or it
    /// is larger than [`Limits::max_arguments_bytes`](crate::Limits::max_arguments_bytes). A call
    /// that is too large may arrive in several such items.
    MalformedCall {
        /// The name, if there is one, and the arguments as they were written.
        text: String,
        /// The reason why the call cannot be run.
        reason: Malformed,
    },
    /// The answer is complete: a finish reason or the terminator arrived.
    #[non_exhaustive]
    Done {
        /// The server's own token counts, if it sent them.
        usage: Option<Usage>,
        /// The reason why the model stopped; `None` if only the terminator arrived.
        finish: Option<FinishReason>,
    },
    /// The stream failed. All tokens received earlier are in the channel before this item.
    Error(Error),
}

impl StreamToken {
    /// Returns the bytes of text that the item holds in memory.
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
    fn a_token_is_small_because_every_channel_slot_holds_one_token() {
        assert!(size_of::<StreamToken>() <= 48, "{}", size_of::<StreamToken>());
    }

    #[test]
    fn known_finish_reasons_are_kept_and_unknown_ones_are_escaped() {
        for word in ["stop", "length", "tool_calls", "abort", "content_filter", "repetition"] {
            assert_eq!(FinishReason::from_wire(word).as_str(), word);
        }
        assert_eq!(FinishReason::from_wire("a\u{7}").as_str(), "a\\u{7}");
        assert_eq!(FinishReason::from_wire("eos_token"), FinishReason::Stop);
    }
}
