//! tokenwire beside its peers, in one run: `cargo run --release --manifest-path benches/peers/Cargo.toml`.
//!
//! Each client runs in a process of its own (this program again) against a server in this one, so that what is counted is the
//! client's alone: CPU time by the process's clock, instructions by callgrind where valgrind is there. What starting
//! costs is taken out by the difference of two lengths. Figures of time are good as ratios within one table.
//!
//! With `--write` the tables go to `docs/peers.md`. `--quick` makes shorter runs.

mod clients;
mod crowd;
mod measure;
mod parsers;
mod server;
mod streams;
mod tables;

use std::error::Error;
use std::hint::black_box;
use std::{env, fs};

use clients::CLIENTS;
use parsers::PARSERS;
use streams::CROWDS;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

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
            let body = parsers::body(tables::EVENTS);
            for _ in 0..rounds.parse()? {
                black_box(PARSERS[n.parse::<usize>()?].1(black_box(&body), read.parse()?));
            }
            Ok(())
        }
        ["latency", rounds, ..] => tables::latencies(&args[2..], rounds.parse()?),
        ["serve", tokens, seconds] => {
            println!("{}", server::start(server::Pace::Every(std::time::Duration::from_millis(1), tokens.parse()?))?);
            std::thread::sleep(std::time::Duration::from_secs(seconds.parse()?));
            Ok(())
        }
        ["crowds"] => {
            let mut out = String::new();
            streams::table(&mut out, 2)?;
            print!("{out}");
            Ok(())
        }
        _ => {
            let page = tables::page(args.contains(&"--quick"))?;
            print!("{page}");
            if args.contains(&"--write") {
                let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/peers.md");
                let old = fs::read_to_string(path)?;
                fs::write(path, old.split(tables::BEGIN).next().unwrap_or_default().to_owned() + &page)?;
            }
            Ok(())
        }
    }
}

fn print_cost(started: &str, run: impl FnOnce(&mut dyn FnMut(&str)) -> Result<()>) -> Result<()> {
    let cost = measure::this_process(started.parse()?, run)?;
    println!("{}", serde_json::to_string(&cost)?);
    Ok(())
}
