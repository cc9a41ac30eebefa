//! The work of a batch: so many streams at a time, each on a thread, their results handed on in order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;
use std::{io, thread};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use serde_json::Value;
use tokenwire::{ApiClient, CompletionRequest, Error, StreamReport, StreamToken};

use super::answer::{End, PromptAnswer};
use super::before::{Before, Taken};
use super::input::{Item, Items};
use super::results::Results;
use crate::commands::workers::{Worker, Workers, lock, no_thread};
use crate::exit::Failure;
use crate::output::follow;
use crate::output::trace::{Lane, Traces};

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
    /// Dropped when the work is to stop: wakes whoever waits for a prompt.
    stop: Mutex<Option<Sender<()>>>,
    stopped: Receiver<()>,
    workers: Workers,
    tally: Mutex<Tally>,
    /// The first thing that cannot be repaired: no output, no input, no thread.
    broken: Mutex<Option<Failure>>,
    traces: Option<Arc<Traces>>,
    /// Streams begun, those of the picture among them.
    begun: AtomicU64,
}

/// A prompt, and the line of its result if there is one from before.
type Missing = (Item, Option<Vec<u8>>);
type Next = Result<Missing, Failure>;

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
    pub(crate) fn new(
        streams: usize,
        whole: bool,
        results: Results,
        traces: Option<Arc<Traces>>,
    ) -> Arc<Self> {
        let (stop, stopped) = bounded(0);
        Arc::new(Self {
            started: Instant::now(),
            whole,
            ahead: streams as u64 * AHEAD_PER_STREAM,
            results: Mutex::new(results),
            turn_came: Condvar::new(),
            stop: Mutex::new(Some(stop)),
            stopped,
            workers: Workers::new(streams),
            tally: Mutex::default(),
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
        let work = |worker: &Worker| {
            if let Err(failure) = self.fill(worker, client, &next, request) {
                self.fail(failure);
            }
        };
        self.workers.run(work, |failure| self.fail(failure), || look(self));
        lock(&self.broken).take().map_or(Ok(()), Err)
    }

    fn fail(&self, failure: Failure) {
        lock(&self.broken).get_or_insert(failure);
        self.stop();
    }

    /// Ends it now: what runs is cancelled and has no result, nothing more is begun.
    pub(crate) fn stop(&self) {
        self.workers.stop();
        drop(lock(&self.stop).take());
        // Under the lock, so that nobody is between looking at the flag and waiting.
        drop(lock(&self.results));
        self.turn_came.notify_all();
    }

    pub(crate) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// Items received so far: one for each id, where ids come.
    pub(crate) fn tokens(&self) -> u64 {
        self.workers.tokens()
    }

    /// Streams begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Results that wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.results).waiting()
    }

    /// Ends the output when nobody works any more; see [`Results::finish`].
    pub(crate) fn finish(&self, is_all: bool) -> io::Result<Option<(usize, PathBuf)>> {
        lock(&self.results).finish(is_all)
    }

    /// One prompt after the other, as long as there are any.
    fn fill(
        &self,
        worker: &Worker,
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
            if self.workers.is_stopping() {
                return Ok(());
            }
            if let Some(line) = kept {
                lock(&self.results).put(item.at, line)?;
                self.turn_came.notify_all();
                continue;
            }
            let (at, line, id) = (item.at, item.line, item.id.clone());
            let mut answer = PromptAnswer::default();
            lock(&self.tally).running += 1;
            let end = match request(item) {
                Ok(request) => self.ask(worker, client, &id, request, &mut answer),
                Err(why) => End::Unusable { line, why },
            };
            lock(&self.tally).running -= 1;
            if self.workers.is_stopping() && end.is_cancelled() {
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
            !self.workers.is_stopping() && is_full(at, results.turn(), self.ahead, results.waiting_bytes())
        };
        drop(self.turn_came.wait_while(lock(&self.results), is_full));
    }

    fn ask(
        &self,
        worker: &Worker,
        client: &ApiClient,
        id: &Value,
        request: CompletionRequest,
        answer: &mut PromptAnswer,
    ) -> End {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let name = || id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        let traces = self.traces.as_deref();
        let mut lane = traces.and_then(|traces| traces.begin(number, name()));
        let report = if self.whole {
            self.call(worker, client, request, answer)
        } else {
            self.stream(worker, client, request, answer, lane.as_mut())
        };
        worker.end();
        if let (Some(traces), Some(lane)) = (traces, lane) {
            traces.keep(lane.ended(report.as_ref()));
        }
        report.map_or_else(End::Refused, |report| End::Report(Box::new(report)))
    }

    fn stream(
        &self,
        worker: &Worker,
        client: &ApiClient,
        request: CompletionRequest,
        answer: &mut PromptAnswer,
        mut lane: Option<&mut Lane>,
    ) -> Result<StreamReport, Error> {
        let (tokens, guard) = client.stream(request)?;
        self.workers.begin(worker, guard.canceller());
        for item in &tokens {
            if !matches!(item, StreamToken::Done { .. } | StreamToken::Error(_)) {
                worker.received();
            }
            if let Some(lane) = &mut lane {
                lane.item(Instant::now(), &item);
            }
            if !answer.take(item) {
                guard.cancel();
            }
        }
        Ok(guard.join())
    }

    fn call(
        &self,
        worker: &Worker,
        client: &ApiClient,
        request: CompletionRequest,
        answer: &mut PromptAnswer,
    ) -> Result<StreamReport, Error> {
        let call = client.call(request)?;
        self.workers.begin(worker, call.canceller());
        for item in call.join().into_iter().flat_map(follow::items) {
            worker.received();
            answer.take(item);
        }
        Ok(call.join_report())
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

/// Sends the prompts that have no result yet, one to each worker that is free.
fn read(mut items: Items, mut before: Before, prompts: &Sender<Next>) {
    while let Some(next) = next_missing(&mut items, &mut before).transpose() {
        let is_last = next.is_err();
        // It fails if nobody works any more.
        if prompts.send(next).is_err() || is_last {
            return;
        }
    }
}

/// The next prompt whose result is not where it belongs; `None` at the end of the input.
fn next_missing(items: &mut Items, before: &mut Before) -> Result<Option<Missing>, Failure> {
    let failed = |error| Failure::Machine(format!("cannot read the input: {error}"));
    while let Some(item) = items.next().map_err(failed)? {
        match before.take(item.at, &item.id)? {
            Taken::Done => {}
            Taken::Missing => return Ok(Some((item, None))),
            Taken::Kept(line) => return Ok(Some((item, Some(line)))),
        }
    }
    before.is_all(items.count())?;
    Ok(None)
}

/// Whether the prompt at `at` has to wait. The one whose turn it is never does: the others wait for it.
fn is_full(at: u64, turn: u64, max_ahead: u64, waiting_bytes: usize) -> bool {
    let ahead = at.saturating_sub(turn);
    ahead > 0 && (ahead >= max_ahead || waiting_bytes > MAX_WAITING_BYTES)
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
