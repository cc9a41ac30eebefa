//! Tests of the status and the body of complete responses, for servers without a recording. The
//! cases are written from the documentation of the servers (tests/data/bodies.jsonl). The client
//! reads each response. Event streams are also cut at every byte.
#![cfg(feature = "testing")]

mod common;

use common::checks::each_row;
use common::streams::{Last, collect};
use serde::Deserialize;
use serde_json::{Value, json};
use tokenwire::testing::{MockServer, Script};
use tokenwire::{ApiClient, BodyDecoder, CompletionRequest, Endpoint, Message, Step, StreamToken};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    server: String,
    /// The reason for the case.
    purpose: String,
    /// True if the request goes to the chat endpoint.
    chat: bool,
    status: u16,
    content_type: String,
    body: String,
    /// The text and the id.
    tokens: Vec<Value>,
    /// A subset of `finish`, `ids_exact` and `completion_tokens`. For an error, a subset of `kind`,
    /// `http` (a status) and `message`.
    end: serde_json::Map<String, Value>,
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(common::data("bodies.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn every_response_is_read_to_its_end_through_the_client() {
    let cases = cases();
    each_row(&cases, |Case { id, purpose, chat, status, content_type, body, tokens, end, .. }| {
        let script = Script::status(*status).body(content_type, body.as_bytes());
        let server = MockServer::scripted([script]).unwrap();
        let client = ApiClient::builder(server.url()).retries(0).build().unwrap();
        let request = match chat {
            true => CompletionRequest::messages([Message::user("Hi")]),
            false => CompletionRequest::ids([1]),
        };
        let (receiver, guard) = client.stream(request).unwrap();
        let (found, last) = collect(&receiver);
        let report = guard.join();
        let found: Vec<Value> = found.into_iter().map(|(text, id)| json!([text, id])).collect();
        assert_eq!(found, *tokens, "{id} ({purpose})");
        let found = match &last {
            Last::Error(error) => json!({
                "kind": error.kind().as_str(), "http": error.status(),
                "message": error.server_error().map(|said| said.message.as_str()),
            }),
            _ => json!({
                "finish": report.finish.as_ref().map(|finish| finish.as_str()),
                "ids_exact": report.ids_exact.is_exact(),
                "completion_tokens": report.usage.map(|usage| usage.completion_tokens),
            }),
        };
        for (key, value) in end {
            assert_eq!(found.get(key), Some(value), "{id} ({purpose}): {key} of {found}");
        }
    });
    let of = |server: &str| cases.iter().filter(|case| case.server == server).count();
    assert!(of("Lemonade") >= 6 && of("sglang-router, smg") >= 6 && of("proxies") >= 6);
}

/// Decodes a body in two reads and returns its tokens and its end.
fn decoded(body: &[u8], cut: usize, wire: Endpoint) -> String {
    let mut decoder = BodyDecoder::new(wire);
    let mut items: Vec<StreamToken> = Vec::new();
    let mut result = Ok(Step::More);
    for read in [&body[..cut], &body[cut..]] {
        decoder.feed(read);
        while let Ok(Step::Event | Step::More) = result {
            result = decoder.decode_event(&mut |_, item| items.push(item));
            if matches!(result, Ok(Step::More)) {
                break;
            }
        }
    }
    let end = result.and_then(|_| decoder.finish());
    format!("{items:?} {:?}", end.map_err(|error| error.to_string()))
}

#[test]
fn a_cut_does_not_change_what_a_body_decodes_to() {
    each_row(cases().iter().filter(|case| case.status == 200), |case| {
        let (body, wire) = (case.body.as_bytes(), if case.chat { Endpoint::Chat } else { Endpoint::Auto });
        let whole = decoded(body, 0, wire);
        for cut in 1..body.len() {
            assert_eq!(decoded(body, cut, wire), whole, "{} cut at {cut}", case.id);
        }
    });
}
