//! The load: so many streams at a time, each on a thread that takes its tokens as a program would.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use tokenwire::{ApiClient, Canceller, CompletionRequest, Limits, StreamToken};

use super::figures::{Figures, Sample};
use crate::Failure;
use crate::trace::{Trace, Traces};

/// How often the one who waits for the end is asked to look.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The threads that take tokens only count them.
const STACK_BYTES: usize = 256 << 10;

/// What one stream after the other asks for.
pub(crate) type MakeRequest<'a> = &'a (dyn Fn(u64) -> CompletionRequest + Sync);

/// A load that runs, or has run.
pub(crate) struct Load {
    requests: u64,
    started: Instant,
    next: AtomicU64,
    stopping: AtomicBool,
    places: Vec<Place>,
    figures: Mutex<Figures>,
    traces: Option<Traces>,
}

/// One of the streams that run at a time.
#[derive(Default)]
struct Place {
    running: Mutex<Option<Canceller>>,
    /// Received here so far, for the live line: this thread alone writes it.
    tokens: AtomicU64,
}

/// What stands in the live line.
pub(crate) struct Progress {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) tokens: u64,
    pub(crate) elapsed: Duration,
}

/// The limits of a client that is to have so many streams.
pub(crate) fn limits(streams: usize) -> Limits {
    let mut limits = Limits::default();
    limits.max_streams = limits.max_streams.max(streams);
    limits.max_idle_connections = limits.max_idle_connections.max(streams);
    limits
}

impl Load {
    pub(crate) fn new(streams: usize, requests: u64, traces: Option<Traces>) -> Arc<Self> {
        Arc::new(Self {
            requests,
            started: Instant::now(),
            next: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            places: (0..streams).map(|_| Place::default()).collect(),
            figures: Mutex::default(),
            traces,
        })
    }

    /// Runs it to its end, or until it is stopped; `look` is called now and then. Blocks.
    pub(crate) fn run(
        &self,
        client: &ApiClient,
        request: MakeRequest<'_>,
        mut look: impl FnMut(&Progress),
    ) -> Result<Figures, Failure> {
        thread::scope(|scope| {
            // Nothing is ever sent: that the last sender is gone is the end.
            let (running, ended) = bounded::<()>(0);
            let start = |place| {
                let (thread, running) = (thread::Builder::new().stack_size(STACK_BYTES), running.clone());
                thread.spawn_scoped(scope, move || self.fill(place, client, request, running)).map(drop)
            };
            let started = self.places.iter().try_for_each(start);
            if started.is_err() {
                self.stop();
            }
            drop(running);
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK_EVERY) {
                look(&self.progress());
            }
            started.map_err(|error| Failure::Machine(format!("no thread for a stream: {error}")))
        })?;
        let mut figures = std::mem::take(&mut *lock(&self.figures));
        figures.elapsed = self.started.elapsed();
        Ok(figures)
    }

    /// Ends it now: what runs is cancelled, nothing more is sent.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for place in &self.places {
            if let Some(canceller) = &*lock(&place.running) {
                canceller.cancel();
            }
        }
    }

    fn progress(&self) -> Progress {
        let figures = lock(&self.figures);
        Progress {
            done: figures.done(),
            failed: figures.failed,
            tokens: self.places.iter().map(|place| place.tokens.load(Ordering::Relaxed)).sum(),
            elapsed: self.started.elapsed(),
        }
    }

    /// One stream after the other, as long as there are requests.
    fn fill(&self, place: &Place, client: &ApiClient, request: MakeRequest<'_>, _running: Sender<()>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests || self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let sample = self.stream(place, client, number, request(number));
            lock(&self.figures).add(sample, self.started);
        }
    }

    fn stream(&self, place: &Place, client: &ApiClient, number: u64, request: CompletionRequest) -> Sample {
        let mut sample = Sample::new(Instant::now());
        let mut trace =
            self.traces.as_ref().map_or_else(Trace::none, |traces| traces.begin(number, number + 1));
        let (tokens, guard) = match client.stream(request) {
            Ok(stream) => stream,
            Err(error) => {
                trace.refused(&error);
                return sample.refused(error);
            }
        };
        *lock(&place.running) = Some(guard.canceller());
        // Whoever stops it has seen either the flag unset and then this stream, or this thread sees the flag.
        if self.stopping.load(Ordering::SeqCst) {
            guard.cancel();
        }
        let mut seen = place.tokens.load(Ordering::Relaxed);
        for item in &tokens {
            if let StreamToken::Done { .. } | StreamToken::Error(_) = item {
                continue;
            }
            let now = Instant::now();
            sample.token(now, &item);
            trace.item(now, &item);
            if sample.is_full() {
                lock(&self.figures).take_gaps(&mut sample, self.started);
            }
            seen += 1;
            place.tokens.store(seen, Ordering::Relaxed);
        }
        *lock(&place.running) = None;
        let report = guard.join();
        trace.ended(&report);
        sample.ended(report)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
