//! Tests of servers as records: the files in `src/protocol/server/records/`, an invented record,
//! and records that a program reads itself.

mod common;

use std::collections::HashSet;

use common::checks::each_row;
use common::vectors::{Case as Stream, mismatch};
use common::{records, wire};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokenwire::{
    CompletionRequest, Endpoint, ErrorKind, MAX_SERVER_RECORD_BYTES, Message, SamplingParams, ServerKind,
};

/// The parts of a record that the tests read.
#[derive(Deserialize)]
struct Record {
    name: String,
    identified_by: Option<Value>,
    #[serde(default)]
    refuses: Map<String, Value>,
    cases: Vec<Case>,
    #[serde(default)]
    streams: Vec<Stream>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    request: Map<String, Value>,
    #[serde(default = "openai")]
    wire: String,
    /// True if the request is for a complete response.
    #[serde(default)]
    whole: bool,
    body: Option<Value>,
    refused: Option<String>,
}

fn openai() -> String {
    "openai".to_owned()
}

/// Returns all built-in records, each with its server.
fn all() -> Vec<(Record, ServerKind)> {
    let built_in = records("src/protocol/server/records").into_iter().map(|(name, text)| {
        let server = ServerKind::by_name(&name).unwrap();
        (name, text, server)
    });
    // The files in `src/protocol/server/records/` are read by the same code.
    let invented = records("tests/data/servers").into_iter().map(|(name, text)| {
        let server = ServerKind::from_json(&text).unwrap();
        (name, text, server)
    });
    let read = |(name, text, server): (String, String, ServerKind)| {
        let record: Record = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(record.name, name, "the name of {name}.json");
        (record, server)
    };
    built_in.chain(invented).map(read).collect()
}

fn request(fields: &Map<String, Value>) -> CompletionRequest {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let ids = |value: &Value| serde_json::from_value::<Vec<u32>>(value.clone()).unwrap();
    let mut request = match (fields.get("prompt"), fields.get("messages")) {
        (Some(Value::String(text)), None) => CompletionRequest::text(text.as_str()),
        (Some(prompt), None) => CompletionRequest::ids(ids(prompt)),
        (None, Some(Value::Array(messages))) => {
            let user = |message: &Value| {
                assert_eq!(message["role"], "user");
                Message::user(text(&message["content"]))
            };
            CompletionRequest::messages(messages.iter().map(user).collect::<Vec<_>>())
        }
        _ => panic!("no prompt: {fields:?}"),
    };
    let mut params = SamplingParams::default();
    params.max_tokens = None;
    for (key, value) in fields {
        let (float, int) = (|| value.as_f64().unwrap(), || u32::try_from(value.as_u64().unwrap()).unwrap());
        match key.as_str() {
            "prompt" | "messages" => {}
            "max_tokens" => params = params.max_tokens(int()),
            "min_tokens" => params = params.min_tokens(int()),
            "temperature" => params = params.temperature(float()),
            "top_p" => params = params.top_p(float()),
            "top_k" => params = params.top_k(value.as_i64().unwrap().try_into().unwrap()),
            "min_p" => params = params.min_p(float()),
            "presence_penalty" => params = params.presence_penalty(float()),
            "frequency_penalty" => params = params.frequency_penalty(float()),
            "repetition_penalty" => params = params.repetition_penalty(float()),
            "seed" => params = params.seed(value.as_i64().unwrap()),
            "stop" => params = params.stop(vec![text(value)]),
            "stop_token_ids" => params = params.stop_token_ids(ids(value)),
            "ignore_eos" => params = params.ignore_eos(value.as_bool().unwrap()),
            "skip_special_tokens" => params = params.skip_special_tokens(value.as_bool().unwrap()),
            "model" => request = request.model(text(value)),
            "priority" => request = request.priority(value.as_i64().unwrap().try_into().unwrap()),
            "cache_salt" => request = request.cache_salt(text(value)),
            "cache_prompt" => request = request.cache_prompt(value.as_bool().unwrap()),
            "structured_output" => request = request.structured_output(value.clone()),
            "tool_choice" => request = request.tool_choice(value.clone()),
            "send_anyway" => request = request.allow_ignored_fields(),
            "extra" => {
                for (key, value) in value.as_object().unwrap() {
                    request = request.extra(key.as_str(), value.clone());
                }
            }
            other => panic!("unknown field in the request of a case: {other:?}"),
        }
    }
    request.sampling(params)
}

#[test]
fn each_case_of_each_record_holds() {
    each_row(all(), |(record, server)| {
        let name = &record.name;
        assert!(record.cases.len() >= 3, "{name}: {} cases", record.cases.len());
        let mut refused: HashSet<&str> = HashSet::new();
        for (n, case) in record.cases.iter().enumerate() {
            let wire: Endpoint = case.wire.parse().unwrap();
            let request = request(&case.request);
            let written = match case.whole {
                true => request.to_call_json(None, wire, Some(&server)),
                false => request.to_json(None, wire, Some(&server)),
            };
            match (written, &case.body, &case.refused) {
                (Ok(written), Some(body), None) => {
                    let text = String::from_utf8(written).unwrap();
                    let found: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(found, *body, "{name}, case {n}");
                    // Check for duplicate fields in the text, because a parsed value does not show
                    // them.
                    assert_eq!(found.to_string().len(), text.len(), "{name}, case {n}: {text}");
                }
                (Err(error), None, Some(field)) => {
                    assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}, case {n}: {error}");
                    let said = error.message();
                    let reason = record.refuses[field].as_str().unwrap();
                    assert!(said.contains(field) && said.contains(reason), "{name}, case {n}: {said}");
                    refused.insert(field);
                }
                (written, ..) => panic!("{name}, case {n}: {:?}", written.map(String::from_utf8)),
            }
        }
        let untried = record.refuses.keys().find(|field| !refused.contains(field.as_str()));
        assert_eq!(untried, None, "{name}: a refused field has no case");
    });
}

#[test]
fn each_stream_of_each_record_holds_at_every_cut() {
    let mut cuts = 0;
    each_row(all(), |(record, server)| {
        for stream in &record.streams {
            let asked = stream.asked_of().or(Some(Some(server.clone())));
            let wrong = mismatch(stream, asked.clone());
            assert_eq!(wrong, None, "{}", record.name);
            let data = |event: &Value| event.as_str().map_or_else(|| event.to_string(), str::to_owned);
            let body: String =
                stream.events.iter().map(|event| format!("data: {}\n\n", data(event))).collect();
            let decode =
                |cuts: &[usize]| wire::decode(body.as_bytes(), cuts, stream.decoder(asked.clone())).summary();
            let whole = decode(&[]);
            for cut in 1..body.len() {
                assert_eq!(decode(&[cut]), whole, "{}: {}, cut at {cut}", record.name, stream.id);
                cuts += 1;
            }
        }
    });
    assert!(cuts > 500, "{cuts}");
}

/// A sign that identifies one server must not identify another.
#[test]
fn no_two_records_are_identified_by_the_same_sign() {
    let mut seen = Vec::new();
    for (record, _) in all() {
        if let Some(told) = record.identified_by {
            assert!(!seen.contains(&told), "{}: {told}", record.name);
            seen.push(told);
        }
    }
}

/// A valid record, which the tests make invalid by a replacement.
const RECORD: &str = r#"{
  "name": "odd",
  "about": "Invented.",
  "like": "vllm",
  "identified_by": {"owned_by": "me"},
  "renames": {"max_tokens": "limit", "stream_options": null},
  "sets": {"fast": true},
  "refuses": {"min_p": "it has none"}
}"#;

/// The text to replace, the replacement, and a part of the error message.
const WRONG: &[(&str, &str, &str)] = &[
    ("\"name\": \"odd\",", "", "missing field `name` at line 9 column 1"),
    ("\"odd\"", "\"\"", "invalid name \"\": expected letters, digits, `_`, `-` and `.` at line 2 column"),
    ("\"odd\"", "\"tgi\"", "\"tgi\" is the name of a built-in server at line 2 column"),
    ("\"about\"", "\"abuot\"", "unknown field `abuot`, expected one of `name`, `title`, `about`, `like`"),
    ("\"vllm\"", "\"vlm\"", "unknown server \"vlm\", expected one of vllm, llamacpp, sglang, tgi, "),
    ("\"vllm\"", "\"sglang_router\"", "unknown server \"sglang_router\""),
    ("\"owned_by\"", "\"owner\"", "unknown field `owner`, expected `owned_by` at line 5"),
    ("\"me\"", "\"\"", "identified_by.owned_by: the text is empty"),
    ("\"me\"", "\"library\"", "identified_by.owned_by: \"library\" already identifies a built-in server"),
    ("\"limit\"", "5", "invalid type: integer `5`, expected a string at line 6 column"),
    ("\"limit\"", "\"\"", "renames.max_tokens: the new name is empty"),
    ("\"limit\"", "null", "renames.max_tokens: a field that callers set cannot be left out"),
    (
        "\"limit\"",
        "\"seed\"",
        "renames.max_tokens: \"seed\" is the name of another field; rename that field too",
    ),
    ("\"max_tokens\"", "\"max_token\"", "renames.max_token: unknown field"),
    ("null", "\"limit\"", "renames.max_tokens: \"limit\" is also the new name of stream_options"),
    ("\"fast\"", "\"seed\"", "sets.seed: only a request can set this field"),
    ("\"fast\"", "\"limit\"", "sets.limit: only a request can set this field"),
    ("\"fast\": true", "\"n\": 2", "sets: more than one choice"),
    ("\"min_p\"", "\"minp\"", "refuses.minp: unknown feature"),
    ("\"it has none\"", "\" \"", "refuses.min_p: the reason is empty"),
    ("}\n}", "}", "EOF while parsing an object at line 8 column"),
];

#[test]
fn an_invalid_record_is_an_error_with_its_place() {
    ServerKind::from_json(RECORD).unwrap();
    each_row(WRONG, |(part, other, said)| {
        assert!(RECORD.contains(part), "{part}");
        let error = ServerKind::from_json(&RECORD.replacen(part, other, 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let message = error.to_string();
        assert!(message.contains("not a server record: ") && message.contains(said), "{part}: {message}");
    });
}

#[test]
fn a_record_has_a_name_and_a_size_limit() {
    let odd = ServerKind::from_json(RECORD).unwrap();
    assert_eq!(odd.name(), "odd");
    let error = ServerKind::by_name("odd").unwrap_err();
    assert!(
        error.to_string().contains("expected one of vllm, ") && error.to_string().contains("sglang_router")
    );

    let too_long = format!("{RECORD}{}", " ".repeat(MAX_SERVER_RECORD_BYTES));
    let error = ServerKind::from_json(&too_long).unwrap_err();
    assert!(error.to_string().contains("the limit is 262144"), "{error}");

    assert_eq!(ServerKind::from_json(RECORD).unwrap(), odd, "equal records are equal servers");
    assert_ne!(ServerKind::from_json(&RECORD.replace("Invented.", "Another.")).unwrap(), odd);
}

/// A server that is "like" a known server uses the same field names, and rejects the fields that
/// the known server ignores.
#[test]
fn a_server_like_a_known_one_uses_its_field_names() {
    let like = |name: &str| {
        let text = format!(r#"{{"name": "mine", "about": "", "like": "{name}"}}"#);
        (ServerKind::from_json(&text).unwrap(), ServerKind::by_name(name).unwrap())
    };
    let requests = [
        r#"{"prompt": [1, 2], "max_tokens": 3, "repetition_penalty": 1.5}"#,
        r#"{"prompt": "Hi", "structured_output": {"regex": "a+"}, "skip_special_tokens": true}"#,
        r#"{"prompt": "Hi", "cache_prompt": false, "stop_token_ids": [2]}"#,
        r#"{"messages": [{"role": "user", "content": "Hi"}], "priority": 2}"#,
    ];
    for name in ["vllm", "llamacpp", "sglang", "tgi", "tensorrt_llm", "ollama", "lmstudio"] {
        let (mine, known) = like(name);
        assert_ne!(mine, known);
        for text in requests {
            let request = request(&serde_json::from_str(text).unwrap());
            for wire in [Endpoint::Auto, Endpoint::Chat, Endpoint::LlamaCpp, Endpoint::SgLang] {
                let written = |server: &ServerKind| {
                    let written = request.to_json(None, wire, Some(server));
                    written.map(|json| String::from_utf8(json).unwrap()).map_err(|error| {
                        (
                            error.kind(),
                            error.message().replacen(known.name(), "it", 1).replacen("mine", "it", 1),
                        )
                    })
                };
                assert_eq!(written(&mine), written(&known), "{name} {wire} {text}");
            }
        }
    }
}

/// A server that the caller has set stays the same, regardless of the chunks.
#[cfg(feature = "testing")]
#[test]
fn a_client_uses_a_server_as_its_record_describes() {
    use common::streams::collect;
    use tokenwire::testing::{MockServer as Scripted, Script};
    use tokenwire::{ApiClient, IdsExact, Inexact};

    let (_, server) = all().into_iter().find(|(record, _)| record.name == "invented").unwrap();
    let without_ids = r#"{"choices": [{"index": 0, "text": "Hi", "finish_reason": "stop"}]}"#;
    let scripts = [Script::tokens([(7, "a"), (8, "b")]), Script::events([without_ids, "[DONE]"])];
    let scripted = Scripted::scripted(scripts).unwrap();
    let client = ApiClient::builder(scripted.url()).server(server.clone()).build().unwrap();
    let limited = |params: SamplingParams| CompletionRequest::ids([1, 2]).sampling(params.max_tokens(5));

    for (ids, exact) in [(vec![Some(7), Some(8)], None), (vec![None], Some(Inexact::Dropped))] {
        let (receiver, guard) = client.stream(limited(SamplingParams::default())).unwrap();
        let (tokens, _) = collect(&receiver);
        assert_eq!(tokens.iter().map(|(_, id)| *id).collect::<Vec<_>>(), ids);
        let found = guard.join().ids_exact;
        assert_eq!(matches!(found, IdsExact::No(_)).then_some(found), exact.map(IdsExact::No));
        assert_eq!(client.server().unwrap().as_ref(), Some(&server));
    }
    let error = client.stream(limited(SamplingParams::default().min_p(0.5))).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    let sent = scripted.requests();
    assert_eq!(sent.len(), 2, "a rejected request was sent");
    for request in sent {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(
            (&body["max_new_tokens"], body.get("max_tokens"), &body["with_ids"]),
            (&5.into(), None, &true.into())
        );
    }
}
