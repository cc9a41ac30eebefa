//! The vectors of our own in tests/data/chunk: data of events, written from what is known of each server.

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenwire::{ChunkDecoder, Flow, Server, Wire};

use super::wire::Decoded;

/// One line of a vector file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub id: String,
    /// Why the case is there.
    pub purpose: String,
    #[serde(default = "auto")]
    pub wire: String,
    #[serde(default = "one")]
    pub choices_max: u32,
    /// Ids were asked for: of `vllm`, `llamacpp`, `ollama`, `sglang`, or of a server that was not known, ``.
    pub asked: Option<String>,
    /// The data of events: text as it is, anything else as JSON; `{"event","data"}` names the type too.
    pub events: Vec<Value>,
    /// `[text, id]`, or `[choice, text, id]`; of chat `{"reasoning": [text, id]}`, `{"call": [id, name, arguments,
    /// at_token]}`, `{"malformed": [text, reason]}`.
    pub tokens: Vec<Value>,
    /// Subset of: finish, usage, ids_exact, ended, skipped, server, request_id; or error with kind, status,
    /// message, server_kind, code, param.
    pub end: Map<String, Value>,
}

fn auto() -> String {
    "auto".to_owned()
}

fn one() -> u32 {
    1
}

/// All vectors, each with the name of its file without `.jsonl`.
pub fn vectors() -> Vec<(String, Case)> {
    let mut files: Vec<_> =
        std::fs::read_dir(super::data("chunk")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let case = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            cases.push((name.to_owned(), case));
        }
    }
    cases
}

/// What a case decodes to, and whether its terminator was seen.
pub fn decode(case: &Case) -> (Decoded, bool) {
    let wire: Wire = case.wire.parse().unwrap();
    let mut decoder = ChunkDecoder::new(wire).choices_max(case.choices_max);
    if let Some(asked) = &case.asked {
        decoder = decoder.ids_asked(match asked.as_str() {
            "vllm" => Some(Server::Vllm),
            "llamacpp" => Some(Server::LlamaCpp),
            "sglang" => Some(Server::SgLang),
            "ollama" => Some(Server::Ollama),
            "" => None,
            other => panic!("{other}"),
        });
    }
    let mut items = Vec::new();
    let mut result = Ok(Flow::More);
    for event in &case.events {
        // Whatever follows an end or an error is fed too: it must not matter.
        let named =
            event.as_object().filter(|object| object.contains_key("event") && object.contains_key("data"));
        let (name, data) = match named {
            Some(named) => (named["event"].as_str().unwrap(), &named["data"]),
            None => ("message", event),
        };
        let data = data.as_str().map_or_else(|| data.to_string(), str::to_owned);
        let next = decoder.decode(name, &data, &mut |choice, item| items.push((choice, item)));
        if matches!(result, Ok(Flow::More)) {
            result = next;
        }
    }
    let ended = matches!(result, Ok(Flow::Ended));
    let end = result.and_then(|_| decoder.finish());
    (Decoded { events: case.events.len(), items, end, decoder }, ended)
}
