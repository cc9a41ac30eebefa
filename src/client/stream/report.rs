//! What a stream's guard reports at the end: how it ended, what came, how fast.

use std::fmt;
use std::ops::Range;
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

/// A distribution of times in constant memory.
///
/// It counts times from 0 to 2^64 - 1 nanoseconds (584 years), and a longer time as the longest. With `bits` of precision each
/// doubling has 2^`bits` buckets, so a percentile is at most 1 / 2^`bits` above the true time. The maximum is exact. The buckets
/// take 4 · (65 - `bits`) · 2^`bits` bytes: 3.9 kB with 4 bits, which is the default (6.25 %), and 30 kB with 7 (0.8 %).
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u32]>,
    bits: u32,
    total: u64,
    max: u64,
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the buckets: there are thousands.
        let Self { counts: _, bits, total, max: _ } = self;
        let percentiles = self.percentiles();
        f.debug_struct("Histogram")
            .field("bits", bits)
            .field("total", total)
            .field("percentiles", &percentiles)
            .finish()
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new(4)
    }
}

impl Histogram {
    /// Creates an empty histogram with this precision, from 1 to 10 bits; other numbers are taken to the nearest of these.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        let bits = bits.clamp(1, 10);
        Self { counts: vec![0; (65 - bits as usize) << bits].into(), bits, total: 0, max: 0 }
    }

    /// Counts `time` this many times.
    pub fn add(&mut self, time: Duration, times: u32) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // `bucket` is below the length for every u64.
        let count = &mut self.counts[bucket(nanos, self.bits)];
        *count = count.saturating_add(times);
        self.total += u64::from(times);
        self.max = self.max.max(nanos);
    }

    /// Adds what `other` has counted; its precision may differ.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in (0..).zip(&other.counts).filter(|(_, count)| **count > 0) {
            let time = upper_end(bucket, other.bits).min(other.max);
            self.add(Duration::from_nanos(time), *count);
        }
    }

    /// Returns how many times were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns the longest time, exact; zero if there is none.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// Returns the time that `percent` of all times do not exceed; `None` of an empty histogram. It reads every bucket.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let wanted = (self.total as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        })?;
        Some(Duration::from_nanos(upper_end(bucket, self.bits).min(self.max)))
    }

    /// Returns the usual percentiles; `None` of an empty histogram.
    #[must_use]
    pub fn percentiles(&self) -> Option<Percentiles> {
        Some(Percentiles {
            p50: self.percentile(50.0)?,
            p90: self.percentile(90.0)?,
            p99: self.percentile(99.0)?,
            max: self.max(),
        })
    }

    /// Iterates over the buckets that are not empty, from short to long: the times that each covers, and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (Range<Duration>, u32)> {
        let end = |bucket| Duration::from_nanos(upper_end(bucket, self.bits).saturating_add(1));
        let start = move |bucket: usize| bucket.checked_sub(1).map_or(Duration::ZERO, end);
        let counts = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counts.map(move |(bucket, count)| (start(bucket)..end(bucket), *count))
    }
}

/// Below 2^`bits` a bucket for each value; above, the top bit chooses the group and the next `bits` the bucket in it.
fn bucket(nanos: u64, bits: u32) -> usize {
    if nanos < 1 << bits {
        return nanos as usize;
    }
    let shift = 63 - nanos.leading_zeros() - bits;
    ((shift as usize) << bits) + (nanos >> shift) as usize
}

/// The largest value of a bucket.
fn upper_end(bucket: usize, bits: u32) -> u64 {
    let shift = (bucket >> bits).saturating_sub(1);
    let low = (bucket - (shift << bits)) as u64;
    (low << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_falls_into_a_bucket_that_ends_just_above_it() {
        let mut values: Vec<u64> =
            (0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1, 3 << bit >> 1]).collect();
        values.extend([u64::MAX, 0, 1_000_000, 20_000_000]);
        for (value, bits) in values.into_iter().flat_map(|value| [(value, 1), (value, 4), (value, 10)]) {
            let bucket = bucket(value, bits);
            assert!(bucket < Histogram::new(bits).counts.len(), "{value}, {bits} bits");
            let end = upper_end(bucket, bits);
            assert!(end >= value && end - value <= value >> bits, "{value} in {bucket}, which ends at {end}");
            assert!(bucket == 0 || upper_end(bucket - 1, bits) < value, "{value} belongs lower");
        }
    }

    #[test]
    fn percentiles_of_a_known_distribution() {
        for (bits, max_ratio) in [(4, 1.0625), (7, 1.0079)] {
            let mut histogram = Histogram::new(bits);
            assert_eq!(histogram.percentiles(), None);
            for ms in 1..=100 {
                histogram.add(Duration::from_millis(ms), 1);
            }
            let found = histogram.percentiles().unwrap();
            for (figure, ms) in [(found.p50, 50), (found.p90, 90), (found.p99, 99), (found.max, 100)] {
                let ratio = figure.as_secs_f64() * 1e3 / f64::from(ms);
                assert!((1.0..=max_ratio).contains(&ratio), "{figure:?} for {ms} ms");
            }
            assert_eq!(histogram.percentile(0.0).map(|time| time.as_millis()), Some(1));
        }
    }

    #[test]
    fn merged_histograms_count_what_one_would_have_counted() {
        let (mut one, mut other, mut both) = (Histogram::new(7), Histogram::new(7), Histogram::new(7));
        for n in 0..40 {
            let time = Duration::from_nanos(3_u64.pow(n));
            if n % 2 == 0 { &mut one } else { &mut other }.add(time, n);
            both.add(time, n);
        }
        one.merge(&other);
        assert_eq!(one, both);
        let mut coarse = Histogram::default();
        coarse.merge(&both);
        assert_eq!((coarse.total(), coarse.max()), (both.total(), both.max()));
        let counted: u64 = both.buckets().map(|(_, count)| u64::from(count)).sum();
        assert_eq!(counted, both.total());
        assert!(both.buckets().all(|(times, _)| times.start < times.end));
    }
}
