//! Records HTTP exchanges: the request, the response with the time of each piece, and the end.
//!
//! A [`Recording`] is kept in memory. Only [`Recording::load`] and [`Recording::save`] use files.
//! The file format is JSON Lines:
//!
//! ```text
//! {"tokenwire_recording":1,"request":{"method":"POST","path":"/v1/completions",
//!   "headers":[["accept","*/*"]],"text":"{}"},"response":{"status":200,"headers":[["server","uvicorn"]]}}
//! {"t_us":15230,"text":"data: {...}\n\n"}
//! {"t_us":27110,"base64":"ZGF0YTogww=="}
//! {"t_us":27300,"end":"complete"}
//! ```
//!
//! In a file, each object is on one line. In this example, the first object is on two lines because
//! it is long.
//!
//! - `t_us` is the number of microseconds since the request was sent.
//! - `text` contains bytes that are valid UTF-8. `base64` contains all other bytes.
//! - If the head line has no `response`, the pieces are the raw bytes of the connection. They
//!   include the status line, the headers and the framing.
//! - If the head line has a `response`, the pieces are the body alone, without its framing.
//! - If a file was cut off, the lines before the cut are loaded. The end of the exchange is then
//!   [`BodyEnd::Unknown`].
//!
//! Credentials are never stored: see [`CREDENTIAL_HEADERS`]. Prompts and replies are stored,
//! because they are the purpose of a recording.
//!
//! ```
//! use std::time::Duration;
//! use tokenwire::recording::{BodyEnd, Recording, Request};
//!
//! let request = Request::new("POST", "/v1/completions").with_header("authorization", "Bearer sk-1");
//! let mut recording = Recording::of_body(request, 200, [("content-type", "text/event-stream")]);
//! recording.push(Duration::from_millis(12), "data: [DONE]\n\n");
//! recording.finish(BodyEnd::Complete, Some(Duration::from_millis(13)));
//!
//! let loaded = Recording::from_jsonl(recording.to_jsonl().as_bytes())?;
//! assert_eq!(loaded, recording);
//! assert_eq!(loaded.response_body().bytes, b"data: [DONE]\n\n");
//! assert_eq!(loaded.request().header("authorization"), None);
//! # Ok::<(), tokenwire::Error>(())
//! ```

use std::borrow::Cow;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;
use std::{fmt, fs};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::error::macros::{display_as_str, names};
use crate::error::secrets::Secrets;

pub(crate) mod http;
mod jsonl;

pub use self::http::{Body, BodyState, Dechunked, dechunk};

/// The largest file that [`Recording::load`] reads: 256 MiB.
///
/// A larger file causes an error: no part of it is loaded.
pub const MAX_RECORDING_BYTES: u64 = 256 << 20;

/// The headers that no recording contains, in lower case.
///
/// These headers are removed from every recording. Credentials can also appear elsewhere:
///
/// - Raw response bytes are not changed. If they contain a `set-cookie` header, the recording
///   contains this header, too.
/// - If this crate records its own stream, the credentials of the request may appear in the body of
///   the request or in the response. In these bodies, each byte of a credential is overwritten with
///   `*`.
pub const CREDENTIAL_HEADERS: [&str; 6] =
    ["authorization", "cookie", "proxy-authorization", "x-api-key", "api-key", "set-cookie"];

fn is_credential(name: &str) -> bool {
    CREDENTIAL_HEADERS.iter().any(|header| name.eq_ignore_ascii_case(header))
}

/// An HTTP request as a server receives it.
///
/// The `Debug` output leaves out the values of credential headers. It shows only the size of the
/// body.
///
/// ```
/// use tokenwire::recording::Request;
///
/// let request = Request::new("POST", "/v1/completions")
///     .with_header("Content-Type", "application/json")
///     .with_body(r#"{"stream": true}"#);
/// assert_eq!(request.header("content-type"), Some("application/json"));
/// assert_eq!(request.json()["stream"], true);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Request {
    /// The method: `GET`, `POST`, ...
    pub method: String,
    /// The path and the query, exactly as in the request line.
    pub path: String,
    /// The names and values of the headers, in the order in which they were sent.
    ///
    /// The names keep their upper and lower case.
    pub headers: Vec<(String, String)>,
    /// The body of the request, without its framing.
    pub body: Vec<u8>,
}

impl Request {
    /// Creates a request without headers and without a body.
    pub fn new(method: impl Into<String>, path: impl Into<String>) -> Self {
        Self { method: method.into(), path: path.into(), ..Self::default() }
    }

    /// Adds one header.
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Returns the value of the first header with this name. The case of the name does not matter.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        http::find_header(&self.headers, name)
    }

    /// Returns the body as text. Bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// Returns the body as JSON, or `Null` if it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, headers, body } = self;
        let shown: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (&**name, if is_credential(name) { "[redacted]" } else { value }))
            .collect();
        f.debug_struct("Request")
            .field("method", method)
            .field("path", path)
            .field("headers", &shown)
            .field("body_bytes", &body.len())
            .finish()
    }
}

/// Bytes of a response that arrived together.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Piece {
    /// The time between sending the request and receiving the bytes, in whole microseconds.
    pub at: Duration,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Piece").field("at", &self.at).field("bytes", &self.bytes.len()).finish()
    }
}

names! {
    /// Describes how a recorded exchange ended.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum BodyEnd {
        /// The response reached the end that its framing announced. The connection stayed open.
        Complete = "complete",
        /// The server closed the connection (FIN).
        ///
        /// The response may be complete or incomplete: see [`Body::state`].
        Closed = "closed",
        /// The server reset the connection (RST).
        Reset = "reset",
        /// No more bytes arrived, and the connection stayed open until the recorder gave up.
        Silent = "silent",
        /// The client closed the connection.
        ClientClosed = "client_closed",
        /// The recording does not show how the exchange ended.
        Unknown = "unknown",
    }
}

display_as_str!(BodyEnd);

impl BodyEnd {
    const ALL: [Self; 6] =
        [Self::Complete, Self::Closed, Self::Reset, Self::Silent, Self::ClientClosed, Self::Unknown];

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|end| end.as_str() == name)
    }
}

/// The status and the headers of a response. The pieces of the response contain only the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ResponseHead {
    status: u16,
    headers: Vec<(String, String)>,
}

/// A recorded HTTP exchange. The [module](self) describes the format.
///
/// ```
/// use std::time::Duration;
/// use tokenwire::recording::{BodyEnd, Recording, Request};
///
/// let request = Request::new("POST", "/v1/chat/completions").with_body("{}");
/// let mut recording = Recording::of_body(request, 200, [("content-type", "application/json")]);
/// recording.push(Duration::from_millis(12), "{\"id\":");
/// recording.push(Duration::from_millis(15), "1}");
/// recording.finish(BodyEnd::Complete, Some(Duration::from_millis(15)));
///
/// assert_eq!(recording.status(), Some(200));
/// assert_eq!(recording.pieces()[1].at, Duration::from_millis(15));
/// assert_eq!(recording.response_bytes(), b"{\"id\":1}");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    request: Request,
    /// `None` if the pieces are raw and contain the head.
    head: Option<ResponseHead>,
    pieces: Vec<Piece>,
    end: BodyEnd,
    ended_at: Option<Duration>,
}

impl Recording {
    /// Creates a recording for the raw bytes of a connection.
    ///
    /// The pieces then include the status line, the headers and the framing. Credential headers of
    /// `request` are removed.
    #[must_use]
    pub fn of_wire(request: Request) -> Self {
        Self::new(request, None)
    }

    /// Creates a recording for the body of a response, as an HTTP client returns it.
    ///
    /// The pieces then contain the body alone. `headers` are the headers of the response.
    /// Credential headers of `request` and of the response are removed.
    #[must_use]
    pub fn of_body<N: Into<String>, V: Into<String>>(
        request: Request,
        status: u16,
        headers: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let mut headers: Vec<(String, String)> =
            headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        headers.retain(|(name, _)| !is_credential(name));
        Self::new(request, Some(ResponseHead { status, headers }))
    }

    /// Removes the credentials of the request from the bodies and the remaining headers.
    ///
    /// A credential can also appear in a prompt that shows how to call the server. A server can
    /// send a credential back in its response. In the bodies, each byte of a credential becomes
    /// `*`.
    pub(crate) fn without(mut self, secrets: &Secrets) -> Self {
        let Request { method: _, path: _, headers, body } = &mut self.request;
        secrets.mask(&mut [body]);
        let answered = self.head.iter_mut().flat_map(|head| &mut head.headers);
        for (_, value) in headers.iter_mut().chain(answered) {
            *value = secrets.redact(value).into_owned();
        }
        secrets.mask(&mut self.pieces.iter_mut().map(|piece| &mut *piece.bytes).collect::<Vec<_>>());
        self
    }

    fn new(mut request: Request, head: Option<ResponseHead>) -> Self {
        request.headers.retain(|(name, _)| !is_credential(name));
        Self { request, head, pieces: Vec::new(), end: BodyEnd::Unknown, ended_at: None }
    }

    /// Appends `bytes`, received `at` after the request was sent.
    ///
    /// Fractions of a microsecond are cut off. Empty pieces are not kept.
    pub fn push(&mut self, at: Duration, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            self.pieces.push(Piece { at: whole_micros(at), bytes });
        }
    }

    /// Sets how the exchange ended, and the time of the end if this time is known.
    ///
    /// Before this call, the end is [`BodyEnd::Unknown`].
    pub fn finish(&mut self, end: BodyEnd, at: Option<Duration>) {
        self.end = end;
        self.ended_at = at.map(whole_micros);
    }

    /// Reads a file in the format of this crate.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the file cannot be read, is larger than
    /// [`MAX_RECORDING_BYTES`], or is not a recording.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let mut bytes = Vec::new();
        fs::File::open(path)
            .and_then(|file| file.take(MAX_RECORDING_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|error| file_error("cannot read", path, error))?;
        if bytes.len() as u64 > MAX_RECORDING_BYTES {
            return Err(Error::invalid(format!(
                "the recording {:?} is larger than {MAX_RECORDING_BYTES} bytes",
                path.display().to_string()
            )));
        }
        Self::from_jsonl(&bytes)
    }

    /// Writes a file in the format of this crate.
    ///
    /// An existing file is replaced. On Unix, a new file is readable only by its owner, because it
    /// contains prompts. If writing fails, the file may contain a part of the recording.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
            .open(path)
            .and_then(|mut file| file.write_all(self.to_jsonl().as_bytes()))
            .map_err(|error| file_error("cannot write", path, error))
    }

    /// Returns the whole recording in the format of this crate.
    #[must_use]
    pub fn to_jsonl(&self) -> String {
        jsonl::write(self)
    }

    /// Reads a recording in the format of this crate. An incomplete last line is ignored.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) with the number of the line if a line is
    /// invalid.
    pub fn from_jsonl(text: &[u8]) -> Result<Self, Error> {
        jsonl::read(text)
    }

    /// Returns the request, without credentials.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Returns the body of the request.
    #[must_use]
    pub fn request_body(&self) -> &[u8] {
        &self.request.body
    }

    /// Returns whether the pieces are raw bytes, including the head and the framing.
    ///
    /// Otherwise, the pieces contain only the body.
    #[must_use]
    pub fn is_wire(&self) -> bool {
        self.head.is_none()
    }

    /// Returns the pieces in the order of arrival. No piece is empty.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Joins the bytes of all pieces and returns a copy.
    #[must_use]
    pub fn response_bytes(&self) -> Vec<u8> {
        self.pieces.iter().flat_map(|piece| piece.bytes.iter().copied()).collect()
    }

    /// Returns the status of the response, or `None` if its head is incomplete.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        Some(self.response_head()?.status)
    }

    /// Returns the headers of the response, or an empty list if its head is incomplete.
    #[must_use]
    pub fn response_headers(&self) -> Vec<(String, String)> {
        self.response_head().map(|head| head.headers).unwrap_or_default()
    }

    fn response_head(&self) -> Option<ResponseHead> {
        self.head.clone().or_else(|| {
            let (head, _) = http::response_head(&self.response_bytes())?;
            Some(ResponseHead { status: head.status(), headers: head.headers })
        })
    }

    /// Returns a copy of the received body of the response, without its framing.
    #[must_use]
    pub fn response_body(&self) -> Body {
        let bytes = self.response_bytes();
        let ended_well = matches!(self.end, BodyEnd::Complete | BodyEnd::Closed);
        if self.is_wire() {
            return http::response_body(&bytes, ended_well);
        }
        // An HTTP client removed the framing. It reports `Complete` only if the framing was
        // complete.
        let state = if self.end == BodyEnd::Complete { BodyState::Complete } else { BodyState::Cut };
        Body { bytes, state }
    }

    /// Returns how the exchange ended.
    #[must_use]
    pub fn end(&self) -> BodyEnd {
        self.end
    }

    /// Returns the time at which the exchange ended, or `None` if the time is unknown.
    ///
    /// The time is measured from the moment when the request was sent, like the times of the
    /// pieces.
    #[must_use]
    pub fn ended_at(&self) -> Option<Duration> {
        self.ended_at
    }
}

/// Truncates a time to whole microseconds, so that a saved value equals its loaded copy.
pub(crate) fn whole_micros(at: Duration) -> Duration {
    Duration::from_micros(micros(at))
}

pub(crate) fn micros(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).unwrap_or(u64::MAX)
}

fn file_error(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::invalid(format!("{what} the recording {:?}", path.display().to_string())).with_source(error)
}
