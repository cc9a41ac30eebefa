//! Ends the stream on Ctrl-C, without ending the program.
//!
//! ```sh
//! cargo run --example ctrl_c --features cli [-- BASE_URL PROMPT_ID...]
//! ```
//!
//! Without a URL, the example starts its own mock server, whose stream never ends by itself.

use std::io::Write as _;
use std::time::Duration;

use tokenwire::testing::{FakeModel, MockServer};
use tokenwire::{ApiClient, SamplingParams, StreamToken, TokenId};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = FakeModel::new(1).ends_one_of(0);
    let server =
        MockServer::start(move |request| model.answer(request).slowly(60, Duration::from_millis(10)))?;
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or(server.url());
    let mut prompt_ids = args.map(|id| id.parse()).collect::<Result<Vec<TokenId>, _>>()?;
    if prompt_ids.is_empty() {
        prompt_ids = vec![785, 6722];
    }

    let client = ApiClient::builder(url).build()?;
    let params = SamplingParams::default().max_tokens(100_000);
    let (tokens, guard) = client.stream_completion(&prompt_ids, params, None)?;
    // The handler runs on its own thread. A canceller works from any thread, and a second call does
    // nothing.
    let canceller = guard.canceller();
    ctrlc::set_handler(move || canceller.cancel())?;

    for token in &tokens {
        match token {
            StreamToken::Token { text, .. } => {
                print!("{text}");
                std::io::stdout().flush()?;
            }
            StreamToken::Error(error) => return Err(error.into()),
            _ => {}
        }
    }
    // A cancel just closes the channel. The report contains the reason.
    let report = guard.join();
    println!("\n{:?} after {} tokens", report.ending, report.tokens);
    Ok(())
}
