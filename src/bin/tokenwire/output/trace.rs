//! The data of a picture of streams: when each stream was requested, when its items arrived, and
//! how it ended.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokenwire::{Error, Outcome, StreamReport, StreamToken};

use crate::exit::Failure;
use crate::output::plot::{self, Target};
use crate::output::text::more;

/// The maximum number of streams in a picture.
const MAX_LANES: u64 = 200;
/// The maximum number of tokens of a stream in a picture. They take 384 KiB.
const MAX_TOKENS: usize = 16_384;
/// The maximum number of tool calls of a stream in a picture.
const MAX_CALLS: usize = 1024;

/// The lanes of all streams of a run that have ended, if a picture of them was requested.
pub(crate) struct Traces {
    target: Option<Target>,
    start: Instant,
    lanes: Mutex<Vec<Lane>>,
}

/// The data of one stream. All times are counted from the start of the run.
pub(crate) struct Lane {
    start: Instant,
    number: u64,
    pub(crate) name: String,
    pub(crate) asked: Duration,
    /// The time of each token, and the number of ids up to this token.
    pub(crate) tokens: Vec<(Duration, u64)>,
    /// The number of all tokens, drawn or not.
    pub(crate) count: u64,
    pub(crate) calls: Vec<Duration>,
    /// For each break, its time and the time of the first token after the resume.
    pub(crate) breaks: Vec<(Duration, Duration)>,
    pub(crate) end: Duration,
    pub(crate) outcome: Outcome,
    /// The finish reason, the kind of the error or the outcome, with the number of retries and
    /// breaks.
    pub(crate) ending: String,
}

impl Traces {
    pub(crate) fn new(target: Option<Target>) -> Self {
        Self { target, start: Instant::now(), lanes: Mutex::default() }
    }

    /// Starts the lane of a stream that is requested now. `number` counts from 0.
    ///
    /// Returns `None` if there is no picture, or if it is full.
    pub(crate) fn begin(&self, number: u64, name: impl FnOnce() -> String) -> Option<Lane> {
        let is_drawn = self.target.is_some() && number < MAX_LANES;
        is_drawn.then(|| Lane::new(self.start, number, name()))
    }

    /// Adds the lane of a stream that has ended.
    pub(crate) fn keep(&self, lane: Option<Lane>, report: Result<&StreamReport, &Error>) {
        if let Some(lane) = lane {
            self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(lane.ended(report));
        }
    }

    /// Draws the lanes in the order of their numbers. `requests` is the number of all streams.
    pub(crate) fn draw(&self, requests: u64) -> Result<(), Failure> {
        let Some(target) = &self.target else { return Ok(()) };
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.sort_by_key(|lane| lane.number);
        target.write(&plot::timeline(&lanes, requests))
    }
}

impl Lane {
    /// Creates the lane of a stream that is requested now, in a run that began at `start`.
    fn new(start: Instant, number: u64, name: String) -> Self {
        Self {
            start,
            number,
            name,
            asked: start.elapsed(),
            tokens: Vec::new(),
            count: 0,
            calls: Vec::new(),
            breaks: Vec::new(),
            end: Duration::ZERO,
            outcome: Outcome::Cancelled,
            ending: String::new(),
        }
    }

    /// Adds an item that was received at `at`.
    pub(crate) fn item(&mut self, at: Instant, item: &StreamToken) {
        match item {
            StreamToken::Token { id, .. } | StreamToken::Reasoning { id, .. } => {
                self.count += 1;
                if self.tokens.len() < MAX_TOKENS {
                    let ids = self.tokens.last().map_or(0, |(_, ids)| *ids) + u64::from(id.is_some());
                    self.tokens.push((at - self.start, ids));
                }
            }
            StreamToken::ToolCall(_) => self.calls(at, 1),
            _ => {}
        }
    }

    /// Adds `count` tool calls that were complete at `at`.
    pub(crate) fn calls(&mut self, at: Instant, count: usize) {
        let room = MAX_CALLS.saturating_sub(self.calls.len());
        self.calls.extend(std::iter::repeat_n(at - self.start, count.min(room)));
    }

    fn ended(mut self, report: Result<&StreamReport, &Error>) -> Self {
        self.end = self.start.elapsed();
        let failed = |error: &Error| (Outcome::Failed, error.kind().as_str().to_owned());
        (self.outcome, self.ending) = match report {
            Err(error) => failed(error),
            Ok(StreamReport { error: Some(error), .. }) => failed(error),
            Ok(StreamReport { ending: Outcome::Complete, finish: Some(finish), .. }) => {
                (Outcome::Complete, finish.as_str().chars().take(16).collect())
            }
            Ok(report) => (report.ending, report.ending.to_string()),
        };
        if let Ok(report) = report {
            self.breaks = report.resumes.iter().map(|resume| self.gap(resume.at_id, resume.took)).collect();
            self.ending += &more(report.retries.into(), "retry", "retries");
            self.ending += &more(self.breaks.len() as u64, "break", "breaks");
        }
        self
    }

    /// Returns the gap after `ids` ids: from the break, or from the last token if the time of the
    /// break is unknown, to the next token.
    fn gap(&self, ids: u64, took: Option<Duration>) -> (Duration, Duration) {
        let next = self.tokens.partition_point(|(_, so_far)| *so_far <= ids);
        let before = next.checked_sub(1).map_or(self.asked, |last| self.tokens[last].0);
        let after = self.tokens.get(next).map_or(self.end, |(at, _)| *at);
        let from = took.and_then(|took| after.checked_sub(took)).unwrap_or(before);
        (from.max(before), after)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Returns a lane that was requested after 10 ms. Each of its tokens has one of these times, in
    /// ms, and one id.
    pub(crate) fn lane(number: u64, tokens: &[u64], end: u64, outcome: Outcome) -> Lane {
        Lane {
            asked: ms(10),
            tokens: tokens.iter().map(|at| ms(*at)).zip(1..).collect(),
            count: tokens.len() as u64,
            end: ms(end),
            outcome,
            ending: outcome.to_string(),
            ..Lane::new(Instant::now(), number, (number + 1).to_string())
        }
    }

    #[test]
    fn a_break_is_between_the_tokens_around_it() {
        let lane = lane(0, &[20, 30, 90, 100], 110, Outcome::Complete);
        let cases = [
            (2, Some(ms(40)), (ms(50), ms(90))),
            (2, None, (ms(30), ms(90))),
            // This time is longer than the gap between the tokens, because another clock measured
            // it.
            (2, Some(ms(80)), (ms(30), ms(90))),
            (4, None, (ms(100), ms(110))),
            (0, Some(ms(5)), (ms(15), ms(20))),
        ];
        for (ids, took, expected) in cases {
            assert_eq!(lane.gap(ids, took), expected, "after {ids} ids, {took:?}");
        }
    }

    #[test]
    fn streams_tokens_and_calls_are_kept_up_to_their_limits() {
        let file = std::env::temp_dir().join(format!("tokenwire-traces-{}.svg", std::process::id()));
        let traces = Traces::new(Target::open("--trace", Some(file.clone())).unwrap());
        std::fs::remove_file(file).unwrap();
        let error = tokenwire::Dialect::by_name("none").unwrap_err();
        let token = StreamToken::Token { text: "a".to_owned(), id: Some(1) };
        for number in (0..MAX_LANES + 5).rev() {
            let Some(mut lane) = traces.begin(number, || number.to_string()) else { continue };
            let tokens = if number == 3 { MAX_TOKENS + 10 } else { 1 };
            (0..tokens).for_each(|_| lane.item(Instant::now(), &token));
            lane.calls(Instant::now(), 2 * MAX_CALLS);
            traces.keep(Some(lane), Err(&error));
        }
        traces.draw(MAX_LANES + 5).unwrap();
        let lanes = traces.lanes.lock().unwrap();
        let numbers: Vec<u64> = lanes.iter().map(|lane| lane.number).collect();
        assert_eq!(numbers, (0..MAX_LANES).collect::<Vec<_>>());
        assert_eq!((lanes[3].tokens.len(), lanes[3].count), (MAX_TOKENS, MAX_TOKENS as u64 + 10));
        assert_eq!(lanes[3].calls.len(), MAX_CALLS);
    }
}
