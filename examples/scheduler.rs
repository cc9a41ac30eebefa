//! Schedules jobs by priority on one thread, with a limit on how many run at a time.
//!
//! ```sh
//! cargo run --example scheduler --features testing [-- BASE_URL]
//! ```
//!
//! The priority is also sent to the server; vLLM uses it if it runs with `--scheduling-policy
//! priority`. The order in which jobs are sent is decided only here. Without a URL, the example
//! starts its own mock server.

use std::collections::BinaryHeap;

use crossbeam_channel::{Receiver, Select};
use tokenwire::testing::{FakeModel, MockServer};
use tokenwire::{ApiClient, CompletionRequest, SamplingParams, StreamGuard, StreamToken, TokenId};

const AT_ONCE: usize = 2;

/// The urgency, the name and the prompt ids. The job with the highest urgency starts first.
type Job = (i32, &'static str, [TokenId; 2]);

fn start(
    client: &ApiClient,
    (urgency, name, ids): Job,
) -> Result<(Receiver<StreamToken>, StreamGuard), tokenwire::Error> {
    println!("start {name}");
    let params = SamplingParams::default().max_tokens(10);
    // vLLM starts the request with the lowest number first.
    client.stream(CompletionRequest::ids(ids).sampling(params).priority(-urgency))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = FakeModel::new(1);
    let server = MockServer::start(move |request| model.answer(request))?;
    let client = ApiClient::builder(std::env::args().nth(1).unwrap_or(server.url())).build()?;

    let mut waiting: BinaryHeap<Job> =
        [("low 1", 1), ("high 1", 9), ("middle", 5), ("high 2", 9), ("low 2", 1)]
            .map(|(name, urgency)| (urgency, name, [785, 6722]))
            .into();
    let mut running: Vec<(Job, Receiver<StreamToken>, StreamGuard)> = Vec::new();
    loop {
        while let Some(job) = waiting.peek().copied().filter(|_| running.len() < AT_ONCE) {
            waiting.pop();
            let (tokens, guard) = start(&client, job)?;
            running.push((job, tokens, guard));
        }
        if running.is_empty() {
            return Ok(());
        }
        let mut select = Select::new();
        for (_, tokens, _) in &running {
            select.recv(tokens);
        }
        let n = select.ready();
        // Only a part of the tokens may have arrived: take them all, then wait again.
        let ended = running[n]
            .1
            .try_iter()
            .any(|token| matches!(token, StreamToken::Done { .. } | StreamToken::Error(_)));
        if ended {
            let ((_, name, _), _, guard) = running.remove(n);
            let report = guard.join();
            println!("{name}: {:?}, {} tokens", report.ending, report.tokens);
        }
    }
}
