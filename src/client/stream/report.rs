//! The report of a stream: how it ended, what arrived, and how fast.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::client::policy::resume::Resume;
use crate::error::Error;
use crate::error::macros::{display_as_str, names};
use crate::protocol::server::ServerKind;
use crate::recording::Recording;
use crate::types::ids::{FinishReason, IdsExact, Usage};
use crate::types::not_resumable::NotResumable;

names! {
    /// How a stream ended.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum Outcome {
        /// A finish reason or the terminator arrived.
        Complete = "complete",
        /// The guard or a canceller cancelled the stream.
        Cancelled = "cancelled",
        /// The receiver was dropped.
        ///
        /// The stream detects the drop when it sends its next token, because a crossbeam channel
        /// does not report a dropped receiver earlier. While the server is silent, the stream
        /// continues under its timers. To end it at once, drop or cancel the guard.
        ConsumerGone = "consumer_gone",
        /// The stream failed; see [`StreamReport::error`].
        Failed = "failed",
    }
}

display_as_str!(Outcome);

/// The report of a stream that has ended.
///
/// [`StreamGuard::join`](crate::StreamGuard::join) returns it. All times start when you request the
/// stream.
///
/// ```
/// # #[cfg(feature = "testing")] {
/// use tokenwire::{ApiClient, CompletionRequest, Outcome};
/// # use tokenwire::testing::{Script, MockServer};
/// # let server = MockServer::scripted([Script::tokens([(9707, "Hello"), (13, ".")])])?;
/// # let client = ApiClient::builder(server.url()).build()?;
/// let (_tokens, guard) = client.stream(CompletionRequest::text("Say hello."))?;
/// let report = guard.join();
/// match report.error {
///     None => println!("{}: {} tokens in {:?}", report.ending, report.tokens, report.elapsed),
///     Some(error) => println!("failed: {error}"),
/// }
/// # assert_eq!((report.ending, report.tokens), (Outcome::Complete, 2));
/// # }
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StreamReport {
    /// How the stream ended.
    pub ending: Outcome,
    /// The error of a stream that [failed](Outcome::Failed), otherwise `None`.
    ///
    /// The channel ended with the same error.
    pub error: Option<Error>,
    /// The reason why the model stopped, if the server sent one.
    pub finish: Option<FinishReason>,
    /// The token counts of the server, if it sent them.
    pub usage: Option<Usage>,
    /// Shows whether the received ids are all ids of the answer.
    pub ids_exact: IdsExact,
    /// The id that the server gave to the request.
    pub request_id: Option<String>,
    /// The index of the server that received the last attempt.
    ///
    /// The first [`base_url`](crate::ApiClientBuilder::base_url) has the index 0.
    pub route: usize,
    /// The number of attempts that went to a different server from the previous attempt.
    pub failovers: u32,
    /// True if a second request was sent because the first token was late.
    ///
    /// See [`RoutePolicy::hedge_after`](crate::RoutePolicy::hedge_after). The report then describes
    /// the request that produced a token first.
    pub hedged: bool,
    /// The kind of server, as detected from its answer.
    pub server: Option<ServerKind>,
    /// The number of items that were put into the channel, with text, ids or both.
    ///
    /// Items count even if you have not read them. A decoded item does not count if a cancel
    /// arrives before the item is in the channel. The times do not include such an item either.
    pub tokens: u64,
    /// The number of events received, without comments.
    pub events: u64,
    /// The number of comment lines received. Servers send them to keep a connection alive.
    pub comments: u64,
    /// The number of body bytes received, without HTTP framing.
    pub bytes: u64,
    /// The number of events that were skipped because their data was not JSON.
    pub lines_skipped: u64,
    /// The number of retries before the first token.
    ///
    /// Except for the times, the report describes the last attempt.
    pub retries: u32,
    /// The breaks after which the stream was resumed, or a resume was tried.
    ///
    /// There are at most [`MAX_RESUMES`](crate::MAX_RESUMES) breaks. After a resume, counts and
    /// times cover all attempts together. The usage is converted to the usage of the one request
    /// that you made. The request id and the server are from the last attempt.
    pub resumes: Vec<Resume>,
    /// The reason why the broken stream was not resumed.
    ///
    /// It is set only if the error is resumable ([`Error::is_resumable`]) and the client resumes
    /// streams ([`ResumePolicy`](crate::ResumePolicy)).
    pub not_resumed: Option<NotResumable>,
    /// The number of times that a request was resent because its kept connection had been closed.
    ///
    /// The number covers all attempts.
    /// [`RetryPolicy::max_stale_retries`](crate::RetryPolicy::max_stale_retries) limits it.
    pub stale_retries: u32,
    /// True if the last request used a connection that an earlier request had used.
    pub connection_reused: bool,
    /// The time to the head of the answer. In a resumed stream, it is the time to the first head.
    pub head: Option<Duration>,
    /// The time to the first token.
    pub first_token: Option<Duration>,
    /// The time to the last token.
    pub last_token: Option<Duration>,
    /// The time to the end of the stream.
    pub elapsed: Duration,
    /// How long the stream waited because the consumer did not take its tokens.
    pub waited_for_consumer: Duration,
    /// The times between one token and the next, measured when the tokens arrived from the socket.
    ///
    /// It is `None` if fewer than two tokens arrived. The time between tokens of the same read is
    /// zero.
    pub inter_token: Option<Percentiles>,
    /// The recording of the exchange, or of the last exchange if there were several.
    ///
    /// It is present if [`CompletionRequest::record`](crate::CompletionRequest::record) was set and
    /// an answer arrived.
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

    /// Returns the tokens per second from the first token to the last.
    ///
    /// Returns `None` with fewer than two tokens, or if all tokens arrived in one read.
    #[must_use]
    pub fn tokens_per_second(&self) -> Option<f64> {
        let time = self.last_token?.checked_sub(self.first_token?)?;
        (self.tokens > 1 && !time.is_zero()).then(|| (self.tokens - 1) as f64 / time.as_secs_f64())
    }
}

/// Percentiles of a set of times.
///
/// In a report, each percentile is at most 6.25 % above the true value. The maximum is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Percentiles {
    /// Half of the times are not longer than this value.
    pub p50: Duration,
    /// 90 % of the times are not longer than this value.
    pub p90: Duration,
    /// 99 % of the times are not longer than this value.
    pub p99: Duration,
    /// The longest time, exact.
    pub max: Duration,
}

/// A distribution of times in constant memory.
///
/// It counts times from 0 to 2^64 - 1 nanoseconds (584 years). A longer time counts as 2^64 - 1
/// nanoseconds.
///
/// The precision is set in bits. With `bits` bits, each doubling of the time has 2^`bits` buckets,
/// so a percentile is at most 1 / 2^`bits` above the true time. The maximum is exact. The buckets
/// take 4 · (65 - `bits`) · 2^`bits` bytes:
///
/// | bits | error | memory |
/// | --- | --- | --- |
/// | 4 (the default) | 6.25 % | 3.9 kB |
/// | 7 | 0.8 % | 30 kB |
///
/// ```
/// use std::time::Duration;
/// use tokenwire::Histogram;
///
/// let mut histogram = Histogram::default();
/// for ms in 1..=100 {
///     histogram.add(Duration::from_millis(ms), 1);
/// }
/// assert_eq!(histogram.total(), 100);
/// assert_eq!(histogram.max(), Duration::from_millis(100));
/// let median = histogram.percentile(50.0).unwrap();
/// assert!(median >= Duration::from_millis(50) && median < Duration::from_millis(54));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u32]>,
    bits: u32,
    total: u64,
    max: u64,
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The buckets are left out, because there can be thousands.
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
    /// Creates an empty histogram with a precision of 1 to 10 bits.
    ///
    /// If `bits` is outside this range, the nearest value of the range is used.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        let bits = bits.clamp(1, 10);
        Self { counts: vec![0; (65 - bits as usize) << bits].into(), bits, total: 0, max: 0 }
    }

    /// Adds `time` to the histogram `times` times.
    pub fn add(&mut self, time: Duration, times: u32) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // For every u64, `bucket` returns an index that is less than the length.
        let count = &mut self.counts[bucket(nanos, self.bits)];
        *count = count.saturating_add(times);
        self.total += u64::from(times);
        self.max = self.max.max(nanos);
    }

    /// Adds the counts of `other`, which may have a different precision.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in (0..).zip(&other.counts).filter(|(_, count)| **count > 0) {
            let time = upper_end(bucket, other.bits).min(other.max);
            self.add(Duration::from_nanos(time), *count);
        }
    }

    /// Returns the sum of all counts.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns the longest time, exact. Returns zero if the histogram is empty.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// Returns the time that `percent` per cent of all times do not exceed.
    ///
    /// Returns `None` if the histogram is empty. This method reads every bucket.
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

    /// Returns the usual percentiles, or `None` if the histogram is empty.
    #[must_use]
    pub fn percentiles(&self) -> Option<Percentiles> {
        Some(Percentiles {
            p50: self.percentile(50.0)?,
            p90: self.percentile(90.0)?,
            p99: self.percentile(99.0)?,
            max: self.max(),
        })
    }

    /// Iterates over the buckets that are not empty, from short to long times.
    ///
    /// Each item is the range of times that the bucket covers, and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (Range<Duration>, u32)> {
        let end = |bucket| Duration::from_nanos(upper_end(bucket, self.bits).saturating_add(1));
        let start = move |bucket: usize| bucket.checked_sub(1).map_or(Duration::ZERO, end);
        let counts = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counts.map(move |(bucket, count)| (start(bucket)..end(bucket), *count))
    }
}

/// Returns the bucket of a time.
///
/// Below 2^`bits`, each value has its own bucket. For larger values, the top bit selects the group,
/// and the next `bits` bits select the bucket in the group.
fn bucket(nanos: u64, bits: u32) -> usize {
    if nanos < 1 << bits {
        return nanos as usize;
    }
    let shift = 63 - nanos.leading_zeros() - bits;
    ((shift as usize) << bits) + (nanos >> shift) as usize
}

/// Returns the largest value of a bucket.
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
            assert!(bucket == 0 || upper_end(bucket - 1, bits) < value, "{value} belongs in a lower bucket");
        }
    }

    #[test]
    fn percentiles_of_a_known_distribution_are_precise() {
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
    fn merged_histograms_equal_one_histogram_of_all_times() {
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
