//! `tokenwire completions`: the arguments, as shells complete them.

use clap_complete::Shell;

use crate::exit::{ExitResult, Failure};
use crate::output::text::print_whole;

/// Write what a shell needs to complete this program's arguments.
///
/// Put it where the shell looks for it, or have it read at the start of each shell.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The shell.
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

const EXAMPLES: &str = "Examples:
  tokenwire completions bash > ~/.local/share/bash-completion/completions/tokenwire
  tokenwire completions zsh > ~/.zfunc/_tokenwire        # with fpath+=~/.zfunc before compinit
  tokenwire completions fish > ~/.config/fish/completions/tokenwire.fish";

pub(crate) fn run(args: &Args, mut program: clap::Command) -> ExitResult {
    let shell: Shell = args.shell.parse().map_err(Failure::Usage)?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, "tokenwire", &mut script);
    print_whole(&script)
}
