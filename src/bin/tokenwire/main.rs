//! `tokenwire`: the library at a command line. One file per command; the shared parts are `options.rs` (flags
//! to a client and a request), `turn.rs` (one stream, printed), `output.rs` (what is printed, and how),
//! `terminal.rs` (the filter for model text), `status.rs` (the live line), `interrupt.rs` (Ctrl-C), `trace.rs` (when what
//! came of a stream) and `plot/` (pictures). `bench` has a folder: the load, its figures, and what measuring them costs; and so has
//! `batch`: prompts, what an earlier run left, the streams, their results in order.

mod ask;
mod batch;
mod bench;
mod chat;
mod interrupt;
mod options;
mod output;
mod parse;
mod plot;
mod replay;
mod resend;
mod shell;
mod sse;
mod status;
mod stream;
mod talk;
mod terminal;
mod tokens;
mod tools;
mod trace;
mod turn;

use std::process::ExitCode;
use std::{fmt, io};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::output::{note_error, with_causes};

/// Stream tokens, with the server's own token ids, from OpenAI-compatible model servers.
///
/// Answers go to standard output: JSON Lines with --json, text for people without. Errors go to standard
/// error.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
#[command(
    after_help = "Try it with no server at all:\n  tokenwire chat\n\nHelp of each command, with an example:\n  tokenwire stream --help"
)]
struct Cli {
    /// Log to standard error: -v counts, timings and status, -vv also text of prompts and answers; never the
    /// API key. RUST_LOG says it in full; the HTTP library's own lines, in which a server's answer stands as it
    /// came, only if it names `ureq`.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Sse(sse::Args),
    Tokens(tokens::Args),
    Parse(parse::Args),
    Stream(stream::Args),
    Chat(chat::Args),
    Batch(batch::Args),
    Replay(replay::Args),
    Resend(resend::Args),
    Models(ask::ModelsArgs),
    Tokenize(ask::TokenizeArgs),
    Detokenize(ask::DetokenizeArgs),
    Bench(bench::Args),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
}

/// In the help of every command, and in the man page.
const EXIT_CODES: &str = "Exit codes: 0 complete, 1 failed, 2 usage, 130 cancelled (Ctrl-C).";

/// How a command that has said everything ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Complete = 0,
    Failed = 1,
    Cancelled = 130,
}

/// What stops a command short.
#[derive(Debug)]
enum Failure {
    /// What the user gave cannot be used; nothing was sent.
    Usage(String),
    /// Standard input or output failed, or the machine did.
    Machine(String),
    /// Standard output failed.
    Output(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Machine(message) => f.write_str(message),
            Self::Output(error) => write!(f, "cannot write to standard output: {error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<tokenwire::Error> for Failure {
    fn from(error: tokenwire::Error) -> Self {
        let message = with_causes(&error);
        if error.kind() == tokenwire::ErrorKind::InvalidInput {
            Self::Usage(message)
        } else {
            Self::Machine(message)
        }
    }
}

type CommandResult = Result<Exit, Failure>;

fn main() -> ExitCode {
    let cli = program().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match cli {
        Ok(cli) => cli,
        Err(told) => {
            // Help is told this way too, with code 0. A closed pipe is no reason to panic.
            let _ = told.print();
            return ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(2));
        }
    };
    start_log(cli.verbose);
    let outcome = match cli.command {
        Command::Sse(args) => sse::run(&args),
        Command::Tokens(args) => tokens::run(&args),
        Command::Parse(args) => parse::run(&args),
        Command::Stream(args) => stream::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Batch(args) => batch::run(args),
        Command::Replay(args) => replay::run(&args),
        Command::Resend(args) => resend::run(&args),
        Command::Models(args) => ask::models(&args),
        Command::Tokenize(args) => ask::tokenize(&args),
        Command::Detokenize(args) => ask::detokenize(&args),
        Command::Bench(args) => bench::run(args),
        Command::Completions(args) => shell::completions(&args, program()),
        Command::Man(args) => shell::man(&args, program()),
    };
    match outcome {
        Ok(exit) => ExitCode::from(exit as u8),
        // Whoever closed the pipe knows; `tokenwire ... | head` is quiet. It is not 0: not all was said.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(failure) => {
            note_error(&failure.to_string());
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    }
}

/// The arguments, with the exit codes told under the help of each command.
fn program() -> clap::Command {
    let told = |command: clap::Command| {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        command.after_help(format!("{help}\n\n{EXIT_CODES}"))
    };
    told(Cli::command()).mut_subcommands(told)
}

fn start_log(verbose: u8) {
    let mut log = env_logger::Builder::new();
    // ureq and ureq-proto log what a server sends as it comes, a key that it echoes too: only who names them gets that.
    log.filter_level(log::LevelFilter::Warn)
        .filter_module("ureq", log::LevelFilter::Warn)
        .parse_default_env();
    match verbose {
        0 => {}
        // Only this program's words: the HTTP client below has hundreds of lines of its own.
        1 => drop(log.filter_module("tokenwire", log::LevelFilter::Debug)),
        _ => drop(log.filter_module("tokenwire", log::LevelFilter::Trace)),
    }
    // It fails only if there is a logger already, and there is none.
    let _ = log.try_init();
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        super::program().debug_assert();
    }
}
