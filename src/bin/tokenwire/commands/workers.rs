//! Threads that run one stream after the other, for `bench` and `batch`: all of them are stopped at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::{RecvTimeoutError, bounded};
use tokenwire::Canceller;

use crate::exit::Failure;

/// How often `look` is called.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(crate) struct Workers {
    stopping: AtomicBool,
    workers: Vec<Worker>,
}

#[derive(Default)]
pub(crate) struct Worker {
    /// Cancels its stream, if one runs.
    running: Mutex<Option<Canceller>>,
    /// Items it has received. Only its own thread adds to them, so that no two cores contend.
    tokens: AtomicU64,
}

impl Workers {
    pub(crate) fn new(count: usize) -> Self {
        Self { stopping: AtomicBool::new(false), workers: (0..count).map(|_| Worker::default()).collect() }
    }

    /// Runs `work` on a thread for each worker, and calls `look` now and then until all have returned. Blocks. If a thread
    /// cannot be started, `failed` must stop the others.
    pub(crate) fn run(
        &self,
        work: impl Fn(&Worker) + Sync,
        failed: impl FnOnce(Failure),
        mut look: impl FnMut(),
    ) {
        thread::scope(|scope| {
            // Nothing is ever sent: the end is when the last sender is gone.
            let (running, ended) = bounded::<()>(0);
            let work = &work;
            let start = |worker| {
                let running = running.clone();
                let work = move || {
                    work(worker);
                    drop(running);
                };
                thread::Builder::new().spawn_scoped(scope, work).map(drop)
            };
            if let Err(error) = self.workers.iter().try_for_each(start) {
                failed(no_thread(&error));
            }
            drop(running);
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK_EVERY) {
                look();
            }
        });
    }

    /// Cancels every stream that runs, and every stream that begins from now on.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for worker in &self.workers {
            if let Some(canceller) = &*lock(&worker.running) {
                canceller.cancel();
            }
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Notes that `worker` runs a stream. Either `stop` sees the stream, or this thread sees that `stop` was called.
    pub(crate) fn begin(&self, worker: &Worker, canceller: Canceller) {
        *lock(&worker.running) = Some(canceller.clone());
        if self.is_stopping() {
            canceller.cancel();
        }
    }

    /// Items received by all workers.
    pub(crate) fn tokens(&self) -> u64 {
        self.workers.iter().map(|worker| worker.tokens.load(Ordering::Relaxed)).sum()
    }
}

impl Worker {
    /// Notes that its stream has ended.
    pub(crate) fn end(&self) {
        *lock(&self.running) = None;
    }

    /// Counts an item.
    pub(crate) fn received(&self) {
        self.tokens.store(self.tokens.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

pub(crate) fn no_thread(error: &io::Error) -> Failure {
    Failure::Machine(format!("no thread: {error}"))
}

/// The lock; no code that can panic runs under it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
