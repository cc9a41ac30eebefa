//! The data of a picture of streams: when each stream was requested, when its items arrived, and
//! how it ended.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokenwire::{Error, Outcome, StreamReport, StreamToken};

/// The maximum number of streams in a picture. With more, the lanes would be too thin to see.
const MAX_LANES: u64 = 200;
/// The maximum number of tokens of a stream in a picture. They take 256 KiB.
const MAX_TOKENS: usize = 16_384;
/// The maximum number of tool calls of a stream in a picture.
const MAX_CALLS: usize = 1024;

/// The lanes of all streams of a run that have ended.
pub(crate) struct Traces {
    start: Instant,
    lanes: Mutex<Vec<Lane>>,
}

/// The data of one stream. All times are counted from the start of the run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lane {
    start: Instant,
    number: u64,
    pub(crate) name: String,
    pub(crate) asked: Duration,
    pub(crate) tokens: Vec<Tick>,
    /// The number of all tokens, drawn or not.
    pub(crate) count: u64,
    ids: u32,
    pub(crate) calls: Vec<Duration>,
    /// For each break, its time and the time of the first token after the resume.
    pub(crate) breaks: Vec<(Duration, Duration)>,
    pub(crate) end: Duration,
    pub(crate) outcome: LaneEnd,
    /// How many times the request was retried before the first token.
    pub(crate) retries: u32,
}

/// A token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tick {
    micros: u64,
    /// The number of ids up to this token.
    ids: u32,
}

impl Tick {
    pub(crate) fn at(self) -> Duration {
        Duration::from_micros(self.micros)
    }
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LaneEnd {
    /// Complete, with the finish reason if the server sent one.
    Complete(Option<String>),
    /// Failed, with the kind of the error.
    Failed(&'static str),
    Cancelled,
}

impl Traces {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), lanes: Mutex::default() }
    }

    /// Starts the lane of a stream that is requested now. `number` counts from 0.
    ///
    /// Returns `None` if the picture is full.
    pub(crate) fn begin(&self, number: u64, name: impl ToString) -> Option<Lane> {
        (number < MAX_LANES).then(|| Lane::new(self.start, number, name.to_string()))
    }

    /// Adds the lane of a stream that has ended.
    pub(crate) fn keep(&self, lane: Lane) {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
    }

    /// Returns the lanes in the order of their numbers.
    pub(crate) fn finish(&self) -> Vec<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        lanes.sort_by_key(|lane| lane.number);
        lanes
    }
}

impl Lane {
    /// Creates the lane of a stream that is requested now, in a run that began at `start`.
    pub(crate) fn new(start: Instant, number: u64, name: String) -> Self {
        Self {
            start,
            number,
            name,
            asked: start.elapsed(),
            tokens: Vec::new(),
            count: 0,
            ids: 0,
            calls: Vec::new(),
            breaks: Vec::new(),
            end: Duration::ZERO,
            outcome: LaneEnd::Cancelled,
            retries: 0,
        }
    }

    /// Adds an item that was received at `at`.
    pub(crate) fn item(&mut self, at: Instant, item: &StreamToken) {
        match item {
            StreamToken::Token { id, .. } | StreamToken::Reasoning { id, .. } => {
                self.ids += u32::from(id.is_some());
                self.count += 1;
                if self.tokens.len() < MAX_TOKENS {
                    let micros = u64::try_from((at - self.start).as_micros()).unwrap_or(u64::MAX);
                    self.tokens.push(Tick { micros, ids: self.ids });
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

    pub(crate) fn ended(mut self, report: Result<&StreamReport, &Error>) -> Self {
        self.end = self.start.elapsed();
        let failed = |error: &Error| LaneEnd::Failed(error.kind().as_str());
        self.outcome = match report {
            Err(error) => failed(error),
            Ok(StreamReport { ending: Outcome::Complete, finish, .. }) => {
                LaneEnd::Complete(finish.as_ref().map(ToString::to_string))
            }
            Ok(report) => report.error.as_ref().map_or(LaneEnd::Cancelled, failed),
        };
        if let Ok(report) = report {
            self.retries = report.retries;
            self.breaks = report.resumes.iter().map(|resume| self.gap(resume.at_id, resume.took)).collect();
        }
        self
    }

    /// Returns the gap after `ids` ids: from the break, or from the last token if the time of the
    /// break is unknown, to the next token.
    fn gap(&self, ids: u64, took: Option<Duration>) -> (Duration, Duration) {
        let next = self.tokens.partition_point(|tick| u64::from(tick.ids) <= ids);
        let before = next.checked_sub(1).map_or(self.asked, |last| self.tokens[last].at());
        let after = self.tokens.get(next).map_or(self.end, |tick| tick.at());
        let from = took.and_then(|took| after.checked_sub(took)).unwrap_or(before);
        (from.max(before), after)
    }

    pub(crate) fn first(&self) -> Option<Duration> {
        self.tokens.first().map(|tick| tick.at())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Returns a lane that was requested after 10 ms. Its tokens have these times, in ms, and an id
    /// each.
    pub(crate) fn lane(number: u64, tokens: &[u64], end: u64, outcome: LaneEnd) -> Lane {
        let ticks = (1..).zip(tokens).map(|(ids, at)| Tick { micros: at * 1000, ids });
        Lane {
            asked: ms(10),
            tokens: ticks.collect(),
            count: tokens.len() as u64,
            end: ms(end),
            outcome,
            ..Lane::new(Instant::now(), number, (number + 1).to_string())
        }
    }

    #[test]
    fn a_break_is_between_the_tokens_around_it() {
        let lane = lane(0, &[20, 30, 90, 100], 110, LaneEnd::Complete(None));
        let cases = [
            (2, Some(ms(40)), (ms(50), ms(90))),
            (2, None, (ms(30), ms(90))),
            // A longer time than between the tokens: it was measured by another clock.
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
        let traces = Traces::new();
        let token = StreamToken::Token { text: "a".to_owned(), id: Some(1) };
        for number in (0..MAX_LANES + 5).rev() {
            let Some(mut lane) = traces.begin(number, number) else { continue };
            let tokens = if number == 3 { MAX_TOKENS + 10 } else { 1 };
            (0..tokens).for_each(|_| lane.item(Instant::now(), &token));
            lane.calls(Instant::now(), 2 * MAX_CALLS);
            traces.keep(lane);
        }
        let lanes = traces.finish();
        let numbers: Vec<u64> = lanes.iter().map(|lane| lane.number).collect();
        assert_eq!(numbers, (0..MAX_LANES).collect::<Vec<_>>());
        assert_eq!((lanes[3].tokens.len(), lanes[3].count), (MAX_TOKENS, MAX_TOKENS as u64 + 10));
        assert_eq!(lanes[3].calls.len(), MAX_CALLS);
    }
}
