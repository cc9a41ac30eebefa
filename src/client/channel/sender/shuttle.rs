//! Tests a sender with limits. The consumer continues to read, drops the receiver, joins or
//! cancels.

use super::*;
use crate::client::threads::sync::channel::{bounded, unbounded};
use crate::client::threads::sync::shuttle::{Limits, any, check};
use crate::client::threads::sync::thread;

const MAX_TOKENS: usize = 2;
const MAX_BYTES: usize = 4;
/// The text sizes of the tokens that the sender sends.
///
/// Only the token limit affects the first three tokens. The fourth token is larger than the byte
/// limit. The fifth and the sixth token together exceed the byte limit. The last token is empty.
const SIZES: [usize; 7] = [1, 1, 1, 5, 2, 3, 0];

/// The next action of the consumer after it has read some tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    ReadOn,
    HangUp,
    /// The guard joins, and the consumer reads no more tokens.
    Join,
    /// The guard cancels, and the consumer reads no more tokens.
    Cancel,
}

fn numbered(number: usize) -> StreamToken {
    StreamToken::Token { text: number.to_string(), id: None }
}

/// The receiving end, with the number of the token that must arrive next.
struct Consumer {
    receiver: Receiver<StreamToken>,
    next: usize,
}

impl Consumer {
    /// Checks that the channel is within its limits now.
    ///
    /// Only the consumer takes tokens out, so `len` determines which tokens are in the channel.
    fn look(&self) {
        let sizes = SIZES.iter().skip(self.next).take(self.receiver.len());
        let (tokens, bytes) = (sizes.len(), sizes.sum::<usize>());
        assert!(tokens <= MAX_TOKENS, "{tokens} tokens in the channel");
        assert!(bytes <= MAX_BYTES || tokens == 1, "{bytes} bytes in {tokens} tokens");
    }

    fn read(&mut self) -> bool {
        let came = self.receiver.recv();
        if let Ok(token) = &came {
            let StreamToken::Token { text, .. } = token else { panic!("{token:?}") };
            assert_eq!(*text, self.next.to_string(), "out of order");
            self.next += 1;
        }
        came.is_ok()
    }
}

fn a_bounded_channel() {
    let (sender, receiver) = unbounded();
    let bound_lifted = Arc::new(AtomicBool::new(false));
    let mut sender = TokenSender::new(Sink::Own(sender), MAX_TOKENS, MAX_BYTES, bound_lifted.clone());
    let (waker, woken) = bounded(0);
    let sending = thread::spawn(move || {
        for (number, size) in SIZES.into_iter().enumerate() {
            sender.send(numbered(number), size, &woken, None).map_err(|stopped| (number, stopped))?;
        }
        sender.send_last(numbered(SIZES.len()));
        Ok(())
    });

    let then = [Then::ReadOn, Then::HangUp, Then::Join, Then::Cancel][any(4)];
    let mut consumer = Consumer { receiver, next: 0 };
    for _ in 0..any(SIZES.len()) {
        consumer.look();
        consumer.read();
    }
    consumer.look();
    let read = consumer.next;
    let (mut waker, mut consumer) = (Some(waker), Some(consumer));
    match then {
        Then::ReadOn => {}
        Then::HangUp => consumer = None,
        Then::Join => bound_lifted.store(true, Ordering::Release),
        Then::Cancel => waker = None,
    }
    if let (Then::ReadOn, Some(consumer)) = (then, &mut consumer) {
        while consumer.read() {
            consumer.look();
        }
    }
    let result = sending.join().unwrap();
    drop(waker);
    if let Some(consumer) = &mut consumer {
        if then != Then::Join {
            consumer.look();
        }
        // The channel contains every token that was sent, and no other token.
        while consumer.read() {}
        let sent = match result {
            Ok(()) => SIZES.len() + 1,
            Err((sent, _)) => sent,
        };
        assert_eq!(consumer.next, sent, "{then:?} after {read}");
    }
    match result {
        Ok(()) => {}
        Err((_, CannotSend::ConsumerGone)) => assert_eq!(then, Then::HangUp),
        Err((_, CannotSend::Cancelled)) => assert_eq!(then, Then::Cancel),
        Err((_, CannotSend::Deadline)) => panic!("the sender has no deadline"),
    }
}

#[test]
fn no_token_is_lost_or_over_the_limit_and_the_sender_ends() {
    // A blocked sender checks the channel again after a pause, so pauses must end in the model.
    check(Limits::Pass, a_bounded_channel);
}
