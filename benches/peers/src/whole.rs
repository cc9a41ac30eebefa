//! The table of whole clients, one stream each.

use std::fmt::Write as _;

use crate::clients::CLIENTS;
use crate::measure::{Cost, best, has_valgrind, instructions, per_one, run};
use crate::python::Python;
use crate::server::{self, Pace};
use crate::{Effort, Result};

/// A measured client: a client in this program, or openai-python.
pub enum Contender {
    Own { name: &'static str, title: &'static str },
    Python(Python),
}

impl Contender {
    /// Returns all clients that are available on this machine.
    pub fn all() -> Vec<Self> {
        let own = CLIENTS.iter().map(|(name, title, _)| Self::Own { name, title });
        own.chain(Python::find().map(Self::Python)).collect()
    }

    pub fn title(&self) -> String {
        match self {
            Self::Own { title, .. } => (*title).to_owned(),
            Self::Python(_) => Python::title(),
        }
    }

    pub fn run(&self, pace: Pace) -> Result<Cost> {
        match self {
            Self::Own { name, .. } => run("client", name, server::start(pace)?),
            Self::Python(python) => python.run(pace),
        }
    }

    /// Returns the factor by which this client is slower. It gets fewer tokens by the same factor.
    fn slowness(&self) -> usize {
        if let Self::Python(_) = self { 10 } else { 1 }
    }

    /// Returns the instructions per token. Returns `None` if valgrind is missing or if counting
    /// would take too long.
    fn instructions(&self) -> Result<Option<u64>> {
        let Self::Own { name, .. } = self else { return Ok(None) };
        let at = |tokens| {
            let base = format!("http://{}", server::start(Pace::Blast(tokens))?);
            instructions(&["client", name, &base, "0"])
        };
        has_valgrind().then(|| per_one(2_000, 12_000, at)).transpose()
    }
}

pub const INTRO: &str = "\
Instructions are counted by callgrind. CPU time is the client's own, and the lowest of several runs.
The difference of two stream lengths removes the cost of starting. *First token* counts from the
start of the process. A row that begins with *limit* is not a client: it searches for one key and
works only with this server. The goals are 4,000 instructions, an eighth of async-openai's CPU time,
and 2.5 ms.
";

struct Row {
    title: String,
    instructions: Option<u64>,
    cpu_ns: u64,
    rss_kib: u64,
    first_token_ns: u64,
}

pub fn table(out: &mut String, effort: Effort) -> Result<()> {
    writeln!(
        out,
        "| client | instructions per token | CPU ns per token | ratio to async-openai | RSS, MiB | first token, ms |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- |")?;
    let rows = Contender::all().iter().map(|client| row(client, effort)).collect::<Result<Vec<_>>>()?;
    let peer =
        rows.iter().find(|row| row.title.starts_with("async-openai,")).map_or(1, |row| row.cpu_ns.max(1));
    for Row { title, instructions, cpu_ns, rss_kib, first_token_ns } in rows {
        let instructions = instructions.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let share = cpu_ns as f64 / peer as f64;
        let (rss, first) = (rss_kib as f64 / 1024.0, first_token_ns as f64 / 1e6);
        writeln!(out, "| {title} | {instructions} | {cpu_ns} | {share:.3} | {rss:.1} | {first:.1} |")?;
    }
    Ok(())
}

fn row(client: &Contender, effort: Effort) -> Result<Row> {
    let title = client.title();
    let slowness = client.slowness();
    let (few, many) = (10_000 / slowness, 210_000 / slowness);
    let cpu = |tokens| best(effort.times, || Ok(client.run(Pace::Blast(tokens))?.cpu_ns));
    let cpu_ns = per_one(few, many, cpu)?;
    let run = client.run(Pace::Blast(many))?;
    if run.tokens != many {
        return Err(format!("{title} returned {} tokens", run.tokens).into());
    }
    let first_token_ns = best(2 * effort.times, || Ok(client.run(Pace::Blast(1))?.first_token_ns))?;
    Ok(Row { title, instructions: client.instructions()?, cpu_ns, rss_kib: run.rss_kib, first_token_ns })
}
