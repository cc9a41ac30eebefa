//! Reads several streams on one thread and handles each token when it arrives.
//!
//! ```sh
//! cargo run --example select --features testing [-- BASE_URL]
//! ```
//!
//! A stream is a plain crossbeam receiver, so [`Select`] can wait for many streams and for any
//! other channel. For hundreds of streams, see the `fan_in` example. Without a URL, the example
//! starts its own mock server.

use crossbeam_channel::Select;
use tokenwire::testing::{FakeModel, MockServer};
use tokenwire::{ApiClient, SamplingParams, StreamToken};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = FakeModel::new(1);
    let server = MockServer::start(move |request| model.answer(request))?;
    let url = std::env::args().nth(1).unwrap_or(server.url());
    let client = ApiClient::builder(url).build()?;

    let mut streams = Vec::new();
    for prompt_id in [785, 6722, 315, 9625] {
        let params = SamplingParams::default().max_tokens(20);
        streams.push(client.stream_completion(&[prompt_id], params, None)?);
    }
    let mut select = Select::new();
    for (tokens, _guard) in &streams {
        select.recv(tokens);
    }
    let mut texts = vec![String::new(); streams.len()];
    let mut open = streams.len();
    while open > 0 {
        let ready = select.select();
        let n = ready.index();
        match ready.recv(&streams[n].0) {
            Ok(StreamToken::Token { text, .. }) => texts[n].push_str(&text),
            Ok(StreamToken::Error(error)) => eprintln!("stream {n}: {error}"),
            Ok(_) => {}
            // The channel is disconnected after the last item.
            Err(_) => {
                select.remove(n);
                open -= 1;
            }
        }
    }
    for (n, (text, (_, guard))) in texts.iter().zip(streams).enumerate() {
        println!("{n}: {} tokens: {text:?}", guard.join().tokens);
    }
    Ok(())
}
