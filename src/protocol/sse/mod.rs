//! Turns bytes into events: a push parser of `text/event-stream`. Pure (no socket, no clock).
//!
//! It follows the WHATWG HTML standard, 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an
//! event stream". The code quotes each rule that it implements.
//!
//! Read this before you change this file. All bytes are in one buffer, with these parts:
//!
//! ```text
//!   buf:  [ delivered, or the data of this block | searched, no line end | not searched | free (zeros) ]
//!         0                                      start                   seen           end     buf.len()
//! ```
//!
//! `start` is the start of the current line. The bytes before it are not moved or copied while
//! there is room: a `data` line stays where it was read, and the event borrows it from there. The
//! line is copied to `joined` only if a second `data` line follows, or if the buffer moves before
//! the event ends.
//!
//! Three things keep the total time linear:
//!
//! - `seen` only moves forward.
//! - After a move, `make_room` leaves room for at least the number of bytes it moved, or for the
//!   longest possible rest of the line.
//! - [`SseParser::examined`] counts the bytes searched and moved, so that a test can prove it.
//!
//! UTF-8 is checked once per event, on all of its data. A character that was cut by a read is
//! therefore never checked in halves.
//!
//! Three short cuts give the same results as the loop in `step`. All tests pass without them.
//!
//! - `nothing_new` is for reads of a few bytes.
//! - `whole_event` is for a data line and a blank line.
//! - `before_event` and `skip_event` are for a caller that finds the end of such an event itself.
//!
//! Most of the remaining time goes into the UTF-8 check and the search for line ends.
//!
//! `dirty` is for readers that fail. The free part contains old bytes before `dirty`, and zeros
//! from `dirty` on.

pub(crate) mod event;
mod feed;
mod lines;

use std::mem;

use simdutf8::basic::from_utf8;

use self::event::{Event, MAX_SSE_STRAY_BYTES, SseEnd, Stray};
use self::lines::{control, field, line_end, milliseconds, replace, stray, text_in_blocks};
use crate::config::Limits;
use crate::error::{Error, Limit};

/// The memory that each buffer of a parser keeps for the next event, in bytes.
///
/// A larger event makes a buffer grow. The next [`feed`](SseParser::feed) or
/// [`space`](SseParser::space) that needs no more than this frees the rest.
pub const SSE_BUFFER_KEPT_BYTES: usize = 256 << 10;

/// For at most this many new bytes, a loop is faster than a call of `memchr2`.
const FEW_BYTES: usize = 8;

const BOM: &[u8] = "\u{feff}".as_bytes();

/// A push parser of `text/event-stream`.
///
/// Pass it bytes with [`feed`](Self::feed), or read directly into it with [`space`](Self::space)
/// and [`filled`](Self::filled). Then take events with [`next_event`](Self::next_event) until it
/// returns `None`. At the end of the body, call [`finish`](Self::finish). The events do not depend
/// on how the bytes are cut.
///
/// The time is linear in the number of bytes, for any cuts and any size of event. Once the buffers
/// have the size of the stream's events and reads, an event needs no allocation, if that size is
/// less than a quarter of [`SSE_BUFFER_KEPT_BYTES`]. The memory is a small multiple of the largest
/// event (or of the limit, if an event exceeds it) and of the largest read.
///
/// # The limit
///
/// An event is too large if its lines together have more bytes than the limit. Ignored fields
/// count. Comments and line ends do not. The limit applies to the bytes of the body, before
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
    /// From this position on, the buffer contains zeros.
    dirty: usize,
    max_event_bytes: usize,
    /// An event of one line up to this size is within the limit and makes no buffer oversized.
    short_max_event_bytes: usize,
    at: At,
    /// A buffer may be larger than the size that is kept, see `make_room`.
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
    /// At the first bytes, which may be a byte order mark.
    Begin,
    /// In a line, or at the start of one.
    Line,
    /// At the start of a line after a CR. If the next byte is LF, it is part of the same line end.
    AfterCr,
    /// The limit was exceeded. The parser returns nothing more until `finish`.
    Over,
}

/// The contents of the lines since the last blank line.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Block {
    /// The number of bytes in its lines, without comments. At most `max_event_bytes`.
    bytes: usize,
    data: Data,
    has_kind: bool,
    has_id: bool,
    /// The block has a known field, with any value.
    open: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Data {
    #[default]
    None,
    /// One line, still where it was read: `buf[from..to]`, before `start`.
    InBuffer(usize, usize),
    /// The data is in `joined`.
    Joined,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    /// Events of one data line, taken by the short cut.
    whole_events: u64,
    /// All other events, and their lines.
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
    /// Feed more bytes.
    More,
    /// An event: pass the block to [`SseParser::event`].
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
    /// Creates a parser with [`Limits::default`] (32 MiB per event). Does not allocate.
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
    /// [`Limit::EventBytes`] if an event exceeds the limit. Earlier events were returned before.
    /// The stream is over, and every later call returns the same error until
    /// [`finish`](Self::finish).
    #[inline]
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, Error> {
        if self.nothing_new() { Ok(None) } else { self.next_event_searched() }
    }

    /// Handles a read of a few bytes without a line end that stays within the limit.
    ///
    /// This is a short cut. The bytes are not searched again.
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

    /// Not inlined, so that reads of a few bytes do not pay for it.
    #[inline(never)]
    fn next_event_searched(&mut self) -> Result<Option<Event<'_>>, Error> {
        match self.whole_event() {
            Some(block) => Ok(Some(self.event(block))),
            None => self.next_event_stepped(),
        }
    }

    /// A separate function, so that the short cut before it has enough registers.
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
    /// Unlike [`next_event`](Self::next_event), it stops at each stray line: an error must come
    /// before the event that follows it, for any cuts. `event` then returns the event.
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
            // The bytes of a block never exceed the limit.
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
    /// Nearly all events of nearly all servers have this form. This short cut does the work of the
    /// loop in `step` in half the instructions. With `None`, the loop must continue from here: the
    /// line does not end before `seen`, but may end at `seen`.
    #[inline(always)]
    fn whole_event(&mut self) -> Option<Block> {
        let is_first = self.at == At::Line && self.block.bytes == 0;
        // If fewer than these six bytes have been read, there is no line end among them.
        if !is_first || !self.buf[self.start..].starts_with(b"data: ") {
            return None;
        }
        let (rest, fresh) = (&self.buf[self.seen..], self.end - self.seen);
        // Valid JSON has no control character before the end of the line.
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
    /// At most the bytes of an event within the limit are returned. This happens only once for each
    /// line. If a line arrives in pieces, `step` searches the rest. Otherwise each piece would be
    /// searched again.
    #[inline]
    pub(crate) fn before_event(&self) -> Option<&[u8]> {
        let end = self.end.min(self.start.saturating_add(self.max_event_bytes).saturating_add(2));
        let is_first = self.at == At::Line && self.block.bytes == 0 && self.seen == self.start;
        is_first.then(|| &self.buf[self.start..end])
    }

    /// Takes an event that the caller has read in [`before_event`](Self::before_event).
    ///
    /// The event is a data line of `line_bytes` bytes without CR and LF, and a blank line. Both end
    /// in LF.
    #[inline]
    pub(crate) fn skip_event(&mut self, line_bytes: usize) {
        self.counters.examined += line_bytes as u64 + 2;
        self.counters.lines += 2;
        self.start = self.end.min(self.start + line_bytes + 2);
        self.seen = self.start;
        self.end_block(Block { bytes: line_bytes, data: Data::InBuffer(0, 0), ..Block::default() });
    }

    /// Searches for the end of the current line, from where the last search stopped.
    fn line_end(&mut self) -> Option<usize> {
        let fresh = &self.buf[self.seen..self.end];
        let found = match fresh.first() {
            // This is nearly always a blank line.
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
    /// "A U+000D CARRIAGE RETURN U+000A LINE FEED (CRLF) character pair" is one line end. The CR
    /// has already ended its line, and perhaps its event, because the next byte may arrive much
    /// later.
    fn skip_lf(&mut self) {
        if let Some(first) = self.buf[self.start..self.end].first() {
            self.start += usize::from(*first == b'\n');
            self.seen = self.start;
            self.counters.examined += 1;
            self.at = At::Line;
        }
    }

    /// Takes the line `buf[start..line_end]`, which is not blank.
    fn line(&mut self, line_end: usize) {
        let mut known = true;
        let line = &self.buf[self.start..line_end];
        if let Some(value) = field(line, b"data") {
            // "Append the field value to the data buffer, then append a single U+000A LINE FEED
            // (LF) character to the data buffer." The standard removes the last LF again when it
            // dispatches the event. This code does not add it.
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
            return; // Not counted as part of the event.
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

    /// Copies the data line of this block to `joined`, if it is still in `buf`.
    fn copy_to_joined(&mut self) {
        if let Data::InBuffer(from, to) = self.block.data {
            self.joined.clear();
            self.joined.extend_from_slice(&self.buf[from..to]);
            self.counters.examined += (to - from) as u64;
            self.block.data = Data::Joined;
        }
    }

    /// Handles a blank line for the rest of the state. Returns true if the block is an event.
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

    /// Returns the event of the last block. Call it before any other method.
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

    /// Returns the type and the data of the last block's event, without a check of the data.
    ///
    /// The data may be invalid UTF-8.
    #[inline]
    pub(crate) fn raw_event(&self, block: Block) -> (&str, &[u8]) {
        (kind_of(block, &self.kind), data_of(block, &self.buf, &self.joined))
    }

    /// Drops everything that is stored, after the limit was exceeded.
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
    /// Ends the body. Take all events first, because the remaining ones are dropped.
    ///
    /// "Once the end of the file is reached, any pending data must be discarded. (If the file ends
    /// in the middle of an event, before the final empty line, the incomplete event is not
    /// dispatched.)"
    ///
    /// Afterwards you can use the parser for another body. It keeps its limit, its memory (up to
    /// [`SSE_BUFFER_KEPT_BYTES`]) and a stray line that was not taken. The counters start at zero
    /// again, so read them first.
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

    /// Returns the first stray line since the last call, if there was one.
    ///
    /// Only a [`Stray`] line is kept, and only the first one. Call this method when an expected
    /// event does not arrive, or at the end after [`finish`](Self::finish), which also checks an
    /// unended line.
    pub fn take_stray(&mut self) -> Option<Stray> {
        self.stray.take()
    }

    /// Returns the number of bytes of the body that do not belong to an event yet.
    ///
    /// These are the unread bytes and the lines of the block that no blank line has ended. When
    /// `next_event` has returned `None`, they are within the limit.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.end - self.start + self.block.bytes
    }

    /// Returns the number of events delivered of this body.
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

    /// Returns the number of ended lines of this body, including blank lines and comments.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.counters.lines + 2 * self.counters.whole_events
    }

    /// Returns the number of bytes fed of this body.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.counters.bytes
    }

    /// Returns the work done for this body, in bytes searched, moved or joined.
    ///
    /// A byte that is searched twice counts twice. The result is at most about four times
    /// [`bytes`](Self::bytes), for any cuts of the body. The copy in `feed` and the single UTF-8
    /// check of each event are not included.
    #[must_use]
    pub fn examined(&self) -> u64 {
        self.counters.examined
    }
}

#[cfg(test)]
mod tests;
