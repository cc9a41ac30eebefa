//! The sending end of a stream's channel. It limits the number of tokens and their bytes.
//!
//! The receiving end is a plain crossbeam receiver. A channel belongs to one stream, or is
//! [shared](crate::fan_in()) by many streams.
//!
//! crossbeam's bounded channel limits the number of tokens but not their bytes. Also, a guard that
//! joins while the channel is full would wait forever. tokenwire therefore uses an unbounded
//! channel, and this end counts the tokens. `len()` returns the number of tokens that the consumer
//! has not taken. The sender stores the sizes of these tokens in order.
//!
//! When the sender checks the channel, it finds some free space. It checks again only after it has
//! used this space, so the checks cost almost nothing if the consumer is fast. If the channel has
//! no free space, the sender checks again after short pauses. It has no other work during a pause,
//! and a cancel ends the pause.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::fan_in::Share;
use crate::client::threads::sync::AtomicBool;
use crate::client::threads::sync::channel::{Receiver, RecvTimeoutError, Sender};
use crate::types::token::StreamToken;

/// The first pause when the channel is full.
///
/// The pause doubles up to [`MAX_PAUSE`] while the consumer takes no token.
const MIN_PAUSE: Duration = Duration::from_micros(100);
/// The longest pause when the channel is full.
///
/// A full channel holds about a thousand tokens, so the consumer does not run out of tokens during
/// a pause. If the consumer drops the receiver, the sender detects it after at most this time.
const MAX_PAUSE: Duration = Duration::from_millis(10);
/// The pause when a shared channel is full. All streams of the channel then wait.
///
/// The channel holds tens of thousands of tokens, and the tokens that the consumer takes may belong
/// to any stream.
const PAUSE_SHARED: Duration = Duration::from_millis(20);
/// The number of tokens after which a stream checks a shared channel again.
const ROOM_SHARED: usize = 16;

/// The reason why the sender must stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CannotSend {
    /// The receiver was dropped, or another request of the stream has claimed the channel.
    ConsumerGone,
    /// The slot was cancelled while the channel was full.
    Cancelled,
    /// The deadline passed while the channel was full.
    Deadline,
}

/// The channel that receives the tokens of a stream.
pub(crate) enum Sink {
    /// The channel belongs to this stream only.
    Own(Sender<StreamToken>),
    /// Many streams share the channel.
    Shared(Share),
    /// The first item claims the channel, unless another request of the stream has already claimed
    /// it.
    Pending(Claim),
    /// Another request of the same stream has claimed the channel.
    Lost,
}

/// Claims the channel for a first item, which may be an error.
pub(crate) type Claim = Box<dyn FnOnce(IsError) -> Option<Sink> + Send>;
/// True if the first item is an error.
pub(crate) type IsError = bool;

impl Sink {
    /// Returns the number of tokens in the channel.
    fn len(&self) -> usize {
        match self {
            Self::Own(sender) => sender.len(),
            Self::Shared(share) => share.len(),
            Self::Pending(_) | Self::Lost => 0,
        }
    }

    /// Sends a token. Returns false if the receiver was dropped.
    fn send(&self, token: StreamToken) -> bool {
        match self {
            Self::Own(sender) => sender.send(token).is_ok(),
            Self::Shared(share) => share.send(Some(token)),
            Self::Pending(_) | Self::Lost => false,
        }
    }

    /// Marks the stream as started. From now on, the consumer receives the end of the stream.
    pub(crate) fn begins(&mut self) {
        if let Self::Shared(share) = self {
            share.set_began(true);
        }
    }

    /// Marks the stream as not started. Its caller gets an error, and the consumer gets nothing.
    pub(crate) fn never_began(mut self) {
        if let Self::Shared(share) = &mut self {
            share.set_began(false);
        }
    }
}

pub(crate) struct TokenSender {
    sink: Sink,
    /// The text sizes of the sent tokens that may still be in the channel, oldest first. `bytes` is
    /// the sum of these sizes.
    sizes: VecDeque<usize>,
    bytes: usize,
    /// The number of tokens that may be sent before the next check of the channel.
    room: usize,
    max_tokens: usize,
    max_bytes: usize,
    /// True after a guard joins. The sender must then not wait, because possibly no consumer reads
    /// the channel.
    bound_lifted: Arc<AtomicBool>,
    /// The time spent waiting for the consumer.
    waited: Duration,
}

impl TokenSender {
    /// Creates the sender of a stream that starts now.
    ///
    /// `max_tokens` applies only to a channel that is not shared. A shared channel has its own
    /// limit.
    pub(crate) fn new(
        mut sink: Sink,
        max_tokens: usize,
        max_bytes: usize,
        bound_lifted: Arc<AtomicBool>,
    ) -> Self {
        sink.begins();
        let mut sender = Self {
            sink: Sink::Lost,
            sizes: VecDeque::new(),
            bytes: 0,
            room: 0,
            // With a limit of zero, no token could ever be sent.
            max_tokens: max_tokens.max(1),
            max_bytes,
            bound_lifted,
            waited: Duration::ZERO,
        };
        sender.take(sink);
        sender
    }

    fn take(&mut self, sink: Sink) {
        match &sink {
            Sink::Own(_) => self.room = self.max_tokens,
            // Other streams may have filled the channel.
            Sink::Shared(share) => (self.room, self.max_tokens) = (0, share.max_tokens().max(1)),
            Sink::Pending(_) | Sink::Lost => self.room = 0,
        }
        self.sink = sink;
    }

    /// Claims the channel if it is pending. Returns false if another request has claimed it.
    pub(crate) fn claim(&mut self, is_error: IsError) -> bool {
        match std::mem::replace(&mut self.sink, Sink::Lost) {
            Sink::Pending(claim) => match claim(is_error) {
                Some(sink) => self.take(sink),
                None => return false,
            },
            Sink::Lost => return false,
            sink => self.sink = sink,
        }
        true
    }

    /// Returns the time spent waiting for the consumer so far.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// Sends a token whose text has `size` bytes, and blocks while the channel is full.
    ///
    /// The wait ends for one of these reasons:
    ///
    /// - The consumer takes tokens, or drops the receiver.
    /// - A guard joins, which removes the limits.
    /// - A cancel disconnects `woken`.
    /// - `deadline` passes. The token is still sent, because it was received before the deadline.
    pub(crate) fn send(
        &mut self,
        token: StreamToken,
        size: usize,
        woken: &Receiver<()>,
        deadline: Option<Instant>,
    ) -> Result<(), CannotSend> {
        let mut room = Ok(());
        if self.room == 0 && !self.claim(false) {
            return Err(CannotSend::ConsumerGone);
        }
        if self.room == 0 || size > self.max_bytes - self.bytes.min(self.max_bytes) {
            room = self.make_room(size, woken, deadline);
            if matches!(room, Err(CannotSend::Cancelled | CannotSend::ConsumerGone)) {
                return room;
            }
        }
        self.room = self.room.saturating_sub(1);
        self.bytes += size;
        self.sizes.push_back(size);
        if self.sink.send(token) { room } else { Err(CannotSend::ConsumerGone) }
    }

    /// Sends the last item of a stream, even if the channel is full.
    pub(crate) fn send_last(mut self, token: StreamToken) {
        if self.claim(matches!(token, StreamToken::Error(_))) {
            // If the receiver was dropped, no consumer needs this item.
            let _ = self.sink.send(token);
        }
    }

    /// Drops the sender without sending anything, because the caller gets an error instead.
    pub(crate) fn never_began(self) {
        self.sink.never_began();
    }

    fn make_room(
        &mut self,
        size: usize,
        woken: &Receiver<()>,
        deadline: Option<Instant>,
    ) -> Result<(), CannotSend> {
        let mut pause = MIN_PAUSE;
        let mut before = usize::MAX;
        let began = Instant::now();
        let result = loop {
            let queued = self.look();
            // A token that is larger than the byte limit is sent when the channel is empty.
            let fits = queued == 0 || (self.room > 0 && self.bytes + size <= self.max_bytes);
            if fits || self.bound_lifted.load(Ordering::Acquire) {
                self.room = self.room.max(1);
                break Ok(());
            }
            pause = match self.sink {
                Sink::Shared(_) => PAUSE_SHARED,
                _ if queued < before => MIN_PAUSE,
                _ => MAX_PAUSE.min(pause * 2),
            };
            before = queued;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                break Err(CannotSend::Deadline);
            }
            match woken.recv_timeout(left.unwrap_or(pause).min(pause)) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => break Err(CannotSend::Cancelled),
            }
        };
        self.waited += began.elapsed();
        result
    }

    /// Removes the sizes of the tokens that the consumer has taken. Returns how many tokens remain.
    ///
    /// For a shared channel, the result counts the tokens of all streams. It is therefore an upper
    /// limit for the tokens of this stream.
    fn look(&mut self) -> usize {
        let queued = self.sink.len();
        while self.sizes.len() > queued {
            self.bytes -= self.sizes.pop_front().unwrap_or_default();
        }
        self.room = self.max_tokens.saturating_sub(queued);
        if let Sink::Shared(_) = self.sink {
            self.room = self.room.min(ROOM_SHARED);
        }
        queued
    }
}

#[cfg(test)]
#[cfg(shuttle)]
mod shuttle;

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use std::thread;

    use crossbeam_channel::{bounded, unbounded};

    use super::*;

    fn token(text: &str) -> StreamToken {
        StreamToken::Token { text: text.to_owned(), id: None }
    }

    fn open(max_tokens: usize, max_bytes: usize) -> (TokenSender, Receiver<StreamToken>, Arc<AtomicBool>) {
        let (sender, receiver) = unbounded();
        let bound_lifted = Arc::new(AtomicBool::new(false));
        (
            TokenSender::new(Sink::Own(sender), max_tokens, max_bytes, bound_lifted.clone()),
            receiver,
            bound_lifted,
        )
    }

    /// Sends tokens until the sender would have to wait. The deadline has already passed.
    fn fill(sender: &mut TokenSender, text: &str) -> usize {
        let (_alive, woken) = bounded(0);
        let mut sent = 0;
        loop {
            sent += 1;
            match sender.send(token(text), text.len(), &woken, Some(Instant::now())) {
                Ok(()) => {}
                // The token that exceeds the limit is also sent.
                Err(stopped) => {
                    assert_eq!(stopped, CannotSend::Deadline);
                    return sent - 1;
                }
            }
            assert!(sent < 10_000, "no limit");
        }
    }

    #[test]
    fn the_limit_that_is_reached_first_applies() {
        // (max_tokens, max_bytes, text, number of tokens that fit)
        let cases = [
            (4, 1000, "abc", 4),
            (1000, 10, "abc", 3),
            (1000, 9, "abc", 3),
            (1000, 8, "abc", 2),
            (1000, 2, "abc", 1), // a single token may be larger
            (1, 0, "", 1),
            (0, 1000, "a", 1), // zero counts as one
            (5, 5, "", 5),
        ];
        for (max_tokens, max_bytes, text, fit) in cases {
            let (mut sender, receiver, _) = open(max_tokens, max_bytes);
            assert_eq!(fill(&mut sender, text), fit, "{max_tokens} tokens, {max_bytes} bytes, {text:?}");
            assert_eq!(receiver.len(), fit + 1);
            // After the consumer takes two tokens, of which one exceeded the limit, one more token
            // fits.
            receiver.recv().unwrap();
            receiver.recv().unwrap();
            assert_eq!(fill(&mut sender, text), 1);
        }
    }

    #[test]
    fn a_sender_blocked_on_a_full_channel_wakes_for_each_reason() {
        let within = Duration::from_secs(10);
        for reason in ["taken", "gone", "cancelled", "joined"] {
            let (mut sender, receiver, bound_lifted) = open(2, 1000);
            assert_eq!(fill(&mut sender, "x"), 2);
            receiver.recv().unwrap();
            let (waker, woken) = bounded::<()>(0);
            let sending = thread::spawn(move || {
                sender.send(token("y"), 1, &woken, Some(Instant::now() + within)).map(|()| sender.waited())
            });
            thread::sleep(Duration::from_millis(20));
            assert!(!sending.is_finished(), "{reason}: the sender must wait");
            let mut kept = Some(receiver);
            let expected = match reason {
                "taken" => kept.as_ref().map(|r| r.recv()).map(|_| None),
                "gone" => kept.take().map(|_| Some(CannotSend::ConsumerGone)),
                "cancelled" => {
                    drop(waker);
                    Some(Some(CannotSend::Cancelled))
                }
                _ => {
                    bound_lifted.store(true, Ordering::Release);
                    Some(None)
                }
            };
            let result = sending.join().unwrap();
            assert_eq!(Some(result.err()), expected, "{reason}");
            if let Ok(waited) = result {
                assert!(!waited.is_zero(), "{reason}");
            }
        }
    }
}
