//! Tests of the fault matrix. For each fault of a server, a stream ends in the documented way,
//! after an exact prefix of the tokens, soon after the timer that had to end it. No key is printed
//! anywhere.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

#[path = "common/fault_run.rs"]
#[allow(dead_code, unreachable_pub)]
mod fault_run;
#[path = "common/faults/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod faults;

use std::time::Duration;

use fault_run::{KEYS, LONG, Last, certificates, client, run_all, side_by_side, stream, table, timeouts};
use faults::{SHORT, TOKENS};
use tokenwire::testing::{Cut, Framing, MockServer};
use tokenwire::{ErrorKind, Timer};

#[test]
fn every_fault_ends_its_stream_as_documented_and_in_time() {
    let rows = run_all(faults::rows::faults(), KEYS);
    let mut wrong = Vec::new();
    for row in &rows {
        for (over, run) in row.outcomes() {
            if let Err(what) = row.fault.verdict(run) {
                wrong.push(format!("{}, {over}: {what}", row.fault.name));
            }
            // No other timer may have ended the stream. The table contains the measured time of
            // each run.
            if row.over(run) > LONG / 2 {
                wrong.push(format!("{}, {over}: {:?} too late", row.fault.name, row.over(run)));
            }
        }
    }
    println!("{}", table(&rows));
    assert_eq!(
        unmeasured(&table(&rows)),
        unmeasured(include_str!("../docs/faults.md")),
        "docs/faults.md is outdated: run cargo run --release --features testing --example faults -- --write"
    );
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// Returns the table without its measured numbers and without the text before it.
fn unmeasured(page: &str) -> String {
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let cells = rows.map(|row| row.split(" | ").collect::<Vec<_>>());
    let kept = cells.map(|cells| {
        let (row, measured) = cells.split_at(cells.len() - 2);
        let shape = measured.iter().map(|cell| if cell.starts_with('-') { "-" } else { "n" });
        row.iter().copied().chain(shape).collect::<Vec<_>>().join("|")
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// Breaks off a short response at every byte, with an end, an error or silence, so that every read
/// fails once.
#[test]
fn a_failure_at_any_byte_gives_a_prefix_and_its_own_error() {
    let mut jobs: Vec<Box<dyn FnOnce() -> Result<bool, String> + Send>> = Vec::new();
    for framing in [Framing::Chunked, Framing::ContentLength, Framing::CloseDelimited] {
        for n in 0..faults::short(framing).wire().len() {
            for cut in [Cut::Fin, Cut::Reset, Cut::Hang] {
                for tls in [false, true] {
                    jobs.push(Box::new(move || failed_read(framing, n, cut, tls)));
                }
            }
        }
    }
    let count = jobs.len();
    let results = side_by_side(64, jobs);
    let complete = results.iter().filter(|result| matches!(result, Ok(true))).count();
    println!("{count} streams, {complete} of them complete");
    let wrong: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(complete > count / 20 && complete < count / 2, "{complete} of {count} are complete");
}

/// Runs one failed read. Returns whether the stream was complete despite it, or an error with the
/// difference.
fn failed_read(framing: Framing, n: usize, cut: Cut, tls: bool) -> Result<bool, String> {
    let script = faults::short(framing);
    // Every third response arrives in reads of a few bytes, so that a later read fails.
    let script = if n % 3 == 0 { script.slowly(5, Duration::ZERO) } else { script };
    let mut builder = MockServer::builder();
    if tls {
        builder = builder.tls(certificates().1.clone());
    }
    let server = builder.scripted([script.cut_at(n, cut)]).expect("a server");
    let mut limits = timeouts(None);
    if cut == Cut::Hang {
        (limits.first_token, limits.chunk) = (Some(SHORT), Some(SHORT));
    }
    let client = client(&server.url(), limits, KEYS).build().expect("a client");
    let run = stream(&client, 10, KEYS);
    let wrong =
        || format!("{framing:?} {cut:?} at byte {n}, TLS {tls}: {:?}, tokens {:?}", run.last, run.tokens);
    let whole = TOKENS[..2].iter().map(|(id, text)| ((*text).to_owned(), Some(*id)));
    if !run.tokens.iter().cloned().eq(whole.take(run.tokens.len())) || run.took > LONG / 2 {
        return Err(wrong());
    }
    match &run.last {
        // The second token's chunk contains the finish reason.
        Last::Done if run.tokens.len() == 2 => Ok(true),
        Last::Error(error) if run.tokens.len() < 2 => {
            let right = match error.kind() {
                ErrorKind::Incomplete => cut != Cut::Hang,
                ErrorKind::Timeout(Timer::FirstToken) => cut == Cut::Hang && run.tokens.is_empty(),
                ErrorKind::Timeout(Timer::Chunk) => cut == Cut::Hang && run.tokens.len() == 1,
                _ => false,
            };
            if right { Ok(false) } else { Err(wrong()) }
        }
        _ => Err(wrong()),
    }
}
