//! What a picture of streams is drawn from: when each was asked for, what came when, and how it ended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokenwire::{Error, Outcome, StreamReport, StreamToken};

/// Streams in one picture: the first ones. More would be lanes too thin to see.
pub(crate) const MAX_LANES: usize = 200;
/// Tokens of a stream that are drawn, 256 KiB: the first ones.
const MAX_TOKENS: usize = 16_384;
/// Calls of a stream that are drawn.
const MAX_CALLS: usize = 1024;

/// One stream. All times are counted from the start of the run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lane {
    /// Its place among all.
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) asked: Duration,
    pub(crate) tokens: Vec<Tick>,
    /// All of them, drawn or not.
    pub(crate) count: u64,
    pub(crate) calls: Vec<Duration>,
    /// From the break to the first token of the request that went on.
    pub(crate) breaks: Vec<(Duration, Duration)>,
    pub(crate) end: Duration,
    pub(crate) outcome: LaneOutcome,
    /// How often it was sent again before its first token.
    pub(crate) retries: u32,
}

/// A token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tick {
    micros: u64,
    /// Ids so far, this one's among them.
    ids: u32,
}

impl Tick {
    pub(crate) fn at(self) -> Duration {
        Duration::from_micros(self.micros)
    }
}

/// How it ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LaneOutcome {
    /// With its finish reason, if the server said one.
    Complete(Option<String>),
    /// With the kind of the error.
    Failed(&'static str),
    Cancelled,
}

/// A stream that is being traced, or is not: then nothing is kept.
pub(crate) struct Trace {
    start: Instant,
    ids: u32,
    lane: Option<Lane>,
    /// Where it goes in the end.
    lanes: Arc<Mutex<Vec<Lane>>>,
}

/// The streams of a run.
#[derive(Clone)]
pub(crate) struct Traces {
    start: Instant,
    lanes: Arc<Mutex<Vec<Lane>>>,
}

impl Traces {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), lanes: Arc::default() }
    }

    /// A stream is asked for now, the one with this number, from 0.
    pub(crate) fn begin(&self, number: u64, name: impl ToString) -> Trace {
        let lane = || Lane {
            number,
            name: name.to_string(),
            asked: self.start.elapsed(),
            tokens: Vec::new(),
            count: 0,
            calls: Vec::new(),
            breaks: Vec::new(),
            end: Duration::ZERO,
            outcome: LaneOutcome::Cancelled,
            retries: 0,
        };
        let lane = (number < MAX_LANES as u64).then(lane);
        Trace { start: self.start, ids: 0, lane, lanes: self.lanes.clone() }
    }

    /// All that have ended, in the order of their numbers.
    pub(crate) fn finish(&self) -> Vec<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        lanes.sort_by_key(|lane| lane.number);
        lanes
    }
}

impl Trace {
    /// Of a stream that is in no picture.
    pub(crate) fn none() -> Self {
        Self { start: Instant::now(), ids: 0, lane: None, lanes: Arc::default() }
    }

    /// Something came.
    pub(crate) fn item(&mut self, at: Instant, item: &StreamToken) {
        let Some(lane) = &mut self.lane else { return };
        let at = at - self.start;
        match item {
            StreamToken::Token { id, .. } | StreamToken::Reasoning { id, .. } => {
                self.ids += u32::from(id.is_some());
                lane.count += 1;
                if lane.tokens.len() < MAX_TOKENS {
                    let micros = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
                    lane.tokens.push(Tick { micros, ids: self.ids });
                }
            }
            StreamToken::ToolCall(_) => self.calls(at, 1),
            _ => {}
        }
    }

    /// So many calls were found to be complete with what came last.
    pub(crate) fn parsed_calls(&mut self, count: usize) {
        if let Some(last) = self.lane.as_ref().and_then(|lane| lane.tokens.last()) {
            self.calls(last.at(), count);
        }
    }

    fn calls(&mut self, at: Duration, count: usize) {
        if let Some(lane) = &mut self.lane {
            let room = MAX_CALLS.saturating_sub(lane.calls.len());
            lane.calls.extend(std::iter::repeat_n(at, count.min(room)));
        }
    }

    pub(crate) fn ended(self, report: &StreamReport) {
        let finish = report.finish.as_ref().map(ToString::to_string);
        let outcome = match (report.ending, &report.error) {
            (Outcome::Complete, _) => LaneOutcome::Complete(finish),
            (_, Some(error)) => LaneOutcome::Failed(error.kind().as_str()),
            _ => LaneOutcome::Cancelled,
        };
        let taken_up: Vec<_> = report.resumes.iter().map(|resume| (resume.at_id, resume.took)).collect();
        self.close(outcome, report.retries, &taken_up);
    }

    /// There was no stream.
    pub(crate) fn refused(self, error: &Error) {
        self.close(LaneOutcome::Failed(error.kind().as_str()), 0, &[]);
    }

    fn close(self, outcome: LaneOutcome, retries: u32, taken_up: &[(u64, Option<Duration>)]) {
        let Some(mut lane) = self.lane else { return };
        lane.end = self.start.elapsed();
        lane.outcome = outcome;
        lane.retries = retries;
        lane.breaks = taken_up.iter().map(|(at_id, took)| lane.gap(*at_id, *took)).collect();
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
    }
}

impl Lane {
    /// The time without a token behind so many ids: from the break, if it is known when that was, to the next token.
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

    /// Asked for at 10 ms, with tokens at these times, each with an id.
    pub(crate) fn lane(number: u64, tokens: &[u64], end: u64, outcome: LaneOutcome) -> Lane {
        let ticks = (1..).zip(tokens).map(|(ids, at)| Tick { micros: at * 1000, ids });
        Lane {
            number,
            name: format!("{}", number + 1),
            asked: ms(10),
            tokens: ticks.collect(),
            count: tokens.len() as u64,
            calls: Vec::new(),
            breaks: Vec::new(),
            end: ms(end),
            outcome,
            retries: 0,
        }
    }

    #[test]
    fn a_break_lies_between_the_tokens_around_it() {
        let lane = lane(0, &[20, 30, 90, 100], 110, LaneOutcome::Complete(None));
        let cases = [
            (2, Some(ms(40)), (ms(50), ms(90))),
            (2, None, (ms(30), ms(90))),
            // Longer than there was time: the clocks are two.
            (2, Some(ms(80)), (ms(30), ms(90))),
            (4, None, (ms(100), ms(110))),
            (0, Some(ms(5)), (ms(15), ms(20))),
        ];
        for (ids, took, expected) in cases {
            assert_eq!(lane.gap(ids, took), expected, "behind {ids} ids, {took:?}");
        }
    }

    #[test]
    fn only_so_many_streams_and_tokens_are_kept() {
        let traces = Traces::new();
        let token = StreamToken::Token { text: "a".to_owned(), id: Some(1) };
        for number in (0..MAX_LANES as u64 + 5).rev() {
            let mut trace = traces.begin(number, number);
            let tokens = if number == 3 { MAX_TOKENS + 10 } else { 1 };
            (0..tokens).for_each(|_| trace.item(Instant::now(), &token));
            trace.parsed_calls(2 * MAX_CALLS);
            trace.close(LaneOutcome::Cancelled, 0, &[]);
        }
        let lanes = traces.finish();
        let numbers: Vec<u64> = lanes.iter().map(|lane| lane.number).collect();
        assert_eq!(numbers, (0..MAX_LANES as u64).collect::<Vec<_>>());
        assert_eq!((lanes[3].tokens.len(), lanes[3].count), (MAX_TOKENS, MAX_TOKENS as u64 + 10));
        assert_eq!(lanes[3].calls.len(), MAX_CALLS);
    }
}
