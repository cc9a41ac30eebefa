//! Tests of `tokenwire stream`.

use super::*;

#[test]
fn stream_retries_as_often_as_requested() {
    let busy = || Script::status(503).header("retry-after-ms", "1");
    each_row([("0", 1), ("1", 1), ("2", 0)], |(retries, code)| {
        let server = MockServer::scripted([busy(), busy(), two_tokens()]).unwrap();
        let ran = stream(&server, &["--retries", retries]);
        assert_eq!(ran.code, Some(code), "{}", ran.err);
        assert_eq!(ran.last()["report"]["retries"], retries.parse::<u64>().unwrap(), "{}", ran.out);
        assert_eq!(server.requests().len() as u64, retries.parse::<u64>().unwrap() + 1);
    });
}

#[test]
fn stream_resumes_where_it_broke_off() {
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
    assert!(told.contains("20 tokens") && told.contains("resumed 1 time"), "{told}");
    let ran = run("1", &["--json", "--extra", r#"{"echo":true}"#]);
    assert_eq!((ran.code, &ran.last()["report"]["not_resumed"]), (Some(1), &json!("the prompt is echoed")));
    assert_eq!(run("0", &["--json"]).last()["report"]["resumes"], json!([]));
}

#[test]
fn stream_draws_a_trace_of_tokens_and_times() {
    let calls = Script::events([
        r#"{"choices":[{"index":0,"delta":{"content":"Hi"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"now","arguments":"{}"}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
        "[DONE]",
    ]);
    let broken = || Script::tokens((1..9).map(|id| (id, "a"))).cut_at(900, Cut::Fin);
    let busy = Script::status(503).header("retry-after-ms", "1");
    // responses, flags, exit code, words in the picture, number of diamonds
    type Case = (Vec<Script>, &'static [&'static str], i32, &'static [&'static str], usize);
    let cases: Vec<Case> = vec![
        (vec![two_tokens()], &[], 0, &["1 stream, 2 tokens in ", "first token", ">stop"], 0),
        (vec![calls], &["--wire", "chat", "--prompt", "a"], 0, &["1 token in ", "tool_calls"], 1),
        (vec![broken(), two_tokens()], &["--resume", "1", "--temperature", "0"], 0, &["stop, 1 break"], 0),
        (vec![broken()], &[], 1, &["incomplete"], 0),
        (vec![busy, two_tokens()], &["--retries", "1"], 0, &["stop, 1 retry"], 0),
        (vec![Script::status(400)], &[], 1, &["0 tokens in ", ">server"], 0),
    ];
    let file = std::env::temp_dir().join(format!("tokenwire-trace-{}.svg", std::process::id()));
    let path = file.to_string_lossy().into_owned();
    each_row(cases, |(scripts, flags, code, words, diamonds)| {
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
    });
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn stream_resumes_at_the_next_server() {
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
    assert!(told.contains("20 tokens") && told.contains("moved to another server 2 times"), "{told}");
}

#[test]
fn stream_prints_tokens_and_reports_every_outcome() {
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
                "message": "the response is not an event stream but application/json: no stream today"}}),
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
    each_row(cases.into_iter().enumerate(), |(i, (script, flags, code, tokens, report))| {
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
    });
}

#[test]
fn stream_reports_an_unreachable_server() {
    let url = MockServer::scripted([two_tokens()]).unwrap().url();
    let ran = run(&["stream", "--base-url", &url, "--prompt", "Hi", "--json"], b"");
    assert_eq!(ran.code, Some(1));
    assert!(has(&ran.last(), &json!({"report": {"error": {"kind": "refused"}, "tokens": 0}})), "{}", ran.out);
}

#[test]
fn stream_sends_what_the_flags_set() {
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
fn a_text_prompt_is_sent_as_text_or_encoded_with_a_tokenizer() {
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
fn a_wrong_key_is_an_error_that_does_not_show_the_key() {
    let server = MockServer::start(|request| {
        let given = request.header("authorization").unwrap_or("none").to_owned();
        if given == "Bearer right" {
            return two_tokens();
        }
        Script::status(401).json(json!({"error": format!("Unauthorized: {given}")}))
    })
    .unwrap();
    let url = server.url();
    // ureq's log of a response, in rows of 16 bytes, appears only if it is requested by name.
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
    assert!(ran.err.contains("status 200"), "-v prints the status: {}", ran.err);
}

#[test]
fn a_custom_certificate_authority_is_trusted_when_its_file_is_given() {
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

/// Control characters of every form (C0, C1, DEL, bidi) that move the cursor, set colors or change
/// the direction.
const EVIL: &str = "\u{1b}[31m\u{9b}2J\u{7f}\u{202e}\u{61c}\u{8}\r";

fn assert_harmless(what: &str, text: &str) {
    let bad = |c: char| (c.is_control() && c != '\n' && c != '\t') || "\u{202e}\u{61c}".contains(c);
    assert!(!text.chars().any(bad), "{what}: {text:?}");
}

#[test]
fn nothing_from_the_server_reaches_the_terminal_as_a_control_character() {
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
    each_row(cases, |(script, args)| {
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
    });
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
fn model_text_cannot_reach_the_terminal_as_a_control_character() {
    let server =
        MockServer::scripted([Script::tokens([(1, "a\u{1b}"), (2, "[31mb\u{202e}\r\n\tc")])]).unwrap();
    let ran = run(&["stream", "--base-url", &server.url(), "--prompt", "Hi"], b"");
    assert_eq!(ran.out, "a\u{241b}[31mb\u{fffd}\u{240d}\n\tc");
    assert!(!ran.err.contains('\u{1b}'), "no colors and no live line outside a terminal: {}", ran.err);
    assert!(ran.err.contains("2 tokens") && ran.err.contains("ids exact"), "{}", ran.err);
}
