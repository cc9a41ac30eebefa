//! The settings of a client: API key, timers and limits. They limit every wait and every buffer.

use std::fmt;
use std::time::Duration;

use crate::error::macros::defaults;
use crate::error::{Error, Timer};

/// An API key. It is sent only in the `Authorization` header.
///
/// `ApiKey` has no `Display`, and its `Debug` output is redacted.
///
/// ```
/// let key = tokenwire::ApiKey::new("sk-secret\n")?;
/// assert_eq!(format!("{key:?}"), "ApiKey([redacted])");
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(Box<str>);

impl ApiKey {
    /// Creates a key from the contents of a file or a variable.
    ///
    /// White space at both ends, including line ends, is removed.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](crate::ErrorKind::InvalidInput) if the key is empty, or if it
    /// contains a character that is not visible ASCII. An HTTP header cannot contain such a
    /// character. The message does not contain the key.
    pub fn new(key: &str) -> Result<Self, Error> {
        let key = key.trim();
        if key.is_empty() {
            return Err(Error::invalid("the API key is empty"));
        }
        if !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::invalid("the API key contains a character that is not visible ASCII"));
        }
        Ok(Self(key.into()))
    }

    /// Returns the value of the `Authorization` header.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey([redacted])")
    }
}

defaults! {
    /// The timers of a request.
    ///
    /// `None` turns a timer off. A limit of more than 100 years also turns the timer off. By
    /// default, only `deadline` is off. A timer with a limit of zero expires at the first wait.
    ///
    /// No timer except [`deadline`](Self::deadline) runs while the stream waits for a slow
    /// consumer.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let mut timeouts = tokenwire::Timeouts::default();
    /// timeouts.first_token = Some(Duration::from_secs(30));
    /// timeouts.deadline = Some(Duration::from_secs(300));
    /// let client = tokenwire::ApiClient::builder("http://127.0.0.1:8000/v1").timeouts(timeouts).build()?;
    /// # Ok::<(), tokenwire::Error>(())
    /// ```
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Timeouts {
        /// Limits name lookup, TCP connect and TLS handshake together, once per attempt.
        ///
        /// Default 30 s.
        pub connect: Option<Duration> = Some(Duration::from_secs(30)),
        /// Limits the time from the start of an attempt to the first token, including the connect.
        ///
        /// On a chat endpoint, the first piece of a tool call counts as a token. Response headers
        /// and keep-alive comments do not count: some servers send both at once and then queue the
        /// request for minutes. For a [`call`](crate::ApiClient::call), this timer limits the wait
        /// for the whole response. Default 600 s.
        pub first_token: Option<Duration> = Some(Duration::from_secs(600)),
        /// Limits the time between two tokens during which no byte of the body arrives.
        ///
        /// The timer restarts with each read. Bytes that are only HTTP framing do not count.
        /// Default 120 s.
        pub chunk: Option<Duration> = Some(Duration::from_secs(120)),
        /// Limits the time between two tokens during which no event arrives.
        ///
        /// Other bytes, such as keep-alive comments, do not restart the timer.
        ///
        /// In one observed case, an engine died, and its front end sent keep-alive comments for ten
        /// minutes. Default 600 s.
        pub content: Option<Duration> = Some(Duration::from_secs(600)),
        /// Limits the wait after the finish reason for the rest of the response.
        ///
        /// The rest is the usage, and the terminator or the end of the body. When the timer
        /// expires, the stream is complete without the missing parts, and its connection is not
        /// reused. Default 5 s. With zero, the stream does not wait, and the usage is usually lost.
        pub after_finish: Option<Duration> = Some(Duration::from_secs(5)),
        /// Limits the whole request, including waits for a slow consumer. Default none.
        pub deadline: Option<Duration> = None,
        /// Limits the time of one write of the request. A write has at most 16 KiB.
        ///
        /// The timer expires if the server has not accepted the whole write in this time. It
        /// restarts with each write, so a server may read slowly.
        /// [`first_token`](Self::first_token) and [`deadline`](Self::deadline) run during all
        /// writes. Default 30 s.
        pub write: Option<Duration> = Some(Duration::from_secs(30)),
        /// Limits the wait for the last bytes of the HTTP framing after the end of a stream.
        ///
        /// The connection can be reused only after these bytes have arrived. The consumer does not
        /// wait for them. Default 50 ms. Zero disables the wait.
        pub drain: Duration = Duration::from_millis(50),
    }
}

/// The maximum length of a timer. A timer a few centuries longer would overflow the clock.
const MAX_TIMER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Timeouts {
    /// Turns off timers longer than `MAX_TIMER`, and shortens `drain` to this maximum.
    pub(crate) fn bounded(mut self) -> Self {
        let Self { connect, first_token, chunk, content, after_finish, deadline, write, drain } = &mut self;
        for timer in [connect, first_token, chunk, content, after_finish, deadline, write] {
            *timer = timer.filter(|limit| *limit <= MAX_TIMER);
        }
        *drain = (*drain).min(MAX_TIMER);
        self
    }

    /// Returns the shorter of the two timers that start when a stream is requested.
    pub(crate) fn before_first_token(&self) -> Option<(Timer, Duration)> {
        let timers = [(Timer::FirstToken, self.first_token), (Timer::Deadline, self.deadline)];
        timers.into_iter().filter_map(|(timer, limit)| Some((timer, limit?))).min_by_key(|(_, limit)| *limit)
    }
}

defaults! {
    /// The limits of all sizes and numbers that could otherwise grow without end.
    ///
    /// A stream that exceeds a limit fails with an error that names the limit
    /// ([`Limit`](crate::Limit)), unless the description of the field defines another effect. These
    /// limits cannot be changed: [`MAX_RESPONSE_HEAD_BYTES`], [`MAX_RESPONSE_HEADERS`],
    /// [`MAX_NESTING`](crate::MAX_NESTING), [`MAX_CHOICES`](crate::MAX_CHOICES),
    /// [`MAX_TOKEN_IDS`](crate::MAX_TOKEN_IDS) and [`MAX_TOOL_CALLS`](crate::MAX_TOOL_CALLS).
    ///
    /// ```
    /// let mut limits = tokenwire::Limits::default();
    /// limits.max_streams = 1000;
    /// let client = tokenwire::ApiClient::builder("http://127.0.0.1:8000/v1").limits(limits).build()?;
    /// # Ok::<(), tokenwire::Error>(())
    /// ```
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Limits {
        /// The maximum size of one event, including all its lines, in bytes. Default 32 MiB.
        pub max_event_bytes: usize = 32 << 20,
        /// The maximum number of bytes of an error body that are read for the error message.
        ///
        /// The rest of a longer body is not read. This does not cause another error. Default 64
        /// KiB.
        pub max_error_body_bytes: usize = 64 << 10,
        /// The maximum size of a body that is read whole, in bytes.
        ///
        /// The limit applies to [`HttpResponse::text`](crate::HttpResponse::text).
        ///
        /// Default 32 MiB.
        pub max_body_bytes: usize = 32 << 20,
        /// The maximum number of tokens in a stream's channel that the consumer has not taken.
        ///
        /// When the channel is full, the stream stops reading from its socket until the consumer
        /// takes tokens. Default 1,024.
        pub max_channel_tokens: usize = 1024,
        /// The maximum size of the text in a stream's channel, in bytes.
        ///
        /// Text that the consumer has taken does not count.
        ///
        /// When the channel is full, the stream stops reading from its socket until the consumer
        /// takes tokens. A single token may be larger than this limit. Default 8 MiB.
        pub max_channel_bytes: usize = 8 << 20,
        /// The maximum number of bytes of a response that are kept for a recording.
        ///
        /// The consumer still receives the rest, and the end of the recording is
        /// [`Unknown`](crate::recording::BodyEnd::Unknown). Default 64 MiB.
        pub max_recording_bytes: usize = 64 << 20,
        /// The maximum number of saved requests (see
        /// [`save_failed`](crate::ApiClientBuilder::save_failed)).
        ///
        /// A new saved request replaces the oldest one. With 0, no request is saved. Default 32.
        pub max_saved_files: usize = 32,
        /// The maximum total size of the saved requests, in bytes.
        ///
        /// A new saved request replaces the oldest ones. A request that is larger than this limit
        /// is not saved. Default 64 MiB. A value above
        /// [`MAX_SAVED_REQUEST_BYTES`](crate::MAX_SAVED_REQUEST_BYTES) has the same effect as that
        /// constant.
        pub max_saved_bytes: usize = 64 << 20,
        /// The maximum nesting depth of the arguments of a tool call.
        ///
        /// A call that is nested deeper is [`Malformed`](crate::Malformed). Default 128, which is
        /// also the maximum of serde_json.
        pub max_nesting: usize = 128,
        /// The maximum size of one tool call, including its markers, in bytes.
        ///
        /// A larger call is [`Malformed`](crate::Malformed). Default 16 MiB.
        pub max_arguments_bytes: usize = 16 << 20,
        /// The maximum size of one turn, in bytes.
        ///
        /// The limit applies to [`ResponseParser::run`](crate::ResponseParser::run).
        ///
        /// A longer turn ends with [`Limit::TurnBytes`](crate::Limit::TurnBytes). Default 64 MiB.
        pub max_turn_bytes: usize = 64 << 20,
        /// The maximum number of streams that run at the same time.
        ///
        /// Each stream has its own reader thread.
        ///
        /// [`WhenFull`] defines what happens to further streams. Default 256.
        pub max_streams: usize = 256,
        /// The maximum number of streams that wait for their turn under [`WhenFull::Wait`].
        ///
        /// Any further stream fails at once. Each waiting stream holds the body of its request.
        /// Default 65,536.
        pub max_waiting_streams: usize = 64 << 10,
        /// The maximum number of idle connections that are kept open for later requests.
        ///
        /// Further connections are closed. With 0, no connection is kept. A connection that has
        /// been idle for more than 4 s is not reused. It is closed at the client's next request, or
        /// when the client is dropped. Default 256.
        pub max_idle_connections: usize = 256,
    }
}

/// The maximum number of times that a request is resent because its pooled connection was closed.
pub(crate) const MAX_STALE_RETRIES: u32 = 2;

/// The limit for the status line and headers of a response together, in bytes.
///
/// A larger head causes the error [`Limit::ResponseHeadBytes`](crate::Limit::ResponseHeadBytes).
/// This limit cannot be changed: it must stay a little below the size of the connection's input
/// buffer, which ureq does not grow.
pub const MAX_RESPONSE_HEAD_BYTES: usize = 15 << 10;

/// The maximum number of headers in a response.
///
/// More headers cause the error [`Limit::ResponseHeaders`](crate::Limit::ResponseHeaders). This
/// limit cannot be changed: ureq's parser has space for only this number of headers.
pub const MAX_RESPONSE_HEADERS: usize = 128;

/// Selects what happens to a stream that is requested while [`Limits::max_streams`] streams run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// The stream waits for its turn, in the order of the requests.
    ///
    /// The timers of the stream start when the stream is requested.
    /// [`first_token`](Timeouts::first_token), [`deadline`](Timeouts::deadline) and a cancel end
    /// the wait.
    #[default]
    Wait,
    /// The stream fails at once with [`Limit::Streams`](crate::Limit::Streams).
    Fail,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_key_is_trimmed_and_checked_and_never_shown() {
        let key = ApiKey::new(" sk-canary \r\n").unwrap();
        assert_eq!(key.bearer(), "Bearer sk-canary");
        assert_eq!(format!("{key:?}"), "ApiKey([redacted])");
        for bad in ["", " \n", "sk canary", "sk\r\nX-Evil: 1", "schlüssel"] {
            let error = ApiKey::new(bad).unwrap_err();
            assert!(bad.trim().is_empty() || !error.to_string().contains(bad), "{error}");
        }
    }
}
