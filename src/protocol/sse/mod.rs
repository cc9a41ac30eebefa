//! Bytes to events: a push parser of `text/event-stream`, pure (no socket, no clock).
//!
//! The rules are those of the WHATWG HTML standard, 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting
//! an event stream"; they are quoted beside the code that keeps them.
//!
//! A letter to whoever changes this next. All bytes live in one buffer, in three parts:
//!
//! ```text
//!   buf:  [ delivered, or the data of this block | searched, no line end | not searched | free (zeros) ]
//!         0                                      start                   seen           end     buf.len()
//! ```
//!
//! `start` is the start of the current line. What is clever is that nothing before it is moved or copied as
//! long as there is room: a `data` line stays where it was read, and the event borrows it from there. Only
//! a second `data` line, or a move of the buffer in between, takes it to `joined`. Three things hold the
//! whole in linear time: `seen` only goes forward; after a move, `make_room` leaves room for as many bytes as
//! were moved, or for all that the line may still have; and [`SseParser::examined`] counts both, so that a
//! test can prove it. UTF-8 is checked once an event, on its whole data, so a character cut by a read is never
//! seen in halves.
//!
//! Three short cuts do what the loop in `step` would do anyway, and without them every test passes: `nothing_new`, for reads of
//! a few bytes; `whole_event`, for a data line and a blank one; `before_event` with `skip_event`, for a caller that
//! can tell by itself where such an event ends. Most of what is left is the UTF-8 check and the search for line ends.
//!
//! `dirty` is for readers that fail: behind it the free part is zeros, and in front of it whatever was read before.

pub(crate) mod event;
mod feed;
mod lines;

use std::mem;

use simdutf8::basic::from_utf8;

use self::event::{Event, MAX_SSE_STRAY_BYTES, SseEnd, Stray};
use self::lines::{control, field, line_end, milliseconds, replace, stray, text_in_blocks};
use crate::config::Limits;
use crate::error::{Error, Limit};

/// How much memory a parser keeps for the next event, in bytes, in each of its buffers. A larger event makes
/// them grow, and the next [`feed`](SseParser::feed) or [`space`](SseParser::space) that needs no more than
/// this gives the rest back.
pub const SSE_BUFFER_KEPT_BYTES: usize = 256 << 10;

/// Up to so many new bytes, a loop over them is faster than a call of `memchr2`.
const FEW_BYTES: usize = 8;

const BOM: &[u8] = "\u{feff}".as_bytes();

/// A parser of `text/event-stream` that bytes are pushed into, cut in whatever way: the events are the same.
///
/// Give it bytes with [`feed`](Self::feed), or read straight into it with [`space`](Self::space) and
/// [`filled`](Self::filled); then take events with [`next_event`](Self::next_event) until it returns `None`.
/// At the end of the body call [`finish`](Self::finish).
///
/// Time is linear in the bytes fed, for every way of cutting and every size of event. Nothing is allocated
/// for an event once the buffers have reached the size of the stream's events and reads, as long as
/// these are under a quarter of [`SSE_BUFFER_KEPT_BYTES`]. Memory is a small multiple of the largest event,
/// or the limit if it is passed, and of the largest read.
///
/// # The limit
///
/// An event is too large if its lines together, ignored fields included and comments left out, have more
/// bytes than the limit; the bytes are those of the body, before anything is decoded, and line ends are not
/// counted. A comment counts while it is read, as if it were the last line of its event, and no longer when
/// it has ended: one that never ends is caught, and any number of short ones is fine.
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
    /// See the letter above. Every byte of it is initialised, so that a reader can be given its free part.
    buf: Vec<u8>,
    start: usize,
    seen: usize,
    end: usize,
    /// From here on there are zeros.
    dirty: usize,
    max_event_bytes: usize,
    /// An event of one line that has no more is within the limit, and makes no buffer oversized.
    short_max_event_bytes: usize,
    at: At,
    /// A buffer may be larger than is kept, see `make_room`.
    oversized: bool,
    block: Block,
    /// The data lines of this block, or of the event delivered last, where they are not in `buf`.
    joined: Vec<u8>,
    /// The event type, if `block.has_kind`.
    kind: String,
    /// The id that the next blank line makes valid, if `block.has_id`.
    id_next: String,
    id: String,
    /// The data of the event delivered last, if its UTF-8 had to be mended.
    mended: String,
    retry: Option<u64>,
    stray: Option<Stray>,
    counters: Counters,
}

/// Where in the body the parser is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// At its first bytes: there may be a byte order mark.
    Begin,
    /// In a line, or at the start of one.
    Line,
    /// At the start of a line, and the last one ended with CR: if LF comes next, it is part of that line end.
    AfterCr,
    /// The limit was passed: nothing more comes out until `finish`.
    Over,
}

/// What the lines since the last blank one have said.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Block {
    /// Bytes of its lines, without comments. At most `max_event_bytes`.
    bytes: usize,
    data: Data,
    has_kind: bool,
    has_id: bool,
    /// It has a field that is known, whatever its value.
    open: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Data {
    #[default]
    None,
    /// One line, still where it was read: `buf[from..to]`, before `start`.
    InBuffer(usize, usize),
    /// In `joined`.
    Joined,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    /// Of one data line, by the short cut.
    whole_events: u64,
    /// The others, and their lines.
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

/// What [`SseParser::next_item`] finds.
pub(crate) enum Item {
    /// Feed more bytes.
    More,
    /// For [`SseParser::event`].
    Event(Block),
    Stray(Stray),
}

impl Default for SseParser {
    fn default() -> Self {
        Self::new()
    }
}

// Making

impl SseParser {
    /// A parser with the limit of [`Limits::default`], 32 MiB an event. Allocates nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_event_bytes(Limits::default().max_event_bytes)
    }

    /// A parser with a limit of one's own, in bytes an event; see the type for what counts.
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
    /// The next event; `None` means that another needs more bytes.
    ///
    /// # Errors
    ///
    /// [`Limit::EventBytes`] when an event has passed the limit. The events before it were delivered; the
    /// stream is over, and every further call says the same until [`finish`](Self::finish).
    #[inline]
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, Error> {
        if self.nothing_new() { Ok(None) } else { self.next_event_searched() }
    }

    /// A short cut for reads of a few bytes: there is no line end among them, and the limit is kept. What it
    /// looked at is not looked at again.
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

    /// By itself, so that the short cut before it has registers enough.
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

    /// As [`next_event`](Self::next_event), but comes back at each stray line too, in the order of the body: an error
    /// must come before the event behind it, however the bytes were cut. The event is then had from `event`.
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
            // A block's bytes are never over the limit.
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

    /// A short cut for what nearly all events of nearly all servers are: one data line, a blank line, both
    /// ended by LF and both read. It does what the loop in `step` would, in half the instructions; `None`
    /// means that the loop must go on from here: the line's end is not before `seen`, and may be there.
    #[inline(always)]
    fn whole_event(&mut self) -> Option<Block> {
        let is_first = self.at == At::Line && self.block.bytes == 0;
        // Where fewer than these six bytes are read, no line end is found among them.
        if !is_first || !self.buf[self.start..].starts_with(b"data: ") {
            return None;
        }
        let (rest, fresh) = (&self.buf[self.seen..], self.end - self.seen);
        // In good JSON no control character stands before the line's end.
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

    /// What is not read yet, as far as an event within the limit goes, if it begins with the first line of one. Once only for
    /// each line: of one that comes in pieces, the rest is searched as ever, or it would be looked at with each piece.
    #[inline]
    pub(crate) fn before_event(&self) -> Option<&[u8]> {
        let end = self.end.min(self.start.saturating_add(self.max_event_bytes).saturating_add(2));
        let is_first = self.at == At::Line && self.block.bytes == 0 && self.seen == self.start;
        is_first.then(|| &self.buf[self.start..end])
    }

    /// Takes an event that the caller has read in [`before_event`](Self::before_event): a data line of so many bytes, in
    /// which there is neither CR nor LF, and a blank line, both ended by LF.
    #[inline]
    pub(crate) fn skip_event(&mut self, line_bytes: usize) {
        self.counters.examined += line_bytes as u64 + 2;
        self.counters.lines += 2;
        self.start = self.end.min(self.start + line_bytes + 2);
        self.seen = self.start;
        self.end_block(Block { bytes: line_bytes, data: Data::InBuffer(0, 0), ..Block::default() });
    }

    /// Looks for the end of the current line, from where it was last looked for.
    fn line_end(&mut self) -> Option<usize> {
        let fresh = &self.buf[self.seen..self.end];
        let found = match fresh.first() {
            // A blank line, nearly always.
            Some(b'\n' | b'\r') => Some(0),
            Some(_) => line_end(&self.buf[self.seen..], fresh.len()),
            None => None,
        };
        let looked_at = found.map_or(fresh.len(), |at| at + 1);
        self.counters.examined += looked_at as u64;
        self.seen += looked_at;
        found.map(|_| self.seen - 1)
    }

    /// "One leading U+FEFF BYTE ORDER MARK character must be ignored if any are present." Stays at `Begin` as
    /// long as that cannot be said.
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

    /// "A U+000D CARRIAGE RETURN U+000A LINE FEED (CRLF) character pair" is one line end. The CR has ended
    /// its line and perhaps its event already: nobody knows when the next byte will come.
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
            // "Append the field value to the data buffer, then append a single U+000A LINE FEED (LF)
            // character to the data buffer." The last of them is taken off again when the event is
            // dispatched; here it is not put on.
            match self.block.data {
                Data::None => self.block.data = Data::InBuffer(line_end - value.len(), line_end),
                Data::InBuffer(from, to) => {
                    self.joined.clear();
                    self.joined.extend_from_slice(&self.buf[from..to]);
                    self.joined.push(b'\n');
                    self.joined.extend_from_slice(value);
                    self.counters.examined += (to - from + value.len()) as u64;
                    self.block.data = Data::Joined;
                }
                Data::Joined => {
                    self.joined.push(b'\n');
                    self.joined.extend_from_slice(value);
                    self.counters.examined += value.len() as u64;
                }
            }
        } else if line[0] == b':' {
            self.counters.comments += 1;
            return; // Not counted as part of the event.
        } else if let Some(value) = field(line, b"event") {
            replace(&mut self.kind, value);
            self.block.has_kind = true;
        } else if let Some(value) = field(line, b"id") {
            // "If the field value does not contain U+0000 NULL, then set the last event ID buffer to the
            // field value. Otherwise, ignore the field."
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
        self.block.bytes += line.len();
    }

    /// Does what a blank line does to the rest of the state; true if the block is an event.
    #[inline]
    fn end_block(&mut self, block: Block) -> bool {
        self.oversized |= block.bytes > SSE_BUFFER_KEPT_BYTES / 4;
        if block.has_id {
            // "Set the last event ID string of the event source to the value of the last event ID buffer",
            // whether or not the block is an event.
            mem::swap(&mut self.id, &mut self.id_next);
        }
        // "If the data buffer is an empty string, set the data buffer and the event type buffer to the empty
        // string and return." One empty data line is a line feed there, so it is an event.
        let is_event = block.data != Data::None;
        self.counters.events += u64::from(is_event);
        is_event
    }

    /// The event of the block that has ended last, before anything else is done with the parser.
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

    /// Type and data of the same event; the data as it came, which may be no UTF-8.
    #[inline]
    pub(crate) fn raw_event(&self, block: Block) -> (&str, &[u8]) {
        (kind_of(block, &self.kind), data_of(block, &self.buf, &self.joined))
    }

    /// Forgets everything that is held, after the limit was passed.
    #[cold]
    fn drop_all(&mut self) {
        self.at = At::Over;
        self.oversized = true;
        self.block = Block::default();
        (self.start, self.seen, self.end) = (0, 0, 0);
        self.shrink();
    }
}

/// The data as text, mended if it must be.
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

// The end, and what can be asked

impl SseParser {
    /// Ends the body. Take all events first: the ones that were not taken are dropped.
    ///
    /// "Once the end of the file is reached, any pending data must be discarded. (If the file ends in the
    /// middle of an event, before the final empty line, the incomplete event is not dispatched.)"
    ///
    /// The parser is then as new, for another body; it keeps its limit, its memory (within
    /// [`SSE_BUFFER_KEPT_BYTES`]) and a stray line that was not taken. The counters start again from zero:
    /// read them before.
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
        let mut data = match self.block.data {
            Data::InBuffer(from, to) => Some(self.buf[from..to].to_vec()),
            Data::Joined => Some(self.joined.clone()),
            Data::None => None,
        };
        if let Some(value) = field(unended, b"data") {
            match &mut data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => data = Some(value.to_vec()),
            }
        }
        data.filter(|data| data.len() <= MAX_SSE_STRAY_BYTES)
            .map(|data| String::from_utf8_lossy(&data).into_owned())
    }

    /// The first stray line since the last call, if one came. Lines that are not [`Stray`] are not kept, nor
    /// are those after the first. Look at it when an event does not come, or at the end after
    /// [`finish`](Self::finish), which takes an unended line for one too.
    pub fn take_stray(&mut self) -> Option<Stray> {
        self.stray.take()
    }

    /// Bytes of the body that belong to no event yet: the unread ones, and the lines of the block that no
    /// blank line has ended. Once `next_event` has returned `None` they are within the limit.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.end - self.start + self.block.bytes
    }

    /// Events delivered of this body.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.counters.events + self.counters.whole_events
    }

    /// Comment lines of this body: the ones that begin with a colon, as servers send to keep a connection.
    #[must_use]
    pub fn comments(&self) -> u64 {
        self.counters.comments
    }

    /// Lines of this body that have ended, blank ones and comments included.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.counters.lines + 2 * self.counters.whole_events
    }

    /// Bytes fed of this body.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.counters.bytes
    }

    /// The work done for this body: bytes searched for line ends, each time they are, and bytes moved or
    /// joined inside the parser. At most about four times [`bytes`](Self::bytes), however the body was cut.
    /// The copy of `feed` and the one UTF-8 check of each event are not in it.
    #[must_use]
    pub fn examined(&self) -> u64 {
        self.counters.examined
    }
}

#[cfg(test)]
mod tests;
