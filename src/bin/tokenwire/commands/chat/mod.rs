//! `tokenwire chat`: shows a model's turns live.

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

/// The answer of vLLM 0.32 to a prompt of five ids, recorded from its socket. It is the fixture
/// `completion-slow`.
pub(crate) const RECORDING: &[u8] = include_bytes!("vllm-completion.jsonl");

const EXAMPLES: &str = "Examples:
  tokenwire chat
  tokenwire chat --base-url http://127.0.0.1:8000/v1 'The capital of France is'
  tokenwire chat --base-url http://127.0.0.1:8000/v1 \\
    --tokenizer tokenizer.json --chat-format qwen3 --folder .";

const DETAILS: &str = r#"Without --base-url:
  You need no server. tokenwire starts a server inside itself, which replays an
  answer recorded from a real vLLM with its original timing.

With --base-url:
  TEXT is your turn. Without TEXT, each line of standard input is a turn.
  tokenwire sends your text to the completions endpoint unchanged and remembers
  no earlier turn.

With --base-url, --tokenizer and --chat-format:
  tokenwire makes the prompt from ids, in the model's own format, and remembers
  earlier turns. The model has tools: a clock, a calculator, and a reader for
  files in --folder.

Output:
  tokenwire prints the answer as it arrives. After each turn, it shows the turn
  as a tree of reasoning, content, tool calls and results, with the number of
  ids of each. With --json, the tree is printed as one line of JSON:
  {"turns":[{"role","leaves":[{"kind","text","ids"}]}]}"#;

/// Show a model's answer to a text live, then as a tree.
#[derive(clap::Args)]
#[command(before_help = EXAMPLES, after_long_help = DETAILS)]
pub(crate) struct Args {
    /// The server's base URL, such as http://127.0.0.1:8000/v1. A URL without a path gets /v1.
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Your turn. With --base-url and without TEXT, tokenwire reads lines from standard input.
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

/// Runs one turn with the recording inside this program.
fn recorded(text_is_given: bool, flags: &StreamFlags) -> ExitResult {
    let recording = Recording::from_jsonl(RECORDING)?;
    let server = testing::replay(&recording)?;
    note("--base-url is not set: tokenwire replays an answer recorded from a real vLLM");
    if text_is_given {
        note("your text is not sent: the answer is recorded");
    }
    note("to use a server: tokenwire chat --base-url http://127.0.0.1:8000/v1 'The capital of France is'");
    let asked = recording.request().json();
    let prompt: Vec<TokenId> = serde_json::from_value(asked["prompt"].clone())
        .map_err(|error| Failure::Machine(format!("invalid prompt in the recording: {error}")))?;
    let request = flags.apply_to(CompletionRequest::ids(prompt))?;
    let client = flags.client(&server.url())?;
    let parser = Some(ResponseParser::new(Dialect::by_name("hermes")?));
    let aside = Aside { parser, ..Aside::default() };
    follow::stream(&client, request, &Interrupt::install()?, flags.json, aside)
}

/// Runs a turn for each line of standard input. A failed turn does not end the loop, but it sets
/// the exit code.
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
            // One failed turn is enough for exit code 1.
            Exit::Failed => exit = Some(Exit::Failed),
            Exit::Complete => exit = exit.or(Some(Exit::Complete)),
        }
        if !json && !is_terminal {
            io::stdout().write_all(b"\n")?;
        }
    }
    exit.ok_or_else(|| Failure::Usage("missing text: give TEXT or write lines to standard input".to_owned()))
}
