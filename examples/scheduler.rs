//! A scheduler: jobs with priorities, so many at once, on one thread: `cargo run --example scheduler --features testing [-- BASE_URL]`.
//!
//! The server is told the priority too (vLLM heeds it with `--scheduling-policy priority`), but only here is it decided what is sent
//! at all. Without an address it talks to a scripted model of its own.

use std::collections::BinaryHeap;

use crossbeam_channel::{Receiver, Select};
use tokenwire::testing::{FakeModel, MockServer};
use tokenwire::{ApiClient, CompletionRequest, SamplingParams, StreamGuard, StreamToken, TokenId};

const AT_ONCE: usize = 2;

/// How urgent it is, its name, and its prompt's ids. The first decides.
type Job = (i32, &'static str, [TokenId; 2]);

fn start(
    client: &ApiClient,
    (urgency, name, ids): Job,
) -> Result<(Receiver<StreamToken>, StreamGuard), tokenwire::Error> {
    println!("start {name}");
    let params = SamplingParams::default().max_tokens(10);
    // A server's lowest number goes first.
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
        // What is ready may have been a part: take all there is, and wait again.
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
