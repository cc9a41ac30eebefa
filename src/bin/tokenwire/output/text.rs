//! Text for people: summaries, notes and errors.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use tokenwire::{Branch, Error, FinishReason, IdsExact, Outcome, StreamReport, StreamToken, Usage};

use crate::exit::{Exit, ExitResult};
use crate::output::terminal;

/// Returns the text of an item for people. Tool calls are on separate lines.
pub(crate) fn item_text(item: &StreamToken) -> Cow<'_, str> {
    match item {
        StreamToken::Token { text, .. } | StreamToken::Reasoning { text, .. } => Cow::Borrowed(text),
        StreamToken::ToolCall(call) => format!("\n{}({})\n", call.name, call.raw).into(),
        StreamToken::MalformedCall { text, reason } => format!("\n[{reason}] {text}\n").into(),
        _ => Cow::Borrowed(""),
    }
}

/// Returns `7 tokens, finish stop, ids exact, first after 0.012 s, 48.1 tokens/s`.
pub(crate) fn summary(report: &StreamReport) -> String {
    let mut line = done_summary(report.tokens, report.finish.as_ref(), report.usage, report.ids_exact);
    // Writing to a string does not fail.
    if let Some(first) = report.first_token {
        let _ = write!(line, ", first after {:.3} s", first.as_secs_f64());
    }
    if let Some(rate) = report.tokens_per_second() {
        let _ = write!(line, ", {rate:.1} tokens/s");
    }
    if !report.resumes.is_empty() {
        let _ = write!(line, ", resumed {}", counted(report.resumes.len() as u64, "time"));
    }
    if report.failovers > 0 {
        let _ = write!(line, ", moved to another server {}", counted(report.failovers.into(), "time"));
    }
    if let Some(why) = report.not_resumed {
        let _ = write!(line, ", not resumed: {why}");
    }
    match report.ending {
        Outcome::Complete => {}
        Outcome::Failed => line.push_str(", failed"),
        _ => line.push_str(", cancelled"),
    }
    line
}

pub(crate) fn done_summary(
    tokens: u64,
    finish: Option<&FinishReason>,
    usage: Option<Usage>,
    ids_exact: IdsExact,
) -> String {
    let mut line = counted(tokens, "token");
    if let Some(usage) = usage {
        let _ = write!(line, " ({} prompt + {} completion)", usage.prompt_tokens, usage.completion_tokens);
    }
    if let Some(finish) = finish {
        let _ = write!(line, ", finish {finish}");
    }
    match ids_exact {
        IdsExact::Yes => line.push_str(", ids exact"),
        IdsExact::No(why) => drop(write!(line, ", ids not exact: {why}")),
        _ => line.push_str(", ids not counted by the server"),
    }
    line
}

/// Returns `1 token`, `2 tokens`.
pub(crate) fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Returns a further part of a line, such as `, 1 retry` or `, 2 retries`; nothing for 0.
pub(crate) fn more(n: u64, one: &str, many: &str) -> String {
    match n {
        0 => String::new(),
        1 => format!(", 1 {one}"),
        n => format!(", {n} {many}"),
    }
}

/// Returns the message of an error, followed by its causes.
pub(crate) fn with_causes(error: &Error) -> String {
    let causes = causes(error);
    if causes.is_empty() { error.to_string() } else { format!("{error}: {causes}") }
}

pub(crate) fn causes(error: &Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        // Other crates often repeat the cause in their own message.
        if causes.last().is_none_or(|last| !last.contains(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    causes.join(": ")
}

/// Prints a line on standard error. Ignores errors, because standard error may be closed.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{}", terminal::harmless(line));
}

/// Prints the tree of a turn, one line for each leaf.
pub(crate) fn note_tree(branch: &Branch) {
    for line in branch.to_string().lines() {
        note_dim(line);
    }
}

/// Prints a line on standard error, dimmed if the terminal has colours.
pub(crate) fn note_dim(line: &str) {
    let line = terminal::harmless(line);
    let _ = if has_colours() {
        writeln!(io::stderr(), "\x1b[2m{line}\x1b[0m")
    } else {
        writeln!(io::stderr(), "{line}")
    };
}

pub(crate) fn note_error(message: &str) {
    let message = terminal::harmless(message);
    let _ = if has_colours() {
        writeln!(io::stderr(), "\x1b[1;31merror:\x1b[0m {message}")
    } else {
        writeln!(io::stderr(), "error: {message}")
    };
}

/// Returns whether standard error is a terminal with colours.
fn has_colours() -> bool {
    colours_are_wanted() && terminal::stderr_is_one()
}

/// Returns whether standard output is a terminal with colours.
pub(crate) fn stdout_has_colours() -> bool {
    colours_are_wanted() && stdout_is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Returns whether `NO_COLOR` is unset or empty. See <https://no-color.org>.
fn colours_are_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns whether a person reads standard output, not a program.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Reports the error of a command that sends one request.
pub(crate) fn failed(error: &Error) -> ExitResult {
    note_error(&with_causes(error));
    Ok(Exit::Failed)
}

/// Prints generated text, such as a script or a page.
pub(crate) fn print_whole(bytes: &[u8]) -> ExitResult {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(Exit::Complete)
}

/// Returns a time with its unit: `1.5 us`, `850 us`, `12.3 ms` or `4.56 s`.
pub(crate) fn human(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..1e-4 => format!("{:.1} us", seconds * 1e6),
        ..1e-3 => format!("{:.0} us", seconds * 1e6),
        ..1.0 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_fits() {
        let cases = [
            (0, "0.0 us"),
            (15, "15.0 us"),
            (850, "850 us"),
            (12_340, "12.3 ms"),
            (999_900, "999.9 ms"),
            (4_560_000, "4.56 s"),
        ];
        for (micros, text) in cases {
            assert_eq!(human(Duration::from_micros(micros)), text);
        }
    }
}
