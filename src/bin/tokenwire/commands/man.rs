//! `tokenwire man`: the man page, generated from clap's definition of the arguments.

use std::io::{self, Write as _};

use clap_mangen::{Man, roff};

use crate::exit::{EXIT_CODES, ExitResult, Failure};
use crate::output::text::print_whole;

/// The text at the foot of the page.
const VERSION: &str = concat!("tokenwire ", env!("CARGO_PKG_VERSION"));

/// Print the man page of the program, or of one command.
#[derive(clap::Args)]
#[command(before_help = EXAMPLES)]
pub(crate) struct Args {
    /// The command. Without it, the page describes all commands.
    command: Option<String>,
}

const EXAMPLES: &str = "Examples:
  tokenwire man > ~/.local/share/man/man1/tokenwire.1
  tokenwire man batch | man -l -";

pub(crate) fn run(args: &Args, mut program: clap::Command) -> ExitResult {
    // This sets the full names of the commands.
    program.build();
    let mut page = Vec::new();
    match &args.command {
        Some(name) => {
            let command = program.find_subcommand(name).filter(|command| command.get_name() != "help");
            let command = command.ok_or_else(|| {
                Failure::Usage(format!("unknown command {name:?}: tokenwire --help lists the commands"))
            })?;
            // The same form as in git: `man tokenwire-batch`.
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

/// Writes a complete page.
fn whole(command: &clap::Command, page: &mut Vec<u8>) -> io::Result<()> {
    let man = Man::new(command.clone().after_help("").after_long_help("")).source(VERSION);
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    examples_and_details(command, "SH", page)?;
    literal("SH", "EXIT STATUS", EXIT_CODES, page)
}

/// Writes the section of one command in the page of all commands.
fn section(command: &clap::Command, page: &mut Vec<u8>) -> io::Result<()> {
    let name = format!("tokenwire {}", command.get_name());
    let mut heading = roff::Roff::new();
    heading.control("SH", [name.as_str()]);
    heading.to_writer(page)?;
    let man = Man::new(command.clone());
    // The parts become subsections of the command.
    let mut parts = Vec::new();
    man.render_synopsis_section(&mut parts)?;
    man.render_description_section(&mut parts)?;
    man.render_options_section(&mut parts)?;
    let parts = String::from_utf8_lossy(&parts).replace(".SH ", ".SS ");
    page.write_all(parts.as_bytes())?;
    examples_and_details(command, "SS", page)
}

fn examples_and_details(command: &clap::Command, level: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let examples = command.get_before_help().map(ToString::to_string).unwrap_or_default();
    let (_heading, examples) = examples.split_once('\n').unwrap_or_default();
    literal(level, "EXAMPLES", examples, page)?;
    let details = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    match details.split(EXIT_CODES).next().map(str::trim_end) {
        Some("") | None => Ok(()),
        Some(details) => literal(level, "DETAILS", details, page),
    }
}

/// Writes text whose line breaks stay as they are.
fn literal(level: &str, heading: &str, text: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let mut out = roff::Roff::new();
    out.control(level, [heading]).control("nf", []);
    for line in text.lines() {
        out.text([roff::roman(line)]);
    }
    out.control("fi", []);
    out.to_writer(page)
}
