//! The table of latencies: from the server's write to the consumer.

use std::fmt::Write as _;
use std::time::Duration;

use crate::server::Pace;
use crate::whole::Contender;
use crate::{Effort, Result};

pub const INTRO: &str = "\
From the server's write to the consumer at 1,000 tokens a second, the median of each run. The clients take turns, run after run,
since what else the machine does is most of the difference between two runs. The second row is the least
that a client can have which reads on a thread of its own: its hop is a second wake-up, and which core that lands on decides what it
costs. The goal: 10 us over the raw socket.
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
    writeln!(out, "| client | us, the least of {runs} runs | us, the middle one |")?;
    writeln!(out, "| --- | --- | --- |")?;
    for (client, mut medians) in clients.iter().zip(medians) {
        medians.sort_unstable();
        writeln!(out, "| {} | {} | {} |", client.title(), medians[0], medians[runs / 2])?;
    }
    Ok(())
}
