//! Saves a failed request in a file and sends it again later.
//!
//! ```sh
//! cargo run --example resend_failed --features testing [-- FILE BASE_URL]
//! ```
//!
//! Without a file, the example creates one. It uses a mock server that breaks off its first
//! response and completes the second.

use tokenwire::testing::{Cut, MockServer, Script};
use tokenwire::{ApiClient, SamplingParams, SavedRequest, StreamToken};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let good = Script::tokens([(9707, "Hello"), (1879, " world"), (13, ".")]);
    let server = MockServer::scripted([good.clone().cut_at(600, Cut::Reset), good])?;
    let folder = std::env::temp_dir().join(format!("tokenwire-failed-{}", std::process::id()));
    let mut args = std::env::args().skip(1);
    let (file, url) = match (args.next(), args.next()) {
        (Some(file), Some(url)) => (file.into(), url),
        _ => {
            let client = ApiClient::builder(server.url()).save_failed(&folder).build()?;
            let (tokens, guard) = client.stream_completion(&[785, 6722], SamplingParams::default(), None)?;
            let got = tokens.iter().filter(|token| matches!(token, StreamToken::Token { .. })).count();
            let error = guard.join().error.ok_or("the request did not fail")?;
            println!("failed after {got} tokens: {}", error.kind().as_str());
            // The error contains the path of its file. Neither contains the API key or other
            // credentials.
            (error.saved_path().ok_or("the request was not saved")?.to_owned(), server.url())
        }
    };

    let saved = SavedRequest::load(file)?;
    println!(
        "saved: {} {}, {} bytes, {}",
        saved.method(),
        saved.endpoint(),
        saved.body().len(),
        saved.failure().kind
    );
    let (tokens, guard) = ApiClient::builder(url).build()?.resend(&saved)?;
    let text = |token| if let StreamToken::Token { text, .. } = token { text } else { String::new() };
    println!("sent again: {:?}", tokens.iter().map(text).collect::<String>());
    println!("{:?}", guard.join().ending);
    let _ = std::fs::remove_dir_all(folder);
    Ok(())
}
