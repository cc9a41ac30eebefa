use tokenwire::{ApiClient, CompletionRequest, StreamToken};

fn main() -> Result<(), tokenwire::Error> {
    let client = ApiClient::builder("http://127.0.0.1:8000").model("m").build()?;
    let (tokens, _guard) = client.stream(CompletionRequest::text("Hi"))?;
    for token in tokens {
        match token {
            StreamToken::Token { text, .. } => print!("{text}"),
            StreamToken::Error(error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
