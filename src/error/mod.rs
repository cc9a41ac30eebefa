//! The error type, with the progress of the stream and the error that the server reported.

pub(crate) mod escape;
pub(crate) mod macros;
pub(crate) mod secrets;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::macros::{display_as_str, names};

/// The maximum length of a server message in an error, in characters.
pub const MAX_SERVER_MESSAGE_CHARS: usize = 2_000;

type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// The error type of this crate.
///
/// In code, test the [`kind`](Self::kind) or call the predicates. The message is for people. It
/// does not include the cause: [`source`](std::error::Error::source) returns the cause, if there is
/// one. API keys never appear in an error.
///
/// A clone only increments a reference count. The stream and its report contain the same error.
///
/// ```
/// use tokenwire::{Error, ErrorKind};
///
/// fn advice(error: &Error) -> &'static str {
///     match error.kind() {
///         ErrorKind::InvalidInput => "fix the program",
///         ErrorKind::Refused | ErrorKind::Connect => "is the server up?",
///         ErrorKind::Timeout(_) => "the server is slow, or gone",
///         ErrorKind::Server if error.status() == Some(429) => "the server is busy",
///         _ if error.is_retryable() => "try again later",
///         _ => "look at the log",
///     }
/// }
///
/// let error = tokenwire::ApiClient::builder("localhost:8000").build().unwrap_err();
/// assert_eq!(advice(&error), "fix the program");
/// println!("{}: {error}", error.kind());
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    server: Option<ServerError>,
    progress: Option<Progress>,
    request_id: Option<String>,
    saved: Option<PathBuf>,
    cause: Option<Cause>,
}

names! {
    /// The kinds of failure.
    ///
    /// Each kind has a stable name ([`as_str`](Self::as_str)).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum ErrorKind {
        /// The input cannot be used, for example an invalid URL or a key with a line break.
        ///
        /// Nothing was sent.
        InvalidInput = "invalid_input",
        /// The connection failed.
        ///
        /// The host was not found or not reachable, or the TLS handshake failed. Nothing was sent.
        Connect = "connect",
        /// The host refused the connection: no server listens on this port. Nothing was sent.
        Refused = "refused",
        /// A timer expired.
        Timeout(Timer) = "timeout",
        /// The connection ended before a finish reason or a terminator arrived.
        Incomplete = "incomplete",
        /// The server reported an error.
        ///
        /// The error is an HTTP status other than 2xx, or an error inside the stream.
        Server = "server",
        /// The status is 2xx, but the response is not an event stream.
        NotEventStream = "not_event_stream",
        /// The response violates a rule, for example of HTTP framing, or an id is out of range.
        Protocol = "protocol",
        /// A limit was exceeded.
        Limit(Limit) = "limit",
        /// The stream or the turn was cancelled.
        Cancelled = "cancelled",
        /// The server or this version of the crate does not support the operation.
        Unsupported = "unsupported",
        /// Ids of a turn are missing, and the caller does not accept this. Nothing was sent.
        ///
        /// See [`WhenInexact::Refuse`](crate::WhenInexact::Refuse).
        InexactIds = "inexact_ids",
    }
}

names! {
    /// The timers of a request, see [`Timeouts`](crate::Timeouts).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum Timer {
        /// Name lookup, TCP connect and TLS handshake.
        Connect = "connect",
        /// The wait for the head of a response.
        ///
        /// Only requests that use [`HttpClient`](crate::HttpClient) directly have this timer.
        Response = "response",
        /// The time from the start of the request to the first token.
        FirstToken = "first_token",
        /// The time between two tokens during which no byte arrives.
        Chunk = "chunk",
        /// The time between two tokens during which no event arrives.
        ///
        /// Keep-alive comments do not count as events.
        Content = "content",
        /// The wait for the rest of the response after the finish reason.
        ///
        /// No error has this timer, because the stream is complete when the timer expires.
        AfterFinish = "after_finish",
        /// The time of the whole request.
        Deadline = "deadline",
        /// The time of one write of the request.
        Write = "write",
    }
}

names! {
    /// The limits that a stream can exceed, see [`Limits`](crate::Limits).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum Limit {
        /// The size of one event, with all its lines.
        EventBytes = "max_event_bytes",
        /// The size of the status line and headers of a response.
        ResponseHeadBytes = "max_response_head_bytes",
        /// The number of headers in a response.
        ResponseHeaders = "max_response_headers",
        /// The size of a response body that is read whole.
        BodyBytes = "max_body_bytes",
        /// The number of streams that run at the same time.
        Streams = "max_streams",
        /// The number of streams that wait for their turn.
        WaitingStreams = "max_waiting_streams",
        /// The text of one turn that a thread parses.
        TurnBytes = "max_turn_bytes",
        /// The nesting depth in one event, [`MAX_NESTING`](crate::MAX_NESTING).
        Nesting = "max_nesting",
        /// The number of choices in one chunk, [`MAX_CHOICES`](crate::MAX_CHOICES).
        Choices = "max_choices",
        /// The number of token ids in one chunk, [`MAX_TOKEN_IDS`](crate::MAX_TOKEN_IDS).
        TokenIds = "max_token_ids",
        /// The length of a prompt, in tokens.
        ContextTokens = "max_context_tokens",
        /// The number of tool call pieces in one chunk, [`MAX_TOOL_CALLS`](crate::MAX_TOOL_CALLS).
        ToolCalls = "max_tool_calls",
    }
}

display_as_str!(Timer, Limit);

impl fmt::Display for ErrorKind {
    /// Prints the name of the kind.
    ///
    /// For a timeout or a limit, the name of the timer or limit follows: `timeout (chunk)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(timer) => write!(f, "timeout ({timer})"),
            Self::Limit(limit) => write!(f, "limit ({limit})"),
            other => f.write_str(other.as_str()),
        }
    }
}

/// The error that a server reported, read from any of the known formats.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerError {
    /// The HTTP status, or the numeric `code` of an error inside a stream.
    pub status: Option<u16>,
    /// The message, with control characters escaped.
    ///
    /// The message has at most [`MAX_SERVER_MESSAGE_CHARS`] characters.
    pub message: String,
    /// The server's own name for the kind of error (`type` in most bodies), unchanged.
    pub kind: Option<String>,
    /// The server's own code, if it is not a number.
    pub code: Option<String>,
    /// The field of the request to which the error refers.
    pub param: Option<String>,
}

/// The progress of a stream at the time of its failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The number of body bytes received, without HTTP framing.
    pub bytes: u64,
    /// The number of events received.
    pub events: u64,
    /// The number of tokens that the stream delivered to the consumer.
    pub tokens: u64,
    /// The time since the request was made.
    pub elapsed: Duration,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            server: None,
            progress: None,
            request_id: None,
            saved: None,
            cause: None,
        }))
    }

    pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    pub(crate) fn protocol(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Protocol, message)
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
    }

    pub(crate) fn timeout(timer: Timer, limit: Duration) -> Self {
        let what = match timer {
            Timer::Connect => "no connection",
            Timer::Response => "no response",
            Timer::FirstToken => "no first token",
            Timer::Chunk => "no bytes from the server",
            Timer::Content => "no event from the server",
            Timer::AfterFinish => "no end of the response after the finish reason",
            Timer::Deadline => "not finished",
            Timer::Write => "the server did not accept the request's bytes",
        };
        Self::new(ErrorKind::Timeout(timer), format!("{what} within {limit:?} ({})", timer.as_str()))
    }

    pub(crate) fn limit(limit: Limit, max: u64) -> Self {
        Self::new(ErrorKind::Limit(limit), format!("limit exceeded: {} is {max}", limit.as_str()))
    }

    pub(crate) fn server(server: ServerError) -> Self {
        let message = match server.status {
            Some(status) => format!("the server answered {status}: {}", server.message),
            None => format!("the server reported an error: {}", server.message),
        };
        Self::new(ErrorKind::Server, message).with_server(server)
    }

    pub(crate) fn with_source(self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.with(|inner| inner.cause = Some(source.into().into()))
    }

    pub(crate) fn with_server(self, server: ServerError) -> Self {
        self.with(|inner| inner.server = Some(server))
    }

    pub(crate) fn with_request_id(self, request_id: Option<&str>) -> Self {
        self.with(|inner| inner.request_id = request_id.map(str::to_owned))
    }

    pub(crate) fn with_progress(self, progress: Progress) -> Self {
        self.with(|inner| inner.progress = Some(progress))
    }

    pub(crate) fn with_saved_path(self, path: Option<PathBuf>) -> Self {
        self.with(|inner| inner.saved = path)
    }

    fn with(mut self, edit: impl FnOnce(&mut Inner)) -> Self {
        edit(Arc::make_mut(&mut self.0));
        self
    }

    /// Returns the kind of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the message, without the progress and the request id that `Display` adds.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the error that the server reported, if it reported one.
    #[must_use]
    pub fn server_error(&self) -> Option<&ServerError> {
        self.0.server.as_ref()
    }

    /// Returns the HTTP status, or the status of an error inside a stream.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.0.server.as_ref().and_then(|server| server.status)
    }

    /// Returns the progress of the stream, or `None` for a failure outside a stream.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        self.0.progress
    }

    /// Returns the server's id of the request, if the server sent one.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// Returns the file in which the request was saved, if it was saved.
    ///
    /// See [`ApiClientBuilder::save_failed`](crate::ApiClientBuilder::save_failed).
    #[must_use]
    pub fn saved_path(&self) -> Option<&Path> {
        self.0.saved.as_deref()
    }

    /// Returns whether a timer expired.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Timeout(_))
    }

    /// Returns whether the connection could not be made. In this case, nothing was sent.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Connect | ErrorKind::Refused | ErrorKind::Timeout(Timer::Connect))
    }

    /// Returns whether the stream or the turn was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.kind == ErrorKind::Cancelled
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        f.write_str(&inner.message)?;
        match (&inner.progress, &inner.request_id) {
            (None, None) => Ok(()),
            (None, Some(id)) => write!(f, " (request {})", id.escape_debug()),
            (Some(at), id) => {
                write!(f, " (after {} tokens, {} bytes, {:.3?}", at.tokens, at.bytes, at.elapsed)?;
                if let Some(id) = id {
                    write!(f, ", request {}", id.escape_debug())?;
                }
                if let Some(path) = &inner.saved {
                    write!(f, ", saved as {path:?}")?;
                }
                f.write_str(")")
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, message, server, progress, request_id, saved, cause } = &*self.0;
        let known: [(&str, Option<&dyn fmt::Debug>); 5] = [
            ("server", server.as_ref().map(|server| server as _)),
            ("progress", progress.as_ref().map(|progress| progress as _)),
            ("request_id", request_id.as_ref().map(|id| id as _)),
            ("saved", saved.as_ref().map(|path| path as _)),
            ("source", cause.as_ref().map(|cause| cause as _)),
        ];
        let mut out = f.debug_struct("Error");
        out.field("kind", kind).field("message", message);
        for (name, value) in known {
            if let Some(value) = value {
                out.field(name, value);
            }
        }
        out.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_pointer_and_can_cross_threads() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<Error>();
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Option<Error>>(), size_of::<usize>());
    }

    #[test]
    fn a_printed_chain_says_each_thing_once() {
        let cause = std::io::Error::other("connection reset by peer");
        let error = Error::new(ErrorKind::Incomplete, "the stream broke off").with_source(cause);
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(error.to_string(), "the stream broke off");
        assert_eq!(source.as_deref(), Some("connection reset by peer"));
        let source = std::error::Error::source(&error);
        assert!(source.is_some_and(|source| source.is::<std::io::Error>()), "it can be downcast");
    }

    #[test]
    fn where_it_happened_is_in_the_message() {
        let at = Progress { bytes: 42, events: 3, tokens: 2, elapsed: Duration::from_millis(1500) };
        let error = Error::timeout(Timer::Chunk, Duration::from_secs(1))
            .with_progress(at)
            .with_request_id(Some("r\n1"));
        assert_eq!(
            error.to_string(),
            "no bytes from the server within 1s (chunk) (after 2 tokens, 42 bytes, 1.500s, request r\\n1)"
        );
        assert!(error.is_timeout() && !error.is_connect());
        let error = error.with_saved_path(Some("/tmp/a b".into()));
        assert!(error.to_string().ends_with(r#", request r\n1, saved as "/tmp/a b")"#), "{error}");
    }
}
