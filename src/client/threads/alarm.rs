//! Runs functions (alarms) at a set time, for threads that cannot act at that time.
//!
//! For example, a thread cannot act while it is blocked in a write. A thread that does not exist
//! yet cannot act either.
//!
//! All alarms of a client share one thread, which exists only while it is needed. An alarm that is
//! set and cancelled in time costs only a lock and a map entry. A new alarm wakes the thread only
//! if it is earlier than all other alarms.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::sync::{Condvar, Mutex, MutexGuard, thread};
use crate::error::macros::debug_fields;

/// Limits the sleep of the thread. Without an alarm, the thread ends after this time.
const MAX_SLEEP: Duration = Duration::from_secs(10);
/// The stack size of the thread. It equals the stack size of a reader thread, because an alarm may
/// run the end of a stream.
const STACK_BYTES: usize = 512 << 10;

/// The handle of the alarms.
///
/// When the handle is dropped, the thread ends. It ends at once if no alarm is set, and otherwise
/// after the last alarm.
pub(crate) struct Alarms(Arc<Inner>);

/// An alarm that is set. Dropping it cancels the alarm.
pub(crate) struct Alarm {
    alarms: Arc<Inner>,
    key: Key,
}

/// The time of an alarm, and a number that distinguishes alarms with the same time.
type Key = (Instant, u64);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    set: BTreeMap<Key, Box<dyn FnOnce() + Send>>,
    next: u64,
    /// The time at which the sleep of the thread ends. `None` if no thread is running.
    sleeps: Option<Instant>,
    closed: bool,
}

impl Alarms {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Arc::default()))
    }

    /// Sets an alarm, which runs `ring` at the time `at` on the thread of the alarms.
    ///
    /// `ring` must be short, because the other alarms wait for it. Returns `None` if the thread
    /// cannot be started.
    pub(crate) fn set(&self, at: Instant, ring: impl FnOnce() + Send + 'static) -> Option<Alarm> {
        let mut state = self.0.lock();
        let is_nearer = match state.sleeps {
            Some(until) => at < until,
            None => {
                self.0.start_thread().ok()?;
                state.sleeps = Some(at);
                false
            }
        };
        let key = (at, state.next);
        state.next += 1;
        state.set.insert(key, Box::new(ring));
        drop(state);
        if is_nearer {
            self.0.changed.notify_one();
        }
        Some(Alarm { alarms: self.0.clone(), key })
    }
}

impl Drop for Alarms {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl Alarm {
    /// Cancels the alarm.
    ///
    /// Returns false if the alarm is due. Its function then runs now or has already run.
    pub(crate) fn take_back(self) -> bool {
        self.alarms.remove(self.key)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.alarms.remove(self.key);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Alarms run outside the lock, so no code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, key: Key) -> bool {
        let mut state = self.lock();
        let ring = state.set.remove(&key);
        let is_over = state.closed && state.set.is_empty();
        drop(state);
        if is_over {
            self.changed.notify_one();
        }
        ring.is_some()
    }

    fn start_thread(self: &Arc<Self>) -> std::io::Result<()> {
        let alarms = self.clone();
        let builder = thread::Builder::new().name("tokenwire-alarm".to_owned()).stack_size(STACK_BYTES);
        builder.spawn(move || alarms.watch()).map(drop)
    }

    fn watch(&self) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let first = state.set.first_key_value().map(|((at, _), _)| *at);
            if first.is_some_and(|at| at <= now) {
                let ring = state.set.pop_first();
                drop(state);
                // A panic is a bug, but it must not affect the other alarms. The panic hook has
                // printed it.
                let _ = catch_unwind(AssertUnwindSafe(|| ring.map(|(_, ring)| ring())));
                state = self.lock();
                continue;
            }
            if first.is_none() && state.closed {
                break;
            }
            let latest = now + MAX_SLEEP;
            let until = first.map_or(latest, |at| at.min(latest));
            state.sleeps = Some(until);
            let slept = self.changed.wait_timeout(state, until - now);
            let (woken, wait) = slept.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if wait.timed_out() && state.set.is_empty() {
                break;
            }
        }
        state.sleeps = None;
    }
}

debug_fields! { Alarms {} }

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use crossbeam_channel::unbounded;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn threads_end(inner: &Inner, within: Duration) {
        let end = Instant::now() + within;
        while inner.lock().sleeps.is_some() {
            assert!(Instant::now() < end, "the thread did not end");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn alarms_ring_in_order_of_time_unless_taken_back() {
        let alarms = Alarms::new();
        let (rings, rung) = unbounded();
        let now = Instant::now();
        let set = |millis| {
            let rings = rings.clone();
            alarms.set(now + Duration::from_millis(millis), move || rings.send(millis).unwrap()).unwrap()
        };
        // The alarms that are set after `far` are due earlier than `far`. The panic of one alarm
        // must not affect the other alarms.
        let far = set(3_600_000);
        let kept = [set(90), set(60), set(0), set(120)];
        let bug = alarms.set(now, || std::panic::resume_unwind(Box::new("a bug"))).unwrap();
        drop(set(100));
        assert!(set(80).take_back());
        for millis in [0, 60, 90, 120] {
            assert_eq!(rung.recv_timeout(LONG), Ok(millis));
            assert!(now.elapsed() >= Duration::from_millis(millis));
        }
        assert!(kept.into_iter().all(|alarm| !alarm.take_back()) && !bug.take_back(), "they have rung");
        assert!(far.take_back());
        assert!(rung.is_empty() && alarms.0.lock().set.is_empty());
    }

    #[test]
    fn the_thread_ends_with_the_handle_or_after_the_last_alarm() {
        let soon = MAX_SLEEP / 2;
        let alarms = Alarms::new();
        let inner = alarms.0.clone();
        assert!(inner.lock().sleeps.is_none(), "a thread without an alarm");
        drop(alarms.set(Instant::now() + LONG, || {}));
        assert!(inner.lock().sleeps.is_some());
        let left = alarms.set(Instant::now() + LONG, || {});
        drop(alarms);
        assert!(inner.lock().sleeps.is_some(), "the thread ended before its alarm");
        drop(left);
        threads_end(&inner, soon);

        let alarms = Alarms::new();
        let inner = alarms.0.clone();
        drop(alarms.set(Instant::now() + LONG, || {}));
        drop(alarms);
        threads_end(&inner, soon);
    }
}
