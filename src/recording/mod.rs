//! One HTTP exchange, kept: what was asked, what came back, when each piece of it came, and how it ended.
//!
//! A [`Recording`] is a value; only [`Recording::load`] and [`Recording::save`] touch files. It is read
//! and written in one format, JSON Lines:
//!
//! ```text
//! {"tokenwire_recording":1,"request":{"method":"POST","path":"/v1/completions",
//!   "headers":[["accept","*/*"]],"text":"{}"},"response":{"status":200,"headers":[["server","uvicorn"]]}}
//! {"t_us":15230,"text":"data: {...}\n\n"}
//! {"t_us":27110,"base64":"ZGF0YTogww=="}
//! {"t_us":27300,"end":"complete"}
//! ```
//!
//! Each is one line; the first is broken in two here. `t_us` counts microseconds since the request was
//! sent. Bytes that are UTF-8 stand as `text`, others as `base64`. A head line without `response` says
//! that the pieces are the raw bytes of the wire: status line, headers and framing are in them. With
//! `response` they are the body alone, its framing already taken off. A file that breaks off loads up
//! to there, and its end is then [`BodyEnd::Unknown`].
//!
//! Credentials are never stored: see [`CREDENTIAL_HEADERS`]. Prompts and replies are, they are the
//! point of it.
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

use crate::error::Error;
use crate::error::secrets::Secrets;

mod base64;
pub(crate) mod http;
mod jsonl;

pub use self::http::{Body, BodyState, Dechunked, dechunk};

/// The largest file that [`Recording::load`] reads, 256 MiB. A larger one is an error, not a prefix.
pub const MAX_RECORDING_BYTES: u64 = 256 << 20;

/// The headers, in lower case, that no recording holds, whichever way it was made. Raw response bytes are
/// kept as they are: a `set-cookie` in them stays. In the recording of a stream of this crate's own, keys that stand in the
/// request's body too, and what the server sends back of them, are overwritten with as many `*`.
pub const CREDENTIAL_HEADERS: [&str; 6] =
    ["authorization", "cookie", "proxy-authorization", "x-api-key", "api-key", "set-cookie"];

fn is_credential(name: &str) -> bool {
    CREDENTIAL_HEADERS.iter().any(|header| name.eq_ignore_ascii_case(header))
}

/// An HTTP request as a server sees it. Its `Debug` shows no credential and counts the body's bytes only.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Path and query, as in the request line.
    pub path: String,
    /// Names and values in the order sent, names as spelled.
    pub headers: Vec<(String, String)>,
    /// The body, its framing taken off.
    pub body: Vec<u8>,
}

impl Request {
    /// A request with no headers and no body.
    #[must_use]
    pub fn new(method: impl Into<String>, path: impl Into<String>) -> Self {
        Self { method: method.into(), path: path.into(), ..Self::default() }
    }

    /// The same with one header more.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same with this body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The first header of that name, in whatever case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        http::find_header(&self.headers, name)
    }

    /// The body as text; bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The body as JSON; `Null` if it is none.
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

/// Bytes of a response that came together.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Piece {
    /// When they came, counted from when the request had been sent; whole microseconds.
    pub at: Duration,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Piece").field("at", &self.at).field("bytes", &self.bytes.len()).finish()
    }
}

/// How an exchange ended, as far as the record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyEnd {
    /// The response came to the end that its framing announced; the connection was left open.
    Complete,
    /// The server closed the connection (FIN): before or after the end of the response, see
    /// [`Body::state`].
    Closed,
    /// The server reset the connection (RST).
    Reset,
    /// Nothing more came and the connection stayed open, until the recorder gave up.
    Silent,
    /// The client went away.
    ClientClosed,
    /// The record does not say.
    Unknown,
}

impl BodyEnd {
    const ALL: [Self; 6] =
        [Self::Complete, Self::Closed, Self::Reset, Self::Silent, Self::ClientClosed, Self::Unknown];

    /// The stable name: `complete`, `closed`, `reset`, `silent`, `client_closed`, `unknown`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Silent => "silent",
            Self::ClientClosed => "client_closed",
            Self::Unknown => "unknown",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|end| end.as_str() == name)
    }
}

impl fmt::Display for BodyEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Status and headers where the pieces are the body alone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ResponseHead {
    status: u16,
    headers: Vec<(String, String)>,
}

/// One HTTP exchange. See the [module](self) for the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    request: Request,
    /// `None`: the head is in the pieces, which are raw.
    head: Option<ResponseHead>,
    pieces: Vec<Piece>,
    end: BodyEnd,
    ended_at: Option<Duration>,
}

impl Recording {
    /// An exchange whose pieces will be the bytes of the wire: status line, headers, framing and all.
    /// Credentials in `request` are dropped, here and in [`of_body`](Self::of_body).
    #[must_use]
    pub fn of_wire(request: Request) -> Self {
        Self::new(request, None)
    }

    /// An exchange whose pieces will be the body alone, as an HTTP client hands it on. `headers` are the
    /// response's.
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

    /// Without the credentials of its request, should they stand in it a second time (a prompt that shows how to call the
    /// server) or the server have echoed them: in the bodies they become `*`.
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

    /// Adds bytes that came `at` this long after the request had been sent. Less than a microsecond is
    /// cut off. Empty pieces are not kept.
    pub fn push(&mut self, at: Duration, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            self.pieces.push(Piece { at: whole_micros(at), bytes });
        }
    }

    /// Says how it ended, and when if that is known. Until then the end is [`BodyEnd::Unknown`].
    pub fn finish(&mut self, end: BodyEnd, at: Option<Duration>) {
        self.end = end;
        self.ended_at = at.map(whole_micros);
    }

    /// Reads a file in this crate's own format.
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
            return Err(Error::invalid(format!("a recording of over {MAX_RECORDING_BYTES} bytes")));
        }
        Self::from_jsonl(&bytes)
    }

    /// Writes this crate's own format. An existing file is replaced; a new one is readable by its owner
    /// only, because prompts are in it. If writing fails, part of it may be there.
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

    /// The whole recording in this crate's own format.
    #[must_use]
    pub fn to_jsonl(&self) -> String {
        jsonl::write(self)
    }

    /// Reads this crate's own format. A last line that breaks off is left away.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) with the line's number if a line is not what it
    /// should be.
    pub fn from_jsonl(text: &[u8]) -> Result<Self, Error> {
        jsonl::read(text)
    }

    /// What was asked, without credentials.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The request's body.
    #[must_use]
    pub fn request_body(&self) -> &[u8] {
        &self.request.body
    }

    /// Whether the pieces are the wire's bytes, with head and framing; else they are the body alone.
    #[must_use]
    pub fn is_wire(&self) -> bool {
        self.head.is_none()
    }

    /// The pieces in order of arrival, none of them empty.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// All pieces in a row. Copies them.
    #[must_use]
    pub fn response_bytes(&self) -> Vec<u8> {
        self.pieces.iter().flat_map(|piece| piece.bytes.iter().copied()).collect()
    }

    /// The response's status; `None` if the head did not come whole.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match &self.head {
            Some(head) => Some(head.status),
            None => http::response_head(&self.response_bytes()).map(|(head, _)| head.status()),
        }
    }

    /// The response's headers; none if the head did not come whole.
    #[must_use]
    pub fn response_headers(&self) -> Vec<(String, String)> {
        match &self.head {
            Some(head) => head.headers.clone(),
            None => {
                http::response_head(&self.response_bytes()).map(|(head, _)| head.headers).unwrap_or_default()
            }
        }
    }

    /// The response's body with its framing taken off, as far as it came. Copies it.
    #[must_use]
    pub fn response_body(&self) -> Body {
        let bytes = self.response_bytes();
        let ended_well = matches!(self.end, BodyEnd::Complete | BodyEnd::Closed);
        if self.is_wire() {
            return http::response_body(&bytes, ended_well);
        }
        // The client that took the framing off says `Complete` only where the framing said so.
        let state = if self.end == BodyEnd::Complete { BodyState::Complete } else { BodyState::Cut };
        Body { bytes, state }
    }

    /// How it ended.
    #[must_use]
    pub fn end(&self) -> BodyEnd {
        self.end
    }

    /// When it ended, counted as the pieces are; `None` if the record does not say.
    #[must_use]
    pub fn ended_at(&self) -> Option<Duration> {
        self.ended_at
    }
}

/// The format keeps microseconds; cut here, so that a recording equals what is loaded again.
fn whole_micros(at: Duration) -> Duration {
    Duration::from_micros(u64::try_from(at.as_micros()).unwrap_or(u64::MAX))
}

fn file_error(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::invalid(format!("{what} the recording {:?}", path.display().to_string())).with_source(error)
}
