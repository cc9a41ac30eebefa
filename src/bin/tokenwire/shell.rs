//! `tokenwire completions` and `tokenwire man`: the arguments, told to shells and to man. Both are made of what clap knows of them.

use std::io::{self, Write as _};

use clap_complete::Shell;
use clap_mangen::{Man, roff};

use crate::{CommandResult, Exit, Failure};

/// At the foot of the page.
const VERSION: &str = concat!("tokenwire ", env!("CARGO_PKG_VERSION"));

/// Write what a shell needs to complete this program's arguments.
///
/// Put it where the shell looks for it, or have it read at the start of each shell.
#[derive(clap::Args)]
#[command(after_help = COMPLETIONS)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

const COMPLETIONS: &str = "Examples:
  tokenwire completions bash > ~/.local/share/bash-completion/completions/tokenwire
  tokenwire completions zsh > ~/.zfunc/_tokenwire        # with fpath+=~/.zfunc before compinit
  tokenwire completions fish > ~/.config/fish/completions/tokenwire.fish";

/// Write the man page, of the program or of one command.
///
/// Without a command it has all of them.
#[derive(clap::Args)]
#[command(after_help = MAN)]
pub(crate) struct ManArgs {
    /// The command to write of.
    command: Option<String>,
}

const MAN: &str = "Examples:
  tokenwire man > ~/.local/share/man/man1/tokenwire.1
  tokenwire man batch | man -l -";

pub(crate) fn completions(args: &CompletionsArgs, mut program: clap::Command) -> CommandResult {
    let shell: Shell = args.shell.parse().map_err(Failure::Usage)?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, "tokenwire", &mut script);
    print(&script)
}

pub(crate) fn man(args: &ManArgs, mut program: clap::Command) -> CommandResult {
    // Only then the commands know their names in full.
    program.build();
    let mut page = Vec::new();
    match &args.command {
        Some(name) => {
            let command = program.find_subcommand(name).filter(|command| command.get_name() != "help");
            let command = command.ok_or_else(|| Failure::Usage(format!("there is no command {name:?}")))?;
            // As git does it: `man tokenwire-batch`.
            whole(&command.clone().display_name(format!("tokenwire-{name}")), &mut page)?;
        }
        None => {
            whole(&program, &mut page)?;
            for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
                section(command, &mut page)?;
            }
        }
    }
    print(&page)
}

/// A page by itself.
fn whole(command: &clap::Command, page: &mut Vec<u8>) -> io::Result<()> {
    let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command.clone().after_help("").after_long_help("")).source(VERSION);
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    examples(&example, page)?;
    literal("EXIT STATUS", crate::EXIT_CODES, page)
}

/// A command as a part of the page of all.
fn section(command: &clap::Command, page: &mut Vec<u8>) -> io::Result<()> {
    let name = format!("tokenwire {}", command.get_name());
    let mut heading = roff::Roff::new();
    heading.control("SH", [name.as_str()]);
    heading.to_writer(page)?;
    let man = Man::new(command.clone());
    // Their own headings would stand beside the commands.
    let mut parts = Vec::new();
    man.render_synopsis_section(&mut parts)?;
    man.render_description_section(&mut parts)?;
    man.render_options_section(&mut parts)?;
    let parts = String::from_utf8_lossy(&parts).replace(".SH ", ".SS ");
    page.write_all(parts.as_bytes())
}

fn examples(after_help: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let text = after_help.split(crate::EXIT_CODES).next().unwrap_or_default();
    literal("EXAMPLES", text.trim_end(), page)
}

/// Text whose lines stay as they are.
fn literal(heading: &str, text: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let mut out = roff::Roff::new();
    out.control("SH", [heading]).control("nf", []);
    for line in text.lines() {
        out.text([roff::roman(line)]);
    }
    out.control("fi", []);
    out.to_writer(page)
}

/// Whole or not at all: a part of a script is none.
fn print(bytes: &[u8]) -> CommandResult {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(Exit::Complete)
}
