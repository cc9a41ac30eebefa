//! A response, read in pieces.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::{Body, BodyReader};

use super::HeaderMap;
use super::fault::fault;
use super::headers::check_encoding;
use super::slot::{CancelSlot, Wait};
use crate::config::{Limits, Timeouts};
use crate::error::{Error, ErrorKind, Limit, Timer};
use crate::recording::{BodyEnd, Recording, Request};

/// The most that one [`HttpResponse::chunk`] returns.
const MAX_PIECE_BYTES: usize = 16 << 10;
/// How long the body of an error may take to come. What has come by then is used.
const MAX_ERROR_BODY_WAIT: Duration = Duration::from_secs(5);
/// How much may still come after the end of a stream before its connection is given up.
const MAX_DRAIN_BYTES: usize = 4 << 10;

/// The head of a response, and its body in pieces as they come.
///
/// Dropping it closes the connection, unless the body was read to its end: then the connection is used again.
pub struct HttpResponse {
    status: u16,
    headers: HeaderMap,
    body: BodyReader<'static>,
    slot: Arc<CancelSlot>,
    timeout: Duration,
    limits: Limits,
    /// What was read last, and zeros behind its `dirty` bytes.
    piece: Vec<u8>,
    dirty: usize,
    bytes: u64,
    tape: Option<Tape>,
    /// The first failure. Reading on after it would bring a clean end that is none.
    failed: Option<Error>,
}

/// A recording as it grows.
struct Tape {
    recording: Recording,
    since: Instant,
    /// Bytes that may still be kept.
    left: usize,
}

impl Tape {
    fn read(&mut self, bytes: &[u8]) {
        // What is over the limit is not kept, and nothing after it, so that the record has no gap.
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

/// What a failed read says of the connection.
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
        // Of an error, the status is worth more than its body.
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

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The first header of this name, whatever its case, if it is visible ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The headers whose names begin with one of `prefixes` (in lower case), where they are visible ASCII.
    pub(crate) fn headers_with<'a>(
        &'a self,
        prefixes: &'a [&str],
    ) -> impl Iterator<Item = (&'a str, &'a str)> + 'a {
        let wanted = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        self.headers
            .iter()
            .filter(move |(name, _)| wanted(name.as_str()))
            .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
    }

    /// Body bytes read so far, after HTTP's framing was taken off.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Blocks for the next piece of the body: what is there already, else what comes first. At most 16 KiB, of no
    /// meaningful size. `None` is the end of the body.
    ///
    /// # Errors
    ///
    /// `Timeout` when nothing comes for the client's `timeout`; `Incomplete` when the connection ends
    /// within a body of known length. A body that ends with its connection (no length, not chunked) cannot be
    /// told from a broken one: the caller must know how its content ends. After an error all
    /// further calls return the same error.
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

    /// Reads the whole body as text; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    ///
    /// As [`chunk`](Self::chunk), and [`Limit::BodyBytes`] past 32 MiB.
    pub fn text(self) -> Result<String, Error> {
        let wait = Wait::each(self.timeout, Timer::Chunk);
        self.text_within(wait)
    }

    pub(crate) fn text_within(mut self, wait: Wait) -> Result<String, Error> {
        let whole = self.whole_within(Some(wait))?;
        Ok(String::from_utf8(whole).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    /// The whole body, up to the limit.
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

    /// Reads at most `most` bytes to the front of `piece`.
    fn fill(&mut self, most: usize, wait: Option<Wait>) -> Result<usize, Error> {
        let mut piece = std::mem::take(&mut self.piece);
        piece.resize(MAX_PIECE_BYTES, 0);
        piece[..self.dirty].fill(0);
        let read = self.read(&mut piece[..most], wait);
        self.piece = piece;
        self.dirty = *read.as_ref().unwrap_or(&MAX_PIECE_BYTES);
        read
    }

    /// Blocks for the next bytes of the body, as long as `wait` allows, at most 16 KiB. Zero is the end of the body. `into`
    /// has to be zeros.
    pub(crate) fn read(&mut self, into: &mut [u8], wait: Option<Wait>) -> Result<usize, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let most = into.len().min(MAX_PIECE_BYTES);
        let into = &mut into[..most];
        self.slot.set_wait(wait);
        let result = self.body.read(into);
        // A socket that was shut down on purpose may read as a clean end: the flag decides.
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
        // ureq's dechunker forgets what it took from good chunks when it meets a bad one in the same call. It has
        // written it all the same: up to the last byte that is not one of the zeros that stood here before.
        let written = into.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let saved = if error.kind() == ErrorKind::Protocol { written } else { 0 };
        self.count(&into[..saved]);
        if let Some(tape) = &mut self.tape {
            tape.end(end_of(&error));
        }
        self.failed = Some(error.clone());
        if saved > 0 { Ok(saved) } else { Err(error) }
    }

    /// These are the body's next bytes.
    fn count(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(tape) = &mut self.tape {
            tape.read(bytes);
        }
    }

    /// Keeps what is read from now on, up to `max_bytes`; `since` is when `request` was made.
    pub(crate) fn record(&mut self, request: Request, since: Instant, max_bytes: usize) {
        let headers =
            self.headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let recording = Recording::of_body(request, self.status, headers);
        // One more than may be kept: zero left means that the limit was passed.
        self.tape = Some(Tape { recording, since, left: max_bytes.saturating_add(1) });
    }

    /// What was recorded, if anything was to be.
    pub(crate) fn take_recording(&mut self) -> Option<Recording> {
        self.tape.take().map(|tape| tape.recording)
    }

    /// The beginning of an error's body: what comes within the limits of time and size, and within the wait that this
    /// response was under before, however it ends.
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

    /// After the content has ended: takes the rest of the framing, if it comes soon and is short, so that
    /// the connection can be used again. True if it can.
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

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpResponse")
            .field("status", &self.status)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
