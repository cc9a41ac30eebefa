//! A request that failed is kept in a file and sent again later: `cargo run --example resend_failed --features testing [-- FILE BASE_URL]`.
//!
//! Without a file it makes one: with a scripted server that breaks off at first and is well after that.

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
            let error = guard.join().error.ok_or("it did not fail")?;
            println!("failed after {got} tokens: {}", error.kind().as_str());
            // The error knows its file, and so do the files: key and credentials are in none of them.
            (error.saved_path().ok_or("it was not saved")?.to_owned(), server.url())
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
