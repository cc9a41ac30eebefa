//! What measuring costs: this program's own CPU time, and what it makes of a server whose figures are known.

use std::sync::Arc;
use std::time::Duration;
use std::{fs, thread};

use serde::Serialize;
use tokenwire::recording::{BodyEnd, Recording, Request};
use tokenwire::testing::{MockServer, Script};
use tokenwire::{ApiClient, CompletionRequest, Endpoint};

use super::figures::{Figures, human, percentiles};
use super::histogram::Histogram;
use super::load::{self, Load};
use crate::Failure;
use crate::output::{PercentilesJson, micros};

/// Linux counts a process's CPU time in hundredths of a second, on every architecture that Rust's std runs on.
const TICK: Duration = Duration::from_millis(10);
/// How long the known server sends in its own time.
const PACED: Duration = Duration::from_secs(1);
/// Its tokens come as far apart as those of the server under load, between these bounds.
const INTERVALS: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];
/// Tokens, of all streams together, that it sends as fast as they are taken.
const FLAT_OUT_TOKENS: usize = 20_000;
/// Above this share of the machine's CPU time, or of what the known server reaches, this program may be what is slow.
const MAX_SHARE: f64 = 0.5;
/// A shorter load is not judged: its CPU time is a few ticks, and most of it the start of the program.
const MIN_JUDGED: Duration = Duration::from_millis(500);
/// Streams that stood still for longer than this share of the time, because their tokens were not taken.
const MAX_WAITED: f64 = 0.01;

/// This process's CPU time so far, to a hundredth of a second; `None` where the system does not tell it in a file.
pub(crate) fn cpu_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the program's name in parentheses, may hold spaces. Of the rest, user and system time are the
    // 12th and 13th.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(TICK * (ticks()? + ticks()?))
}

/// What a load cost here.
pub(crate) struct Cost {
    pub(crate) cpu: Option<Duration>,
    pub(crate) cores: usize,
    /// The server ran in this process, and its CPU time cannot be told from the client's.
    pub(crate) with_server: bool,
    pub(crate) check: Option<SelfCheck>,
}

/// The same client, and as many streams, with a server in this program.
pub(crate) struct SelfCheck {
    /// How far apart it sent its tokens, and how far apart they were taken.
    interval: Duration,
    paced: Histogram,
    /// Tokens a second if it does not wait between them.
    flat_out: f64,
}

impl SelfCheck {
    /// Takes a bit over a second. `begin` is told of each load before it runs; `None` if one was stopped.
    pub(crate) fn run(
        streams: usize,
        measured: &Histogram,
        mut begin: impl FnMut(Arc<Load>),
    ) -> Result<Option<Self>, Failure> {
        let [least, most] = INTERVALS;
        let interval = measured.percentile(50.0).unwrap_or(least).clamp(least, most);
        let tokens = PACED.div_duration_f64(interval) as u32;
        let paced = ask(streams, answer((0..tokens).map(|n| interval * n)), &mut begin)?;
        let each = FLAT_OUT_TOKENS.div_ceil(streams);
        let flat_out = ask(streams, answer((0..each).map(|_| Duration::ZERO)), &mut begin)?;
        let stopped = paced.cancelled + flat_out.cancelled > 0;
        let flat_out = flat_out.tokens_per_second();
        Ok((!stopped).then_some(Self { interval, paced: paced.inter_token, flat_out }))
    }
}

/// A load of `streams` requests at once, each with this answer.
fn ask(streams: usize, answer: Recording, begin: &mut impl FnMut(Arc<Load>)) -> Result<Figures, Failure> {
    let server = MockServer::scripted([Script::replay(&answer, 1.0)])?;
    let client =
        ApiClient::builder(server.url()).endpoint(Endpoint::OpenAi).limits(load::limits(streams)).retries(0);
    let load = Load::new(streams, streams as u64, None);
    begin(Arc::clone(&load));
    load.run(&client.build()?, &|_| CompletionRequest::ids([1]), |_| {})
}

/// A stream as vLLM writes it, with a token at each of these times.
fn answer(times: impl Iterator<Item = Duration>) -> Recording {
    let request = Request::new("POST", "/v1/completions");
    let mut recording = Recording::of_body(request, 200, [("content-type", "text/event-stream")]);
    let event = |finish: &str, id: usize| {
        format!(
            "data: {{\"id\":\"cmpl-82f210a989343595\",\"object\":\"text_completion\",\"created\":1795361205,\
             \"model\":\"m\",\"choices\":[{{\"index\":0,\"text\":\" token\",\"logprobs\":null,\"finish_reason\":{finish},\
             \"stop_reason\":null,\"prompt_token_ids\":null,\"token_ids\":[{id}]}}]}}\n\n"
        )
    };
    let mut last = Duration::ZERO;
    for (id, at) in times.enumerate() {
        recording.push(at, event("null", id));
        last = at;
    }
    recording.push(last, event("\"length\"", 0) + "data: [DONE]\n\n");
    recording.finish(BodyEnd::Complete, None);
    recording
}

impl Cost {
    pub(crate) fn new(cpu: Option<Duration>, with_server: bool, check: Option<SelfCheck>) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self { cpu, cores, with_server, check }
    }

    /// The share of all the CPU time that there was.
    fn cpu_share(&self, figures: &Figures) -> Option<f64> {
        let time = figures.elapsed.as_secs_f64() * self.cores as f64;
        Some(self.cpu?.as_secs_f64() / time.max(1e-9))
    }

    fn cpu_per_token(&self, figures: &Figures) -> Option<Duration> {
        let tokens = u32::try_from(figures.tokens).ok().filter(|tokens| *tokens > 0)?;
        Some(self.cpu? / tokens)
    }

    /// Why the figures may be this program's and not the server's.
    pub(crate) fn warnings(&self, figures: &Figures, streams: usize) -> Vec<String> {
        let mut warnings = Vec::new();
        if figures.elapsed < MIN_JUDGED {
            return warnings;
        }
        let percent = |share: f64| (share * 100.0).round();
        if let Some(share) = self.cpu_share(figures).filter(|share| *share > MAX_SHARE && !self.with_server) {
            let share = percent(share);
            warnings.push(format!(
                "this program used {share} % of the CPU time of this machine's cores: it may be what is slow, not the server"
            ));
        }
        let waited = figures.waited_for_consumer.as_secs_f64()
            / (figures.elapsed.as_secs_f64() * streams as f64).max(1e-9);
        if waited > MAX_WAITED {
            let share = percent(waited);
            warnings.push(format!(
                "streams stood still for {share} % of the time because this program did not take their tokens"
            ));
        }
        let flat_out = self.check.as_ref().map(|check| check.flat_out);
        if let Some(flat_out) = flat_out.filter(|most| figures.tokens_per_second() > most * MAX_SHARE) {
            let reached = figures.tokens_per_second();
            warnings.push(format!(
                "the load reached {reached:.0} tokens/s, and this program takes {flat_out:.0} tokens/s from a server inside it: \
                 it may be what is slow, not the server"
            ));
        }
        warnings
    }
}

// ---- told ----

#[derive(Serialize)]
pub(crate) struct CostJson {
    cpu_us: Option<u64>,
    cpu_us_per_token: Option<f64>,
    cpu_share: Option<f64>,
    cores: usize,
    cpu_includes_server: bool,
    waited_for_consumer_us: u64,
    self_check: Option<SelfCheckJson>,
}

#[derive(Serialize)]
struct SelfCheckJson {
    interval_us: u64,
    inter_token_us: Option<PercentilesJson>,
    tokens_per_second: f64,
}

impl CostJson {
    pub(crate) fn new(cost: &Cost, figures: &Figures) -> Self {
        let check = cost.check.as_ref().map(|check| SelfCheckJson {
            interval_us: micros(check.interval),
            inter_token_us: percentiles(&check.paced),
            tokens_per_second: check.flat_out,
        });
        Self {
            cpu_us: cost.cpu.map(micros),
            cpu_us_per_token: cost.cpu_per_token(figures).map(|time| time.as_secs_f64() * 1e6),
            cpu_share: cost.cpu_share(figures),
            cores: cost.cores,
            cpu_includes_server: cost.with_server,
            waited_for_consumer_us: micros(figures.waited_for_consumer),
            self_check: check,
        }
    }
}

/// Lines as those of the figures.
pub(crate) fn told(cost: &Cost, figures: &Figures, streams: usize) -> String {
    let cpu =
        match (cost.cpu.filter(|cpu| *cpu >= TICK), cost.cpu_per_token(figures), cost.cpu_share(figures)) {
            (Some(cpu), Some(each), Some(share)) => format!(
                "{} of CPU time, {} a token, {:.0} % of {} cores{}",
                human(cpu),
                human(each),
                share * 100.0,
                cost.cores,
                if cost.with_server { "; the server's is in it" } else { "" }
            ),
            (Some(cpu), ..) => format!("{} of CPU time", human(cpu)),
            (None, ..) if cost.cpu.is_some() => format!("under {} of CPU time", human(TICK)),
            (None, ..) => "CPU time not known on this system".to_owned(),
        };
    let mut text = format!("{:<12}  {cpu}\n", "own cost");
    if let Some(SelfCheck { interval, paced, flat_out }) = &cost.check {
        let at = |percent| paced.percentile(percent).map_or("-".to_owned(), human);
        text += &format!(
            "{:<12}  a token every {} from a server inside this program to each of {streams} streams:\n\
             {:<12}  p50 {}, p99 {}, max {}; as fast as it can, {flat_out:.0} tokens/s\n",
            "self-check",
            human(*interval),
            "",
            at(50.0),
            at(99.0),
            human(paced.max()),
        );
    }
    text
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
    fn each_reason_to_doubt_is_told() {
        let check = |flat_out| SelfCheck { interval: TICK, paced: Histogram::default(), flat_out };
        let second = Duration::from_secs(1);
        let cases = [
            (second / 10, Duration::ZERO, 1e6, None),
            (second * 3 / 4, Duration::ZERO, 1e6, Some("75 %")),
            (second / 10, second / 5, 1e6, Some("stood still for 10 %")),
            (second / 10, Duration::ZERO, 150.0, Some("150 tokens/s")),
        ];
        for (cpu, waited, flat_out, word) in cases {
            let mut figures = Figures::default();
            (figures.elapsed, figures.tokens, figures.waited_for_consumer) = (second, 100, waited);
            let mut cost = Cost::new(Some(cpu), false, Some(check(flat_out)));
            cost.cores = 1;
            let told = cost.warnings(&figures, 2);
            assert_eq!(told.len(), usize::from(word.is_some()), "{told:?}");
            assert!(word.is_none_or(|word| told[0].contains(word)), "{told:?}");
        }
    }
}
