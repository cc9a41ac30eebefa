//! The place where a stream's guard and its reader thread meet: cancelled or not, on which socket, until when.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::unversioned::transport::ShutdownHandle;
use crate::client::threads::sync::channel::{Receiver, Sender, bounded};
use crate::client::threads::sync::{AtomicBool, Mutex, MutexGuard};
use crate::error::Timer;

/// One per request. `cancel` may be called from any thread, at any time, any number of times; everything
/// else belongs to the thread that makes the request.
pub(crate) struct CancelSlot {
    cancelled: AtomicBool,
    state: Mutex<State>,
    /// A byte of the answer has come.
    answered: AtomicBool,
    /// Disconnected by a cancel. Whatever waits beside the socket (a name lookup, a pause before a retry, a
    /// full channel) selects on it.
    woken: Receiver<()>,
}

struct State {
    phase: Phase,
    /// Dropped to wake the receivers of `woken`.
    waker: Option<Sender<()>>,
    /// The socket in use: none before it is connected and after its connection went back to the pool.
    socket: Option<Weak<dyn ShutdownHandle>>,
    /// The request, or its beginning, was handed to a connection.
    sent: bool,
    /// That connection had served an earlier request.
    reused: bool,
    /// How often the request was sent anew because that connection had been closed.
    stale_retries: u32,
    /// When the request, or the attempt, began.
    began: Instant,
    wait: Option<Wait>,
    /// The wait ends before every timer of ureq's own: a timeout is its.
    wait_is_nearest: bool,
}

/// Where the request stands, as far as a cancel cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing is blocked in the operating system.
    Idle,
    /// Inside the operating system's connect, which cannot be interrupted: it ends with its own
    /// timer, and the connection is then refused to the request.
    Connecting,
    /// Reading or writing a socket that a cancel shuts down.
    Open,
}

/// The limit of the wait that the thread is about to begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    /// Since when it runs; `None`: from the first time that the socket has to be waited for. Such a wait
    /// begins with the same length each time, so that the socket's timeout need not be set anew for each read.
    since: Option<Instant>,
    pub(crate) limit: Duration,
    pub(crate) timer: Timer,
}

impl Wait {
    /// A limit that has been running since `since`.
    pub(crate) fn since(since: Instant, limit: Duration, timer: Timer) -> Self {
        Self { since: Some(since), limit, timer }
    }

    /// A limit that begins with the wait.
    pub(crate) fn each(limit: Duration, timer: Timer) -> Self {
        Self { since: None, limit, timer }
    }

    /// What is left at `now`.
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
        // Nothing panics while it holds this lock; if something did, the state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the request now: what is blocked in a read or write of the socket wakes, nothing is sent
    /// afterwards. Returns false if the thread is inside a connect and will only be back when that ends.
    pub(crate) fn cancel(&self) -> bool {
        let mut state = self.lock();
        self.cancelled.store(true, Ordering::Release);
        state.waker = None;
        // Under the lock: once `detach` has run, nobody can hit a socket that another stream now uses.
        if let Some(socket) = state.socket.take().and_then(|socket| socket.upgrade()) {
            socket.shutdown();
        }
        state.phase != Phase::Connecting
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Gets disconnected by a cancel; nothing is ever sent through it.
    pub(crate) fn woken(&self) -> &Receiver<()> {
        &self.woken
    }

    /// The thread is about to enter the operating system's connect. False if the request was cancelled before: that
    /// cancel has told its caller that the thread wakes, so it must not go where nothing can wake it.
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
        // What went out until now was for a proxy, or on a stale connection before this one.
        (state.sent, state.reused) = (false, false);
        if state.phase == Phase::Connecting {
            state.phase = Phase::Idle;
        }
    }

    /// The request now uses this socket. False if it was cancelled before: then it must not use it.
    pub(crate) fn attach(&self, socket: &Weak<dyn ShutdownHandle>) -> bool {
        let mut state = self.lock();
        if self.is_cancelled() {
            return false;
        }
        state.socket = Some(socket.clone());
        state.phase = Phase::Open;
        true
    }

    /// The connection is about to go back to the pool.
    pub(crate) fn detach(&self) {
        let mut state = self.lock();
        state.socket = None;
        state.phase = Phase::Idle;
    }

    /// A request begins, the first of this slot or another attempt.
    pub(crate) fn begin(&self, wait: Option<Wait>) {
        let mut state = self.lock();
        (state.sent, state.reused, state.wait) = (false, false, wait);
        state.began = Instant::now();
    }

    /// When the request, or this attempt at it, began.
    pub(crate) fn began(&self) -> Instant {
        self.lock().began
    }

    /// The request is about to go out; `reused`: on a connection that served an earlier one.
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

    /// The connection was an old one and brought nothing: most likely the server had just closed it.
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

    /// How long the next reads and writes may wait, together.
    pub(crate) fn set_wait(&self, wait: Option<Wait>) {
        self.lock().wait = wait;
    }

    pub(crate) fn wait(&self) -> Option<Wait> {
        self.lock().wait
    }

    /// What is left of the wait, which begins now if it had not begun; `None` without a limit.
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

    /// The wait, if it was what bounded the last step. The clock is not asked: a connect comes back a little early.
    pub(crate) fn nearest_wait(&self) -> Option<Wait> {
        let state = self.lock();
        state.wait.filter(|_| state.wait_is_nearest)
    }
}

impl fmt::Debug for CancelSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("CancelSlot")
            .field("cancelled", &self.is_cancelled())
            .field("phase", &state.phase)
            .field("wait", &state.wait)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, shuttle))]
pub(crate) mod shuttle;

#[cfg(all(test, not(shuttle)))]
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
    fn cancel_shuts_the_attached_socket_once_and_refuses_the_next() {
        let slot = CancelSlot::new();
        let (socket, weak) = attachable();
        assert!(slot.attach(&weak));
        assert!(slot.cancel() && slot.cancel());
        assert_eq!(socket.0.load(Ordering::Relaxed), 1);
        assert!(!slot.attach(&weak));
        assert!(slot.woken().recv().is_err());
    }

    #[test]
    fn cancel_spares_a_socket_that_went_back_to_the_pool() {
        let slot = CancelSlot::new();
        let (socket, weak) = attachable();
        assert!(slot.attach(&weak));
        slot.detach();
        slot.cancel();
        assert_eq!(socket.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn cancel_says_when_the_thread_is_stuck_in_connect() {
        let slot = CancelSlot::new();
        assert!(slot.begin_connect());
        assert!(!slot.cancel());
        slot.end_connect();
        assert!(slot.cancel());
        // In a handshake there is a socket that wakes it.
        let slot = CancelSlot::new();
        let (_socket, weak) = attachable();
        assert!(slot.begin_connect() && slot.attach(&weak) && slot.cancel());
        // One that came first keeps the thread out: it has told its caller that the thread wakes.
        assert!(!slot.begin_connect());
        assert!(slot.cancel());
    }
}
