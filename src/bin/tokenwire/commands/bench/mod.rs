//! `tokenwire bench`: a load on a server, and its figures.

mod cost;
mod figures;
mod load;
mod over_time;
mod plot;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use cost::{Cost, SelfCheck, cpu_time};
use figures::{Figures, Rates};
use load::{Load, Progress};
use serde::Serialize;
use tokenwire::recording::Recording;
use tokenwire::testing::{self, MockServer};
use tokenwire::{ApiClient, CompletionRequest, TokenId};

use crate::commands::chat;
use crate::exit::{Exit, ExitResult, Failure};
use crate::flags::{MAX_STREAMS, StreamFlags, limits};
use crate::interrupt::Interrupt;
use crate::output::json::json_line;
use crate::output::plot::{self as drawing, Target};
use crate::output::status::LiveLine;
use crate::output::terminal;
use crate::output::text::{counted, note};
use crate::output::trace::Traces;

const STREAMS: usize = 8;
const REQUESTS_PER_STREAM: u64 = 8;
const MAX_TOKENS: u32 = 64;
const PROMPT: &str = "Write a long story about a lighthouse keeper and the sea.\n\n";

const EXAMPLES: &str = "Examples:
  tokenwire bench
  tokenwire bench --base-url http://127.0.0.1:8000/v1 -c 16 -n 200 --max-tokens 128 \\
    --plot latency.svg";

/// Load a server with streams, and tell how fast its tokens come.
///
/// So many streams run at a time, each a new request as soon as the one before has ended, until all requests are done. Times are
/// taken where a program gets its tokens, at the receiving end of the channel: reading, decoding and waking up are in them. The
/// first token counts from the moment the request is made, attempts that failed included. Tokens that came in one read follow
/// each other within microseconds.
///
/// Every request has the same prompt. A server with a prefix cache computes it once; `usage` tells how many tokens came from there.
///
/// What this program costs is told too: its CPU time, and, unless --no-self-check, what it makes of a server inside
/// itself that sends a token now and then, as often as yours does. Differences of that size are its own.
///
/// With --json one line: {"bench":{"streams","requests","complete","failed","elapsed_us","first_token_us","inter_token_us",
/// "tokens_per_second","errors",..,"cost","warnings"}}. The exit code is 1 if a stream failed. Ctrl-C ends it with the figures
/// so far.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The server, as OpenAI's clients take it: http://127.0.0.1:8000/v1. Without it, an answer recorded from a real vLLM is
    /// served from inside this program.
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// How many streams run at a time.
    #[arg(short = 'c', long, value_name = "STREAMS", default_value_t = STREAMS as i64, value_parser = clap::value_parser!(i64).range(1..=MAX_STREAMS))]
    streams: i64,
    /// How many requests there are in all [default: 8 for each stream].
    #[arg(short = 'n', long, value_name = "REQUESTS", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// The prompt as text [default: one that asks for a story].
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "prompt_ids")]
    prompt: Option<String>,
    /// The prompt as token ids: 785,6722,315.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    prompt_ids: Option<Vec<TokenId>>,
    /// Draw the time between tokens, along the run and as a distribution, into this file (SVG).
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Draw the streams beside each other, the first 200, into this file (SVG): when each was asked for, its first token, its
    /// tokens, calls, breaks and end.
    #[arg(long, value_name = "FILE")]
    timeline: Option<PathBuf>,
    /// Leave out the second that tells what this program itself adds.
    #[arg(long)]
    no_self_check: bool,
    #[command(flatten)]
    flags: StreamFlags,
}

pub(crate) fn run(args: Args) -> ExitResult {
    let Args { base_url, streams, requests, prompt, prompt_ids, plot, timeline, no_self_check, mut flags } =
        args;
    let streams = usize::try_from(streams).unwrap_or(STREAMS);
    let requests = requests.unwrap_or(REQUESTS_PER_STREAM.saturating_mul(streams as u64));
    flags.max_tokens.get_or_insert(MAX_TOKENS);
    let request_id = flags.request_id.take();
    let inside = if base_url.is_none() { Some(recorded()?) } else { None };
    let url = base_url.or(inside.as_ref().map(MockServer::url)).unwrap_or_default();
    let client = flags.builder(&url)?.limits(limits(streams)).build()?;
    let request = flags.apply_to(match prompt_ids {
        Some(ids) => CompletionRequest::ids(ids),
        None => CompletionRequest::text(prompt.unwrap_or_else(|| PROMPT.to_owned())),
    })?;
    // No two requests share an id.
    let request = |n: u64| match &request_id {
        Some(id) => request.clone().request_id(format!("{id}-{n}")),
        None => request.clone(),
    };
    request(0).validate()?;
    let plot = Target::open("--plot", plot)?;
    let timeline = Target::open("--timeline", timeline)?;

    let interrupt = Interrupt::install()?;
    let traces = timeline.is_some().then(|| Arc::new(Traces::new()));
    let load = Load::new(streams, requests, traces.clone());
    let cpu_before = cpu_time();
    let figures = measure(&load, &client, &request, requests, &interrupt)?;
    let cpu = cpu_time().zip(cpu_before).map(|(after, before)| after - before);
    let mut check = None;
    if !interrupt.ended() && !no_self_check && figures.tokens > 0 {
        let begin = |load: Arc<Load>| interrupt.running(move || load.stop());
        check = SelfCheck::run(streams, &figures.inter_token, begin)?;
    }
    let interrupted = interrupt.ended();
    let cost = Cost::new(cpu, inside.is_some(), &figures, check);
    let bench = Bench { streams, requests, figures, cost };
    if let Some(target) = plot {
        bench.draw(target)?;
    }
    if let (Some(target), Some(traces)) = (timeline, traces) {
        target.write(&drawing::timeline(&traces.finish(), requests))?;
    }
    bench.print(flags.json)?;
    Ok(match bench.figures.failed {
        _ if interrupted => Exit::Cancelled,
        0 => Exit::Complete,
        _ => Exit::Failed,
    })
}

/// The server in this program.
fn recorded() -> Result<MockServer, Failure> {
    note("No --base-url: this is an answer recorded from a real vLLM, served from inside this program.");
    note("For a real server: tokenwire bench --base-url http://127.0.0.1:8000/v1 -c 16 -n 200");
    Ok(testing::replay(&Recording::from_jsonl(chat::RECORDING)?)?)
}

/// Runs the load, with a line about it where a person looks on.
fn measure(
    load: &Arc<Load>,
    client: &ApiClient,
    request: load::MakeRequest<'_>,
    requests: u64,
    interrupt: &Interrupt,
) -> Result<Figures, Failure> {
    let of_handler = Arc::clone(load);
    interrupt.running(move || of_handler.stop());
    let live = LiveLine::new();
    load.run(client, request, |progress| live.draw(|| live_line(progress, requests)))
}

fn live_line(progress: &Progress, requests: u64) -> String {
    let Progress { done, failed, tokens, elapsed } = progress;
    let rate = *tokens as f64 / elapsed.as_secs_f64().max(1e-3);
    let failed = if *failed > 0 { format!(", {failed} failed") } else { String::new() };
    format!("[{done} of {requests} requests{failed}, {tokens} tokens, {rate:.0} tokens/s]")
}

/// A load that has run, and what is said of it.
struct Bench {
    streams: usize,
    requests: u64,
    figures: Figures,
    cost: Cost,
}

#[derive(Serialize)]
struct Line<'a> {
    bench: BenchJson<'a>,
}

#[derive(Serialize)]
struct BenchJson<'a> {
    streams: usize,
    requests: u64,
    #[serde(flatten)]
    figures: &'a Figures,
    #[serde(flatten)]
    rates: Rates,
    cost: &'a Cost,
    warnings: Vec<String>,
}

impl Bench {
    fn print(&self, json: bool) -> Result<(), Failure> {
        let Self { streams, requests, figures, cost } = self;
        let (streams, requests) = (*streams, *requests);
        let warnings = cost.warnings(figures, streams);
        let mut out = io::stdout().lock();
        if json {
            let bench = BenchJson { streams, requests, figures, rates: figures.into(), cost, warnings };
            json_line(&mut out, &Line { bench })?;
        } else {
            let text = self.heading() + &figures::told(figures) + &cost.text(streams);
            out.write_all(terminal::harmless(&text).as_bytes())?;
            out.flush()?;
            warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
        }
        Ok(())
    }

    fn heading(&self) -> String {
        let Figures { complete, failed, cancelled, .. } = &self.figures;
        let mut line = format!("{complete} of {} requests complete", self.requests);
        for (count, what) in [(failed, "failed"), (cancelled, "cut short")] {
            if *count > 0 {
                line += &format!(", {count} {what}");
            }
        }
        line + &format!(", {} at a time\n\n", counted(self.streams as u64, "stream"))
    }

    fn draw(&self, target: Target) -> Result<(), Failure> {
        let Some(svg) = plot::svg(&self.figures, self.streams) else {
            note("No plot: no token followed another.");
            return Ok(());
        };
        target.write(&svg)
    }
}
