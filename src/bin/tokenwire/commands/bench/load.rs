//! The load: several streams at a time, each on a thread that receives its tokens like a user's
//! program.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokenwire::{ApiClient, CompletionRequest, Error, StreamReport, StreamToken};

use super::figures::{Figures, Sample};
use crate::commands::workers::{Worker, Workers, lock};
use crate::exit::Failure;
use crate::output::text::more;
use crate::output::trace::{Lane, Traces};

/// A function that makes a request from its number, which counts from 0.
pub(crate) type MakeRequest<'a> = &'a (dyn Fn(u64) -> CompletionRequest + Sync);

/// A running or finished load.
pub(crate) struct Load {
    requests: u64,
    started: Instant,
    next: AtomicU64,
    workers: Workers,
    figures: Mutex<Figures>,
    traces: Traces,
}

impl Load {
    pub(crate) fn new(streams: usize, requests: u64, traces: Traces) -> Arc<Self> {
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
        mut look: impl FnMut(&Self),
    ) -> Result<Figures, Failure> {
        let mut failure = None;
        let failed = |error| {
            failure = Some(error);
            self.stop();
        };
        self.workers.run(|worker| self.fill(worker, client, request), failed, || look(self));
        failure.map_or(Ok(()), Err)?;
        let mut figures = std::mem::take(&mut *lock(&self.figures));
        figures.elapsed = self.started.elapsed();
        Ok(figures)
    }

    /// Stops the load at once: cancels the running streams and sends no more requests.
    pub(crate) fn stop(&self) {
        self.workers.stop();
    }

    /// Returns `[12 of 200 requests, 1 failed, 2100 tokens, 410 tokens/s]`.
    pub(crate) fn live_line(&self) -> String {
        let (done, failed) = {
            let figures = lock(&self.figures);
            (figures.done(), more(figures.failed, "failed", "failed"))
        };
        let (tokens, requests) = (self.workers.tokens(), self.requests);
        let rate = tokens as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        format!("[{done} of {requests} requests{failed}, {tokens} tokens, {rate:.0} tokens/s]")
    }

    /// Draws the picture of the streams, if one was requested.
    pub(crate) fn draw(&self) -> Result<(), Failure> {
        self.traces.draw(self.requests)
    }

    /// Runs one stream after the other until no request is left.
    fn fill(&self, worker: &Worker, client: &ApiClient, request: MakeRequest<'_>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests || self.workers.is_stopping() {
                return;
            }
            let mut sample = Sample::new(Instant::now());
            let mut lane = self.traces.begin(number, || (number + 1).to_string());
            let report = self.stream(worker, client, request(number), &mut sample, lane.as_mut());
            self.traces.keep(lane, report.as_ref());
            lock(&self.figures).add(sample, &report);
        }
    }

    fn stream(
        &self,
        worker: &Worker,
        client: &ApiClient,
        request: CompletionRequest,
        sample: &mut Sample,
        mut lane: Option<&mut Lane>,
    ) -> Result<StreamReport, Error> {
        let (tokens, guard) = client.stream(request)?;
        self.workers.begin(worker, guard.canceller());
        for item in &tokens {
            if matches!(item, StreamToken::Done { .. } | StreamToken::Error(_)) {
                continue;
            }
            let now = Instant::now();
            sample.token(now, &item);
            if let Some(lane) = &mut lane {
                lane.item(now, &item);
            }
            if sample.is_full() {
                lock(&self.figures).take_gaps(sample);
            }
            worker.received();
        }
        worker.end();
        Ok(guard.join())
    }
}
