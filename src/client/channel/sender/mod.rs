//! The sending end of a stream's channel: bounded by tokens and by bytes, in front of a plain crossbeam receiver. The channel is
//! the stream's own, or one that many [share](crate::fan_in()).
//!
//! crossbeam's bounded channel would bound the tokens but not their bytes, and a guard that joins while the channel
//! is full would wait for ever. So the channel underneath is unbounded, and this end counts: `len()` says how
//! many tokens the consumer has left, and their sizes are remembered in order. A look is needed only when the room
//! seen at the last look is used up, so a consumer that keeps pace costs nothing. When there is no room
//! the sender looks again after short pauses; it has nothing else to do then, and a cancel ends the pause.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::fan_in::Share;
use crate::client::threads::sync::AtomicBool;
use crate::client::threads::sync::channel::{Receiver, RecvTimeoutError, Sender};
use crate::types::token::StreamToken;

/// The first pause when the channel is full. Doubles up to [`MAX_PAUSE`] while nothing is taken.
const MIN_PAUSE: Duration = Duration::from_micros(100);
/// The longest pause. A full channel holds a thousand tokens, so that no consumer runs dry in it, and a consumer that
/// hangs up is noticed after it at the latest.
const MAX_PAUSE: Duration = Duration::from_millis(10);
/// The pause when a channel of many streams is full, which all of them then wait for. It holds tens of thousands of tokens, and what
/// the consumer takes says nothing about one stream's.
const PAUSE_SHARED: Duration = Duration::from_millis(20);
/// Tokens after which a stream looks again at a channel that others fill too.
const ROOM_SHARED: usize = 16;

/// Why nothing more can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CannotSend {
    /// The receiver was dropped.
    ConsumerGone,
    /// The slot was cancelled while the channel was full.
    Cancelled,
    /// The deadline passed while the channel was full.
    Deadline,
}

/// The channel that tokens go into.
pub(crate) enum Sink {
    /// The stream's own.
    Own(Sender<StreamToken>),
    /// One of many streams.
    Shared(Share),
    /// To be claimed with the first item: another request of the same stream may have it by then.
    Pending(Claim),
    /// Another request has it.
    Lost,
}

/// Claims the channel, for an error or another item as the first one.
pub(crate) type Claim = Box<dyn FnOnce(IsError) -> Option<Sink> + Send>;
/// Of the item that goes in first.
pub(crate) type IsError = bool;

impl Sink {
    /// How many tokens are in it.
    fn len(&self) -> usize {
        match self {
            Self::Own(sender) => sender.len(),
            Self::Shared(share) => share.len(),
            Self::Pending(_) | Self::Lost => 0,
        }
    }

    /// False if the receiver is gone.
    fn send(&self, token: StreamToken) -> bool {
        match self {
            Self::Own(sender) => sender.send(token).is_ok(),
            Self::Shared(share) => share.send(Some(token)),
            Self::Pending(_) | Self::Lost => false,
        }
    }

    /// The stream begins: from here on the consumer is told of its end.
    pub(crate) fn begins(&mut self) {
        if let Self::Shared(share) = self {
            share.set_began(true);
        }
    }

    /// The stream has not begun after all, which its caller is told, and the consumer is not.
    pub(crate) fn never_began(mut self) {
        if let Self::Shared(share) = &mut self {
            share.set_began(false);
        }
    }
}

pub(crate) struct TokenSender {
    sink: Sink,
    /// Text bytes of the tokens sent and not known to be taken, oldest first, and their sum.
    sizes: VecDeque<usize>,
    bytes: usize,
    /// Tokens that may be sent before the next look.
    room: usize,
    max_tokens: usize,
    max_bytes: usize,
    /// Set by a guard that joins: nobody may be reading, so nothing may wait for a reader.
    bound_lifted: Arc<AtomicBool>,
    /// Time spent waiting for the consumer.
    waited: Duration,
}

impl TokenSender {
    /// For a stream that begins now. `max_tokens` is for a channel of its own, one that is shared has its own bound.
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
            // Of zero tokens none could ever be sent.
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
            // Others may have filled it.
            Sink::Shared(share) => (self.room, self.max_tokens) = (0, share.max_tokens().max(1)),
            Sink::Pending(_) | Sink::Lost => self.room = 0,
        }
        self.sink = sink;
    }

    /// Has the channel, or gets it now. False if another request has it.
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

    /// Time spent so far waiting for the consumer.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// Sends a token whose text has `size` bytes. Blocks while the channel is full: until the consumer takes some,
    /// hangs up, a guard joins (then there is no bound any more), `woken` is disconnected or `deadline` passes. At a
    /// deadline the token is sent all the same, for it was received before.
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

    /// Sends the last item of a stream, which no bound holds back.
    pub(crate) fn send_last(mut self, token: StreamToken) {
        if self.claim(matches!(token, StreamToken::Error(_))) {
            // A consumer that has gone does not want it.
            let _ = self.sink.send(token);
        }
    }

    /// Goes without a word: whoever began the stream is told that it has not begun.
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
            // A token larger than the whole bound may be alone in the channel.
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

    /// Forgets the tokens that the consumer has taken; returns how many it has not. Of a shared channel it is those of all
    /// streams, and this one's are at most as many.
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

#[cfg(all(test, shuttle))]
mod shuttle;

#[cfg(all(test, not(shuttle)))]
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

    /// Sends until the sender would have to wait, with a deadline that has passed.
    fn fill(sender: &mut TokenSender, text: &str) -> usize {
        let (_alive, woken) = bounded(0);
        let mut sent = 0;
        loop {
            sent += 1;
            match sender.send(token(text), text.len(), &woken, Some(Instant::now())) {
                Ok(()) => {}
                // The one over the bound is sent too.
                Err(stopped) => {
                    assert_eq!(stopped, CannotSend::Deadline);
                    return sent - 1;
                }
            }
            assert!(sent < 10_000, "no bound");
        }
    }

    #[test]
    fn the_first_bound_reached_holds() {
        // (max_tokens, max_bytes, text, how many fit)
        let cases = [
            (4, 1000, "abc", 4),
            (1000, 10, "abc", 3),
            (1000, 9, "abc", 3),
            (1000, 8, "abc", 2),
            (1000, 2, "abc", 1), // alone it may be larger
            (1, 0, "", 1),
            (0, 1000, "a", 1), // zero is taken for one
            (5, 5, "", 5),
        ];
        for (max_tokens, max_bytes, text, fit) in cases {
            let (mut sender, receiver, _) = open(max_tokens, max_bytes);
            assert_eq!(fill(&mut sender, text), fit, "{max_tokens} tokens, {max_bytes} bytes, {text:?}");
            assert_eq!(receiver.len(), fit + 1);
            // Taking the one over the bound and one more makes room for one.
            receiver.recv().unwrap();
            receiver.recv().unwrap();
            assert_eq!(fill(&mut sender, text), 1);
        }
    }

    #[test]
    fn a_full_channel_wakes_for_each_reason() {
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
            assert!(!sending.is_finished(), "{reason}: it must wait");
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
