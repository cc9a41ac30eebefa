//! The state that the guard of a stream and its reader thread share.
//!
//! The lock of [`Shared`] determines which of the two acts first. A cancel does not change an
//! ending that was already decided, and an ending does not replace an earlier cancel.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Instant;

use super::guard::StreamControl;
use super::report::{Outcome, StreamReport};
use crate::client::backend::Backend;
use crate::client::channel::sender::{Sink, TokenSender};
use crate::client::http::slot::CancelSlot;
use crate::client::threads::pool::QueueEntry;
use crate::client::threads::sync::{AtomicBool, Condvar, Mutex, MutexGuard};

/// The state that all requests of one stream share.
#[derive(Clone)]
pub(super) struct StreamContext {
    /// The time at which the stream was requested.
    pub(super) started: Instant,
    /// True after a join. From then on, the channel has no size limit.
    pub(super) bound_lifted: Arc<AtomicBool>,
}

impl Default for StreamContext {
    fn default() -> Self {
        Self { started: Instant::now(), bound_lifted: Arc::default() }
    }
}

pub(super) struct Shared {
    pub(super) backend: Arc<Backend>,
    pub(super) slot: Arc<CancelSlot>,
    /// The job in the pool. It is set before the caller gets the guard.
    pub(super) entry: OnceLock<QueueEntry>,
    /// True after a join. From then on, the channel has no size limit.
    pub(super) bound_lifted: Arc<AtomicBool>,
    /// The time at which the stream was requested. `began` is the time at which this request began.
    pub(super) started: Instant,
    pub(super) began: Instant,
    /// The server that received the last attempt.
    pub(super) route: AtomicUsize,
    pub(super) state: Mutex<State>,
    pub(super) ended: Condvar,
}

pub(super) struct State {
    /// The sender is present until the head of the response arrives, and between attempts.
    ///
    /// A cancel drops the sender while the thread is in a connect, because nothing can interrupt a
    /// connect.
    pub(super) sender: Option<TokenSender>,
    /// The report of the attempts so far, if one of these attempts returned the sender.
    pub(super) so_far: Option<StreamReport>,
    /// True if the thread or a cancel has decided how the stream ends.
    pub(super) settled: bool,
    pub(super) report: Option<StreamReport>,
}

impl Shared {
    pub(super) fn new(
        backend: &Arc<Backend>,
        sink: Sink,
        StreamContext { started, bound_lifted }: StreamContext,
    ) -> Arc<Self> {
        let limits = &backend.limits;
        let sender =
            TokenSender::new(sink, limits.max_channel_tokens, limits.max_channel_bytes, bound_lifted.clone());
        let state = State { sender: Some(sender), so_far: None, settled: false, report: None };
        let shared = Self {
            backend: backend.clone(),
            slot: CancelSlot::new(),
            entry: OnceLock::new(),
            bound_lifted,
            started,
            began: Instant::now(),
            route: AtomicUsize::new(0),
            state: Mutex::new(state),
            ended: Condvar::new(),
        };
        Arc::new(shared)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides the ending for the reader thread. Returns false if a cancel was first.
    pub(super) fn settle(&self) -> bool {
        !std::mem::replace(&mut self.lock().settled, true)
    }

    /// Drops the sender of a stream that could not get a thread.
    ///
    /// The caller receives the error, so nothing is sent to the consumer.
    pub(super) fn never_began(&self) {
        if let Some(sender) = self.take_sender() {
            sender.never_began();
        }
    }

    pub(super) fn take_sender(&self) -> Option<TokenSender> {
        self.lock().sender.take()
    }

    /// Takes the sender back for another attempt, unless a cancel came first.
    pub(super) fn give_back(&self, sender: Option<TokenSender>, so_far: StreamReport) {
        let mut state = self.lock();
        if !state.settled {
            state.so_far = Some(so_far);
            // The argument is `None` if the failed attempt had not taken the sender.
            state.sender = sender.or(state.sender.take());
        }
    }

    /// Sets the report once, after the channel has ended, and wakes every join.
    pub(super) fn publish(&self, report: StreamReport) {
        self.lock().report.get_or_insert(report);
        self.ended.notify_all();
    }
}

impl StreamControl for Shared {
    fn cancel(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.settled, true) {
            return;
        }
        let thread_wakes = self.slot.cancel();
        let withdrawn = self.entry.get().is_some_and(|entry| self.backend.pool.withdraw(*entry));
        if withdrawn || !thread_wakes {
            // The sender is dropped and the report is set under one lock. Otherwise, a thread that
            // returns from its connect could take the sender, and the report would be set before
            // the channel has ended.
            state.sender = None;
            let mut report = state.so_far.take().unwrap_or_else(|| StreamReport::new(Outcome::Cancelled));
            report.ending = Outcome::Cancelled;
            report.elapsed = self.started.elapsed();
            state.report = Some(report);
            self.ended.notify_all();
        }
    }

    fn join(&self) -> StreamReport {
        self.bound_lifted.store(true, Ordering::Release);
        let mut state = self.lock();
        loop {
            if let Some(report) = &state.report {
                return report.clone();
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn report(&self) -> Option<StreamReport> {
        self.lock().report.clone()
    }
}
