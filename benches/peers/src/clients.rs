//! The clients. Each streams one chat and passes the text of every token to `on_token`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;

use async_openai::config::OpenAIConfig;
use async_openai::types::chat::{
    ChatCompletionRequestUserMessageArgs, CreateChatCompletionRequest, CreateChatCompletionRequestArgs,
};
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokenwire::{ApiClient, CompletionRequest, StreamToken, Endpoint};

use crate::Result;

pub type OnToken<'a> = &'a mut dyn FnMut(&str);
pub type Client = fn(&str, OnToken<'_>) -> Result<()>;

/// The name on the command line, the name in the tables, and the client.
pub const CLIENTS: &[(&str, &str, Client)] = &[
    ("raw", "limit: raw socket, searches for the key", raw),
    ("raw-hop", "limit: the same on its own thread, with a crossbeam channel", raw_hop),
    ("tokenwire", "**tokenwire**", tokenwire),
    ("ureq-value", "ureq, lines, serde_json::Value", ureq_value),
    ("ureq-hop", "the same on its own thread, with a crossbeam channel", ureq_hop),
    ("reqwest", "reqwest, eventsource-stream, serde, current_thread", reqwest),
    ("async-openai", "async-openai, default runtime", async_openai),
    ("async-openai-current", "async-openai, current_thread", async_openai_current),
];

fn body() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": true})
}

/// Measures the cost of reading and searching alone. It works only with this server.
pub fn raw(base: &str, on_token: OnToken<'_>) -> Result<()> {
    const KEY: &[u8] = br#""content":""#;
    let addr = base.trim_start_matches("http://");
    let mut stream = TcpStream::connect(addr)?;
    let body = body().to_string();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {addr}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut buf = vec![0; 64 << 10];
    let mut held = 0;
    loop {
        let n = stream.read(&mut buf[held..])?;
        if n == 0 {
            return Ok(());
        }
        held += n;
        let mut from = 0;
        while let Some(at) = memchr::memmem::find(&buf[from..held], KEY) {
            let start = from + at + KEY.len();
            let Some(len) = buf[start..held].iter().position(|byte| *byte == b'"') else { break };
            if len > 0 {
                on_token(std::str::from_utf8(&buf[start..start + len])?);
            }
            from = start + len;
        }
        buf.copy_within(from..held, 0);
        held -= from;
    }
}

/// The lower limit for a client that reads on a thread and delivers through a channel.
fn raw_hop(base: &str, on_token: OnToken<'_>) -> Result<()> {
    hop(raw, base, on_token)
}

fn ureq_hop(base: &str, on_token: OnToken<'_>) -> Result<()> {
    hop(ureq_value, base, on_token)
}

/// Runs `client` on a separate thread, which delivers its tokens through a channel.
fn hop(client: Client, base: &str, on_token: OnToken<'_>) -> Result<()> {
    let ((sender, tokens), base) = (crossbeam_channel::unbounded(), base.to_owned());
    let reader = thread::spawn(move || {
        // A send cannot fail: the consumer receives all tokens.
        client(&base, &mut |text| sender.send(text.to_owned()).unwrap_or_default())
            .map_err(|error| error.to_string())
    });
    tokens.iter().for_each(|text| on_token(&text));
    Ok(reader.join().map_err(|_| "the reader panicked")??)
}

fn tokenwire(base: &str, on_token: OnToken<'_>) -> Result<()> {
    let client = ApiClient::builder(base).endpoint(Endpoint::Chat).model("m").build()?;
    let (tokens, guard) = client.stream(CompletionRequest::text("Hi"))?;
    for token in &tokens {
        match token {
            StreamToken::Token { text, .. } if !text.is_empty() => on_token(&text),
            StreamToken::Error(error) => return Err(error.into()),
            _ => {}
        }
    }
    guard.join();
    Ok(())
}

fn ureq_value(base: &str, on_token: OnToken<'_>) -> Result<()> {
    let response = ureq::post(format!("{base}/v1/chat/completions")).send(body().to_string())?;
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let line = line?;
        let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else { continue };
        let chunk: Value = serde_json::from_str(data)?;
        if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
            on_token(text);
        }
    }
    Ok(())
}

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

fn current_thread() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn reqwest(base: &str, on_token: OnToken<'_>) -> Result<()> {
    current_thread()?.block_on(async {
        let request = reqwest::Client::new().post(format!("{base}/v1/chat/completions")).json(&body());
        let mut events = request.send().await?.bytes_stream().eventsource();
        while let Some(event) = events.next().await {
            let event = event?;
            if event.data == "[DONE]" {
                break;
            }
            let chunk: Chunk = serde_json::from_str(&event.data)?;
            for text in chunk.choices.iter().filter_map(|choice| choice.delta.content.as_deref()) {
                if !text.is_empty() {
                    on_token(text);
                }
            }
        }
        Ok(())
    })
}

fn async_openai(base: &str, on_token: OnToken<'_>) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(with_async_openai(base, on_token))
}

fn async_openai_current(base: &str, on_token: OnToken<'_>) -> Result<()> {
    current_thread()?.block_on(with_async_openai(base, on_token))
}

async fn with_async_openai(base: &str, on_token: OnToken<'_>) -> Result<()> {
    let mut stream = async_openai_client(base).chat().create_stream(async_openai_request()?).await?;
    while let Some(chunk) = stream.next().await {
        for choice in chunk?.choices {
            if let Some(text) = choice.delta.content.filter(|text| !text.is_empty()) {
                on_token(&text);
            }
        }
    }
    Ok(())
}

pub fn async_openai_client(base: &str) -> async_openai::Client<OpenAIConfig> {
    let config = OpenAIConfig::new().with_api_base(format!("{base}/v1")).with_api_key("none");
    async_openai::Client::with_config(config)
}

pub fn async_openai_request() -> Result<CreateChatCompletionRequest> {
    let message = ChatCompletionRequestUserMessageArgs::default().content("Hi").build()?;
    Ok(CreateChatCompletionRequestArgs::default().model("m").messages([message.into()]).build()?)
}
