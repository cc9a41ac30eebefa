//! Feeding: the parser's buffer, and the room that it makes in it.

use super::{At, Data, SSE_BUFFER_KEPT_BYTES, SseParser};

/// The buffer's size to begin with. Five reads of the size of an Ethernet packet.
const MIN_BUFFER_BYTES: usize = 8 << 10;

impl SseParser {
    /// Takes the bytes of one read: one copy, and no work besides. After an error they are dropped.
    ///
    /// Take all events before feeding again: bytes whose events are not taken are held without a limit.
    #[inline]
    pub fn feed(&mut self, bytes: &[u8]) {
        let room = self.space(bytes.len());
        // `space` gives at least one byte, and at least what it is asked for.
        match *bytes {
            [byte] => room[0] = byte, // A third of the instructions of a call of `memcpy`.
            _ => room[..bytes.len()].copy_from_slice(bytes),
        }
        self.filled(bytes.len());
    }

    /// The free part of the parser's buffer, to read into without a copy: at least `at_least` bytes and at
    /// least one, often more. Say with [`filled`](Self::filled) how many came; without it nothing has
    /// changed.
    ///
    /// # Panics
    ///
    /// As a `Vec` does, if the memory for `at_least` bytes cannot be had.
    #[inline]
    pub fn space(&mut self, at_least: usize) -> &mut [u8] {
        if self.start == self.end && !matches!(self.block.data, Data::InBuffer(..)) {
            (self.start, self.seen, self.end) = (0, 0, 0);
        }
        if self.oversized {
            self.shrink();
        }
        if self.buf.len() - self.end < at_least.max(1) {
            self.make_room(at_least.max(1));
        }
        &mut self.buf[self.end..]
    }

    /// As [`space`](Self::space), all zeros: so that a reader that fails can be asked what it had written.
    #[inline]
    pub(crate) fn zeroed_space(&mut self, at_least: usize) -> &mut [u8] {
        self.space(at_least);
        let stale = self.end..self.dirty.min(self.buf.len());
        if !stale.is_empty() {
            self.buf[stale].fill(0);
        }
        self.dirty = self.end;
        &mut self.buf[self.end..]
    }

    /// What [`space`](Self::space) gave last, as it is now.
    pub(crate) fn free(&self) -> &[u8] {
        &self.buf[self.end..]
    }

    /// The first `len` bytes of [`space`](Self::space) now hold the bytes that came next in the body. More
    /// than it had counts as all of it. After an error they are dropped.
    #[inline]
    pub fn filled(&mut self, len: usize) {
        let len = len.min(self.buf.len() - self.end);
        self.counters.bytes += len as u64;
        self.dirty = self.dirty.max(self.end + len);
        if self.at != At::Over {
            self.end += len;
        }
    }

    /// Room for `at_least` more bytes, by moving the unread part to the front, and by growing if it must.
    ///
    /// Afterwards there is room for as many bytes as were moved, besides `at_least`: so each move is paid for
    /// by as many bytes that came, and a large event does not make it quadratic.
    #[cold]
    fn make_room(&mut self, at_least: usize) {
        if let Data::InBuffer(from, to) = self.block.data {
            self.joined.clear();
            self.joined.extend_from_slice(&self.buf[from..to]);
            self.block.data = Data::Joined;
            self.counters.examined += (to - from) as u64;
        }
        self.move_to_front();
        let mut wanted = self.end.saturating_mul(2);
        // A line never needs more room than the limit and what shows that it is passed. Events that
        // nobody has taken yet may: the doubling goes on for them.
        let max_line = self.max_event_bytes.saturating_add(MIN_BUFFER_BYTES);
        if self.end <= max_line {
            wanted = wanted.min(max_line);
        }
        let wanted = wanted.saturating_add(at_least).max(MIN_BUFFER_BYTES);
        if self.buf.len() < wanted {
            // Whole pages, so that the sizes settle after a few events. Exact: `wanted` doubles already.
            let wanted = wanted.checked_next_multiple_of(4096).unwrap_or(wanted);
            self.buf.reserve_exact(wanted - self.buf.len());
            self.buf.resize(wanted, 0);
            self.oversized |= wanted > SSE_BUFFER_KEPT_BYTES;
        }
    }

    /// Gives back what the buffers have over [`SSE_BUFFER_KEPT_BYTES`], as soon as they are empty enough.
    #[cold]
    pub(super) fn shrink(&mut self) {
        let in_use =
            matches!(self.block.data, Data::InBuffer(..)) || self.end - self.start > MIN_BUFFER_BYTES;
        if !in_use && self.buf.len() > SSE_BUFFER_KEPT_BYTES {
            self.move_to_front();
            self.buf.truncate(SSE_BUFFER_KEPT_BYTES);
            self.buf.shrink_to_fit();
        }
        if self.block.data != Data::Joined {
            self.joined.clear();
            self.joined.shrink_to(SSE_BUFFER_KEPT_BYTES);
        }
        for (text, has) in [
            (&mut self.kind, self.block.has_kind),
            (&mut self.id_next, self.block.has_id),
            (&mut self.mended, false),
        ] {
            if !has {
                text.clear();
                text.shrink_to(SSE_BUFFER_KEPT_BYTES);
            }
        }
        self.oversized = in_use || self.block.open;
    }

    fn move_to_front(&mut self) {
        self.buf.copy_within(self.start..self.end, 0);
        self.counters.examined += (self.end - self.start) as u64;
        (self.start, self.seen, self.end) = (0, self.seen - self.start, self.end - self.start);
    }
}
