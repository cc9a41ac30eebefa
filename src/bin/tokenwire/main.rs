//! `tokenwire`: the command-line program of the library.
//!
//! | module | contents |
//! | --- | --- |
//! | `commands` | a file or a folder for each command |
//! | `flags` | the shared flags, and the clients and requests built from them |
//! | `output` | everything that the program prints or draws |
//! | `exit` | exit codes and failures |
//! | `interrupt` | the action of Ctrl-C |
//! | `suggest` | likely flags for a misspelt flag |

mod commands;
mod exit;
mod flags;
mod interrupt;
mod output;
mod suggest;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::commands::{
    batch, bench, chat, completions, man, models, parse, replay, resend, sse, stream, tokenize, tokens,
};
use crate::exit::{EXIT_CODES, Failure};
use crate::output::text::note_error;

/// The order of each help text: the purpose, the usage and the examples, then the rest.
const HELP: &str = "\
{about}

{usage-heading} {usage}

{before-help}{all-args}{after-help}";

const EXAMPLES: &str = "Examples:
  tokenwire chat             # needs no server
  tokenwire stream --help";

const DETAILS: &str = "Output:
  Results go to standard output: text, or JSON Lines with --json.
  Errors and notes go to standard error.

Logging:
  RUST_LOG sets the log level of each module. -v and -vv override it for
  tokenwire. The HTTP library's own lines contain the server's answer unchanged.
  They appear only if RUST_LOG names `ureq`.";

/// Stream tokens, with the server's token ids, from OpenAI-compatible servers.
#[derive(Parser)]
#[command(version, max_term_width = 100, before_help = EXAMPLES, after_long_help = DETAILS)]
struct Cli {
    /// Log to standard error: -v logs counts, timings and status codes; -vv also logs the start of
    /// the first event that is not JSON. Prompts and the API key are never logged.
    #[arg(short, long, global = true, display_order = 1000, action = clap::ArgAction::Count)]
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
        Err(error) => {
            // clap returns help as an error too, with code 0. A closed pipe must not cause a panic.
            let error = suggest::with_likely_flags(error, &mut program());
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
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
        // `tokenwire ... | head` prints no error. The exit code is not 0, because output is
        // missing.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(failure) => {
            note_error(&failure.to_string());
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    }
}

/// Returns the definition of the arguments. The help of each command ends with the exit codes.
fn program() -> clap::Command {
    let with_exit_codes = |command: clap::Command| {
        let details = command.get_after_long_help().map(|details| format!("{details}\n\n"));
        let details = details.unwrap_or_default() + EXIT_CODES;
        command.help_template(HELP).after_help(EXIT_CODES).after_long_help(details)
    };
    with_exit_codes(Cli::command()).mut_subcommands(with_exit_codes)
}

fn start_log(verbose: u8) {
    let mut log = env_logger::Builder::new();
    // ureq and ureq-proto log the server's bytes unchanged, and the server may echo the key.
    // These lines appear only if RUST_LOG names them.
    log.filter_level(log::LevelFilter::Warn)
        .filter_module("ureq", log::LevelFilter::Warn)
        .parse_default_env();
    match verbose {
        0 => {}
        // Only tokenwire's own lines are shown, because the HTTP library logs hundreds of lines.
        1 => drop(log.filter_module("tokenwire", log::LevelFilter::Debug)),
        _ => drop(log.filter_module("tokenwire", log::LevelFilter::Trace)),
    }
    // This fails only if a logger is already installed. The program installs no other logger.
    let _ = log.try_init();
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        super::program().debug_assert();
    }
}
