//! Measures how long a cancel takes.
//!
//! ```sh
//! cargo bench --features testing --bench cancel
//! ```
//!
//! A stream is blocked in a read from an idle server. The benchmark measures two times from the
//! call of `cancel`. The first ends when the reader thread has returned and reported. The second
//! ends when the server has detected the disconnect.

use std::time::{Duration, Instant};

use tokenwire::testing::{MockServer, Script};
use tokenwire::{ApiClient, Outcome, SamplingParams};

const ROUNDS: usize = 1_000;
const LONG: Duration = Duration::from_secs(30);

fn main() {
    let event = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
    let server = MockServer::scripted([Script::events([event]).hang(LONG)]).expect("a server on loopback");
    let client = ApiClient::builder(server.url()).build().expect("a client");
    let (mut back, mut seen) = (Vec::new(), Vec::new());
    for n in 0..ROUNDS {
        let (tokens, guard) =
            client.stream_completion(&[1], SamplingParams::default(), None).expect("a stream");
        tokens.recv_timeout(LONG).expect("a token");
        // Give the reader thread time to block in its read.
        std::thread::sleep(Duration::from_micros(300));
        let began = Instant::now();
        guard.cancel();
        let report = guard.join();
        back.push(began.elapsed());
        assert_eq!(report.ending, Outcome::Cancelled);
        assert!(server.wait_for_disconnects(n + 1, LONG), "the server did not see the client disconnect");
        if let Some(last) = server.disconnects().last() {
            seen.push(last.at.saturating_duration_since(began));
        }
    }
    print("thread back", &mut back);
    print("server sees it", &mut seen);
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{what}: p50 {:?}, p90 {:?}, p99 {:?}, max {:?} (n = {})",
        at(50),
        at(90),
        at(99),
        at(100),
        times.len()
    );
}
