//! Chats with a llama-server on this machine. Each line of input is one turn.
//!
//! ```sh
//! cargo run --example llama_chat [-- BASE_URL]
//! ```
//!
//! Start the server with `llama-server -m MODEL.gguf`. Any other server with `/v1/chat/completions`
//! works too.

use std::io::{BufRead as _, Write as _};

use tokenwire::{ApiClient, CompletionRequest, Endpoint, Message, SamplingParams, StreamToken};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or("http://127.0.0.1:8080".to_owned());
    let client = ApiClient::builder(url).endpoint(Endpoint::Chat).build()?;
    let mut messages = vec![Message::system("Answer in a sentence.")];
    for line in std::io::stdin().lock().lines() {
        messages.push(Message::user(line?));
        let request =
            CompletionRequest::messages(messages.clone()).sampling(SamplingParams::default().max_tokens(300));
        let (tokens, guard) = client.stream(request)?;
        let mut answer = String::new();
        for token in &tokens {
            match token {
                // If the model reasons, the server sends that part separately, as
                // `StreamToken::Reasoning`.
                StreamToken::Token { text, .. } => {
                    answer += &text;
                    print!("{text}");
                    std::io::stdout().flush()?;
                }
                StreamToken::Error(error) => return Err(error.into()),
                _ => {}
            }
        }
        let report = guard.join();
        println!(
            "\n({} tokens, the first after {:?})",
            report.tokens,
            report.first_token.unwrap_or_default()
        );
        messages.push(Message::assistant(answer));
    }
    Ok(())
}
