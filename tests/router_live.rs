//! Tests with scripted workers behind a real vllm-router. They are ignored by default and run with
//! `--include-ignored` when `TOKENWIRE_ROUTER` is the path of its program. `.ci/run` installs it.

#![cfg(feature = "testing")]

mod common;

use std::net::TcpStream;
use std::time::{Duration, Instant};
use std::{fs, thread};

use common::router::{Router, completions, worker};
use common::streams::{LONG, Last, Token, collect};
use common::{data, fixture};
use crossbeam_channel::Receiver;
use serde_json::{Value, json};
use tokenwire::recording::BodyState;
use tokenwire::testing::{FakeModel, Framing, Gate, MockServer, Script};
use tokenwire::{
    ApiClient, ApiClientBuilder, CompletionRequest, Endpoint, ErrorKind, IdsExact, Outcome, RetryPolicy,
    SamplingParams, StreamGuard, StreamReport, StreamToken, Timeouts, TokenId,
};

const HELLO: [(TokenId, &str); 4] = [(9707, "Hello"), (1879, " wörld"), (0, ""), (13, ".")];
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// The number of times that the router sends one request to its workers by default.
const ROUTER_ATTEMPTS: usize = 5;

// ---- helpers ----

fn hello() -> Vec<Token> {
    HELLO.iter().map(|(id, text)| ((*text).to_owned(), Some(*id))).collect()
}

/// Returns a client without retries, so that a failure is visible at once.
fn client(url: &str) -> ApiClientBuilder {
    ApiClient::builder(url).model("m").retries(0)
}

fn run(client: &ApiClient, request: CompletionRequest) -> (Vec<Token>, Last, StreamReport) {
    let (receiver, guard) = client.stream(request).unwrap();
    let (tokens, last) = collect(&receiver);
    (tokens, last, guard.join())
}

fn ids(prompt: &[TokenId]) -> CompletionRequest {
    CompletionRequest::ids(prompt)
}

/// Returns the events of a script, each with a comment before it.
fn with_comments(script: Script) -> Script {
    let wire = String::from_utf8(script.framing(Framing::CloseDelimited).wire()).unwrap();
    let (_, body) = wire.split_once("\r\n\r\n").unwrap();
    let events = body.split_inclusive("\n\n");
    events.fold(Script::events([""; 0]), |script, event| script.write(format!(": keep-alive\n\n{event}")))
}

// ---- the good case ----

#[test]
#[ignore = "needs vllm-router: TOKENWIRE_ROUTER"]
fn ids_usage_comments_and_headers_pass_through_the_router() {
    let worker = worker(|request| {
        let head = with_comments(Script::tokens(HELLO));
        let id = request.header("x-request-id").unwrap_or_default();
        head.header("x-worker", "w1").header("x-worker-saw", id)
    });
    let router = Router::start(&[&worker], &[]);
    let client = client(&router.url)
        .api_key("sk-canary-of-the-router")
        .header("x-own", "of the client")
        .session_headers(["x-session-affinity", "x-session-id"])
        .priority_header("x-priority")
        .build()
        .unwrap();
    let request = ids(&[1, 2, 3]).session("s-1").traceparent(TRACE).priority(-3).record();
    let (tokens, last, report) = run(&client, request.request_id("mine").header("x-call", "of the call"));
    assert_eq!(tokens, hello());
    assert!(matches!(last, Last::Done), "{last:?}");
    assert_eq!((report.ending, report.ids_exact), (Outcome::Complete, IdsExact::Yes));
    assert_eq!((report.usage.unwrap().completion_tokens, report.comments), (4, 6));
    assert_eq!(report.request_id.as_deref(), Some("mine"));

    let there = completions(&worker).pop().unwrap();
    for (name, value) in [
        ("authorization", "Bearer sk-canary-of-the-router"),
        ("x-own", "of the client"),
        ("x-session-affinity", "s-1"),
        ("x-session-id", "s-1"),
        ("x-priority", "-3"),
        ("traceparent", TRACE),
        ("x-request-id", "mine"),
        ("x-call", "of the call"),
        ("accept", "text/event-stream"),
    ] {
        assert_eq!(there.header(name), Some(value), "{name}");
    }
    let back = report.recording.unwrap().response_headers();
    for (name, value) in [("x-worker", "w1"), ("x-worker-saw", "mine"), ("x-request-id", "mine")] {
        let found = back.iter().find(|(known, _)| known == name);
        assert_eq!(found.map(|(_, value)| value.as_str()), Some(value), "{name}: {back:?}");
    }
}

/// The router parses the body and writes its own version of it.
#[test]
#[ignore = "needs vllm-router: TOKENWIRE_ROUTER"]
fn every_field_of_a_request_arrives_unchanged() {
    let worker = worker(|_| Script::tokens(HELLO));
    let router = Router::start(&[&worker], &[]);
    let sampling = SamplingParams::default()
        .max_tokens(9)
        .min_tokens(1)
        .temperature(0.1)
        .top_p(0.95)
        .min_p(0.05)
        .top_k(40)
        .presence_penalty(0.3)
        .frequency_penalty(-0.7)
        .repetition_penalty(1.1)
        .seed(i64::MAX - 1)
        .stop(vec!["\n\n".to_owned()])
        .stop_token_ids(vec![2, 151_645])
        .ignore_eos(true)
        .logit_bias(vec![(7, -99.5)]);
    let request = |prompt: CompletionRequest| {
        let request = prompt.sampling(sampling.clone()).priority(-3).cache_salt("salt");
        let request = request.structured_output(json!({"regex": "a+"})).allow_ignored_fields();
        request.extra("vllm_xargs", json!({"force_ids": [1, 2]})).extra("known_to_nobody", 0.1).record()
    };
    for (wire, prompt) in [
        (Endpoint::OpenAi, ids(&[1, 2, 151_645])),
        (Endpoint::OpenAi, CompletionRequest::text("Hello")),
        (Endpoint::Chat, CompletionRequest::text("Hello")),
        (Endpoint::VllmGenerate, ids(&[1, 2, 151_645])),
    ] {
        let client = client(&router.url).endpoint(wire).build().unwrap();
        let (_, _, report) = run(&client, request(prompt));
        let recording = report.recording.unwrap();
        let sent: Value = serde_json::from_slice(recording.request_body()).unwrap();
        let there = completions(&worker).pop().unwrap();
        assert_eq!(there.path, recording.request().path);
        let mut there = there.json();
        for (name, value) in sent.as_object().unwrap() {
            assert_eq!(there.as_object_mut().unwrap().remove(name).as_ref(), Some(value), "{wire}: {name}");
        }
        println!("{wire}: the router adds {there}");
    }
}

#[test]
#[ignore = "needs vllm-router: TOKENWIRE_ROUTER"]
fn a_session_stays_on_one_worker() {
    let workers = [(); 2].map(|()| worker(|_| Script::tokens(HELLO)));
    let policy = ["--policy", "consistent_hash"];
    let router = Router::start(&[&workers[0], &workers[1]], &policy);
    let client = client(&router.url).session_headers(["x-session-id"]).build().unwrap();
    let mut chosen = [0; 2];
    for session in 0..32 {
        let counts = || workers.each_ref().map(|worker| completions(worker).len());
        let before = counts();
        for turn in 0..3 {
            // Each request has another prompt, so only the header can select the worker.
            let (tokens, ..) = run(&client, ids(&[session, turn]).session(format!("s-{session}")));
            assert_eq!(tokens, hello());
        }
        let after = counts();
        let took = [after[0] - before[0], after[1] - before[1]];
        assert!(took.contains(&3), "session {session} is on several workers: {took:?}");
        chosen[usize::from(took[1] == 3)] += 1;
    }
    println!("sessions on each worker: {chosen:?}");
    assert!(!chosen.contains(&0), "{chosen:?}");
}

/// Returns everything that the client reports for a stream, except times and the request id.
fn told(client: &ApiClient, request: CompletionRequest) -> String {
    let (receiver, guard) = client.stream(request).unwrap();
    let mut told = String::new();
    while let Ok(item) = receiver.recv_timeout(LONG) {
        told += &match item {
            StreamToken::Error(error) => {
                format!("{:?} {} {:?}\n", error.kind(), error.message(), error.server_error())
            }
            item => format!("{item:?}\n"),
        };
    }
    let report = guard.join();
    format!("{told}{:?} {:?} {:?}", report.ids_exact, report.usage, report.finish)
}

#[test]
#[ignore = "needs vllm-router: TOKENWIRE_ROUTER"]
fn a_recording_decodes_the_same_with_and_without_the_router() {
    let folder = data("vllm");
    let recording = move |name: &str| fixture::load(folder.join(format!("{name}.response.http"))).unwrap();
    let script = {
        let recording = recording.clone();
        move |name: &str| Script::replay(&recording(name), 0.0)
    };
    let worker = worker(move |request| script(request.header("x-recording").unwrap()));
    let router = Router::start(&[&worker], &["--disable-circuit-breaker"]);
    let mut files: Vec<String> = fs::read_dir(data("vllm"))
        .unwrap()
        .filter_map(|entry| {
            Some(entry.unwrap().file_name().to_str()?.strip_suffix(".response.http")?.to_owned())
        })
        .collect();
    files.sort();
    let mut compared = 0;
    for name in &files {
        let recording = recording(name);
        let (wire, request) = match recording.request().path.as_str() {
            "/v1/completions" => (Endpoint::OpenAi, ids(&[1])),
            "/v1/chat/completions" => (Endpoint::Chat, CompletionRequest::text("Hello")),
            "/inference/v1/generate" => (Endpoint::VllmGenerate, ids(&[1])),
            _ => continue,
        };
        // If a body breaks off at once, the part that the router passes on varies. Other tests
        // cover faults.
        if recording.response_body().state != BodyState::Complete {
            continue;
        }
        let request = request.header("x-recording", name);
        let [with, without] = [&router.url, &worker.url()]
            .map(|url| told(&client(url).endpoint(wire).build().unwrap(), request.clone()));
        // The router labels the response to every stream request as an event stream.
        let without = without
            .replace("not an event stream but application/json", "not an event stream but text/event-stream");
        assert_eq!(with, without, "{name}");
        compared += 1;
    }
    println!("{compared} recordings of vLLM decode the same through the router");
    assert!(compared > 80, "{compared}");
}

// ---- faults ----

/// Returns request `n` of a table of cases. The worker selects the row by a header.
fn case(n: usize) -> CompletionRequest {
    ids(&[1, 2, 3]).header("x-case", n.to_string())
}

/// Starts a worker that answers each [`case`] with the script of that number.
fn worker_of(scripts: Vec<Script>) -> MockServer {
    worker(move |request| scripts[request.header("x-case").unwrap().parse::<usize>().unwrap()].clone())
}

/// Sends the first events of [`HELLO`]'s stream.
fn beginning(events: usize) -> Script {
    let wire = String::from_utf8(Script::tokens(HELLO).framing(Framing::CloseDelimited).wire()).unwrap();
    let (_, body) = wire.split_once("\r\n\r\n").unwrap();
    let events = body.split_inclusive("\n\n").take(events);
    events.fold(Script::events([""; 0]), |script, event| script.write(event))
}

#[test]
#[ignore = "needs vllm-router: TOKENWIRE_ROUTER"]
fn a_worker_that_dies_in_mid_stream_is_a_typed_error_after_its_tokens() {
    let inside = |script: Script| script.write("data: {\"id\":\"cmpl-te");
    // The worker dies after the client has received this many tokens. The router may lose the last
    // bytes that a worker sent.
    let gates: [Gate; 7] = Default::default();
    let cases: [(&str, usize, Script, bool); 7] = [
        ("FIN after an event", 1, beginning(1).wait_for(&gates[0]).close(), false),
        ("RST after an event", 1, beginning(1).wait_for(&gates[1]).reset(), false),
        ("FIN inside an event", 3, inside(beginning(3)).wait_for(&gates[2]).close(), false),
        ("RST inside an event", 3, inside(beginning(3)).wait_for(&gates[3]).reset(), false),
        ("FIN after the finish reason", 4, beginning(4).wait_for(&gates[4]).close(), true),
        ("RST after the finish reason", 4, beginning(4).wait_for(&gates[5]).reset(), true),
        ("a proper end without a finish reason", 2, beginning(2).wait_for(&gates[6]), false),
    ];
    let worker = worker_of(cases.iter().map(|(_, _, script, _)| script.clone()).collect());
    let router = Router::start(&[&worker], &["--disable-circuit-breaker"]);
    // Retries are on. A stream that has begun must not be sent again.
    let client = client(&router.url).retries(2).build().unwrap();
    for (n, (name, tokens, _, complete)) in cases.iter().enumerate() {
        let before = completions(&worker).len();
        let (receiver, guard) = client.stream(case(n)).unwrap();
        let mut got: Vec<_> = (0..*tokens).map(|_| receiver.recv_timeout(LONG).unwrap()).collect();
        gates[n].open();
        while let Ok(item) = receiver.recv_timeout(LONG) {
            got.push(item);
        }
        let report = guard.join();
        assert_eq!(report.tokens, *tokens as u64, "{name}: {got:?}");
        for (item, (id, text)) in got.iter().zip(HELLO).take(*tokens) {
            let is = matches!(item, StreamToken::Token { text: t, id: Some(i) } if t == text && *i == id);
            assert!(is, "{name}: {item:?}");
        }
        assert_eq!(got.len(), tokens + 1, "{name}: {got:?}");
        match got.last() {
            Some(StreamToken::Done { .. }) => assert!(complete, "{name}"),
            Some(StreamToken::Error(error)) => {
                assert!(!complete, "{name}: {error}");
                assert_eq!(error.kind(), ErrorKind::Incomplete, "{name}: {error}");
                assert_eq!(error.progress().unwrap().tokens, *tokens as u64, "{name}");
                assert!(error.is_resumable(), "{name}: {error}");
            }
            last => panic!("{name}: {last:?}"),
        }
        assert_eq!(completions(&worker).len(), before + 1, "{name}: sent again");
    }
}

#[test]
#[ignore = "needs vllm-router: TOKENWIRE_ROUTER"]
fn a_disconnect_of_the_client_reaches_the_worker() {
    let worker = worker(|_| beginning(2).hang(Duration::MAX));
    let router = Router::start(&[&worker], &[]);
    let mut timeouts = Timeouts::default();
    timeouts.chunk = Some(Duration::from_millis(300));
    let patient = client(&router.url).build().unwrap();
    let impatient = client(&router.url).timeouts(timeouts).build().unwrap();
    type Leave = fn(StreamGuard);
    let cases: [(&str, &ApiClient, Leave); 3] = [
        ("cancelled", &patient, |guard| guard.cancel()),
        ("guard dropped", &patient, drop),
        ("silent for too long", &impatient, |guard| assert!(guard.join().error.unwrap().is_timeout())),
    ];
    // Count only disconnects during a response. The router also closes idle connections.
    let seen = || worker.disconnects().iter().filter(|left| left.request.is_some()).count();
    for (n, (name, client, leave)) in cases.into_iter().enumerate() {
        let (receiver, guard) = client.stream(ids(&[1])).unwrap();
        for _ in 0..2 {
            receiver.recv_timeout(LONG).unwrap();
        }
        assert_eq!(seen(), n, "{name}: too early");
        leave(guard);
        let began = Instant::now();
        while seen() == n {
            assert!(began.elapsed() < LONG, "{name}: the worker still has its connection");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The response of a worker, and the error that the client returns when the router has passed on
/// its version of that response.
struct Refusal {
    worker: Script,
    kind: ErrorKind,
    status: Option<u16>,
    message: &'static str,
    attempts: usize,
}

fn refusal(status: u16, worker: Script, message: &'static str, attempts: usize) -> Refusal {
    Refusal { worker, kind: ErrorKind::Server, status: Some(status), message, attempts }
}

#[test]
#[ignore = "needs vllm-router: TOKENWIRE_ROUTER"]
fn the_routers_responses_for_rejected_requests_are_parsed() {
    let error = |status: u16, message: &str, kind: &str| {
        let body = json!({"error": {"message": message, "type": kind, "param": null, "code": status}});
        Script::status(status).json(body)
    };
    let late = |script: Script| script.header("Retry-After", "1");
    let html = "<html><head><title>502 Bad Gateway</title></head></html>";
    let bad_id = r#"{"error":{"message":"bad id","type":"BadRequestError","param":null,"code":400}}"#;
    let cases = [
        refusal(
            503,
            late(error(503, "overloaded", "ServiceUnavailableError")),
            "overloaded",
            ROUTER_ATTEMPTS,
        ),
        refusal(429, late(error(429, "slow down", "RateLimitError")), "slow down", ROUTER_ATTEMPTS),
        refusal(500, Script::status(500).body("text/plain", "it broke"), "it broke", ROUTER_ATTEMPTS),
        refusal(500, Script::status(500), "the body is empty", ROUTER_ATTEMPTS),
        refusal(502, Script::status(502).body("text/html", html), "502 Bad Gateway", ROUTER_ATTEMPTS),
        // The router's own message, in plain text.
        refusal(500, Script::new().close(), "Request failed: error sending request for url", ROUTER_ATTEMPTS),
        refusal(500, Script::new().reset(), "Request failed: error sending request for url", ROUTER_ATTEMPTS),
        refusal(400, error(400, "too long", "BadRequestError"), "too long", 1),
        refusal(401, Script::status(401).json(r#"{"error":"Unauthorized"}"#), "Unauthorized", 1),
        refusal(404, Script::status(404).json(r#"{"detail":"Not Found"}"#), "Not Found", 1),
        refusal(422, Script::status(422).body("text/plain", "cannot be read"), "cannot be read", 1),
        refusal(400, Script::events([bad_id, "[DONE]"]), "bad id", 1),
        Refusal {
            worker: Script::status(200).json(r#"{"message":"no stream today"}"#),
            kind: ErrorKind::NotEventStream,
            status: None,
            message: "not an event stream but text/event-stream: no stream today",
            attempts: 1,
        },
    ];
    let worker = worker_of(cases.iter().map(|case| case.worker.clone()).collect());
    let router = Router::start(&[&worker], &["--disable-circuit-breaker"]);
    let client = client(&router.url).build().unwrap();
    for (n, expected) in cases.iter().enumerate() {
        let before = completions(&worker).len();
        let (tokens, last, report) = run(&client, case(n).record());
        let attempts = completions(&worker).len() - before;
        let headers = report.recording.unwrap().response_headers();
        let header = |name: &str| Some(headers.iter().find(|(known, _)| known == name)?.1.as_str());
        let Last::Error(error) = last else { panic!("{n}: {last:?}") };
        let what = format!("{n} as {:?}: {error}, {attempts} attempts", header("content-type"));
        println!("{what}");
        assert!(tokens.is_empty(), "{what}");
        assert_eq!((error.kind(), error.status()), (expected.kind, expected.status), "{what}");
        assert!(error.message().contains(expected.message), "{what}");
        assert_eq!(attempts, expected.attempts, "{what}");
        let wait = matches!(expected.status, Some(503 | 429)).then_some("1");
        assert_eq!(header("retry-after"), wait, "{what}");
        let own = expected.message.starts_with("Request failed");
        let kind = if own { "text/plain; charset=utf-8" } else { "text/event-stream" };
        assert_eq!(header("content-type"), Some(kind), "{what}");
    }
}

#[test]
#[ignore = "needs vllm-router: TOKENWIRE_ROUTER"]
fn a_router_without_workers_is_an_error_with_its_message() {
    let workers = [(); 2].map(|()| worker(|_| Script::tokens(HELLO)));
    let args = ["--cb-failure-threshold", "1"];
    let router = Router::start(&[&workers[0], &workers[1]], &args);
    drop(workers);
    let client = client(&router.url).build().unwrap();
    // The first request detects that the worker is gone.
    for _ in 0..2 {
        let (tokens, last, _) = run(&client, ids(&[1]));
        let Last::Error(error) = last else { panic!("{last:?}") };
        println!("{error}");
        assert!(tokens.is_empty());
        assert_eq!((error.kind(), error.status()), (ErrorKind::Server, Some(503)), "{error}");
        assert!(error.message().contains("No available workers"), "{error}");
        assert!(error.is_retryable(), "{error}");
    }
}

/// The router repeats each attempt of the client, so the client must make few attempts.
#[test]
#[ignore = "needs vllm-router: TOKENWIRE_ROUTER"]
fn the_load_of_an_outage_is_limited_when_client_and_router_both_retry() {
    const REQUESTS: usize = 20;
    for (name, args) in [("default", &[][..]), ("no circuit breaker", &["--disable-circuit-breaker"])] {
        let busy = || worker(|_| Script::status(503).header("retry-after-ms", "1"));
        let workers = [busy(), busy()];
        let router = Router::start(&[&workers[0], &workers[1]], args);
        let policy = RetryPolicy::default();
        let client = ApiClient::builder(&router.url).model("m").retry(policy).build().unwrap();
        let streams: Vec<_> = (0..REQUESTS).map(|_| client.stream(ids(&[1])).unwrap()).collect();
        let mut sent = 0;
        for (_tokens, guard) in streams {
            let report = guard.join();
            assert_eq!(report.ending, Outcome::Failed);
            sent += 1 + report.retries as usize;
        }
        let there: usize = workers.iter().map(|worker| completions(worker).len()).sum();
        println!(
            "{name}: {REQUESTS} requests, {sent} sent by the client ({:.1} times), {there} by the router ({:.1} times)",
            sent as f64 / REQUESTS as f64,
            there as f64 / REQUESTS as f64
        );
        assert!(sent <= REQUESTS + policy.budget as usize, "{sent}");
        assert!(there <= sent * ROUTER_ATTEMPTS, "{there} of {sent}");
    }
}

// ---- resumes ----

/// The number of ids in a response. `BEFORE` is the smallest number of ids before the streams of a
/// [`mortal`] worker pause.
const ANSWER: u32 = 40;
const BEFORE: usize = 3;

/// Returns a prompt for each `n`, with temperature 0.
fn question(n: usize) -> CompletionRequest {
    let greedy = SamplingParams::default().temperature(0.0).max_tokens(ANSWER).min_tokens(ANSWER);
    ids(&[11, 12, 20 + n as TokenId]).sampling(greedy)
}

fn model() -> FakeModel {
    FakeModel::new(11).ends_one_of(0)
}

/// Returns only the ids. If text was held back at a cut, it may arrive in other pieces.
fn ids_of(tokens: &[Token]) -> Vec<TokenId> {
    tokens.iter().filter_map(|(_, id)| *id).collect()
}

/// Returns the ids of each question, from a worker without faults.
fn unbroken(questions: usize) -> Vec<Vec<TokenId>> {
    let whole = worker(|request| model().answer(request));
    let client = client(&whole.url()).build().unwrap();
    let answers = (0..questions).map(|n| ids_of(&run(&client, question(n)).0));
    let answers: Vec<_> = answers.collect();
    assert!(answers.iter().all(|ids| ids.len() == ANSWER as usize));
    answers
}

/// Starts a worker whose streams pause after some ids until the gate opens. Then the streams
/// continue. If the worker `dies`, it instead resets these streams and every later request.
fn mortal(gate: &Gate, dies: bool) -> MockServer {
    let gate = gate.clone();
    worker(move |request| {
        if dies && gate.wait(Duration::ZERO) {
            return Script::new().reset();
        }
        let events = model().events(request).unwrap();
        let (before, behind) = events.split_at(events.len().min(BEFORE + request.body.len() % 7));
        let begun = Script::events(before).wait_for(&gate);
        if dies {
            return begun.reset();
        }
        behind.iter().fold(begun, |script, data| script.event(data))
    })
}

/// Opens the gate, so that the dying workers reset all their streams. Then closes the ports of
/// these workers.
fn kill(gate: &Gate, dying: Vec<MockServer>) {
    let streams = |worker: &MockServer| completions(worker).len();
    let left: Vec<_> =
        dying.iter().map(|worker| worker.open_connections().saturating_sub(streams(worker))).collect();
    gate.open();
    for (worker, left) in dying.into_iter().zip(left) {
        assert!(worker.wait_for_open_connections(left, LONG), "the connections of the worker are still open");
    }
}

type Running = (Receiver<StreamToken>, StreamGuard, Vec<Token>);

/// Starts this number of streams and receives the first token of each.
fn running(client: &ApiClient, streams: usize) -> Vec<Running> {
    let streams: Vec<_> = (0..streams).map(|n| client.stream(question(n)).unwrap()).collect();
    let begun = streams.into_iter().map(|(receiver, guard)| match receiver.recv_timeout(LONG).unwrap() {
        StreamToken::Token { text, id } => (receiver, guard, vec![(text, id)]),
        other => panic!("{other:?}"),
    });
    begun.collect()
}

/// Reads a stream to its end.
fn rest((receiver, guard, mut tokens): Running) -> (Vec<TokenId>, StreamReport) {
    tokens.extend(collect(&receiver).0);
    (ids_of(&tokens), guard.join())
}

/// Returns the number of requests that the client has sent for a stream.
fn sent(report: &StreamReport) -> u32 {
    let resumes: u32 = report.resumes.iter().map(|resume| resume.requests).sum();
    1 + report.retries + report.stale_retries + resumes
}

/// The router loses some of the last bytes of a dying worker. A stream resumes after the received
/// tokens, not after the sent ones.
#[test]
#[ignore = "needs vllm-router: TOKENWIRE_ROUTER"]
fn all_64_streams_are_complete_and_exact_when_a_worker_dies() {
    const STREAMS: usize = 64;
    let gate = Gate::new();
    let (dies, lives) = (mortal(&gate, true), mortal(&gate, false));
    // With this policy, each worker gets half of the streams.
    let policy = ["--policy", "round_robin"];
    let router = Router::start(&[&dies, &lives], &policy);
    let expected = unbroken(STREAMS);
    // Half of the streams break at once, so the budget must allow that many resumes.
    let mut retry = RetryPolicy::default();
    retry.budget = STREAMS as u32;
    let client = client(&router.url).retry(retry).resumes(8).build().unwrap();
    let streams = running(&client, STREAMS);
    let there = completions(&dies).len();
    kill(&gate, vec![dies]);
    let (mut resumed, mut requests) = (0, 0);
    for (n, stream) in streams.into_iter().enumerate() {
        let (ids, report) = rest(stream);
        assert_eq!((ids.len(), report.ending), (ANSWER as usize, Outcome::Complete), "{n}: {report:?}");
        assert_eq!((ids, report.ids_exact), (expected[n].clone(), IdsExact::Yes), "{n}: {report:?}");
        assert_eq!(report.usage.unwrap().completion_tokens, ANSWER, "{n}: {report:?}");
        resumed += usize::from(!report.resumes.is_empty());
        requests += sent(&report);
    }
    println!(
        "{STREAMS} streams, {there} of them at the worker that died: {resumed} resumed, all {STREAMS} complete and \
        equal to the uninterrupted run; {requests} requests sent"
    );
    assert!(there > 0 && resumed == there, "{resumed} of {there}");
}

/// Tests the requests of the client, which its budget limits. For each of these requests, the
/// router may send up to [`ROUTER_ATTEMPTS`] requests to a worker, until its circuit breakers open.
/// `the_load_of_an_outage_is_limited_when_client_and_router_both_retry` counts the requests of the
/// router.
#[test]
#[ignore = "needs vllm-router: TOKENWIRE_ROUTER"]
fn in_a_total_outage_the_client_sends_at_most_a_fifth_more_requests_than_streams() {
    const STREAMS: usize = 120;
    let gate = Gate::new();
    let workers = [mortal(&gate, true), mortal(&gate, true)];
    let router = Router::start(&workers.each_ref(), &["--policy", "round_robin"]);
    let client = || client(&router.url).retry(RetryPolicy::default()).resumes(8).build().unwrap();
    let expected = unbroken(STREAMS);
    let told = |what: &str, reports: &[StreamReport]| {
        let requests: u32 = reports.iter().map(sent).sum();
        let times = f64::from(requests) / STREAMS as f64;
        println!("{what}: {STREAMS} streams, {requests} requests sent by the client ({times:.2} times)");
        assert!(times <= 1.2, "{what}: {times}");
    };

    let first = client();
    let streams = running(&first, STREAMS);
    kill(&gate, workers.into());
    let broken: Vec<_> = streams.into_iter().map(rest).collect();
    for (n, (ids, report)) in broken.iter().enumerate() {
        assert_eq!(report.ending, Outcome::Failed, "{report:?}");
        // The tokens before the outage are kept and are correct.
        assert!(!ids.is_empty() && expected[n].starts_with(ids), "{n}: {ids:?}");
    }
    let reports: Vec<_> = broken.into_iter().map(|(_, report)| report).collect();
    told("both workers died in mid-stream", &reports);

    let second = client();
    let streams: Vec<_> = (0..STREAMS).map(|n| second.stream(question(n)).unwrap()).collect();
    let reports: Vec<_> = streams.into_iter().map(|(_, guard)| guard.join()).collect();
    assert!(reports.iter().all(|report| report.ending == Outcome::Failed));
    told("no worker from the start", &reports);
}

#[test]
#[ignore = "needs vllm-router: TOKENWIRE_ROUTER"]
fn the_router_ends_with_the_test() {
    let worker = worker(|_| Script::tokens(HELLO));
    let router = Router::start(&[&worker], &[]);
    let host = router.url.trim_start_matches("http://").to_owned();
    assert!(TcpStream::connect(&host).is_ok());
    drop(router);
    assert!(TcpStream::connect(&host).is_err());
}
