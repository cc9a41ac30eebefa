//! `tokenwire completions`: completion scripts for shells.

use clap_complete::Shell;

use crate::exit::{ExitResult, Failure};
use crate::output::text::print_whole;

/// Print a script that completes tokenwire's arguments in a shell.
#[derive(clap::Args)]
#[command(before_help = EXAMPLES, after_long_help = DETAILS)]
pub(crate) struct Args {
    /// The shell.
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

const EXAMPLES: &str = "Examples:
  tokenwire completions bash \\
    > ~/.local/share/bash-completion/completions/tokenwire
  tokenwire completions zsh > ~/.zfunc/_tokenwire
  tokenwire completions fish > ~/.config/fish/completions/tokenwire.fish";

const DETAILS: &str = "Installation:
  Write the script to a file that the shell reads, as in the examples.
  For zsh, put `fpath+=~/.zfunc` before `compinit` in ~/.zshrc.";

pub(crate) fn run(args: &Args, mut program: clap::Command) -> ExitResult {
    let shell: Shell = args.shell.parse().map_err(Failure::Usage)?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, "tokenwire", &mut script);
    print_whole(&script)
}
