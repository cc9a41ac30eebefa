//! Records an exchange once and replays it in a test.
//!
//! ```sh
//! cargo run --example record --features testing [-- FILE [BASE_URL]]
//! ```
//!
//! Without a URL, the example records its own mock server.

use std::path::Path;

use tokenwire::recording::Recording;
use tokenwire::testing::{FakeModel, MockServer, Script};
use tokenwire::{ApiClient, CompletionRequest, SamplingParams, StreamToken};

fn request() -> CompletionRequest {
    CompletionRequest::ids([785, 6722]).sampling(SamplingParams::default().max_tokens(30))
}

/// The code under test: your program, which talks to a server.
fn count_words(url: &str) -> Result<usize, tokenwire::Error> {
    let (tokens, _guard) = ApiClient::builder(url).build()?.stream(request())?;
    let mut text = String::new();
    for token in &tokens {
        match token {
            StreamToken::Token { text: more, .. } => text += &more,
            StreamToken::Error(error) => return Err(error),
            _ => {}
        }
    }
    Ok(text.split_whitespace().count())
}

/// Runs once, against the real server.
fn record(url: &str, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let (_tokens, guard) = ApiClient::builder(url).build()?.stream(request().record())?;
    guard.join().recording.ok_or("nothing was recorded")?.save(file)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let file = args.next().map_or(std::env::temp_dir().join("tokenwire-recorded.jsonl"), Into::into);
    let model = FakeModel::new(1);
    let real = MockServer::start(move |request| model.answer(request))?;
    let url = args.next().unwrap_or(real.url());
    record(&url, &file)?;

    // The test needs no model. The pace of 0 means that the replay does not wait.
    let recording = Recording::load(&file)?;
    let replayed = MockServer::scripted([Script::replay(&recording, 0.0)])?;
    let words = count_words(&replayed.url())?;
    println!("{} bytes recorded, {words} words replayed", recording.response_bytes().len());
    println!("the same as live: {}", words == count_words(&url)?);
    Ok(())
}
