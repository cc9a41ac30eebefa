//! What a stream's guard reports at the end: how it ended, what came, how fast.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::client::policy::resume::Resume;
use crate::error::Error;
use crate::protocol::server::ServerKind;
use crate::recording::Recording;
use crate::types::ids::{FinishReason, IdsExact, Usage};
use crate::types::not_resumable::NotResumable;

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// A finish reason or the terminator was seen.
    Complete,
    /// Its guard ended it.
    Cancelled,
    /// Its receiver was dropped. That is noticed when the next token is sent, for a crossbeam receiver tells nobody that
    /// it goes: as long as the server is silent, the stream waits for it, under its timers. To end it now, end the guard.
    ConsumerGone,
    /// It failed; see [`StreamReport::error`].
    Failed,
}

impl Outcome {
    /// The stable name, as the command line prints it: `complete`, `cancelled`, `consumer_gone`, `failed`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Cancelled => "cancelled",
            Self::ConsumerGone => "consumer_gone",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything there is to know about a stream after its end. Times are counted from the moment the stream was
/// asked for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StreamReport {
    /// How it ended.
    pub ending: Outcome,
    /// The failure, the same that stood in the channel; for [`Outcome::Failed`] only.
    pub error: Option<Error>,
    /// Why the model stopped, if the server said so.
    pub finish: Option<FinishReason>,
    /// The server's own count of tokens, if it sent one.
    pub usage: Option<Usage>,
    /// Whether the ids received are all there are.
    pub ids_exact: IdsExact,
    /// The id under which the server knows the request.
    pub request_id: Option<String>,
    /// Which of the client's servers the last attempt went to, from 0 in the order of their
    /// [`base_url`](crate::ApiClientBuilder::base_url)s.
    pub route: usize,
    /// How often an attempt went to another server than the one before it.
    pub failovers: u32,
    /// The request was sent a second time because its first token was late
    /// ([`RoutePolicy::hedge_after`](crate::RoutePolicy::hedge_after)). What stands here is of the one that had its token first.
    pub hedged: bool,
    /// What the server was found to be.
    pub server: Option<ServerKind>,
    /// Items handed to the consumer, text and ids or one of them: those that were put into the channel, read or not. What
    /// was decoded when a cancel came and did not get there is not counted, here or in the times.
    pub tokens: u64,
    /// Events received, without comments.
    pub events: u64,
    /// Comment lines received: keep-alives.
    pub comments: u64,
    /// Body bytes received, after HTTP's framing was taken off.
    pub bytes: u64,
    /// Events whose data was not JSON. They were skipped.
    pub lines_skipped: u64,
    /// How often the request was sent again before its first token; what stands here is of the last attempt, times apart.
    pub retries: u32,
    /// The breaks after tokens from which the stream was taken up again, or was tried to be; at most
    /// [`MAX_RESUMES`](crate::MAX_RESUMES). Then what stands here is of all attempts together: counts, times, and the
    /// usage, which is that of the one request that was asked for. The ids of server and request are of the last one.
    pub resumes: Vec<Resume>,
    /// Why the stream was not taken up again where it ended: only of ends that could be
    /// ([`Error::is_resumable`]), and of clients that would ([`ResumePolicy`](crate::ResumePolicy)).
    pub not_resumed: Option<NotResumable>,
    /// How often the request was sent anew because its kept connection had been closed
    /// ([`RetryPolicy::max_stale_retries`](crate::RetryPolicy::max_stale_retries)), over all attempts.
    pub stale_retries: u32,
    /// The request, of several the last, went out on a connection that an earlier one had used.
    pub connection_reused: bool,
    /// Time to the head of the response; of a resumed stream's first.
    pub head: Option<Duration>,
    /// Time to the first token.
    pub first_token: Option<Duration>,
    /// Time to the last token.
    pub last_token: Option<Duration>,
    /// Time to the end.
    pub elapsed: Duration,
    /// How long the stream stood still because the consumer did not take its tokens.
    pub waited_for_consumer: Duration,
    /// Time between one token and the next, as they came from the socket; `None` with fewer than two. Tokens that
    /// came in one read are no time apart.
    pub inter_token: Option<Percentiles>,
    /// The exchange itself, of several the last, if [`CompletionRequest::record`](crate::CompletionRequest::record) asked for it and an answer
    /// came.
    pub recording: Option<Arc<Recording>>,
}

impl StreamReport {
    pub(crate) fn new(ending: Outcome) -> Self {
        Self {
            ending,
            error: None,
            finish: None,
            usage: None,
            ids_exact: IdsExact::Unknown,
            request_id: None,
            route: 0,
            failovers: 0,
            hedged: false,
            server: None,
            tokens: 0,
            events: 0,
            comments: 0,
            bytes: 0,
            lines_skipped: 0,
            retries: 0,
            resumes: Vec::new(),
            not_resumed: None,
            stale_retries: 0,
            connection_reused: false,
            head: None,
            first_token: None,
            last_token: None,
            elapsed: Duration::ZERO,
            waited_for_consumer: Duration::ZERO,
            inter_token: None,
            recording: None,
        }
    }

    /// Tokens per second from the first token to the last; `None` with fewer than two, or if they all came in
    /// one read.
    #[must_use]
    pub fn tokens_per_second(&self) -> Option<f64> {
        let time = self.last_token?.checked_sub(self.first_token?)?;
        (self.tokens > 1 && !time.is_zero()).then(|| (self.tokens - 1) as f64 / time.as_secs_f64())
    }
}

/// A distribution of times, each figure at most 6.25 % above the true one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Percentiles {
    /// Half are no longer than this.
    pub p50: Duration,
    /// Nine of ten are no longer than this.
    pub p90: Duration,
    /// 99 of 100 are no longer than this.
    pub p99: Duration,
    /// The longest, exact.
    pub max: Duration,
}

/// A histogram of times in constant space: 16 buckets for each power of two nanoseconds.
pub(crate) struct Histogram {
    counts: Box<[u32; BUCKETS]>,
    total: u64,
    max: u64,
}

const SUB_BITS: u32 = 4;
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) << SUB_BITS;

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0, max: 0 }
    }

    pub(crate) fn add(&mut self, time: Duration, times: u32) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // `bucket` is below BUCKETS for every u64.
        let count = &mut self.counts[bucket(nanos)];
        *count = count.saturating_add(times);
        self.total += u64::from(times);
        self.max = self.max.max(nanos);
    }

    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        (self.total > 0).then(|| Percentiles {
            p50: self.quantile(50),
            p90: self.quantile(90),
            p99: self.quantile(99),
            max: Duration::from_nanos(self.max),
        })
    }

    /// The upper end of the bucket in which `percent` of all times are reached.
    fn quantile(&self, percent: u64) -> Duration {
        let wanted = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return Duration::from_nanos(upper_end(bucket).min(self.max));
            }
        }
        Duration::from_nanos(self.max)
    }
}

/// Below 16 a bucket for each value; above, the top bit chooses the group and the next four the bucket in it.
fn bucket(nanos: u64) -> usize {
    if nanos < 1 << SUB_BITS {
        return nanos as usize;
    }
    let shift = 63 - nanos.leading_zeros() - SUB_BITS;
    ((shift as usize) << SUB_BITS) + (nanos >> shift) as usize
}

/// The largest value of a bucket.
fn upper_end(bucket: usize) -> u64 {
    let shift = (bucket >> SUB_BITS).saturating_sub(1);
    let low = (bucket - (shift << SUB_BITS)) as u64;
    (low << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_falls_into_a_bucket_that_ends_at_most_a_sixteenth_above_it() {
        let mut values: Vec<u64> =
            (0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1, 3 << bit >> 1]).collect();
        values.extend([u64::MAX, 0, 1_000_000, 20_000_000]);
        for value in values {
            let bucket = bucket(value);
            assert!(bucket < BUCKETS, "{value}");
            let end = upper_end(bucket);
            assert!(end >= value && end - value <= value / 16, "{value} in {bucket}, which ends at {end}");
            assert!(bucket == 0 || upper_end(bucket - 1) < value, "{value} belongs lower");
        }
    }

    #[test]
    fn percentiles_of_a_known_distribution() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.percentiles(), None);
        for ms in 1..=100 {
            histogram.add(Duration::from_millis(ms), 1);
        }
        let found = histogram.percentiles().unwrap();
        for (figure, ms) in [(found.p50, 50), (found.p90, 90), (found.p99, 99), (found.max, 100)] {
            let ratio = figure.as_secs_f64() * 1e3 / f64::from(ms);
            assert!((1.0..=1.0625).contains(&ratio), "{figure:?} for {ms} ms");
        }
    }
}
