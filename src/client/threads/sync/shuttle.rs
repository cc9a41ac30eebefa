//! Adds what shuttle lacks: waits with timeouts, crossbeam's channels, and a loop that runs models.

use std::cell::Cell;
use std::sync::{LockResult, PoisonError};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, MaxSteps, Runner};

use super::{MutexGuard, thread};

/// The number of random schedules per model.
const SCHEDULES: usize = 10_000;
/// The number of schedules per model that PCT (probabilistic concurrency testing) makes.
///
/// PCT rarely switches between threads. It finds bugs that need only a few switches, if these
/// switches happen at the right places.
const SCHEDULES_PCT: usize = 2_500;
/// Limits how often PCT switches between threads in one run.
const CHANGES: usize = 4;
/// Limits the steps of a run. A run with more steps counts as endless and fails.
const MAX_STEPS: usize = 20_000;
/// The stack size of each thread.
///
/// In a debug build, building a client needs more stack than shuttle's default of 32 KiB.
const STACK_BYTES: usize = 256 << 10;

thread_local! {
    static TIMED: Cell<bool> = const { Cell::new(true) };
}

/// How waits with a time limit end in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limits {
    /// The time limit may end a wait at any moment.
    Pass,
    /// The time limit never ends a wait, so an event must end the wait.
    NeverPass,
}

/// Runs `model` under many schedules.
pub(crate) fn check(limits: Limits, model: impl Fn() + Send + Sync + Clone + 'static) {
    TIMED.set(limits == Limits::Pass);
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.max_steps = MaxSteps::FailAfter(MAX_STEPS);
    config.silence_warnings = true;
    Runner::new(RandomScheduler::new(SCHEDULES), config.clone()).run(model.clone());
    Runner::new(PctScheduler::new(CHANGES, SCHEDULES_PCT), config).run(model);
}

/// Returns a number below `end`, which the schedule chooses.
pub(crate) fn any(end: usize) -> usize {
    thread_rng().gen_range(0..end)
}

/// Waits for a condition that no lock or channel signals.
pub(crate) fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        thread::yield_now();
    }
}

/// A condition variable. A wait with a time limit ends only when the variable is notified.
///
/// The wait then reports at random whether it timed out. A model therefore calls `notify_all` to
/// make time pass.
#[derive(Debug, Default)]
pub(crate) struct Condvar(shuttle::sync::Condvar);

pub(crate) struct WaitTimeoutResult(bool);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _limit: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let guard = self.0.wait(guard).unwrap_or_else(PoisonError::into_inner);
        Ok((guard, WaitTimeoutResult(TIMED.get() && any(2) == 0)))
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

/// The part of crossbeam's channels that tokenwire uses.
///
/// A bounded channel is unbounded in this module, because the models send nothing through bounded
/// channels.
pub(crate) mod channel {
    use std::collections::VecDeque;
    use std::sync::{Arc, PoisonError};
    use std::time::Duration;

    pub(crate) use crossbeam_channel::{RecvError, RecvTimeoutError, SendError, TryRecvError};

    use super::{Condvar, TIMED};
    use crate::client::threads::sync::{Mutex, MutexGuard, thread};

    #[derive(Debug)]
    struct Shared<T> {
        state: Mutex<State<T>>,
        changed: Condvar,
    }

    #[derive(Debug)]
    struct State<T> {
        items: VecDeque<T>,
        senders: usize,
        /// True while a receiver exists.
        receiving: bool,
    }

    impl<T> Shared<T> {
        fn lock(&self) -> MutexGuard<'_, State<T>> {
            // Shuttle poisons a lock that an unwinding thread has locked and unlocked.
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    pub(crate) struct Sender<T>(Arc<Shared<T>>);

    // This type is public because public signatures contain it.
    #[derive(Debug)]
    pub struct Receiver<T>(Arc<Shared<T>>);

    pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        let state = State { items: VecDeque::new(), senders: 1, receiving: true };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        (Sender(shared.clone()), Receiver(shared))
    }

    pub(crate) fn bounded<T>(_max: usize) -> (Sender<T>, Receiver<T>) {
        unbounded()
    }

    impl<T> Sender<T> {
        pub(crate) fn send(&self, item: T) -> Result<(), SendError<T>> {
            let mut state = self.0.lock();
            if !state.receiving {
                return Err(SendError(item));
            }
            state.items.push_back(item);
            drop(state);
            self.0.changed.notify_one();
            Ok(())
        }

        pub(crate) fn len(&self) -> usize {
            self.0.lock().items.len()
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            self.0.lock().senders += 1;
            Self(self.0.clone())
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.lock().senders -= 1;
            self.0.changed.notify_all();
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn len(&self) -> usize {
            self.0.lock().items.len()
        }

        pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
            let mut state = self.0.lock();
            match state.items.pop_front() {
                Some(item) => Ok(item),
                None if state.senders > 0 => Err(TryRecvError::Empty),
                None => Err(TryRecvError::Disconnected),
            }
        }

        pub(crate) fn recv(&self) -> Result<T, RecvError> {
            let mut state = self.0.lock();
            loop {
                if let Some(item) = state.items.pop_front() {
                    return Ok(item);
                }
                if state.senders == 0 {
                    return Err(RecvError);
                }
                state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }

        pub(crate) fn recv_timeout(&self, _limit: Duration) -> Result<T, RecvTimeoutError> {
            if !TIMED.get() {
                return self.recv().map_err(|_| RecvTimeoutError::Disconnected);
            }
            thread::yield_now();
            self.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            })
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            // Take the items out and release the lock first, because dropping an item may be a step
            // of the model.
            let items = {
                let mut state = self.0.lock();
                state.receiving = false;
                std::mem::take(&mut state.items)
            };
            drop(items);
        }
    }
}
