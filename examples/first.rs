//! Prints a stream: the first program.
//!
//! ```sh
//! cargo run --example first -- http://127.0.0.1:8000/v1 785 6722 315
//! ```

use tokenwire::{ApiClient, SamplingParams, StreamToken, TokenId};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let url = args.next().ok_or("usage: first BASE_URL PROMPT_ID...")?;
    let prompt_ids = args.map(|id| id.parse()).collect::<Result<Vec<TokenId>, _>>()?;

    let client = ApiClient::builder(url).build()?;
    let (tokens, guard) = client.stream_completion(&prompt_ids, SamplingParams::default(), None)?;
    for token in &tokens {
        match token {
            StreamToken::Token { text, id } => println!("{text:?} {id:?}"),
            StreamToken::Done { finish, .. } => println!("done: {finish:?}"),
            StreamToken::Error(error) => return Err(error.into()),
            _ => {}
        }
    }
    println!("ids: {:?}", guard.join().ids_exact);
    Ok(())
}
