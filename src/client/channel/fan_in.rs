//! One channel for many streams: a consumer that serves a thousand of them waits at one place.

use std::fmt;

use crate::client::threads::sync::channel::{Receiver, Sender, unbounded};
use crate::types::token::StreamToken;

/// Default of [`FanIn::max_tokens`].
pub const MAX_FAN_IN_TOKENS: usize = 65_536;

/// A channel for the tokens of many streams: what [`stream_into`](crate::ApiClient::stream_into) puts them into, and the receiver
/// of all of them.
///
/// The receiver is disconnected when every stream has ended and every clone of the `FanIn` is dropped, so a loop over it ends
/// if the `FanIn` is dropped after the last stream was begun.
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

/// What one of many streams has sent.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Tagged {
    /// The number that the stream was given.
    pub stream: u64,
    /// What its own channel would give. `None` is the end of the stream, once, where its own channel would be disconnected: after
    /// `Done` or `Error`, after a cancel without either.
    pub token: Option<StreamToken>,
}

/// The end of a channel of many streams that [`stream_into`](crate::ApiClient::stream_into) takes. Clones are of the same channel.
#[derive(Clone)]
pub struct FanIn {
    sender: Sender<Tagged>,
    max_tokens: usize,
}

impl FanIn {
    /// How many tokens the channel holds, of all streams together: those that are begun from here on stop reading from their sockets
    /// while there are more in it. Up to 16 of each stream may be on their way beside it. Default
    /// [`MAX_FAN_IN_TOKENS`].
    #[must_use]
    pub fn max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    /// For a stream that is about to begin.
    pub(crate) fn share(&self, stream: u64) -> Share {
        Share { sender: self.sender.clone(), stream, max_tokens: self.max_tokens, began: false }
    }
}

impl fmt::Debug for FanIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FanIn").field("max_tokens", &self.max_tokens).finish_non_exhaustive()
    }
}

/// One stream's part of the channel. Once the stream has begun, dropping it says that the stream has ended.
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

    /// Whether the consumer is told of the stream's end.
    pub(crate) fn set_began(&mut self, began: bool) {
        self.began = began;
    }

    /// Tokens of all streams in the channel.
    pub(crate) fn len(&self) -> usize {
        self.sender.len()
    }

    /// False if the receiver is gone.
    pub(crate) fn send(&self, token: Option<StreamToken>) -> bool {
        self.sender.send(Tagged { stream: self.stream, token }).is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.began {
            // A consumer that has gone does not want it.
            self.send(None);
        }
    }
}
