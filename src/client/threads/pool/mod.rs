//! The pool of reader threads. Each running stream has one named thread of the pool.
//!
//! Blocking reads need one thread per stream. The pool limits the number of threads, because this
//! library runs inside other programs. It also reuses threads, because starting a thread for each
//! stream would cost time. A thread ends when it has been idle for a while.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::alarm::{Alarm, Alarms};
use super::sync::{Condvar, Mutex, MutexGuard, thread};
use crate::config::{Limits, WhenFull};
use crate::error::{Error, ErrorKind, Limit};

/// Limits how long an idle reader thread waits for another stream. Then the thread ends.
const MAX_IDLE: Duration = Duration::from_secs(10);
/// The stack size of a reader thread. Unused stack is address space, not memory.
///
/// In tests, a TLS handshake and JSON with 127 levels used 48 KiB in a release build and 256 KiB in
/// a debug build. The rest of the stack is for RSA certificate chains, the backtrace of a panic,
/// and the log sink of the program.
const STACK_BYTES: usize = 512 << 10;

type Job = Box<dyn FnOnce(&ThreadSlot<'_>) + Send>;

/// A handle that a job uses to communicate with the pool.
pub(crate) struct ThreadSlot<'a> {
    pool: &'a Inner,
    late: bool,
    ending: Cell<bool>,
}

impl ThreadSlot<'_> {
    /// Returns true if the job has waited in the queue for too long.
    ///
    /// Such a job runs on a thread outside the pool. It must end without any wait.
    pub(crate) fn is_late(&self) -> bool {
        self.late
    }

    /// Marks the job as complete except for its cleanup.
    ///
    /// [`WhenFull::Fail`] then no longer counts the job. A caller that has seen the end of a stream
    /// may therefore start the next stream.
    pub(crate) fn ending(&self) {
        if !self.late && !self.ending.replace(true) {
            self.pool.lock().ending += 1;
        }
    }
}

/// Identifies a job in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueEntry(u64);

/// The handle of the pool.
///
/// When the handle is dropped, idle threads end at once, and busy threads end with their streams.
pub(crate) struct ReaderPool(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    max_threads: usize,
    max_waiting: usize,
    when_full: WhenFull,
    /// Limits the time that a job waits in the queue.
    max_wait: Option<Duration>,
    alarms: Arc<Alarms>,
}

struct Waiting {
    entry: QueueEntry,
    job: Job,
    /// The alarm that runs the job if it waits for too long. It is `None` if the wait has no limit.
    /// It is also `None` if a thread is idle or starting, because the job then does not wait long.
    _alarm: Option<Alarm>,
}

#[derive(Default)]
struct State {
    /// The jobs that no thread has started, oldest first.
    waiting: VecDeque<Waiting>,
    threads: usize,
    /// The number of new threads that have not taken a job yet. `waiting` contains a job for each
    /// of these threads.
    starting: usize,
    /// The number of threads that wait for a job.
    idle: usize,
    /// The number of threads whose job is complete except for its cleanup.
    ending: usize,
    next_entry: u64,
    closed: bool,
}

impl ReaderPool {
    /// Creates a pool without threads.
    ///
    /// The pool limits the number of threads and the number of jobs that wait in the queue. A job
    /// that has waited for `max_wait` runs [late](ThreadSlot::is_late).
    pub(crate) fn new(
        limits: &Limits,
        when_full: WhenFull,
        max_wait: Option<Duration>,
        alarms: Arc<Alarms>,
    ) -> Self {
        let (max_threads, max_waiting) = (limits.max_streams.max(1), limits.max_waiting_streams);
        let (state, changed) = (Mutex::default(), Condvar::new());
        Self(Arc::new(Inner { state, changed, max_threads, max_waiting, when_full, max_wait, alarms }))
    }

    /// Runs `job` on an idle thread, or on a new thread.
    ///
    /// If the maximum number of threads is busy, the job waits in the queue or is refused.
    pub(crate) fn run(
        &self,
        job: impl FnOnce(&ThreadSlot<'_>) + Send + 'static,
    ) -> Result<QueueEntry, Error> {
        let mut state = self.0.lock();
        let entry = QueueEntry(state.next_entry);
        state.next_entry += 1;
        let mut alarm = None;
        if state.idle <= state.waiting.len() {
            if state.threads < self.0.max_threads {
                if let Err(error) = self.0.start_thread(state.next_entry) {
                    return Err(Error::new(
                        ErrorKind::Limit(Limit::Streams),
                        "cannot start a thread for the stream",
                    )
                    .with_source(error));
                }
                state.threads += 1;
                state.starting += 1;
            } else if self.0.when_full == WhenFull::Fail && state.idle + state.ending <= state.waiting.len() {
                return Err(Error::limit(Limit::Streams, self.0.max_threads as u64));
            } else if state.waiting.len() >= self.0.max_waiting.saturating_add(state.idle + state.starting) {
                return Err(Error::limit(Limit::WaitingStreams, self.0.max_waiting as u64));
            } else {
                alarm = self.0.set_alarm(entry);
            }
        }
        state.waiting.push_back(Waiting { entry, job: Box::new(job), _alarm: alarm });
        drop(state);
        self.0.changed.notify_one();
        Ok(entry)
    }

    /// Removes a job that no thread has started.
    ///
    /// Returns false if the job is no longer in the queue.
    pub(crate) fn withdraw(&self, entry: QueueEntry) -> bool {
        self.0.take(entry).is_some()
    }
}

impl Drop for ReaderPool {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Jobs run outside the lock, so no code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_thread(self: &Arc<Self>, number: u64) -> std::io::Result<()> {
        let pool = self.clone();
        let name = format!("tokenwire-{number}");
        thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || pool.work()).map(drop)
    }

    fn take(&self, entry: QueueEntry) -> Option<Waiting> {
        let mut state = self.lock();
        let place = state.waiting.iter().position(|waiting| waiting.entry == entry);
        place.and_then(|place| state.waiting.remove(place))
    }

    /// Sets an alarm. The alarm runs the job late if the job is still in the queue after
    /// `max_wait`.
    fn set_alarm(self: &Arc<Self>, entry: QueueEntry) -> Option<Alarm> {
        let until = Instant::now().checked_add(self.max_wait?)?;
        let pool = Arc::downgrade(self);
        self.alarms.set(until, move || {
            let Some(pool) = pool.upgrade() else { return };
            let waiting = pool.take(entry);
            if let Some(Waiting { job, .. }) = waiting {
                job(&ThreadSlot { pool: &pool, late: true, ending: Cell::new(false) });
            }
        })
    }

    fn work(&self) {
        let mut state = self.lock();
        state.starting -= 1;
        loop {
            if let Some(Waiting { job, _alarm: alarm, .. }) = state.waiting.pop_front() {
                drop(state);
                drop(alarm);
                // A panic in a job is a bug. It may end one stream, but it must not change the
                // count of threads. The panic hook has already printed it.
                let slot = ThreadSlot { pool: self, late: false, ending: Cell::new(false) };
                let _ = catch_unwind(AssertUnwindSafe(|| job(&slot)));
                state = self.lock();
                state.ending -= usize::from(slot.ending.get());
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (woken, wait) =
                self.changed.wait_timeout(state, MAX_IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if wait.timed_out() && state.waiting.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

impl fmt::Debug for ReaderPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("ReaderPool")
            .field("threads", &state.threads)
            .field("idle", &state.idle)
            .field("waiting", &state.waiting.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
fn new_pool(max_threads: usize, when_full: WhenFull) -> ReaderPool {
    ReaderPool::new(&limits(max_threads, usize::MAX), when_full, None, Alarms::new())
}

#[cfg(test)]
fn limits(max_streams: usize, max_waiting_streams: usize) -> Limits {
    Limits { max_streams, max_waiting_streams, ..Limits::default() }
}

#[cfg(test)]
#[cfg(shuttle)]
mod shuttle;

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);
    const SOON: Duration = Duration::from_secs(6);

    /// Returns a job that reports its start. The job ends when the test releases it.
    fn job(
        name: u32,
        started: &Sender<u32>,
        go: &Receiver<()>,
    ) -> impl FnOnce(&ThreadSlot<'_>) + Send + use<> {
        let (started, go) = (started.clone(), go.clone());
        move |_: &ThreadSlot<'_>| {
            started.send(name).unwrap();
            let _ = go.recv();
        }
    }

    fn until(what: &str, within: Duration, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + within;
        while !done() {
            assert!(Instant::now() < end, "{what} did not happen");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn jobs_over_the_limit_wait_in_order_and_threads_are_reused() {
        let pool = new_pool(2, WhenFull::Wait);
        let ((started, starts), (go, gate)) = (unbounded(), bounded(0));
        for name in 0..5 {
            pool.run(job(name, &started, &gate)).unwrap();
        }
        let mut order: Vec<u32> = (0..2).map(|_| starts.recv_timeout(LONG).unwrap()).collect();
        order.sort_unstable();
        assert!(starts.recv_timeout(Duration::from_millis(20)).is_err(), "a third job ran at the same time");
        for _ in 0..3 {
            go.send(()).unwrap();
            order.push(starts.recv_timeout(LONG).unwrap());
        }
        assert_eq!(order, [0, 1, 2, 3, 4]);
        assert_eq!(pool.0.lock().threads, 2);
        drop(go);
        let inner = pool.0.clone();
        drop(pool);
        // The threads must end because the pool is dropped, not because their idle time is over.
        assert!(SOON < MAX_IDLE);
        until("the end of all threads", SOON, || inner.lock().threads == 0);
    }

    #[test]
    fn a_full_pool_refuses_jobs_with_fail_and_a_withdrawn_job_never_runs() {
        let ((started, starts), (go, gate)) = (unbounded(), bounded::<()>(0));
        let refusing = new_pool(1, WhenFull::Fail);
        refusing.run(job(0, &started, &gate)).unwrap();
        starts.recv_timeout(LONG).unwrap();
        let error = refusing.run(job(1, &started, &gate)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit(Limit::Streams));

        let waiting = new_pool(1, WhenFull::Wait);
        let first = waiting.run(job(2, &started, &gate)).unwrap();
        starts.recv_timeout(LONG).unwrap();
        let second = waiting.run(job(3, &started, &gate)).unwrap();
        assert!(!waiting.withdraw(first) && waiting.withdraw(second) && !waiting.withdraw(second));
        drop((go, refusing, waiting, started));
        assert_eq!(starts.into_iter().count(), 0);
    }

    #[test]
    fn max_waiting_jobs_wait_and_the_next_is_refused() {
        for max_waiting in [0, 1, 3] {
            let ((started, starts), (go, gate)) = (unbounded(), bounded::<()>(0));
            let pool = ReaderPool::new(&limits(2, max_waiting), WhenFull::Wait, None, Alarms::new());
            // The first two jobs do not count as waiting, even if their threads have not started
            // them yet.
            let entries: Vec<_> =
                (0..2 + max_waiting).map(|_| pool.run(job(0, &started, &gate)).unwrap()).collect();
            let error = pool.run(job(1, &started, &gate)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit(Limit::WaitingStreams), "{max_waiting}: {error}");
            if max_waiting > 0 {
                assert!(pool.withdraw(entries[1 + max_waiting]));
                pool.run(job(1, &started, &gate)).unwrap();
            }
            drop((go, pool, started));
            assert_eq!(starts.into_iter().count(), 2 + max_waiting);
        }
    }

    #[test]
    fn a_job_that_waits_for_too_long_runs_late_and_beside_the_others() {
        let ((started, starts), (go, gate)) = (unbounded(), bounded::<()>(0));
        let pool =
            ReaderPool::new(&limits(1, 9), WhenFull::Wait, Some(Duration::from_millis(30)), Alarms::new());
        pool.run(job(0, &started, &gate)).unwrap();
        assert_eq!(starts.recv_timeout(LONG), Ok(0));
        let (said, late) = unbounded();
        for name in 1..4 {
            let said = said.clone();
            pool.run(move |slot| {
                slot.ending();
                said.send((name, slot.is_late())).unwrap();
                // A panic in one job must not affect the other jobs.
                std::panic::resume_unwind(Box::new("a bug"));
            })
            .unwrap();
        }
        for name in 1..4 {
            assert_eq!(late.recv_timeout(LONG), Ok((name, true)));
        }
        // A job that started in time is not late, however long it runs.
        assert_eq!(pool.0.lock().ending, 0);
        drop(go);
        let (done, finished) = bounded(1);
        pool.run(move |slot| done.send(slot.is_late()).unwrap()).unwrap();
        assert_eq!(finished.recv_timeout(LONG), Ok(false));
    }

    #[test]
    fn one_idle_thread_does_not_keep_a_second_job_waiting() {
        let ((started, starts), (go, gate)) = (unbounded(), bounded::<()>(0));
        let pool = new_pool(2, WhenFull::Wait);
        pool.run(|_| {}).unwrap();
        until("an idle thread", LONG, || pool.0.lock().idle == 1);
        // The test submits the second job before the idle thread has taken the first job.
        for name in 0..2 {
            pool.run(job(name, &started, &gate)).unwrap();
        }
        for _ in 0..2 {
            starts.recv_timeout(LONG).expect("both run");
        }
        drop(go);
        let (done, finished) = bounded(1);
        new_pool(0, WhenFull::Wait).run(move |_| done.send(()).unwrap()).unwrap();
        finished.recv_timeout(LONG).expect("zero counts as one");
    }

    #[test]
    fn a_panicking_job_does_not_affect_the_next() {
        let pool = new_pool(1, WhenFull::Wait);
        pool.run(|_| std::panic::resume_unwind(Box::new("a bug"))).unwrap();
        let (done, finished) = bounded(1);
        pool.run(move |_| done.send(()).unwrap()).unwrap();
        finished.recv_timeout(LONG).unwrap();
    }
}
