//! What a client is set up with: key, timers, limits. Every wait and every buffer has its name here.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Timer};

/// An API key. It has no `Display`, its `Debug` is redacted, and it is sent in the `Authorization` header
/// and nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(Box<str>);

impl ApiKey {
    /// Takes a key as it stands in a file or a variable: spaces and line ends around it are removed.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if nothing is left, or if a character is left that
    /// an HTTP header cannot carry (anything but visible ASCII). The message does not show the key.
    pub fn new(key: &str) -> Result<Self, Error> {
        let key = key.trim();
        if key.is_empty() {
            return Err(Error::invalid("the API key is empty"));
        }
        if !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::invalid("the API key has a character that is not visible ASCII"));
        }
        Ok(Self(key.into()))
    }

    /// The header's value.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey([redacted])")
    }
}

/// The timers of a request. `None` means no limit, which only the total has by default; so does more than 100 years. Zero
/// passes at the first wait.
///
/// None of them runs while the stream waits for its consumer to take tokens, save
/// [`deadline`](Self::deadline).
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
    /// Name lookup, TCP connect and TLS handshake together. It can pass at most once per attempt. Default
    /// 30 s.
    pub connect: Option<Duration>,
    /// From the start of an attempt, its connection included, to the first token, or to the first piece of a tool call on a
    /// chat endpoint. Response headers and keep-alive comments do not stop it: some servers send both at once and then queue
    /// the request for minutes. Of a [`call`](crate::ApiClient::call) it bounds the wait for the whole answer. Default 600 s.
    pub first_token: Option<Duration>,
    /// Between tokens: no byte of the body for this long. Bytes of framing alone do not count. Starts anew
    /// with each read. Default 120 s.
    pub chunk: Option<Duration>,
    /// Between tokens: no event for this long, whatever else comes. A dead engine's front end was
    /// seen sending keep-alive comments for ten minutes. Default 600 s.
    pub content: Option<Duration>,
    /// After the finish reason: how long to wait for what still belongs to the answer, the usage and the terminator or the
    /// end of the body, whatever else comes. When it passes the stream is complete, without what has not come, and its
    /// connection is not used again. Default 5 s; zero waits for nothing, and the usage is mostly lost.
    pub after_finish: Option<Duration>,
    /// The whole request with everything in it, the wait for a slow consumer too. Default none.
    pub deadline: Option<Duration>,
    /// One write of the request, of at most 16 KiB: the server has not taken all of it after this long. It starts anew with
    /// each write, so a server that reads slowly may take its time;
    /// [`first_token`](Self::first_token) and [`deadline`](Self::deadline) run through the whole. Default 30 s.
    pub write: Option<Duration>,
    /// After the end of a stream, how long to wait for the last bytes of its framing, so that the
    /// connection can be used again. The consumer does not wait for it. Default 50 ms; zero for never.
    pub drain: Duration,
}

/// No timer runs longer: beyond some centuries the clock itself cannot be added to.
const MAX_TIMER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Timeouts {
    /// With timers that the clock can be added to; what is longer is no limit.
    pub(crate) fn bounded(mut self) -> Self {
        let Self { connect, first_token, chunk, content, after_finish, deadline, write, drain } = &mut self;
        for timer in [connect, first_token, chunk, content, after_finish, deadline, write] {
            *timer = timer.filter(|limit| *limit <= MAX_TIMER);
        }
        *drain = (*drain).min(MAX_TIMER);
        self
    }

    /// The first of the timers that run from when a stream is asked for.
    pub(crate) fn before_first_token(&self) -> Option<(Timer, Duration)> {
        let timers = [(Timer::FirstToken, self.first_token), (Timer::Deadline, self.deadline)];
        timers.into_iter().filter_map(|(timer, limit)| Some((timer, limit?))).min_by_key(|(_, limit)| *limit)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Some(Duration::from_secs(30)),
            first_token: Some(Duration::from_secs(600)),
            chunk: Some(Duration::from_secs(120)),
            content: Some(Duration::from_secs(600)),
            after_finish: Some(Duration::from_secs(5)),
            deadline: None,
            write: Some(Duration::from_secs(30)),
            drain: Duration::from_millis(50),
        }
    }
}

/// The bounds of everything that could grow. Passing one is a typed error that names it
/// ([`Limit`](crate::Limit)), except where something else is named below. Those that are not settable:
/// [`MAX_RESPONSE_HEAD_BYTES`], [`MAX_NESTING`](crate::MAX_NESTING), [`MAX_CHOICES`](crate::MAX_CHOICES),
/// [`MAX_TOKEN_IDS`](crate::MAX_TOKEN_IDS).
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
    /// One event of a stream, its lines together. Default 32 MiB.
    pub max_event_bytes: usize,
    /// How much of an error's body is read for its message; the rest is left. Passing it is no error of its own: the
    /// server's is the one to tell, from as much as was read. Default 64 KiB.
    pub max_error_body_bytes: usize,
    /// A body read as a whole ([`HttpResponse::text`](crate::HttpResponse::text)). Default 32 MiB.
    pub max_body_bytes: usize,
    /// Tokens in a stream's channel that the consumer has not taken. When it is full, the
    /// stream stops reading from its socket until some are taken. Default 1,024.
    pub max_channel_tokens: usize,
    /// Bytes of text in a stream's channel that the consumer has not taken; when full, as above. One
    /// token alone may be larger. Default 8 MiB.
    pub max_channel_bytes: usize,
    /// Bytes of a response that are kept for a recording. What comes after them goes on to the consumer as ever, and the
    /// recording's end is [`Unknown`](crate::recording::BodyEnd::Unknown). Default 64 MiB.
    pub max_recording_bytes: usize,
    /// Failed requests kept in the folder of [`save_failed`](crate::ApiClientBuilder::save_failed); the oldest make room. 0
    /// saves none. Default 32.
    pub max_saved_files: usize,
    /// Bytes of the failed requests kept there, together; as above. One that is larger by itself is not saved.
    /// Default 64 MiB; more than [`MAX_SAVED_REQUEST_BYTES`](crate::MAX_SAVED_REQUEST_BYTES) counts as that.
    pub max_saved_bytes: usize,
    /// How deep the arguments of a call may be nested; a deeper one is [`Malformed`](crate::Malformed). Default 128,
    /// which is also the most that serde_json reads.
    pub max_nesting: usize,
    /// One tool call, its markers and all; a larger one is [`Malformed`](crate::Malformed). Default 16 MiB.
    pub max_arguments_bytes: usize,
    /// The text of one turn that [`ResponseParser::run`](crate::ResponseParser::run) keeps; more is
    /// [`Limit::TurnBytes`](crate::Limit::TurnBytes). Default 64 MiB.
    pub max_turn_bytes: usize,
    /// Streams at the same time, each on a reader thread of its own. What happens to one more is
    /// [`WhenFull`]. Default 256.
    pub max_streams: usize,
    /// Streams that wait for their turn, as [`WhenFull::Wait`] has it; one more fails at once. Each holds its request's body.
    /// Default 65,536.
    pub max_waiting_streams: usize,
    /// Connections kept open for a next request when theirs has ended; more are closed. 0 keeps none. Default 256. One that
    /// is older than 4 s is not used again; it is closed at the client's next request, or with the client.
    pub max_idle_connections: usize,
}

/// How often one request is sent anew because the pooled connection it got turned out to be closed.
pub(crate) const MAX_STALE_RETRIES: u32 = 2;

/// Status line and headers of a response together, in bytes; more is
/// [`Limit::ResponseHeadBytes`](crate::Limit::ResponseHeadBytes). Not settable: it stays a little under the size of
/// the connection's input buffer, which ureq does not grow.
pub const MAX_RESPONSE_HEAD_BYTES: usize = 15 << 10;

/// Headers of a response; more is [`Limit::ResponseHeaders`](crate::Limit::ResponseHeaders). Not settable: ureq's parser has
/// room for so many.
pub const MAX_RESPONSE_HEADERS: usize = 128;

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_event_bytes: 32 << 20,
            max_error_body_bytes: 64 << 10,
            max_body_bytes: 32 << 20,
            max_channel_tokens: 1024,
            max_channel_bytes: 8 << 20,
            max_recording_bytes: 64 << 20,
            max_saved_files: 32,
            max_saved_bytes: 64 << 20,
            max_nesting: 128,
            max_arguments_bytes: 16 << 20,
            max_turn_bytes: 64 << 20,
            max_streams: 256,
            max_waiting_streams: 64 << 10,
            max_idle_connections: 256,
        }
    }
}

/// What happens to a stream that is asked for when [`Limits::max_streams`] are running.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// It waits for its turn, in the order of asking. Its timers run from when it was asked for:
    /// [`first_token`](Timeouts::first_token) and [`deadline`](Timeouts::deadline) end the wait, as a cancel does.
    #[default]
    Wait,
    /// It fails at once with [`Limit::Streams`](crate::Limit::Streams).
    Fail,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_trimmed_checked_and_never_shown() {
        let key = ApiKey::new(" sk-canary \r\n").unwrap();
        assert_eq!(key.bearer(), "Bearer sk-canary");
        assert_eq!(format!("{key:?}"), "ApiKey([redacted])");
        for bad in ["", " \n", "sk canary", "sk\r\nX-Evil: 1", "schlüssel"] {
            let error = ApiKey::new(bad).unwrap_err();
            assert!(bad.trim().is_empty() || !error.to_string().contains(bad), "{error}");
        }
    }
}
