//! The one public error: what kind of failure, where it happened, what the server said.

pub(crate) mod escape;
pub(crate) mod macros;
pub(crate) mod secrets;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::macros::{display_as_str, names};

/// The longest server message kept in an error, in characters.
pub const MAX_SERVER_MESSAGE_CHARS: usize = 2_000;

type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Everything that can go wrong in this crate.
///
/// Branch on [`kind`](Self::kind) or on the predicates; the message is for people. It tells its own layer
/// only: the cause, if there is one, is behind [`source`](std::error::Error::source). No API key is ever in
/// it. Cloning is cheap (one reference count): the same error stands in the stream and in its report.
///
/// ```
/// use tokenwire::{Error, ErrorKind};
///
/// fn advice(error: &Error) -> &'static str {
///     match error.kind() {
///         ErrorKind::InvalidInput => "mend the program",
///         ErrorKind::Refused | ErrorKind::Connect => "is the server up?",
///         ErrorKind::Timeout(_) => "it is slow, or gone",
///         ErrorKind::Server if error.status() == Some(429) => "it is busy",
///         _ if error.is_retryable() => "try again later",
///         _ => "ask a person",
///     }
/// }
///
/// let error = tokenwire::ApiClient::builder("localhost:8000").build().unwrap_err();
/// assert_eq!(advice(&error), "mend the program");
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
    /// The kinds of failure, a closed list as far as their names go ([`as_str`](Self::as_str)).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum ErrorKind {
        /// What the caller gave cannot be used: a bad URL, a key with a line break, a file that is no
        /// tokenizer. Nothing was sent.
        InvalidInput = "invalid_input",
        /// No connection: name not found, host unreachable, TLS handshake failed. Nothing was sent.
        Connect = "connect",
        /// The host answered that nobody listens there. Nothing was sent.
        Refused = "refused",
        /// A named timer passed.
        Timeout(Timer) = "timeout",
        /// The connection ended before a finish reason or a terminator was seen.
        Incomplete = "incomplete",
        /// The server said no: an HTTP status other than 2xx, or an error inside the stream.
        Server = "server",
        /// The answer has a good status but is no event stream.
        NotEventStream = "not_event_stream",
        /// The bytes break a rule that they must keep: HTTP framing, an id out of range.
        Protocol = "protocol",
        /// A named limit was passed.
        Limit(Limit) = "limit",
        /// Ended on purpose, by its guard.
        Cancelled = "cancelled",
        /// Something this server or this version cannot do.
        Unsupported = "unsupported",
        /// A turn's ids are not all there, and the caller wants no others
        /// ([`WhenInexact::Refuse`](crate::WhenInexact::Refuse)). Nothing was sent.
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
        /// The head of a response, for requests made with [`HttpClient`](crate::HttpClient) directly.
        Response = "response",
        /// From the start of the request to the first token.
        FirstToken = "first_token",
        /// No bytes at all, between tokens.
        Chunk = "chunk",
        /// No event; comments that keep the connection alive do not count.
        Content = "content",
        /// What belongs to the answer after its finish reason. No error has it: the stream is complete then.
        AfterFinish = "after_finish",
        /// The whole request.
        Deadline = "deadline",
        /// The server does not take the request's bytes.
        Write = "write",
    }
}

names! {
    /// The limits that can be passed, see [`Limits`](crate::Limits).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum Limit {
        /// One event, its lines together.
        EventBytes = "max_event_bytes",
        /// Status line and headers of a response.
        ResponseHeadBytes = "max_response_head_bytes",
        /// The number of headers of a response.
        ResponseHeaders = "max_response_headers",
        /// A whole response body read at once.
        BodyBytes = "max_body_bytes",
        /// Streams at the same time.
        Streams = "max_streams",
        /// Streams that wait for their turn.
        WaitingStreams = "max_waiting_streams",
        /// The text of one turn that a thread parses.
        TurnBytes = "max_turn_bytes",
        /// Lists and objects inside of each other in one event, [`MAX_NESTING`](crate::MAX_NESTING).
        Nesting = "max_nesting",
        /// Choices in one chunk, [`MAX_CHOICES`](crate::MAX_CHOICES).
        Choices = "max_choices",
        /// Token ids in one chunk, [`MAX_TOKEN_IDS`](crate::MAX_TOKEN_IDS).
        TokenIds = "max_token_ids",
        /// A prompt, in tokens.
        ContextTokens = "max_context_tokens",
        /// Pieces of tool calls in one chunk, [`MAX_TOOL_CALLS`](crate::MAX_TOOL_CALLS).
        ToolCalls = "max_tool_calls",
    }
}

display_as_str!(Timer, Limit);

impl fmt::Display for ErrorKind {
    /// The name; of a timeout and a limit with that of the timer or limit behind it: `timeout (chunk)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(timer) => write!(f, "timeout ({timer})"),
            Self::Limit(limit) => write!(f, "limit ({limit})"),
            other => f.write_str(other.as_str()),
        }
    }
}

/// What a server said when it refused or failed, in whichever of the known shapes it said it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerError {
    /// The HTTP status, or the numeric `code` of an error that came inside a stream.
    pub status: Option<u16>,
    /// The message: control characters escaped, at most [`MAX_SERVER_MESSAGE_CHARS`] characters.
    pub message: String,
    /// The server's own name for the kind of error (`type` in most bodies), as it came.
    pub kind: Option<String>,
    /// The server's own code, where it is not a number.
    pub code: Option<String>,
    /// The request's field that the server complains of.
    pub param: Option<String>,
}

/// How far a stream had come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Body bytes received, after the HTTP framing was taken off.
    pub bytes: u64,
    /// Events received.
    pub events: u64,
    /// Tokens handed to the consumer.
    pub tokens: u64,
    /// Time since the request was made.
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
            Timer::AfterFinish => "no end after the finish reason",
            Timer::Deadline => "not finished",
            Timer::Write => "the server took no bytes of the request",
        };
        Self::new(ErrorKind::Timeout(timer), format!("{what} within {limit:?} ({})", timer.as_str()))
    }

    pub(crate) fn limit(limit: Limit, max: u64) -> Self {
        Self::new(ErrorKind::Limit(limit), format!("limit passed: {} is {max}", limit.as_str()))
    }

    pub(crate) fn server(server: ServerError) -> Self {
        let message = match server.status {
            Some(status) => format!("the server answered {status}: {}", server.message),
            None => format!("the server reported an error: {}", server.message),
        };
        Self::new(ErrorKind::Server, message).with_server(server)
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.edit().cause = Some(source.into().into());
        self
    }

    pub(crate) fn with_server(mut self, server: ServerError) -> Self {
        self.edit().server = Some(server);
        self
    }

    pub(crate) fn with_request_id(mut self, request_id: Option<&str>) -> Self {
        self.edit().request_id = request_id.map(str::to_owned);
        self
    }

    pub(crate) fn with_progress(mut self, progress: Progress) -> Self {
        self.edit().progress = Some(progress);
        self
    }

    pub(crate) fn with_saved_path(mut self, path: Option<PathBuf>) -> Self {
        self.edit().saved = path;
        self
    }

    fn edit(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What happened, without the place and the request id that `Display` puts behind it.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the server said, if it said anything.
    #[must_use]
    pub fn server_error(&self) -> Option<&ServerError> {
        self.0.server.as_ref()
    }

    /// The HTTP status, or the status that an error inside a stream stands for.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.0.server.as_ref().and_then(|server| server.status)
    }

    /// How far the stream had come; `None` for failures outside a stream.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        self.0.progress
    }

    /// The id under which the server knows the request, if it was told.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// The file in which the request was saved to be sent again
    /// ([`ApiClientBuilder::save_failed`](crate::ApiClientBuilder::save_failed)), if it was.
    #[must_use]
    pub fn saved_path(&self) -> Option<&Path> {
        self.0.saved.as_deref()
    }

    /// A timer passed, whichever.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Timeout(_))
    }

    /// Nothing was sent: the failure came before or while connecting.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Connect | ErrorKind::Refused | ErrorKind::Timeout(Timer::Connect))
    }

    /// Ended on purpose, by its guard.
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
