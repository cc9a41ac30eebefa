//! The load: several streams at a time, each on a thread that receives its tokens like a user's
//! program.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokenwire::{ApiClient, CompletionRequest, Error, StreamReport, StreamToken};

use super::figures::{Figures, Sample};
use crate::commands::workers::{Worker, Workers, lock};
use crate::exit::Failure;
use crate::output::trace::Traces;

/// A function that makes a request from its number, which counts from 0.
pub(crate) type MakeRequest<'a> = &'a (dyn Fn(u64) -> CompletionRequest + Sync);

/// A running or finished load.
pub(crate) struct Load {
    requests: u64,
    started: Instant,
    next: AtomicU64,
    workers: Workers,
    figures: Mutex<Figures>,
    traces: Option<Arc<Traces>>,
}

/// The contents of the live line.
pub(crate) struct Progress {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) tokens: u64,
    pub(crate) elapsed: Duration,
}

impl Load {
    pub(crate) fn new(streams: usize, requests: u64, traces: Option<Arc<Traces>>) -> Arc<Self> {
        Arc::new(Self {
            requests,
            started: Instant::now(),
            next: AtomicU64::new(0),
            workers: Workers::new(streams),
            figures: Mutex::new(Figures::new()),
            traces,
        })
    }

    /// Runs the load. Blocks until all requests are done or the load is stopped.
    ///
    /// Calls `look` ten times a second.
    pub(crate) fn run(
        &self,
        client: &ApiClient,
        request: MakeRequest<'_>,
        mut look: impl FnMut(&Progress),
    ) -> Result<Figures, Failure> {
        let mut failure = None;
        let failed = |error| {
            failure = Some(error);
            self.stop();
        };
        self.workers.run(|worker| self.fill(worker, client, request), failed, || look(&self.progress()));
        failure.map_or(Ok(()), Err)?;
        let mut figures = std::mem::take(&mut *lock(&self.figures));
        figures.elapsed = self.started.elapsed();
        Ok(figures)
    }

    /// Stops the load at once: cancels the running streams and sends no more requests.
    pub(crate) fn stop(&self) {
        self.workers.stop();
    }

    fn progress(&self) -> Progress {
        let figures = lock(&self.figures);
        Progress {
            done: figures.done(),
            failed: figures.failed,
            tokens: self.workers.tokens(),
            elapsed: self.started.elapsed(),
        }
    }

    /// Runs one stream after the other until no request is left.
    fn fill(&self, worker: &Worker, client: &ApiClient, request: MakeRequest<'_>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests || self.workers.is_stopping() {
                return;
            }
            let (sample, report) = self.stream(worker, client, number, request(number));
            lock(&self.figures).add(sample, &report, self.started);
        }
    }

    fn stream(
        &self,
        worker: &Worker,
        client: &ApiClient,
        number: u64,
        request: CompletionRequest,
    ) -> (Sample, Result<StreamReport, Error>) {
        let mut sample = Sample::new(Instant::now());
        let traces = self.traces.as_deref();
        let mut lane = traces.and_then(|traces| traces.begin(number, number + 1));
        let mut received = |item: &StreamToken| {
            let now = Instant::now();
            sample.token(now, item);
            if let Some(lane) = &mut lane {
                lane.item(now, item);
            }
            if sample.is_full() {
                lock(&self.figures).take_gaps(&mut sample, self.started);
            }
        };
        let report = self.follow(worker, client, request, &mut received);
        if let (Some(traces), Some(lane)) = (traces, lane) {
            traces.keep(lane.ended(report.as_ref()));
        }
        (sample, report)
    }

    /// Passes each item of a stream to `received`.
    fn follow(
        &self,
        worker: &Worker,
        client: &ApiClient,
        request: CompletionRequest,
        received: &mut impl FnMut(&StreamToken),
    ) -> Result<StreamReport, Error> {
        let (tokens, guard) = client.stream(request)?;
        self.workers.begin(worker, guard.canceller());
        for item in &tokens {
            if !matches!(item, StreamToken::Done { .. } | StreamToken::Error(_)) {
                received(&item);
                worker.received();
            }
        }
        worker.end();
        Ok(guard.join())
    }
}
