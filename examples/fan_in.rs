//! Many streams into one channel, for a consumer that serves hundreds of them: `cargo run --example fan_in --features testing [-- BASE_URL]`.
//!
//! A few streams, or streams beside other channels, are for `select`. Without an address it talks to a scripted model of its own.

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
    // The loop ends when the last stream has, if no end of the channel is kept here.
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
