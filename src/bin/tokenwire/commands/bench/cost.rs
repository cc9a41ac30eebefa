//! The cost of measuring: the CPU time of tokenwire, and its figures for a known server.

use std::sync::Arc;
use std::time::Duration;
use std::{fs, thread};

use serde::Serialize;
use tokenwire::testing::{MockServer, Script};
use tokenwire::{ApiClient, CompletionRequest, Endpoint, Histogram};

use super::figures::Figures;
use super::load::Load;
use crate::exit::Failure;
use crate::flags::limits;
use crate::output::json::{PercentilesJson, micros};
use crate::output::text::human;

/// The unit of a process's CPU time on Linux: a hundredth of a second, on every architecture that
/// std supports.
const TICK: Duration = Duration::from_millis(10);
/// How long the known server sends tokens with pauses.
const PACED: Duration = Duration::from_secs(1);
/// The shortest and the longest pause. Between them, the pause equals the median time between the
/// tokens of the measured server.
const INTERVALS: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];
/// How many tokens the known server sends without pauses, over all streams.
const FLAT_OUT_TOKENS: usize = 20_000;
/// Above this share of the machine's CPU time, or of the rate of the known server, tokenwire may be
/// the bottleneck.
const MAX_SHARE: f64 = 0.5;
/// A shorter load gives no warnings. Its CPU time is a few ticks, mostly from the program's start.
const MIN_JUDGED: Duration = Duration::from_millis(500);
/// The share of the time that streams may wait because tokenwire does not take their tokens.
const MAX_WAITED: f64 = 0.01;

/// Returns the CPU time of this process in steps of 10 ms; `None` on a system without `/proc`.
pub(crate) fn cpu_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses, which may contain spaces. After it,
    // the 12th and 13th fields are the user time and the system time.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(TICK * (ticks()? + ticks()?))
}

/// The cost of a load on this machine.
#[derive(Serialize)]
pub(crate) struct Cost {
    cpu_us: Option<u64>,
    cpu_us_per_token: Option<f64>,
    /// The share of the CPU time of all cores, from 0 to 1.
    cpu_share: Option<f64>,
    cores: usize,
    /// Whether the server ran in this process. Its CPU time is then part of the figures.
    cpu_includes_server: bool,
    waited_for_consumer_us: u64,
    self_check: Option<SelfCheck>,
}

/// The figures of the same number of streams from a known server inside this program.
#[derive(Serialize)]
pub(crate) struct SelfCheck {
    /// The interval at which the server sent tokens.
    interval_us: u64,
    /// The times between tokens as received.
    inter_token_us: Option<PercentilesJson>,
    /// The rate without pauses.
    tokens_per_second: f64,
}

impl SelfCheck {
    /// Runs the check, which takes slightly more than a second.
    ///
    /// `begin` gets each load before it runs. Returns `None` if a load was stopped.
    pub(crate) fn run(
        streams: usize,
        measured: &Histogram,
        mut begin: impl FnMut(Arc<Load>),
    ) -> Result<Option<Self>, Failure> {
        let [least, most] = INTERVALS;
        let interval = measured.percentile(50.0).unwrap_or(least).clamp(least, most);
        let paced = PACED.div_duration_f64(interval) as usize;
        let paced = load_known_server(streams, paced, interval, &mut begin)?;
        let each = FLAT_OUT_TOKENS.div_ceil(streams);
        let flat_out = load_known_server(streams, each, Duration::ZERO, &mut begin)?;
        let was_stopped = paced.cancelled + flat_out.cancelled > 0;
        Ok((!was_stopped).then(|| Self {
            interval_us: micros(interval),
            inter_token_us: paced.inter_token.percentiles().map(PercentilesJson::from),
            tokens_per_second: flat_out.tokens_per_second(),
        }))
    }
}

/// Runs `streams` streams against a server that writes chunks like vLLM: `tokens` tokens, one every
/// `interval`.
fn load_known_server(
    streams: usize,
    tokens: usize,
    interval: Duration,
    begin: &mut impl FnMut(Arc<Load>),
) -> Result<Figures, Failure> {
    let event = |finish: &str, id: usize| {
        format!(
            "{{\"id\":\"cmpl-82f210a989343595\",\"object\":\"text_completion\",\"created\":1795361205,\
             \"model\":\"m\",\"choices\":[{{\"index\":0,\"text\":\" token\",\"logprobs\":null,\"finish_reason\":{finish},\
             \"stop_reason\":null,\"prompt_token_ids\":null,\"token_ids\":[{id}]}}]}}"
        )
    };
    let mut script = Script::events::<&str>([]);
    for id in 0..tokens {
        script = script.pause_until(interval.mul_f64(id as f64)).event(&event("null", id));
    }
    let server = MockServer::scripted([script.event(&event("\"length\"", 0)).event("[DONE]")])?;
    let client =
        ApiClient::builder(server.url()).endpoint(Endpoint::OpenAi).limits(limits(streams)).retries(0);
    let load = Load::new(streams, streams as u64, None);
    begin(Arc::clone(&load));
    load.run(&client.build()?, &|_| CompletionRequest::ids([1]), |_| {})
}

impl Cost {
    pub(crate) fn new(
        cpu: Option<Duration>,
        cpu_includes_server: bool,
        figures: &Figures,
        self_check: Option<SelfCheck>,
    ) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let seconds = cpu.map(|cpu| cpu.as_secs_f64());
        let per_token = |seconds: f64| seconds * 1e6 / figures.tokens as f64;
        Self {
            cpu_us: cpu.map(micros),
            cpu_us_per_token: seconds.filter(|_| figures.tokens > 0).map(per_token),
            cpu_share: seconds.map(|cpu| cpu / (figures.elapsed.as_secs_f64() * cores as f64).max(1e-9)),
            cores,
            cpu_includes_server,
            waited_for_consumer_us: micros(figures.waited_for_consumer),
            self_check,
        }
    }

    /// Returns the reasons to doubt that the figures are the server's.
    pub(crate) fn warnings(&self, figures: &Figures, streams: usize) -> Vec<String> {
        if figures.elapsed < MIN_JUDGED {
            return Vec::new();
        }
        let cpu = self.cpu_share.filter(|_| !self.cpu_includes_server).unwrap_or(0.0);
        let waited = figures.waited_for_consumer.as_secs_f64()
            / (figures.elapsed.as_secs_f64() * streams as f64).max(1e-9);
        let reached = figures.tokens_per_second();
        let flat_out = self.self_check.as_ref().map_or(f64::INFINITY, |check| check.tokens_per_second);
        let doubts = [
            (
                cpu > MAX_SHARE,
                format!(
                    "tokenwire used {:.0} % of this machine's CPU time: tokenwire may be the bottleneck",
                    cpu * 100.0
                ),
            ),
            (
                waited > MAX_WAITED,
                format!(
                    "streams waited for {:.0} % of the time because tokenwire did not take their tokens",
                    waited * 100.0
                ),
            ),
            (
                reached > flat_out * MAX_SHARE,
                format!(
                    "the load reached {reached:.0} tokens/s, more than half of the {flat_out:.0} tokens/s that \
                     tokenwire reached in its self-check: tokenwire may be the bottleneck"
                ),
            ),
        ];
        doubts.into_iter().filter(|(applies, _)| *applies).map(|(_, doubt)| doubt).collect()
    }

    /// Returns the lines of the table for people.
    pub(crate) fn text(&self, streams: usize) -> String {
        let micros = Duration::from_micros;
        let cpu = match (self.cpu_us, self.cpu_us_per_token, self.cpu_share) {
            (None, ..) => "CPU time unknown on this system".to_owned(),
            (Some(0), ..) => format!("less than {} of CPU time", human(TICK)),
            (Some(cpu), Some(each), Some(share)) => format!(
                "{} of CPU time, {} per token, {:.0} % of {} cores{}",
                human(micros(cpu)),
                human(micros(1).mul_f64(each)),
                share * 100.0,
                self.cores,
                if self.cpu_includes_server { ", including the server inside tokenwire" } else { "" }
            ),
            (Some(cpu), ..) => format!("{} of CPU time", human(micros(cpu))),
        };
        let mut text = format!("{:<12}  {cpu}\n", "own cost");
        if let Some(SelfCheck { interval_us, inter_token_us, tokens_per_second }) = &self.self_check {
            text += &format!(
                "{:<12}  a server inside tokenwire sends a token every {} to each of {streams} streams:\n",
                "self-check",
                human(micros(*interval_us))
            );
            let at = |time: fn(&PercentilesJson) -> u64| {
                inter_token_us.as_ref().map_or("-".to_owned(), |times| human(micros(time(times))))
            };
            let (p50, p99, max) = (at(|times| times.p50), at(|times| times.p99), at(|times| times.max));
            text += &format!(
                "{:<12}  p50 {p50}, p99 {p99}, max {max}; without pauses {tokens_per_second:.0} tokens/s\n",
                ""
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn work_takes_cpu_time() {
        let before = cpu_time().unwrap();
        let mut n = 0_u64;
        while cpu_time().unwrap() == before {
            n = std::hint::black_box(n + 1);
        }
        assert!(cpu_time().unwrap() > before);
    }

    #[test]
    fn each_reason_to_doubt_the_figures_is_a_warning() {
        let second = Duration::from_secs(1);
        // The share of the CPU time, how long streams waited, the rate of the known server, a part
        // of the warning.
        let cases = [
            (0.1, Duration::ZERO, 1e6, None),
            (0.75, Duration::ZERO, 1e6, Some("75 %")),
            (0.1, second / 5, 1e6, Some("waited for 10 %")),
            (0.1, Duration::ZERO, 150.0, Some("150 tokens/s")),
        ];
        for (cpu_share, waited, tokens_per_second, word) in cases {
            let mut figures = Figures::default();
            (figures.elapsed, figures.tokens, figures.waited_for_consumer) = (second, 100, waited);
            let check = SelfCheck { interval_us: 10, inter_token_us: None, tokens_per_second };
            let mut cost = Cost::new(None, false, &figures, Some(check));
            cost.cpu_share = Some(cpu_share);
            let warnings = cost.warnings(&figures, 2);
            assert_eq!(warnings.len(), usize::from(word.is_some()), "{warnings:?}");
            assert!(word.is_none_or(|word| warnings[0].contains(word)), "{warnings:?}");
        }
    }
}
