use std::error::Error;

use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use serde::Deserialize;

#[derive(Deserialize)]
struct Chunk {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Delta,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let body = serde_json::json!({
            "model": "m", "stream": true, "messages": [{"role": "user", "content": "Hi"}],
        });
        let request = reqwest::Client::new().post("http://127.0.0.1:8000/v1/chat/completions").json(&body);
        let mut events = request.send().await?.error_for_status()?.bytes_stream().eventsource();
        while let Some(event) = events.next().await {
            let event = event?;
            if event.data == "[DONE]" {
                break;
            }
            for choice in serde_json::from_str::<Chunk>(&event.data)?.choices {
                print!("{}", choice.delta.content.unwrap_or_default());
            }
        }
        Ok(())
    })
}
