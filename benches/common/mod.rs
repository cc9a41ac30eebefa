//! Provides the streams that the benchmarks read, made from recordings of real servers.
//!
//! The llama.cpp stream is an unchanged recording of a hundred tokens
//! (`tests/data/llama.cpp/completion-long-100`). The recordings of vLLM
//! (`completion-usage-continuous`, `chat-basic`) contain only a few tokens each. Therefore, a chunk
//! of these recordings is copied for each of the hundred tokens. Each copy has that token's text
//! and id, and increasing counts.

// Each program that includes this module uses only a part of it.
#![allow(dead_code)]

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use tokenwire::{BodyDecoder, Endpoint, Step, StreamToken, TokenId};

/// The middle part of a stream's body. It can be repeated, because no event in it ends the stream.
pub(crate) struct Stream {
    pub(crate) wire: Endpoint,
    /// One event per entry, including the blank line.
    pub(crate) events: Vec<String>,
}

impl Stream {
    pub(crate) fn body(&self) -> Vec<u8> {
        self.events.concat().into_bytes()
    }

    /// Writes the body `passes` times into a file without a name.
    pub(crate) fn file(&self, passes: usize) -> File {
        let path = std::env::temp_dir().join(format!("tokenwire-body-{}", std::process::id()));
        let open = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let mut file = open.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        std::fs::remove_file(&path).expect("the file was just created");
        let body = self.body();
        for _ in 0..passes {
            file.write_all(&body).expect("space for a body");
        }
        file.rewind().expect("a file");
        file
    }
}

/// The names of the streams.
pub(crate) const STREAMS: [&str; 3] = ["vllm", "vllm_chat", "llama_cpp"];

pub(crate) fn stream(name: &str) -> Stream {
    match name {
        "vllm" => vllm(),
        "vllm_chat" => vllm_chat(),
        _ => llama_cpp(),
    }
}

/// `/v1/completions` of vLLM, with ids and with usage in each chunk: about 310 bytes per token.
pub(crate) fn vllm() -> Stream {
    let shape = recorded("vllm/completion-usage-continuous.response.http").swap_remove(1);
    let event = |(n, (text, id)): (usize, (String, TokenId))| {
        replace(&shape, "\"text\":\" it\"", &format!("\"text\":{}", quoted(&text)))
            .replace("[432]", &format!("[{id}]"))
            .replace("\"total_tokens\":7,\"completion_tokens\":2", &{
                let counted = n + 2;
                format!("\"total_tokens\":{},\"completion_tokens\":{counted}", counted + 5)
            })
    };
    Stream { wire: Endpoint::OpenAi, events: words().into_iter().enumerate().map(event).collect() }
}

/// `/v1/chat/completions` of vLLM, with ids: about 230 bytes per token.
pub(crate) fn vllm_chat() -> Stream {
    let shape = recorded("vllm/chat-basic.response.http").swap_remove(2);
    let event = |(text, id): (String, TokenId)| {
        replace(&shape, "\"content\":\" there\"", &format!("\"content\":{}", quoted(&text)))
            .replace("[1052]", &format!("[{id}]"))
    };
    Stream { wire: Endpoint::Chat, events: words().into_iter().map(event).collect() }
}

/// `/completion` of llama.cpp, with ids: about 120 bytes per token.
pub(crate) fn llama_cpp() -> Stream {
    let mut events = recorded("llama.cpp/completion-long-100.raw");
    // The last event ends the response.
    events.pop();
    Stream { wire: Endpoint::LlamaCpp, events }
}

/// Returns the tokens of the llama.cpp recording.
pub(crate) fn words() -> Vec<(String, TokenId)> {
    let mut words = Vec::new();
    let mut body = BodyDecoder::new(Endpoint::LlamaCpp);
    body.feed(&llama_cpp().body());
    let mut sink = |_, token| match token {
        StreamToken::Token { text, id: Some(id) } => words.push((text, id)),
        other => panic!("{other:?}"),
    };
    while body.decode_event(&mut sink).expect("the recording is valid") == Step::Event {}
    assert_eq!(words.len(), 100);
    words
}

/// Returns the events of a recorded response. In the file, each event is one line in its own HTTP
/// chunk.
fn recorded(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().filter(|line| line.starts_with("data: {")).map(|line| format!("{line}\n\n")).collect()
}

fn replace(event: &str, from: &str, to: &str) -> String {
    assert!(event.contains(from), "the recording has changed: {event}");
    event.replace(from, to)
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string")
}
