//! `tokenwire batch`: many prompts, their answers in order.

mod answer;
mod before;
mod input;
mod results;
mod work;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use before::{Before, failed_in};
use input::{Item, Items};
use results::Results;
use tokenwire::{CompletionRequest, Tokenizer};
use work::{Tally, Work};

use crate::interrupt::Interrupt;
use crate::options::StreamFlags;
use crate::output::{counted, note, note_dim};
use crate::plot::{self, Target};
use crate::trace::Traces;
use crate::{CommandResult, Exit, Failure, bench, terminal};

const STREAMS: i64 = 8;

const EXAMPLES: &str = r#"Examples:
  tokenwire batch prompts.jsonl --base-url http://127.0.0.1:8000/v1 -o answers.jsonl -c 32
  echo '{"id":"fr","prompt":"The capital of France is","max_tokens":8}' \
    | tokenwire batch --base-url http://127.0.0.1:8000/v1

Lines of the input:
  {"prompt":"Once upon a time"}
  {"id":"ids","prompt":[785,6722,315],"temperature":0}
  {"id":"chat","messages":[{"role":"user","content":"Hi"}],"extra":{"seed":1}}"#;

/// Answer a file of prompts, so many at a time, in order.
///
/// The input is JSON Lines, a prompt a line: {"prompt": text or list of ids} or {"messages": [..]}, and where wanted "id" (text or
/// number; else the line's number), "max_tokens" and "temperature", which win over the flags, and "extra", an object of fields for
/// the request's body. A field of any other name is a mistake. Blank lines are passed over.
///
/// The output is JSON Lines, for each prompt {"id","text","ids","finish","usage","ids_exact","error"}; "error" is null, or
/// {"kind","message","retryable",..}, with what had come before it in "text" and "ids". "reasoning" and "tool_calls" are there where the
/// server told them apart. A line of the input that cannot be used has the error "invalid_input", with its number, and does not keep the rest.
///
/// With --output each result is in a file as soon as it is there, in FILE or, until its turn comes, in FILE.waiting. However
/// the program ends, the same command goes on: what has a result, be it an error, is not asked again (but see --redo-failed), and a
/// line that was half written is. Ctrl-C gives up the streams that run and keeps what has ended; a second one does not wait for them to end.
///
/// Input and results are not held in memory: a stream is at most 16 prompts for each of the streams ahead of the first result that
/// is missing, and begins only while those that wait have under 256 MiB.
///
/// At the end a line on standard error tells what came of it, unless there is --json, and another for each kind of error.
///
/// Exit code 0 if all answers are complete, those there before too, 1 if one is not or a line could not be used, 130 after
/// Ctrl-C.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The prompts; without it, or as -, standard input.
    #[arg(value_name = "FILE")]
    input: Option<PathBuf>,
    /// The server, as OpenAI's clients take it: http://127.0.0.1:8000/v1. Again for more with the same model.
    #[arg(long = "base-url", value_name = "URL", required = true)]
    base_urls: Vec<String>,
    /// The results; goes on behind those that are there. Without it, standard output, which cannot be gone on with.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Do errors in --output again that may pass (those with "retryable":true). The other results are kept; until all is done
    /// those before stand in FILE.before.
    #[arg(long, requires = "output")]
    redo_failed: bool,
    /// How many streams run at a time.
    #[arg(short = 'c', long, value_name = "STREAMS", default_value_t = STREAMS, value_parser = clap::value_parser!(i64).range(1..=bench::MAX_STREAMS))]
    streams: i64,
    /// Encode prompts that are text here, with this tokenizer.json, and send ids.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Do not stream: have the server send each answer at once. llama.cpp gives all ids only then.
    #[arg(long)]
    whole: bool,
    /// Draw the streams of this run beside each other, the first 200, into this file (SVG): when each was asked for, its first
    /// token, its tokens, calls, breaks and end.
    #[arg(long, value_name = "FILE", conflicts_with = "whole")]
    timeline: Option<PathBuf>,
    #[command(flatten)]
    flags: StreamFlags,
}

pub(crate) fn run(args: Args) -> CommandResult {
    let Args { input, base_urls, output, redo_failed, streams, tokenizer, whole, timeline, mut flags } = args;
    let streams = usize::try_from(streams).unwrap_or(1);
    let request_id = flags.request_id.take();
    let client =
        base_urls.iter().skip(1).fold(
            flags.builder(base_urls.first().map(String::as_str).unwrap_or_default())?,
            |builder, url| builder.base_url(url),
        );
    let client = client.limits(bench::limits(streams)).build()?;
    // What the flags ask for is looked at once, before anything is sent.
    flags.apply_to(CompletionRequest::text(""))?.validate()?;
    let tokenizer = tokenizer.map(Tokenizer::from_file).transpose()?;
    let input = input.filter(|path| path.as_os_str() != "-");
    let items = Items::open(input.as_deref())?;
    let timeline = Target::open("--timeline", timeline)?;
    let (results, before) = open(input.as_deref(), output.as_deref(), redo_failed)?;
    let done_before = before.done();
    if done_before > 0 {
        note(&format!("Going on: {} there already.", counted(done_before, "result")));
    }

    let request = |item: Item| {
        let at = item.at;
        let request = item.asked.and_then(|asked| {
            asked.request(&flags, tokenizer.as_ref()).map_err(|failure| failure.to_string())
        })?;
        let request = match &request_id {
            Some(id) => request.request_id(format!("{id}-{at}")),
            None => request,
        };
        Ok(request)
    };
    let interrupt = Interrupt::install()?;
    let traces = timeline.is_some().then(Traces::new);
    let work = Work::new(streams, whole, results, traces.clone());
    let of_handler = Arc::downgrade(&work);
    interrupt.running(move || {
        if let Some(work) = of_handler.upgrade() {
            work.stop();
        }
    });
    let live = Live::new(input.as_deref(), done_before);
    let ran = work.run(&client, items, before, &request, |work| live.draw(work));
    live.clear();
    let interrupted = interrupt.ended();
    let (tally, elapsed, tokens) = (work.tally(), work.started.elapsed(), work.tokens());
    let begun = work.begun();
    let waits = into_results(work).finish(ran.is_ok() && !interrupted)?;
    // All results are in the file now, those from before too: an error among them is not forgotten.
    let failed_before = match &output {
        Some(output) if done_before > 0 && ran.is_ok() && !interrupted => {
            failed_in(output)?.saturating_sub(tally.failed)
        }
        _ => 0,
    };
    if !flags.json {
        note_dim(&summary(&tally, (done_before, failed_before), tokens, elapsed));
    }
    for (kind, (count, first)) in &tally.errors {
        note(&format!("{count} {kind}, the first: {first}"));
    }
    if let Some((count, path)) = waits {
        note(&format!(
            "{} whose turn has not come, in {:?}: the same command goes on.",
            counted(count as u64, "result"),
            path.display().to_string()
        ));
    }
    if let (Some(target), Some(traces)) = (timeline, traces) {
        target.write(&plot::timeline(&traces.finish(), begun)?)?;
    }
    ran?;
    Ok(match tally.failed + failed_before {
        _ if interrupted => Exit::Cancelled,
        0 => Exit::Complete,
        _ => Exit::Failed,
    })
}

/// Where the results go, and what is there of them.
fn open(input: Option<&Path>, output: Option<&Path>, redo: bool) -> Result<(Results, Before), Failure> {
    let Some(output) = output else { return Ok((Results::to_stdout(), Before::nothing())) };
    let same = |path: &Path| path.canonicalize().ok().zip(output.canonicalize().ok());
    if input.and_then(same).is_some_and(|(one, other)| one == other) {
        return Err(Failure::Usage("--output is the input".to_owned()));
    }
    Results::to_file(output, redo)
}

/// What the handler of Ctrl-C holds for a moment is waited for.
fn into_results(mut work: Arc<Work>) -> Results {
    loop {
        match Arc::try_unwrap(work) {
            Ok(work) => return work.into_results(),
            Err(held) => work = held,
        }
        thread::yield_now();
    }
}

/// `198 complete, 2 failed, 3 retries, 51200 tokens in 61.2 s, 836.1 tokens/s`.
fn summary(tally: &Tally, before: (u64, u64), tokens: u64, elapsed: Duration) -> String {
    let mut line = format!("{} complete, {} failed", tally.complete, tally.failed);
    let (before, failed_before) = before;
    // Writing to a string does not fail.
    for (count, what) in
        [(tally.given_up, "given up"), (before, "there before"), (failed_before, "of these failed")]
    {
        if count > 0 {
            let _ = write!(line, ", {count} {what}");
        }
    }
    for (count, one, many) in [(tally.retries, "retry", "retries"), (tally.resumes, "resume", "resumes")] {
        if count > 0 {
            let _ = write!(line, ", {count} {}", if count == 1 { one } else { many });
        }
    }
    let seconds = elapsed.as_secs_f64();
    let _ = write!(line, ", {} in {seconds:.1} s", counted(tokens, "token"));
    let _ = write!(line, ", {:.1} tokens/s", tokens as f64 / seconds.max(1e-3));
    line
}

/// The line where a person looks on.
struct Live {
    is_shown: bool,
    before: u64,
    /// Prompts in all; 0 as long as it is not known, which it never is of standard input.
    total: Arc<AtomicU64>,
}

impl Live {
    fn new(input: Option<&Path>, before: u64) -> Self {
        let live = Self { is_shown: terminal::stderr_is_one(), before, total: Arc::default() };
        if let Some(path) = input.filter(|path| live.is_shown && path.is_file()) {
            let (path, total) = (path.to_owned(), live.total.clone());
            // Beside the work, and not waited for: a large file takes a while.
            let count = move || total.store(input::count(&path).unwrap_or(0), Ordering::Relaxed);
            drop(thread::Builder::new().name("tokenwire-count".to_owned()).spawn(count));
        }
        live
    }

    fn draw(&self, work: &Work) {
        if self.is_shown {
            let tally = work.tally();
            let line = self.line(&tally, work.waiting(), work.tokens(), work.started.elapsed());
            let _ = io::stderr().write_all(format!("\r\x1b[2K{line}").as_bytes());
        }
    }

    fn clear(&self) {
        if self.is_shown {
            let _ = io::stderr().write_all(b"\r\x1b[2K");
        }
    }

    /// `[12 of 200 done, 1 failed, 8 running, 3 waiting, 2100 tokens, 410 tokens/s]`: under 80 signs.
    fn line(&self, tally: &Tally, waiting: usize, tokens: u64, elapsed: Duration) -> String {
        let done = self.before + tally.complete + tally.failed;
        let of = match self.total.load(Ordering::Relaxed) {
            0 => String::new(),
            total => format!(" of {total}"),
        };
        let mut line = format!("[{done}{of} done");
        let waiting = waiting as u64;
        for (count, what) in [(tally.failed, "failed"), (tally.running, "running"), (waiting, "waiting")] {
            if count > 0 {
                let _ = write!(line, ", {count} {what}");
            }
        }
        let rate = tokens as f64 / elapsed.as_secs_f64().max(1e-3);
        let _ = write!(line, ", {rate:.0} tokens/s]");
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_live_line_says_what_there_is_to_say() {
        let live = |before, total: u64| Live { is_shown: true, before, total: Arc::new(total.into()) };
        let tally = |complete, failed, running| Tally { complete, failed, running, ..Tally::default() };
        let second = Duration::from_secs(1);
        let cases = [
            (live(0, 0), tally(0, 0, 8), 0, 0, "[0 done, 8 running, 0 tokens/s]"),
            (
                live(0, 200),
                tally(11, 1, 8),
                3,
                400,
                "[12 of 200 done, 1 failed, 8 running, 3 waiting, 400 tokens/s]",
            ),
            (live(100, 200), tally(11, 0, 0), 0, 50, "[111 of 200 done, 50 tokens/s]"),
        ];
        for (live, tally, waiting, tokens, expected) in cases {
            assert_eq!(live.line(&tally, waiting, tokens, second), expected);
        }
    }
}
