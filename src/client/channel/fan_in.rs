//! One channel for many streams. A consumer of a thousand streams then waits for one receiver.

use crate::client::threads::sync::channel::{Receiver, Sender, unbounded};
use crate::error::macros::debug_fields;
use crate::types::token::StreamToken;

/// The default of [`FanIn::max_tokens`].
pub const MAX_FAN_IN_TOKENS: usize = 65_536;

/// Creates a channel for the tokens of many streams.
///
/// Pass the [`FanIn`] to [`stream_into`](crate::ApiClient::stream_into) once per stream. The
/// receiver gets the tokens of all these streams.
///
/// The receiver is disconnected when every stream has ended and every clone of the `FanIn` is
/// dropped. Drop the `FanIn` after you have started the last stream. A loop over the receiver then
/// ends after the last stream.
///
/// ```
/// # #[cfg(feature = "testing")] {
/// use tokenwire::{ApiClient, CompletionRequest, StreamToken, fan_in};
/// # use tokenwire::testing::{Script, MockServer};
/// # let server = MockServer::start(|_| Script::tokens([(9707, "Hello"), (13, ".")]))?;
/// # let url = server.url();
///
/// let client = ApiClient::builder(url).build()?;
/// let (channel, tokens) = fan_in();
/// let mut guards = Vec::new();
/// for n in 0..10 {
///     guards.push(client.stream_into(CompletionRequest::text("Say hello"), &channel, n)?);
/// }
/// drop(channel);
/// let mut texts = vec![String::new(); 10];
/// for tagged in &tokens {
///     if let Some(StreamToken::Token { text, .. }) = tagged.token {
///         texts[tagged.stream as usize].push_str(&text);
///     }
/// }
/// assert!(texts.iter().all(|text| text == "Hello."));
/// # }
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[must_use]
pub fn fan_in() -> (FanIn, Receiver<Tagged>) {
    let (sender, receiver) = unbounded();
    (FanIn { sender, max_tokens: MAX_FAN_IN_TOKENS }, receiver)
}

/// An item from one of the streams of a [`fan_in`](crate::fan_in()) channel.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Tagged {
    /// The number that you passed to [`stream_into`](crate::ApiClient::stream_into).
    pub stream: u64,
    /// The item that the stream has sent, or `None` at the end of the stream.
    ///
    /// `None` arrives exactly once for each stream: after `Done` or `Error`, or after a cancel. At
    /// this point, a channel of the stream's own would be disconnected.
    pub token: Option<StreamToken>,
}

/// The sending end of a [`fan_in`](crate::fan_in()) channel.
///
/// Pass it to [`stream_into`](crate::ApiClient::stream_into). Clones send to the same channel.
#[derive(Clone)]
pub struct FanIn {
    sender: Sender<Tagged>,
    max_tokens: usize,
}

impl FanIn {
    /// Limits the number of tokens that the channel holds for all streams together.
    ///
    /// Default: [`MAX_FAN_IN_TOKENS`]. A stream that starts after this call stops reading from its
    /// socket while the channel is full. Each stream checks after at most 16 tokens, so the channel
    /// may exceed the limit by up to 16 tokens per stream.
    #[must_use]
    pub fn max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    /// Creates the [`Share`] of a stream that is about to start.
    pub(crate) fn share(&self, stream: u64) -> Share {
        Share { sender: self.sender.clone(), stream, max_tokens: self.max_tokens, began: false }
    }
}

debug_fields! { FanIn { max_tokens } }

/// The part of the channel that belongs to one stream.
///
/// If the stream has started, dropping the share sends the end of the stream to the consumer.
pub(crate) struct Share {
    sender: Sender<Tagged>,
    stream: u64,
    max_tokens: usize,
    began: bool,
}

impl Share {
    pub(crate) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Sets whether dropping the share sends the end of the stream to the consumer.
    pub(crate) fn set_began(&mut self, began: bool) {
        self.began = began;
    }

    /// Returns the number of tokens of all streams in the channel.
    pub(crate) fn len(&self) -> usize {
        self.sender.len()
    }

    /// Sends an item. Returns false if the receiver was dropped.
    pub(crate) fn send(&self, token: Option<StreamToken>) -> bool {
        self.sender.send(Tagged { stream: self.stream, token }).is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.began {
            // If the receiver was dropped, no consumer needs this item.
            self.send(None);
        }
    }
}
