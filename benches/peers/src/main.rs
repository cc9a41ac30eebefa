//! Compares tokenwire with other clients.
//!
//! ```sh
//! cargo run --release --manifest-path benches/peers/Cargo.toml
//! ```
//!
//! Each client runs in its own process (this program again), against a server in this process. The
//! costs therefore do not include the server. CPU time comes from the clock of the process. If
//! valgrind is installed, callgrind counts the instructions. Compare times only as ratios within
//! one table.
//!
//! To make only some of the tables, pass their names. `--write` writes them to `docs/peers.md`.
//! `--quick` shortens the runs.

mod clients;
mod crowd;
mod depend;
mod latency;
mod measure;
mod page;
mod parsers;
mod python;
mod server;
mod streams;
mod whole;

use std::env;
use std::error::Error;

use clients::CLIENTS;
use streams::CROWDS;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The amount of work for one measurement.
#[derive(Clone, Copy)]
struct Effort {
    /// The number of runs. Only the best run counts.
    times: usize,
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["client", name, base, started] => {
            let (.., client) = CLIENTS.iter().find(|client| client.0 == name).ok_or("no such client")?;
            print_cost(started, |on_token| client(base, on_token))
        }
        ["crowd", name, base, started] => {
            let (.., crowd) = CROWDS.iter().find(|crowd| crowd.0 == name).ok_or("no such client")?;
            print_cost(started, |on_token| crowd(base, on_token))
        }
        ["parser", n, read, rounds] => {
            parsers::run(n.parse()?, read.parse()?, rounds.parse()?);
            Ok(())
        }
        _ => page::make(&args),
    }
}

fn print_cost(started: &str, run: impl FnOnce(&mut dyn FnMut(&str)) -> Result<()>) -> Result<()> {
    let cost = measure::this_process(started.parse()?, run)?;
    println!("{}", serde_json::to_string(&cost)?);
    Ok(())
}
