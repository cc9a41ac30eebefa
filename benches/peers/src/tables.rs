//! The tables, as Markdown.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::clients::CLIENTS;
use crate::measure::{Cost, best, has_valgrind, instructions, per_one, run};
use crate::parsers::{self, PARSERS};
use crate::server::{self, Pace};
use crate::{Result, streams};

/// The first line of the page.
pub const BEGIN: &str = "## Whole clients";
/// In the body that the parsers get.
pub const EVENTS: usize = 2_000;
const READS: [usize; 4] = [1, 64, 1460, 65_536];

pub fn page(quick: bool) -> Result<String> {
    let times = if quick { 1 } else { 5 };
    let counted = has_valgrind();
    let mut out = format!("{BEGIN}\n\n");
    clients_table(&mut out, times, counted)?;
    writeln!(out, "\n## Many streams\n")?;
    streams::table(&mut out, times)?;
    writeln!(out, "\n## Event parsers\n")?;
    parsers_table(&mut out, times, counted)?;
    Ok(out)
}

fn client(name: &str, pace: Pace) -> Result<Cost> {
    run("client", name, server::start(pace)?)
}

fn clients_table(out: &mut String, times: usize, counted: bool) -> Result<()> {
    writeln!(
        out,
        "| client | instructions per token | CPU ns per token | beside async-openai | RSS, MiB | first token, ms | latency p50, us |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- |")?;
    let mut rows = Vec::new();
    for (name, title, _) in CLIENTS {
        let cpu = |tokens| best(times, || Ok(client(name, Pace::Blast(tokens))?.cpu_ns));
        let cpu = per_one(10_000, 210_000, cpu)?;
        let many = client(name, Pace::Blast(200_000))?;
        if many.tokens != 200_000 {
            return Err(format!("{name} gave {} tokens", many.tokens).into());
        }
        let first = best(2 * times, || Ok(client(name, Pace::Blast(1))?.first_token_ns))?;
        let paced = Pace::Every(Duration::from_millis(1), 1_500);
        let latency = best(times.min(3), || client(name, paced)?.latency(50))?;
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

pub fn latencies(names: &[&str], rounds: usize) -> Result<()> {
    for _ in 0..rounds {
        for name in names {
            let cost = client(name, Pace::Every(Duration::from_millis(1), 1_500))?;
            print!("{name} {}/{}/{}  ", cost.latency(10)? / 1000, cost.latency(50)? / 1000, cost.latency(90)? / 1000);
        }
        println!();
    }
    Ok(())
}
