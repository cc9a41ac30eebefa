//! `tokenwire sse`: parses the body of an event stream.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Read, Write};

use serde::Serialize;
use tokenwire::{Error, SseParser};

use crate::exit::{Exit, ExitResult, Failure};
use crate::interrupt::exit_on_interrupt;
use crate::output::json::{ErrorJson, json_line};
use crate::output::terminal::harmless;
use crate::output::text::{counted, note_error};

/// The size of the read buffer, in bytes.
const READ_BYTES: usize = 64 << 10;

const EXAMPLE: &str = r"Example:
  printf 'data: hello\n\n' | tokenwire sse --cut 1 --json";

const DETAILS: &str = r#"JSON output:
  One line for each event: {"event","data","id","retry"}
  "retry" is in milliseconds. It is null until the stream has set it.

  The last line: {"end":{"last_event_id","retry","comments","incomplete"}}
  or, after a failure: {"error":{"kind","message",..}}"#;

/// Parse the body of an event stream from standard input.
#[derive(clap::Args)]
#[command(before_help = EXAMPLE, after_long_help = DETAILS)]
pub(crate) struct Args {
    /// Feed the parser N bytes at a time; 0 means all bytes of each read. N does not change the
    /// events.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) cut: usize,
    /// Print JSON Lines.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct EventLine<'a> {
    event: &'a str,
    data: &'a str,
    id: &'a str,
    retry: Option<u64>,
}

#[derive(Serialize)]
struct EndLine<'a> {
    end: EndJson<'a>,
}

#[derive(Serialize)]
struct EndJson<'a> {
    last_event_id: &'a str,
    retry: Option<u64>,
    comments: u64,
    incomplete: bool,
}

#[derive(Serialize)]
pub(crate) struct ErrorLine<'a> {
    pub(crate) error: ErrorJson<'a>,
}

pub(crate) fn run(args: &Args) -> ExitResult {
    exit_on_interrupt()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut parser = SseParser::new();
    let mut failed = None;
    for_each_piece(&mut io::stdin().lock(), args.cut, |bytes| {
        parser.feed(bytes);
        failed = events(&mut parser, &mut out, args.json)?;
        out.flush()?;
        Ok(failed.is_none())
    })?;
    if let Some(error) = failed {
        if args.json {
            json_line(&mut out, &ErrorLine { error: ErrorJson::new(&error) })?;
        }
        out.flush()?;
        note_error(&error.to_string());
        return Ok(Exit::Failed);
    }
    let events = parser.events();
    let end = parser.finish();
    if args.json {
        let end = EndJson {
            last_event_id: &end.last_event_id,
            retry: end.retry,
            comments: end.comments,
            incomplete: end.incomplete,
        };
        json_line(&mut out, &EndLine { end })?;
    } else {
        let cut = if end.incomplete { ", incomplete" } else { "" };
        writeln!(out, "end: {}, {}{cut}", counted(events, "event"), counted(end.comments, "comment"))?;
    }
    out.flush()?;
    Ok(Exit::Complete)
}

/// Prints the complete events. Returns the error that ended the stream, if there is one.
fn events(parser: &mut SseParser, out: &mut impl Write, json: bool) -> io::Result<Option<Error>> {
    loop {
        let event = match parser.next_event() {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(error)),
        };
        if json {
            let (data, id) = (event.data, event.id);
            json_line(out, &EventLine { event: event.event, data, id, retry: event.retry })?;
            continue;
        }
        let mut text = event.event.to_owned();
        if !event.id.is_empty() {
            // Writing to a string does not fail.
            let _ = write!(text, " (id {})", event.id);
        }
        for line in event.data.split('\n') {
            let _ = write!(text, "\n    {line}");
        }
        writeln!(out, "{}", harmless(&text))?;
    }
}

/// Passes the input to `take` in pieces of `cut` bytes; the last piece may be shorter.
///
/// With 0, each read is one piece, so that `take` gets the bytes of a pipe as they arrive. Stops
/// when `take` returns false.
pub(crate) fn for_each_piece(
    input: &mut impl Read,
    cut: usize,
    mut take: impl FnMut(&[u8]) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let mut buffer = vec![0; READ_BYTES];
    let mut piece = Vec::new();
    loop {
        let bytes = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => &buffer[..len],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::Machine(format!("cannot read standard input: {error}"))),
        };
        if cut == 0 {
            if !take(bytes)? {
                return Ok(());
            }
            continue;
        }
        // A piece may need several reads, because a pipe returns the bytes that it has.
        piece.extend_from_slice(bytes);
        let whole = piece.len() - piece.len() % cut;
        for bytes in piece[..whole].chunks(cut) {
            if !take(bytes)? {
                return Ok(());
            }
        }
        piece.drain(..whole);
    }
    if !piece.is_empty() {
        take(&piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that returns at most three bytes at a time.
    struct Threes<'a>(&'a [u8]);

    impl Read for Threes<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = self.0.len().min(3);
            let (now, later) = self.0.split_at(len);
            buffer[..len].copy_from_slice(now);
            self.0 = later;
            Ok(len)
        }
    }

    #[test]
    fn pieces_have_the_requested_size_for_all_sizes_of_reads() {
        let cases: [(usize, &[&str]); 4] = [
            (0, &["abc", "def", "gh"]),
            (1, &["a", "b", "c", "d", "e", "f", "g", "h"]),
            (5, &["abcde", "fgh"]),
            (99, &["abcdefgh"]),
        ];
        for (cut, expected) in cases {
            let mut pieces = Vec::new();
            for_each_piece(&mut Threes(b"abcdefgh"), cut, |bytes| {
                pieces.push(String::from_utf8_lossy(bytes).into_owned());
                Ok(true)
            })
            .unwrap();
            assert_eq!(pieces, expected, "cut {cut}");
        }
    }
}
