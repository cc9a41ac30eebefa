//! Tests that complete responses decode correctly. The responses are all recordings, and vectors
//! for servers without a recording.

mod common;

use common::checks::each_row;
use common::data;
use common::wire::{Response, decode};
use serde_json::{Value, json};
use tokenwire::{
    ChunkDecoder, CompletionResponse, Endpoint, ErrorKind, IdsExact, Inexact, MAX_NESTING, ServerKind,
    TokenId,
};

/// Converts a response to JSON, so that a case can contain the expected value. `ids_exact` is true,
/// false, null, or the numbers of a gap.
fn shown(answer: &CompletionResponse) -> Value {
    let calls = answer.tool_calls.iter().map(|call| json!([call.id, call.name, call.arguments]));
    let malformed = answer.malformed_calls.iter().map(|call| json!([call.text, call.reason.as_str()]));
    json!({
        "text": answer.text,
        "reasoning": answer.reasoning,
        "calls": calls.collect::<Vec<_>>(),
        "malformed": malformed.collect::<Vec<_>>(),
        "ids": answer.ids,
        "exact": match answer.ids_exact {
            IdsExact::Yes => json!(true),
            IdsExact::No(Inexact::NoIds) => json!(false),
            IdsExact::No(Inexact::CountDiffers { received, counted } | Inexact::LostInCharacter { received, counted }) => {
                json!([received, counted])
            }
            IdsExact::Unknown => json!(null),
            other => panic!("{other:?}"),
        },
        "prompt_ids": answer.prompt_ids,
        "finish": answer.finish.as_ref().map(|word| word.as_str()),
        "usage": answer.usage.map(|usage| json!([usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens])),
        "request_id": answer.request_id,
        "server": answer.server.as_ref().map(ServerKind::name),
    })
}

/// Fills in the fields that a case leaves out, with the values of an empty response.
fn expected(wanted: &Value) -> Value {
    let mut all = json!({
        "text": "", "reasoning": "", "calls": [], "malformed": [], "ids": [], "exact": false, "prompt_ids": null,
        "finish": null, "usage": null, "request_id": null, "server": null,
    });
    all.as_object_mut().unwrap().extend(wanted.as_object().unwrap().clone());
    all
}

fn body(name: &str) -> Vec<u8> {
    let response = Response::read(&data(name));
    assert!(response.status == 200 && !response.is_event_stream(), "{name}");
    response.body
}

const TWELVE: [TokenId; 12] = [260, 3003, 4683, 282, 260, 35526, 2380, 1743, 28, 527, 359, 42];

#[test]
fn every_recorded_response_decodes_to_the_content_of_its_file() {
    let raw: Value = serde_json::from_slice(&body("vllm/chat-not-streamed-tool-call.response.http")).unwrap();
    let cases = [
        (
            "vllm/completion-not-streamed.response.http",
            Endpoint::OpenAi,
            json!({
                "text": " Paris 🦀.", "ids": [12095, 11162, 99, 222, 13, 151645], "exact": true,
                "prompt_ids": [785, 6722, 315, 9625, 374], "finish": "stop", "usage": [5, 6, null, null],
                "request_id": "cmpl-9289dc3be6bbb225", "server": "vLLM",
            }),
        ),
        (
            "vllm/chat-not-streamed-tool-call.response.http",
            Endpoint::Chat,
            json!({
                "reasoning": "\nThe user greets.\n",
                "calls": [["chatcmpl-tool-80885f203febc630", "get_weather", {"city": "Zürich 🦀"}]],
                "ids": raw["choices"][0]["token_ids"], "exact": true, "prompt_ids": raw["prompt_token_ids"],
                "finish": "tool_calls", "usage": [148, 34, null, 6], "request_id": "chatcmpl-b9ed595ae6b67b8b",
                "server": "vLLM",
            }),
        ),
        (
            "vllm/generate-not-streamed.response.http",
            Endpoint::VllmGenerate,
            json!({
                "ids": [12095, 11162, 99, 222, 220, 124373, 222, 222, 13, 151645], "exact": true, "finish": "stop",
                "usage": [5, 10, 0, null], "request_id": "generate-tokens-937adfde883861e8", "server": "vLLM",
            }),
        ),
        (
            "llama.cpp/completions-nonstream.raw",
            Endpoint::OpenAi,
            // This request did not set `return_tokens`.
            json!({
                "text": " the primary colors of the RGB color model, which are:", "finish": "length",
                "usage": [5, 12, 4, null], "request_id": "chatcmpl-T1ROndkIcQhwwb9Me5v1LEeAIMdGIx1k",
                "server": "llama.cpp",
            }),
        ),
        (
            "llama.cpp/completion-nonstream.raw",
            Endpoint::LlamaCpp,
            json!({
                "text": " the primary colors of the RGB color model, which are:", "ids": TWELVE, "exact": true,
                "finish": "length", "usage": [5, 12, 4, null], "server": "llama.cpp",
            }),
        ),
        (
            "llama.cpp/completion-utf8-nonstream.raw",
            Endpoint::LlamaCpp,
            json!({
                "text": "你好，世界！🤖 ok", "exact": true, "finish": "stop", "server": "llama.cpp",
                "ids": [18645, 250, 48392, 138, 8083, 230, 7906, 240, 178, 239, 230, 8083, 219, 10813, 114, 240,
                    216, 95, 91, 0],
            }),
        ),
        (
            "llama.cpp/chat-nonstream.raw",
            Endpoint::Chat,
            json!({
                "text": "The most obvious animal is probably a cat", "finish": "length",
                "usage": [34, 8, 24, null], "request_id": "chatcmpl-BrotmYnIzL3YTQOtxEZWrONsAXjE7W5Y",
                "server": "llama.cpp",
            }),
        ),
        (
            "llama.cpp/chat-tools-call-nonstream.raw",
            Endpoint::Chat,
            json!({
                "calls": [["wc6FVcYqPzZvCKCRBqXEzZlsYd5oe6Cy", "get_weather", {"city": "Paris", "unit": "C"}]],
                "finish": "tool_calls", "usage": [485, 37, 0, null],
                "request_id": "chatcmpl-qRFeFJwQKx8CUcCMmWLt0OCEu0qmwQON", "server": "llama.cpp",
            }),
        ),
    ];
    each_row(cases, |(name, wire, wanted)| {
        for wire in [wire, Endpoint::Auto] {
            let answer = CompletionResponse::from_json(wire, &body(name))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(shown(&answer), expected(&wanted), "{name} as {wire}");
        }
    });
}

/// Compares two recordings of the same generation. For a character of several tokens, the stream
/// contains only the last id. The complete response contains all ids.
#[test]
fn llama_cpp_sends_the_ids_inside_characters_only_in_complete_responses() {
    let streamed = Response::read(&data("llama.cpp/completion-utf8.raw"));
    let streamed = decode(&streamed.body, &[], ChunkDecoder::new(Endpoint::LlamaCpp));
    let whole =
        CompletionResponse::from_json(Endpoint::LlamaCpp, &body("llama.cpp/completion-utf8-nonstream.raw"))
            .unwrap();
    assert_eq!(streamed.text(), whole.text);
    let (some, all) = (streamed.ids(), &whole.ids);
    let lost = Inexact::LostInCharacter { received: 11, counted: 20 };
    assert_eq!((some.len(), streamed.end.unwrap().ids_exact), (11, IdsExact::No(lost)));
    assert_eq!((all.len(), whole.ids_exact), (20, IdsExact::Yes));
    let mut left = all.iter();
    assert!(some.iter().all(|id| left.any(|one| one == id)), "{some:?} in {all:?}");
}

/// Each vector has a body, and either its decoded form or the kind of error and a part of its
/// message.
#[test]
fn responses_of_servers_without_recordings_decode_as_documented() {
    let vectors = std::fs::read_to_string(data("answers.jsonl")).unwrap();
    let mut count = 0;
    each_row(vectors.lines(), |line| {
        let case: Value = serde_json::from_str(line).unwrap();
        let id = &case["id"];
        let wire: Endpoint = case["wire"].as_str().unwrap().parse().unwrap();
        let body = case["body"].as_str().map_or_else(|| case["body"].to_string(), str::to_owned);
        let found = CompletionResponse::from_json(wire, body.as_bytes());
        match (&case["error"], found) {
            (Value::Null, Ok(answer)) => assert_eq!(shown(&answer), expected(&case["answer"]), "{id}"),
            (Value::Array(error), Err(found)) => {
                assert_eq!(json!(found.kind().as_str()), error[0], "{id}: {found}");
                assert!(found.to_string().contains(error[1].as_str().unwrap()), "{id}: {found}");
            }
            (_, found) => panic!("{id}: {found:?}"),
        }
        count += 1;
    });
    assert!(count >= 30, "{count}");
}

#[test]
fn a_truncated_response_is_incomplete_at_any_byte() {
    each_row(
        [
            ("vllm/completion-not-streamed.response.http", Endpoint::OpenAi),
            ("llama.cpp/chat-tools-call-nonstream.raw", Endpoint::Chat),
        ],
        |(name, wire)| {
            let body = body(name);
            for cut in 1..body.len() {
                let error = CompletionResponse::from_json(wire, &body[..cut]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Incomplete, "{name} cut at {cut}: {error}");
            }
        },
    );
}

#[test]
fn a_response_with_too_much_nesting_is_rejected() {
    let nested = |levels: usize| {
        let list = "[".repeat(levels - 1) + &"]".repeat(levels - 1);
        format!(r#"{{"choices":[{{"text":"a"}}],"x":{list}}}"#)
    };
    assert!(CompletionResponse::from_json(Endpoint::OpenAi, nested(MAX_NESTING).as_bytes()).is_ok());
    let error =
        CompletionResponse::from_json(Endpoint::OpenAi, nested(MAX_NESTING + 1).as_bytes()).unwrap_err();
    assert_eq!(error.kind().as_str(), "limit", "{error}");
}
