//! `tokenwire bench`: runs a load on a server and reports its figures.

mod cost;
mod figures;
mod load;
mod plot;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use cost::{Cost, cpu_time};
use figures::{Figures, StreamRates};
use load::Load;
use serde::Serialize;
use tokenwire::recording::Recording;
use tokenwire::testing::{self, MockServer};
use tokenwire::{CompletionRequest, TokenId};

use crate::commands::chat;
use crate::exit::{Exit, ExitResult, Failure};
use crate::flags::{MAX_STREAMS, StreamFlags, limits};
use crate::interrupt::Interrupt;
use crate::output::json::json_line;
use crate::output::plot::Target;
use crate::output::status::LiveLine;
use crate::output::terminal;
use crate::output::text::{counted, more, note};
use crate::output::trace::Traces;

const STREAMS: usize = 8;
const REQUESTS_PER_STREAM: u64 = 8;
const MAX_TOKENS: u32 = 64;
const PROMPT: &str = "Write a long story about a lighthouse keeper and the sea.\n\n";

const EXAMPLES: &str = "Examples:
  tokenwire bench
  tokenwire bench --base-url http://127.0.0.1:8000/v1 -c 16 -n 200 \\
    --max-tokens 128 --plot latency.svg";

const DETAILS: &str = r#"Load:
  STREAMS streams run at a time. When one ends, the next request starts, until
  all requests are done. Every request has the same prompt. A server with a
  prefix cache computes it once, and the line "usage" reports how many tokens
  came from the cache.

Times:
  Times are measured where a program receives its tokens, at the receiving end
  of the channel. They include the time to read, to decode and to wake the
  consumer's thread. The time to the first token starts when the request is made
  and includes failed attempts. Tokens that arrive in one read follow each other
  within microseconds.

Cost:
  tokenwire also reports its own CPU time, and warns you if tokenwire itself
  may be the bottleneck.

JSON output:
  One line: {"bench":{"streams","requests","complete","failed","elapsed_us",
  "first_token_us","inter_token_us","tokens_per_second","errors",..,"cost",
  "warnings"}}

End:
  Ctrl-C ends the load and prints the figures so far. The exit code is 1 if a
  stream failed."#;

/// Load a server with streams and measure how fast its tokens arrive.
#[derive(clap::Args)]
#[command(before_help = EXAMPLES, after_long_help = DETAILS)]
pub(crate) struct Args {
    /// The server's base URL, such as http://127.0.0.1:8000/v1. A URL without a path gets /v1.
    /// Without this option, tokenwire starts a server inside itself, which replays an answer
    /// recorded from a real vLLM.
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Number of streams at a time.
    #[arg(short = 'c', long, value_name = "STREAMS", default_value_t = STREAMS as i64, value_parser = clap::value_parser!(i64).range(1..=MAX_STREAMS))]
    streams: i64,
    /// Total number of requests [default: 8 for each stream].
    #[arg(short = 'n', long, value_name = "REQUESTS", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// The prompt as text [default: a request for a long story].
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "prompt_ids")]
    prompt: Option<String>,
    /// The prompt as token ids: 785,6722,315.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    prompt_ids: Option<Vec<TokenId>>,
    /// Draw the distribution of the time between tokens into this file (SVG).
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Draw the first 200 streams into this file (SVG). The picture shows each stream's request,
    /// first token, tokens, tool calls, breaks and end.
    #[arg(long, value_name = "FILE")]
    timeline: Option<PathBuf>,
    /// Has no effect. There is no self-check any more.
    #[arg(long, hide = true)]
    no_self_check: bool,
    #[command(flatten)]
    flags: StreamFlags,
}

pub(crate) fn run(args: Args) -> ExitResult {
    let Args { base_url, streams, requests, prompt, prompt_ids, plot, timeline, no_self_check: _, mut flags } =
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
    // Each request has its own id.
    let request = |n: u64| match &request_id {
        Some(id) => request.clone().request_id(format!("{id}-{n}")),
        None => request.clone(),
    };
    request(0).validate()?;
    let plot = Target::open("--plot", plot)?;
    let traces = Traces::new(Target::open("--timeline", timeline)?);

    let interrupt = Interrupt::install()?;
    let load = Load::new(streams, requests, traces);
    let of_handler = Arc::clone(&load);
    interrupt.running(move || of_handler.stop());
    let cpu_before = cpu_time();
    let live = LiveLine::new();
    let figures = load.run(&client, &request, |load| live.draw(|| load.live_line()))?;
    drop(live);
    let cpu = cpu_time().zip(cpu_before).map(|(after, before)| after - before);
    let interrupted = interrupt.ended();
    let cost = Cost::new(cpu, inside.is_some(), &figures);
    let bench = Bench { streams, requests, figures, cost };
    if let Some(target) = plot {
        bench.draw(&target)?;
    }
    load.draw()?;
    bench.print(flags.json)?;
    Ok(match bench.figures.failed {
        _ if interrupted => Exit::Cancelled,
        0 => Exit::Complete,
        _ => Exit::Failed,
    })
}

/// Starts the server inside this program, which replays the recorded answer.
fn recorded() -> Result<MockServer, Failure> {
    note("--base-url is not set: tokenwire measures an answer recorded from a real vLLM");
    note("to use a server: tokenwire bench --base-url http://127.0.0.1:8000/v1 -c 16 -n 200");
    Ok(testing::replay(&Recording::from_jsonl(chat::RECORDING)?)?)
}

/// A finished load, with its figures and its cost.
struct Bench {
    streams: usize,
    requests: u64,
    figures: Figures,
    cost: Cost,
}

#[derive(Serialize)]
struct BenchJson<'a> {
    streams: usize,
    requests: u64,
    #[serde(flatten)]
    figures: &'a Figures,
    tokens_per_second: f64,
    stream_tokens_per_second: Option<StreamRates>,
    requests_per_second: f64,
    cost: &'a Cost,
    warnings: &'a [String],
}

impl Bench {
    fn print(&self, json: bool) -> Result<(), Failure> {
        let Self { streams, requests, figures, cost } = self;
        let (streams, requests) = (*streams, *requests);
        let warning = cost.warning(figures, streams);
        let mut out = io::stdout().lock();
        if json {
            let bench = BenchJson {
                streams,
                requests,
                figures,
                tokens_per_second: figures.tokens_per_second(),
                stream_tokens_per_second: figures.stream_rates(),
                requests_per_second: figures.requests_per_second(),
                cost,
                warnings: warning.as_slice(),
            };
            json_line(&mut out, &BTreeMap::from([("bench", bench)]))?;
        } else {
            let text = self.heading() + &figures::told(figures) + &cost.text();
            out.write_all(terminal::harmless(&text).as_bytes())?;
            out.flush()?;
            warning.iter().for_each(|warning| note(&format!("warning: {warning}")));
        }
        Ok(())
    }

    fn heading(&self) -> String {
        let Figures { complete, failed, cancelled, .. } = self.figures;
        format!(
            "{complete} of {} requests complete{}{}, {} at a time\n\n",
            self.requests,
            more(failed, "failed", "failed"),
            more(cancelled, "cancelled", "cancelled"),
            counted(self.streams as u64, "stream")
        )
    }

    fn draw(&self, target: &Target) -> Result<(), Failure> {
        let Some(svg) = plot::svg(&self.figures, self.streams) else {
            note("no plot: no stream received two tokens");
            return Ok(());
        };
        target.write(&svg)
    }
}
