//! `tokenwire sse`: what the event-stream layer makes of a body.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Read, Write};

use serde::Serialize;
use tokenwire::{Error, SseParser};

use crate::exit::{Exit, ExitResult, Failure};
use crate::interrupt::exit_on_interrupt;
use crate::output::json::{ErrorJson, json_line};
use crate::output::terminal::harmless;
use crate::output::text::{counted, note_error};

/// How much is read at once where no cut is asked for.
const READ_BYTES: usize = 64 << 10;

/// Parse an event-stream body from standard input.
///
/// With --json each event is a line {"event","data","id","retry"} (retry in milliseconds, null before the
/// first), and the last line is {"end":{"last_event_id","retry","comments","incomplete"}}.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  printf 'data: hello\\n\\n' | tokenwire sse --cut 1 --json")]
pub(crate) struct Args {
    /// Feed the parser this many bytes at a time; 0 = whole, as it is read. The events are the same.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) cut: usize,
    /// JSON Lines.
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

/// Prints the events that are there; the error after which there are none.
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

/// Gives `take` the input in pieces of `cut` bytes, the last one shorter; with 0 as it is read, which is live
/// on a pipe. It stops when `take` says false.
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
        // A piece may span reads: a pipe gives what it has.
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

    /// Gives its bytes three at a time.
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
    fn pieces_have_the_size_asked_for_whatever_the_reads_were() {
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
