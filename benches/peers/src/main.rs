//! tokenwire beside its peers, in one run: `cargo run --release --manifest-path benches/peers/Cargo.toml`.
//!
//! Each client runs in a process of its own (this program again) against a server in this one, so that what is counted is the
//! client's alone: CPU time by the process's clock, instructions by callgrind where valgrind is there. What starting
//! costs is taken out by the difference of two lengths. Figures of time are good as ratios within one table.
//!
//! With `--write` the tables go to `docs/peers.md`. `--quick` makes shorter runs.

mod clients;
mod parsers;
mod server;

use std::error::Error;
use std::fmt::Write as _;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use clients::CLIENTS;
use cpu_time::ProcessTime;
use parsers::PARSERS;
use serde::{Deserialize, Serialize};
use server::{Pace, now_nanos};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const TABLE_BEGIN: &str = "## Whole clients";
/// In the body that the parsers get.
const EVENTS: usize = 2_000;
const READS: [usize; 4] = [1, 64, 1460, 65_536];

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["client", name, base, started] => client(name, base, started.parse()?),
        ["parser", n, read, rounds] => {
            let body = parsers::body(EVENTS);
            for _ in 0..rounds.parse()? {
                black_box(PARSERS[n.parse::<usize>()?].1(black_box(&body), read.parse()?));
            }
            Ok(())
        }
        _ => {
            let page = tables(args.contains(&"--quick"))?;
            print!("{page}");
            if args.contains(&"--write") {
                let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/peers.md");
                let old = fs::read_to_string(path)?;
                fs::write(path, old.split(TABLE_BEGIN).next().unwrap_or_default().to_owned() + &page)?;
            }
            Ok(())
        }
    }
}

// ---- a client's process ----

/// What one run of a client cost.
#[derive(Serialize, Deserialize)]
struct Cost {
    tokens: usize,
    cpu_ns: u64,
    wall_ns: u64,
    /// From the start of the process.
    first_token_ns: u64,
    rss_kib: u64,
    /// Of tokens whose text is the time of their writing, in order.
    latencies_ns: Vec<u64>,
}

fn client(name: &str, base: &str, started: u64) -> Result<()> {
    let (_, _, run) = CLIENTS.iter().find(|client| client.0 == name).ok_or("no such client")?;
    let (began, mut tokens, mut first) = (Instant::now(), 0, 0);
    let mut latencies = Vec::new();
    run(base, &mut |text| {
        tokens += 1;
        if tokens == 1 {
            first = now_nanos();
        }
        if text.starts_with("17") || text.starts_with("18") {
            latencies.extend(text.parse().map(|written| now_nanos().saturating_sub(written)));
        }
        black_box(text);
    })?;
    latencies.sort_unstable();
    let status = fs::read_to_string("/proc/self/status")?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let cost = Cost {
        tokens,
        cpu_ns: u64::try_from(ProcessTime::now().as_duration().as_nanos())?,
        wall_ns: u64::try_from(began.elapsed().as_nanos())?,
        first_token_ns: first.saturating_sub(started),
        rss_kib: rss.and_then(|rss| rss.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default(),
        latencies_ns: latencies,
    };
    println!("{}", serde_json::to_string(&cost)?);
    Ok(())
}

fn run(name: &str, pace: Pace) -> Result<Cost> {
    let addr = server::start(pace)?;
    let args = ["client", name, &format!("http://{addr}"), &now_nanos().to_string()];
    let output = Command::new(env::current_exe()?).args(args).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{name}: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The best of several: noise only adds.
fn best<T: PartialOrd>(times: usize, mut each: impl FnMut() -> Result<T>) -> Result<T> {
    let mut best = each()?;
    for _ in 1..times {
        let next = each()?;
        if next < best {
            best = next;
        }
    }
    Ok(best)
}

// ---- instructions ----

fn has_valgrind() -> bool {
    Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Instructions of this program with these arguments.
fn instructions(args: &[&str]) -> Result<u64> {
    let tool = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];
    let output = Command::new("valgrind").args(tool).arg(env::current_exe()?).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let count = said.lines().find_map(|line| line.split("Collected : ").nth(1)?.trim().parse().ok());
    count.ok_or_else(|| format!("valgrind: {said}").into())
}

/// Between two lengths, for each of what they differ in.
fn per_one(few: usize, many: usize, mut at: impl FnMut(usize) -> Result<u64>) -> Result<u64> {
    let (few_cost, many_cost) = (at(few)?, at(many)?);
    Ok(many_cost.saturating_sub(few_cost) / (many - few) as u64)
}

// ---- the tables ----

fn tables(quick: bool) -> Result<String> {
    let times = if quick { 1 } else { 5 };
    let counted = has_valgrind();
    let mut out = format!("{TABLE_BEGIN}\n\n");
    clients_table(&mut out, times, counted)?;
    writeln!(out, "\n## Event parsers\n")?;
    parsers_table(&mut out, times, counted)?;
    Ok(out)
}

fn clients_table(out: &mut String, times: usize, counted: bool) -> Result<()> {
    writeln!(
        out,
        "| client | instructions per token | CPU ns per token | beside async-openai | RSS, MiB | first token, ms | latency p50, us |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- |")?;
    let mut rows = Vec::new();
    for (name, title, _) in CLIENTS {
        let cpu = |tokens| best(times, || Ok(run(name, Pace::Blast(tokens))?.cpu_ns));
        let cpu = per_one(10_000, 210_000, cpu)?;
        let many = run(name, Pace::Blast(200_000))?;
        if many.tokens != 200_000 {
            return Err(format!("{name} gave {} tokens", many.tokens).into());
        }
        let first = best(2 * times, || Ok(run(name, Pace::Blast(1))?.first_token_ns))?;
        let paced = Pace::Every(Duration::from_millis(1), 1_500);
        let median = |cost: Cost| cost.latencies_ns[cost.latencies_ns.len() / 2];
        let latency = best(times.min(3), || Ok(median(run(name, paced)?)))?;
        let count = |tokens| -> Result<u64> {
            let base = format!("http://{}", server::start(Pace::Blast(tokens))?);
            instructions(&["client", name, &base, "0"])
        };
        let count = if counted { per_one(2_000, 12_000, count)?.to_string() } else { "-".to_owned() };
        rows.push((name, title, count, cpu, many.rss_kib, first, latency));
    }
    let peer = rows.iter().find(|row| *row.0 == "async-openai").map_or(1, |row| row.3.max(1));
    for (_, title, count, cpu, rss, first, latency) in rows {
        let share = cpu as f64 / peer as f64;
        let (rss, first, latency) = (rss as f64 / 1024.0, first as f64 / 1e6, latency as f64 / 1e3);
        writeln!(out, "| {title} | {count} | {cpu} | {share:.3} | {rss:.1} | {first:.1} | {latency:.0} |")?;
    }
    Ok(())
}

fn parsers_table(out: &mut String, times: usize, counted: bool) -> Result<()> {
    let body = parsers::body(EVENTS);
    write!(out, "| parser |")?;
    READS.iter().try_for_each(|read| write!(out, " ns, {read} B reads |"))?;
    writeln!(out, " instructions, 1460 B | instructions, 65536 B |")?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- |")?;
    for (n, (title, parse)) in PARSERS.iter().enumerate() {
        write!(out, "| {title} |")?;
        for read in READS {
            let ns = best(3 * times, || {
                let began = Instant::now();
                let counted = black_box(parse(black_box(&body), read));
                if counted.0 != EVENTS {
                    return Err(format!("{title} at {read}: {counted:?}").into());
                }
                Ok(began.elapsed().as_nanos() as u64 / EVENTS as u64)
            })?;
            write!(out, " {ns} |")?;
        }
        for read in ["1460", "65536"] {
            let count = |rounds: usize| instructions(&["parser", &n.to_string(), read, &rounds.to_string()]);
            let count =
                if counted { (per_one(1, 3, count)? / EVENTS as u64).to_string() } else { "-".to_owned() };
            write!(out, " {count} |")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
