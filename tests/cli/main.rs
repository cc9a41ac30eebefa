//! Tests of the program as people and scripts use it: arguments and standard input, then the lines
//! and the exit code.

#![cfg(feature = "cli")]

mod chat;
#[path = "../common/mod.rs"]
mod common;
mod stream;
mod usage;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::checks::each_row;
use common::program::{HANGS, KEY, Ran, ended, has, interrupt, program, run, wait};
use common::{data, fixture};
use serde_json::{Value, json};
use tokenwire::SavedRequest;
use tokenwire::recording::Recording;
use tokenwire::testing::{Cut, FakeModel, Framing, MockServer, Script, TlsIdentity};

// ---- sse ----

#[test]
fn sse_prints_events_and_the_end_for_every_cut() {
    let event =
        |event: &str, data: &str, id: &str| json!({"event": event, "data": data, "id": id, "retry": null});
    let end = |id: &str, retry: Option<u64>, comments: u64, incomplete: bool| {
        let end =
            json!({"last_event_id": id, "retry": retry, "comments": comments, "incomplete": incomplete});
        json!({ "end": end })
    };
    let mut cases: Vec<(String, Vec<u8>, Vec<Value>)> = [
        ("", vec![end("", None, 0, false)]),
        ("data: a\ndata: b\n\n", vec![event("message", "a\nb", ""), end("", None, 0, false)]),
        (
            "id: 7\r\nevent: x\r\ndata: \u{e9}\u{1f980}\r\n\r\n: c\r\n",
            vec![event("x", "\u{e9}\u{1f980}", "7"), end("7", None, 1, false)],
        ),
        (
            "retry: 5\ndata: \u{1b}[31m\n\ndata: z",
            vec![
                json!({"event": "message", "data": "\u{1b}[31m", "id": "", "retry": 5}),
                end("", Some(5), 0, true),
            ],
        ),
    ]
    .into_iter()
    .map(|(body, lines)| (body.to_owned(), body.as_bytes().to_vec(), lines))
    .collect();
    cases.extend(outside_cases());
    each_row(&cases, |(name, body, expected)| {
        for cut in ["0", "1", "7"] {
            let ran = run(&["sse", "--json", "--cut", cut], body);
            assert_eq!((ran.code, &ran.lines()), (Some(0), expected), "{name:?} cut {cut}");
        }
    });
}

/// Loads the conformance cases, if they are available.
fn outside_cases() -> Vec<(String, Vec<u8>, Vec<Value>)> {
    let Some(path) = common::shared("cases/sse/conformance.jsonl") else { return Vec::new() };
    let text = std::fs::read_to_string(path).unwrap();
    let case = |line: &str| {
        let case: Value = serde_json::from_str(line).unwrap();
        let body = match (case["input"].as_str(), case["input_base64"].as_str()) {
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, Some(base64)) => from_base64(base64),
            (None, None) => panic!("{line}"),
        };
        let end = ["last_event_id", "retry", "comments", "incomplete"]
            .map(|key| (key.to_owned(), case[key].clone()));
        let mut lines = case["events"].as_array().unwrap().clone();
        lines.push(json!({"end": end.into_iter().collect::<serde_json::Map<_, _>>()}));
        (case["name"].to_string(), body, lines)
    };
    text.lines().map(case).collect()
}

/// Decodes base64 by loading a recording, because a recording can contain bytes as base64.
fn from_base64(base64: &str) -> Vec<u8> {
    let head = concat!(
        r#"{"tokenwire_recording":1,"request":{"method":"GET","path":"/","headers":[]},"#,
        r#""response":{"status":200,"headers":[]}}"#,
    );
    let text = format!("{head}\n{{\"t_us\":0,\"base64\":\"{base64}\"}}\n");
    Recording::from_jsonl(text.as_bytes()).unwrap().response_bytes()
}

#[test]
fn sse_reports_an_event_that_is_too_large() {
    let body = [b"data: a\n\ndata: ", vec![b'x'; (32 << 20) + 1].as_slice()].concat();
    let ran = run(&["sse", "--json"], &body);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.lines().len(), 2, "the event before the large one, and the error");
    assert!(
        has(&ran.last(), &json!({"error": {"kind": "limit", "limit": "max_event_bytes"}})),
        "{}",
        ran.out
    );
    assert!(ran.err.starts_with("error: "), "{}", ran.err);
}

// ---- tokens ----

#[test]
fn tokens_of_recordings_are_the_same_for_every_cut() {
    let error = |kind: &str, tokens: u64| json!({"error": {"kind": kind, "tokens": tokens}});
    let done = |finish: &str, exact: Option<bool>| json!({"done": {"finish": finish, "ids_exact": exact}});
    // name, endpoint, number of ids, last line
    let cases: &[(&str, &str, usize, Value)] = &[
        ("vllm/completion-slow.response.http", "auto", 6, done("stop", None)),
        (
            "vllm/completion-usage.response.http",
            "auto",
            3,
            json!({"done": {"finish": "length", "ids_exact": true,
                "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}}}),
        ),
        ("vllm/completion-utf8-held-back.response.http", "openai", 15, done("stop", None)),
        (
            "vllm/completion-no-token-ids.response.http",
            "auto",
            0,
            json!({"done": {"finish": "stop", "ids_exact": false,
                "ids_exact_reason": "the server sent no ids"}}),
        ),
        ("vllm/completion-n2.response.http", "auto", 12, done("length", Some(true))),
        ("vllm/chat-tool-call.response.http", "chat", 34, done("tool_calls", None)),
        ("vllm/generate-tokens.response.http", "vllm-generate", 6, done("stop", None)),
        (
            "vllm/interval3-usage-cached.response.http",
            "auto",
            2,
            json!({"done": {"usage": {"cached_tokens": 256}}}),
        ),
        ("vllm/router-worker-killed.response.http", "auto", 10, error("incomplete", 10)),
        (
            "vllm/break-engine-death.response.http",
            "auto",
            3,
            json!({"error": {"kind": "server", "status": 500, "type": "InternalServerError", "tokens": 3}}),
        ),
        ("vllm/auth-401-no-key.response.http", "auto", 0, error("not_event_stream", 0)),
        ("llama.cpp/completion-eos.raw", "llamacpp", 8, json!({"done": {"finish": "stop"}})),
        ("llama.cpp/completions-ids-verbose.raw", "auto", 6, json!({"done": {"ids_exact": true}})),
        ("llama.cpp/completions-utf8-verbose.raw", "auto", 11, json!({"done": {"ids_exact": false}})),
    ];
    each_row(cases, |(name, wire, ids, last)| {
        let body = fixture::load(data(name)).unwrap().response_body().bytes;
        let mut whole: Option<String> = None;
        for cut in ["0", "1", "7"] {
            let ran = run(&["tokens", "--json", "--wire", wire, "--cut", cut], &body);
            let shown = format!("{name} cut {cut}: {}", ran.out);
            assert_eq!(ran.code, Some(i32::from(last.get("error").is_some())), "{shown}");
            assert!(has(&ran.last(), last), "{shown}");
            let found = ran.tokens().iter().filter(|token| !token[1].is_null()).count();
            assert_eq!(found, *ids, "{shown}");
            assert_eq!(*whole.get_or_insert_with(|| ran.out.clone()), ran.out, "{shown}");
        }
    });
}

#[test]
fn tokens_prints_the_line_format_that_scripts_rely_on() {
    let a = r#"data: {"choices":[{"index":0,"text":"a","token_ids":[7,8]}]}"#;
    let b = r#"data: {"choices":[{"index":1,"text":"b\u001b[31m"}]}"#;
    let ends = r#"data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}"#;
    let stray = r#"{"error":{"message":"died","type":"x","code":503}}"#;
    let of_a = r#"{"text":"a","id":7} {"text":"","id":8}"#;
    let of_b = r#"{"text":"b\u001b[31m","id":null,"index":1}"#;
    let no_ids = concat!(
        r#"{"done":{"finish":null,"usage":null,"ids_exact":false,"#,
        r#""ids_exact_reason":"a part of the text arrived without an id"}}"#,
    );
    let stopped = r#"{"done":{"finish":"stop","usage":null,"ids_exact":null}}"#;
    let ended = r#"{"done":{"finish":null,"usage":null,"ids_exact":null}}"#;
    let died = concat!(
        r#"{"error":{"kind":"server","message":"the server answered 503: died","#,
        r#""type":"x","status":503,"tokens":2}}"#,
    );
    let no_stream = concat!(
        r#"{"error":{"kind":"not_event_stream","message":"the response is not an event stream: died","#,
        r#""type":"x","status":503,"tokens":0}}"#,
    );
    let nothing = concat!(
        r#"{"error":{"kind":"incomplete","#,
        r#""message":"the stream ended before the first token, without a finish reason","tokens":0}}"#,
    );
    // body, exit code, lines
    let cases = [
        // A terminator counts even if the blank line after it is missing.
        (format!("{a}\n\n{b}\n\ndata: [DONE]"), 0, vec![of_a, of_b, no_ids]),
        (format!("{a}\n\n{ends}\n\n"), 0, vec![of_a, stopped]),
        // A line that the standard ignores may contain an error. The error counts before an event
        // and at the end of the input, but it does not count after the end of the stream.
        (format!("{a}\n\n{stray}\n{b}\n\n"), 1, vec![of_a, died]),
        (format!("{a}\n\n{stray}\ndata: [DONE]\n\n"), 1, vec![of_a, died]),
        (format!("{a}\n\n{stray}\n{ends}\n\n"), 1, vec![of_a, died]),
        (format!("{a}\n\nerror: {stray}\n\n{ends}\n\n"), 1, vec![of_a, died]),
        (format!("{a}\n\n{stray}"), 1, vec![of_a, died]),
        (format!("{a}\n\ndata: [DONE]\n\n{stray}\n\n"), 0, vec![of_a, ended]),
        (format!(" \n{stray}"), 1, vec![no_stream]),
        (String::new(), 1, vec![nothing]),
    ];
    each_row(&cases, |(body, code, lines)| {
        let expected = lines.join("\n").replace("} {", "}\n{") + "\n";
        for cut in ["0", "1", "2", "7"] {
            let ran = run(&["tokens", "--json", "--cut", cut], body.as_bytes());
            assert_eq!((ran.code, &ran.out), (Some(*code), &expected), "{body:?} cut {cut}");
        }
    });
    let for_people = run(&["tokens"], format!("{a}\n\n{b}\n\ndata: [DONE]\n\n").as_bytes());
    assert_eq!(for_people.out, "ab\u{241b}[31m\n");
}

#[test]
fn tokens_distinguishes_the_parts_of_a_chat() {
    let delta = |delta: Value, finish: Value| {
        format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}))
    };
    let call = |index: u32, arguments: &str| {
        let function = json!({"name": "now", "arguments": arguments});
        json!({"tool_calls": [{"index": index, "id": format!("c{index}"), "function": function}]})
    };
    let body = delta(json!({"reasoning_content": "hm"}), Value::Null)
        + &delta(json!({"content": "Hi"}), Value::Null)
        + &delta(call(0, "{\"a\":1}"), Value::Null)
        + &delta(call(1, "{a"), Value::Null)
        + &delta(json!({}), "tool_calls".into());
    let lines = [
        r#"{"text":"hm","id":null,"reasoning":true}"#,
        r#"{"text":"Hi","id":null}"#,
        r#"{"tool_call":{"id":"c0","name":"now","arguments":{"a":1}}}"#,
        r#"{"malformed_call":{"text":"now {a","reason":"the call's body does not parse"}}"#,
    ];
    for cut in ["0", "1", "7"] {
        let ran = run(&["tokens", "--json", "--wire", "chat", "--cut", cut], body.as_bytes());
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert_eq!(ran.out.lines().take(4).collect::<Vec<_>>(), lines, "cut {cut}");
    }
}

fn two_tokens() -> Script {
    Script::tokens([(785, "Hello"), (6722, " world")])
}

/// Runs `stream` without retries, unless `more` contains a number of retries.
fn stream(server: &MockServer, more: &[&str]) -> Ran {
    let url = server.url();
    let retries: &[&str] = if more.contains(&"--retries") { &[] } else { &["--retries", "0"] };
    let args = [&["stream", "--base-url", &url, "--prompt-ids", "1,2", "--json"], retries, more].concat();
    run(&args, b"")
}

fn one_token() -> Script {
    Script::events(["{\"choices\":[{\"index\":0,\"text\":\"Hello\",\"token_ids\":[785]}]}"])
}

/// Sends two tokens, then closes the connection without a finish reason.
fn cut_before_the_end() -> Script {
    let token = |text: &str, id: u32| {
        format!("{{\"choices\":[{{\"index\":0,\"text\":\"{text}\",\"token_ids\":[{id}]}}]}}")
    };
    Script::events([token("Hello", 785), token(" world", 6722)]).close()
}
