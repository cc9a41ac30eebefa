//! The vectors in tests/data/chunk: data of events, written from the documentation and the source
//! code of each server.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokenwire::{ChunkDecoder, Flow, IdsExact, Inexact, ServerKind, StreamToken};

use super::wire::Decoded;

/// One line of a vector file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub id: String,
    /// The reason for the case.
    pub purpose: String,
    #[serde(default = "auto")]
    pub wire: String,
    #[serde(default = "one")]
    pub max_choices: u32,
    /// The server whose ids were requested: a name of `ServerKind::by_name`, or an empty string for
    /// an unknown server.
    pub asked: Option<String>,
    /// The data of events: text unchanged, everything else as JSON. `{"event","data"}` also sets
    /// the type.
    pub events: Vec<Value>,
    /// The expected items: `[text, id]`, or `[choice, text, id]`. A chat may also have
    /// `{"reasoning": [text, id]}`, `{"call": [id, name, arguments, at_token]}` and `{"malformed":
    /// [text, reason]}`.
    pub tokens: Vec<Value>,
    /// The expected end: a subset of finish, usage, ids_exact, ended, skipped, server, request_id.
    /// For an error: kind, status, message, server_kind, code, param.
    pub end: Map<String, Value>,
}

fn auto() -> String {
    "auto".to_owned()
}

fn one() -> u32 {
    1
}

/// Returns all vectors, each with the name of its file without `.jsonl`.
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

/// The server whose ids were requested, if ids were requested.
pub type Asked = Option<Option<ServerKind>>;

impl Case {
    pub fn asked_of(&self) -> Asked {
        let asked = self.asked.as_deref()?;
        Some((!asked.is_empty()).then(|| ServerKind::by_name(asked).unwrap()))
    }

    /// Creates a decoder with the settings of this case.
    pub fn decoder(&self, asked: Asked) -> ChunkDecoder {
        let decoder = ChunkDecoder::new(self.wire.parse().unwrap()).max_choices(self.max_choices);
        match asked {
            Some(server) => decoder.ids_asked(server),
            None => decoder,
        }
    }
}

/// Decodes a case. Also returns whether the terminator was seen.
pub fn decode(case: &Case) -> (Decoded, bool) {
    decode_asked(case, case.asked_of())
}

fn decode_asked(case: &Case, asked: Asked) -> (Decoded, bool) {
    let mut decoder = case.decoder(asked);
    let mut items = Vec::new();
    let mut result = Ok(Flow::More);
    for event in &case.events {
        // The data after an end or an error is also decoded, but must not change the result.
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

/// Runs a case and returns the result in the form of its `tokens` and `end`.
fn run(case: &Case, asked: Asked) -> (Vec<Value>, Value) {
    let (decoded, ended) = decode_asked(case, asked);
    let decoder = &decoded.decoder;
    let end = match &decoded.end {
        Ok(completion) => json!({
            "finish": completion.finish.as_ref().map(|finish| finish.as_str().to_owned()),
            "usage": completion.usage,
            "ids_exact": shown(completion.ids_exact),
            "ended": ended,
            "skipped": decoder.skipped(),
            "first_skipped": decoder.first_skipped(),
            "server": decoder.server().map(|server| format!("{server:?}")),
            "request_id": decoder.request_id(),
            "wire": decoder.endpoint().as_str(),
        }),
        Err(error) => {
            let server = error.server_error();
            json!({"error": {
                "kind": error.kind().as_str(),
                "status": error.status(),
                "message": server.map_or(error.to_string(), |server| server.message.clone()),
                "server_kind": server.and_then(|server| server.kind.clone()),
                "code": server.and_then(|server| server.code.clone()),
                "param": server.and_then(|server| server.param.clone()),
            }, "skipped": decoder.skipped(), "ids_exact": shown(decoder.ids_exact())})
        }
    };
    let tokens = decoded
        .items
        .iter()
        .map(|(choice, item)| match item {
            StreamToken::Token { text, id } if case.max_choices == 1 => json!([text, id]),
            StreamToken::Token { text, id } => json!([choice, text, id]),
            StreamToken::Reasoning { text, id } => json!({"reasoning": [text, id]}),
            StreamToken::ToolCall(call) => json!({"call": [call.id, call.name, call.raw, call.at_token]}),
            StreamToken::MalformedCall { text, reason } => json!({"malformed": [text, reason]}),
            other => panic!("{other:?}"),
        })
        .collect();
    (tokens, end)
}

fn shown(exact: IdsExact) -> Value {
    match exact {
        IdsExact::Yes => Value::Bool(true),
        IdsExact::Unknown => Value::Null,
        IdsExact::No(Inexact::NoIds) => "no_ids".into(),
        IdsExact::No(Inexact::Dropped) => "dropped".into(),
        IdsExact::No(Inexact::TextWithoutId) => "text_without_id".into(),
        IdsExact::No(Inexact::LostInCharacter { received, counted }) => {
            format!("lost {received} of {counted}").into()
        }
        IdsExact::No(Inexact::CountDiffers { received, counted }) => {
            format!("differs {received} of {counted}").into()
        }
        other => panic!("{other:?}"),
    }
}

/// Returns whether `found` contains everything in `expected`.
fn holds(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            expected.iter().all(|(key, value)| found.get(key).is_some_and(|found| holds(value, found)))
        }
        _ => expected == found,
    }
}

/// Returns the difference between the decoded case and its expected result.
pub fn mismatch(case: &Case, asked: Asked) -> Option<String> {
    let (tokens, end) = run(case, asked);
    if tokens == case.tokens && holds(&case.end.clone().into(), &end) {
        return None;
    }
    let Case { id, purpose, .. } = case;
    let expected = (Value::from(case.tokens.clone()), Value::from(case.end.clone()));
    let found = (Value::from(tokens), end);
    Some(format!(
        "\n{id} ({purpose})\n  expected {} {}\n  found    {} {}\n",
        expected.0, expected.1, found.0, found.1
    ))
}
