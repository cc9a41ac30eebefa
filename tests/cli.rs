//! The program as people and scripts use it: arguments and standard input in, lines and an exit code out.

#![cfg(feature = "cli")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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
    for (name, body, expected) in &cases {
        for cut in ["0", "1", "7"] {
            let ran = run(&["sse", "--json", "--cut", cut], body);
            assert_eq!((ran.code, &ran.lines()), (Some(0), expected), "{name:?} cut {cut}");
        }
    }
}

/// The conformance cases, where they are.
fn outside_cases() -> Vec<(String, Vec<u8>, Vec<Value>)> {
    let folder = std::env::var_os("TOKENWIRE_CASES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases"), PathBuf::from);
    let Ok(text) = std::fs::read_to_string(folder.join("sse/conformance.jsonl")) else {
        return Vec::new();
    };
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

/// By way of a recording, which can hold bytes so.
fn from_base64(base64: &str) -> Vec<u8> {
    let head = concat!(
        r#"{"tokenwire_recording":1,"request":{"method":"GET","path":"/","headers":[]},"#,
        r#""response":{"status":200,"headers":[]}}"#,
    );
    let text = format!("{head}\n{{\"t_us\":0,\"base64\":\"{base64}\"}}\n");
    Recording::from_jsonl(text.as_bytes()).unwrap().response_bytes()
}

#[test]
fn sse_tells_an_event_that_is_too_large() {
    let body = [b"data: a\n\ndata: ", vec![b'x'; (32 << 20) + 1].as_slice()].concat();
    let ran = run(&["sse", "--json"], &body);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.lines().len(), 2, "the event before it, and the error");
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
    // Name, wire, number of ids, last line.
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
    for (name, wire, ids, last) in cases {
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
    }
}

#[test]
fn tokens_prints_lines_in_the_form_that_others_build_on() {
    let a = r#"data: {"choices":[{"index":0,"text":"a","token_ids":[7,8]}]}"#;
    let b = r#"data: {"choices":[{"index":1,"text":"b\u001b[31m"}]}"#;
    let ends = r#"data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}"#;
    let stray = r#"{"error":{"message":"died","type":"x","code":503}}"#;
    let of_a = r#"{"text":"a","id":7} {"text":"","id":8}"#;
    let of_b = r#"{"text":"b\u001b[31m","id":null,"index":1}"#;
    let no_ids = concat!(
        r#"{"done":{"finish":null,"usage":null,"ids_exact":false,"#,
        r#""ids_exact_reason":"some text came without an id"}}"#,
    );
    let stopped = r#"{"done":{"finish":"stop","usage":null,"ids_exact":null}}"#;
    let ended = r#"{"done":{"finish":null,"usage":null,"ids_exact":null}}"#;
    let died = concat!(
        r#"{"error":{"kind":"server","message":"the server answered 503: died","#,
        r#""type":"x","status":503,"tokens":2}}"#,
    );
    let no_stream = concat!(
        r#"{"error":{"kind":"not_event_stream","message":"the answer is no event stream: died","#,
        r#""type":"x","status":503,"tokens":0}}"#,
    );
    let nothing = concat!(
        r#"{"error":{"kind":"incomplete","#,
        r#""message":"the stream ended before it began: no token, no finish reason","tokens":0}}"#,
    );
    // Body, exit code, lines.
    let cases = [
        // A terminator without its blank line counts.
        (format!("{a}\n\n{b}\n\ndata: [DONE]"), 0, vec![of_a, of_b, no_ids]),
        (format!("{a}\n\n{ends}\n\n"), 0, vec![of_a, stopped]),
        // Errors where the standard says to ignore the line: before an event, at the end; not behind the end.
        (format!("{a}\n\n{stray}\n{b}\n\n"), 1, vec![of_a, died]),
        (format!("{a}\n\n{stray}\ndata: [DONE]\n\n"), 1, vec![of_a, died]),
        (format!("{a}\n\n{stray}\n{ends}\n\n"), 1, vec![of_a, died]),
        (format!("{a}\n\nerror: {stray}\n\n{ends}\n\n"), 1, vec![of_a, died]),
        (format!("{a}\n\n{stray}"), 1, vec![of_a, died]),
        (format!("{a}\n\ndata: [DONE]\n\n{stray}\n\n"), 0, vec![of_a, ended]),
        (format!(" \n{stray}"), 1, vec![no_stream]),
        (String::new(), 1, vec![nothing]),
    ];
    for (body, code, lines) in &cases {
        let expected = lines.join("\n").replace("} {", "}\n{") + "\n";
        for cut in ["0", "1", "2", "7"] {
            let ran = run(&["tokens", "--json", "--cut", cut], body.as_bytes());
            assert_eq!((ran.code, &ran.out), (Some(*code), &expected), "{body:?} cut {cut}");
        }
    }
    let for_people = run(&["tokens"], format!("{a}\n\n{b}\n\ndata: [DONE]\n\n").as_bytes());
    assert_eq!(for_people.out, "ab\u{241b}[31m\n");
}

#[test]
fn tokens_prints_what_a_chat_tells_apart() {
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

// ---- stream ----

fn two_tokens() -> Script {
    Script::tokens([(785, "Hello"), (6722, " world")])
}

/// Without retries, unless `more` says how many.
fn stream(server: &MockServer, more: &[&str]) -> Ran {
    let url = server.url();
    let retries: &[&str] = if more.contains(&"--retries") { &[] } else { &["--retries", "0"] };
    let args = [&["stream", "--base-url", &url, "--prompt-ids", "1,2", "--json"], retries, more].concat();
    run(&args, b"")
}

#[test]
fn stream_sends_again_as_often_as_it_is_told() {
    let busy = || Script::status(503).header("retry-after-ms", "1");
    for (retries, code) in [("0", 1), ("1", 1), ("2", 0)] {
        let server = MockServer::scripted([busy(), busy(), two_tokens()]).unwrap();
        let ran = stream(&server, &["--retries", retries]);
        assert_eq!(ran.code, Some(code), "{}", ran.err);
        assert_eq!(ran.last()["report"]["retries"], retries.parse::<u64>().unwrap(), "{}", ran.out);
        assert_eq!(server.requests().len() as u64, retries.parse::<u64>().unwrap() + 1);
    }
}

#[test]
fn stream_goes_on_where_it_broke_off() {
    let model = FakeModel::new(4);
    let server = MockServer::start(move |request| {
        let script = model.answer(request);
        let is_first = request.json()["prompt"].as_array().map(Vec::len) == Some(3);
        if is_first { script.cut_at(900, Cut::Fin) } else { script }
    })
    .unwrap();
    let url = server.url();
    let run = |resume: &str, more: &[&str]| {
        let args = ["stream", "--base-url", &url, "--prompt-ids", "11,12,13", "--max-tokens", "20"];
        run(&[&args[..], &["--temperature", "0", "--resume", resume], more].concat(), b"")
    };
    let ran = run("2", &["--json"]);
    assert_eq!((ran.code, ran.tokens().len()), (Some(0), 20), "{}", ran.err);
    let report = &ran.last()["report"];
    assert_eq!(report["usage"], json!({"prompt_tokens": 3, "completion_tokens": 20, "total_tokens": 23}));
    assert_eq!((&report["ids_exact"], &report["not_resumed"]), (&json!(true), &Value::Null));
    let resume = &report["resumes"][0];
    let told = json!([resume["after"], resume["requests"], resume["ids_again"], resume["text_exact"]]);
    assert_eq!(told, json!(["incomplete", 1, 0, true]));
    assert!(resume["took_us"].is_u64() && resume["at_id"].as_u64() > Some(0), "{resume}");
    let told = run("1", &[]).err;
    assert!(told.contains("20 tokens") && told.contains("broke off 1 time"), "{told}");
    let ran = run("1", &["--json", "--extra", r#"{"echo":true}"#]);
    assert_eq!((ran.code, &ran.last()["report"]["not_resumed"]), (Some(1), &json!("the prompt is echoed")));
    assert_eq!(run("0", &["--json"]).last()["report"]["resumes"], json!([]));
}

#[test]
fn stream_draws_what_came_and_when() {
    let calls = Script::events([
        r#"{"choices":[{"index":0,"delta":{"content":"Hi"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"now","arguments":"{}"}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
        "[DONE]",
    ]);
    let broken = || Script::tokens((1..9).map(|id| (id, "a"))).cut_at(900, Cut::Fin);
    let busy = Script::status(503).header("retry-after-ms", "1");
    // What the server answers, flags, exit code, words in the picture, diamonds in it: one is the legend's.
    type Case = (Vec<Script>, &'static [&'static str], i32, &'static [&'static str], usize);
    let cases: Vec<Case> = vec![
        (vec![two_tokens()], &[], 0, &["2 tokens in ", ", the first after ", ">stop", "p50 ", "max "], 1),
        (vec![calls], &["--wire", "chat", "--prompt", "a"], 0, &["1 token in ", "tool_calls"], 2),
        (vec![broken(), two_tokens()], &["--resume", "1", "--temperature", "0"], 0, &["stop, 1 break"], 1),
        (vec![broken()], &[], 1, &["incomplete"], 1),
        (vec![busy, two_tokens()], &["--retries", "1"], 0, &["stop, 1 retry"], 1),
        (vec![Script::status(400)], &[], 1, &["0 tokens in ", ">server"], 1),
    ];
    let file = std::env::temp_dir().join(format!("tokenwire-trace-{}.svg", std::process::id()));
    let path = file.to_string_lossy().into_owned();
    for (scripts, flags, code, words, diamonds) in cases {
        let server = MockServer::scripted(scripts).unwrap();
        let prompt: &[&str] = if flags.contains(&"--prompt") { &[] } else { &["--prompt-ids", "1,2"] };
        let retries: &[&str] = if flags.contains(&"--retries") { &[] } else { &["--retries", "0"] };
        let args = ["stream", "--base-url", &server.url(), "--json", "--trace", &path];
        let ran = run(&[&args[..], prompt, retries, flags].concat(), b"");
        assert_eq!(ran.code, Some(code), "{words:?}: {}", ran.err);
        let drawn = std::fs::read_to_string(&file).unwrap();
        for word in words {
            assert!(drawn.replace(">\n", ">").contains(word), "{word}: {drawn}");
        }
        assert_eq!(drawn.matches("<polygon").count(), diamonds, "{words:?}");
    }
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn stream_goes_on_at_the_next_server() {
    let model = FakeModel::new(5).ends_one_of(0);
    let breaks = MockServer::start(move |request| {
        let script = model.answer(request);
        let half = script.wire().len() / 2;
        script.cut_at(half, Cut::Reset)
    })
    .unwrap();
    let (dead, good) =
        (MockServer::scripted([Script::status(503)]), MockServer::start(move |r| model.answer(r)));
    let urls = [dead.unwrap(), breaks, good.unwrap()].map(|server| (server.url(), server));
    let urls = urls.each_ref().map(|(url, _)| url.as_str());
    let args = ["stream", "--base-url", urls[0], "--base-url", urls[1], "--base-url", urls[2]];
    let more = ["--prompt-ids", "11,12", "--max-tokens", "20", "--temperature", "0", "--resume", "2"];
    let args = [&args[..], &more].concat();
    let ran = run(&[&args[..], &["--json"]].concat(), b"");
    assert_eq!((ran.code, ran.tokens().len()), (Some(0), 20), "{}", ran.err);
    let report = &ran.last()["report"];
    assert!(has(report, &json!({"route": 2, "failovers": 2, "retries": 1, "ids_exact": true})), "{report}");
    assert_eq!(report["resumes"].as_array().map(Vec::len), Some(1), "{report}");
    let told = run(&args, b"").err;
    assert!(told.contains("20 tokens") && told.contains("went to another server 2 times"), "{told}");
}

#[test]
fn stream_prints_tokens_and_reports_every_ending() {
    let hangs = || one_token().hang(HANGS);
    let silent = Script::new().hang(HANGS);
    let comments = (0..200).fold(one_token(), |s, _| s.write(": alive\n\n").pause(Duration::from_millis(20)));
    let busy = Script::status(429)
        .header("x-request-id", "r-1")
        .json(r#"{"error":{"message":"too busy","type":"rate_limit","code":"slow_down","param":"n"}}"#);
    let timer = |timer: &str| json!({"error": {"kind": "timeout", "timer": timer}});
    let incomplete = json!({"error": {"kind": "incomplete", "tokens": 2}, "ending": "failed", "tokens": 2});
    let cases: Vec<(Script, &[&str], i32, usize, Value)> = vec![
        (
            two_tokens(),
            &["--retries", "0", "--resume", "0"],
            0,
            2,
            json!({"finish": "stop", "ids_exact": true, "error": null, "ending": "complete", "server": "vllm",
                "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, "tokens": 2,
                "lines_skipped": 0, "connection_reused": false, "request_id": "cmpl-test"}),
        ),
        (
            Script::llama_tokens([(785, "Hello"), (6722, " world")]),
            &["--wire", "llamacpp"],
            0,
            2,
            json!({"finish": "stop", "server": "llamacpp", "error": null}),
        ),
        (
            Script::events(["{\"choices\":[{\"index\":0,\"text\":\"Hello\"}]}", "[DONE]"]),
            &[],
            0,
            1,
            json!({"finish": null, "usage": null, "ids_exact": false,
                "ids_exact_reason": "the server sent no ids"}),
        ),
        (
            busy,
            &[],
            1,
            0,
            json!({"request_id": "r-1", "error": {"kind": "server", "status": 429, "type": "rate_limit",
                "code": "slow_down", "param": "n", "message": "the server answered 429: too busy"}}),
        ),
        (cut_before_the_end(), &[], 1, 2, incomplete),
        (
            Script::status(200).json(r#"{"error":"no stream today"}"#),
            &[],
            1,
            0,
            json!({"error": {"kind": "not_event_stream",
                "message": "the answer is no event stream but application/json: no stream today"}}),
        ),
        (silent, &["--first-token-timeout", "0.1"], 1, 0, timer("first_token")),
        (hangs(), &["--chunk-timeout", "0.1"], 1, 1, timer("chunk")),
        (comments, &["--content-timeout", "0.1"], 1, 1, timer("content")),
        (hangs(), &["--deadline", "1"], 1, 1, timer("deadline")),
        (
            Script::events([
                r#"{"choices":[{"index":0,"text":"Hello","token_ids":[785],"finish_reason":"stop"}]}"#,
            ])
            .hang(HANGS),
            &["--tail-timeout", "0.1"],
            0,
            1,
            json!({"finish": "stop", "error": null, "ending": "complete", "usage": null}),
        ),
    ];
    for (i, (script, flags, code, tokens, report)) in cases.into_iter().enumerate() {
        let server = MockServer::scripted([script]).unwrap();
        let ran = stream(&server, flags);
        let shown = format!("case {i}: {} {}", ran.out, ran.err);
        assert_eq!(ran.code, Some(code), "{shown}");
        let mut expected = vec![json!(["Hello", 785]), json!([" world", 6722])];
        expected.truncate(tokens);
        if report["ids_exact"] == false {
            expected = vec![json!(["Hello", null])];
        }
        assert_eq!(ran.tokens(), expected, "{shown}");
        assert!(has(&ran.last()["report"], &report), "{shown}");
        assert_eq!(code == 1, ran.err.starts_with("error: "), "{shown}");
        let times: Vec<_> = ran.lines().iter().filter_map(|line| line["t_us"].as_u64()).collect();
        assert!(times.len() == tokens && times.is_sorted(), "{shown}");
    }
}

fn one_token() -> Script {
    Script::events(["{\"choices\":[{\"index\":0,\"text\":\"Hello\",\"token_ids\":[785]}]}"])
}

/// Two tokens, no finish reason, and the connection is closed.
fn cut_before_the_end() -> Script {
    let token = |text: &str, id: u32| {
        format!("{{\"choices\":[{{\"index\":0,\"text\":\"{text}\",\"token_ids\":[{id}]}}]}}")
    };
    Script::events([token("Hello", 785), token(" world", 6722)]).close()
}

#[test]
fn stream_reports_a_server_that_is_not_there() {
    let url = MockServer::scripted([two_tokens()]).unwrap().url();
    let ran = run(&["stream", "--base-url", &url, "--prompt", "Hi", "--json"], b"");
    assert_eq!(ran.code, Some(1));
    assert!(has(&ran.last(), &json!({"report": {"error": {"kind": "refused"}, "tokens": 0}})), "{}", ran.out);
}

#[test]
fn stream_sends_what_the_flags_say() {
    let server = MockServer::scripted([two_tokens()]).unwrap();
    let ran = stream(
        &server,
        &[
            "--model",
            "m",
            "--max-tokens",
            "9",
            "--min-tokens",
            "2",
            "--temperature",
            "0",
            "--top-p",
            "0.5",
            "--top-k",
            "-1",
            "--seed",
            "-9223372036854775808",
            "--stop-token-ids",
            "5,6",
            "--priority",
            "-3",
            "--extra",
            r#"{"min_p":0.25,"seed":1}"#,
            "--header",
            "X-Trace: a:b",
            "--header",
            "X-Other:c",
            "--api-key-env",
            "KEY_VARIABLE",
        ],
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let request = &server.requests()[0];
    assert_eq!(request.path, "/v1/completions");
    let expected = json!({"model": "m", "prompt": [1, 2],
        "max_tokens": 9, "min_tokens": 2, "temperature": 0.0,
        "top_p": 0.5, "top_k": -1, "seed": 1, "stop_token_ids": [5, 6], "priority": -3, "min_p": 0.25,
        "stream": true,        "return_token_ids": true, "stream_options": {"include_usage": true}});
    assert!(has(&request.json(), &expected), "{}", request.text());
    assert_eq!(request.header("x-trace"), Some("a:b"));
    assert_eq!(request.header("x-other"), Some("c"));
    assert_eq!(request.header("authorization"), Some(&*format!("Bearer {KEY}")));
}

#[test]
fn a_text_prompt_goes_as_text_or_through_a_tokenizer() {
    let tokenizer = json!({"version": "1.0", "added_tokens": [{"id": 2, "content": "<|end|>", "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, 
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}});
    let file = std::env::temp_dir().join(format!("tokenwire-cli-{}.json", std::process::id()));
    std::fs::write(&file, tokenizer.to_string()).unwrap();
    let server = MockServer::scripted([two_tokens()]).unwrap();
    let (url, path) = (server.url(), file.to_string_lossy().into_owned());
    let cases: [(&[&str], Value); 3] = [
        (&["--prompt", "b a<|end|>"], json!("b a<|end|>")),
        (&["--prompt", "b a<|end|>", "--tokenizer", &path], json!([1, 0, 2])),
        (&["--prompt", "- a"], json!("- a")),
    ];
    for (i, (flags, prompt)) in cases.iter().enumerate() {
        let ran = run(&[&["stream", "--base-url", &url], *flags].concat(), b"");
        assert_eq!((ran.code, &*ran.out), (Some(0), "Hello world"), "{}", ran.err);
        assert_eq!(server.requests()[i].json()["prompt"], *prompt);
    }
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn a_wrong_key_is_an_error_that_does_not_show_it() {
    let server = MockServer::start(|request| {
        let given = request.header("authorization").unwrap_or("none").to_owned();
        if given == "Bearer right" {
            return two_tokens();
        }
        Script::status(401).json(json!({"error": format!("Unauthorized: {given}")}))
    })
    .unwrap();
    let url = server.url();
    // What ureq logs of an answer, in rows of 16 bytes, is there for those who name it.
    for (verbose, ureq) in
        [("", false), ("trace", false), ("tokenwire=trace", false), ("trace,ureq=trace", true)]
    {
        let args =
            ["stream", "--base-url", &url, "--prompt", "Hi", "--json", "--api-key-env", "KEY_VARIABLE"];
        let ran = ended(program(&args).env("RUST_LOG", verbose).spawn().unwrap());
        assert_eq!(ran.code, Some(1));
        assert!(
            has(&ran.last()["report"]["error"], &json!({"kind": "server", "status": 401})),
            "{}",
            ran.out
        );
        assert!(ran.out.contains("Unauthorized") && !ran.out.contains(KEY), "{}", ran.out);
        assert!(ran.err.contains("Unauthorized") && !ran.err.contains(KEY), "{}", ran.err);
        assert_eq!(verbose.is_empty(), !ran.err.contains("DEBUG"), "{}", ran.err);
        assert_eq!(ran.err.contains(" ureq"), ureq, "{verbose}: {}", ran.err);
    }
    let ran = ended(
        program(&["stream", "--base-url", &url, "--prompt", "Hi", "--api-key-env", "KEY_VARIABLE", "-v"])
            .env("KEY_VARIABLE", "right\n")
            .spawn()
            .unwrap(),
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("status 200"), "-v tells the status: {}", ran.err);
}

#[test]
fn another_authority_is_trusted_when_its_file_is_given() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let pem = made.cert.pem();
    let identity = TlsIdentity::from_pem(&pem, &made.signing_key.serialize_pem()).unwrap();
    let server = MockServer::start_tls(|_| two_tokens(), identity).unwrap();
    let file = std::env::temp_dir().join(format!("tokenwire-ca-{}.pem", std::process::id()));
    std::fs::write(&file, pem).unwrap();
    let with = stream(&server, &["--ca-file", &file.to_string_lossy()]);
    assert_eq!((with.code, with.tokens().len()), (Some(0), 2), "{}", with.err);
    let without = stream(&server, &[]);
    assert!(has(&without.last(), &json!({"report": {"error": {"kind": "connect"}}})), "{}", without.out);
    std::fs::remove_file(&file).unwrap();
}

/// What would move the cursor, set colours or turn the direction, in each of the ways there are: C0, C1, DEL, bidi.
const EVIL: &str = "\u{1b}[31m\u{9b}2J\u{7f}\u{202e}\u{61c}\u{8}\r";

fn assert_harmless(what: &str, text: &str) {
    let bad = |c: char| (c.is_control() && c != '\n' && c != '\t') || "\u{202e}\u{61c}".contains(c);
    assert!(!text.chars().any(bad), "{what}: {text:?}");
}

#[test]
fn nothing_that_a_server_sends_reaches_the_terminal_as_control() {
    let evil = json!(EVIL).to_string();
    let evil = &evil[1..evil.len() - 1];
    let chat = Script::events([
        json!({"choices": [{"index": 0, "delta": {"reasoning_content": EVIL}}]}).to_string(),
        json!({"choices": [{"index": 0, "delta": {"content": EVIL}}]}).to_string(),
        json!({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": EVIL,
            "function": {"name": format!("n{EVIL}"), "arguments": json!({"a": EVIL}).to_string()}}]}}]})
        .to_string(),
        json!({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 1, "id": EVIL,
            "function": {"name": format!("n{EVIL}"), "arguments": format!("{{{EVIL}")}}]}}]})
        .to_string(),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": EVIL}]}).to_string(),
        "[DONE]".to_owned(),
    ]);
    let error = json!({"error": {"message": EVIL, "type": EVIL, "code": EVIL, "param": EVIL}});
    let refused = Script::status(400).header("x-request-id", "r").json(error);
    let in_stream = Script::tokens([(1, "a")]).cut_at(200, Cut::Fin);
    let list = Script::status(200).json(json!({"data": [{"id": EVIL, "owned_by": EVIL}]}));
    let plain = Script::tokens([(1, EVIL), (2, "b")]);
    let cases: Vec<(Script, &[&str])> = vec![
        (chat.clone(), &["stream", "--prompt", "a", "--wire", "chat"]),
        (chat.clone(), &["chat", "a", "--wire", "chat"]),
        (chat, &["batch", "--wire", "chat"]),
        (plain.clone(), &["stream", "--prompt", "a"]),
        (plain.clone(), &["chat", "a"]),
        (plain, &["batch"]),
        (refused.clone(), &["stream", "--prompt", "a"]),
        (refused.clone(), &["chat", "a"]),
        (refused.clone(), &["batch"]),
        (refused.clone(), &["bench", "-n", "1", "--no-self-check"]),
        (refused.clone(), &["models"]),
        (refused, &["tokenize", "a"]),
        (in_stream, &["stream", "--prompt", "a"]),
        (list, &["models"]),
    ];
    for (script, args) in cases {
        for more in [&[][..], &["--json"], &["-vv"]] {
            let server = MockServer::scripted([script.clone()]).unwrap();
            let url = server.url();
            let args = [args, &["--base-url", &url], more].concat();
            let ran = run(&args, b"{\"prompt\":\"a\"}\n");
            assert!(!ran.out.is_empty() || !ran.err.is_empty(), "{args:?}");
            for text in [&ran.out, &ran.err] {
                assert_harmless(&format!("{args:?}"), text);
            }
        }
    }
    let body = format!(
        "data: {{\"choices\":[{{\"index\":0,\"text\":\"{evil}\"}}]}}\n\nevent: {EVIL}\ndata: {EVIL}\n\n"
    );
    let call = format!(
        "a{EVIL}<tool_call>{{\"name\": \"n{evil}\", \"arguments\": {{\"a\": \"{evil}\"}}}}</tool_call>"
    );
    for (args, input) in [
        (&["sse"][..], &body),
        (&["tokens"], &body),
        (&["parse", "--dialect", "hermes", "--text"], &call),
        (&["parse", "--dialect", "hermes", "--text"], &format!("<tool_call>{EVIL}")),
    ] {
        for more in [&[][..], &["--json"]] {
            let args = [args, more].concat();
            let ran = run(&args, input.as_bytes());
            assert!(!ran.out.is_empty(), "{args:?}");
            assert_harmless(&format!("{args:?}"), &ran.out);
            assert_harmless(&format!("{args:?}"), &ran.err);
        }
    }
}

#[test]
fn model_text_cannot_reach_the_terminal_as_control() {
    let server =
        MockServer::scripted([Script::tokens([(1, "a\u{1b}"), (2, "[31mb\u{202e}\r\n\tc")])]).unwrap();
    let ran = run(&["stream", "--base-url", &server.url(), "--prompt", "Hi"], b"");
    assert_eq!(ran.out, "a\u{241b}[31mb\u{fffd}\u{240d}\n\tc");
    assert!(!ran.err.contains('\u{1b}'), "no colours and no live line where nobody looks on: {}", ran.err);
    assert!(ran.err.contains("2 tokens") && ran.err.contains("ids exact"), "{}", ran.err);
}

// ---- signals and pipes ----

#[test]
fn ctrl_c_cancels_the_stream_and_the_last_line_still_comes() {
    let server = MockServer::scripted([one_token().hang(HANGS)]).unwrap();
    let start = |more: &[&str]| {
        let url = server.url();
        program(&[&["stream", "--base-url", &url, "--prompt", "Hi"], more].concat()).spawn().unwrap()
    };
    let mut child = start(&["--json"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("Hello"), "lines come as the tokens do");
    interrupt(&child);
    let last: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let expected = json!({"report": {"ending": "cancelled", "error": {"kind": "cancelled"}, "tokens": 1}});
    assert!(has(&last, &expected), "{last}");
    assert!(lines.next().is_none());
    assert_eq!(wait(&mut child), Some(130));

    let mut child = start(&[]);
    let mut text = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut text).unwrap();
    assert_eq!(&text, b"Hello", "text comes as the tokens do");
    interrupt(&child);
    let ran = ended(child);
    assert_eq!(ran.code, Some(130));
    assert!(ran.err.contains("1 token,") && ran.err.contains("cancelled"), "{}", ran.err);
    assert!(server.wait_for_disconnects(2, HANGS));
}

#[test]
fn a_closed_pipe_ends_the_stream_quietly() {
    let token = "data: {\"choices\":[{\"index\":0,\"text\":\"Hello\",\"token_ids\":[785]}]}\n\n";
    let endless = Script::status(200).framing(Framing::Chunked).header("content-type", "text/event-stream");
    let server = MockServer::scripted([endless.repeat(token, u64::MAX, Duration::from_millis(1))]).unwrap();
    for json in [true, false] {
        let url = server.url();
        let mut args = vec!["stream", "--base-url", &url, "--prompt", "Hi"];
        args.extend(json.then_some("--json"));
        let mut child = program(&args).spawn().unwrap();
        let mut first = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        drop(child.stdout.take());
        let ran = ended(child);
        assert_eq!((ran.code, &*ran.err), (Some(1), ""));
    }
}

// ---- chat and replay ----

#[test]
fn chat_with_no_server_streams_a_recorded_answer_and_says_so() {
    let ran = ended(program(&["chat"]).spawn().unwrap());
    assert_eq!((ran.code, &*ran.out), (Some(0), "one by one it came"), "{}", ran.err);
    assert!(
        ran.err.contains("recorded") && ran.err.contains("--base-url http://127.0.0.1:8000/v1"),
        "{}",
        ran.err
    );

    let original = fixture::load(data("vllm/completion-slow.response.http")).unwrap();
    let tokens = run(&["tokens", "--json"], &original.response_body().bytes).tokens();
    let ran = run(&["chat", "--json", "Hi"], b"");
    assert_eq!(ran.tokens(), tokens, "it is the recording that it says it is");
    // The recording took 866 ms; on a busy machine it takes longer, never less.
    assert!(ran.last()["report"]["elapsed_us"].as_u64().unwrap() >= 866_000, "{}", ran.out);
}

#[test]
fn chat_sends_its_text_or_each_line_of_its_input() {
    let server = MockServer::scripted([two_tokens()]).unwrap();
    let url = server.url();
    let ran = run(&["chat", "--base-url", &url, "Say hello"], b"not read\n");
    assert_eq!((ran.code, &*ran.out), (Some(0), "Hello world"), "{}", ran.err);
    let ran = run(&["chat", "--base-url", &url], b"one\n\ntwo\r\nthree");
    assert_eq!((ran.code, &*ran.out), (Some(0), "Hello world\nHello world\nHello world\n"), "{}", ran.err);
    let prompts: Vec<_> = server.requests().iter().map(|request| request.json()["prompt"].clone()).collect();
    assert_eq!(prompts, ["Say hello", "one", "two", "three"]);

    let ran = ended(program(&["chat", "--base-url", &url]).spawn().unwrap());
    assert_eq!(ran.code, Some(2), "no text, no line: {}", ran.err);
}

#[test]
fn chat_with_a_tokenizer_runs_tools_and_shows_the_tree() {
    let Some(tokenizer) = common::smollm2() else { return };
    let tokenizer = tokenizer.to_string_lossy().into_owned();
    let event = |text: &str, id: u32, finish: Option<&str>| {
        json!({"choices": [{"index": 0, "text": text, "token_ids": [id], "finish_reason": finish}]})
            .to_string()
    };
    let call =
        "<tool_call>\n{\"name\": \"calculate\", \"arguments\": {\"expression\": \"6*7\"}}\n</tool_call>";
    let answer =
        |text: &str| Script::events([event(text, 9, None), event("", 2, Some("stop")), "[DONE]".to_owned()]);
    let server = MockServer::scripted([answer(call), answer("42."), answer("Bye.")]).unwrap();
    let asked = [
        "chat",
        "--base-url",
        &server.url(),
        "--tokenizer",
        &tokenizer,
        "--chat-format",
        "qwen2_5",
        "--json",
    ];
    let ran = run(&asked, b"What is 6*7?\nThanks.\n");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let turns: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds = |line: &Value| -> Vec<String> {
        let leaves =
            line["turns"].as_array().unwrap().iter().flat_map(|turn| turn["leaves"].as_array().unwrap());
        let kinds = leaves.map(|leaf| leaf["kind"].as_str().unwrap().to_owned());
        kinds.filter(|kind| kind != "marker").collect()
    };
    assert_eq!(kinds(&turns[0]), ["tool_call", "tool_result", "content"]);
    assert_eq!(kinds(&turns[1]), ["content"]);
    let prompts: Vec<Vec<u64>> = server
        .requests()
        .iter()
        .map(|r| serde_json::from_value(r.json()["prompt"].clone()).unwrap())
        .collect();
    assert!(
        prompts[1].starts_with(&[&prompts[0][..], &[9, 2]].concat()),
        "the ids received, and nothing between"
    );
    assert!(prompts[2].starts_with(&[&prompts[1][..], &[9, 2]].concat()));
    let ran = run(&[&asked[..3], &["--tokenizer", &tokenizer, "--chat-format", "nope", "Hi"]].concat(), b"");
    assert!(ran.code == Some(2) && ran.err.contains("qwen2_5"), "a wrong name lists them: {}", ran.err);
}

#[test]
fn parse_gives_the_tree_of_a_kept_turn() {
    let text = "<think>hm</think>Hi!<tool_call>{\"name\": \"now\"}</tool_call>";
    let expected = json!({"reasoning": "hm", "content": "Hi!", "ids": [],
        "tool_calls": [{"id": "call_0", "name": "now", "arguments": {}, "at_token": 0}],
        "leaves": [{"kind": "thinking", "text": "<think>hm</think>", "ids": []},
            {"kind": "content", "text": "Hi!", "ids": []},
            {"kind": "tool_call", "text": &text[20..], "ids": []}]});
    let parse = ["parse", "--dialect", "hermes", "--text", "--json"];
    let ran = run(&parse, text.as_bytes());
    assert_eq!((ran.code, ran.last()), (Some(0), expected), "{}", ran.err);
    let ran = run(&[&parse[..], &["--cut", "1"]].concat(), text.as_bytes());
    assert_eq!(ran.last()["tool_calls"][0]["at_token"], text.len() - 1);
    let ran = run(&parse[..4], text.as_bytes());
    assert!(ran.out.starts_with("assistant\n├─ thinking"), "{}", ran.out);

    let lines = [
        json!({"dialect": "hermes", "tokens": [{"text": "a", "id": 5}, {"text": "", "id": 6}]}),
        json!({"dialect": "nope", "tokens": []}),
        json!({"dialect": "qwen3_xml", "start": "reasoning", "finish": "length", "tokens": [{"text": "b"}],
            "markers": {"<think>": 7}, "tools": [{"name": "f"}]}),
    ];
    let input = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let ran = run(&["parse", "--batch"], input.as_bytes());
    let results: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (ran.code, results[0]["ids"].clone(), &results[0]["content"]),
        (Some(1), json!([5, 6]), &json!("a"))
    );
    assert!(results[1]["error"]["message"].as_str().unwrap().contains("qwen3_xml"), "{}", ran.out);
    assert_eq!(results[2]["reasoning"], "b");
}

#[test]
fn a_replayed_recording_streams_as_it_was() {
    let file = std::env::temp_dir().join(format!("tokenwire-replay-{}.jsonl", std::process::id()));
    let cases = [
        ("vllm/interval3-completion.response.http", "auto", "10"),
        ("vllm/interval3-completion.response.http", "auto", "0.5"),
        ("llama.cpp/completion-eos.raw", "llamacpp", "1"),
    ];
    for (name, wire, speed) in cases {
        let recording = fixture::load(data(name)).unwrap();
        recording.save(&file).unwrap();
        let expected = run(&["tokens", "--json", "--wire", wire], &recording.response_body().bytes).tokens();
        assert!(!expected.is_empty());

        let path = file.to_string_lossy().into_owned();
        let mut replay = program(&["replay", &path, "--speed", speed]).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(replay.stdout.take().unwrap()).read_line(&mut url).unwrap();
        for _ in 0..2 {
            let ran = run(
                &["stream", "--base-url", url.trim(), "--prompt-ids", "1", "--json", "--wire", wire],
                b"",
            );
            assert_eq!((ran.code, ran.tokens()), (Some(0), expected.clone()), "{path}: {}", ran.err);
            let last =
                recording.pieces().last().unwrap().at.as_micros() as f64 / speed.parse::<f64>().unwrap();
            let elapsed = ran.last()["report"]["elapsed_us"].as_f64().unwrap();
            assert!(elapsed + 1000.0 >= last, "{path}: its own timing, {elapsed} of {last}");
        }
        interrupt(&replay);
        assert_eq!(wait(&mut replay), Some(130));
    }
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn stream_keeps_the_exchange_on_success_and_on_failure() {
    let file = std::env::temp_dir().join(format!("tokenwire-record-{}.jsonl", std::process::id()));
    let path = file.to_string_lossy().into_owned();
    for (script, code) in [(two_tokens(), 0), (cut_before_the_end(), 1)] {
        let server = MockServer::scripted([script]).unwrap();
        let ran = run(
            &["stream", "--base-url", &server.url(), "--prompt-ids", "5", "--json", "--record", &path],
            b"",
        );
        assert_eq!(ran.code, Some(code), "{}", ran.err);
        let recording = Recording::load(&file).unwrap();
        assert_eq!(recording.request().json()["prompt"], json!([5]));
        let again = run(&["tokens", "--json"], &recording.response_body().bytes);
        assert_eq!((again.code, again.tokens()), (Some(code), ran.tokens()));
    }
    std::fs::remove_file(&file).unwrap();
    let server = MockServer::scripted([two_tokens()]).unwrap();
    let ran =
        run(&["stream", "--base-url", &server.url(), "--prompt", "a", "--record", "/no/such/folder/x"], b"");
    assert!(ran.code != Some(0) && ran.out.starts_with("Hello world"), "{:?} {}", ran.code, ran.out);
}

#[test]
fn a_failed_request_is_saved_and_sent_again() {
    let folder = std::env::temp_dir().join(format!("tokenwire-save-{}", std::process::id()));
    let dir = folder.to_string_lossy().into_owned();
    let refusal = Script::status(503).json(format!(r#"{{"error":"busy, {KEY}"}}"#));
    let server = MockServer::scripted([refusal.clone(), refusal, two_tokens()]).unwrap();
    let url = server.url();
    let asked = ["--save-failed", &dir, "--api-key-env", "KEY_VARIABLE", "--temperature", "0.5"];
    let chat = run(&[&["chat", "--base-url", &url, "--retries", "0", "Say hello"], &asked[..]].concat(), b"");
    assert_eq!(chat.code, Some(1));
    assert!(chat.err.contains(&dir), "people are told the file: {}", chat.err);
    let ran = stream(&server, &asked);
    let path = ran.last()["report"]["error"]["saved"].as_str().unwrap_or_default().to_owned();
    assert!(path.starts_with(&dir) && ran.err.contains(&path), "{} {}", ran.out, ran.err);
    let body = server.requests().pop().unwrap().body;
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("busy, [redacted]") && !text.contains(KEY), "{text}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);

    let other = MockServer::scripted([two_tokens()]).unwrap();
    for (server, base) in [(&server, vec![]), (&other, vec!["--base-url", &*other.url()])] {
        let more = ["--json", "--api-key-env", "KEY_VARIABLE", "--header", "x-gateway: g"];
        let again = run(&[&["resend", &path], &more[..], &base].concat(), b"");
        assert_eq!((again.code, again.tokens().len()), (Some(0), 2), "{} {}", again.out, again.err);
        assert!(
            has(&again.last(), &json!({"report": {"error": null, "ending": "complete"}})),
            "{}",
            again.out
        );
        let sent = server.requests().pop().unwrap();
        let bearer = format!("Bearer {KEY}");
        assert_eq!(
            (sent.header("authorization"), sent.header("x-gateway"), &*sent.path),
            (Some(&*bearer), Some("g"), "/v1/completions")
        );
        assert_eq!(sent.body, body, "byte for byte");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_folder_that_cannot_be_used_is_told_once_and_disturbs_nothing() {
    let server = MockServer::scripted([Script::status(503).json(r#"{"error":"busy"}"#)]).unwrap();
    let ran = run(
        &["chat", "--base-url", &server.url(), "--retries", "0", "--save-failed", "/dev/null"],
        b"one\ntwo\n",
    );
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.err.matches("could not be saved in \"/dev/null\"").count(), 1, "{}", ran.err);
    assert_eq!(ran.err.matches("the server answered 503: busy").count(), 2, "{}", ran.err);
}

#[test]
fn processes_that_fail_at_once_share_a_folder_and_keep_to_the_limit() {
    let folder = std::env::temp_dir().join(format!("tokenwire-shared-{}", std::process::id()));
    let dir = folder.to_string_lossy().into_owned();
    let url = MockServer::scripted([two_tokens()]).unwrap().url();
    let args =
        ["stream", "--base-url", &url, "--prompt", "Hi", "--json", "--retries", "0", "--save-failed", &dir];
    let children: Vec<Child> = (0..60).map(|_| program(&args).spawn().unwrap()).collect();
    for ran in children.into_iter().map(ended) {
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        assert!(ran.last()["report"]["error"]["saved"].is_string(), "{}", ran.out);
    }
    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!((16..=32).contains(&left.len()), "{} files", left.len());
    for path in left {
        SavedRequest::load(path).unwrap();
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

// ---- usage ----

#[test]
fn what_cannot_be_used_is_told_with_code_2_before_anything_is_sent() {
    let server = MockServer::scripted([two_tokens()]).unwrap();
    let url = server.url();
    let stream: &[&str] = &["stream", "--base-url", &url, "--prompt", "Hi", "--json"];
    // Arguments, and a word of the message.
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["nonsense"], "nonsense"),
        (&["sse", "--cut", "-1"], "-1"),
        (&["tokens", "--wire", "morse"], "morse"),
        (&["stream", "--prompt", "Hi"], "--base-url"),
        (&["stream", "--base-url", &url], "--prompt"),
        (&["stream", "--base-url", &url, "--prompt", "Hi", "--prompt-ids", "1"], "--prompt"),
        (&["stream", "--base-url", &url, "--prompt-ids", "1", "--tokenizer", "x"], "--tokenizer"),
        (&["stream", "--base-url", &url, "--prompt-ids", "1,x"], "--prompt-ids"),
        (&["stream", "--base-url", "ftp://h.test", "--prompt", "Hi"], "URL"),
        (&["stream", "--base-url", "nonsense", "--prompt", "Hi"], "URL"),
        (&["stream", "--base-url", &url, "--prompt", "Hi", "--tokenizer", "/no/such.json"], "tokenizer"),
        (&[stream, &["--retries", "x"]].concat(), "--retries"),
        (&[stream, &["--resume", "x"]].concat(), "--resume"),
        (&[stream, &["--chunk-timeout", "0"]].concat(), "over 0"),
        (&[stream, &["--extra", "[1]"]].concat(), "--extra"),
        (&[stream, &["--header", "sk-canary"]].concat(), "colon"),
        (&[stream, &["--header", "authorization: sk-canary"]].concat(), "authorization"),
        (&[stream, &["--api-key-env", "NO_SUCH_VARIABLE"]].concat(), "NO_SUCH_VARIABLE"),
        (&[stream, &["--api-key-env", "EMPTY_VARIABLE"]].concat(), "key"),
        (&[stream, &["--ca-file", "/no/such.pem"]].concat(), "--ca-file"),
        (&[stream, &["--temperature", "nan"]].concat(), "temperature"),
        (&[stream, &["--trace", "/no/such/folder/x.svg"]].concat(), "--trace"),
        (&[stream, &["--trace", "x.svg", "--whole"]].concat(), "--whole"),
        (&["replay", "/no/such.jsonl"], "recording"),
        (&["resend", "/no/such.json"], "saved request"),
        (&["resend", "/dev/null"], "saved request"),
        (&["replay", "x", "--speed", "0"], "speed"),
        (&["bench", "-c", "0"], "0"),
        (&["bench", "-c", "5000"], "4096"),
        (&["bench", "-n", "0"], "0"),
        (&["bench", "--prompt", "Hi", "--prompt-ids", "1"], "--prompt"),
        (&["bench", "--base-url", "ftp://h.test"], "URL"),
        (&["bench", "--base-url", &url, "--temperature", "nan"], "temperature"),
        (&["bench", "--base-url", &url, "--plot", "/no/such/folder/plot.svg"], "--plot"),
        (&["bench", "--base-url", &url, "--timeline", "/no/such/folder/plot.svg"], "--timeline"),
        (&["batch"], "--base-url"),
        (&["batch", "--base-url", &url, "-c", "0"], "0"),
        (&["batch", "--base-url", &url, "--temperature", "nan"], "temperature"),
        (&["batch", "--base-url", &url, "/no/such.jsonl"], "/no/such.jsonl"),
    ];
    for (args, word) in cases {
        let ran = ended(program(args).env("EMPTY_VARIABLE", " ").spawn().unwrap());
        assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(word) && !ran.err.contains("canary"), "{args:?}: {}", ran.err);
    }
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn what_the_server_cannot_do_is_reported() {
    let ran =
        run(&["stream", "--base-url", "http://h.test", "--prompt-ids", "1", "--wire", "chat", "--json"], b"");
    assert_eq!(ran.code, Some(1));
    assert!(
        has(&ran.last(), &json!({"report": {"finish": null, "error": {"kind": "unsupported"}}})),
        "{}",
        ran.out
    );
}

#[test]
fn stream_whole_prints_the_answer_with_all_its_ids_and_a_failed_one_is_sent_again() {
    let body = fixture::load(data("llama.cpp/completion-utf8-nonstream.raw")).unwrap().response_body().bytes;
    let folder = std::env::temp_dir().join(format!("tokenwire-whole-{}", std::process::id()));
    let dir = folder.to_string_lossy().into_owned();
    let whole = Script::status(200).json(String::from_utf8(body).unwrap());
    let server = MockServer::scripted([Script::status(400), whole.clone(), whole]).unwrap();
    let more = ["--whole", "--wire", "llamacpp", "--save-failed", &dir];
    let failed = stream(&server, &more);
    let path = failed.last()["report"]["error"]["saved"].as_str().unwrap_or_default().to_owned();
    assert_eq!((failed.code, failed.tokens().len()), (Some(1), 0), "{} {}", failed.out, failed.err);
    for ran in [stream(&server, &more), run(&["resend", &path, "--json"], b"")] {
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let tokens = ran.tokens();
        assert_eq!((tokens.len(), &tokens[0]), (20, &json!(["你好，世界！🤖 ok", 18645])));
        let report =
            json!({"report": {"finish": "stop", "ids_exact": true, "error": null, "ending": "complete"}});
        assert!(has(&ran.last(), &report), "{}", ran.out);
    }
    for request in server.requests() {
        assert_eq!(serde_json::from_slice::<Value>(&request.body).unwrap()["stream"], false);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn models_tokenize_and_detokenize_ask_the_server() {
    let server = MockServer::start(|request| {
        let name = match request.path.as_str() {
            "/v1/models" => "get-models",
            "/tokenize" => "tokenize",
            "/detokenize" => "detokenize",
            _ => return Script::status(404),
        };
        Script::raw(std::fs::read(data(&format!("llama.cpp/{name}.raw"))).unwrap())
    })
    .unwrap();
    let url = server.url();
    let ask = |args: &[&str], input: &str| run(&[args, &["--base-url", &url]].concat(), input.as_bytes());
    let ids = "18645,250,48392,138,12831,7906,240,178,239,230,8083,219,10813,114,240,10907";
    for (args, input, out) in [
        (&["models"][..], "", "SmolLM2-135M-Instruct.Q4_1  llamacpp  2048 tokens\n".to_owned()),
        (&["tokenize", "Hi"], "", format!("{ids}\n")),
        (&["tokenize", "--add-special"], "Hi", format!("{ids}\n")),
        (&["tokenize", "Hi", "--json"], "", format!("{{\"ids\":[{ids}]}}\n")),
        (&["detokenize", "504,1296"], "", "The three primary colors are\n".to_owned()),
        (
            &["detokenize", "504,1296", "--json"],
            "",
            "{\"text\":\"The three primary colors are\"}\n".to_owned(),
        ),
    ] {
        let ran = ask(args, input);
        assert_eq!((ran.code, &ran.out), (Some(0), &out), "{args:?}: {}", ran.err);
    }
    let line = ask(&["models", "--json"], "").last();
    assert_eq!(
        line,
        json!({"id": "SmolLM2-135M-Instruct.Q4_1", "owned_by": "llamacpp", "context_tokens_max": 2048})
    );
    let sent = server.requests();
    let bodies = sent.iter().filter(|request| request.path == "/tokenize");
    let bodies: Vec<Value> = bodies.map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    assert_eq!(bodies.iter().map(|body| &body["content"]).collect::<Vec<_>>(), ["Hi"; 3]);
    assert_eq!(bodies.iter().map(|body| &body["add_special"]).collect::<Vec<_>>(), [false, true, false]);
    let nobody = MockServer::scripted([Script::status(401).json(r#"{"error":"Unauthorized"}"#)]).unwrap();
    for args in [&["models"][..], &["tokenize", "Hi"], &["detokenize", "1"]] {
        let ran = run(&[args, &["--base-url", &nobody.url()]].concat(), b"");
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{args:?}");
        assert!(ran.err.contains("Unauthorized"), "{}", ran.err);
    }
}

/// Every command, as the help lists them.
fn commands() -> Vec<String> {
    let help = run(&["--help"], b"").out;
    let list = help.split("\nCommands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    // What a line too long goes on with stands further to the right.
    let names = list.lines().filter(|line| !line.starts_with("   "));
    names
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn each_command_has_help_with_a_purpose_an_example_and_its_exit_codes() {
    let commands = commands();
    assert!(commands.len() >= 14 && commands.contains(&"batch".to_owned()), "{commands:?}");
    for command in commands {
        for flag in ["--help", "-h"] {
            let ran = run(&[&command, flag], b"");
            assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{command}");
            let purpose = ran.out.lines().next().unwrap();
            assert!(purpose.len() > 20 && purpose.len() <= 100, "{command}: {purpose}");
            for word in ["Example", &format!("tokenwire {command}"), "Exit codes: 0 ", "130 "] {
                assert!(ran.out.contains(word), "{command} {flag}: no {word:?} in {}", ran.out);
            }
            // Nothing but a backslash breaks a line, or it could not be copied.
            let examples = ran.out.split("\nExample").nth(1).unwrap().split("\nExit codes").next().unwrap();
            for line in examples.replace("\\\n", "").lines().skip(1).map(str::trim_start) {
                let begins = ["", "tokenwire ", "printf ", "echo ", "curl ", "Lines of the input:", "{"];
                assert!(
                    begins.iter().any(|word| line == *word || !word.is_empty() && line.starts_with(word)),
                    "{line}"
                );
            }
        }
    }
}

#[test]
fn completions_and_the_man_page_have_every_command_and_flag() {
    let commands = commands();
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&["completions", shell], b"");
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{shell}");
        for word in commands.iter().map(String::as_str).chain(["save-failed", "timeline", "resume"]) {
            assert!(ran.out.contains(word), "{shell}: no {word}");
        }
        // Where the shell is there, it has to be able to read it.
        let mut check = Command::new(shell);
        check.arg(if shell == "fish" { "--no-execute" } else { "-n" }).stdin(Stdio::piped());
        let Ok(mut check) = check.spawn() else { continue };
        check.stdin.take().unwrap().write_all(ran.out.as_bytes()).unwrap();
        assert!(check.wait().unwrap().success(), "{shell}");
    }
    assert_eq!(run(&["completions", "tcsh"], b"").code, Some(2));

    let man = run(&["man"], b"");
    assert_eq!((man.code, &*man.err), (Some(0), ""));
    assert!(man.out.contains(".TH tokenwire 1"), "{}", man.out);
    let page = man.out.replace("\\-", "-");
    for word in ["EXIT STATUS", "EXAMPLES", "--save-failed", "RUST_LOG"] {
        assert!(page.contains(word), "no {word}");
    }
    for command in &commands {
        assert!(page.contains(&format!(".SH \"tokenwire {command}\"")), "no {command}");
    }
    let one = run(&["man", "batch"], b"").out.replace("\\-", "-");
    assert!(one.contains(".TH tokenwire-batch 1") && one.contains("FILE.waiting"), "{one}");
    assert_eq!(run(&["man", "nonsense"], b"").code, Some(2));
}

// ---- on a terminal ----

/// On a terminal of util-linux's `script`, where that is there: what both streams wrote to it.
fn on_a_terminal(args: &str, variables: &[(&str, &str)]) -> Option<Ran> {
    let line = format!("'{}' {args}", env!("CARGO_BIN_EXE_tokenwire"));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    command.envs(variables.iter().copied()).stdin(Stdio::null());
    let Ok(child) = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() else {
        eprintln!("skipped: there is no `script`");
        return None;
    };
    Some(ended(child))
}

#[test]
fn a_live_line_and_colours_are_for_terminals_that_want_them() {
    let slow = || two_tokens().slowly(250, Duration::from_millis(25));
    let thinks = Script::events([
        r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}"#,
        "[DONE]",
    ]);
    let (dim, red, live, clear) = ("\u{1b}[2m", "\u{1b}[1;31m", " s]", "\r\u{1b}[2K[");
    // What the server answers, arguments, what is on the screen.
    let cases = [
        (slow(), "stream --prompt a", vec![" tokens/s, first after ", dim, live]),
        (slow(), "chat a", vec![" tokens/s, first after ", dim, live]),
        (thinks, "stream --prompt a --wire chat", vec!["\u{1b}[2mhm\u{1b}[0m"]),
        (Script::status(400), "stream --prompt a", vec![red]),
        (slow(), "bench -n 3 -c 1 --no-self-check", vec![clear, " of 3 requests"]),
        (slow(), "batch tests/data/batch/prompts.jsonl -c 1", vec![clear, " of 4 done", "1 running"]),
    ];
    for (script, args, words) in cases {
        let server = MockServer::scripted([script]).unwrap();
        let args = format!("{args} --base-url {} --retries 0", server.url());
        let Some(ran) = on_a_terminal(&args, &[]) else { return };
        for word in &words {
            assert!(ran.out.contains(word), "{args}: no {word:?} in {:?}", ran.out);
        }
        // A live line is no colour, but a dumb terminal can do neither.
        let unwanted = [("NO_COLOR", "1", &[dim, red][..]), ("TERM", "dumb", &["\u{1b}"])];
        for (variable, value, unwanted) in unwanted {
            let Some(ran) = on_a_terminal(&args, &[(variable, value)]) else { return };
            let found = unwanted.iter().find(|word| ran.out.contains(**word));
            assert_eq!(found, None, "{args} {variable}: {:?}", ran.out);
        }
    }
}

// ---- the README ----

/// The lines of its blocks of code, block by block, without those of Rust.
fn readme_blocks() -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks = text.split("```").skip(1).step_by(2);
    let plain = blocks.filter(|block| block.starts_with("text\n") || block.starts_with("sh\n"));
    plain.map(|block| block.lines().skip(1).map(str::to_owned).collect()).collect()
}

/// With this program for `tokenwire`.
fn shell(line: &str) -> Ran {
    let program = Path::new(env!("CARGO_BIN_EXE_tokenwire")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-c", line]).env("PATH", path).env("URL", "http://127.0.0.1:1").env_remove("RUST_LOG");
    ended(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

#[test]
fn the_commands_in_the_readme_are_such() {
    let mut count = 0;
    for line in readme_blocks().into_iter().flatten() {
        let line = line.strip_prefix("$ ").unwrap_or(&line);
        let line = line.replace("cargo run --release --features cli --", "tokenwire");
        let Some(at) = line.find("tokenwire ").filter(|at| *at == 0 || line[..*at].ends_with("| ")) else {
            continue;
        };
        let ran = shell(&format!("{} --help", &line[at..]));
        assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
        count += 1;
    }
    assert!(count >= 5, "{count}");
}

/// Every number is the same one.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            c => out.push(c),
        }
    }
    out
}

#[test]
fn the_screens_in_the_readme_that_need_no_server_are_what_is_printed() {
    let mut count = 0;
    for block in readme_blocks() {
        let (commands, screen): (Vec<_>, Vec<_>) = block.iter().partition(|line| line.starts_with("$ "));
        let [command] = commands[..] else { continue };
        let ran = shell(&command[2..]);
        assert_eq!(ran.code, Some(0), "{command}: {}", ran.err);
        let printed = without_numbers(&format!("{}\n{}", ran.out, ran.err));
        let printed: Vec<&str> = printed.lines().collect();
        for line in screen {
            assert!(
                printed.contains(&&*without_numbers(line)),
                "{command} does not print {line:?}: {printed:?}"
            );
        }
        count += 1;
    }
    assert_eq!(count, 2);
}
