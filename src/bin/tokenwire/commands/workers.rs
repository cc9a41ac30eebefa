//! Worker threads for `bench` and `batch`. Each one runs one stream after the other. All of them
//! can be stopped at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::{RecvTimeoutError, bounded};
use tokenwire::Canceller;

use crate::exit::Failure;

/// The interval between calls of `look`.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(crate) struct Workers {
    stopping: AtomicBool,
    workers: Vec<Worker>,
}

#[derive(Default)]
pub(crate) struct Worker {
    /// Cancels the running stream of this worker, if there is one.
    running: Mutex<Option<Canceller>>,
    /// The number of items received. Only this worker's thread writes the number, so that cores do
    /// not compete for it.
    tokens: AtomicU64,
}

impl Workers {
    pub(crate) fn new(count: usize) -> Self {
        Self { stopping: AtomicBool::new(false), workers: (0..count).map(|_| Worker::default()).collect() }
    }

    /// Runs `work` on one thread for each worker, and blocks until all of them have returned.
    ///
    /// Until then, it calls `look` ten times a second. If a thread cannot start, `failed` is called
    /// and must stop the other threads.
    pub(crate) fn run(
        &self,
        work: impl Fn(&Worker) + Sync,
        failed: impl FnOnce(Failure),
        mut look: impl FnMut(),
    ) {
        thread::scope(|scope| {
            // Nothing is sent on this channel. It disconnects when the last worker drops its
            // sender.
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

    /// Cancels all running streams, and every stream that begins later.
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

    /// Records that `worker` runs a stream.
    ///
    /// If `stop` runs at the same time, then either `stop` or this thread cancels the stream.
    pub(crate) fn begin(&self, worker: &Worker, canceller: Canceller) {
        *lock(&worker.running) = Some(canceller.clone());
        if self.is_stopping() {
            canceller.cancel();
        }
    }

    /// Returns the number of items that all workers have received.
    pub(crate) fn tokens(&self) -> u64 {
        self.workers.iter().map(|worker| worker.tokens.load(Ordering::Relaxed)).sum()
    }
}

impl Worker {
    /// Records that the worker's stream has ended.
    pub(crate) fn end(&self) {
        *lock(&self.running) = None;
    }

    /// Counts an item.
    pub(crate) fn received(&self) {
        self.tokens.store(self.tokens.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

pub(crate) fn no_thread(error: &io::Error) -> Failure {
    Failure::Machine(format!("cannot start a thread: {error}"))
}

/// Locks a mutex. No code that can panic runs under the lock, so it is never poisoned.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
