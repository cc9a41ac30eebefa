//! Adds new bytes to the parser's buffer and makes room for more.

use super::{At, Data, SSE_BUFFER_KEPT_BYTES, SseParser};

/// The initial size of the buffer. It holds five reads of the size of an Ethernet packet.
const MIN_BUFFER_BYTES: usize = 8 << 10;

impl SseParser {
    /// Appends the bytes of one read to the buffer, with a single copy.
    ///
    /// After an error the bytes are dropped. Take all events before you feed more bytes. Otherwise
    /// the buffer keeps the bytes of all events that were not taken, without a limit.
    #[inline]
    pub fn feed(&mut self, bytes: &[u8]) {
        let room = self.space(bytes.len());
        // `space` returns at least one byte, and at least the requested number.
        match *bytes {
            [byte] => room[0] = byte, // This takes a third of the instructions of `memcpy`.
            _ => room[..bytes.len()].copy_from_slice(bytes),
        }
        self.filled(bytes.len());
    }

    /// Returns the free part of the parser's buffer, so that you can read into it without a copy.
    ///
    /// The free part has at least `at_least` bytes, and never fewer than one. After you have read
    /// into it, pass the number of bytes to [`filled`](Self::filled). Without a call of `filled`,
    /// the parser ignores the bytes.
    ///
    /// # Panics
    ///
    /// Panics like a `Vec` if the memory for `at_least` bytes cannot be allocated.
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

    /// Returns the same buffer as [`space`](Self::space), filled with zeros.
    ///
    /// If a reader fails, the bytes that are not zero show what the reader has written.
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

    /// Returns the current contents of the free part that [`space`](Self::space) returned.
    pub(crate) fn free(&self) -> &[u8] {
        &self.buf[self.end..]
    }

    /// Adds the first `len` bytes of [`space`](Self::space) to the body.
    ///
    /// If `len` is larger than the free part, the whole free part is added. After an error the
    /// bytes are dropped.
    #[inline]
    pub fn filled(&mut self, len: usize) {
        let len = len.min(self.buf.len() - self.end);
        self.counters.bytes += len as u64;
        self.dirty = self.dirty.max(self.end + len);
        if self.at != At::Over {
            self.end += len;
        }
    }

    /// Makes room for `at_least` more bytes.
    ///
    /// This moves the unread part to the front, and grows the buffer if needed. Afterwards the free
    /// part is at least as large as the unread part that was moved. The next move is therefore
    /// needed only after this free part is full, so a large event takes linear time.
    #[cold]
    fn make_room(&mut self, at_least: usize) {
        self.copy_to_joined();
        self.move_to_front();
        let mut wanted = self.end.saturating_mul(2);
        // A line needs at most the limit, plus a few bytes to detect that the line exceeds the
        // limit. Events that were not taken may need more room, so the size continues to double for
        // them.
        let max_line = self.max_event_bytes.saturating_add(MIN_BUFFER_BYTES);
        if self.end <= max_line {
            wanted = wanted.min(max_line);
        }
        let wanted = wanted.saturating_add(at_least).max(MIN_BUFFER_BYTES);
        if self.buf.len() < wanted {
            // The size is rounded up to whole pages, so that it stops changing after a few events.
            // It needs no extra capacity, because `wanted` is already doubled.
            let wanted = wanted.checked_next_multiple_of(4096).unwrap_or(wanted);
            self.buf.reserve_exact(wanted - self.buf.len());
            self.buf.resize(wanted, 0);
            self.oversized |= wanted > SSE_BUFFER_KEPT_BYTES;
        }
    }

    /// Frees the memory above [`SSE_BUFFER_KEPT_BYTES`], once the buffers are nearly empty.
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
