//! `tokenwire man`: the arguments as a man page, made of what clap knows of them.

use std::io::{self, Write as _};

use clap_mangen::{Man, roff};

use crate::exit::{EXIT_CODES, ExitResult, Failure};
use crate::output::text::print_whole;

/// At the foot of the page.
const VERSION: &str = concat!("tokenwire ", env!("CARGO_PKG_VERSION"));

/// Write the man page, of the program or of one command.
///
/// Without a command it has all of them.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The command to write of.
    command: Option<String>,
}

const EXAMPLES: &str = "Examples:
  tokenwire man > ~/.local/share/man/man1/tokenwire.1
  tokenwire man batch | man -l -";

pub(crate) fn run(args: &Args, mut program: clap::Command) -> ExitResult {
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
    print_whole(&page)
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
    literal("EXIT STATUS", EXIT_CODES, page)
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
    let text = after_help.split(EXIT_CODES).next().unwrap_or_default();
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
