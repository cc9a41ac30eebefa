//! Receives many streams through one channel, for a consumer of hundreds of streams.
//!
//! ```sh
//! cargo run --example fan_in --features testing [-- BASE_URL]
//! ```
//!
//! For a few streams, or for streams together with other channels, see the `select` example.
//! Without a URL, the example starts its own mock server.

use tokenwire::testing::{FakeModel, MockServer};
use tokenwire::{ApiClient, CompletionRequest, SamplingParams, StreamToken, fan_in};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = FakeModel::new(1).ends_one_of(0);
    let server = MockServer::start(move |request| model.answer(request))?;
    let client = ApiClient::builder(std::env::args().nth(1).unwrap_or(server.url())).build()?;

    let (channel, tokens) = fan_in();
    let mut guards = Vec::new();
    for n in 0..100 {
        let params = SamplingParams::default().max_tokens(10);
        let request = CompletionRequest::ids([785, n]).sampling(params);
        guards.push(client.stream_into(request, &channel, u64::from(n))?);
    }
    // The loop ends after the last stream, but only if this thread keeps no sender.
    drop(channel);
    let (mut ids, mut ended) = (vec![0; guards.len()], 0);
    for tagged in &tokens {
        match tagged.token {
            Some(StreamToken::Token { id: Some(_), .. }) => ids[tagged.stream as usize] += 1,
            Some(StreamToken::Error(error)) => eprintln!("stream {}: {error}", tagged.stream),
            Some(_) => {}
            None => ended += 1,
        }
    }
    println!("{ended} streams ended, each of 10 ids: {}", ids.iter().all(|ids| *ids == 10));
    Ok(())
}
