//! The table of latencies, from the server's write to the consumer.

use std::fmt::Write as _;
use std::time::Duration;

use crate::server::Pace;
use crate::whole::Contender;
use crate::{Effort, Result};

pub const INTRO: &str = "\
The table shows the time from the server's write to the consumer at 1,000 tokens a second, as the
median of each run. The clients take turns, because other work on the machine causes most of the
difference between two runs. The second row is the lower bound for a client that reads on its own
thread. Its additional cost is a second wake-up. This cost depends on the core that the consumer
runs on. The goal is 10 us over the raw socket.
";

const PACE: Pace = Pace::Every(Duration::from_millis(1), 1_000);

pub fn table(out: &mut String, effort: Effort) -> Result<()> {
    let runs = effort.times * 2 - 1;
    let clients = Contender::all();
    let mut medians = vec![Vec::new(); clients.len()];
    for _ in 0..runs {
        for (client, medians) in clients.iter().zip(&mut medians) {
            medians.push(client.run(PACE)?.latency(50)? / 1_000);
        }
    }
    writeln!(out, "| client | us, lowest of {runs} runs | us, median run |")?;
    writeln!(out, "| --- | --- | --- |")?;
    for (client, mut medians) in clients.iter().zip(medians) {
        medians.sort_unstable();
        writeln!(out, "| {} | {} | {} |", client.title(), medians[0], medians[runs / 2])?;
    }
    Ok(())
}
