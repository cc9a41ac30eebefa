//! Turns bytes into events: a push parser of `text/event-stream` without a socket or a clock.
//!
//! The parser follows the WHATWG HTML standard, 9.2.5 "Parsing an event stream" and 9.2.6
//! "Interpreting an event stream". The code quotes each rule that it implements.
//!
//! Read this description before you change this file. All bytes are in one buffer, with these
//! parts:
//!
//! ```text
//!   buf:  [ delivered, or the data of this block | searched, no line end | not searched | free (zeros) ]
//!         0                                      start                   seen           end     buf.len()
//! ```
//!
//! `start` is the start of the current line. The parser does not move or copy the bytes before
//! `start` while the buffer has room. A `data` line stays in the buffer, and the event borrows it
//! from the buffer. The parser copies the line to `joined` only in two cases: a second `data` line
//! follows, or the buffer's contents move before the event ends.
//!
//! The total time is linear for these reasons:
//!
//! - `seen` only moves forward.
//! - After a move, the free part is at least as large as the bytes that `make_room` moved, or holds
//!   the longest possible rest of the line.
//! - [`SseParser::examined`] counts the bytes that were searched or moved, so that a test can check
//!   the linear time.
//!
//! The parser checks UTF-8 once per event, on all of its data. It therefore never checks a part of
//! a character, even if the character arrived in two reads.
//!
//! Three short cuts give the same results as the loop in `step`. All tests also pass without the
//! short cuts.
//!
//! - `nothing_new` is for reads of a few bytes.
//! - `whole_event` is for a data line and a blank line.
//! - `before_event` and `skip_event` are for a caller that finds the end of such an event itself.
//!
//! With the short cuts, the parser spends most of its time on the UTF-8 check and the search for
//! line ends.
//!
//! The field `dirty` is for readers that fail. The buffer's free part contains old bytes before
//! `dirty`, and zeros from `dirty` on.

pub(crate) mod event;
mod feed;
mod lines;

use std::mem;

use simdutf8::basic::from_utf8;

use self::event::{Event, MAX_SSE_STRAY_BYTES, SseEnd, Stray};
use self::lines::{control, field, line_end, milliseconds, replace, stray, text_in_blocks};
use crate::config::Limits;
use crate::error::{Error, Limit};

/// The maximum memory that each buffer of a parser keeps for the next event, in bytes.
///
/// A larger event makes a buffer grow. The next call of [`feed`](SseParser::feed) or
/// [`space`](SseParser::space) frees the memory above this size, if the parser no longer needs it.
pub const SSE_BUFFER_KEPT_BYTES: usize = 256 << 10;

/// The maximum number of new bytes for which a loop is faster than a call of `memchr2`.
const FEW_BYTES: usize = 8;

const BOM: &[u8] = "\u{feff}".as_bytes();

/// A push parser of `text/event-stream`.
///
/// Pass bytes to the parser with [`feed`](Self::feed), or read directly into its buffer with
/// [`space`](Self::space) and [`filled`](Self::filled). Then take events with
/// [`next_event`](Self::next_event) until it returns `None`. At the end of the body, call
/// [`finish`](Self::finish). The events do not depend on how the bytes are cut into reads.
///
/// The time is linear in the number of bytes, however the body is split and however large an event
/// is. The buffers grow to the size of the stream's events and reads. After that, an event needs no
/// allocation if this size is less than a quarter of [`SSE_BUFFER_KEPT_BYTES`]. The memory is a
/// small multiple of the largest event and of the largest read. If an event exceeds the limit, the
/// limit counts as its size.
///
/// # The limit
///
/// An event is too large if its lines together have more bytes than the limit. Ignored fields
/// count. Comments and line ends do not count. The limit applies to the bytes of the body, before
/// decoding.
///
/// A comment counts only while it is read, as if it were the last line of its event. A comment that
/// never ends therefore exceeds the limit, and any number of short comments is allowed.
///
/// ```
/// let mut parser = tokenwire::SseParser::new();
/// for read in ["data: {\"text\":", "\"hi\"}\n", "\ndata: [DONE]\n\n"] {
///     parser.feed(read.as_bytes());
///     while let Some(event) = parser.next_event()? {
///         println!("{}", event.data); // {"text":"hi"}, then [DONE]
///     }
/// }
/// assert_eq!(parser.events(), 2);
/// assert!(!parser.finish().incomplete);
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug)]
pub struct SseParser {
    /// The buffer. Every byte is initialised, so that a reader can write into the free part.
    buf: Vec<u8>,
    start: usize,
    seen: usize,
    end: usize,
    /// The buffer contains only zeros from this position on.
    dirty: usize,
    max_event_bytes: usize,
    /// The maximum size of an event that the short cut for a single data line takes.
    short_max_event_bytes: usize,
    at: At,
    /// True if a buffer may be larger than the size that is kept, see `make_room`.
    oversized: bool,
    block: Block,
    /// The data lines of this block, or of the last event, if they are not in `buf`.
    joined: Vec<u8>,
    /// The event type, if `block.has_kind`.
    kind: String,
    /// The id that becomes valid at the next blank line, if `block.has_id`.
    id_next: String,
    id: String,
    /// The data of the last event, if invalid UTF-8 in it was replaced.
    mended: String,
    retry: Option<u64>,
    stray: Option<Stray>,
    counters: Counters,
}

/// The parser's position in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// At the beginning of the body, where a byte order mark is possible.
    Begin,
    /// In a line, or at the start of a line.
    Line,
    /// At the start of a line after a CR. If the next byte is LF, it is part of the same line end.
    AfterCr,
    /// The limit was exceeded. The parser returns nothing more until `finish`.
    Over,
}

/// The contents of the lines since the last blank line.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Block {
    /// The number of bytes in the block's lines, without comments. It is at most `max_event_bytes`.
    bytes: usize,
    data: Data,
    has_kind: bool,
    has_id: bool,
    /// True if the block has a known field, with any value.
    open: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Data {
    #[default]
    None,
    /// The data is one line, which is still in the buffer: `buf[from..to]`, before `start`.
    InBuffer(usize, usize),
    /// The data is in `joined`.
    Joined,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    /// The number of events of one data line that the short cut took.
    whole_events: u64,
    /// The number of all other events.
    events: u64,
    comments: u64,
    lines: u64,
    bytes: u64,
    examined: u64,
}

enum Step {
    More,
    Event(Block),
    Stray,
    Over,
}

/// The result of [`SseParser::next_item`].
pub(crate) enum Item {
    /// The parser needs more bytes.
    More,
    /// An event arrived. Pass the block to [`SseParser::event`].
    Event(Block),
    Stray(Stray),
}

impl Default for SseParser {
    fn default() -> Self {
        Self::new()
    }
}

// Construction

impl SseParser {
    /// Creates a parser with [`Limits::default`] (32 MiB per event), without an allocation.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_event_bytes(Limits::default().max_event_bytes)
    }

    /// Creates a parser with a custom [limit](Self#the-limit), in bytes per event.
    #[must_use]
    pub fn with_max_event_bytes(max_event_bytes: usize) -> Self {
        Self {
            buf: Vec::new(),
            start: 0,
            seen: 0,
            end: 0,
            dirty: 0,
            max_event_bytes,
            short_max_event_bytes: max_event_bytes.min(SSE_BUFFER_KEPT_BYTES / 4),
            at: At::Begin,
            oversized: false,
            block: Block::default(),
            joined: Vec::new(),
            kind: String::new(),
            id_next: String::new(),
            id: String::new(),
            mended: String::new(),
            retry: None,
            stray: None,
            counters: Counters::default(),
        }
    }
}

// Events

impl SseParser {
    /// Returns the next event, or `None` if the parser needs more bytes.
    ///
    /// # Errors
    ///
    /// [`Limit::EventBytes`] if an event exceeds the limit. The events before it have already been
    /// returned. The stream is over, and every later call returns the same error until
    /// [`finish`](Self::finish).
    #[inline]
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, Error> {
        if self.nothing_new() { Ok(None) } else { self.next_event_searched() }
    }

    /// Handles a read of a few bytes without a line end that stays within the limit.
    ///
    /// This short cut searches each byte only once.
    #[inline]
    fn nothing_new(&mut self) -> bool {
        if self.end - self.seen > FEW_BYTES {
            return false;
        }
        let fresh = &self.buf[self.seen..self.end];
        if self.at != At::Line
            || fresh.iter().any(|byte| matches!(byte, b'\n' | b'\r'))
            || self.end - self.start > self.max_event_bytes - self.block.bytes
        {
            return false;
        }
        self.counters.examined += fresh.len() as u64;
        self.seen = self.end;
        true
    }

    /// This is not inlined, so that reads of a few bytes stay fast.
    #[inline(never)]
    fn next_event_searched(&mut self) -> Result<Option<Event<'_>>, Error> {
        match self.whole_event() {
            Some(block) => Ok(Some(self.event(block))),
            None => self.next_event_stepped(),
        }
    }

    /// This is a separate function, so that the short cut that calls it has enough registers.
    #[inline(never)]
    fn next_event_stepped(&mut self) -> Result<Option<Event<'_>>, Error> {
        if self.nothing_new() {
            return Ok(None);
        }
        match self.step(false) {
            Step::Event(block) => Ok(Some(self.event(block))),
            Step::Over => Err(self.over()),
            Step::More | Step::Stray => Ok(None),
        }
    }

    /// Returns the next event or the next stray line, in the order of the body.
    ///
    /// Unlike [`next_event`](Self::next_event), this method stops at each stray line. The caller
    /// must receive an error before the event that follows it, however the body is
    /// split. After an event, `event` returns its contents.
    pub(crate) fn next_item(&mut self) -> Result<Item, Error> {
        if self.nothing_new() {
            return Ok(Item::More);
        }
        if let Some(block) = self.whole_event() {
            return Ok(Item::Event(block));
        }
        if self.nothing_new() {
            return Ok(Item::More);
        }
        match self.step(true) {
            Step::More => Ok(Item::More),
            Step::Event(block) => Ok(Item::Event(block)),
            Step::Stray => Ok(self.stray.take().map_or(Item::More, Item::Stray)),
            Step::Over => Err(self.over()),
        }
    }

    fn over(&self) -> Error {
        Error::limit(Limit::EventBytes, self.max_event_bytes as u64)
    }

    /// Reads lines up to the end of an event, or of a stray line.
    fn step(&mut self, stop_at_stray: bool) -> Step {
        if self.at == At::Begin {
            self.begin();
        }
        loop {
            match self.at {
                At::Line => {}
                At::AfterCr => self.skip_lf(),
                At::Begin => return Step::More,
                At::Over => return Step::Over,
            }
            if let Some(block) = self.whole_event() {
                return Step::Event(block);
            }
            let line_end = self.line_end();
            let line_bytes = line_end.unwrap_or(self.end) - self.start;
            // The subtraction cannot overflow, because the bytes of a block never exceed the limit.
            if line_bytes > self.max_event_bytes - self.block.bytes {
                self.drop_all();
                return Step::Over;
            }
            let Some(line_end) = line_end else {
                return Step::More;
            };
            if line_bytes > 0 {
                self.line(line_end);
            }
            self.at = if self.buf[line_end] == b'\r' { At::AfterCr } else { At::Line };
            self.start = line_end + 1;
            self.counters.lines += 1;
            if stop_at_stray && self.stray.is_some() {
                return Step::Stray;
            }
            if line_bytes == 0 {
                let block = mem::take(&mut self.block);
                if self.end_block(block) {
                    return Step::Event(block);
                }
            }
        }
    }

    /// Takes an event of one data line and a blank line, if both end in LF and both have been read.
    ///
    /// Nearly all events of nearly all servers have this form. This short cut needs half the
    /// instructions of the loop in `step`. If it returns `None`, the loop must continue from the
    /// current state. The line does not end before `seen`, but it may end at `seen`.
    #[inline(always)]
    fn whole_event(&mut self) -> Option<Block> {
        let is_first = self.at == At::Line && self.block.bytes == 0;
        // If fewer than these six bytes have been read, the bytes contain no line end.
        if !is_first || !self.buf[self.start..].starts_with(b"data: ") {
            return None;
        }
        let (rest, fresh) = (&self.buf[self.seen..], self.end - self.seen);
        // In a line of compact JSON, the first control character is the line end.
        let looked_at = control(rest, fresh);
        let line_end = self.seen + looked_at;
        let line_bytes = line_end - self.start;
        let ends = looked_at + 2 <= fresh && rest[looked_at..].starts_with(b"\n\n");
        if !ends || line_bytes > self.short_max_event_bytes {
            let looked_at = looked_at.min(fresh);
            self.counters.examined += looked_at as u64;
            self.seen += looked_at;
            return None;
        }
        self.counters.examined += looked_at as u64 + 2;
        self.counters.whole_events += 1;
        let data = Data::InBuffer(self.start + 6, line_end);
        (self.start, self.seen) = (line_end + 2, line_end + 2);
        Some(Block { bytes: line_bytes, data, open: true, ..Block::default() })
    }

    /// Returns the unread bytes, if they begin with the first line of an event.
    ///
    /// The result is never longer than the limit for an event. Each line is returned only once. If
    /// a line arrives in pieces, `step` searches the later pieces. Otherwise the caller would
    /// search the earlier pieces again.
    #[inline]
    pub(crate) fn before_event(&self) -> Option<&[u8]> {
        let end = self.end.min(self.start.saturating_add(self.max_event_bytes).saturating_add(2));
        let is_first = self.at == At::Line && self.block.bytes == 0 && self.seen == self.start;
        is_first.then(|| &self.buf[self.start..end])
    }

    /// Takes an event that the caller found in the bytes of [`before_event`](Self::before_event).
    ///
    /// The event is a data line of `line_bytes` bytes and a blank line. The data line contains no
    /// CR or LF. Both lines end in LF, which `line_bytes` does not include.
    #[inline]
    pub(crate) fn skip_event(&mut self, line_bytes: usize) {
        self.counters.examined += line_bytes as u64 + 2;
        self.counters.lines += 2;
        self.start = self.end.min(self.start + line_bytes + 2);
        self.seen = self.start;
        self.end_block(Block { bytes: line_bytes, data: Data::InBuffer(0, 0), ..Block::default() });
    }

    /// Searches for the end of the current line, and continues where the last search stopped.
    fn line_end(&mut self) -> Option<usize> {
        let fresh = &self.buf[self.seen..self.end];
        let found = match fresh.first() {
            // The first byte is a line end. This is nearly always a blank line.
            Some(b'\n' | b'\r') => Some(0),
            Some(_) => line_end(&self.buf[self.seen..], fresh.len()),
            None => None,
        };
        let looked_at = found.map_or(fresh.len(), |at| at + 1);
        self.counters.examined += looked_at as u64;
        self.seen += looked_at;
        found.map(|_| self.seen - 1)
    }

    /// Skips a byte order mark.
    ///
    /// "One leading U+FEFF BYTE ORDER MARK character must be ignored if any are present." The
    /// parser stays at `Begin` until it has enough bytes to decide.
    #[cold]
    fn begin(&mut self) {
        let head = &self.buf[self.start..self.end];
        if head.len() < BOM.len() && BOM.starts_with(head) {
            return;
        }
        if head.starts_with(BOM) {
            self.start += BOM.len();
            self.seen = self.start;
        }
        self.at = At::Line;
    }

    /// Skips the LF of a CRLF pair.
    ///
    /// "A U+000D CARRIAGE RETURN U+000A LINE FEED (CRLF) character pair" is one line end. The
    /// parser ended the line at the CR, and perhaps an event too, because the next byte may arrive
    /// much later.
    fn skip_lf(&mut self) {
        if let Some(first) = self.buf[self.start..self.end].first() {
            self.start += usize::from(*first == b'\n');
            self.seen = self.start;
            self.counters.examined += 1;
            self.at = At::Line;
        }
    }

    /// Interprets the line `buf[start..line_end]`, which is not blank.
    fn line(&mut self, line_end: usize) {
        let mut known = true;
        let line = &self.buf[self.start..line_end];
        if let Some(value) = field(line, b"data") {
            // "Append the field value to the data buffer, then append a single U+000A LINE FEED
            // (LF) character to the data buffer." The standard later removes the last LF from the
            // event. This code never adds that LF.
            let from = line_end - value.len();
            if self.block.data == Data::None {
                self.block.data = Data::InBuffer(from, line_end);
            } else {
                self.copy_to_joined();
                self.joined.push(b'\n');
                self.joined.extend_from_slice(&self.buf[from..line_end]);
                self.counters.examined += (line_end - from) as u64;
            }
        } else if line[0] == b':' {
            self.counters.comments += 1;
            return; // A comment is not part of the event.
        } else if let Some(value) = field(line, b"event") {
            replace(&mut self.kind, value);
            self.block.has_kind = true;
        } else if let Some(value) = field(line, b"id") {
            // "If the field value does not contain U+0000 NULL, then set the last event ID buffer
            // to the field value. Otherwise, ignore the field."
            if !value.contains(&0) {
                replace(&mut self.id_next, value);
                self.block.has_id = true;
            }
        } else if let Some(value) = field(line, b"retry") {
            self.retry = milliseconds(value).or(self.retry);
        } else {
            // "Otherwise: The field is ignored."
            if self.stray.is_none() {
                self.stray = stray(line);
            }
            known = false;
        }
        self.block.open |= known;
        self.block.bytes += line_end - self.start;
    }

    /// Copies the data line of this block to `joined`, unless it has been copied already.
    fn copy_to_joined(&mut self) {
        if let Data::InBuffer(from, to) = self.block.data {
            self.joined.clear();
            self.joined.extend_from_slice(&self.buf[from..to]);
            self.counters.examined += (to - from) as u64;
            self.block.data = Data::Joined;
        }
    }

    /// Updates the state of the stream at a blank line. Returns true if the block is an event.
    #[inline]
    fn end_block(&mut self, block: Block) -> bool {
        self.oversized |= block.bytes > SSE_BUFFER_KEPT_BYTES / 4;
        if block.has_id {
            // "Set the last event ID string of the event source to the value of the last event ID
            // buffer", even if the block is not an event.
            mem::swap(&mut self.id, &mut self.id_next);
        }
        // "If the data buffer is an empty string, set the data buffer and the event type buffer to
        // the empty string and return." A single empty data line puts a line feed into that buffer,
        // so it is an event.
        let is_event = block.data != Data::None;
        self.counters.events += u64::from(is_event);
        is_event
    }

    /// Returns the event of the last block. Call this method before any other method.
    #[inline(always)]
    pub(crate) fn event(&mut self, block: Block) -> Event<'_> {
        let in_blocks = match block.data {
            Data::InBuffer(from, to) => text_in_blocks(&self.buf[from..], to - from),
            Data::Joined | Data::None => None,
        };
        let data = match in_blocks {
            Some(data) => data,
            None => checked(data_of(block, &self.buf, &self.joined), &mut self.mended),
        };
        Event { event: kind_of(block, &self.kind), data, id: &self.id, retry: self.retry }
    }

    /// Returns the type and the data of the last block's event. The data is not checked.
    ///
    /// The data may be invalid UTF-8.
    #[inline]
    pub(crate) fn raw_event(&self, block: Block) -> (&str, &[u8]) {
        (kind_of(block, &self.kind), data_of(block, &self.buf, &self.joined))
    }

    /// Drops all stored bytes after the limit was exceeded.
    #[cold]
    fn drop_all(&mut self) {
        self.at = At::Over;
        self.oversized = true;
        self.block = Block::default();
        (self.start, self.seen, self.end) = (0, 0, 0);
        self.shrink();
    }
}

/// Returns the data as text, with invalid UTF-8 replaced.
#[cold]
fn checked<'a>(data: &'a [u8], mended: &'a mut String) -> &'a str {
    match from_utf8(data) {
        Ok(data) => data,
        Err(_) => {
            replace(mended, data);
            mended
        }
    }
}

#[inline]
fn data_of<'a>(block: Block, buf: &'a [u8], joined: &'a [u8]) -> &'a [u8] {
    match block.data {
        Data::InBuffer(from, to) => &buf[from..to],
        Data::Joined => joined,
        Data::None => &[],
    }
}

#[inline]
fn kind_of(block: Block, kind: &str) -> &str {
    if block.has_kind && !kind.is_empty() { kind } else { "message" }
}

// The end, and the counters

impl SseParser {
    /// Ends the body. Take all events first, because this drops the remaining events.
    ///
    /// "Once the end of the file is reached, any pending data must be discarded. (If the file ends
    /// in the middle of an event, before the final empty line, the incomplete event is not
    /// dispatched.)"
    ///
    /// Afterwards you can use the parser for another body. The parser keeps its limit, its memory
    /// (up to [`SSE_BUFFER_KEPT_BYTES`]) and a stray line that was not taken. The counters start at
    /// zero again, so read them first.
    pub fn finish(&mut self) -> SseEnd {
        let untaken = !matches!(self.next_event(), Ok(None));
        let unended = if untaken { &[] } else { &self.buf[self.start..self.end] };
        if self.stray.is_none() {
            self.stray = stray(unended);
        }
        let end = SseEnd {
            last_event_id: mem::take(&mut self.id),
            retry: self.retry,
            comments: self.counters.comments,
            incomplete: untaken || !unended.is_empty() || self.block.open,
            unended_data: self.unended_data(unended),
        };
        let new = Self::with_max_event_bytes(self.max_event_bytes);
        let Self { buf, joined, kind, id_next, mended, stray, dirty, .. } = mem::replace(self, new);
        *self = Self { buf, joined, kind, id_next, mended, stray, dirty, ..mem::take(self) };
        self.shrink();
        end
    }

    fn unended_data(&self, unended: &[u8]) -> Option<String> {
        let held = data_of(self.block, &self.buf, &self.joined);
        let held = (self.block.data != Data::None).then_some(held);
        let lines: Vec<&[u8]> = held.into_iter().chain(field(unended, b"data")).collect();
        let data = lines.join(&b'\n');
        let is_kept = !lines.is_empty() && data.len() <= MAX_SSE_STRAY_BYTES;
        is_kept.then(|| String::from_utf8_lossy(&data).into_owned())
    }

    /// Returns the first stray line since the last call, if a stray line arrived.
    ///
    /// The parser keeps only the first stray line, see [`Stray`]. Call this method when an expected
    /// event does not arrive, or at the end of the body. At the end, call [`finish`](Self::finish)
    /// first: it also checks a last line without a line end.
    pub fn take_stray(&mut self) -> Option<Stray> {
        self.stray.take()
    }

    /// Returns the number of bytes of the body that do not belong to an event yet.
    ///
    /// The number includes the unread bytes and the lines since the last blank line. After
    /// `next_event` has returned `None`, the number is within the limit.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.end - self.start + self.block.bytes
    }

    /// Returns the number of events of this body that were delivered.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.counters.events + self.counters.whole_events
    }

    /// Returns the number of comment lines of this body.
    ///
    /// A comment begins with a colon. Servers send comments to keep a connection alive.
    #[must_use]
    pub fn comments(&self) -> u64 {
        self.counters.comments
    }

    /// Returns the number of complete lines of this body, including blank lines and comments.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.counters.lines + 2 * self.counters.whole_events
    }

    /// Returns the number of bytes of this body that were fed to the parser.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.counters.bytes
    }

    /// Returns the number of bytes that were searched, moved or joined for this body.
    ///
    /// A byte that is searched twice counts twice. The result is at most about four times
    /// [`bytes`](Self::bytes), however the body is split. The copy in `feed` and the single UTF-8
    /// check of each event are not included.
    #[must_use]
    pub fn examined(&self) -> u64 {
        self.counters.examined
    }
}

#[cfg(test)]
mod tests;
