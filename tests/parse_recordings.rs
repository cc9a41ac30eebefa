//! Tests with chats recorded from vLLM, with hermes calls and reasoning. Parsing the recorded ids
//! gives the same reasoning, content and calls as the server's own parser.
//! `tests/data/qwen3-pieces.json` contains the text of each id, or its bytes if it is a part of a
//! character.

mod common;

use std::collections::HashMap;

use common::checks::each_row;
use common::data;
use common::wire::Response;
use serde_json::{Value, json};
use tokenwire::{Dialect, FinishReason, ResponseParser, TokenId};

/// The texts of ids. As servers do, the text of a character is sent with the last id that it needs.
struct Pieces(HashMap<TokenId, Vec<u8>>);

impl Pieces {
    fn load() -> Self {
        let pieces: HashMap<String, Value> =
            serde_json::from_slice(&std::fs::read(data("qwen3-pieces.json")).unwrap()).unwrap();
        let bytes = |piece: Value| match piece {
            Value::String(text) => text.into_bytes(),
            bytes => serde_json::from_value(bytes).unwrap(),
        };
        Self(pieces.into_iter().map(|(id, piece)| (id.parse().unwrap(), bytes(piece))).collect())
    }

    fn markers(&self) -> HashMap<String, TokenId> {
        let added = self.0.iter().filter(|(id, _)| **id >= 151_643);
        added.map(|(id, text)| (String::from_utf8(text.clone()).unwrap(), *id)).collect()
    }

    fn tokens(&self, ids: &[TokenId]) -> Vec<(String, TokenId)> {
        let mut held = Vec::new();
        let token = |id: &TokenId| {
            held.extend_from_slice(&self.0[id]);
            match std::str::from_utf8(&held) {
                Ok(_) => (String::from_utf8(std::mem::take(&mut held)).unwrap(), *id),
                Err(_) => (String::new(), *id),
            }
        };
        ids.iter().map(token).collect()
    }
}

/// The result of vLLM's own parsers, from the deltas.
#[derive(Debug, Default, PartialEq)]
struct ServerKind {
    ids: Vec<TokenId>,
    reasoning: String,
    content: String,
    calls: Vec<(String, String)>,
    finish: String,
}

impl ServerKind {
    fn read(name: &str) -> Self {
        let body = Response::read(&data(&format!("vllm/{name}.response.http"))).body;
        let mut server = Self::default();
        for data in
            std::str::from_utf8(&body).unwrap().lines().filter_map(|line| line.strip_prefix("data: {"))
        {
            let chunk: Value = serde_json::from_str(&format!("{{{data}")).unwrap();
            let Some(choice) = chunk["choices"].get(0) else { continue };
            let ids = choice["token_ids"].as_array().into_iter().flatten();
            server.ids.extend(ids.map(|id| id.as_u64().unwrap() as TokenId));
            let delta = &choice["delta"];
            server.reasoning += delta["reasoning"].as_str().unwrap_or_default();
            server.content += delta["content"].as_str().unwrap_or_default();
            for call in delta["tool_calls"].as_array().into_iter().flatten() {
                let index = call["index"].as_u64().unwrap() as usize;
                server.calls.resize(server.calls.len().max(index + 1), Default::default());
                server.calls[index].0 += call["function"]["name"].as_str().unwrap_or_default();
                server.calls[index].1 += call["function"]["arguments"].as_str().unwrap_or_default();
            }
            server.finish += choice["finish_reason"].as_str().unwrap_or_default();
        }
        server
    }
}

#[test]
fn recorded_ids_parse_into_the_servers_own_result() {
    let pieces = Pieces::load();
    each_row(
        [
            ("chat-basic", 0, false),
            ("chat-reasoning", 0, true),
            ("chat-reasoning-unclosed-length", 0, true),
            ("chat-tool-call", 1, true),
            ("interval3-chat-tool-call", 2, true),
        ],
        |(name, calls, thinks)| {
            let server = ServerKind::read(name);
            let tokens = pieces.tokens(&server.ids);
            // Parse with known marker ids, and by text alone.
            for markers in [pieces.markers(), HashMap::new()] {
                let mut parser = ResponseParser::new(Dialect::by_name("hermes").unwrap())
                    .markers(markers.iter().map(|(text, id)| (text.as_str(), *id)));
                let mut pending = Vec::new();
                for (text, id) in &tokens {
                    pending.extend(parser.push(text, Some(*id)));
                }
                let (branch, more) = parser.finish(Some(&FinishReason::from_wire(&server.finish)));
                assert!(more.is_empty(), "{name}: a call is complete at its end marker");
                assert_eq!(branch.ids().collect::<Vec<_>>(), server.ids, "{name}");
                assert_eq!(branch.reasoning(), server.reasoning.trim(), "{name}");
                assert_eq!(branch.content(), server.content.trim(), "{name}");
                let expected: Vec<Value> = server
                    .calls
                    .iter()
                    .map(|(name, arguments)| json!([name, serde_json::from_str::<Value>(arguments).unwrap()]))
                    .collect();
                let got: Vec<Value> = pending.iter().map(|call| json!([call.name, call.arguments])).collect();
                assert_eq!(got, expected, "{name}");
                assert_eq!((pending.len(), !server.reasoning.is_empty()), (calls, thinks), "{name}");
                for call in &pending {
                    let leaf = branch.find_call(&call.id).unwrap();
                    assert_eq!(
                        leaf.ids.first(),
                        Some(&151_657),
                        "{name}: a call begins with the id of its opener"
                    );
                    assert_eq!(
                        server.ids[call.at_token as usize], 151_658,
                        "{name}: a call is complete at the id of its closer"
                    );
                }
            }
        },
    );
}
