//! The policy for retries: when a failed request is sent again, and after which wait.
//!
//! The policy is pure: it takes a failure and a random number, and returns a wait. Only a request
//! that failed before its first token is sent again unchanged. After the first token, the same
//! request would produce a different answer. tokenwire then requests only the rest of the answer;
//! see `resume.rs`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use crate::config::MAX_STALE_RETRIES;
use crate::error::{Error, ErrorKind, ServerError, Timer};

/// The amount that a success returns to the budget, in fifths of a retry.
///
/// In the long run, there is therefore at most one retry for every five successes.
const REFUND: u32 = 1;
/// The amount that a retry takes from the budget, in fifths of a retry.
const COST: u32 = 5;
/// Parts of the error names that servers use for their own faults.
///
/// Examples are `server_error`, `InternalServerError`, `unavailable_error`, and TGI's `overloaded`
/// and `generation`.
const SERVERS_OWN: [&str; 7] =
    ["server", "internal", "unavailable", "overloaded", "engine", "generation", "abort"];

/// The policy for retries of requests that failed before their first token.
///
/// tokenwire retries a request after these failures, if they happen before its first token:
///
/// - The connection cannot be made, times out, or ends.
/// - The stream stays silent for [`first_token`](crate::Timeouts::first_token).
/// - The server answers with status 408, 409, 429 or 5xx, or reports such a status in the first
///   event of a stream. There is one exception: the request is not retried if the message shows
///   that the server could not read it (llama.cpp).
/// - The first event is an error without a status, and the name of the error does not show a fault
///   of the request.
///
/// The header `x-should-retry: false` in an answer prevents a retry. With `x-should-retry: true`, a
/// request is also retried if the server rejected it or did not answer with an event stream.
///
/// A server may have processed a failed request, even completely. A completion is safe to repeat;
/// you only pay for it twice. To send each request at most once, set
/// [`max_retries`](Self::max_retries) and [`max_stale_retries`](Self::max_stale_retries) to 0.
///
/// # Waits
///
/// The server can set the wait with `Retry-After` or `retry-after-ms`, up to
/// [`max_server_wait`](Self::max_server_wait). Otherwise, the wait is random ("full jitter").
/// Before the first retry, it is between zero and `min_wait`. Each further retry doubles this
/// maximum, up to `max_wait`. A cancel ends the wait at once. The deadline keeps running.
///
/// # The budget
///
/// All streams of a client share one budget of [`budget`](Self::budget) retries; resumes use it
/// too. Each retry takes one from the budget. Each stream that receives its first token returns a
/// fifth of a retry. A server that is down therefore receives at most [`budget`](Self::budget)
/// additional requests. A server that fails now and then receives at most a fifth more requests.
///
/// ```
/// let mut retry = tokenwire::RetryPolicy::default();
/// retry.max_retries = 5;
/// retry.max_wait = std::time::Duration::from_secs(30);
/// let client = tokenwire::ApiClient::builder("http://127.0.0.1:8000/v1").retry(retry).build()?;
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The maximum number of retries of one request. Default: 2. 0 turns retries off.
    pub max_retries: u32,
    /// The longest wait before the first retry. Default: 500 ms.
    pub min_wait: Duration,
    /// The longest wait that tokenwire itself chooses. Default: 8 s.
    pub max_wait: Duration,
    /// The longest wait that a server can set. Default: 60 s. A longer wait is shortened.
    pub max_server_wait: Duration,
    /// The number of retries that all streams of the client share. Default: 10.
    pub budget: u32,
    /// The maximum number of times that one request is resent on a stale connection. Default: 2.
    ///
    /// A kept connection is stale if it has served an earlier request and then closes without any
    /// byte of an answer. tokenwire sends the request again at once. Usually, the server had closed
    /// the connection before it received the request. If the server instead reads the request and
    /// then dies, the client sees the same.
    ///
    /// These retries do not count as other retries and take nothing from the budget, because their
    /// number never exceeds the number of kept connections. 0 turns these retries off.
    pub max_stale_retries: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: 2,
            min_wait: Duration::from_millis(500),
            max_wait: Duration::from_secs(8),
            max_server_wait: Duration::from_secs(60),
            budget: 10,
            max_stale_retries: MAX_STALE_RETRIES,
        }
    }
}

/// The advice about retries that the headers of an answer contain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Advice {
    /// The value of `x-should-retry`.
    pub(crate) should: Option<bool>,
    /// The wait from `retry-after-ms`, or otherwise from `Retry-After`.
    pub(crate) after: Option<Duration>,
}

impl Advice {
    /// Reads the advice from an answer's headers and skips invalid values. Dates need `now`.
    pub(crate) fn of<'a>(header: impl Fn(&str) -> Option<&'a str>, now: SystemTime) -> Self {
        let should = header("x-should-retry").and_then(|value| value.trim().parse().ok());
        let millis = header("retry-after-ms").and_then(|value| seconds(value, 1e-3));
        let after = || header("retry-after").and_then(|value| retry_after(value, now));
        Self { should, after: millis.or_else(after) }
    }
}

/// Reads `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
///
/// Some servers send a fraction of seconds. A date in the past is a wait of zero.
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    seconds(value, 1.0).or_else(|| {
        let date = httpdate::parse_http_date(value.trim()).ok()?;
        Some(date.duration_since(now).unwrap_or_default())
    })
}

fn seconds(value: &str, unit: f64) -> Option<Duration> {
    let value = value.trim().parse::<f64>().ok()? * unit;
    // A time that is too long for the clock is also a valid wait. The policy shortens it.
    let longest = Duration::from_millis(u64::MAX);
    let is_longer = value.is_finite() && value >= longest.as_secs_f64();
    if is_longer { Some(longest) } else { Duration::try_from_secs_f64(value).ok() }
}

impl RetryPolicy {
    /// Returns the wait before a retry after `error`, or `None` if it must not be retried.
    ///
    /// `error` happened before the first token. `retries` is the number of retries so far, and
    /// `random` is a number from 0 to 1.
    pub(crate) fn wait(&self, error: &Error, advice: Advice, retries: u32, random: f64) -> Option<Duration> {
        (retries < self.max_retries && self.wants(error, advice)).then(|| self.pause(advice, retries, random))
    }

    /// Returns true if a request may be retried after `error`, before its first token.
    pub(crate) fn wants(&self, error: &Error, advice: Advice) -> bool {
        // The server's advice applies to its own answers, not to failures that this client detects.
        let is_answer = matches!(error.kind(), ErrorKind::Server | ErrorKind::NotEventStream);
        match advice.should {
            Some(should) if is_answer || !should => should,
            _ => error.is_retryable(),
        }
    }

    /// Returns the wait before the next attempt.
    ///
    /// `failures` is the number of earlier failures that were followed by another attempt.
    pub(crate) fn pause(&self, advice: Advice, failures: u32, random: f64) -> Duration {
        match advice.after {
            Some(after) => after.min(self.max_server_wait),
            None => {
                let longest = self.min_wait.saturating_mul(2_u32.saturating_pow(failures)).min(self.max_wait);
                longest.mul_f64(random.clamp(0.0, 1.0))
            }
        }
    }
}

impl Error {
    /// Returns true if the same request may succeed when you send it again.
    ///
    /// This is so if the connection failed, or if the server failed temporarily. The request itself
    /// is not at fault. After the first token, a second request produces a different answer, so the
    /// client no longer retries.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind() {
            ErrorKind::Connect | ErrorKind::Refused | ErrorKind::Incomplete => true,
            ErrorKind::Timeout(timer) => !matches!(timer, Timer::Deadline),
            ErrorKind::Server => self.server_error().is_none_or(|error| {
                is_servers_own(error, |status| matches!(status, 408 | 409 | 429 | 500..))
                    && !is_unreadable_request(error)
            }),
            _ => false,
        }
    }

    /// Returns true if the stream broke after at least one token and may be resumed.
    ///
    /// This is so if the connection ended or went silent, or if the server reported a fault of its
    /// own (5xx, engine death, overload, an abort). The result is false if the request, a limit,
    /// the deadline or the guard ended the stream. It is also false before the first token; see
    /// [`is_retryable`](Self::is_retryable).
    ///
    /// A client resumes a stream only if it has a [`ResumePolicy`](crate::ResumePolicy), and if the
    /// ids and the request allow a resume; see [`NotResumable`](crate::NotResumable).
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.progress().is_some_and(|at| at.tokens > 0) && self.breaks_off()
    }

    /// Returns true if a stream that broke with this error after a token may be resumed.
    ///
    /// Unlike `is_resumable`, this function does not read the progress of the error, because the
    /// progress may not be set yet.
    pub(crate) fn breaks_off(&self) -> bool {
        match self.kind() {
            ErrorKind::Incomplete | ErrorKind::Timeout(Timer::Chunk | Timer::Content) => true,
            ErrorKind::Server => self
                .server_error()
                .is_none_or(|error| is_servers_own(error, |status| matches!(status, 500..=599))),
            _ => false,
        }
    }
}

/// Returns true if the server could not read the request. A retry cannot help then.
///
/// llama.cpp reports such errors as its own fault. Build 10434 answers 500, `server_error`, to a
/// body that is not JSON. Build 11549 sends the same answer for messages and tools in a wrong form,
/// and for images that its model does not accept. Only the message shows the reason.
fn is_unreadable_request(error: &ServerError) -> bool {
    let beginnings = [
        "[json.exception.parse_error.",
        "Failed to parse messages:",
        "Failed to parse tools:",
        "image input is not supported",
        "audio input is not supported",
    ];
    beginnings.iter().any(|beginning| error.message.starts_with(beginning))
}

/// Returns true if an error in a stream is the fault of the server.
///
/// The status decides (`is_own`). Without a status, the name of the error decides. An error that
/// has neither a status nor a name is the fault of the server, because the server had accepted the
/// request and was working on it.
fn is_servers_own(error: &ServerError, is_own: impl Fn(u16) -> bool) -> bool {
    let number = error.code.as_ref().and_then(|code| code.parse().ok());
    if let Some(status) = error.status.or(number) {
        return is_own(status);
    }
    let words = [&error.kind, &error.code].into_iter().flatten().map(|word| word.to_ascii_lowercase());
    let mut words = words.peekable();
    words.peek().is_none() || words.any(|word| SERVERS_OWN.iter().any(|part| word.contains(part)))
}

/// The retries that all streams of a client share; see [`RetryPolicy`].
#[derive(Debug)]
pub(crate) struct Budget {
    /// The part of the budget that is left, in fifths of a retry.
    left: AtomicU32,
    max: u32,
}

impl Budget {
    pub(crate) fn new(retries: u32) -> Self {
        let max = retries.saturating_mul(COST);
        Self { left: AtomicU32::new(max), max }
    }

    /// Takes one retry. Returns false if the budget is empty.
    pub(crate) fn take(&self) -> bool {
        let take = |left: u32| left.checked_sub(COST);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Adds a fifth of a retry to the budget, because a stream received its first token.
    pub(crate) fn refund(&self) {
        let give = |left: u32| (left < self.max).then(|| self.max.min(left + REFUND));
        // An error means that the budget was full.
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
    }
}

/// Returns a number from 0 to 1 that differs between threads, processes and calls.
///
/// It is not suitable for secrets.
pub(crate) fn random() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    // Each `RandomState` has different keys. The first keys of a thread come from the system.
    let bits = RandomState::new().hash_one(0_u8);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Limit, Progress};

    fn status(status: u16) -> Error {
        Error::server(ServerError { status: Some(status), ..ServerError::default() })
    }

    /// Returns an error inside a stream, with its name and code.
    fn named(kind: &str, code: &str) -> Error {
        let word = |word: &str| Some(word.to_owned()).filter(|word| !word.is_empty());
        Error::server(ServerError { kind: word(kind), code: word(code), ..ServerError::default() })
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn each_failure_is_retried_or_not_and_after_the_expected_wait() {
        let policy = RetryPolicy::default();
        let none = Advice::default();
        let after = |after| Advice { after: Some(after), should: None };
        let should = |should| Advice { after: None, should: Some(should) };
        // (error, advice, retries so far, random, wait)
        let cases = [
            (status(503), none, 0, 1.0, Some(ms(500))),
            (status(503), none, 0, 0.0, Some(ms(0))),
            (status(500), none, 1, 1.0, Some(ms(1000))),
            (status(599), none, 2, 1.0, None),
            (status(429), after(ms(1500)), 0, 0.3, Some(ms(1500))),
            (status(429), after(ms(999_000)), 1, 0.3, Some(ms(60_000))),
            (status(408), none, 0, 0.5, Some(ms(250))),
            (status(409), none, 0, 0.5, Some(ms(250))),
            (status(400), none, 0, 0.5, None),
            (status(401), none, 0, 0.5, None),
            (status(400), should(true), 0, 0.5, Some(ms(250))),
            (status(503), should(false), 0, 0.5, None),
            (Error::new(ErrorKind::Refused, ""), none, 0, 1.0, Some(ms(500))),
            (Error::new(ErrorKind::Incomplete, ""), none, 0, 1.0, Some(ms(500))),
            (Error::timeout(Timer::Connect, ms(1)), none, 0, 1.0, Some(ms(500))),
            (Error::timeout(Timer::FirstToken, ms(1)), none, 0, 1.0, Some(ms(500))),
            (Error::timeout(Timer::Deadline, ms(1)), none, 0, 1.0, None),
            (Error::cancelled(), none, 0, 1.0, None),
            (Error::protocol(""), none, 0, 1.0, None),
            // The server's advice does not apply to failures that the client detects.
            (Error::protocol(""), should(true), 0, 1.0, None),
            (Error::limit(Limit::EventBytes, 1), should(true), 0, 1.0, None),
            (Error::new(ErrorKind::NotEventStream, ""), should(true), 0, 1.0, Some(ms(500))),
            (Error::new(ErrorKind::Incomplete, ""), should(false), 0, 1.0, None),
            (Error::invalid(""), none, 0, 1.0, None),
            // If the first event of a stream is an error without a status, the name of the error
            // decides. Without a name, the server is at fault.
            (named("", ""), none, 0, 1.0, Some(ms(500))),
            (named("overloaded", ""), none, 0, 1.0, Some(ms(500))),
            (named("", "429"), none, 0, 1.0, Some(ms(500))),
            (named("BadRequestError", ""), none, 0, 1.0, None),
            (named("", "400"), none, 0, 1.0, None),
        ];
        for (error, advice, retries, random, wait) in cases {
            let found = policy.wait(&error, advice, retries, random);
            assert_eq!(found, wait, "{error:?} {advice:?} after {retries} with {random}");
        }
        let mut many = policy;
        many.max_retries = u32::MAX;
        assert_eq!(many.wait(&status(503), none, 4_000_000, 1.0), Some(ms(8000)), "the longest wait");
    }

    #[test]
    fn a_stream_is_resumable_if_it_broke_after_tokens_and_the_request_is_not_at_fault() {
        let of = |kind| Error::new(kind, "");
        let timer = |timer| Error::timeout(timer, ms(1));
        let cases = [
            (of(ErrorKind::InvalidInput), false),
            (of(ErrorKind::Connect), false),
            (of(ErrorKind::Refused), false),
            (timer(Timer::Connect), false),
            (timer(Timer::Response), false),
            (timer(Timer::FirstToken), false),
            (timer(Timer::Chunk), true),
            (timer(Timer::Content), true),
            (timer(Timer::AfterFinish), false),
            (timer(Timer::Deadline), false),
            (timer(Timer::Write), false),
            (of(ErrorKind::Incomplete), true),
            (status(400), false),
            (status(401), false),
            (status(429), false),
            (status(500), true),
            (status(503), true),
            (named("", ""), true),
            (named("server_error", ""), true),
            (named("InternalServerError", ""), true),
            (named("overloaded", ""), true),
            (named("", "503"), true),
            (named("", "400"), false),
            (named("x", "40301"), false),
            (named("BadRequestError", ""), false),
            (named("rate_limit", ""), false),
            (of(ErrorKind::NotEventStream), false),
            (of(ErrorKind::Protocol), false),
            (of(ErrorKind::Limit(Limit::EventBytes)), false),
            (Error::cancelled(), false),
            (of(ErrorKind::Unsupported), false),
        ];
        for (error, resumable) in cases {
            assert!(!error.is_resumable(), "outside a stream: {error:?}");
            let at = |tokens| error.clone().with_progress(Progress { tokens, ..Progress::default() });
            assert_eq!(at(1).is_resumable(), resumable, "{error:?}");
            assert!(!at(0).is_resumable(), "before its first token: {error:?}");
        }
    }

    #[test]
    fn retry_headers_are_read_in_every_form() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        // The headers, the value of `x-should-retry`, and the wait in ms.
        type Case = (&'static [(&'static str, &'static str)], Option<bool>, Option<u64>);
        let cases: &[Case] = &[
            (&[], None, None),
            (&[("retry-after", "2")], None, Some(2000)),
            (&[("retry-after", " 0.25 ")], None, Some(250)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")], None, Some(10_000)),
            (&[("retry-after", "Sunday, 06-Nov-94 08:49:47 GMT")], None, Some(10_000)),
            (&[("retry-after", "Sun Nov  6 08:49:47 1994")], None, Some(10_000)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")], None, Some(0)),
            (&[("retry-after-ms", "120"), ("retry-after", "2")], None, Some(120)),
            (&[("retry-after-ms", "soon"), ("retry-after", "2")], None, Some(2000)),
            (&[("retry-after", "-1")], None, None),
            (&[("retry-after", "NaN")], None, None),
            (&[("retry-after", "1e300")], None, Some(u64::MAX)),
            (&[("retry-after", "18446744073709551616")], None, Some(u64::MAX)),
            (&[("retry-after", "inf")], None, None),
            (&[("retry-after", "tomorrow")], None, None),
            (&[("x-should-retry", "true")], Some(true), None),
            (&[("x-should-retry", "false"), ("retry-after", "1")], Some(false), Some(1000)),
            (&[("x-should-retry", "maybe")], None, None),
        ];
        for (headers, should, after) in cases {
            let header = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            let expected = Advice { should: *should, after: after.map(ms) };
            assert_eq!(Advice::of(header, now), expected, "{headers:?}");
        }
    }

    #[test]
    fn the_budget_limits_retries_in_an_outage_and_each_success_returns_a_fifth() {
        let budget = Budget::new(3);
        assert_eq!((0..100).filter(|_| budget.take()).count(), 3);
        (0..4).for_each(|_| budget.refund());
        assert!(!budget.take());
        budget.refund();
        assert!(budget.take() && !budget.take());
        (0..1000).for_each(|_| budget.refund());
        assert_eq!((0..100).filter(|_| budget.take()).count(), 3, "it never contains more than at the start");
        assert!(!Budget::new(0).take());
    }

    #[test]
    fn random_numbers_differ_and_stay_within_their_bounds() {
        let numbers: Vec<f64> = (0..1000).map(|_| random()).collect();
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
        let low = numbers.iter().filter(|number| **number < 0.5).count();
        assert!((300..700).contains(&low), "{low} of 1000 are less than one half");
    }
}
