//! Streams against the scripted server: what the consumer sees, how it ends, what the server saw.

#![cfg(feature = "testing")]

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::certificates::certificates;
use common::streams::{LONG, Last, Token, collect};
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

/// Without retries: what a test is about shows at once.
fn client(server: &MockServer) -> ApiClientBuilder {
    ApiClient::builder(server.url()).retries(0)
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

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

// ---- the good case ----

/// The last bytes of the body are `data: [DONE]`, and there is no finish reason.
fn unended() -> Script {
    let chunk = |(id, text): (TokenId, &str)| json!({"choices":[{"index":0,"text":text,"token_ids":[id]}]});
    let usage = json!({"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}});
    let events = HELLO.map(chunk).into_iter().chain([usage]).map(|event| event.to_string());
    Script::events(events).write(": bye\n\ndata: [DONE]")
}

/// The tokens under this content type, or under none.
fn typed(content_type: &str) -> Script {
    let wire = Script::tokens(HELLO).framing(Framing::CloseDelimited).wire();
    let wire = String::from_utf8(wire).unwrap();
    let (_, body) = wire.split_once("\r\n\r\n").unwrap();
    let header =
        if content_type.is_empty() { String::new() } else { format!("content-type: {content_type}\r\n") };
    Script::raw(format!("HTTP/1.1 200 OK\r\n{header}connection: close\r\n\r\n{body}"))
}

#[test]
fn tokens_arrive_with_the_servers_ids_and_the_report_tells_the_rest() {
    let cases = [
        ("vLLM", Endpoint::Auto, Script::tokens(HELLO)),
        ("llama.cpp, native", Endpoint::LlamaCpp, Script::llama_tokens(HELLO)),
        ("close-delimited", Endpoint::OpenAi, Script::tokens(HELLO).framing(Framing::CloseDelimited)),
        ("with a length", Endpoint::OpenAi, Script::tokens(HELLO).framing(Framing::ContentLength)),
        ("a terminator without its blank line", Endpoint::OpenAi, unended()),
        ("a type with a parameter", Endpoint::Auto, typed("Text/Event-Stream; charset=utf-8")),
        ("no type", Endpoint::Auto, typed("")),
        ("a byte at a time", Endpoint::OpenAi, Script::tokens(HELLO).slowly(1, Duration::ZERO)),
    ];
    for (name, wire, script) in cases {
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
    }
}

#[test]
fn the_longest_timers_are_no_limit_and_no_overflow() {
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

/// Each timer at zero, and each as long as can be, by itself.
#[test]
fn a_timer_of_zero_passes_at_once_and_the_longest_never() {
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
    // The wait for the framing's end is no error: without it the connection is not used again.
    let server = MockServer::scripted([Script::events([begun, "[DONE]"])]).unwrap();
    let client = client(&server).timeouts(timeouts(|t| t.drain = Duration::ZERO)).build().unwrap();
    assert!((0..3).all(|_| matches!(run(&client).1, Last::Done)));
}

#[test]
fn the_short_form_sends_what_the_original_sent() {
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
fn the_first_answer_tells_what_the_server_is_and_the_next_request_fits_it() {
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
    assert_eq!(server.requests().len(), 2, "it was known, so nothing was asked");
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
fn the_connection_is_used_again_even_if_the_guard_goes_with_the_last_token() {
    let server = MockServer::scripted([Script::tokens(HELLO)]).unwrap();
    let client = client(&server).build().unwrap();
    for n in 0..10 {
        let (receiver, guard) = start(&client);
        assert_eq!(collect(&receiver).0, hello());
        let report = guard.join();
        assert_eq!(report.connection_reused, n > 0, "stream {n}");
        // The framing's end is drained after the consumer had its `Done`: give the thread its moment.
        thread::sleep(ms(60));
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_pooled_connection_that_the_server_has_closed_costs_nothing() {
    // The connection dies when the second request is read: no FIN was there for the pool to see.
    let server = MockServer::scripted([Script::tokens(HELLO), Script::new(), Script::tokens(HELLO)]).unwrap();
    let client = client(&server).build().unwrap();
    run(&client);
    thread::sleep(ms(60));
    let (tokens, last, report) = run(&client);
    assert!(matches!(last, Last::Done), "{last:?}");
    assert_eq!((tokens, report.connection_reused), (hello(), false));
    assert_eq!((report.retries, report.stale_retries), (0, 1));
    assert_eq!((server.requests().len(), server.connections()), (3, 2));
}

#[test]
fn a_request_is_sent_once_at_most_if_the_policy_says_so() {
    let server = MockServer::scripted([Script::tokens(HELLO), Script::new(), Script::tokens(HELLO)]).unwrap();
    let mut policy = RetryPolicy::default();
    (policy.max_retries, policy.max_stale_retries) = (0, 0);
    let client = client(&server).retry(policy).build().unwrap();
    run(&client);
    thread::sleep(ms(60));
    let (_, last, report) = run(&client);
    assert!(matches!(&last, Last::Error(e) if e.kind() == ErrorKind::Incomplete), "{last:?}");
    assert_eq!((report.stale_retries, report.connection_reused), (0, true));
    assert_eq!((server.requests().len(), server.connections()), (2, 1));
}

#[test]
fn a_recorded_exchange_has_no_credential_and_replays_to_the_same_tokens() {
    let cut = 700;
    for (name, script, end, tokens) in [
        ("whole", Script::tokens(HELLO).framing(Framing::CloseDelimited), BodyEnd::Unknown, 4),
        ("broken", Script::tokens(HELLO).cut_at(cut, Cut::Fin), BodyEnd::Closed, 2),
        ("refused", Script::status(503).json(r#"{"error":"busy"}"#), BodyEnd::Complete, 0),
    ] {
        let server = MockServer::scripted([script]).unwrap();
        let client = client(&server).api_key("canary-1").header("x-any", "canary-2").build().unwrap();
        // The key in the prompt too, and in a header that is kept.
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
    assert_eq!(collect(&receiver).0, hello(), "the limit of the record is none of the stream's");
    assert!(guard.join().recording.unwrap().pieces().is_empty());
}

#[test]
fn streams_side_by_side_do_not_mix() {
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

// ---- endings ----

/// What a fault must look like from the consumer's side.
struct Fault {
    name: &'static str,
    script: Script,
    tokens: usize,
    kind: ErrorKind,
    says: &'static str,
}

fn faults() -> Vec<Fault> {
    let fault = |name, script, tokens, kind, says| Fault { name, script, tokens, kind, says };
    let chunk =
        |text: &str, id: u32| json!({"choices":[{"index":0,"text":text,"token_ids":[id]}]}).to_string();
    let a = chunk("a", 1);
    let a = a.as_str();
    let html = "<html><head><title>502 Bad Gateway</title></head></html>";
    vec![
        fault(
            "401",
            Script::status(401).json(r#"{"error":"Unauthorized"}"#),
            0,
            ErrorKind::Server,
            "Unauthorized",
        ),
        fault(
            "404",
            Script::status(404).json(r#"{"detail":"Not Found"}"#),
            0,
            ErrorKind::Server,
            "Not Found",
        ),
        fault(
            "HTML 502",
            Script::status(502).body("text/html", html),
            0,
            ErrorKind::Server,
            "502 Bad Gateway",
        ),
        fault(
            "redirect",
            Script::status(307).header("Location", "http://other.test/v1"),
            0,
            ErrorKind::Server,
            "other.test",
        ),
        fault(
            "JSON at 200",
            Script::status(200).json(r#"{"error":{"message":"no"}}"#),
            0,
            ErrorKind::NotEventStream,
            "no",
        ),
        fault(
            "plain text with events",
            Script::status(200).body("text/plain", "data: {}\n\n"),
            0,
            ErrorKind::NotEventStream,
            "text/plain",
        ),
        fault(
            "a router's JSON in two packets",
            Script::status(200)
                .framing(Framing::Chunked)
                .body("text/event-stream", r#"{"message":"#)
                .pause(ms(50))
                .write(r#""late"}"#),
            0,
            ErrorKind::NotEventStream,
            "text/event-stream: late",
        ),
        fault(
            "a router's JSON as event stream",
            Script::status(200).body("text/event-stream", r#" {"message":"context"}"#),
            0,
            ErrorKind::NotEventStream,
            "context",
        ),
        fault(
            "error as first event",
            Script::events([r#"{"error":{"message":"bad id","code":400}}"#, "[DONE]"]),
            0,
            ErrorKind::Server,
            "bad id",
        ),
        fault(
            "error after a token",
            Script::events([a, r#"{"error":{"message":"engine died","code":500}}"#, "[DONE]"]),
            1,
            ErrorKind::Server,
            "engine died",
        ),
        fault(
            "an error field",
            Script::events([a]).write("error: {\"message\":\"old\"}\n\ndata: [DONE]\n\n"),
            1,
            ErrorKind::Server,
            "old",
        ),
        fault(
            "a raw line of JSON",
            Script::events([a]).write("{\"error\":\"raw\"}\n\n"),
            1,
            ErrorKind::Server,
            "raw",
        ),
        fault(
            "a raw line of JSON at the very end",
            Script::events([a]).write("{\"error\":\"last\"}"),
            1,
            ErrorKind::Server,
            "last",
        ),
        fault("no finish", Script::events([a]), 1, ErrorKind::Incomplete, "without a finish reason"),
        fault("nothing at all", Script::new(), 0, ErrorKind::Incomplete, "closed before"),
        fault(
            "an id that is none",
            Script::events([a, r#"{"choices":[{"index":0,"text":"b","token_ids":[-1]}]}"#]),
            1,
            ErrorKind::Protocol,
            "id",
        ),
        fault(
            "an index out of range",
            Script::events([a, r#"{"choices":[{"index":7,"text":"b","token_ids":[1]}]}"#]),
            1,
            ErrorKind::Protocol,
            "index",
        ),
        fault(
            "gzip",
            Script::status(200).header("Content-Encoding", "gzip").body("text/event-stream", "x"),
            0,
            ErrorKind::Protocol,
            "gzip",
        ),
        fault(
            "a huge event",
            Script::events([a, &"x".repeat(2000)]),
            1,
            ErrorKind::Limit(Limit::EventBytes),
            "max_event_bytes",
        ),
        fault(
            "a huge head",
            Script::raw(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(40_000))),
            0,
            ErrorKind::Limit(Limit::ResponseHeadBytes),
            "max_response_head_bytes",
        ),
        fault("no HTTP", Script::raw("SSH-2.0-x\r\n\r\n"), 0, ErrorKind::Protocol, "HTTP"),
        fault(
            "a bad chunk size",
            Script::raw(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            ),
            0,
            ErrorKind::Protocol,
            "HTTP",
        ),
        fault(
            "silence before the head",
            Script::new().hang(LONG),
            0,
            ErrorKind::Timeout(Timer::FirstToken),
            "first token",
        ),
        fault(
            "silence after the head",
            Script::events::<&str>([]).hang(LONG),
            0,
            ErrorKind::Timeout(Timer::FirstToken),
            "first token",
        ),
        fault(
            "comments only",
            Script::events::<&str>([]).repeat(": ping\n\n", 1000, ms(20)),
            0,
            ErrorKind::Timeout(Timer::FirstToken),
            "first token",
        ),
        fault(
            "silence after a token",
            Script::events([a]).hang(LONG),
            1,
            ErrorKind::Timeout(Timer::Chunk),
            "no bytes",
        ),
        fault(
            "a byte of framing now and then",
            Script::raw(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
                 {:x}\r\ndata: {a}\n\n\r\n",
                a.len() + 8
            ))
            .write_slowly("000000000000000000", 1, ms(100)),
            1,
            ErrorKind::Timeout(Timer::Chunk),
            "no bytes",
        ),
        fault(
            "comments after a token",
            Script::events([a]).repeat(": ping\n\n", 1000, ms(20)),
            1,
            ErrorKind::Timeout(Timer::Content),
            "no event",
        ),
        fault(
            "tokens without end",
            Script::events::<&str>([]).repeat(format!("data: {a}\n\n"), 1000, ms(100)),
            usize::MAX,
            ErrorKind::Timeout(Timer::Deadline),
            "not finished",
        ),
    ]
}

#[test]
fn every_fault_is_one_typed_error_after_the_tokens_that_came() {
    for fault in faults() {
        let server = MockServer::scripted([fault.script]).unwrap();
        let mut limits = Limits::default();
        limits.max_event_bytes = 1000;
        let timeouts = timeouts(|t| {
            t.first_token = Some(ms(300));
            t.chunk = Some(ms(300));
            t.content = Some(ms(600));
            t.deadline = Some(ms(1500));
        });
        let client = client(&server).timeouts(timeouts).limits(limits).build().unwrap();
        let (tokens, last, report) = run(&client);
        let name = fault.name;
        let Last::Error(error) = last else { panic!("{name}: {last:?} after {tokens:?}") };
        assert_eq!(error.kind(), fault.kind, "{name}: {error}");
        assert!(error.to_string().contains(fault.says), "{name}: {error}");
        if fault.tokens != usize::MAX {
            assert_eq!(tokens.len(), fault.tokens, "{name}");
        }
        assert!(tokens.iter().all(|token| *token == ("a".to_owned(), Some(1))), "{name}");
        assert_eq!(report.ending, Outcome::Failed, "{name}");
        assert_eq!(error.progress().unwrap().tokens, tokens.len() as u64, "{name}");
        assert_eq!(report.error.unwrap().kind(), error.kind(), "{name}");
        assert_eq!(server.requests().len(), 1, "{name}: sent again");
    }
}

#[test]
fn nobody_listening_and_no_such_host_are_told_apart() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (server, kind) in
        [(free.to_string(), ErrorKind::Refused), ("no-such-host.invalid".to_owned(), ErrorKind::Connect)]
    {
        let url = format!("http://{server}/v1");
        let client = ApiClient::builder(&url).retries(0).build().unwrap();
        let (tokens, last, _) = run(&client);
        let Last::Error(error) = last else { panic!("{url}: {last:?}") };
        assert_eq!((error.kind(), tokens.len(), error.is_connect()), (kind, 0, true), "{url}: {error}");
        assert!(error.message().contains(&server), "it says which: {error}");
    }
}

/// A listener whose queue is full: the system answers no further connect. The streams keep it so.
fn unanswered() -> (socket2::Socket, Vec<std::net::TcpStream>, std::net::SocketAddr) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, ms(100)) {
        queued.push(stream);
    }
    (listener, queued, address)
}

#[test]
fn the_timer_that_passes_is_named_while_there_is_no_connection_too() {
    let (_listener, _queued, address) = unanswered();
    let silent = MockServer::builder().on_accept(|_| OnAccept::Hang).scripted([Script::new()]).unwrap();
    for (place, url) in
        [("connect", format!("http://{address}")), ("handshake", silent.url().replace("http:", "https:"))]
    {
        for timer in [Timer::Connect, Timer::FirstToken, Timer::Deadline] {
            // Odd on purpose: a connect's timer is cut to milliseconds, the handshake's runs from a moment earlier.
            let limit = Some(Duration::from_micros(150_900));
            let timeouts = timeouts(|t| match timer {
                Timer::Connect => t.connect = limit,
                Timer::FirstToken => t.first_token = limit,
                _ => t.deadline = limit,
            });
            let (tokens, last, _) =
                run(&ApiClient::builder(&url).retries(0).timeouts(timeouts).build().unwrap());
            let Last::Error(error) = last else { panic!("{place}, {timer:?}: {last:?}") };
            assert_eq!((error.kind(), tokens.len()), (ErrorKind::Timeout(timer), 0), "{place}: {error}");
        }
    }
}

#[test]
fn a_cancel_in_a_connect_ends_the_stream_at_once_and_nothing_is_sent() {
    // On a machine that stalls the cancel may come before the connect, and then there is none: once more, later.
    let met = [100, 1_000, 5_000].into_iter().any(|begun| cancel_in_a_connect(ms(begun)));
    assert!(met, "no connect was begun when the cancel came");
}

/// Whether the cancel met a connect, which went through in the end.
fn cancel_in_a_connect(begun: Duration) -> bool {
    let (listener, queued, address) = unanswered();
    let client = ApiClient::builder(format!("http://{address}")).retries(0).build().unwrap();
    let (receiver, guard) = start(&client);
    thread::sleep(begun);
    guard.cancel();
    // Long before the connect's own timer, which is the default of 30 s.
    assert!(receiver.recv_timeout(ms(10_000)).is_err_and(|error| error.is_disconnected()));
    assert_eq!(guard.join().ending, Outcome::Cancelled);
    // Let the connect go through after all.
    for _ in 0..queued.len() {
        drop(listener.accept());
    }
    drop(queued);
    listener.set_nonblocking(true).unwrap();
    let gives_up = Instant::now() + ms(10_000);
    let mut late = loop {
        match listener.accept() {
            Ok((late, _)) => break late,
            Err(_) if Instant::now() < gives_up => thread::sleep(ms(10)),
            Err(_) => return false,
        }
    };
    late.set_nonblocking(false).unwrap();
    let mut sent = Vec::new();
    std::io::Read::read_to_end(&mut late, &mut sent).unwrap();
    assert!(sent.is_empty(), "{}", String::from_utf8_lossy(&sent));
    true
}

#[test]
fn no_timer_is_outlived_by_a_body_that_is_no_stream() {
    let hang = |status, kind, body: &str| {
        Script::status(status).framing(Framing::CloseDelimited).body(kind, body).hang(LONG)
    };
    let json = r#"{"error":{"message":"came before the hang"}}"#;
    for (name, script, kind) in [
        ("a status", hang(503, "application/json", json), ErrorKind::Server),
        ("a type", hang(200, "application/json", json), ErrorKind::NotEventStream),
        ("a first byte", hang(200, "text/event-stream", json), ErrorKind::NotEventStream),
    ] {
        for set in
            [|t: &mut Timeouts| t.deadline = Some(ms(300)), |t: &mut Timeouts| t.first_token = Some(ms(300))]
        {
            let server = MockServer::scripted([script.clone()]).unwrap();
            let client = client(&server).timeouts(timeouts(set)).build().unwrap();
            let (_, last, report) = run(&client);
            let Last::Error(error) = last else { panic!("{name}: {last:?}") };
            assert_eq!(error.kind(), kind, "{name}: {error}");
            assert!(error.to_string().contains("came before the hang"), "{name}: {error}");
            // An error's body alone may take 5 s.
            assert!(report.elapsed < ms(3000), "{name}: {:?}", report.elapsed);
        }
    }
}

#[test]
fn the_probe_takes_no_longer_than_it_says() {
    let head = Script::status(200).header("Content-Type", "application/json");
    let server = MockServer::scripted([head.repeat(" ", 1000, ms(100))]).unwrap();
    let client = client(&server).build().unwrap();
    let (done, answer) = mpsc::channel();
    thread::spawn(move || done.send(client.server()));
    // It says 5 s.
    let error = answer.recv_timeout(LONG).expect("the probe hangs").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout(Timer::Response), "{error}");
}

#[test]
fn a_proxy_that_says_no_is_a_failure_to_connect() {
    for answer in ["HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", ""] {
        let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", proxy.local_addr().unwrap());
        thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = proxy.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let client = ApiClient::builder("http://model.test/v1").retries(0).proxy(url).build().unwrap();
        let (_, last, _) = run(&client);
        let Last::Error(error) = last else { panic!("{answer:?}: {last:?}") };
        assert!(error.kind() == ErrorKind::Connect && error.is_connect(), "{answer:?}: {error:?}");
    }
}

#[test]
fn a_stream_cut_at_any_byte_gives_a_prefix_and_is_complete_only_with_its_finish() {
    for framing in [Framing::Chunked, Framing::ContentLength, Framing::CloseDelimited] {
        let script = Script::tokens(HELLO).framing(framing);
        let len = script.wire().len();
        for cut in [Cut::Fin, Cut::Reset] {
            let server = MockServer::scripted((0..len).map(|n| script.clone().cut_at(n, cut))).unwrap();
            let client = client(&server).build().unwrap();
            let mut complete = 0;
            for n in 0..len {
                let (tokens, last, report) = run(&client);
                let place = format!("{framing:?} {cut:?} at byte {n} of {len}");
                assert!(hello().starts_with(&tokens), "{place}: {tokens:?}");
                match last {
                    // The last token's chunk carries the finish reason.
                    Last::Done => {
                        complete += 1;
                        assert_eq!(tokens.len(), HELLO.len(), "{place}");
                        assert!(report.usage.is_some() || report.ids_exact == IdsExact::Unknown, "{place}");
                    }
                    Last::Error(error) => {
                        assert_eq!(error.kind(), ErrorKind::Incomplete, "{place}: {error}");
                        assert!(tokens.len() < HELLO.len(), "{place}: {error}");
                    }
                    Last::Nothing => panic!("{place}: a silent end"),
                }
            }
            assert!(complete > 50 && complete < len / 2, "{framing:?} {cut:?}: {complete} of {len}");
        }
    }
}

/// ureq forgets what it decoded in the call that meets the bad chunk.
#[test]
fn bad_framing_costs_nothing_that_came_before_it_however_it_was_cut() {
    let whole = Script::tokens(HELLO).wire();
    let good = whole.strip_suffix(b"0\r\n\r\n").unwrap();
    // The end of the second token's event, and so of its chunk.
    let second = good.windows(4).enumerate().filter(|(_, w)| w == b"\n\n\r\n").nth(1).unwrap().0 + 4;
    for (name, bytes, tokens) in [("after two tokens", &good[..second], 2), ("after the terminator", good, 4)]
    {
        for bad in ["zz\r\n", "-1\r\n", "5\r\nab", "fffffffffffffffffffff\r\n"] {
            for piece in [usize::MAX, 1, 7] {
                let script = Script::raw([bytes, bad.as_bytes()].concat()).slowly(piece, Duration::ZERO);
                let server = MockServer::scripted([script]).unwrap();
                let (received, last, _) = run(&client(&server).build().unwrap());
                let place = format!("{name}, {bad:?}, pieces of {piece}: {last:?}");
                assert_eq!(received, hello()[..tokens], "{place}");
                match last {
                    Last::Done => assert_eq!(tokens, 4, "{place}"),
                    Last::Error(e) => assert!(tokens == 2 && e.kind() != ErrorKind::Server, "{place}"),
                    Last::Nothing => panic!("{place}"),
                }
            }
        }
    }
}

#[test]
fn ids_that_are_not_all_there_are_said_to_be_so() {
    let text = |t: &str| json!({"choices":[{"index":0,"text":t}]}).to_string();
    let with_id =
        json!({"choices":[{"index":0,"text":"a","token_ids":[1],"finish_reason":"stop"}]}).to_string();
    let usage = json!({"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}).to_string();
    let no_ids = || Script::events([text("a"), text("b"), "[DONE]".into()]);
    for (name, script, exact) in [
        ("no ids", no_ids(), IdsExact::No(Inexact::NoIds)),
        (
            "one of two",
            Script::events([with_id.clone(), usage, "[DONE]".into()]),
            IdsExact::No(Inexact::CountDiffers { received: 1, counted: 2 }),
        ),
        ("not counted", Script::events([with_id, "[DONE]".into()]), IdsExact::Unknown),
    ] {
        let server = MockServer::scripted([script]).unwrap();
        let (_, last, report) = run(&client(&server).build().unwrap());
        assert!(matches!(last, Last::Done), "{name}: {last:?}");
        assert_eq!(report.ids_exact, exact, "{name}");
    }
    let server = MockServer::scripted([no_ids()]).unwrap();
    let (tokens, ..) = run(&client(&server).build().unwrap());
    assert_eq!(tokens, [("a".to_owned(), None), ("b".to_owned(), None)]);
}

#[test]
fn a_key_that_the_server_echoes_is_in_no_error() {
    let echo = r#"{"error":{"message":"Incorrect API key provided: sk-canary-1","code":"sk-canary-1"}}"#;
    let finish = r#"{"id":"sk-canary-1","choices":[{"index":0,"text":"a","finish_reason":"sk-canary-1"}]}"#;
    let server = MockServer::scripted([Script::events([finish])]).unwrap();
    let (_, _, report) = run(&client(&server).api_key("sk-canary-1").build().unwrap());
    assert!(!format!("{report:?}").contains("canary") && report.ending == Outcome::Complete, "{report:?}");
    for script in [Script::status(401).json(echo), Script::status(200).json(echo), Script::events([echo])] {
        let script = script.header("x-request-id", "sk-canary-1");
        let server = MockServer::scripted([script]).unwrap();
        let (_, last, report) = run(&client(&server).api_key("sk-canary-1").build().unwrap());
        let Last::Error(error) = last else { panic!("{last:?}") };
        assert!(error.to_string().contains("Incorrect API key provided: [redacted]"), "{error}");
        assert!(!format!("{error:?} {report:?}").contains("canary"), "{error:?}");
    }
}

#[test]
fn a_request_that_cannot_be_sent_is_refused_before_anything_is() {
    let server = MockServer::scripted([Script::tokens(HELLO)]).unwrap();
    let client = client(&server).build().unwrap();
    let requests = [
        CompletionRequest::ids([]),
        CompletionRequest::ids([1]).header("x-a", "b\r\nx-evil: 1"),
        CompletionRequest::ids([1]).header("authorization", "Bearer other"),
        CompletionRequest::ids([1]).extra("n", 2),
        CompletionRequest::ids([1]).sampling(SamplingParams::default().temperature(f64::NAN)),
    ];
    for request in requests {
        let shown = format!("{request:?}");
        let error = client.stream(request).err().unwrap_or_else(|| panic!("accepted: {shown}"));
        assert!(matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported), "{shown}: {error}");
    }
    assert_eq!(server.connections(), 0);
}

// ---- retries ----

/// A client whose own waits are short.
fn patient(server: &MockServer) -> ApiClient {
    retrying(server, ms(300))
}

fn retrying(server: &MockServer, first_token: Duration) -> ApiClient {
    let mut policy = RetryPolicy::default();
    policy.min_wait = ms(5);
    let timeouts = timeouts(|t| t.first_token = Some(first_token));
    ApiClient::builder(server.url()).retry(policy).timeouts(timeouts).build().unwrap()
}

/// A call is handed out when it is whole; until then its pieces show that the answer has begun.
#[test]
fn the_first_piece_of_a_call_stops_the_first_tokens_timer() {
    let piece = |delta: Value, finish: Option<&str>| {
        json!({"choices":[{"index":0,"delta":delta,"finish_reason":finish}]}).to_string()
    };
    let first = json!({"index":0,"id":"c","function":{"name":"f","arguments":"{"}});
    let rest = json!({"index":0,"function":{"arguments":"}"}});
    let script = Script::events([piece(json!({"tool_calls":[first]}), None)])
        .pause_until(ms(2000))
        .event(&piece(json!({"tool_calls":[rest]}), Some("tool_calls")))
        .event("[DONE]");
    let server = MockServer::scripted([script]).unwrap();
    let timeouts = timeouts(|t| t.first_token = Some(ms(1000)));
    let client = client(&server).endpoint(Endpoint::Chat).timeouts(timeouts).build().unwrap();
    let (receiver, guard) = client.stream(CompletionRequest::text("Hi")).unwrap();
    let items: Vec<_> = receiver.iter().collect();
    assert!(matches!(&items[..], [StreamToken::ToolCall(_), StreamToken::Done { .. }]), "{items:?}");
    assert!(guard.join().first_token.is_some());
}

#[test]
fn what_fails_before_the_first_token_is_sent_again_and_what_fails_after_it_is_not() {
    let busy = r#"{"error":{"message":"busy","code":503}}"#;
    let wrong = r#"{"error":{"message":"bad id","code":400}}"#;
    let a = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
    // (name, the first answer, requests that the server gets)
    let cases = [
        ("503", Script::status(503).json(busy), 2),
        ("429", Script::status(429).header("Retry-After", "0").json(busy), 2),
        ("429 with milliseconds", Script::status(429).header("retry-after-ms", "1").json(busy), 2),
        ("409", Script::status(409), 2),
        ("400 that asks for it", Script::status(400).header("x-should-retry", "true"), 2),
        ("503 that forbids it", Script::status(503).header("x-should-retry", "false"), 1),
        ("400", Script::status(400).json(wrong), 1),
        ("closed without a byte", Script::new(), 2),
        ("reset in the head", Script::tokens(HELLO).cut_at(20, Cut::Reset), 2),
        ("closed after the head", Script::events::<&str>([]).close(), 2),
        ("server's error as first event", Script::events([busy, "[DONE]"]), 2),
        ("request's error as first event", Script::events([wrong, "[DONE]"]), 1),
        ("no first token", Script::events::<&str>([]).hang(LONG), 2),
        ("broken after a token", Script::events([a]).close(), 1),
        ("server's error after a token", Script::events([a, busy]), 1),
    ];
    for (name, script, requests) in cases {
        let server = MockServer::scripted([script, Script::tokens(HELLO)]).unwrap();
        let (tokens, last, report) = run(&patient(&server));
        assert_eq!(server.requests().len(), requests, "{name}: {last:?} {report:?}");
        assert_eq!(report.retries as usize, requests - 1, "{name}");
        if requests == 2 {
            assert!(matches!(last, Last::Done), "{name}: {last:?}");
            assert_eq!((tokens, report.tokens, report.ids_exact), (hello(), 4, IdsExact::Yes), "{name}");
            let requests = server.requests();
            assert_eq!(requests[0].body, requests[1].body, "{name}");
        } else {
            assert!(matches!(last, Last::Error(_)), "{name}: {last:?}");
        }
    }
}

#[test]
fn the_servers_wait_is_kept_and_the_deadline_does_not_let_it_begin() {
    let wait = |ms: &str| Script::status(503).header("retry-after-ms", ms);
    let server = MockServer::scripted([wait("150"), Script::tokens(HELLO)]).unwrap();
    let (_, last, report) = run(&patient(&server));
    assert!(matches!(last, Last::Done), "{last:?}");
    assert!(report.elapsed >= ms(150), "{:?}", report.elapsed);

    let server = MockServer::scripted([wait("20000"), Script::tokens(HELLO)]).unwrap();
    let timeouts = timeouts(|t| t.deadline = Some(ms(10_000)));
    let client = ApiClient::builder(server.url()).timeouts(timeouts).build().unwrap();
    let (_, last, report) = run(&client);
    assert!(matches!(&last, Last::Error(e) if e.status() == Some(503)), "{last:?}");
    assert!(report.elapsed < ms(9_000), "it waited for the deadline");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_cancel_ends_the_wait_before_a_retry_and_nothing_is_sent() {
    let server = MockServer::scripted([Script::status(503).header("Retry-After", "25")]).unwrap();
    let (receiver, guard) = start(&retrying(&server, LONG));
    assert!(server.wait_for_requests(1, LONG));
    thread::sleep(ms(50));
    let began = Instant::now();
    guard.cancel();
    assert!(matches!(collect(&receiver), (_, Last::Nothing)));
    assert_eq!(guard.join().ending, Outcome::Cancelled);
    assert!(began.elapsed() < ms(10_000), "it waited for the server's wait");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_total_outage_gets_at_most_a_fifth_more_requests() {
    let server = MockServer::scripted([Script::status(503)]).unwrap();
    let client = retrying(&server, LONG);
    let streams: Vec<_> = (0..100).map(|_| start(&client)).collect();
    for (receiver, _guard) in &streams {
        assert!(matches!(collect(receiver), (_, Last::Error(e)) if e.status() == Some(503)));
    }
    let sent = server.requests().len();
    assert!((101..=120).contains(&sent), "{sent} requests for 100 streams");
}

// ---- guard ----

/// A server that sends one token and then waits.
fn stalled() -> MockServer {
    MockServer::scripted([
        Script::events([r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#]).hang(LONG)
    ])
    .unwrap()
}

#[test]
fn cancel_ends_the_stream_without_a_word_and_reaches_the_server() {
    for how in ["cancel", "drop", "canceller", "drop the receiver"] {
        let server = stalled();
        let client = client(&server).build().unwrap();
        let (receiver, guard) = start(&client);
        // The token is in the channel, and the thread is blocked in a read.
        while receiver.is_empty() {
            thread::sleep(ms(1));
        }
        let (mut guard, mut receiver) = (Some(guard), Some(receiver));
        match how {
            "cancel" => guard.as_ref().unwrap().cancel(),
            "drop" => drop(guard.take()),
            "canceller" => {
                let canceller = guard.as_ref().unwrap().canceller();
                thread::spawn(move || canceller.cancel()).join().unwrap();
            }
            _ => {
                drop(receiver.take());
                // The thread finds out with the next token, or its silence limit: a guard is there to be quicker.
                drop(guard.take());
            }
        }
        if let Some(receiver) = &receiver {
            let (tokens, last) = collect(receiver);
            assert_eq!(tokens, [("a".to_owned(), Some(1))], "{how}: what was received stays readable");
            assert!(matches!(last, Last::Nothing), "{how}: {last:?}");
        }
        assert!(server.wait_for_disconnects(1, LONG), "{how}: the server saw nothing");
        if let Some(guard) = guard {
            let report = guard.join();
            assert_eq!((report.ending, report.tokens), (Outcome::Cancelled, 1), "{how}");
            assert!(report.error.is_none(), "{how}");
        }
    }
}

#[test]
fn cancel_works_while_nothing_has_come_back_yet() {
    for phase in ["connection accepted, then silence", "request read, then silence", "TLS handshake"] {
        let builder = MockServer::builder();
        let server = match phase {
            "request read, then silence" => builder.scripted([Script::new().hang(LONG)]),
            _ => builder.on_accept(|_| OnAccept::Hang).scripted([Script::new()]),
        }
        .unwrap();
        let url =
            if phase == "TLS handshake" { server.url().replace("http:", "https:") } else { server.url() };
        let client = ApiClient::builder(url).retries(0).build().unwrap();
        let (receiver, guard) = start(&client);
        let began = Instant::now();
        while server.connections() == 0 {
            assert!(began.elapsed() < LONG, "{phase}: no connection");
            thread::sleep(ms(1));
        }
        thread::sleep(ms(20));
        let before = Instant::now();
        guard.cancel();
        assert!(matches!(collect(&receiver), (tokens, Last::Nothing) if tokens.is_empty()), "{phase}");
        assert_eq!(guard.join().ending, Outcome::Cancelled, "{phase}");
        assert!(before.elapsed() < ms(5000), "{phase}: it waited for a timer");
    }
}

#[test]
fn a_joining_guard_waits_and_loses_nothing_though_nobody_reads() {
    let many = 5_000;
    let server = MockServer::scripted([Script::tokens((0..many).map(|n| (n, "some text")))]).unwrap();
    let client = client(&server).build().unwrap();
    // Both ways of joining, with a channel that holds a fifth of it.
    let (receiver, guard) = start(&client);
    let report = guard.join();
    assert_eq!((report.ending, report.tokens), (Outcome::Complete, u64::from(many)));
    let (tokens, last) = collect(&receiver);
    assert!(matches!(last, Last::Done));
    assert!(tokens.iter().enumerate().all(|(n, (_, id))| *id == Some(n as TokenId)));

    let (receiver, guard) = start(&client);
    drop(guard.on_drop(OnDrop::Join));
    assert_eq!(receiver.len(), many as usize + 1, "the drop has waited");
    assert_eq!(collect(&receiver).0.len(), many as usize);
}

#[test]
fn a_slow_consumer_stops_the_socket_and_no_timer_but_the_deadline_runs() {
    let events = |n: usize| vec![r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#; n];
    let gate = Gate::new();
    let server = MockServer::scripted([Script::events(events(50)).wait_for(&gate).event("[DONE]")]).unwrap();
    let mut limits = Limits::default();
    limits.max_channel_tokens = 10;
    let timeouts = timeouts(|t| {
        t.chunk = Some(ms(200));
        t.content = Some(ms(200));
    });
    let client = client(&server).limits(limits).timeouts(timeouts).build().unwrap();
    let (receiver, guard) = start(&client);
    thread::sleep(ms(600));
    assert_eq!(receiver.len(), 10, "the channel holds what it may hold");
    gate.open();
    let (tokens, last) = collect(&receiver);
    assert!(matches!(last, Last::Done), "{last:?}");
    assert_eq!(tokens.len(), 50);
    assert!(guard.join().waited_for_consumer >= ms(300));

    // The deadline runs all the same, and what was received is delivered.
    let server = MockServer::scripted([Script::events(events(50)).hang(LONG)]).unwrap();
    let timeouts = self::timeouts(|t| t.deadline = Some(ms(300)));
    let client = self::client(&server).limits(limits).timeouts(timeouts).build().unwrap();
    let (receiver, guard) = start(&client);
    let report = guard.report();
    assert!(report.is_none());
    thread::sleep(ms(800));
    let (tokens, last) = collect(&receiver);
    assert!(matches!(&last, Last::Error(e) if e.kind() == ErrorKind::Timeout(Timer::Deadline)), "{last:?}");
    assert!(tokens.len() >= 10);
    assert_eq!(guard.join().tokens, tokens.len() as u64);

    // And it passes while nobody takes anything.
    let (_receiver, guard) = start(&client);
    let began = Instant::now();
    while guard.report().is_none() {
        assert!(began.elapsed() < LONG, "the deadline waits for the consumer");
        thread::sleep(ms(5));
    }
}

#[test]
fn a_cancel_beside_the_end_gives_one_ending_and_the_report_the_same() {
    let server = MockServer::scripted([Script::tokens(HELLO)]).unwrap();
    let client = client(&server).build().unwrap();
    let mut endings = [0, 0];
    for n in 0..400 {
        let (receiver, guard) = start(&client);
        let began = Instant::now();
        while began.elapsed() < Duration::from_micros(n % 100 * 10) {
            std::hint::spin_loop();
        }
        guard.cancel();
        let (tokens, last) = collect(&receiver);
        let report = guard.join();
        assert!(hello().starts_with(&tokens));
        match last {
            Last::Done => assert_eq!((report.ending, tokens.len()), (Outcome::Complete, HELLO.len())),
            Last::Nothing => assert_eq!(report.ending, Outcome::Cancelled),
            Last::Error(error) => panic!("{error}"),
        }
        endings[usize::from(report.ending == Outcome::Complete)] += 1;
    }
    println!("cancelled, complete: {endings:?}");
}

#[test]
fn a_cancel_after_the_end_spares_the_connection() {
    // The framing's end comes a moment after the content's.
    let gate = Gate::new();
    let server = MockServer::scripted([Script::tokens(HELLO).wait_for(&gate)]).unwrap();
    let client = client(&server).timeouts(timeouts(|t| t.drain = LONG)).build().unwrap();
    for n in 0..2 {
        let (receiver, guard) = start(&client);
        assert!(matches!(collect(&receiver), (_, Last::Done)));
        guard.cancel();
        let report = guard.join();
        assert_eq!((report.ending, report.connection_reused), (Outcome::Complete, n > 0));
        gate.open();
        thread::sleep(ms(100));
    }
}

#[test]
fn the_drain_of_a_connection_is_bounded_in_time_and_in_bytes() {
    let (short, long) = (ms(200), LONG * 2);
    let good = || Script::tokens(HELLO);
    // (what follows the end, the limit, whether the connection is used again)
    let cases = [
        ("nothing", good(), short, true),
        ("some bytes", good().write(vec![b'x'; 4000]), short, true),
        ("more bytes than are taken", good().write(vec![b'x'; 40_000]), long, false),
        ("bytes without end", good().repeat("x", u64::MAX, Duration::ZERO), long, false),
        ("silence", good().hang(LONG), short, false),
        ("nothing, and no time for it", good().pause(ms(20)), Duration::ZERO, false),
    ];
    for (name, script, limit, reused) in cases {
        let server = MockServer::scripted([script, Script::tokens(HELLO)]).unwrap();
        let mut limits = Limits::default();
        // With one thread the second stream begins after the first one's drain.
        limits.max_streams = 1;
        let set = timeouts(|t| t.drain = limit);
        let client = client(&server).limits(limits).timeouts(set).build().unwrap();
        let began = Instant::now();
        for n in 0..2 {
            let (tokens, last, report) = run(&client);
            assert!(matches!(last, Last::Done), "{name}: {last:?}");
            assert_eq!((tokens, report.connection_reused), (hello(), reused && n > 0), "{name}");
        }
        assert!(began.elapsed() < LONG, "{name}: waits for what never ends");
    }
}

#[test]
fn so_many_idle_connections_are_kept() {
    for (kept, streams) in [(0, 1), (2, 6), (6, 6)] {
        let gate = Gate::new();
        let server =
            MockServer::scripted([Script::events::<&str>([]).wait_for(&gate).event("[DONE]")]).unwrap();
        let mut limits = Limits::default();
        limits.max_idle_connections = kept;
        // Idle ones are closed for their number, not for a drain that was too short.
        let set = timeouts(|t| t.drain = LONG);
        let client = client(&server).limits(limits).timeouts(set).build().unwrap();
        let running: Vec<_> = (0..streams).map(|_| start(&client)).collect();
        assert!(server.wait_for_requests(streams, LONG));
        gate.open();
        for (receiver, _guard) in &running {
            assert!(matches!(collect(receiver), (_, Last::Done)));
        }
        assert!(server.wait_for_open_connections(kept, LONG), "{kept} of {streams}");
        assert_eq!(server.connections(), streams);
        if kept == streams {
            // And no fewer.
            thread::sleep(ms(50));
            assert_eq!(server.open_connections(), kept);
        }
        assert_eq!(run(&client).2.connection_reused, kept > 0, "{kept} of {streams}");
    }
}

#[test]
fn the_servers_name_for_the_request_is_told_and_its_header_goes_first() {
    let event =
        r#"{"id":"cmpl-body","choices":[{"index":0,"text":"a","token_ids":[1],"finish_reason":"stop"}]}"#;
    let error = r#"{"error":{"message":"no"}}"#;
    for (script, id) in [
        (Script::events([event, "[DONE]"]), "cmpl-body"),
        (Script::events([event, "[DONE]"]).header("X-Request-Id", "head"), "head"),
        (Script::events([error]).header("X-Request-Id", "head"), "head"),
        (Script::status(500).header("X-Request-Id", "head").json(error), "head"),
    ] {
        let server = MockServer::scripted([script]).unwrap();
        let (_, last, report) = run(&client(&server).build().unwrap());
        assert_eq!(report.request_id.as_deref(), Some(id));
        if let Last::Error(error) = last {
            assert_eq!(error.request_id(), Some(id));
        }
    }
}

#[test]
fn what_the_caller_says_wins_over_what_is_learned_and_a_requests_header_over_the_clients() {
    let server = MockServer::scripted([Script::tokens(HELLO), Script::status(404).json("{}")]).unwrap();
    let told =
        client(&server).server(tokenwire::ServerKind::LlamaCpp).header("x-a", "client's").build().unwrap();
    let request = CompletionRequest::ids([1]).header("x-a", "own");
    let (receiver, _guard) = told.stream(request).unwrap();
    assert!(matches!(collect(&receiver), (_, Last::Done)));
    assert_eq!(told.server().unwrap(), Some(tokenwire::ServerKind::LlamaCpp));
    let sent = server.requests().remove(0).headers;
    let values: Vec<_> =
        sent.iter().filter(|(name, _)| name == "x-a").map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["own"]);
}

#[test]
fn a_reused_connection_that_breaks_in_its_answer_sends_nothing_again() {
    let broken = Script::raw("HTTP/1.1 200 OK\r\ncontent-ty");
    let server = MockServer::scripted([Script::tokens(HELLO), broken, Script::tokens(HELLO)]).unwrap();
    let client = client(&server).build().unwrap();
    assert!(matches!(run(&client).1, Last::Done));
    thread::sleep(ms(60));
    let (_, last, _) = run(&client);
    assert!(matches!(&last, Last::Error(e) if e.kind() == ErrorKind::Incomplete), "{last:?}");
    assert_eq!((server.requests().len(), server.connections()), (2, 1));
}

#[test]
fn a_timer_on_a_reused_connection_sends_nothing_again() {
    let server = MockServer::scripted([Script::tokens(HELLO), Script::new().hang(LONG)]).unwrap();
    let client = client(&server).timeouts(timeouts(|t| t.first_token = Some(ms(300)))).build().unwrap();
    assert!(matches!(run(&client).1, Last::Done));
    thread::sleep(ms(60));
    let (_, last, _) = run(&client);
    assert!(matches!(&last, Last::Error(e) if e.kind() == ErrorKind::Timeout(Timer::FirstToken)), "{last:?}");
    assert_eq!((server.requests().len(), server.connections()), (2, 1));
}

#[test]
fn over_the_bound_a_stream_waits_its_turn_or_fails_and_can_be_cancelled_unsent() {
    let gate = Gate::new();
    let waiting = Script::events::<&str>([]).wait_for(&gate).event("[DONE]");
    let server = MockServer::scripted([waiting]).unwrap();
    let mut limits = Limits::default();
    limits.max_streams = 1;
    let client = client(&server).limits(limits).build().unwrap();
    let (first, _first_guard) = start(&client);
    let (second, second_guard) = start(&client);
    let (third, _third_guard) = start(&client);
    assert!(server.wait_for_requests(1, LONG));
    second_guard.cancel();
    assert!(matches!(collect(&second), (_, Last::Nothing)));
    assert_eq!(second_guard.join().ending, Outcome::Cancelled);
    gate.open();
    assert!(matches!(collect(&first), (_, Last::Done)));
    assert!(matches!(collect(&third), (_, Last::Done)));
    assert_eq!(server.requests().len(), 2, "the cancelled one was never sent");

    let server = stalled();
    let client = self::client(&server).limits(limits).when_full(WhenFull::Fail).build().unwrap();
    let (_receiver, _guard) = start(&client);
    let error = client.stream_completion(&[1], SamplingParams::default(), None).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Limit(Limit::Streams));

    // A stream whose end was seen does not count, though its thread still drains the connection or is on its way back.
    let server = MockServer::scripted([Script::tokens(HELLO).pause(ms(30))]).unwrap();
    let client = self::client(&server).limits(limits).when_full(WhenFull::Fail).build().unwrap();
    for n in 0..20 {
        let (receiver, guard) = start(&client);
        if n % 2 == 0 {
            assert!(matches!(collect(&receiver), (_, Last::Done)));
        } else {
            guard.cancel();
            guard.join();
        }
    }
}

#[test]
fn a_stream_that_waits_for_its_turn_ends_with_its_timers() {
    let short = ms(250);
    for (name, deadline, first_token, ends) in [
        ("deadline", Some(short), None, Timer::Deadline),
        ("first token", None, Some(short), Timer::FirstToken),
        ("both", Some(short), Some(short * 2), Timer::Deadline),
        ("both, the other way round", Some(LONG), Some(short), Timer::FirstToken),
    ] {
        // The one thread stays with its connection's last bytes, which never come.
        let server = MockServer::scripted([Script::tokens(HELLO).hang(LONG)]).unwrap();
        let mut limits = Limits::default();
        limits.max_streams = 1;
        let set = timeouts(|t| (t.deadline, t.first_token, t.drain) = (deadline, first_token, LONG));
        let client = client(&server).limits(limits).timeouts(set).build().unwrap();
        assert!(matches!(run(&client).1, Last::Done), "{name}");
        let waiting: Vec<_> = (0..3).map(|_| start(&client)).collect();
        for (receiver, guard) in waiting {
            let (tokens, last) = collect(&receiver);
            let Last::Error(error) = last else { panic!("{name}: {last:?}") };
            assert_eq!((error.kind(), tokens.len()), (ErrorKind::Timeout(ends), 0), "{name}");
            let report = guard.join();
            assert_eq!(report.ending, Outcome::Failed, "{name}");
            assert!(report.elapsed >= short, "{name}: {:?}", report.elapsed);
        }
        assert_eq!(server.requests().len(), 1, "{name}: they had their turn");
    }
}

#[test]
fn many_streams_can_be_selected_over() {
    let gate = Gate::new();
    let slow = Script::events::<&str>([]).wait_for(&gate).event("[DONE]");
    let server = MockServer::start(move |request| {
        if request.json()["prompt"][0] == 1 { slow.clone() } else { Script::tokens(HELLO) }
    })
    .unwrap();
    let client = client(&server).build().unwrap();
    let open = |id| client.stream_completion(&[id], SamplingParams::default(), None).unwrap();
    let ((slow, _a), (quick, _b)) = (open(1), open(2));
    let got = crossbeam_channel::select! {
        recv(slow) -> _ => "slow",
        recv(quick) -> _ => "quick",
        default(LONG) => "nothing",
    };
    assert_eq!(got, "quick");
    gate.open();
    assert!(matches!(collect(&slow), (_, Last::Done)));
}

// ---- TLS ----

#[test]
fn https_needs_a_trusted_authority_and_then_works_and_cancels_like_http() {
    let (authority, identity) = certificates();
    let hang = Script::tokens(HELLO[..1].iter().copied()).event("{}");
    let server = MockServer::start_tls(
        move |request: &tokenwire::recording::Request| match request.json()["prompt"][0].as_u64() {
            Some(2) => {
                let first = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
                Script::events([first]).hang(LONG)
            }
            Some(3) => hang.clone().cut_at(300, Cut::Fin),
            _ => Script::tokens(HELLO),
        },
        identity,
    )
    .unwrap();
    let (_, last, _) = run(&client(&server).build().unwrap());
    assert!(matches!(&last, Last::Error(e) if e.kind() == ErrorKind::Connect), "{last:?}");

    let client = client(&server).ca_pem(authority).build().unwrap();
    let (tokens, last, _) = run(&client);
    assert!(matches!(last, Last::Done), "{last:?}");
    assert_eq!(tokens, hello());
    thread::sleep(ms(60));

    let (receiver, guard) = client.stream_completion(&[2], SamplingParams::default(), None).unwrap();
    while receiver.is_empty() {
        thread::sleep(ms(1));
    }
    guard.cancel();
    assert!(matches!(collect(&receiver), (_, Last::Nothing)));
    let report = guard.join();
    assert_eq!(report.ending, Outcome::Cancelled);
    assert!(report.connection_reused);

    let (receiver, _guard) = client.stream_completion(&[3], SamplingParams::default(), None).unwrap();
    assert!(matches!(collect(&receiver), (_, Last::Error(e)) if e.kind() == ErrorKind::Incomplete));
}

// ---- by themselves: HttpClient and SseReader ----

#[test]
fn the_http_client_gives_status_headers_text_and_pieces() {
    let server = MockServer::scripted([
        Script::status(418).header("X-Tea", "pot").json(r#"{"a":"ä"}"#),
        Script::events(["1", "{\"b\":2}", "[DONE]", "3"]),
        Script::events(["1", "{\"b\":2}"]).write("data: [DONE]"),
        Script::events(["1", "{\"b\":2}"]),
    ])
    .unwrap();
    let http = tokenwire::HttpClient::new().unwrap();
    let url = format!("{}/x", server.url());
    let response = http.send_json("PUT", &url, &[("x-y", "z")], &json!({"q": 1})).unwrap();
    assert_eq!((response.status(), response.header("x-tea")), (418, Some("pot")));
    assert_eq!(response.text().unwrap(), r#"{"a":"ä"}"#);
    let request = server.requests().remove(0);
    assert_eq!(
        (request.method.as_str(), request.header("x-y"), request.json()),
        ("PUT", Some("z"), json!({"q": 1}))
    );

    for done in [true, true, false] {
        let mut response = http.get(&url, &[]).unwrap();
        let mut events = tokenwire::SseReader::new(LONG);
        let mut values = Vec::<Value>::new();
        while let Some(value) = events.next_event(&mut response).unwrap() {
            values.push(value);
        }
        assert_eq!(values, [json!(1), json!({"b": 2})]);
        assert_eq!((events.is_done(), events.chunks_received() > 0), (done, true));
        assert_eq!((events.sse_parse_errors(), events.sse_lines_parsed() >= 4), (0, true));
    }
}

#[test]
fn the_sse_reader_skips_what_is_not_json_and_stops_at_silence() {
    let server =
        MockServer::scripted([Script::events(["{\"a\":1}", "oops", "{\"b\":2}"]).hang(LONG)]).unwrap();
    let http = tokenwire::HttpClient::new().unwrap();
    let mut response = http.get(&server.url(), &[]).unwrap();
    let mut events = tokenwire::SseReader::new(ms(200));
    assert_eq!(events.next_event(&mut response).unwrap(), Some(json!({"a": 1})));
    assert_eq!(events.next_event(&mut response).unwrap(), Some(json!({"b": 2})));
    let error = events.next_event(&mut response).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout(Timer::Chunk));
    assert_eq!((events.sse_parse_errors(), events.is_done()), (1, false));
}

#[test]
fn guards_and_receivers_can_cross_threads() {
    let (done, finished) = mpsc::channel();
    let server = MockServer::scripted([Script::tokens(HELLO)]).unwrap();
    let client = client(&server).build().unwrap();
    let (receiver, guard) = start(&client);
    thread::spawn(move || {
        let tokens = collect(&receiver).0;
        done.send((tokens, guard.join().ending)).unwrap();
    });
    assert_eq!(finished.recv_timeout(LONG).unwrap(), (hello(), Outcome::Complete));
}

#[test]
fn ids_that_a_proxy_drops_are_told_from_ids_that_no_server_gave() {
    let text = r#"{"choices":[{"index":0,"text":"Hi","finish_reason":"stop"}]}"#;
    for (server_is, extra, why) in [
        (Some(tokenwire::ServerKind::Vllm), None, Inexact::Dropped),
        (Some(tokenwire::ServerKind::Ollama), None, Inexact::NoIds),
        (None, None, Inexact::NoIds),
        // Switched off by the caller.
        (Some(tokenwire::ServerKind::Vllm), Some("return_token_ids"), Inexact::NoIds),
    ] {
        let server = MockServer::scripted([Script::events([text, "[DONE]"])]).unwrap();
        let mut builder = client(&server);
        if let Some(server) = server_is.clone() {
            builder = builder.server(server);
        }
        let mut request = CompletionRequest::text("Hello");
        if let Some(key) = extra {
            request = request.extra(key, false);
        }
        let (tokens, guard) = builder.build().unwrap().stream(request).unwrap();
        let report = guard.join();
        drop(tokens);
        assert_eq!(report.ids_exact, IdsExact::No(why), "{server_is:?} {extra:?}");
    }
}

#[test]
fn each_attempt_has_its_own_request_id_and_the_headers_that_routers_look_at() {
    let busy = || Script::status(503).header("retry-after-ms", "1");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let server =
        MockServer::scripted([busy(), busy(), Script::tokens(HELLO), Script::tokens(HELLO)]).unwrap();
    let client = client(&server)
        .retries(2)
        .session_headers(["x-session-affinity", "x-user-id"])
        .priority_header("x-priority")
        .request_ids("test");
    let client = client.build().unwrap();
    let request = || CompletionRequest::ids([1]).session("s-1").traceparent(trace).priority(-3);
    let (_tokens, guard) = client.stream(request().request_id("mine")).unwrap();
    assert_eq!(guard.join().ending, Outcome::Complete);
    let (_tokens, guard) = client.stream(request()).unwrap();
    assert_eq!(guard.join().ending, Outcome::Complete);
    let seen = server.requests();
    let header = |n: usize, name: &str| seen[n].header(name).map(str::to_owned);
    let ids: Vec<_> = (0..4).map(|n| header(n, "x-request-id").unwrap()).collect();
    assert_eq!(ids[..3], ["mine", "mine-1", "mine-2"]);
    assert!(ids[3].starts_with("test-") && ids[3].ends_with("-0"), "{ids:?}");
    for (n, request) in seen.iter().enumerate() {
        for (name, value) in [
            ("x-session-affinity", "s-1"),
            ("x-user-id", "s-1"),
            ("x-priority", "-3"),
            ("traceparent", trace),
        ] {
            assert_eq!(header(n, name).as_deref(), Some(value), "{name}");
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert!(body.get("priority").is_none(), "{body}");
    }
}
