//! The fault matrix: whatever a server does, a stream ends in the one way that is written down for it, after an exact prefix
//! of the tokens, soon after the timer that had to end it; and a key is shown nowhere.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

#[path = "common/fault_run.rs"]
#[allow(dead_code, unreachable_pub)]
mod fault_run;
#[path = "common/faults.rs"]
#[allow(dead_code, unreachable_pub)]
mod faults;

use std::time::Duration;

use fault_run::{run_all, table};

#[test]
fn every_fault_ends_its_stream_as_written_and_in_time() {
    let rows = run_all(faults::faults());
    let mut wrong = Vec::new();
    for row in &rows {
        for (over, run) in row.outcomes() {
            if let Err(what) = row.verdict(run) {
                wrong.push(format!("{}, {over}: {what}", row.fault.name));
            }
            // Machines stall: the bound that counts is in the table.
            if row.over(run) > Duration::from_secs(5) {
                wrong.push(format!("{}, {over}: {:?} too late", row.fault.name, row.over(run)));
            }
        }
    }
    println!("{}", table(&rows));
    assert_eq!(
        unmeasured(&table(&rows)),
        unmeasured(include_str!("../docs/faults.md")),
        "docs/faults.md is old"
    );
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// A table without its measured numbers, and without what stands before it.
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
