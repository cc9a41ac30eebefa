//! The state shared by a stream's guard and its reader thread: cancel flag, socket, time limit.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::unversioned::transport::ShutdownHandle;
use crate::client::threads::sync::channel::{Receiver, Sender, bounded};
use crate::client::threads::sync::{AtomicBool, Mutex, MutexGuard};
use crate::error::Timer;
use crate::error::macros::debug_fields;

/// The cancel state of one request.
///
/// Any thread may call `cancel` at any time, any number of times. Only the thread that makes the
/// request may call the other methods.
pub(crate) struct CancelSlot {
    cancelled: AtomicBool,
    state: Mutex<State>,
    /// True if a byte of the response has arrived.
    answered: AtomicBool,
    /// A channel that a cancel disconnects. Some waits do not use a socket: a name lookup, a pause
    /// before a retry, a full channel. Such a wait also waits for this channel.
    woken: Receiver<()>,
}

struct State {
    phase: Phase,
    /// The sender of `woken`. A cancel drops it to wake the receivers.
    waker: Option<Sender<()>>,
    /// The socket in use, or `None` before the connect and after the return to the pool.
    socket: Option<Weak<dyn ShutdownHandle>>,
    /// True if the request, or its first part, was passed to a connection.
    sent: bool,
    /// True if the connection had served an earlier request.
    reused: bool,
    /// Counts how often the request was resent because the reused connection was already closed.
    stale_retries: u32,
    /// The time at which the request, or its current attempt, started.
    began: Instant,
    wait: Option<Wait>,
    /// True if `wait` ends earlier than all of ureq's own timers. A timeout then means that `wait`
    /// has expired.
    wait_is_nearest: bool,
}

/// The phase of the request, which determines the effect of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The thread is not blocked in the operating system.
    Idle,
    /// The thread is inside the connect call of the operating system, which nothing can interrupt.
    ///
    /// The connect call ends when its own timer expires. After a cancel, the request does not use
    /// the connection.
    Connecting,
    /// The thread reads or writes a socket that a cancel shuts down.
    Open,
}

/// A time limit for the next wait of the thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    /// The time at which the limit started. `None`: it starts when the thread first waits for the
    /// socket.
    ///
    /// Without a start time, every wait has the full length. The timeout of the socket then stays
    /// the same for all reads.
    since: Option<Instant>,
    pub(crate) limit: Duration,
    pub(crate) timer: Timer,
}

impl Wait {
    /// Creates a limit that started at `since`.
    pub(crate) fn since(since: Instant, limit: Duration, timer: Timer) -> Self {
        Self { since: Some(since), limit, timer }
    }

    /// Creates a limit that starts when the thread begins to wait.
    pub(crate) fn each(limit: Duration, timer: Timer) -> Self {
        Self { since: None, limit, timer }
    }

    /// Returns the time that is left at `now`.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        match self.since {
            Some(since) => self.limit.saturating_sub(now.saturating_duration_since(since)),
            None => self.limit,
        }
    }
}

impl CancelSlot {
    pub(crate) fn new() -> Arc<Self> {
        let (waker, woken) = bounded(0);
        Arc::new(Self {
            cancelled: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            state: Mutex::new(State {
                phase: Phase::Idle,
                waker: Some(waker),
                socket: None,
                sent: false,
                reused: false,
                stale_retries: 0,
                began: Instant::now(),
                wait: None,
                wait_is_nearest: false,
            }),
            woken,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds this lock. Even after a panic, the state would be
        // consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the request now: wakes a blocked read or write, and prevents later reads and writes.
    ///
    /// Returns false if the thread is inside a connect call. The thread then wakes only when the
    /// connect call ends.
    pub(crate) fn cancel(&self) -> bool {
        let mut state = self.lock();
        self.cancelled.store(true, Ordering::Release);
        state.waker = None;
        // Shut the socket down while the lock is held. After `detach`, another stream may use the
        // socket.
        if let Some(socket) = state.socket.take().and_then(|socket| socket.upgrade()) {
            socket.shutdown();
        }
        state.phase != Phase::Connecting
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Returns a receiver that a cancel disconnects. Nothing is ever sent to it.
    pub(crate) fn woken(&self) -> &Receiver<()> {
        &self.woken
    }

    /// Marks the start of the operating system's connect call.
    ///
    /// Returns false if the request was already cancelled. In that case, `cancel` has returned
    /// true, which promises that the thread wakes at once. The thread must therefore not begin a
    /// call that nothing can interrupt.
    pub(crate) fn begin_connect(&self) -> bool {
        let mut state = self.lock();
        if self.is_cancelled() {
            return false;
        }
        state.phase = Phase::Connecting;
        true
    }

    pub(crate) fn end_connect(&self) {
        let mut state = self.lock();
        // The bytes sent so far went to a proxy, or to an earlier connection that was closed.
        (state.sent, state.reused) = (false, false);
        if state.phase == Phase::Connecting {
            state.phase = Phase::Idle;
        }
    }

    /// Sets the socket that the request uses from now on.
    ///
    /// Returns false if the request was already cancelled. The request must then not use the
    /// socket.
    pub(crate) fn attach(&self, socket: &Weak<dyn ShutdownHandle>) -> bool {
        let mut state = self.lock();
        if self.is_cancelled() {
            return false;
        }
        state.socket = Some(socket.clone());
        state.phase = Phase::Open;
        true
    }

    /// Removes the socket, because the connection is about to return to the pool.
    pub(crate) fn detach(&self) {
        let mut state = self.lock();
        state.socket = None;
        state.phase = Phase::Idle;
    }

    /// Starts the first attempt of the request, or another attempt.
    pub(crate) fn begin(&self, wait: Option<Wait>) {
        let mut state = self.lock();
        (state.sent, state.reused, state.wait) = (false, false, wait);
        state.began = Instant::now();
    }

    /// Returns the time at which the request, or its current attempt, started.
    pub(crate) fn began(&self) -> Instant {
        self.lock().began
    }

    /// Marks the request as about to be sent.
    ///
    /// `reused` is true if its connection has served an earlier request.
    pub(crate) fn set_sent(&self, reused: bool) {
        let mut state = self.lock();
        (state.sent, state.reused) = (true, reused);
        self.answered.store(false, Ordering::Relaxed);
    }

    pub(crate) fn was_sent(&self) -> bool {
        self.lock().sent
    }

    pub(crate) fn set_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Returns true if the connection was reused and the server sent no byte on it.
    ///
    /// Most likely, the server had just closed the connection.
    pub(crate) fn was_stale(&self) -> bool {
        self.lock().reused && !self.answered.load(Ordering::Relaxed)
    }

    pub(crate) fn was_reused(&self) -> bool {
        self.lock().reused
    }

    pub(crate) fn count_stale_retry(&self) {
        self.lock().stale_retries += 1;
    }

    pub(crate) fn stale_retries(&self) -> u32 {
        self.lock().stale_retries
    }

    /// Sets one time limit for the next reads and writes together.
    pub(crate) fn set_wait(&self, wait: Option<Wait>) {
        self.lock().wait = wait;
    }

    pub(crate) fn wait(&self) -> Option<Wait> {
        self.lock().wait
    }

    /// Starts the wait if needed, and returns the remaining time, or `None` without a limit.
    pub(crate) fn begin_wait(&self) -> Option<Duration> {
        let mut state = self.lock();
        let wait = state.wait.as_mut()?;
        let now = Instant::now();
        let left = wait.left(now);
        wait.since.get_or_insert(now);
        Some(left)
    }

    pub(crate) fn set_wait_is_nearest(&self, nearest: bool) {
        self.lock().wait_is_nearest = nearest;
    }

    /// Returns the wait if its limit was the nearest timer of the last step.
    ///
    /// The function does not read the clock, because a connect call may return slightly before its
    /// limit.
    pub(crate) fn nearest_wait(&self) -> Option<Wait> {
        let state = self.lock();
        state.wait.filter(|_| state.wait_is_nearest)
    }
}

debug_fields! { CancelSlot { cancelled } }

#[cfg(test)]
#[cfg(shuttle)]
pub(crate) mod shuttle;

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Socket(AtomicUsize);

    impl ShutdownHandle for Socket {
        fn shutdown(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn attachable() -> (Arc<Socket>, Weak<dyn ShutdownHandle>) {
        let socket = Arc::new(Socket::default());
        let weak: Weak<dyn ShutdownHandle> = Arc::<Socket>::downgrade(&socket);
        (socket, weak)
    }

    #[test]
    fn cancel_shuts_down_the_attached_socket_once_and_refuses_the_next() {
        let slot = CancelSlot::new();
        let (socket, weak) = attachable();
        assert!(slot.attach(&weak));
        assert!(slot.cancel() && slot.cancel());
        assert_eq!(socket.0.load(Ordering::Relaxed), 1);
        assert!(!slot.attach(&weak));
        assert!(slot.woken().recv().is_err());
    }

    #[test]
    fn cancel_leaves_a_socket_alone_that_returned_to_the_pool() {
        let slot = CancelSlot::new();
        let (socket, weak) = attachable();
        assert!(slot.attach(&weak));
        slot.detach();
        slot.cancel();
        assert_eq!(socket.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn cancel_reports_a_thread_that_is_blocked_in_connect() {
        let slot = CancelSlot::new();
        assert!(slot.begin_connect());
        assert!(!slot.cancel());
        slot.end_connect();
        assert!(slot.cancel());
        // During a TLS handshake, the shutdown of the socket wakes the thread.
        let slot = CancelSlot::new();
        let (_socket, weak) = attachable();
        assert!(slot.begin_connect() && slot.attach(&weak) && slot.cancel());
        // After a cancel, the thread must not connect, because `cancel` has promised that the
        // thread wakes.
        assert!(!slot.begin_connect());
        assert!(slot.cancel());
    }
}
