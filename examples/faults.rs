//! Runs every row of the fault matrix and prints the table with the times of this machine:
//! `cargo run --release --features testing --example faults`.
//!
//! With `--write`, it replaces the table in `docs/faults.md`.

#[path = "../tests/common/fault_run.rs"]
#[allow(dead_code, unreachable_pub)] // Only the tests use the whole module.
mod fault_run;
#[path = "../tests/common/faults/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod faults;

use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows = fault_run::run_all(faults::rows::faults(), fault_run::KEYS);
    let table = fault_run::table(&rows);
    print!("{table}");
    if env::args().any(|arg| arg == "--write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/faults.md");
        let page = fs::read_to_string(path)?;
        let text = page.split(fault_run::TABLE_BEGIN).next().unwrap_or_default();
        fs::write(path, format!("{text}{table}"))?;
    }
    let wrong = rows.iter().flat_map(|row| {
        row.outcomes()
            .filter_map(move |(over, run)| Some((&row.fault.name, over, row.fault.verdict(run).err()?)))
    });
    let wrong: Vec<_> = wrong.collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("rows that do not end as the matrix requires: {wrong:#?}").into())
    }
}
