//! Tests of streams against the mock server: the items that the consumer receives, how streams end,
//! and the requests that the server receives.

#![cfg(feature = "testing")]

#[path = "../common/mod.rs"]
mod common;
mod endings;
mod guard;
mod http;
mod retries;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::certificates::certificates;
use common::checks::{each_row, with_timer};
use common::streams::{LONG, Last, Token, collect, one_at_a_time};
use crossbeam_channel::Receiver;
use serde_json::{Value, json};
use tokenwire::recording::BodyEnd;
use tokenwire::testing::{Cut, Framing, Gate, MockServer, OnAccept, Script};
use tokenwire::{
    ApiClient, ApiClientBuilder, CompletionRequest, Endpoint, ErrorKind, IdsExact, Inexact, Limit, Limits,
    OnDrop, Outcome, RetryPolicy, SamplingParams, StreamGuard, StreamReport, StreamToken, Timeouts, Timer,
    TokenId, WhenFull,
};

const HELLO: [(TokenId, &str); 4] = [(9707, "Hello"), (1879, " wörld"), (0, ""), (13, ".")];

// ---- helpers ----

fn hello() -> Vec<Token> {
    HELLO.iter().map(|(id, text)| ((*text).to_owned(), Some(*id))).collect()
}

/// Returns a client without retries, so that a failure is visible at once.
fn client(server: &MockServer) -> ApiClientBuilder {
    ApiClient::builder(server.url()).retries(0)
}

/// Returns a client for tests of reused connections. It also makes no retries.
fn reusing(server: &MockServer) -> ApiClientBuilder {
    one_at_a_time(client(server), Timeouts::default())
}

fn start(client: &ApiClient) -> (Receiver<StreamToken>, StreamGuard) {
    client.stream_completion(&[1, 2, 3], SamplingParams::default(), None).unwrap()
}

fn run(client: &ApiClient) -> (Vec<Token>, Last, StreamReport) {
    let (receiver, guard) = start(client);
    let (tokens, last) = collect(&receiver);
    (tokens, last, guard.join())
}

fn timeouts(set: impl FnOnce(&mut Timeouts)) -> Timeouts {
    let mut timeouts = Timeouts::default();
    set(&mut timeouts);
    timeouts
}

/// Returns timers that are longer than the wait of [`collect`]. A stream that waits for such a
/// timer fails its test.
fn far() -> Timeouts {
    let far = Some(LONG * 10);
    timeouts(|t| (t.connect, t.first_token, t.chunk, t.content, t.deadline) = (far, far, far, far, far))
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

// ---- the good case ----

/// Sends a body that ends with `data: [DONE]`, without a finish reason.
fn unended() -> Script {
    let chunk = |(id, text): (TokenId, &str)| json!({"choices":[{"index":0,"text":text,"token_ids":[id]}]});
    let usage = json!({"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}});
    let events = HELLO.map(chunk).into_iter().chain([usage]).map(|event| event.to_string());
    Script::events(events).write(": bye\n\ndata: [DONE]")
}

/// Sends the tokens with this content type, or without a content type.
fn typed(content_type: &str) -> Script {
    let wire = Script::tokens(HELLO).framing(Framing::CloseDelimited).wire();
    let wire = String::from_utf8(wire).unwrap();
    let (_, body) = wire.split_once("\r\n\r\n").unwrap();
    let header =
        if content_type.is_empty() { String::new() } else { format!("content-type: {content_type}\r\n") };
    Script::raw(format!("HTTP/1.1 200 OK\r\n{header}connection: close\r\n\r\n{body}"))
}

#[test]
fn tokens_arrive_with_the_servers_ids_and_the_report_contains_the_rest() {
    let cases = [
        ("vLLM", Endpoint::Auto, Script::tokens(HELLO)),
        ("llama.cpp, native", Endpoint::LlamaCpp, Script::llama_tokens(HELLO)),
        ("close-delimited", Endpoint::OpenAi, Script::tokens(HELLO).framing(Framing::CloseDelimited)),
        ("with a length", Endpoint::OpenAi, Script::tokens(HELLO).framing(Framing::ContentLength)),
        ("a terminator without its blank line", Endpoint::OpenAi, unended()),
        ("a type with a parameter", Endpoint::Auto, typed("Text/Event-Stream; charset=utf-8")),
        ("without a type", Endpoint::Auto, typed("")),
        ("one byte at a time", Endpoint::OpenAi, Script::tokens(HELLO).slowly(1, Duration::ZERO)),
    ];
    each_row(cases, |(name, wire, script)| {
        let server = MockServer::scripted([script]).unwrap();
        let client = client(&server).endpoint(wire).build().unwrap();
        let (tokens, last, report) = run(&client);
        assert_eq!(tokens, hello(), "{name}");
        assert!(matches!(last, Last::Done), "{name}: {last:?}");
        assert_eq!((report.ending, report.ids_exact), (Outcome::Complete, IdsExact::Yes), "{name}");
        assert_eq!((report.tokens, report.usage.unwrap().completion_tokens), (4, 4), "{name}");
        assert!(report.inter_token.is_some() && report.events >= 5, "{name}: {} events", report.events);
        let unended = name.contains("terminator");
        assert_eq!(report.finish.map(|f| f.to_string()).as_deref(), (!unended).then_some("stop"), "{name}");
        assert_eq!(report.comments, u64::from(unended), "{name}");
        assert!(report.head.unwrap() <= report.first_token.unwrap(), "{name}");
        assert!(report.first_token.unwrap() <= report.last_token.unwrap(), "{name}");
        assert!(report.last_token.unwrap() <= report.elapsed, "{name}");
        assert!(report.error.is_none() && report.lines_skipped == 0 && report.bytes > 0, "{name}");
    });
}

#[test]
fn the_longest_timers_never_expire_or_overflow() {
    let forever = Some(Duration::MAX);
    let timeouts = timeouts(|t| {
        (t.connect, t.first_token, t.chunk, t.content) = (forever, forever, forever, forever);
        (t.deadline, t.write, t.drain) = (forever, forever, Duration::MAX);
    });
    let server = MockServer::scripted([Script::tokens(HELLO)]).unwrap();
    let (tokens, last, _) = run(&client(&server).timeouts(timeouts).build().unwrap());
    assert!(matches!(last, Last::Done), "{last:?}");
    assert_eq!(tokens, hello());
}

/// Tests each timer alone, at zero and at its maximum.
#[test]
fn a_timer_of_zero_expires_at_once_and_the_longest_never() {
    type Set = fn(&mut Timeouts, Duration);
    let timers: [(Timer, Set); 6] = [
        (Timer::Connect, |t, limit| t.connect = Some(limit)),
        (Timer::FirstToken, |t, limit| t.first_token = Some(limit)),
        (Timer::Chunk, |t, limit| t.chunk = Some(limit)),
        (Timer::Content, |t, limit| t.content = Some(limit)),
        (Timer::Deadline, |t, limit| t.deadline = Some(limit)),
        (Timer::Write, |t, limit| t.write = Some(limit)),
    ];
    let begun = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
    for (timer, set) in timers {
        let script = || Script::events([begun]).pause(ms(50)).event("[DONE]");
        let server = MockServer::scripted([script()]).unwrap();
        let with = |limit| client(&server).timeouts(timeouts(|t| set(t, limit))).build().unwrap();
        let (tokens, last, _) = run(&with(Duration::ZERO));
        let Last::Error(error) = &last else { panic!("{timer:?}: {last:?}") };
        assert_eq!(error.kind(), ErrorKind::Timeout(timer));
        assert_eq!(tokens.len(), usize::from(matches!(timer, Timer::Chunk | Timer::Content)), "{timer:?}");
        for limit in [Duration::MAX, Duration::MAX / 2, Duration::from_secs(u64::from(u32::MAX))] {
            let (tokens, last, _) = run(&with(limit));
            assert!(matches!(last, Last::Done) && tokens.len() == 1, "{timer:?} {limit:?}: {last:?}");
        }
    }
    // The drain timer is not an error. Without a drain, the connection is not reused.
    let server = MockServer::scripted([Script::events([begun, "[DONE]"])]).unwrap();
    let client = client(&server).timeouts(timeouts(|t| t.drain = Duration::ZERO)).build().unwrap();
    assert!((0..3).all(|_| matches!(run(&client).1, Last::Done)));
}

#[test]
fn the_short_form_sends_the_original_request() {
    let server = MockServer::scripted([Script::tokens(HELLO)]).unwrap();
    let client = client(&server).model("m").api_key("sk-1").header("x-session", "s").build().unwrap();
    let params = SamplingParams::default().temperature(0.6).top_p(0.95).top_k(20).stop_token_ids(vec![2]);
    let (receiver, _guard) = client.stream_completion(&[7, 8], params, Some(-3)).unwrap();
    collect(&receiver);
    let request = server.requests().remove(0);
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/completions"));
    let body = request.json();
    let expected = json!({
        "model": "m", "prompt": [7, 8], "max_tokens": 16384, "temperature": 0.6, "top_p": 0.95, "top_k": 20,
        "stream": true, "return_token_ids": true, "skip_special_tokens": false, "stop_token_ids": [2],
        "priority": -3, "stream_options": {"include_usage": true}, "verbose": true
    });
    assert_eq!(body, expected);
    for (name, value) in [
        ("authorization", "Bearer sk-1"),
        ("x-session", "s"),
        ("accept", "text/event-stream"),
        ("accept-encoding", "identity"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
}

#[test]
fn the_first_response_identifies_the_server_and_the_next_request_adapts() {
    let server = MockServer::scripted([Script::tokens(HELLO)]).unwrap();
    let client = client(&server).build().unwrap();
    run(&client);
    run(&client);
    let asked: Vec<(bool, bool)> = server
        .requests()
        .iter()
        .map(|request| request.json())
        .map(|body| (body.get("return_token_ids").is_some(), body.get("verbose").is_some()))
        .collect();
    assert_eq!(asked, [(true, true), (true, false)]);
    assert_eq!(client.server().unwrap(), Some(tokenwire::ServerKind::Vllm));
    assert_eq!(server.requests().len(), 2, "the known server was detected again");
}

#[test]
fn the_probe_is_sent_once() {
    let server =
        MockServer::scripted([Script::status(200).json(r#"{"data":[{"owned_by":"llamacpp"}]}"#)]).unwrap();
    let client = client(&server).api_key("k").build().unwrap();
    for _ in 0..2 {
        assert_eq!(client.server().unwrap(), Some(tokenwire::ServerKind::LlamaCpp));
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!((requests[0].method.as_str(), requests[0].path.as_str()), ("GET", "/v1/models"));
    assert_eq!(requests[0].header("authorization"), Some("Bearer k"));
}

#[test]
fn the_connection_is_reused_even_if_the_guard_is_dropped_with_the_last_token() {
    let server = MockServer::scripted([Script::tokens(HELLO)]).unwrap();
    let client = reusing(&server).build().unwrap();
    for n in 0..10 {
        let (receiver, guard) = start(&client);
        assert_eq!(collect(&receiver).0, hello());
        let report = guard.join();
        assert_eq!(report.connection_reused, n > 0, "stream {n}");
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_pooled_connection_that_the_server_has_closed_does_not_fail_the_stream() {
    // The server closes the connection when it reads the second request, so the pool has not
    // received a FIN.
    let server = MockServer::scripted([Script::tokens(HELLO), Script::new(), Script::tokens(HELLO)]).unwrap();
    let client = reusing(&server).build().unwrap();
    run(&client);
    let (tokens, last, report) = run(&client);
    assert!(matches!(last, Last::Done), "{last:?}");
    assert_eq!((tokens, report.connection_reused), (hello(), false));
    assert_eq!((report.retries, report.stale_retries), (0, 1));
    assert_eq!((server.requests().len(), server.connections()), (3, 2));
}

#[test]
fn a_request_is_sent_at_most_once_if_the_policy_requires_it() {
    let server = MockServer::scripted([Script::tokens(HELLO), Script::new(), Script::tokens(HELLO)]).unwrap();
    let mut policy = RetryPolicy::default();
    (policy.max_retries, policy.max_stale_retries) = (0, 0);
    let client = reusing(&server).retry(policy).build().unwrap();
    run(&client);
    let (_, last, report) = run(&client);
    assert!(matches!(&last, Last::Error(e) if e.kind() == ErrorKind::Incomplete), "{last:?}");
    assert_eq!((report.stale_retries, report.connection_reused), (0, true));
    assert_eq!((server.requests().len(), server.connections()), (2, 1));
}

#[test]
fn a_recorded_exchange_contains_no_credential_and_replays_to_the_same_tokens() {
    let cut = 700;
    for (name, script, end, tokens) in [
        ("whole", Script::tokens(HELLO).framing(Framing::CloseDelimited), BodyEnd::Unknown, 4),
        ("broken", Script::tokens(HELLO).cut_at(cut, Cut::Fin), BodyEnd::Closed, 2),
        ("refused", Script::status(503).json(r#"{"error":"busy"}"#), BodyEnd::Complete, 0),
    ] {
        let server = MockServer::scripted([script]).unwrap();
        let client = client(&server).api_key("canary-1").header("x-any", "canary-2").build().unwrap();
        // The key is also in the prompt and in a header that is kept.
        let request =
            CompletionRequest::ids([7]).header("user-agent", "of canary-1").extra("user", "canary-1");
        let (receiver, guard) = client.stream(request.record()).unwrap();
        let (received, _) = collect(&receiver);
        let recording = guard.join().recording.unwrap();
        assert_eq!((received.len(), recording.end()), (tokens, end), "{name}");
        assert_eq!(recording.request().json()["user"], "********", "{name}");
        assert_eq!(recording.request().json()["prompt"], json!([7]), "{name}");
        assert!(!recording.to_jsonl().contains("canary"), "{name}");

        let replayed = tokenwire::testing::replay(&recording).unwrap();
        let (again, last, _) = run(&self::client(&replayed).build().unwrap());
        assert_eq!(again, received, "{name}");
        assert_eq!(matches!(last, Last::Done), name == "whole", "{name}: {last:?}");
    }

    let server = MockServer::scripted([Script::tokens(HELLO)]).unwrap();
    let mut limits = Limits::default();
    limits.max_recording_bytes = 10;
    let client = client(&server).limits(limits).build().unwrap();
    let (receiver, guard) = client.stream(CompletionRequest::ids([7]).record()).unwrap();
    assert_eq!(collect(&receiver).0, hello(), "the limit of the recording does not limit the stream");
    assert!(guard.join().recording.unwrap().pieces().is_empty());
}

#[test]
fn concurrent_streams_do_not_mix() {
    let server = MockServer::start(|request| {
        let first = request.json()["prompt"][0].as_u64().unwrap() as TokenId;
        Script::tokens((0..50).map(|n| (first + n, "x")))
    })
    .unwrap();
    let client = client(&server).build().unwrap();
    let streams: Vec<_> = (0..32)
        .map(|n| client.stream_completion(&[n * 1000], SamplingParams::default(), None).unwrap())
        .collect();
    for (n, (receiver, _guard)) in streams.iter().enumerate() {
        let ids: Vec<_> = collect(receiver).0.into_iter().map(|(_, id)| id.unwrap() as usize).collect();
        assert_eq!(ids, (n * 1000..n * 1000 + 50).collect::<Vec<_>>());
    }
}
