//! The cost of measuring: the CPU time of tokenwire.

use std::time::Duration;
use std::{fs, thread};

use serde::Serialize;

use super::figures::Figures;
use crate::output::json::micros;
use crate::output::text::human;

/// The unit of a process's CPU time on Linux: a hundredth of a second, on every architecture that
/// std supports.
const TICK: Duration = Duration::from_millis(10);
/// Above this share of the machine's CPU time, tokenwire may be the bottleneck.
const MAX_SHARE: f64 = 0.5;
/// The shortest load that can give a warning. A shorter load takes only a few ticks of CPU time,
/// and most of that time is spent on the start of the program.
const MIN_JUDGED: Duration = Duration::from_millis(500);
/// The share of the time that streams may wait because tokenwire does not take their tokens.
const MAX_WAITED: f64 = 0.01;

/// Returns the CPU time of this process in steps of 10 ms; `None` on a system without `/proc`.
pub(crate) fn cpu_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses, which may contain spaces. After it,
    // the 12th and 13th fields are the user time and the system time.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(TICK * (ticks()? + ticks()?))
}

/// The cost of a load on this machine.
#[derive(Serialize)]
pub(crate) struct Cost {
    cpu_us: Option<u64>,
    cpu_us_per_token: Option<f64>,
    /// The share of the CPU time of all cores, from 0 to 1.
    cpu_share: Option<f64>,
    cores: usize,
    /// Whether the server ran in this process. Its CPU time is then part of the figures.
    cpu_includes_server: bool,
    waited_for_consumer_us: u64,
    /// Always null. There is no self-check any more, but programs may read the key.
    self_check: (),
}

impl Cost {
    pub(crate) fn new(cpu: Option<Duration>, cpu_includes_server: bool, figures: &Figures) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let seconds = cpu.map(|cpu| cpu.as_secs_f64());
        let per_token = |seconds: f64| seconds * 1e6 / figures.tokens as f64;
        Self {
            cpu_us: cpu.map(micros),
            cpu_us_per_token: seconds.filter(|_| figures.tokens > 0).map(per_token),
            cpu_share: seconds.map(|cpu| cpu / (figures.elapsed.as_secs_f64() * cores as f64).max(1e-9)),
            cores,
            cpu_includes_server,
            waited_for_consumer_us: micros(figures.waited_for_consumer),
            self_check: (),
        }
    }

    /// Returns a warning if tokenwire, not the server, may have limited the figures.
    pub(crate) fn warning(&self, figures: &Figures, streams: usize) -> Option<String> {
        let cpu = self.cpu_share.filter(|_| !self.cpu_includes_server).unwrap_or(0.0);
        let time = figures.elapsed.as_secs_f64() * streams as f64;
        let waited = figures.waited_for_consumer.as_secs_f64() / time.max(1e-9);
        let is_doubtful = figures.elapsed >= MIN_JUDGED && (cpu > MAX_SHARE || waited > MAX_WAITED);
        is_doubtful.then(|| {
            format!(
                "tokenwire may be the bottleneck: it used {:.0} % of this machine's CPU time, and streams waited \
                 for {:.0} % of the time because tokenwire did not take their tokens",
                cpu * 100.0,
                waited * 100.0
            )
        })
    }

    /// Returns this cost as a line of the table for people.
    pub(crate) fn text(&self) -> String {
        let Self { cpu_us, cpu_us_per_token, cpu_share, cores, cpu_includes_server, .. } = self;
        let micros = Duration::from_micros;
        let cpu = match cpu_us {
            None => "CPU time unknown on this system".to_owned(),
            Some(0) => format!("less than {} of CPU time", human(TICK)),
            Some(cpu) => format!(
                "{} of CPU time{}, {:.0} % of {cores} cores{}",
                human(micros(*cpu)),
                cpu_us_per_token
                    .map_or(String::new(), |each| format!(", {} per token", human(micros(1).mul_f64(each)))),
                cpu_share.unwrap_or(0.0) * 100.0,
                if *cpu_includes_server { ", including the server inside tokenwire" } else { "" }
            ),
        };
        format!("{:<12}  {cpu}\n", "own cost")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn work_takes_cpu_time() {
        let before = cpu_time().unwrap();
        let mut n = 0_u64;
        while cpu_time().unwrap() == before {
            n = std::hint::black_box(n + 1);
        }
        assert!(cpu_time().unwrap() > before);
    }

    #[test]
    fn a_reason_to_doubt_the_figures_is_a_warning() {
        let second = Duration::from_secs(1);
        // Each row contains the share of the CPU time, how long streams waited, the time of the
        // run, and a part of the warning.
        let cases = [
            (0.1, Duration::ZERO, second, None),
            (0.75, Duration::ZERO, second, Some("75 % of this machine")),
            (0.75, Duration::ZERO, second / 4, None),
            (0.1, second / 5, second, Some("waited for 10 %")),
        ];
        for (cpu_share, waited, elapsed, word) in cases {
            let mut figures = Figures::default();
            (figures.elapsed, figures.tokens, figures.waited_for_consumer) = (elapsed, 100, waited);
            let mut cost = Cost::new(None, false, &figures);
            cost.cpu_share = Some(cpu_share);
            let warning = cost.warning(&figures, 2);
            assert_eq!(warning.is_some(), word.is_some(), "{warning:?}");
            assert!(word.is_none_or(|word| warning.as_ref().unwrap().contains(word)), "{warning:?}");
        }
    }
}
