//! Tests of `tokenwire chat` and `replay`, and of signals and closed pipes.

use super::*;

// ---- signals and pipes ----

#[test]
fn ctrl_c_cancels_the_stream_and_the_last_line_is_still_printed() {
    let server = MockServer::scripted([one_token().hang(HANGS)]).unwrap();
    let start = |more: &[&str]| {
        let url = server.url();
        program(&[&["stream", "--base-url", &url, "--prompt", "Hi"], more].concat()).spawn().unwrap()
    };
    let mut child = start(&["--json"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("Hello"), "lines are printed as the tokens arrive");
    interrupt(&child);
    let last: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let expected = json!({"report": {"ending": "cancelled", "error": {"kind": "cancelled"}, "tokens": 1}});
    assert!(has(&last, &expected), "{last}");
    assert!(lines.next().is_none());
    assert_eq!(wait(&mut child), Some(130));

    let mut child = start(&[]);
    let mut text = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut text).unwrap();
    assert_eq!(&text, b"Hello", "text is printed as the tokens arrive");
    interrupt(&child);
    let ran = ended(child);
    assert_eq!(ran.code, Some(130));
    assert!(ran.err.contains("1 token,") && ran.err.contains("cancelled"), "{}", ran.err);
    assert!(server.wait_for_disconnects(2, HANGS));
}

#[test]
fn a_closed_pipe_ends_the_stream_without_an_error() {
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
fn chat_without_a_server_streams_a_recording_and_reports_it() {
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
    assert_eq!(ran.tokens(), tokens, "the recording that it names");
    // The recording took 866 ms. A busy machine may take longer, but no machine takes less time.
    assert!(ran.last()["report"]["elapsed_us"].as_u64().unwrap() >= 866_000, "{}", ran.out);
}

#[test]
fn chat_sends_its_argument_or_each_line_of_its_input() {
    let server = MockServer::scripted([two_tokens()]).unwrap();
    let url = server.url();
    let ran = run(&["chat", "--base-url", &url, "Say hello"], b"not read\n");
    assert_eq!((ran.code, &*ran.out), (Some(0), "Hello world"), "{}", ran.err);
    let ran = run(&["chat", "--base-url", &url], b"one\n\ntwo\r\nthree");
    assert_eq!((ran.code, &*ran.out), (Some(0), "Hello world\nHello world\nHello world\n"), "{}", ran.err);
    let prompts: Vec<_> = server.requests().iter().map(|request| request.json()["prompt"].clone()).collect();
    assert_eq!(prompts, ["Say hello", "one", "two", "three"]);

    let ran = ended(program(&["chat", "--base-url", &url]).spawn().unwrap());
    assert_eq!(ran.code, Some(2), "neither an argument nor a line of input: {}", ran.err);
}

#[test]
fn chat_with_a_tokenizer_runs_tools_and_prints_the_tree() {
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
        "the received ids without any others"
    );
    assert!(prompts[2].starts_with(&[&prompts[1][..], &[9, 2]].concat()));
    let ran = run(&[&asked[..3], &["--tokenizer", &tokenizer, "--chat-format", "nope", "Hi"]].concat(), b"");
    assert!(
        ran.code == Some(2) && ran.err.contains("qwen2_5"),
        "the error lists the valid names: {}",
        ran.err
    );
}

#[test]
fn parse_prints_the_tree_of_a_recorded_turn() {
    let text = "<think>hm</think>Hi!<tool_call>{\"name\": \"now\"}</tool_call>";
    let expected = json!({"reasoning": "hm", "content": "Hi!", "ids": [],
        "tool_calls": [{"id": "call_0", "name": "now", "arguments": {}, "at_token": 0}],
        "leaves": [{"kind": "reasoning", "text": "<think>hm</think>", "ids": []},
            {"kind": "content", "text": "Hi!", "ids": []},
            {"kind": "tool_call", "text": &text[20..], "ids": []}]});
    let parse = ["parse", "--dialect", "hermes", "--text", "--json"];
    let ran = run(&parse, text.as_bytes());
    assert_eq!((ran.code, ran.last()), (Some(0), expected), "{}", ran.err);
    let ran = run(&[&parse[..], &["--cut", "1"]].concat(), text.as_bytes());
    assert_eq!(ran.last()["tool_calls"][0]["at_token"], text.len() - 1);
    let ran = run(&parse[..4], text.as_bytes());
    assert!(ran.out.starts_with("assistant\n├─ reasoning"), "{}", ran.out);

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
fn a_replayed_recording_streams_the_original_tokens() {
    let file = std::env::temp_dir().join(format!("tokenwire-replay-{}.jsonl", std::process::id()));
    let cases = [
        ("vllm/interval3-completion.response.http", "auto", "10"),
        ("vllm/interval3-completion.response.http", "auto", "0.5"),
        ("llama.cpp/completion-eos.raw", "llamacpp", "1"),
    ];
    each_row(cases, |(name, wire, speed)| {
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
            assert!(elapsed + 1000.0 >= last, "{path}: the recorded timing, {elapsed} of {last}");
        }
        interrupt(&replay);
        assert_eq!(wait(&mut replay), Some(130));
    });
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn record_writes_the_exchange_on_success_and_on_failure() {
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
fn a_failed_request_is_saved_and_can_be_resent() {
    let folder = std::env::temp_dir().join(format!("tokenwire-save-{}", std::process::id()));
    let dir = folder.to_string_lossy().into_owned();
    let refusal = Script::status(503).json(format!(r#"{{"error":"busy, {KEY}"}}"#));
    let server = MockServer::scripted([refusal.clone(), refusal, two_tokens()]).unwrap();
    let url = server.url();
    let asked = ["--save-failed", &dir, "--api-key-env", "KEY_VARIABLE", "--temperature", "0.5"];
    let chat = run(&[&["chat", "--base-url", &url, "--retries", "0", "Say hello"], &asked[..]].concat(), b"");
    assert_eq!(chat.code, Some(1));
    assert!(chat.err.contains(&dir), "the output contains the path of the file: {}", chat.err);
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
fn an_unusable_save_folder_is_reported_once_and_changes_nothing_else() {
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
fn concurrent_failing_processes_share_a_folder_and_keep_its_limit() {
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
