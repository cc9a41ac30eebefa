//! The results of a load test: counts and distributions, as JSON and as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use tokenwire::{Error, Histogram, IdsExact, Outcome, StreamReport, StreamToken};

use crate::output::json::{PercentilesJson, micros};
use crate::output::text::human;

/// The precision of all histograms of a load: 0.8 %.
const PRECISION_BITS: u32 = 7;
/// The number of gaps between tokens that a stream keeps before they are added to the figures. They
/// take 64 KiB.
const MAX_GAPS: usize = 4096;

/// The measurements of one stream.
pub(crate) struct Sample {
    asked: Instant,
    first: Option<Instant>,
    last: Instant,
    /// For each token after the first, the time since the previous token. These times have not yet
    /// been added to the figures.
    gaps: Vec<Duration>,
    tokens: u64,
    ids: u64,
}

impl Sample {
    pub(crate) fn new(asked: Instant) -> Self {
        Self { asked, first: None, last: asked, gaps: Vec::new(), tokens: 0, ids: 0 }
    }

    pub(crate) fn token(&mut self, at: Instant, item: &StreamToken) {
        if self.first.is_some() {
            self.gaps.push(at - self.last);
        }
        self.first.get_or_insert(at);
        self.last = at;
        self.tokens += 1;
        if let StreamToken::Token { id: Some(_), .. } | StreamToken::Reasoning { id: Some(_), .. } = item {
            self.ids += 1;
        }
    }

    /// Returns whether the times must be added to the figures now.
    pub(crate) fn is_full(&self) -> bool {
        self.gaps.len() >= MAX_GAPS
    }
}

/// The sums over all streams that have ended.
#[derive(Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) complete: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    #[serde(rename = "elapsed_us", serialize_with = "as_micros")]
    pub(crate) elapsed: Duration,
    #[serde(rename = "first_token_us", serialize_with = "as_percentiles")]
    pub(crate) first_token: Histogram,
    #[serde(rename = "inter_token_us", serialize_with = "as_percentiles")]
    pub(crate) inter_token: Histogram,
    /// The times of complete answers.
    #[serde(rename = "answer_us", serialize_with = "as_percentiles")]
    answer: Histogram,
    /// The mean time per token after the first, one for each stream.
    #[serde(skip)]
    per_token: Histogram,
    /// The number of items received: one for each id, if the server sends ids.
    pub(crate) tokens: u64,
    /// The errors of each kind.
    errors: BTreeMap<&'static str, ErrorCount>,
    ids: u64,
    #[serde(rename = "ids_exact")]
    exact: IdsCounts,
    usage: Option<UsageSum>,
    retries: u64,
    #[serde(skip)]
    pub(crate) waited_for_consumer: Duration,
}

#[derive(Default, Serialize)]
struct ErrorCount {
    count: u64,
    /// The message of the first error.
    first: String,
}

/// How many complete streams have exact ids.
#[derive(Default, Serialize)]
struct IdsCounts {
    exact: u64,
    not_exact: u64,
    not_counted: u64,
    /// The reasons why ids are not exact, and how often each occurred.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    reasons: BTreeMap<String, u64>,
}

/// The sums of the usage that the servers reported.
#[derive(Default, Serialize)]
struct UsageSum {
    prompt_tokens: u64,
    completion_tokens: u64,
    cached_tokens: u64,
}

impl Figures {
    pub(crate) fn new() -> Self {
        let times = || Histogram::new(PRECISION_BITS);
        let (first_token, inter_token, answer, per_token) = (times(), times(), times(), times());
        Self { first_token, inter_token, answer, per_token, ..Self::default() }
    }

    /// Returns how many requests have ended.
    pub(crate) fn done(&self) -> u64 {
        self.complete + self.failed + self.cancelled
    }

    /// Takes the times between tokens from a running stream.
    pub(crate) fn take_gaps(&mut self, sample: &mut Sample) {
        sample.gaps.drain(..).for_each(|gap| self.inter_token.add(gap, 1));
    }

    /// Adds a stream that has ended, or the error that prevented it.
    pub(crate) fn add(&mut self, mut sample: Sample, report: &Result<StreamReport, Error>) {
        self.take_gaps(&mut sample);
        let Sample { asked, first, last, gaps: _, tokens, ids } = sample;
        if let Some(first) = first {
            self.first_token.add(first - asked, 1);
            if let Ok(gaps @ 1..) = u32::try_from(tokens - 1) {
                self.per_token.add((last - first) / gaps, 1);
            }
        }
        self.tokens += tokens;
        self.ids += ids;
        match report {
            Ok(report) => self.add_report(report, last - asked),
            Err(error) => self.add_error(error),
        }
    }

    fn add_report(&mut self, report: &StreamReport, answer: Duration) {
        self.retries += u64::from(report.retries);
        self.waited_for_consumer += report.waited_for_consumer;
        match (report.ending, &report.error) {
            (Outcome::Complete, _) => {
                self.complete += 1;
                self.answer.add(answer, 1);
                self.exact.add(report.ids_exact);
            }
            (_, Some(error)) => self.add_error(error),
            _ => self.cancelled += 1,
        }
        if let Some(usage) = report.usage {
            let sum = self.usage.get_or_insert_default();
            sum.prompt_tokens += u64::from(usage.prompt_tokens);
            sum.completion_tokens += u64::from(usage.completion_tokens);
            sum.cached_tokens += u64::from(usage.cached_tokens.unwrap_or(0));
        }
    }

    fn add_error(&mut self, error: &Error) {
        self.failed += 1;
        let first = || ErrorCount { count: 0, first: error.message().to_owned() };
        self.errors.entry(error.kind().as_str()).or_insert_with(first).count += 1;
    }

    pub(crate) fn tokens_per_second(&self) -> f64 {
        rate(self.tokens, self.elapsed)
    }

    pub(crate) fn requests_per_second(&self) -> f64 {
        rate(self.complete, self.elapsed)
    }

    pub(crate) fn stream_rates(&self) -> Option<StreamRates> {
        let rate = |percent| Some(rate(1, self.per_token.percentile(percent)?));
        Some(StreamRates { p50: rate(50.0)?, p10: rate(90.0)? })
    }
}

impl IdsCounts {
    fn add(&mut self, exact: IdsExact) {
        match exact {
            IdsExact::Yes => self.exact += 1,
            IdsExact::No(why) => {
                self.not_exact += 1;
                *self.reasons.entry(why.to_string()).or_default() += 1;
            }
            _ => self.not_counted += 1,
        }
    }
}

fn rate(n: u64, time: Duration) -> f64 {
    n as f64 / time.as_secs_f64().max(1e-9)
}

// ---- as JSON ----

fn as_micros<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    micros(*time).serialize(serializer)
}

fn as_percentiles<S: Serializer>(times: &Histogram, serializer: S) -> Result<S::Ok, S::Error> {
    times.percentiles().map(PercentilesJson::from).serialize(serializer)
}

/// The rates of single streams: the median, and the rate that nine of ten streams exceed.
#[derive(Serialize)]
pub(crate) struct StreamRates {
    p50: f64,
    p10: f64,
}

// ---- for people ----

/// Returns a table of times, followed by lines with a name at the left.
pub(crate) fn told(figures: &Figures) -> String {
    let mut text = format!("{:<12}{:>11}{:>11}{:>11}{:>11}\n", "", "p50", "p90", "p99", "max");
    let mut row = |name: &str, times: &Histogram| {
        let at = |percent| times.percentile(percent).map_or("-".to_owned(), human);
        let max = if times.total() > 0 { human(times.max()) } else { "-".to_owned() };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<12}{:>11}{:>11}{:>11}{max:>11}", at(50.0), at(90.0), at(99.0));
    };
    row("first token", &figures.first_token);
    row("inter-token", &figures.inter_token);
    row("answer", &figures.answer);
    let mut line = |name: &str, value: String| text += &format!("{name:<12}  {value}\n");
    line("tokens", figures.tokens_line());
    line("requests", format!("{:.2}/s in {}", figures.requests_per_second(), human(figures.elapsed)));
    line("ids", figures.ids_line());
    if let Some(usage) = &figures.usage {
        let UsageSum { prompt_tokens, completion_tokens, cached_tokens } = usage;
        line(
            "usage",
            format!(
                "{prompt_tokens} prompt tokens ({cached_tokens} from the server's cache), {completion_tokens} completion tokens"
            ),
        );
    }
    if figures.failed == 0 {
        line("errors", "none".to_owned());
    }
    for (kind, ErrorCount { count, first }) in &figures.errors {
        line("errors", format!("{count} {kind}, the first: {first}"));
    }
    if figures.retries > 0 {
        line("retries", figures.retries.to_string());
    }
    text
}

impl Figures {
    fn tokens_line(&self) -> String {
        let mut line = format!("{}, {:.1}/s in total", self.tokens, self.tokens_per_second());
        if let Some(StreamRates { p50, p10 }) = self.stream_rates() {
            let _ = write!(line, "; median stream {p50:.1}/s, slowest tenth below {p10:.1}/s");
        }
        line
    }

    fn ids_line(&self) -> String {
        let IdsCounts { exact, not_exact, not_counted, reasons } = &self.exact;
        let mut parts = Vec::new();
        for (count, what) in
            [(exact, "exact"), (not_exact, "not exact"), (not_counted, "not counted by the server")]
        {
            if *count > 0 {
                parts.push(format!("{what} in {count}"));
            }
        }
        parts.extend(reasons.iter().map(|(why, count)| format!("{count} because {why}")));
        if parts.is_empty() { "no complete stream".to_owned() } else { parts.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_without_an_answer_has_figures() {
        let figures = Figures::default();
        assert!(told(&figures).contains("no complete stream"));
        assert!(serde_json::to_string(&figures).unwrap().contains(r#""tokens":0"#));
    }
    #[test]
    fn the_times_of_a_long_stream_are_added_while_it_runs() {
        let started = Instant::now();
        let (mut figures, mut sample) = (Figures::new(), Sample::new(started));
        for ms in 0..3 * MAX_GAPS as u64 {
            let item = StreamToken::Token { text: "a".to_owned(), id: Some(7) };
            sample.token(started + Duration::from_millis(ms), &item);
            if sample.is_full() {
                figures.take_gaps(&mut sample);
            }
            assert!(sample.gaps.len() < MAX_GAPS);
        }
        let failed = Err(tokenwire::Dialect::by_name("none").unwrap_err());
        figures.add(sample, &failed);
        let tokens = 3 * MAX_GAPS as u64;
        assert_eq!((figures.tokens, figures.ids, figures.inter_token.total()), (tokens, tokens, tokens - 1));
        assert_eq!(figures.inter_token.max(), Duration::from_millis(1));
        assert!((figures.stream_rates().unwrap().p50 - 1e3).abs() < 10.0);
    }
}
