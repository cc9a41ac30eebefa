//! `tokenwire batch`: many prompts, their answers in order.

mod answer;
mod before;
mod input;
mod results;
mod work;

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

use crate::exit::{Exit, ExitResult, Failure};
use crate::flags::{MAX_STREAMS, StreamFlags, limits};
use crate::interrupt::Interrupt;
use crate::output::plot::{self, Target};
use crate::output::status::LiveLine;
use crate::output::text::{counted, more, note, note_dim};
use crate::output::trace::Traces;

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
    #[arg(short = 'c', long, value_name = "STREAMS", default_value_t = STREAMS, value_parser = clap::value_parser!(i64).range(1..=MAX_STREAMS))]
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

pub(crate) fn run(args: Args) -> ExitResult {
    let Args { input, base_urls, output, redo_failed, streams, tokenizer, whole, timeline, mut flags } = args;
    let streams = usize::try_from(streams).unwrap_or(1);
    let request_id = flags.request_id.take();
    let client = flags.builder_for(&base_urls)?.limits(limits(streams)).build()?;
    // The flags are checked once, before anything is sent.
    flags.apply_to(CompletionRequest::text(""))?.validate()?;
    let tokenizer = tokenizer.map(Tokenizer::from_file).transpose()?;
    let input = input.as_deref().filter(|path| path.as_os_str() != "-");
    let items = Items::open(input)?;
    let timeline = Target::open("--timeline", timeline)?;
    let (results, before) = open(input, output.as_deref(), redo_failed)?;
    let done_before = before.done();
    if done_before > 0 {
        note(&format!("Going on: {} there already.", counted(done_before, "result")));
    }

    let request = |item| request(item, &flags, tokenizer.as_ref(), request_id.as_deref());
    let interrupt = Interrupt::install()?;
    let traces = timeline.is_some().then(|| Arc::new(Traces::new()));
    let work = Work::new(streams, whole, results, traces.clone());
    let of_handler = Arc::clone(&work);
    interrupt.running(move || of_handler.stop());
    let live = Live::new(input, done_before);
    let ran = work.run(&client, items, before, &request, |work| live.draw(work));
    drop(live);
    let interrupted = interrupt.ended();

    let is_all = ran.is_ok() && !interrupted;
    let waits = work.finish(is_all)?;
    let tally = work.tally();
    // All results are in the file now, those from before too: an error among them is not forgotten.
    let failed_before = match &output {
        Some(output) if done_before > 0 && is_all => failed_in(output)?.saturating_sub(tally.failed),
        _ => 0,
    };
    if !flags.json {
        note_dim(&summary(&tally, (done_before, failed_before), work.tokens(), work.started.elapsed()));
    }
    note_problems(&tally, waits);
    if let (Some(target), Some(traces)) = (timeline, traces) {
        target.write(&plot::timeline(&traces.finish(), work.begun()))?;
    }
    ran?;
    Ok(match tally.failed + failed_before {
        _ if interrupted => Exit::Cancelled,
        0 => Exit::Complete,
        _ => Exit::Failed,
    })
}

/// The request for a prompt, or why its line cannot be used. No two requests share an id.
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

/// Where the results go, and what is there of them.
fn open(input: Option<&Path>, output: Option<&Path>, redo: bool) -> Result<(Results, Before), Failure> {
    let Some(output) = output else { return Ok((Results::to_stdout(), Before::nothing())) };
    let same = |path: &Path| path.canonicalize().ok().zip(output.canonicalize().ok());
    if input.and_then(same).is_some_and(|(one, other)| one == other) {
        return Err(Failure::Usage("--output is the input".to_owned()));
    }
    Results::to_file(output, redo)
}

/// A line for each kind of error, and one for the results that wait for their turn.
fn note_problems(tally: &Tally, waits: Option<(usize, PathBuf)>) {
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
}

/// `198 complete, 2 failed, 3 retries, 51200 tokens in 61.2 s, 836.1 tokens/s`.
fn summary(tally: &Tally, (before, failed_before): (u64, u64), tokens: u64, elapsed: Duration) -> String {
    let same = |count, what| more(count, what, what);
    let parts = [
        same(tally.given_up, "given up"),
        same(before, "there before"),
        same(failed_before, "of these failed"),
        more(tally.retries, "retry", "retries"),
        more(tally.resumes, "resume", "resumes"),
    ];
    let (seconds, tokens_text) = (elapsed.as_secs_f64(), counted(tokens, "token"));
    let rate = tokens as f64 / seconds.max(1e-3);
    let (complete, failed, parts) = (tally.complete, tally.failed, parts.concat());
    format!(
        "{complete} complete, {failed} failed{parts}, {tokens_text} in {seconds:.1} s, {rate:.1} tokens/s"
    )
}

/// How far the batch is, where a person looks on.
struct Live {
    line: LiveLine,
    before: u64,
    /// Prompts in all; 0 as long as it is not known, which it never is of standard input.
    total: Arc<AtomicU64>,
}

impl Live {
    fn new(input: Option<&Path>, before: u64) -> Self {
        let live = Self { line: LiveLine::new(), before, total: Arc::default() };
        if let Some(path) = input.filter(|path| live.line.is_shown && path.is_file()) {
            let (path, total) = (path.to_owned(), live.total.clone());
            // Beside the work, and not waited for: a large file takes a while.
            let count = move || total.store(input::count(&path).unwrap_or(0), Ordering::Relaxed);
            drop(thread::Builder::new().name("tokenwire-count".to_owned()).spawn(count));
        }
        live
    }

    fn draw(&self, work: &Work) {
        let (tally, elapsed) = (work.tally(), work.started.elapsed());
        self.line.draw(|| self.text(&tally, work.waiting(), work.tokens(), elapsed));
    }

    /// `[12 of 200 done, 1 failed, 8 running, 3 waiting, 2100 tokens, 410 tokens/s]`: under 80 signs.
    fn text(&self, tally: &Tally, waiting: usize, tokens: u64, elapsed: Duration) -> String {
        let done = self.before + tally.complete + tally.failed;
        let of = match self.total.load(Ordering::Relaxed) {
            0 => String::new(),
            total => format!(" of {total}"),
        };
        let same = |count, what| more(count, what, what);
        let parts =
            [same(tally.failed, "failed"), same(tally.running, "running"), same(waiting as u64, "waiting")];
        let rate = tokens as f64 / elapsed.as_secs_f64().max(1e-3);
        format!("[{done}{of} done{}, {rate:.0} tokens/s]", parts.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_live_line_says_what_there_is_to_say() {
        let live = |before, total: u64| Live {
            line: LiveLine { is_shown: false },
            before,
            total: Arc::new(total.into()),
        };
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
            assert_eq!(live.text(&tally, waiting, tokens, second), expected);
        }
    }
}
