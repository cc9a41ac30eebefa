//! Runs a client in its own process and measures its cost with the clocks of the process and with
//! callgrind.

use std::hint::black_box;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, fs};

use cpu_time::ProcessTime;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::server::now_nanos;

/// The cost of one run of a client.
#[derive(Serialize, Deserialize)]
pub struct Cost {
    pub tokens: usize,
    pub cpu_ns: u64,
    pub wall_ns: u64,
    /// The time from the start of the process.
    pub first_token_ns: u64,
    /// The peak of the resident memory.
    pub rss_kib: u64,
    /// The latencies of the tokens whose text is the time of their writing, sorted.
    pub latencies_ns: Vec<u64>,
}

impl Cost {
    /// Returns this percentile of the latencies.
    pub fn latency(&self, percent: usize) -> Result<u64> {
        let place = self.latencies_ns.len() * percent / 100;
        self.latencies_ns
            .get(place)
            .copied()
            .ok_or_else(|| "no token contains the time of its writing".into())
    }
}

/// Returns the costs of this process, which began at `started`. `run` passes the text of every
/// token to its argument.
pub fn this_process(started: u64, run: impl FnOnce(&mut dyn FnMut(&str)) -> Result<()>) -> Result<Cost> {
    let (began, mut tokens, mut first) = (Instant::now(), 0, 0);
    let mut latencies = Vec::new();
    run(&mut |text| {
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
    Ok(Cost {
        tokens,
        cpu_ns: u64::try_from(ProcessTime::now().as_duration().as_nanos())?,
        wall_ns: u64::try_from(began.elapsed().as_nanos())?,
        first_token_ns: first.saturating_sub(started),
        rss_kib: status("VmHWM:")?,
        latencies_ns: latencies,
    })
}

/// Returns a number from the status of this process.
fn status(name: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)).ok_or(name)?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}

/// Runs this program as the client `name`. `how` selects the kind of client.
pub fn run(how: &str, name: &str, addr: SocketAddr) -> Result<Cost> {
    let mut command = Command::new(env::current_exe()?);
    command.args([how, name]);
    finish(command, addr)
}

/// Runs a client's program, which prints its [`Cost`]. It gets two more arguments: the server's URL
/// and the time.
pub fn finish(mut command: Command, addr: SocketAddr) -> Result<Cost> {
    command.args([format!("http://{addr}"), now_nanos().to_string()]);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Returns the best of several results, because noise only adds to a cost.
pub fn best<T: PartialOrd>(times: usize, mut each: impl FnMut() -> Result<T>) -> Result<T> {
    let mut best = each()?;
    for _ in 1..times {
        let next = each()?;
        if next < best {
            best = next;
        }
    }
    Ok(best)
}

/// Returns the cost of one unit, from the difference between two lengths.
pub fn per_one(few: usize, many: usize, mut at: impl FnMut(usize) -> Result<u64>) -> Result<u64> {
    let (few_cost, many_cost) = (at(few)?, at(many)?);
    Ok(many_cost.saturating_sub(few_cost) / (many - few) as u64)
}

pub fn has_valgrind() -> bool {
    Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Counts the instructions that this program executes with these arguments.
pub fn instructions(args: &[&str]) -> Result<u64> {
    let tool = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];
    let output = Command::new("valgrind").args(tool).arg(env::current_exe()?).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let count = said.lines().find_map(|line| line.split("Collected : ").nth(1)?.trim().parse().ok());
    count.ok_or_else(|| format!("valgrind: {said}").into())
}
