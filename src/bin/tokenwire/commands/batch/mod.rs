//! `tokenwire batch`: answers many prompts and writes the results in order.

mod answer;
mod before;
mod input;
mod results;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use before::{Before, Found};
use input::{Item, Items};
use results::Results;
use tokenwire::{CompletionRequest, Tokenizer};
use work::{Tally, Work};

use crate::exit::{Exit, ExitResult, Failure};
use crate::flags::{MAX_STREAMS, StreamFlags, limits};
use crate::interrupt::Interrupt;
use crate::output::plot::Target;
use crate::output::status::LiveLine;
use crate::output::text::{counted, more, note, note_dim};
use crate::output::trace::Traces;

const STREAMS: i64 = 8;

const EXAMPLES: &str = r#"Examples:
  tokenwire batch prompts.jsonl --base-url http://127.0.0.1:8000/v1 \
    -o answers.jsonl -c 32
  echo '{"id":"fr","prompt":"The capital of France is","max_tokens":8}' \
    | tokenwire batch --base-url http://127.0.0.1:8000/v1"#;

const DETAILS: &str = r#"Input:
  JSON Lines, one prompt on each line:
  {"prompt":"Once upon a time"}
  {"id":"ids","prompt":[785,6722,315],"temperature":0}
  {"id":"chat","messages":[{"role":"user","content":"Hi"}],"extra":{"seed":1}}

  prompt       a text or a list of token ids
  messages     a list of chat messages, instead of a prompt
  id           a text or a number; the default is the number of the line
  max_tokens   replaces --max-tokens for this prompt
  temperature  replaces --temperature for this prompt
  extra        an object of fields for the request's body

  Any other key is an error. Blank lines are skipped.

Output:
  JSON Lines, one result for each prompt, in the order of the input:
  {"id","text","ids","finish","usage","ids_exact","error"}

  "error" is null or {"kind","message","retryable",..}. After an error, "text"
  and "ids" hold the tokens that arrived before it. "reasoning" and "tool_calls"
  are present if the server reports them separately. An invalid line has the
  error "invalid_input" with its line number, and the other lines still run.

Restart:
  With --output, each result is written to disk when it arrives. If earlier
  results are missing, it goes to FILE.waiting first, and moves to FILE when
  they are there. After Ctrl-C, a crash or a kill, run the same command again to
  continue. Prompts that have a result are not sent again, even if the result is
  an error (but see --redo-failed). Prompts whose result was written only in
  part are sent again.

  Ctrl-C cancels the running streams and keeps all finished results. A second
  Ctrl-C does not wait for the streams to end.

Memory:
  The input and the results are not held in memory. tokenwire runs at most
  16 x STREAMS prompts ahead of the first missing result. It starts no new
  stream while the waiting results take more than 256 MiB.

Summary:
  At the end, one line on standard error shows the totals, unless you set
  --json. Each kind of error gets one more line.

Exit codes of this command:
  0    all results are complete, including those of earlier runs
  1    a result is not complete, or a line is invalid
  130  after Ctrl-C"#;

/// Answer a file of prompts, several at a time, with the results in order.
#[derive(clap::Args)]
#[command(before_help = EXAMPLES, after_long_help = DETAILS)]
pub(crate) struct Args {
    /// The file of prompts (JSON Lines). Without FILE, or with -, tokenwire reads standard input.
    #[arg(value_name = "FILE")]
    input: Option<PathBuf>,
    /// The server's base URL, such as http://127.0.0.1:8000/v1. A URL without a path gets /v1.
    /// Repeat it for more servers with the same model.
    #[arg(long = "base-url", value_name = "URL", required = true)]
    base_urls: Vec<String>,
    /// The file for the results. tokenwire keeps the results in it and appends the missing ones.
    /// Without this option, results go to standard output, and a later run cannot continue the
    /// batch.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Resend each prompt whose result in --output is an error with "retryable":true. Other results
    /// stay. The earlier results are in FILE.before until all prompts are done.
    #[arg(long, requires = "output")]
    redo_failed: bool,
    /// Number of streams at a time.
    #[arg(short = 'c', long, value_name = "STREAMS", default_value_t = STREAMS, value_parser = clap::value_parser!(i64).range(1..=MAX_STREAMS))]
    streams: i64,
    /// Encode text prompts with this tokenizer.json and send ids.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Request each answer in one piece instead of a stream. llama.cpp returns all ids only in this
    /// mode.
    #[arg(long)]
    whole: bool,
    /// Draw the first 200 streams of this run into this file (SVG). The picture shows each stream's
    /// request, first token, tokens, tool calls, breaks and end.
    #[arg(long, value_name = "FILE", conflicts_with = "whole")]
    timeline: Option<PathBuf>,
    #[command(flatten)]
    flags: StreamFlags,
}

pub(crate) fn run(args: Args) -> ExitResult {
    let Args { input, base_urls, output, redo_failed, streams, tokenizer, whole, timeline, mut flags } = args;
    let streams = usize::try_from(streams).unwrap_or(1);
    let request_id = flags.request_id.take();
    let client = flags.builder_for(&base_urls)?.limits(limits(streams)).build()?;
    // Checks the flags once, before anything is sent.
    flags.apply_to(CompletionRequest::text(""))?.validate()?;
    let tokenizer = tokenizer.map(Tokenizer::from_file).transpose()?;
    let input = input.as_deref().filter(|path| path.as_os_str() != "-");
    let items = Items::open(input)?;
    let traces = Traces::new(Target::open("--timeline", timeline)?);
    let (results, before) = open(input, output.as_deref(), redo_failed)?;
    let done_before = before.done();
    if done_before > 0 {
        note(&format!("continuing: {} from earlier runs", counted(done_before, "result")));
    }

    let request = |item| request(item, &flags, tokenizer.as_ref(), request_id.as_deref());
    let interrupt = Interrupt::install()?;
    let work = Work::new(streams, whole, results, traces);
    let of_handler = Arc::clone(&work);
    interrupt.running(move || of_handler.stop());
    let live = LiveLine::new();
    let total = Arc::new(AtomicU64::new(0));
    if let Some(path) = input.filter(|path| live.is_shown && path.is_file()) {
        let (path, total) = (path.to_owned(), total.clone());
        // A separate thread counts the prompts, because a large file takes a while. The batch does
        // not wait for this thread.
        let count = move || total.store(input::count(&path).unwrap_or(0), Ordering::Relaxed);
        drop(thread::Builder::new().name("tokenwire-count".to_owned()).spawn(count));
    }
    let line = |work: &Work| live_line(&work.tally(), done_before, total.load(Ordering::Relaxed));
    let ran = work.run(&client, items, before, &request, |work| live.draw(|| line(work)));
    drop(live);
    let interrupted = interrupt.ended();

    let is_all = ran.is_ok() && !interrupted;
    let waits = work.finish(is_all)?;
    let tally = work.tally();
    // The file now has all results. Errors of earlier runs count for the exit code too.
    let failed_before = match &output {
        Some(output) if done_before > 0 && is_all => Found::at(output)?.failed.saturating_sub(tally.failed),
        _ => 0,
    };
    if !flags.json {
        note_dim(&summary(&tally, done_before, failed_before));
    }
    note_problems(&tally, waits);
    work.draw()?;
    ran?;
    Ok(match tally.failed + failed_before {
        _ if interrupted => Exit::Cancelled,
        0 => Exit::Complete,
        _ => Exit::Failed,
    })
}

/// Returns the request for a prompt, or the reason why its line is invalid. Each request has its
/// own id.
fn request(
    item: Item,
    flags: &StreamFlags,
    tokenizer: Option<&Tokenizer>,
    request_id: Option<&str>,
) -> Result<CompletionRequest, String> {
    let request = item.asked?.request(flags, tokenizer).map_err(|failure| failure.to_string())?;
    Ok(match request_id {
        Some(id) => request.request_id(format!("{id}-{}", item.at)),
        None => request,
    })
}

/// Opens the output, and returns the results that it already has.
fn open(input: Option<&Path>, output: Option<&Path>, redo: bool) -> Result<(Results, Before), Failure> {
    let Some(output) = output else { return Ok((Results::to_stdout(), Before::nothing())) };
    let same = |path: &Path| path.canonicalize().ok().zip(output.canonicalize().ok());
    if input.and_then(same).is_some_and(|(one, other)| one == other) {
        return Err(Failure::Usage("invalid --output: it is the input file".to_owned()));
    }
    Results::to_file(output, redo)
}

/// Prints a line for each kind of error, and a line for the results that wait for an earlier
/// result.
fn note_problems(tally: &Tally, waits: Option<(usize, PathBuf)>) {
    for (kind, (count, first)) in &tally.errors {
        note(&format!("{} of kind {kind}, the first: {first}", counted(*count, "error")));
    }
    if let Some((count, path)) = waits {
        note(&format!(
            "{:?} has {} that must wait for earlier ones: run the same command again to continue",
            path.display().to_string(),
            counted(count as u64, "result")
        ));
    }
}

/// Returns `198 complete, 2 failed, 3 retries, 51200 tokens in 61.2 s, 836.1 tokens/s`.
fn summary(tally: &Tally, before: u64, failed_before: u64) -> String {
    let same = |count, what| more(count, what, what);
    let parts = [
        same(tally.given_up, "cancelled"),
        same(before, "from earlier runs"),
        same(failed_before, "of these failed"),
        more(tally.retries, "retry", "retries"),
        more(tally.resumes, "resume", "resumes"),
    ];
    let seconds = tally.elapsed.as_secs_f64();
    let (tokens, rate) = (counted(tally.tokens, "token"), tally.tokens as f64 / seconds.max(1e-3));
    let (complete, failed, parts) = (tally.complete, tally.failed, parts.concat());
    format!("{complete} complete, {failed} failed{parts}, {tokens} in {seconds:.1} s, {rate:.1} tokens/s")
}

/// Returns `[12 of 200 done, 1 failed, 8 running, 3 waiting, 410 tokens/s]`, under 80 columns.
///
/// `total` is 0 while the number of prompts is unknown. For standard input it stays unknown.
fn live_line(tally: &Tally, before: u64, total: u64) -> String {
    let done = before + tally.complete + tally.failed;
    let of = if total > 0 { format!(" of {total}") } else { String::new() };
    let parts = [(tally.failed, "failed"), (tally.running, "running"), (tally.waiting, "waiting")];
    let parts = parts.map(|(count, what)| more(count, what, what)).concat();
    let rate = tally.tokens as f64 / tally.elapsed.as_secs_f64().max(1e-3);
    format!("[{done}{of} done{parts}, {rate:.0} tokens/s]")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_live_line_says_what_there_is_to_say() {
        let tally = |complete, failed, running, waiting, tokens| Tally {
            complete,
            failed,
            running,
            waiting,
            tokens,
            elapsed: Duration::from_secs(1),
            ..Tally::default()
        };
        let cases = [
            (0, 0, tally(0, 0, 8, 0, 0), "[0 done, 8 running, 0 tokens/s]"),
            (
                0,
                200,
                tally(11, 1, 8, 3, 400),
                "[12 of 200 done, 1 failed, 8 running, 3 waiting, 400 tokens/s]",
            ),
            (100, 200, tally(11, 0, 0, 0, 50), "[111 of 200 done, 50 tokens/s]"),
        ];
        for (before, total, tally, expected) in cases {
            assert_eq!(live_line(&tally, before, total), expected);
        }
    }
}
