//! A response whose body is read in pieces.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::{Body, BodyReader};

use super::HeaderMap;
use super::fault::fault;
use super::headers::{check_encoding, visible_headers};
use super::slot::{CancelSlot, Wait};
use crate::config::{Limits, Timeouts};
use crate::error::macros::debug_fields;
use crate::error::{Error, ErrorKind, Limit, Timer};
use crate::recording::{BodyEnd, Recording, Request};

/// The size in bytes of the largest piece that [`HttpResponse::chunk`] returns.
const MAX_PIECE_BYTES: usize = 16 << 10;
/// Limits the wait for the body of an error response. The bytes that arrive in this time are used.
const MAX_ERROR_BODY_WAIT: Duration = Duration::from_secs(5);
/// Limits the bytes that are read after the end of a stream so that its connection can be reused.
const MAX_DRAIN_BYTES: usize = 4 << 10;

/// The head of a response, and its body in pieces as they arrive.
///
/// If you drop a response before the end of its body, the connection is closed. After you have read
/// the body to its end, the connection is reused.
///
/// ```
/// # #[cfg(feature = "testing")] {
/// # let script = tokenwire::testing::Script::status(200).json(r#"{"version": "0.1"}"#);
/// # let server = tokenwire::testing::MockServer::scripted([script])?;
/// # let url = server.url();
/// let client = tokenwire::HttpClient::new()?;
/// let mut response = client.get(&format!("{url}/version"), &[])?;
/// let mut size = 0;
/// while let Some(piece) = response.chunk()? {
///     size += piece.len();
/// }
/// assert_eq!(response.bytes(), size as u64);
/// # }
/// # Ok::<(), tokenwire::Error>(())
/// ```
pub struct HttpResponse {
    status: u16,
    headers: HeaderMap,
    body: BodyReader<'static>,
    slot: Arc<CancelSlot>,
    timeout: Duration,
    limits: Limits,
    /// The piece that was read last. After its first `dirty` bytes it contains only zeros.
    piece: Vec<u8>,
    dirty: usize,
    bytes: u64,
    tape: Option<Tape>,
    /// The first failure. Every later read returns it, because ureq might report a clean end
    /// instead.
    failed: Option<Error>,
}

/// A recording in progress.
struct Tape {
    recording: Recording,
    since: Instant,
    /// The number of bytes that may still be recorded.
    left: usize,
}

impl Tape {
    fn read(&mut self, bytes: &[u8]) {
        // When the limit is exceeded, recording stops for good. The recording therefore has no gap.
        self.left = self.left.saturating_sub(bytes.len());
        if self.left > 0 {
            self.recording.push(self.since.elapsed(), bytes);
        }
    }

    fn end(&mut self, end: BodyEnd) {
        if self.left > 0 {
            self.recording.finish(end, Some(self.since.elapsed()));
        }
    }
}

/// Converts the error of a read into the end of the recorded body.
fn end_of(error: &Error) -> BodyEnd {
    match error.kind() {
        ErrorKind::Timeout(_) => BodyEnd::Silent,
        ErrorKind::Cancelled => BodyEnd::ClientClosed,
        ErrorKind::Incomplete => BodyEnd::Closed,
        _ => BodyEnd::Unknown,
    }
}

impl HttpResponse {
    pub(super) fn new(
        response: ureq::http::Response<Body>,
        slot: Arc<CancelSlot>,
        timeout: Duration,
        limits: Limits,
    ) -> Result<Self, Error> {
        let (parts, body) = response.into_parts();
        // Do not check an error response, because its status is more important than its body.
        if parts.status.is_success() {
            check_encoding(&parts.headers)?;
        }
        Ok(Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.into_reader(),
            slot,
            timeout,
            limits,
            piece: Vec::new(),
            dirty: 0,
            bytes: 0,
            tape: None,
            failed: None,
        })
    }

    /// Returns the status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns the first header with this name if its value is visible ASCII.
    ///
    /// Upper and lower case are equal in the name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the headers whose names begin with one of `prefixes`, which must be in lower case.
    ///
    /// Headers whose values are not visible ASCII are left out.
    pub(crate) fn headers_with<'a>(
        &'a self,
        prefixes: &'a [&str],
    ) -> impl Iterator<Item = (&'a str, &'a str)> + 'a {
        let wanted = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        visible_headers(&self.headers).filter(move |(name, _)| wanted(name))
    }

    /// Returns the number of body bytes read so far, without the framing of HTTP.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Waits for the next piece of the body and returns it.
    ///
    /// The piece contains the bytes that have already arrived. If no byte has arrived, the call
    /// waits for the first bytes. A piece has at most 16 KiB, and its size has no meaning. `None`
    /// means that the body has ended.
    ///
    /// A body may have neither a length nor chunks. Such a body ends when its connection ends. You
    /// can detect that it is incomplete only if you know how the content must end.
    ///
    /// # Errors
    ///
    /// - `Timeout`: no byte arrives within the client's `timeout`
    /// - `Incomplete`: the connection ends within a body of known length
    ///
    /// After an error, all further calls return the same error.
    pub fn chunk(&mut self) -> Result<Option<&[u8]>, Error> {
        let wait = Wait::each(self.timeout, Timer::Chunk);
        self.chunk_within(Some(wait))
    }

    pub(crate) fn chunk_within(&mut self, wait: Option<Wait>) -> Result<Option<&[u8]>, Error> {
        match self.fill(MAX_PIECE_BYTES, wait)? {
            0 => Ok(None),
            len => Ok(Some(&self.piece[..len])),
        }
    }

    /// Reads the whole body as text, and replaces bytes that are not UTF-8 with U+FFFD.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`chunk`](Self::chunk). A body of more than 32 MiB is the error
    /// [`Limit::BodyBytes`].
    pub fn text(self) -> Result<String, Error> {
        let wait = Wait::each(self.timeout, Timer::Chunk);
        self.text_within(wait)
    }

    pub(crate) fn text_within(mut self, wait: Wait) -> Result<String, Error> {
        let whole = self.whole_within(Some(wait))?;
        Ok(String::from_utf8(whole).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    /// Reads the whole body, up to the limit.
    pub(crate) fn whole_within(&mut self, wait: Option<Wait>) -> Result<Vec<u8>, Error> {
        let max = self.limits.max_body_bytes;
        let mut whole = Vec::new();
        while let Some(piece) = self.chunk_within(wait)? {
            if piece.len() > max - whole.len() {
                return Err(Error::limit(Limit::BodyBytes, max as u64));
            }
            whole.extend_from_slice(piece);
        }
        Ok(whole)
    }

    /// Reads at most `most` bytes into the start of the buffer `piece`.
    fn fill(&mut self, most: usize, wait: Option<Wait>) -> Result<usize, Error> {
        let mut piece = std::mem::take(&mut self.piece);
        piece.resize(MAX_PIECE_BYTES, 0);
        piece[..self.dirty].fill(0);
        let read = self.read(&mut piece[..most], wait);
        self.piece = piece;
        self.dirty = *read.as_ref().unwrap_or(&MAX_PIECE_BYTES);
        read
    }

    /// Reads the next bytes of the body, and blocks as long as `wait` allows.
    ///
    /// Reads at most 16 KiB, and returns the number of bytes. Zero means that the body has ended.
    /// `into` must contain only zeros.
    pub(crate) fn read(&mut self, into: &mut [u8], wait: Option<Wait>) -> Result<usize, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let most = into.len().min(MAX_PIECE_BYTES);
        let into = &mut into[..most];
        self.slot.set_wait(wait);
        let result = self.body.read(into);
        // A cancel shuts the socket down. The read may then look like a clean end, so check the
        // cancel flag.
        let error = match result {
            Ok(_) if self.slot.is_cancelled() => Error::cancelled(),
            Ok(len) => {
                self.count(&into[..len]);
                if let (0, Some(tape)) = (len, &mut self.tape) {
                    tape.end(BodyEnd::Complete);
                }
                return Ok(len);
            }
            Err(error) => fault(error.into(), &self.slot, &Timeouts::default(), "the server"),
        };
        // If a read finds an invalid chunk, ureq does not report the valid chunks that precede it.
        // The bytes of the valid chunks are already in the buffer. The buffer contained only zeros,
        // so these bytes end at the last byte that is not zero.
        let written = into.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let saved = if error.kind() == ErrorKind::Protocol { written } else { 0 };
        self.count(&into[..saved]);
        if let Some(tape) = &mut self.tape {
            tape.end(end_of(&error));
        }
        self.failed = Some(error.clone());
        if saved > 0 { Ok(saved) } else { Err(error) }
    }

    /// Counts and records the next bytes of the body.
    fn count(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(tape) = &mut self.tape {
            tape.read(bytes);
        }
    }

    /// Starts a recording of the bytes that are read from now on, up to `max_bytes`.
    ///
    /// `since` is the time at which `request` was made.
    pub(crate) fn record(&mut self, request: Request, since: Instant, max_bytes: usize) {
        let recording = Recording::of_body(request, self.status, visible_headers(&self.headers));
        // The counter starts at one byte more than the limit. Zero then means that the limit was
        // exceeded.
        self.tape = Some(Tape { recording, since, left: max_bytes.saturating_add(1) });
    }

    /// Returns the recording, if there is one.
    pub(crate) fn take_recording(&mut self) -> Option<Recording> {
        self.tape.take().map(|tape| tape.recording)
    }

    /// Returns the start of an error's body, within the limits of time and size.
    ///
    /// The wait that was already set for this response still applies. If reading fails, the bytes
    /// that arrived before the failure are returned.
    pub(crate) fn error_body(&mut self) -> Vec<u8> {
        if check_encoding(&self.headers).is_err() {
            return Vec::new();
        }
        let now = Instant::now();
        let own = Wait::since(now, self.timeout.min(MAX_ERROR_BODY_WAIT), Timer::Response);
        let wait = self.slot.wait().filter(|wait| wait.left(now) < own.left(now)).unwrap_or(own);
        let max = self.limits.max_error_body_bytes;
        let mut body = Vec::new();
        while let Ok(Some(piece)) = self.chunk_within(Some(wait)) {
            body.extend_from_slice(&piece[..piece.len().min(max - body.len())]);
            if body.len() == max {
                break;
            }
        }
        body
    }

    /// Reads the rest of the framing after the content, so that the connection can be reused.
    ///
    /// Stops if the rest is long or does not arrive within `limit`. Returns true if the connection
    /// can be reused.
    pub(crate) fn drain(mut self, limit: Duration) -> bool {
        let wait = Wait::since(Instant::now(), limit, Timer::Chunk);
        let mut taken = 0;
        while taken <= MAX_DRAIN_BYTES {
            match self.read(&mut [0; 512], Some(wait)) {
                Ok(0) => return true,
                Ok(len) => taken += len,
                Err(_) => return false,
            }
        }
        false
    }
}

debug_fields! { HttpResponse { status, bytes } }
