//! The items of a stream: tokens with ids, and the end of the stream.

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
    /// Text and ids do not always arrive together:
    ///
    /// - If a character spans several tokens, each token has an id, and only the last token has the
    ///   text.
    /// - A stop token has an id and often no text.
    /// - A server that sends no ids sends text alone.
    ///
    /// A token always has text or an id.
    Token {
        /// The text that this token completed. It is empty if the token completed no text.
        text: String,
        /// The id from the server, or `None` if the server sent no id. tokenwire never guesses ids.
        id: Option<TokenId>,
    },
    /// A piece of reasoning that a chat endpoint separated from the content.
    ///
    /// The text and the id have the same meaning as in [`Token`](Self::Token).
    Reasoning {
        /// The text. It is empty if the text of the id is in another item.
        text: String,
        /// The id from the server, or `None` if the server sent no id.
        id: Option<TokenId>,
    },
    /// A complete tool call that a chat endpoint separated from the content.
    ///
    /// tokenwire joins the pieces of the call. The call arrives as soon as it is complete: when the
    /// next call begins, at the finish reason, or at the terminator. If the server sends the ids of
    /// the call, they arrive earlier, as tokens without text.
    ToolCall(Box<PendingToolCall>),
    /// A tool call of a chat endpoint that cannot be run.
    ///
    /// This happens in the following cases:
    ///
    /// - The arguments are not a JSON object.
    /// - The answer was cut off inside the call.
    /// - The call has no name.
    /// - The call is larger than
    ///   [`Limits::max_arguments_bytes`](crate::Limits::max_arguments_bytes). Such a call may
    ///   arrive in several items of this kind.
    MalformedCall {
        /// The name, if the call has a name, and the arguments as the model wrote them.
        text: String,
        /// The reason why the call cannot be run.
        reason: Malformed,
    },
    /// The answer is complete: a finish reason or the terminator arrived.
    #[non_exhaustive]
    Done {
        /// The server's token counts, if the server sent them.
        usage: Option<Usage>,
        /// The reason why the model stopped, or `None` if only the terminator arrived.
        finish: Option<FinishReason>,
    },
    /// The stream failed. All tokens received earlier are in the channel before this item.
    Error(Error),
}

impl StreamToken {
    /// Returns the number of bytes of text in the item.
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
