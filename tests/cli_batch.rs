//! Tests of `tokenwire batch` as people and scripts use it.

#![cfg(feature = "cli")]

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::checks::each_row;
use common::program::{HANGS, Ran, ended, has, interrupt, program, run};
use serde_json::{Value, json};
use tokenwire::testing::{Cut, FakeModel, Gate, MockServer, Request, Script};

/// A temporary folder of one test, with an input file.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, input: &str) -> Self {
        let folder =
            Self(std::env::temp_dir().join(format!("tokenwire-batch-{name}-{}", std::process::id())));
        let _ = fs::remove_dir_all(&folder.0);
        fs::create_dir_all(&folder.0).unwrap();
        fs::write(folder.0.join("in.jsonl"), input).unwrap();
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }

    /// Returns the arguments of a run from the input to `out.jsonl`.
    fn args(&self, server: &MockServer, streams: &str) -> Vec<String> {
        let (input, out, url) = (self.path("in.jsonl"), self.path("out.jsonl"), server.url());
        ["batch", &input, "-o", &out, "--base-url", &url, "-c", streams].map(str::to_owned).to_vec()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn as_strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// Returns this number of prompts, each with one id.
fn prompts(count: u32) -> String {
    (0..count).map(|n| format!("{{\"prompt\":[{}]}}\n", n + 10)).collect()
}

/// Returns the number of the prompt in a request.
fn number(request: &Request) -> u64 {
    request.json()["prompt"][0].as_u64().unwrap() - 10
}

fn batch(server: &MockServer, more: &[&str], input: &str) -> Ran {
    run(&[&["batch", "--base-url", &server.url(), "--retries", "0"], more].concat(), input.as_bytes())
}

#[test]
fn results_are_written_in_the_order_of_the_prompts_with_all_data() {
    let model = FakeModel::new(3);
    // The earlier a prompt is, the later its response arrives.
    let server = MockServer::start(move |request| {
        let pause = Duration::from_millis(40_u64.saturating_sub(4 * number(request)));
        let (head, tail) = (Script::events([""; 0]).pause(pause), model.events(request).unwrap());
        tail.iter().fold(head, |script, data| script.event(data))
    });
    let server = server.unwrap();
    let expected: Vec<Value> = (0..20)
        .map(|n| {
            let ids = format!("{}", n + 10);
            let alone = ["stream", "--base-url", &server.url(), "--prompt-ids", &ids, "--max-tokens", "7"];
            let ran = run(&[&alone[..], &["--json"]].concat(), b"");
            let lines = ran.lines();
            let text: String = lines.iter().filter_map(|line| line["text"].as_str()).collect();
            let ids: Vec<&Value> = lines.iter().map(|line| &line["id"]).filter(|id| id.is_u64()).collect();
            let report = &ran.last()["report"];
            json!({"id": n + 1, "text": text, "ids": ids, "finish": report["finish"], "usage": report["usage"],
                "ids_exact": true, "error": null})
        })
        .collect();
    for streams in ["1", "3", "20"] {
        let ran = batch(&server, &["-c", streams, "--max-tokens", "7"], &prompts(20));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert_eq!(ran.lines(), expected, "{streams} streams");
        assert!(ran.err.contains("20 complete, 0 failed"), "{}", ran.err);
        assert!(!ran.err.contains('\u{1b}'), "no live line outside a terminal: {}", ran.err);
        assert!(ran.out.starts_with("{\"id\":1,\"text\":\""), "the order of fields: {}", ran.out);
    }
    let quiet = batch(&server, &["--json", "--max-tokens", "7"], &prompts(1));
    assert_eq!((quiet.code, &*quiet.err), (Some(0), ""));
}

#[test]
fn a_line_sets_its_own_fields_and_overrides_the_flags() {
    let server = MockServer::start(|request| match request.path.as_str() {
        "/v1/chat/completions" => Script::events([
            r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}"#,
            "[DONE]",
        ]),
        _ => Script::tokens([(1, "a"), (2, "b")]),
    })
    .unwrap();
    let flags =
        ["-c", "1", "--max-tokens", "9", "--temperature", "0.5", "--request-id", "mine", "--seed", "3"];
    let messages = json!([{"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "x"}]);
    let of_chat = json!({"id": 7, "messages": messages}).to_string();
    // line, request, result
    let cases = [
        (
            r#"{"prompt":"Hi"}"#,
            json!({"prompt": "Hi", "max_tokens": 9, "temperature": 0.5, "seed": 3, "stream": true}),
            json!({"id": 1, "text": "ab", "ids": [1, 2], "finish": "stop", "ids_exact": true}),
        ),
        (
            r#"{"id":"x","prompt":[4,5],"max_tokens":2,"temperature":0,"extra":{"min_p":0.25}}"#,
            json!({"prompt": [4, 5], "max_tokens": 2, "temperature": 0.0, "min_p": 0.25}),
            json!({"id": "x", "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}),
        ),
        (
            &of_chat,
            json!({"messages": messages, "temperature": 0.5}),
            json!({"id": 7, "text": "Hi", "reasoning": "hm", "ids": [], "ids_exact": false, "error": null}),
        ),
    ];
    let input: String = cases.iter().map(|(line, ..)| format!("{line}\n")).collect();
    let ran = batch(&server, &flags, &input);
    assert_eq!((ran.code, ran.lines().len()), (Some(0), cases.len()), "{} {}", ran.out, ran.err);
    let (lines, requests) = (ran.lines(), server.requests());
    each_row(cases.iter().enumerate(), |(n, (line, sent, result))| {
        assert!(has(&requests[n].json(), sent), "{line}: {}", requests[n].text());
        assert!(has(&lines[n], result), "{line}: {}", lines[n]);
        assert_eq!(requests[n].header("x-request-id"), Some(&*format!("mine-{n}")));
    });
}

#[test]
fn a_bad_line_and_a_failed_stream_are_reported_and_the_others_continue() {
    let server = MockServer::start(|request| match number(request) {
        1 => Script::status(503).json(r#"{"error":{"message":"busy"}}"#),
        2 => Script::status(400).json(r#"{"error":{"message":"too long"}}"#),
        3 => Script::events([r#"{"choices":[{"index":0,"text":"a","token_ids":[7]}]}"#]).close(),
        _ => Script::tokens([(1, "a")]),
    })
    .unwrap();
    let input = [
        r#"{"prompt":[11]}"#,
        "",
        r#"{"prompt":[12"#,
        r#"{"id":"d","prompt":[12]}"#,
        r#"{"id":"c","prompt":[13]}"#,
        r#"{"id":"t","prompt":[14],"temperature":-1e999}"#,
        r#"{"id":"n","prompt":[14],"temperature":-1}"#,
        r#"{"id":"g","prompt":[14]}"#,
    ];
    let ran = batch(&server, &["-c", "2"], &input.join("\n"));
    assert_eq!(ran.code, Some(1));
    let error = |kind: &str, retryable: bool| json!({"kind": kind, "retryable": retryable});
    let expected = [
        json!({"id": 1, "text": "", "ids": [], "error": {"kind": "server", "status": 503, "retryable": true}}),
        json!({"id": 3, "error": error("invalid_input", false)}),
        json!({"id": "d", "error": {"kind": "server", "status": 400, "retryable": false}}),
        json!({"id": "c", "text": "a", "ids": [7], "finish": null, "error": error("incomplete", true)}),
        json!({"id": 6, "error": error("invalid_input", false)}),
        json!({"id": "n", "error": null}),
        json!({"id": "g", "text": "a", "error": null}),
    ];
    let lines = ran.lines();
    assert_eq!(lines.len(), expected.len(), "{}", ran.out);
    for (line, expected) in lines.iter().zip(&expected) {
        assert!(has(line, expected), "{line} is not {expected}");
    }
    let message = lines[1]["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("line 3: "), "{message}");
    for told in [
        "2 complete, 5 failed",
        "2 errors of kind invalid_input, the first: line ",
        "2 errors of kind server, the first: the server answered",
    ] {
        assert!(ran.err.contains(told), "{told}: {}", ran.err);
    }
}

#[test]
fn concurrent_streams_and_waiting_results_are_limited() {
    let (first, rest, asked) = (Gate::new(), Gate::new(), Arc::new(AtomicUsize::new(0)));
    let (of_first, of_rest, counted) = (first.clone(), rest.clone(), asked.clone());
    let server = MockServer::start(move |request| {
        counted.fetch_add(1, Ordering::SeqCst);
        let gate = if number(request) == 0 { &of_first } else { &of_rest };
        Script::events([""; 0])
            .wait_for(gate)
            .event(r#"{"choices":[{"index":0,"text":"a","token_ids":[7],"finish_reason":"stop"}]}"#)
            .event("[DONE]")
    })
    .unwrap();
    let folder = Folder::new("bounded", &prompts(200));
    let child = program(&as_strs(&folder.args(&server, "4"))).spawn().unwrap();
    assert!(server.wait_for_requests(4, HANGS));
    assert!(!server.wait_for_requests(5, Duration::from_millis(300)), "at most four at a time");
    // The first stream hangs and the other streams continue. The limit is 16 results for each
    // stream, so 64 results for the four streams, with the hanging stream included.
    rest.open();
    assert!(server.wait_for_requests(64, HANGS));
    assert!(!server.wait_for_requests(65, Duration::from_millis(300)), "at most 64 prompts ahead");
    assert_eq!(folder.read("out.jsonl"), "");
    assert_eq!(folder.read("out.jsonl.waiting").lines().count(), 63, "finished results are on the disk");
    first.open();
    let ran = ended(child);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let lines = folder.read("out.jsonl");
    let ids: Vec<u64> =
        lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=200).collect::<Vec<_>>());
    assert!(!folder.0.join("out.jsonl.waiting").exists());
    assert_eq!(asked.load(Ordering::SeqCst), 200);
}

/// Starts a server whose responses take very different times. Some of them break off.
fn uneven() -> MockServer {
    let model = FakeModel::new(4);
    MockServer::start(move |request| {
        let n = number(request);
        let script = model.answer(request).slowly(200, Duration::from_millis(n * 7 % 5));
        if n % 9 == 4 { script.cut_at(700, Cut::Fin) } else { script }
    })
    .unwrap()
}

#[test]
fn a_batch_killed_at_any_time_resumes_to_the_same_file() {
    let server = uneven();
    let folder = Folder::new("killed", &prompts(60));
    let args = folder.args(&server, "6");
    let args = [&as_strs(&args)[..], &["--max-tokens", "12", "--retries", "0"]].concat();
    assert_eq!(run(&args, b"").code, Some(1));
    let whole = folder.read("out.jsonl");
    assert_eq!(whole.lines().count(), 60);
    let asked_whole = server.requests().len();
    assert_eq!(asked_whole, 60);

    fs::remove_file(folder.path("out.jsonl")).unwrap();
    let (mut kills, mut asked) = (0, asked_whole);
    loop {
        let mut child = program(&args).spawn().unwrap();
        // Each run is killed after some more requests than the previous one.
        let further = asked + 7 + 4 * kills;
        while !server.wait_for_requests(further, Duration::from_millis(20)) {
            if child.try_wait().unwrap().is_some() {
                break;
            }
        }
        let is_over = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        let ran = ended(child);
        if is_over {
            assert_eq!(ran.code, Some(1), "{}", ran.err);
            assert!(ran.err.contains("from earlier runs"), "{}", ran.err);
            break;
        }
        kills += 1;
        asked = server.requests().len();
        // After a crash of the machine, the file can be in this state.
        let mut out = OpenOptions::new().append(true).open(folder.path("out.jsonl")).unwrap();
        out.write_all(br#"{"id":61,"text":"ha"#).unwrap();
    }
    assert!(kills >= 2, "it was killed {kills} times");
    assert_eq!(folder.read("out.jsonl"), whole);
    assert!(!folder.0.join("out.jsonl.waiting").exists());
    let again = server.requests().len() - asked_whole - 60;
    assert!(
        again <= 6 * kills,
        "only the streams that a kill interrupted are requested again: {again} after {kills}"
    );

    let ran = run(&args, b"");
    assert_eq!(
        ran.code,
        Some(1),
        "nothing is left to do, but earlier failures set the exit code: {}",
        ran.err
    );
    assert!(ran.err.contains("60 results from earlier runs"), "{}", ran.err);
    assert_eq!(folder.read("out.jsonl"), whole);
}

#[test]
fn ctrl_c_keeps_finished_results_and_abandons_running_streams() {
    let hang = Arc::new(AtomicUsize::new(1));
    let of_server = hang.clone();
    let server = MockServer::start(move |request| {
        let token = r#"{"choices":[{"index":0,"text":"a","token_ids":[7]}]}"#;
        match number(request) {
            2 | 5 if of_server.load(Ordering::SeqCst) == 1 => Script::events([token]).hang(HANGS),
            _ => Script::tokens([(1, "a")]),
        }
    })
    .unwrap();
    for to_file in [true, false] {
        hang.store(1, Ordering::SeqCst);
        let folder = Folder::new(&format!("interrupt-{to_file}"), &prompts(8));
        let mut args = folder.args(&server, "2");
        if !to_file {
            args.drain(2..4);
        }
        let before = server.requests().len();
        let child = program(&as_strs(&args)).spawn().unwrap();
        // The third and the sixth stream hang, so neither of the two streams starts the seventh
        // prompt.
        assert!(server.wait_for_requests(before + 6, HANGS));
        interrupt(&child);
        let ran = ended(child);
        assert_eq!(ran.code, Some(130), "{}", ran.err);
        assert!(ran.err.contains("4 complete, 0 failed, 2 cancelled"), "{}", ran.err);
        assert!(server.wait_for_open_connections(0, HANGS), "some connections are still open");
        let ids = |text: &str| -> Vec<Value> {
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect()
        };
        if !to_file {
            assert_eq!(ids(&ran.out), [1, 2, 4, 5]);
            continue;
        }
        assert_eq!((ids(&folder.read("out.jsonl")), &*ran.out), (vec![json!(1), json!(2)], ""));
        assert!(
            ran.err.contains("has 2 results that must wait") && ran.err.contains("again to continue"),
            "{}",
            ran.err
        );
        hang.store(0, Ordering::SeqCst);
        let ran = run(&as_strs(&args), b"");
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(ran.err.contains("4 results from earlier runs"), "{}", ran.err);
        assert_eq!(ids(&folder.read("out.jsonl")), (1..=8).map(|id| json!(id)).collect::<Vec<_>>());
        assert_eq!(server.requests().len(), before + 6 + 4, "a prompt with a result is not requested again");
    }
}

#[test]
fn ctrl_c_does_not_wait_for_an_input_without_data() {
    let server = MockServer::scripted([Script::tokens([(1, "a")])]).unwrap();
    let mut command = program(&["batch", "--base-url", &server.url()]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"{\"prompt\":\"a\"}\n").unwrap();
    assert!(server.wait_for_requests(1, HANGS));
    interrupt(&child);
    assert_eq!(ended(child).code, Some(130));
}

#[test]
fn an_output_of_another_input_is_rejected_and_left_unchanged() {
    let server = MockServer::scripted([Script::tokens([(1, "a")])]).unwrap();
    let result = |id: &str| format!("{{\"id\":{id},\"text\":\"\",\"error\":null}}\n");
    // input, output, a word of the message
    let cases = [
        (prompts(2), result("9"), "another input"),
        (prompts(1), result("1") + &result("2"), "2 results, but the input has 1"),
        (prompts(2), "{\"prompt\":\"a\"}\n".to_owned(), "line 1"),
        (prompts(2), "notes".to_owned(), "line 1"),
    ];
    each_row(cases.iter().enumerate(), |(n, (input, output, word))| {
        let folder = Folder::new(&format!("foreign-{n}"), input);
        fs::write(folder.path("out.jsonl"), output).unwrap();
        let ran = run(&as_strs(&folder.args(&server, "2")), b"");
        assert_eq!(ran.code, Some(2), "{}", ran.err);
        assert!(ran.err.contains(word), "{word}: {}", ran.err);
        assert_eq!(&folder.read("out.jsonl"), output);
    });
    let folder = Folder::new("same", &prompts(1));
    let path = folder.path("in.jsonl");
    let ran = batch(&server, &[&path, "-o", &path], "");
    assert_eq!((ran.code, folder.read("in.jsonl")), (Some(2), prompts(1)), "{}", ran.err);
    // An output that cannot be read back is rejected too.
    let ran = batch(&server, &["-o", "/dev/null"], "");
    assert!(ran.code == Some(2) && ran.err.contains("is not a regular file"), "{}", ran.err);
    let ran = batch(&server, &["-o", "/no/such/folder/out"], "");
    assert!(ran.code == Some(2) && ran.err.contains("--output"), "{}", ran.err);
    let ran = batch(&server, &["/no/such/input"], "");
    assert!(ran.code == Some(2) && ran.err.contains("/no/such/input"), "{}", ran.err);
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn a_batch_retries_and_resumes_its_streams() {
    let model = FakeModel::new(6);
    let server = MockServer::start(move |request| {
        let script = model.answer(request);
        let is_first = request.json()["prompt"].as_array().map(Vec::len) == Some(1);
        if is_first { script.cut_at(900, Cut::Reset) } else { script }
    })
    .unwrap();
    let more = ["--max-tokens", "20", "--temperature", "0", "--resume", "2"];
    let ran = batch(&server, &more, &prompts(5));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.lines().iter().all(|line| line["ids_exact"] == true), "{}", ran.out);
    assert!(ran.err.contains("5 complete"), "{}", ran.err);
}

#[test]
fn a_plot_of_a_batch_shows_its_streams_side_by_side() {
    let server = uneven();
    let folder = Folder::new("timeline", &prompts(12));
    let (args, svg) = (folder.args(&server, "3"), folder.path("streams.svg"));
    let args = [&as_strs(&args)[..], &["--retries", "0", "--max-tokens", "12", "--timeline", &svg]].concat();
    assert_eq!(run(&args, b"").code, Some(1));
    let drawn = folder.read("streams.svg");
    assert!(drawn.starts_with("<svg ") && drawn.trim_end().ends_with("</svg>"), "{drawn}");
    for word in ["12 streams, ", "incomplete", "length", "first token", "seconds since the start"] {
        assert!(drawn.contains(word), "{word}");
    }
    let ran = batch(&server, &["--timeline", "/no/such/folder/x.svg"], "");
    assert!(ran.code == Some(2) && ran.err.contains("--timeline"), "{}", ran.err);
}

#[test]
fn temporary_errors_are_requested_again_if_a_flag_says_so() {
    let is_down = Arc::new(AtomicUsize::new(1));
    let of_server = is_down.clone();
    let server = MockServer::start(move |request| match number(request) {
        n if n % 3 == 1 && of_server.load(Ordering::SeqCst) == 1 => Script::status(503),
        4 => Script::status(400),
        _ => Script::tokens([(1, "a")]),
    })
    .unwrap();
    let folder = Folder::new("redo", &prompts(10));
    let args = folder.args(&server, "3");
    let args = [&as_strs(&args)[..], &["--retries", "0"]].concat();
    // whether the server is down, flags, total requests afterwards, complete results
    let steps: [(usize, &[&str], usize, usize); 4] =
        [(1, &[], 10, 7), (1, &[], 10, 7), (1, &["--redo-failed"], 13, 7), (0, &["--redo-failed"], 16, 9)];
    for (n, (down, flags, asked, complete)) in steps.into_iter().enumerate() {
        is_down.store(down, Ordering::SeqCst);
        let ran = run(&[&args[..], flags].concat(), b"");
        let out = folder.read("out.jsonl");
        let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let ids: Vec<_> = lines.iter().map(|line| line["id"].as_u64().unwrap()).collect();
        assert_eq!(ids, (1..=10).collect::<Vec<_>>(), "step {n}: {}", ran.err);
        let good = lines.iter().filter(|line| line["error"].is_null()).count();
        assert_eq!((server.requests().len(), good), (asked, complete), "step {n}: {}", ran.err);
        assert_eq!(ran.code, Some(1), "step {n}, a new or an earlier failure: {}", ran.err);
        let says_before = ran.err.contains("10 from earlier runs, 3 of these failed");
        assert_eq!(says_before, n == 1, "step {n}: {}", ran.err);
        assert!(!folder.0.join("out.jsonl.before").exists(), "step {n}");
    }
}
