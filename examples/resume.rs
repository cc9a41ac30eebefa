//! Resumes a stream that breaks off, and gets exactly the same ids.
//!
//! ```sh
//! cargo run --example resume --features testing [-- BASE_URL PROMPT_ID...]
//! ```
//!
//! Without a URL, the example starts its own mock server, which resets each connection after a
//! thousand bytes. With a URL, kill the server while it streams, then start it again.

use std::io::Write as _;
use std::time::Duration;

use tokenwire::testing::{Cut, FakeModel, MockServer};
use tokenwire::{ApiClient, CompletionRequest, RetryPolicy, SamplingParams, StreamToken, TokenId};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = FakeModel::new(1).ends_one_of(0);
    let dying = MockServer::start(move |request| model.answer(request).cut_at(1000, Cut::Reset))?;
    let mut args = std::env::args().skip(1);
    let url = args.next();
    let mut prompt_ids = args.map(|id| id.parse()).collect::<Result<Vec<TokenId>, _>>()?;
    if prompt_ids.is_empty() {
        prompt_ids = vec![504, 1296, 3003, 4683, 359];
    }

    let mut waits = RetryPolicy::default();
    (waits.max_wait, waits.budget) = (Duration::from_secs(2), 60);
    let client = ApiClient::builder(url.clone().unwrap_or(dying.url())).retry(waits).resumes(60).build()?;
    let params = SamplingParams::default().temperature(0.0).max_tokens(60);
    let (tokens, guard) = client.stream(CompletionRequest::ids(prompt_ids.clone()).sampling(params))?;
    let mut ids = Vec::new();
    for token in &tokens {
        match token {
            StreamToken::Token { text, id } => {
                ids.extend(id);
                print!("{text}");
                std::io::stdout().flush()?;
            }
            StreamToken::Error(error) => println!("\n{error}"),
            _ => {}
        }
    }
    let report = guard.join();
    println!("\n\n{} ids, {:?}, {:?}, exact: {:?}", ids.len(), report.finish, report.usage, report.ids_exact);
    for resume in &report.resumes {
        println!(
            "broke off after {} ids ({}), resumed after {:?}",
            resume.at_id,
            resume.after.as_str(),
            resume.took
        );
    }
    if url.is_none() {
        let whole = MockServer::start(move |request| model.answer(request))?;
        let params = SamplingParams::default().temperature(0.0).max_tokens(60);
        let (tokens, _guard) =
            ApiClient::builder(whole.url()).build()?.stream_completion(&prompt_ids, params, None)?;
        let id = |token| if let StreamToken::Token { id, .. } = token { id } else { None };
        println!("the same as uninterrupted: {}", tokens.iter().filter_map(id).eq(ids));
    }
    Ok(())
}
