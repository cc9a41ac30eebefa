//! `tokenwire`: the library at a command line. `commands` has a file or folder for each command, `flags` makes a client and
//! a request of the flags they share, `output` has everything that is printed and drawn, and `exit` how a command ends.

mod commands;
mod exit;
mod flags;
mod interrupt;
mod output;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::commands::{
    batch, bench, chat, completions, man, models, parse, replay, resend, sse, stream, tokenize, tokens,
};
use crate::exit::{EXIT_CODES, Failure};
use crate::output::text::note_error;

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
    /// Log to standard error: -v counts, timings and status, -vv also the beginning of the first event that is not JSON.
    /// Prompts and the API key are never logged. RUST_LOG sets it in full; the HTTP library's own lines, in which a server's
    /// answer stands as it came, only if it names `ureq`.
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
    Models(models::Args),
    Tokenize(tokenize::TokenizeArgs),
    Detokenize(tokenize::DetokenizeArgs),
    Bench(bench::Args),
    Completions(completions::Args),
    Man(man::Args),
}

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
        Command::Models(args) => models::run(&args),
        Command::Tokenize(args) => tokenize::tokenize(&args),
        Command::Detokenize(args) => tokenize::detokenize(&args),
        Command::Bench(args) => bench::run(args),
        Command::Completions(args) => completions::run(&args, program()),
        Command::Man(args) => man::run(&args, program()),
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
