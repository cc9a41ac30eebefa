//! `tokenwire chat`: a turn with a model, live.

mod talk;
mod tools;

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use talk::TalkFlags;
use tokenwire::recording::Recording;
use tokenwire::{CompletionRequest, Dialect, ResponseParser, TokenId, testing};

use crate::exit::{Exit, ExitResult, Failure};
use crate::flags::StreamFlags;
use crate::interrupt::Interrupt;
use crate::output::follow;
use crate::output::follow::Aside;
use crate::output::text::note;

/// vLLM 0.32 answering a prompt of five ids, recorded from its socket: `completion-slow` of the fixtures.
pub(crate) const RECORDING: &[u8] = include_bytes!("vllm-completion.jsonl");

const EXAMPLES: &str = "Examples:
  tokenwire chat
  tokenwire chat --base-url http://127.0.0.1:8000/v1 --tokenizer tokenizer.json \\
    --chat-format qwen3 --folder .
  tokenwire chat --base-url http://127.0.0.1:8000/v1 --max-tokens 64 'The capital of France is'";

/// Have a model go on from a text, live.
///
/// With no --base-url, an answer recorded from a real vLLM is served from inside this program, with its own
/// timing, and streamed from there: no server is needed.
///
/// With one, TEXT is a turn of yours; without TEXT, each line of standard input is. With --tokenizer and --chat-format the
/// prompt is made of ids in the model's own format, what was said is remembered, and the model has tools: a clock, a
/// calculator, and files in --folder. Without them, TEXT is sent to the completions endpoint as it is, and nothing is
/// remembered.
///
/// At the end of each turn its tree is shown: reasoning, content, calls and results, with the number of ids of each. With
/// --json it is a line {"turns":[{"role","leaves":[{"kind","text","ids"}]}]}.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The server, as OpenAI's clients take it: http://127.0.0.1:8000/v1.
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// What to go on from. Without it, and with --base-url, lines of standard input.
    #[arg(value_name = "TEXT")]
    text: Option<String>,
    #[command(flatten)]
    talk: TalkFlags,
    #[command(flatten)]
    flags: StreamFlags,
}

pub(crate) fn run(args: Args) -> ExitResult {
    let Args { base_url, text, talk, flags } = args;
    let Some(url) = base_url else { return recorded(text.is_some(), &flags) };
    let client = flags.client(&url)?;
    let interrupt = Interrupt::install()?;
    let talk = talk.begin(&client, &flags, &interrupt)?;
    let say = |text: &str| match &talk {
        Some(talk) => talk.say(text),
        None => {
            let request = flags.apply_to(CompletionRequest::text(text))?;
            let parser = Some(ResponseParser::new(Dialect::plain()));
            follow::stream(&client, request, &interrupt, flags.json, Aside { parser, ..Aside::default() })
        }
    };
    match text {
        Some(text) => say(&text),
        None => lines(say, flags.json),
    }
}

/// A turn with the recording in this program.
fn recorded(text_is_given: bool, flags: &StreamFlags) -> ExitResult {
    let recording = Recording::from_jsonl(RECORDING)?;
    let server = testing::replay(&recording)?;
    note("No --base-url: this is an answer recorded from a real vLLM, served from inside this program.");
    if text_is_given {
        note("Your text goes nowhere: the answer is what was recorded.");
    }
    note("For a real server: tokenwire chat --base-url http://127.0.0.1:8000/v1 'The capital of France is'");
    let asked = recording.request().json();
    let prompt: Vec<TokenId> = serde_json::from_value(asked["prompt"].clone())
        .map_err(|error| Failure::Machine(format!("the recorded prompt is no list of ids: {error}")))?;
    let request = flags.apply_to(CompletionRequest::ids(prompt))?;
    let client = flags.client(&server.url())?;
    let parser = Some(ResponseParser::new(Dialect::by_name("hermes")?));
    let aside = Aside { parser, ..Aside::default() };
    follow::stream(&client, request, &Interrupt::install()?, flags.json, aside)
}

/// A turn for each line of standard input, until it ends. A turn that fails does not end the others, but
/// tells in the exit code.
fn lines(say: impl Fn(&str) -> ExitResult, json: bool) -> ExitResult {
    let mut input = io::stdin().lock();
    let is_terminal = input.is_terminal();
    let mut exit = None;
    loop {
        if is_terminal {
            let _ = io::stderr().write_all(b"> ");
        }
        let mut line = String::new();
        let read = input.read_line(&mut line);
        if read.map_err(|error| Failure::Machine(format!("cannot read standard input: {error}")))? == 0 {
            break;
        }
        let text = line.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            continue;
        }
        match say(text)? {
            Exit::Cancelled => return Ok(Exit::Cancelled),
            // The first failure is the one that is told.
            Exit::Failed => exit = Some(Exit::Failed),
            Exit::Complete => exit = exit.or(Some(Exit::Complete)),
        }
        if !json && !is_terminal {
            io::stdout().write_all(b"\n")?;
        }
    }
    exit.ok_or_else(|| Failure::Usage("no TEXT, and not a line on standard input".to_owned()))
}
