//! The work of a batch: runs several streams at a time, each on its own thread, and passes on their
//! results in order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
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
use crate::output::json::ErrorJson;
use crate::output::trace::{Lane, Traces};

/// Limits how far the running prompts may be ahead of the first missing result: by this number of
/// prompts for each stream.
const AHEAD_PER_STREAM: u64 = 16;
/// The maximum size of the results that wait for their turn, in bytes.
///
/// Above this size, only the prompt of the first missing result may start.
const MAX_WAITING_BYTES: usize = 256 << 20;

/// A function that makes the request for a prompt, or returns the reason why it cannot.
pub(crate) type MakeRequest<'a> = &'a (dyn Fn(Item) -> Result<CompletionRequest, String> + Sync);

/// A running batch.
pub(crate) struct Work {
    started: Instant,
    /// Whether each answer is requested in one piece instead of a stream.
    whole: bool,
    ahead: u64,
    results: Mutex<Results>,
    /// Signals that a result was written, or that the work must stop.
    turn_came: Condvar,
    /// Dropped when the work must stop. The drop wakes the workers that wait for a prompt.
    stop: Mutex<Option<Sender<()>>>,
    stopped: Receiver<()>,
    workers: Workers,
    tally: Mutex<Tally>,
    /// The first failure of the output, the input or a thread. It ends the batch.
    broken: Mutex<Option<Failure>>,
    traces: Traces,
}

/// A prompt, and its result line if an earlier run has left one.
type Missing = (Item, Option<Vec<u8>>);
type Next = Result<Missing, Failure>;

/// The totals so far.
#[derive(Default, Clone)]
pub(crate) struct Tally {
    pub(crate) complete: u64,
    pub(crate) failed: u64,
    /// Prompts that Ctrl-C cancelled. They have no result.
    pub(crate) given_up: u64,
    /// The number of streams begun.
    pub(crate) begun: u64,
    pub(crate) running: u64,
    /// The number of results that wait for their turn.
    pub(crate) waiting: u64,
    /// The number of items received: one for each id, if the server sends ids.
    pub(crate) tokens: u64,
    pub(crate) elapsed: Duration,
    pub(crate) retries: u64,
    pub(crate) resumes: u64,
    /// For each kind, the number of errors and the message of the first one.
    pub(crate) errors: BTreeMap<String, (u64, String)>,
}

impl Work {
    pub(crate) fn new(streams: usize, whole: bool, results: Results, traces: Traces) -> Arc<Self> {
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
        })
    }

    /// Runs the batch. Blocks until all prompts are done or the batch is stopped.
    ///
    /// Calls `look` ten times a second.
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
        // The thread is not joined, because nothing can wake it while it waits for standard input.
        // It ends with the program.
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

    /// Stops the batch at once: cancels the running streams, which then have no result, and begins
    /// no more streams.
    pub(crate) fn stop(&self) {
        self.workers.stop();
        drop(lock(&self.stop).take());
        // After this lock, no thread is between its check of the flag and its wait.
        drop(lock(&self.results));
        self.turn_came.notify_all();
    }

    pub(crate) fn tally(&self) -> Tally {
        let (waiting, tokens) = (lock(&self.results).waiting() as u64, self.workers.tokens());
        Tally { waiting, tokens, elapsed: self.started.elapsed(), ..lock(&self.tally).clone() }
    }

    /// Draws the picture of the streams, if one was requested.
    pub(crate) fn draw(&self) -> Result<(), Failure> {
        self.traces.draw(lock(&self.tally).begun)
    }

    /// Ends the output after all workers have stopped. See [`Results::finish`].
    pub(crate) fn finish(&self, is_all: bool) -> io::Result<Option<(usize, PathBuf)>> {
        lock(&self.results).finish(is_all)
    }

    /// Answers one prompt after the other until no prompt is left.
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
                Err(why) => End::Unusable(format!("line {line}: {why}")),
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

    /// Waits until the waiting results are few and small enough for the prompt at `at`.
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
        let number = {
            let mut tally = lock(&self.tally);
            tally.begun += 1;
            tally.begun - 1
        };
        let name = || id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        let mut lane = self.traces.begin(number, name);
        let report = if self.whole {
            self.call(worker, client, request, answer)
        } else {
            self.stream(worker, client, request, answer, lane.as_mut())
        };
        worker.end();
        self.traces.keep(lane, report.as_ref());
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
            Some(ErrorJson { kind, message, .. }) => {
                tally.failed += 1;
                tally.errors.entry(kind.to_owned()).or_insert_with(|| (0, message.to_owned())).0 += 1;
            }
        }
    }
}

/// Reads the input, and sends each prompt without a result to a free worker.
fn read(mut items: Items, mut before: Before, prompts: &Sender<Next>) {
    while let Some(next) = next_missing(&mut items, &mut before).transpose() {
        let is_last = next.is_err();
        // Sending fails only after all workers have stopped.
        if prompts.send(next).is_err() || is_last {
            return;
        }
    }
}

/// Returns the next prompt whose result must be written; `None` at the end of the input.
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

/// Returns whether the prompt at `at` must wait. The first missing prompt never waits, because the
/// others wait for it.
fn is_full(at: u64, turn: u64, max_ahead: u64, waiting_bytes: usize) -> bool {
    let ahead = at.saturating_sub(turn);
    ahead > 0 && (ahead >= max_ahead || waiting_bytes > MAX_WAITING_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_missing_prompt_never_waits() {
        // Each row contains the position, the turn, the bytes of the waiting results, and whether
        // the prompt waits.
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
