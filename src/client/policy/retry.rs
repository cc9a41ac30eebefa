//! When a failed request is sent again, and how long that waits: policy, what the server said, the client's budget.
//!
//! Pure: takes a failure and a random number, returns a wait. Only what failed before its first token is
//! sent again as it is; after that it would be another answer, and only the rest can be asked for (resume.rs).

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use crate::config::MAX_STALE_RETRIES;
use crate::error::{Error, ErrorKind, ServerError, Timer};

/// What a success gives back to the budget, in fifths of a retry: in the long run at most one request in five is a retry.
const REFUND: u32 = 1;
/// What a retry takes.
const COST: u32 = 5;
/// Parts of the names that servers give to faults of their own: `server_error`, `InternalServerError`,
/// `unavailable_error`; TGI's `overloaded` and `generation`.
const SERVERS_OWN: [&str; 7] =
    ["server", "internal", "unavailable", "overloaded", "engine", "generation", "abort"];

/// Whether and when a request that failed before its first token is sent again.
///
/// Sent again are: connections that failed or timed out; the status 408, 409, 429 and every 5xx, also as the first event of
/// a stream, save where the message tells that the request itself could not be read (llama.cpp); an error as the first event that
/// has neither a status nor a name by which it would be the request's fault; connections that ended, or streams that stayed
/// silent for [`first_token`](crate::Timeouts::first_token),
/// before the first token. `x-should-retry: false` in an answer overrules that, and `true` where the server refused or
/// answered with no event stream. A request may have been worked
/// on, even to its end, without the client knowing: a completion is safe to repeat, it is only paid twice.
/// Who wants each request to be sent once at most sets [`max_retries`](Self::max_retries) and
/// [`max_stale_retries`](Self::max_stale_retries) to 0.
///
/// The wait is `Retry-After` or `retry-after-ms` where the server says so, at most [`max_server_wait`](Self::max_server_wait),
/// otherwise random between zero and `min_wait`, doubled with each retry, at most `max_wait` ("full jitter"). A cancel
/// ends it at once; the deadline runs on.
///
/// All streams of a client share one budget of [`budget`](Self::budget) retries, resumes among them. A retry takes one, a stream
/// that came to its first token gives a fifth back. So a server that is down gets at most that many requests more than
/// without retries, and one that fails now and then at most a fifth more.
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
    /// How often one request is sent again. Default 2; 0 for never.
    pub max_retries: u32,
    /// The longest first wait. Default 500 ms.
    pub min_wait: Duration,
    /// The longest wait of all that this client chooses. Default 8 s.
    pub max_wait: Duration,
    /// The longest wait that a server can ask for; more is cut to this. Default 60 s.
    pub max_server_wait: Duration,
    /// Retries that all streams of the client have together. Default 10.
    pub budget: u32,
    /// How often one request is sent anew, at once, because the kept connection that it went out on turned out to be closed:
    /// it had served an earlier request, and no byte of an answer came. Mostly the server had closed it before; one that read
    /// the request and then died cannot be told from that. No other retry, nor the budget, is touched, for there are no
    /// more of these than kept connections. Default 2; 0 for never.
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

/// What an answer's headers say about sending again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Advice {
    /// `x-should-retry`.
    pub(crate) should: Option<bool>,
    /// `retry-after-ms`, else `Retry-After`.
    pub(crate) after: Option<Duration>,
}

impl Advice {
    /// From an answer's headers; what cannot be read is as if it were not there. `now` is for dates.
    pub(crate) fn of<'a>(header: impl Fn(&str) -> Option<&'a str>, now: SystemTime) -> Self {
        let should = match header("x-should-retry").map(str::trim) {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => None,
        };
        let millis = header("retry-after-ms").and_then(|value| seconds(value, 1e-3));
        let after = || header("retry-after").and_then(|value| retry_after(value, now));
        Self { should, after: millis.or_else(after) }
    }
}

/// `Retry-After`: seconds (a fraction is seen now and then) or a date (RFC 9110, 10.2.3); a date in the past is no wait.
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    seconds(value, 1.0).or_else(|| {
        let date = httpdate::parse_http_date(value.trim()).ok()?;
        Some(date.duration_since(now).unwrap_or_default())
    })
}

fn seconds(value: &str, unit: f64) -> Option<Duration> {
    let value = value.trim().parse::<f64>().ok()? * unit;
    // More than a clock can count is a wait all the same, which the policy cuts.
    let longest = Duration::from_millis(u64::MAX);
    let is_longer = value.is_finite() && value >= longest.as_secs_f64();
    if is_longer { Some(longest) } else { Duration::try_from_secs_f64(value).ok() }
}

impl RetryPolicy {
    /// How long to wait before sending again after `error`, which came before the first token; `None`: do not.
    /// `retries` is how often that was done already, `random` a number from 0 to 1.
    pub(crate) fn wait(&self, error: &Error, advice: Advice, retries: u32, random: f64) -> Option<Duration> {
        (retries < self.max_retries && self.wants(error, advice)).then(|| self.pause(advice, retries, random))
    }

    /// Whether a request may be sent again after `error`, which came before its first token.
    pub(crate) fn wants(&self, error: &Error, advice: Advice) -> bool {
        // The server can ask for what it answered to be asked again, not for what this client gave up by itself.
        let is_answer = matches!(error.kind(), ErrorKind::Server | ErrorKind::NotEventStream);
        match advice.should {
            Some(should) if is_answer || !should => should,
            _ => error.is_retryable(),
        }
    }

    /// The wait after `failures` failures that were followed by another attempt already.
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
    /// The same request may succeed if it is sent again: the failure was the connection's or the server's for now, not
    /// the request's. Whether it should be is another question: after a first token it would be another answer.
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

    /// The stream broke off after tokens, and could be taken up again from those: the connection ended or went silent, or the
    /// server reported a fault of its own (5xx, engine death, overload, an abort). Not where the request, a limit, the
    /// deadline or the guard ended it, and not before the first token: that is [`is_retryable`](Self::is_retryable).
    /// A client does so if it was told to ([`ResumePolicy`](crate::ResumePolicy)); whether ids and request allow it is another
    /// question ([`NotResumable`](crate::NotResumable)).
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.progress().is_some_and(|at| at.tokens > 0) && self.breaks_off()
    }

    /// The same of an error that came after tokens, but was not told so.
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

/// The server could not read the request, which will not change, and said so under a status that blames itself: llama.cpp's
/// build 10434 answers 500, `server_error`, to what is no JSON, and build 11549 to messages and tools of a wrong form and to
/// images that its model does not take. Only the message tells.
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

/// Whose fault is an error that came in the stream? A status tells, by `is_own`; else its name; and one without any is the
/// server's, for it had taken the request and was at work on it.
fn is_servers_own(error: &ServerError, is_own: impl Fn(u16) -> bool) -> bool {
    let number = error.code.as_ref().and_then(|code| code.parse().ok());
    if let Some(status) = error.status.or(number) {
        return is_own(status);
    }
    let words = [&error.kind, &error.code].into_iter().flatten().map(|word| word.to_ascii_lowercase());
    let mut words = words.peekable();
    words.peek().is_none() || words.any(|word| SERVERS_OWN.iter().any(|part| word.contains(part)))
}

/// The retries that all streams of a client have together, see [`RetryPolicy`].
#[derive(Debug)]
pub(crate) struct Budget {
    /// In fifths of a retry.
    left: AtomicU32,
    max: u32,
}

impl Budget {
    pub(crate) fn new(retries: u32) -> Self {
        let max = retries.saturating_mul(COST);
        Self { left: AtomicU32::new(max), max }
    }

    /// Takes one retry; false if there is none left.
    pub(crate) fn take(&self) -> bool {
        let take = |left: u32| left.checked_sub(COST);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// A stream came to its first token.
    pub(crate) fn refund(&self) {
        let give = |left: u32| (left < self.max).then(|| self.max.min(left + REFUND));
        // An error says that it was full.
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
    }
}

/// A number from 0 to 1 that differs between threads, processes and moments; not for secrets.
pub(crate) fn random() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    // Each `RandomState` has other keys, the first of a thread from the system.
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

    /// An error inside a stream, by its name and code.
    fn named(kind: &str, code: &str) -> Error {
        let word = |word: &str| Some(word.to_owned()).filter(|word| !word.is_empty());
        Error::server(ServerError { kind: word(kind), code: word(code), ..ServerError::default() })
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn what_is_sent_again_and_after_what_wait() {
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
            // Of what the client itself gave up, the server's advice says nothing.
            (Error::protocol(""), should(true), 0, 1.0, None),
            (Error::limit(Limit::EventBytes, 1), should(true), 0, 1.0, None),
            (Error::new(ErrorKind::NotEventStream, ""), should(true), 0, 1.0, Some(ms(500))),
            (Error::new(ErrorKind::Incomplete, ""), should(false), 0, 1.0, None),
            (Error::invalid(""), none, 0, 1.0, None),
            // As the first event of a stream, without a status: by its name, and without one it is the server's.
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
    fn a_stream_is_resumable_if_it_broke_after_tokens_and_the_request_is_not_to_blame() {
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
    fn headers_are_read_in_every_form() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        // Headers; x-should-retry; the wait in ms.
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
    fn the_budget_bounds_retries_in_an_outage_and_gives_back_a_fifth_after_it() {
        let budget = Budget::new(3);
        assert_eq!((0..100).filter(|_| budget.take()).count(), 3);
        (0..4).for_each(|_| budget.refund());
        assert!(!budget.take());
        budget.refund();
        assert!(budget.take() && !budget.take());
        (0..1000).for_each(|_| budget.refund());
        assert_eq!((0..100).filter(|_| budget.take()).count(), 3, "it never holds more than it began with");
        assert!(!Budget::new(0).take());
    }

    #[test]
    fn random_numbers_differ_and_stay_within_their_bounds() {
        let numbers: Vec<f64> = (0..1000).map(|_| random()).collect();
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
        let low = numbers.iter().filter(|number| **number < 0.5).count();
        assert!((300..700).contains(&low), "{low} of 1000 are under a half");
    }
}
