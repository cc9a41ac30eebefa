//! The work of a batch: so many streams at a time, each on a thread, their results handed on in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};
use serde_json::Value;
use tokenwire::{ApiClient, Canceller, CompletionRequest, Error, StreamReport, StreamToken};

use super::answer::{Answer, End};
use super::before::{Before, Taken};
use super::input::{Item, Items};
use super::results::Results;
use crate::trace::{Trace, Traces};
use crate::{Failure, turn};

/// How often the one who waits for the end is asked to look.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A stream may be so many prompts ahead of the first one that has no result yet.
const AHEAD_PER_STREAM: u64 = 16;
/// While the results that wait for their turn are larger than this, in bytes, no stream begins but the one they wait for.
const MAX_WAITING_BYTES: usize = 256 << 20;

/// What makes a request of a prompt.
pub(crate) type MakeRequest<'a> = &'a (dyn Fn(Item) -> Result<CompletionRequest, String> + Sync);

/// A batch that runs.
pub(crate) struct Work {
    pub(crate) started: Instant,
    /// Whole answers are asked for, not streams.
    whole: bool,
    ahead: u64,
    results: Mutex<Results>,
    /// A result was written, or the work is to stop.
    turn_came: Condvar,
    stopping: AtomicBool,
    /// Dropped when the work is to stop: wakes whoever waits for a prompt.
    stop: Mutex<Option<Sender<()>>>,
    stopped: Receiver<()>,
    places: Vec<Place>,
    tally: Mutex<Tally>,
    tokens: AtomicU64,
    /// The first thing that cannot be repaired: no output, no input, no thread.
    broken: Mutex<Option<Failure>>,
    traces: Option<Traces>,
    /// Streams begun, those of the picture among them.
    begun: AtomicU64,
}

/// A prompt, and the line of its result if there is one from before.
type Next = Result<(Item, Option<Vec<u8>>), Failure>;

/// One of the streams that run at a time.
type Place = Mutex<Option<Canceller>>;

/// What has come of it so far.
#[derive(Default, Clone)]
pub(crate) struct Tally {
    pub(crate) complete: u64,
    pub(crate) failed: u64,
    /// Ended by Ctrl-C: they have no result.
    pub(crate) given_up: u64,
    pub(crate) running: u64,
    pub(crate) retries: u64,
    pub(crate) resumes: u64,
    /// By kind: how many, and what the first of them said.
    pub(crate) errors: BTreeMap<&'static str, (u64, String)>,
}

impl Work {
    pub(crate) fn new(streams: usize, whole: bool, results: Results, traces: Option<Traces>) -> Arc<Self> {
        let (stop, stopped) = bounded(0);
        Arc::new(Self {
            started: Instant::now(),
            whole,
            ahead: streams as u64 * AHEAD_PER_STREAM,
            results: Mutex::new(results),
            turn_came: Condvar::new(),
            stopping: AtomicBool::new(false),
            stop: Mutex::new(Some(stop)),
            stopped,
            places: (0..streams).map(|_| Place::default()).collect(),
            tally: Mutex::default(),
            tokens: AtomicU64::new(0),
            broken: Mutex::default(),
            traces,
            begun: AtomicU64::new(0),
        })
    }

    /// Runs until all is done or it is stopped; `look` is called now and then. Blocks.
    pub(crate) fn run(
        &self,
        client: &ApiClient,
        items: Items,
        before: Before,
        request: MakeRequest<'_>,
        mut look: impl FnMut(&Self),
    ) -> Result<(), Failure> {
        let (prompts, next) = bounded(1);
        let reader = thread::Builder::new().name("tokenwire-input".to_owned());
        // Not joined: nothing wakes a thread that waits for standard input. It ends with the program.
        let reader = reader.spawn(move || read(items, before, &prompts));
        if let Err(error) = reader {
            self.fail(no_thread(&error));
        }
        thread::scope(|scope| {
            // Nothing is ever sent: that the last sender is gone is the end.
            let (running, ended) = bounded::<()>(0);
            for place in &self.places {
                let (running, next) = (running.clone(), next.clone());
                let work = move || {
                    let _running = running;
                    if let Err(failure) = self.fill(place, client, &next, request) {
                        self.fail(failure);
                    }
                };
                if let Err(error) = thread::Builder::new().spawn_scoped(scope, work) {
                    self.fail(no_thread(&error));
                    break;
                }
            }
            drop(running);
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK_EVERY) {
                look(self);
            }
        });
        lock(&self.broken).take().map_or(Ok(()), Err)
    }

    fn fail(&self, failure: Failure) {
        lock(&self.broken).get_or_insert(failure);
        self.stop();
    }

    /// Ends it now: what runs is cancelled and has no result, nothing more is begun.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(lock(&self.stop).take());
        for place in &self.places {
            if let Some(canceller) = &*lock(place) {
                canceller.cancel();
            }
        }
        // Under the lock, so that nobody is between looking at the flag and waiting.
        drop(lock(&self.results));
        self.turn_came.notify_all();
    }

    pub(crate) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// Items received so far: one for each id, where ids come.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Streams begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Results that wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.results).waiting()
    }

    /// The results, when nobody works any more.
    pub(crate) fn into_results(self) -> Results {
        self.results.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// One prompt after the other, as long as there are any.
    fn fill(
        &self,
        place: &Place,
        client: &ApiClient,
        next: &Receiver<Next>,
        request: MakeRequest<'_>,
    ) -> Result<(), Failure> {
        loop {
            let item = select! {
                recv(next) -> item => item,
                recv(self.stopped) -> _ => return Ok(()),
            };
            let Ok(item) = item else { return Ok(()) };
            let (item, kept) = item?;
            self.wait_for_room(item.at);
            if self.is_stopping() {
                return Ok(());
            }
            if let Some(line) = kept {
                lock(&self.results).put(item.at, line)?;
                self.turn_came.notify_all();
                continue;
            }
            let (at, line, id) = (item.at, item.line, item.id.clone());
            let mut answer = Answer::default();
            lock(&self.tally).running += 1;
            let end = match request(item) {
                Ok(request) => self.ask(place, client, &id, request, &mut answer),
                Err(why) => End::Unusable { line, why },
            };
            lock(&self.tally).running -= 1;
            if self.is_stopping() && end.is_cancelled() {
                lock(&self.tally).given_up += 1;
                return Ok(());
            }
            let written = lock(&self.results).put(at, answer.line(&id, &end)?);
            self.turn_came.notify_all();
            self.count(&end);
            written?;
        }
    }

    /// Waits until the results that wait for their turn are few and small enough.
    fn wait_for_room(&self, at: u64) {
        let is_full = |results: &mut Results| {
            !self.is_stopping() && is_full(at, results.turn(), self.ahead, results.waiting_bytes())
        };
        drop(self.turn_came.wait_while(lock(&self.results), is_full));
    }

    fn ask(
        &self,
        place: &Place,
        client: &ApiClient,
        id: &Value,
        request: CompletionRequest,
        answer: &mut Answer,
    ) -> End {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let name = || id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        let mut trace = self.traces.as_ref().map_or_else(Trace::none, |traces| traces.begin(number, name()));
        let asked = if self.whole {
            self.call(place, client, request, answer)
        } else {
            self.stream(place, client, request, answer, &mut trace)
        };
        *lock(place) = None;
        match asked {
            Ok(report) => {
                trace.ended(&report);
                End::Report(Box::new(report))
            }
            Err(error) => {
                trace.refused(&error);
                End::Refused(error)
            }
        }
    }

    fn stream(
        &self,
        place: &Place,
        client: &ApiClient,
        request: CompletionRequest,
        answer: &mut Answer,
        trace: &mut Trace,
    ) -> Result<StreamReport, Error> {
        let (tokens, guard) = client.stream(request)?;
        self.runs(place, guard.canceller());
        for item in &tokens {
            if !matches!(item, StreamToken::Done { .. } | StreamToken::Error(_)) {
                self.tokens.fetch_add(1, Ordering::Relaxed);
            }
            trace.item(Instant::now(), &item);
            if !answer.take(item) {
                guard.cancel();
            }
        }
        Ok(guard.join())
    }

    fn call(
        &self,
        place: &Place,
        client: &ApiClient,
        request: CompletionRequest,
        answer: &mut Answer,
    ) -> Result<StreamReport, Error> {
        let call = client.call(request)?;
        self.runs(place, call.canceller());
        for item in call.join().into_iter().flat_map(turn::items) {
            self.tokens.fetch_add(1, Ordering::Relaxed);
            answer.take(item);
        }
        Ok(call.join_report())
    }

    /// Whoever stops the work has seen either the flag unset and then this stream, or this thread sees the flag.
    fn runs(&self, place: &Place, canceller: Canceller) {
        *lock(place) = Some(canceller.clone());
        if self.is_stopping() {
            canceller.cancel();
        }
    }

    fn count(&self, end: &End) {
        let mut tally = lock(&self.tally);
        if let End::Report(report) = end {
            tally.retries += u64::from(report.retries);
            tally.resumes += report.resumes.len() as u64;
        }
        match end.failure() {
            None => tally.complete += 1,
            Some((kind, message)) => {
                tally.failed += 1;
                tally.errors.entry(kind).or_insert((0, message)).0 += 1;
            }
        }
    }
}

/// Gives the prompts that have no result yet to whoever takes one next.
fn read(mut items: Items, mut before: Before, prompts: &Sender<Next>) {
    let mut count = 0;
    loop {
        let item = match items.next() {
            Ok(Some(item)) => item,
            Ok(None) => {
                if let Err(failure) = before.is_all(count) {
                    let _ = prompts.send(Err(failure));
                }
                return;
            }
            Err(error) => {
                let _ = prompts.send(Err(Failure::Machine(format!("cannot read the input: {error}"))));
                return;
            }
        };
        count = item.at + 1;
        let next = match before.take(item.at, &item.id) {
            Ok(Taken::Done) => continue,
            Ok(Taken::Missing) => Ok((item, None)),
            Ok(Taken::Kept(line)) => Ok((item, Some(line))),
            Err(failure) => Err(failure),
        };
        let is_last = next.is_err();
        // It fails if nobody works any more.
        if prompts.send(next).is_err() || is_last {
            return;
        }
    }
}

/// Whether the prompt at `at` has to wait. The one whose turn it is never does: the others wait for it.
fn is_full(at: u64, turn: u64, max_ahead: u64, waiting_bytes: usize) -> bool {
    let ahead = at.saturating_sub(turn);
    ahead > 0 && (ahead >= max_ahead || waiting_bytes > MAX_WAITING_BYTES)
}

fn no_thread(error: &io::Error) -> Failure {
    Failure::Machine(format!("no thread: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_whose_turn_it_is_never_waits() {
        // At, turn, bytes that wait, whether it waits.
        let cases = [
            (0, 0, 0, false),
            (5, 5, usize::MAX, false),
            (15, 0, 0, false),
            (16, 0, 0, true),
            (21, 5, 0, true),
            (6, 5, MAX_WAITING_BYTES, false),
            (6, 5, MAX_WAITING_BYTES + 1, true),
        ];
        for (at, turn, bytes, expected) in cases {
            assert_eq!(is_full(at, turn, 16, bytes), expected, "{at} at {turn} with {bytes}");
        }
    }
}
