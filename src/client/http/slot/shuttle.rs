//! Tests a request's thread, which uses the slot as `tap` does, with cancels at any time.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::client::threads::sync::shuttle::{Limits, any, check};
use crate::client::threads::sync::{Condvar, thread};

/// A socket whose reads block until it has data or is shut down.
#[derive(Default)]
pub(crate) struct Socket {
    state: Mutex<SocketState>,
    changed: Condvar,
}

#[derive(Default)]
struct SocketState {
    shutdowns: usize,
    answered: bool,
    pooled: bool,
    hurt: bool,
}

impl Socket {
    /// Returns false if the socket was shut down.
    pub(crate) fn read(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        while !state.answered && state.shutdowns == 0 {
            state = self.changed.wait(state).unwrap();
        }
        state.shutdowns == 0
    }

    fn answer(&self) {
        self.state.lock().unwrap().answered = true;
        self.changed.notify_all();
    }

    fn pooled(&self, pooled: bool) {
        self.state.lock().unwrap().pooled = pooled;
    }
}

impl ShutdownHandle for Socket {
    fn shutdown(&self) {
        let mut state = self.state.lock().unwrap();
        state.shutdowns += 1;
        state.hurt |= state.pooled;
        drop(state);
        self.changed.notify_all();
    }
}

/// A model of the operating system's connect call. The call ends only when the network answers.
#[derive(Default)]
pub(crate) struct Network {
    connected: Mutex<bool>,
    changed: Condvar,
}

impl Network {
    pub(crate) fn connect(&self) {
        let mut connected = self.connected.lock().unwrap();
        while !*connected {
            connected = self.changed.wait(connected).unwrap();
        }
    }

    pub(crate) fn answer(&self) {
        *self.connected.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

/// How the thread of a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Refused,
    Shut,
    /// The request was complete, and its connection returned to the pool.
    Whole,
    Woken,
}

/// Counts the steps of the thread and of the cancels.
#[derive(Default)]
struct Seen {
    connects_begun: AtomicUsize,
    connects_ended: AtomicUsize,
    cancels_returned: AtomicUsize,
    late_attaches: AtomicUsize,
}

/// Makes one request: connects, attaches, attaches again to send, reads, and returns to the pool.
///
/// Afterwards, the function sends another request on the pooled connection, or pauses until a
/// cancel.
fn request(slot: &CancelSlot, network: &Network, socket: &Arc<Socket>, seen: &Seen, pause: bool) -> Ended {
    let weak: Weak<dyn ShutdownHandle> = Arc::<Socket>::downgrade(socket);
    let attach = || {
        let late = seen.cancels_returned.load(SeqCst) > 0;
        let attached = slot.attach(&weak);
        seen.late_attaches.fetch_add(usize::from(late && attached), SeqCst);
        attached
    };
    slot.begin(None);
    seen.connects_begun.fetch_add(1, SeqCst);
    if !slot.begin_connect() {
        seen.connects_ended.fetch_add(1, SeqCst);
        return Ended::Refused;
    }
    network.connect();
    let attached = attach();
    slot.end_connect();
    seen.connects_ended.fetch_add(1, SeqCst);
    if !attached {
        return Ended::Refused;
    }
    for reused in [false, true] {
        socket.pooled(false);
        if !attach() {
            return Ended::Refused;
        }
        slot.set_sent(reused);
        if !socket.read() {
            return Ended::Shut;
        }
        slot.detach();
        socket.pooled(true);
        if pause && slot.woken().recv_timeout(Duration::from_secs(1)).is_err() && slot.is_cancelled() {
            return Ended::Woken;
        }
        slot.begin(None);
    }
    Ended::Whole
}

fn cancels_at_every_moment() {
    let (slot, socket) = (CancelSlot::new(), Arc::new(Socket::default()));
    let (network, seen) = (Arc::new(Network::default()), Arc::new(Seen::default()));
    // The network may answer before or after the cancel.
    let (connects, answers, pause) = (any(2) == 0, any(2) == 0, any(2) == 0);
    let thread = thread::spawn({
        let (slot, network, socket, seen) = (slot.clone(), network.clone(), socket.clone(), seen.clone());
        move || request(&slot, &network, &socket, &seen, pause)
    });
    let outside = thread::spawn({
        let (network, socket) = (network.clone(), socket.clone());
        move || {
            if connects {
                network.answer();
            }
            if answers {
                socket.answer();
            }
        }
    });
    let cancel = |slot: &CancelSlot, seen: &Seen| {
        let ended = seen.connects_ended.load(SeqCst);
        let wakes = slot.cancel();
        let begun = seen.connects_begun.load(SeqCst);
        seen.cancels_returned.fetch_add(1, SeqCst);
        assert!(wakes || ended < begun, "the cancel reported a connect, but the thread is not in one");
        wakes
    };
    let other = thread::spawn({
        let (slot, seen) = (slot.clone(), seen.clone());
        move || cancel(&slot, &seen)
    });
    let wakes = cancel(&slot, &seen);
    assert!(slot.is_cancelled());
    if !wakes {
        network.answer();
    }
    // Otherwise, the network sends nothing after the cancel, so the cancel alone must end the
    // request.
    let ended = thread.join().unwrap();
    other.join().unwrap();
    outside.join().unwrap();
    assert_eq!(seen.late_attaches.load(SeqCst), 0, "attached after a cancel had returned");
    assert!(slot.woken().recv().is_err());
    assert!(!slot.begin_connect(), "connects after a cancel");
    let state = socket.state.lock().unwrap();
    assert!(!state.hurt, "a pooled connection was shut down");
    // A read that ends before the cancel cannot detect the cancel.
    assert!(state.shutdowns <= 1, "shut down twice");
    assert!(ended != Ended::Shut || state.shutdowns == 1);
}

#[test]
fn a_cancel_wakes_the_thread_or_reports_a_connect_and_spares_pooled_sockets() {
    // The pause is longer than any test, so only the cancel ends it.
    check(Limits::NeverPass, cancels_at_every_moment);
}
