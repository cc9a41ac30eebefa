//! Tests of requests for complete responses against the mock server: the request that is sent, and
//! each way in which a request can end.

#![cfg(feature = "testing")]

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::checks::each_row;
use common::streams::LONG;
use common::{data, fixture};
use serde_json::{Value, json};
use tokenwire::testing::{Framing, MockServer, Script};
use tokenwire::{
    ApiClient, ApiClientBuilder, CompletionRequest, Endpoint, ErrorKind, IdsExact, Limit, Limits, Outcome,
    RetryPolicy, SamplingParams, SavedRequest, Timeouts, Timer,
};

/// A short response of vLLM.
const ANSWER: &str = r#"{"id":"cmpl-1","choices":[{"index":0,"text":"Hi.","finish_reason":"stop","token_ids":[9707,13]}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;

fn answer() -> Script {
    Script::status(200).json(ANSWER)
}

fn client(server: &MockServer) -> ApiClientBuilder {
    ApiClient::builder(server.url()).retries(0)
}

fn ids() -> CompletionRequest {
    CompletionRequest::ids([1, 2, 3]).sampling(SamplingParams::default().max_tokens(8))
}

fn timeouts(set: impl FnOnce(&mut Timeouts)) -> Timeouts {
    let mut timeouts = Timeouts::default();
    set(&mut timeouts);
    timeouts
}

fn quick(retries: u32) -> RetryPolicy {
    let mut policy = RetryPolicy::default();
    (policy.max_retries, policy.min_wait) = (retries, Duration::ZERO);
    policy
}

/// Serves the body of a recording as the real server did.
fn recorded(name: &str) -> Script {
    Script::status(200)
        .json(String::from_utf8(fixture::load(data(name)).unwrap().response_body().bytes).unwrap())
}

#[test]
fn each_endpoint_requests_and_reads_a_complete_response() {
    let sglang = r#"{"text":"ab","output_ids":[5,6],"meta_info":{"id":"r","completion_tokens":2,"finish_reason":{"type":"stop"}}}"#;
    let tgi = r#"{"generated_text":"ab","details":{"finish_reason":"length","generated_tokens":1,"tokens":[{"id":5,"text":"ab"}]}}"#;
    let text = || CompletionRequest::text("Hi");
    let llama = json!({"verbose": true, "return_tokens": true});
    let vllm = json!({"return_token_ids": true});
    // endpoint, server, response, request, path, number of ids, fields of the body (besides
    // `stream`)
    let cases = [
        (
            Endpoint::Auto,
            None,
            answer(),
            ids(),
            "/v1/completions",
            2,
            json!({"prompt": [1, 2, 3], "return_token_ids": true, "verbose": true, "return_tokens": true}),
        ),
        (
            Endpoint::OpenAi,
            Some(tokenwire::ServerKind::Vllm),
            recorded("vllm/completion-not-streamed.response.http"),
            ids(),
            "/v1/completions",
            6,
            vllm.clone(),
        ),
        (
            Endpoint::OpenAi,
            Some(tokenwire::ServerKind::LlamaCpp),
            recorded("llama.cpp/completions-nonstream.raw"),
            ids(),
            "/v1/completions",
            0,
            llama.clone(),
        ),
        (
            Endpoint::Chat,
            Some(tokenwire::ServerKind::Vllm),
            recorded("vllm/chat-not-streamed-tool-call.response.http"),
            text(),
            "/v1/chat/completions",
            34,
            vllm,
        ),
        (
            Endpoint::Chat,
            Some(tokenwire::ServerKind::LlamaCpp),
            recorded("llama.cpp/chat-tools-call-nonstream.raw"),
            text(),
            "/v1/chat/completions",
            0,
            llama.clone(),
        ),
        (
            Endpoint::Chat,
            None,
            recorded("llama.cpp/chat-nonstream.raw"),
            text(),
            "/v1/chat/completions",
            0,
            llama,
        ),
        (
            Endpoint::LlamaCpp,
            None,
            recorded("llama.cpp/completion-utf8-nonstream.raw"),
            text(),
            "/completion",
            20,
            json!({"return_tokens": true, "n_predict": 16384}),
        ),
        (
            Endpoint::VllmGenerate,
            None,
            recorded("vllm/generate-not-streamed.response.http"),
            ids(),
            "/inference/v1/generate",
            10,
            json!({"token_ids": [1, 2, 3]}),
        ),
        (
            Endpoint::SgLang,
            None,
            Script::status(200).json(sglang),
            ids(),
            "/generate",
            2,
            json!({"input_ids": [1, 2, 3]}),
        ),
        (Endpoint::Tgi, None, Script::status(200).json(tgi), text(), "/generate", 1, json!({"inputs": "Hi"})),
    ];
    each_row(cases, |(wire, known, script, request, path, count, has)| {
        let server = MockServer::scripted([script]).unwrap();
        let mut builder = client(&server).endpoint(wire);
        if let Some(known) = known {
            builder = builder.server(known);
        }
        let client = builder.build().unwrap();
        let answer = client.complete(request).unwrap_or_else(|error| panic!("{wire}: {error}"));
        assert_eq!(answer.ids.len(), count, "{wire}");
        assert_eq!(answer.ids_exact.is_exact(), count > 0, "{wire}: {:?}", answer.ids_exact);
        let request = &server.requests()[0];
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", path), "{wire}");
        assert_eq!(request.header("accept"), Some("application/json"), "{wire}");
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let stream = if wire == Endpoint::Tgi { &Value::Null } else { &json!(false) };
        assert_eq!((&body["stream"], &body["stream_options"]), (stream, &Value::Null), "{wire}: {body}");
        for (key, value) in has.as_object().unwrap() {
            assert_eq!(&body[key], value, "{wire}: {key}");
        }
        // The client stores the kind of server that it detected.
        assert_eq!(client.server().unwrap(), answer.server, "{wire}");
    });
}

#[test]
fn requested_ids_that_are_missing_were_dropped_by_a_proxy() {
    let server = MockServer::scripted([recorded("llama.cpp/chat-nonstream.raw")]).unwrap();
    let answer = client(&server)
        .endpoint(Endpoint::Chat)
        .build()
        .unwrap()
        .complete(CompletionRequest::text("Hi"))
        .unwrap();
    assert_eq!(answer.ids_exact, IdsExact::No(tokenwire::Inexact::Dropped));
}

#[test]
fn a_complete_request_carries_the_same_headers_as_a_stream() {
    let server = MockServer::scripted([answer().header("X-Request-Id", "theirs")]).unwrap();
    let client =
        client(&server).api_key("sk-canary-0123456789").session_headers(["x-affinity"]).build().unwrap();
    let request = ids().priority(-2).session("s-1").request_id("mine").header("x-own", "v").record();
    let call = client.call(request).unwrap();
    let (answer, report) = (call.join().unwrap(), call.join_report());
    let sent = &server.requests()[0];
    for (name, value) in [
        ("authorization", "Bearer sk-canary-0123456789"),
        ("x-affinity", "s-1"),
        ("x-request-id", "mine"),
        ("x-own", "v"),
    ] {
        assert_eq!(sent.header(name), Some(value), "{name}");
    }
    assert_eq!(serde_json::from_slice::<Value>(&sent.body).unwrap()["priority"], -2);
    assert_eq!((answer.text.as_str(), &answer.ids[..]), ("Hi.", &[9707, 13][..]));
    assert_eq!((report.ending, report.ids_exact, report.tokens), (Outcome::Complete, IdsExact::Yes, 2));
    assert_eq!((report.usage, &report.finish), (answer.usage, &answer.finish));
    assert_eq!(
        (answer.request_id.as_deref(), report.request_id.as_deref()),
        (Some("theirs"), Some("theirs"))
    );
    assert_eq!(report.bytes, ANSWER.len() as u64);
    let recording = report.recording.unwrap();
    assert_eq!(recording.response_body().bytes, ANSWER.as_bytes());
    assert!(!format!("{recording:?}").contains("canary"));
}

#[test]
fn two_complete_requests_share_one_connection() {
    let server = MockServer::scripted([answer()]).unwrap();
    let client = client(&server).build().unwrap();
    for _ in 0..2 {
        client.complete(ids()).unwrap();
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_failed_complete_request_is_retried_saved_and_typed_like_a_stream() {
    let status = |status, body: &str| Script::status(status).json(body);
    let cut = Script::new().head(200, &[("Content-Type", "application/json")], Framing::GivenLength(900));
    let closing = Script::new().head(200, &[], Framing::CloseDelimited).write(&ANSWER[..40]);
    // name, script, kind, status, number of requests with two retries
    let cases = [
        ("503", status(503, r#"{"error":{"message":"busy"}}"#), ErrorKind::Server, Some(503), 3),
        ("400", status(400, r#"{"error":{"message":"bad"}}"#), ErrorKind::Server, Some(400), 1),
        (
            "a redirect",
            Script::status(307).header("Location", "http://h.test/"),
            ErrorKind::Server,
            Some(307),
            1,
        ),
        (
            "an error with status 200",
            status(200, r#"{"error":{"message":"m","code":500}}"#),
            ErrorKind::Server,
            Some(500),
            3,
        ),
        ("cut, with a length", cut.write(ANSWER), ErrorKind::Incomplete, None, 3),
        ("cut, without a length", closing, ErrorKind::Incomplete, None, 3),
        ("no byte", Script::new(), ErrorKind::Incomplete, None, 3),
        (
            "a page",
            Script::status(200).body("text/html", "<title>Sign in</title>"),
            ErrorKind::Protocol,
            None,
            1,
        ),
        ("a stream", Script::tokens([(1, "a")]), ErrorKind::Protocol, None, 1),
    ];
    each_row(cases, |(name, script, kind, code, times)| {
        let server = MockServer::scripted([script]).unwrap();
        let folder = std::env::temp_dir().join(format!(
            "tokenwire-calls-{}-{times}-{}",
            std::process::id(),
            name.replace(' ', "-")
        ));
        let client = client(&server).retry(quick(2)).save_failed(&folder).build().unwrap();
        let call = client.call(ids().request_id("mine")).unwrap();
        let (error, report) = (call.join().unwrap_err(), call.join_report());
        assert_eq!(
            report.error.as_ref().map(tokenwire::Error::kind),
            Some(kind),
            "{name}: the report of a failed request"
        );
        assert_eq!((error.kind(), error.status()), (kind, code), "{name}: {error}");
        assert_eq!((report.ending, report.retries), (Outcome::Failed, times - 1), "{name}: {error}");
        let sent: Vec<_> =
            server.requests().iter().map(|sent| sent.header("x-request-id").unwrap().to_owned()).collect();
        assert_eq!(sent, ["mine", "mine-1", "mine-2"][..times as usize], "{name}");

        let saved = SavedRequest::load(error.saved_path().unwrap()).unwrap();
        assert!(saved.is_call(), "{name}");
        assert_eq!(saved.body(), server.requests()[0].body, "{name}");
        assert_eq!(saved.base_url(), format!("{}/v1", server.url()), "{name}");
        std::fs::remove_dir_all(&folder).unwrap();

        let better = MockServer::scripted([answer()]).unwrap();
        let client = self::client(&better).build().unwrap();
        assert_eq!(client.resend(&saved).unwrap_err().kind(), ErrorKind::Unsupported, "{name}");
        assert_eq!(client.resend_call(&saved).unwrap().join().unwrap().ids, [9707, 13], "{name}");
        assert_eq!(better.requests()[0].body, saved.body(), "{name}");
    });
}

#[test]
fn a_saved_stream_cannot_be_resent_as_a_complete_request() {
    // The client can set any `accept` header.
    for (n, accept) in [None, Some("application/json"), Some("text/event-stream")].into_iter().enumerate() {
        let server = MockServer::scripted([Script::status(400), Script::status(400)]).unwrap();
        let folder = std::env::temp_dir().join(format!("tokenwire-calls-{}-stream-{n}", std::process::id()));
        let builder = client(&server).endpoint(Endpoint::Tgi).save_failed(&folder);
        let builder = accept.into_iter().fold(builder, |builder, accept| builder.header("accept", accept));
        let client = builder.build().unwrap();
        let (_tokens, guard) = client.stream(CompletionRequest::text("Hi")).unwrap();
        let error = guard.join().error.unwrap();
        let saved = SavedRequest::load(error.saved_path().unwrap()).unwrap();
        assert!(!saved.is_call(), "{accept:?}");
        assert_eq!(client.resend_call(&saved).unwrap_err().kind(), ErrorKind::Unsupported);
        let error = client.complete(CompletionRequest::text("Hi")).unwrap_err();
        let saved = SavedRequest::load(error.saved_path().unwrap()).unwrap();
        assert_eq!((saved.is_call(), saved.base_url()), (true, server.url().as_str()), "{accept:?}");
        let sent = server.requests();
        let sent: Vec<_> = sent.iter().map(|request| request.header("accept")).collect();
        let own = ["text/event-stream", "application/json"].map(|default| Some(accept.unwrap_or(default)));
        assert_eq!(sent, own);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn an_attempt_that_succeeds_after_failures_returns_its_response() {
    let server = MockServer::scripted([Script::status(503), Script::status(502), answer()]).unwrap();
    let client = client(&server).retry(quick(2)).build().unwrap();
    let call = client.call(ids()).unwrap();
    assert_eq!((call.join().unwrap().ids.len(), call.join_report().retries), (2, 2));
    assert_eq!(call.join().unwrap().ids, [9707, 13], "a second join");
}

/// llama.cpp build 10434 answers an unreadable request with a server error, build 11549 with a
/// request error. A retry would not help in either case.
#[test]
fn a_request_that_llama_cpp_cannot_read_is_not_retried_whatever_its_status() {
    let newer = r#"{"error":{"code":400,"message":"[json.exception.parse_error.101] parse error at line 1, column 11: syntax error while parsing value - unexpected end of input; expected '[', '{', or a literal","type":"invalid_request_error"}}"#;
    let older = ["error-bad-json", "error-body-not-utf8", "error-empty-body"].map(|name| {
        let script = Script::raw(std::fs::read(data(&format!("llama.cpp/{name}.raw"))).unwrap());
        (name, script, 500)
    });
    let own_fault = r#"{"error":{"code":500,"message":"[json.exception.type_error.316] invalid UTF-8 byte","type":"server_error"}}"#;
    let messages = r#"{"error":{"code":500,"message":"Failed to parse messages: Missing 'role' in message: {\"content\":\"x\"}","type":"server_error"}}"#;
    let others = [
        ("11549", Script::status(400).json(newer), 400),
        ("blames itself", Script::status(500).json(own_fault), 500),
        ("messages", Script::status(500).json(messages), 500),
    ];
    each_row(older.into_iter().chain(others), |(name, script, status)| {
        let server = MockServer::scripted([script]).unwrap();
        let client = client(&server).retry(quick(1)).build().unwrap();
        let times = if name == "blames itself" { 2 } else { 1 };
        let (_tokens, guard) = client.stream(ids()).unwrap();
        for error in [client.complete(ids()).unwrap_err(), guard.join().error.unwrap()] {
            assert_eq!((error.kind(), error.status()), (ErrorKind::Server, Some(status)), "{name}: {error}");
            assert_eq!(error.is_retryable(), times == 2, "{name}: {error}");
        }
        assert_eq!(server.requests().len(), 2 * times, "{name}");
    });
}

#[test]
fn a_request_with_unsupported_fields_is_rejected_before_anything_is_sent() {
    let server = MockServer::scripted([answer()]).unwrap();
    let client = client(&server).server(tokenwire::ServerKind::LlamaCpp).build().unwrap();
    each_row(
        [
            (CompletionRequest::ids([]), ErrorKind::InvalidInput),
            (ids().extra("stream", true), ErrorKind::Unsupported),
            (ids().extra("stream", false), ErrorKind::Unsupported),
            (ids().extra("n", 2), ErrorKind::Unsupported),
            (ids().priority(3), ErrorKind::Unsupported),
        ],
        |(request, kind)| {
            assert_eq!(client.complete(request).unwrap_err().kind(), kind);
        },
    );
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn timers_and_the_body_limit_end_a_complete_request() {
    let ms = Duration::from_millis;
    let silent = Script::new().wait_for_client_gone(LONG);
    let headed =
        Script::new().head(200, &[], Framing::GivenLength(900)).write("{").wait_for_client_gone(LONG);
    let dripping = Script::new().head(200, &[], Framing::GivenLength(900)).repeat(" ", 900, ms(100));
    each_row([("silent", silent), ("after the head", headed), ("dripping", dripping)], |(name, script)| {
        for (timer, limits) in [
            (Timer::FirstToken, timeouts(|t| t.first_token = Some(ms(200)))),
            (Timer::Deadline, timeouts(|t| t.deadline = Some(ms(200)))),
        ] {
            let server = MockServer::scripted([script.clone()]).unwrap();
            let error = client(&server).timeouts(limits).build().unwrap().complete(ids()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout(timer), "{name}: {error}");
            assert!(server.wait_for_disconnects(1, LONG), "{name}");
        }
    });
    let mut limits = Limits::default();
    for (max, good) in [(ANSWER.len(), true), (ANSWER.len() - 1, false)] {
        limits.max_body_bytes = max;
        let server = MockServer::scripted([answer()]).unwrap();
        let result = client(&server).limits(limits).build().unwrap().complete(ids());
        match result {
            Ok(_) => assert!(good),
            Err(error) => {
                assert_eq!((error.kind(), good), (ErrorKind::Limit(Limit::BodyBytes), false), "{error}")
            }
        }
    }
}

#[test]
fn a_stored_canceller_keeps_no_connection_open() {
    let server = MockServer::scripted([answer()]).unwrap();
    let call = client(&server).build().unwrap().call(ids()).unwrap();
    let canceller = call.canceller();
    call.join().unwrap();
    drop(call);
    assert!(server.wait_for_open_connections(0, LONG));
    canceller.cancel();
}

#[test]
fn a_cancel_from_another_thread_closes_the_socket() {
    let body = Script::new().head(200, &[], Framing::GivenLength(900)).write("{").wait_for_client_gone(LONG);
    for script in
        [Script::new().wait_for_client_gone(LONG), body, Script::status(503).header("Retry-After", "50")]
    {
        let server = MockServer::scripted([script]).unwrap();
        let call = client(&server).retries(1).build().unwrap().call(ids()).unwrap();
        let canceller = call.canceller();
        let joined = thread::spawn(move || (call.join(), call.join_report()));
        assert!(server.wait_for_requests(1, LONG));
        let began = Instant::now();
        canceller.cancel();
        let (result, report) = joined.join().unwrap();
        assert!(began.elapsed() < LONG / 2, "the cancel did not take effect at once");
        assert!(result.unwrap_err().is_cancelled());
        assert_eq!((report.ending, server.requests().len()), (Outcome::Cancelled, 1));
        assert!(server.wait_for_open_connections(0, LONG));
    }
}

#[test]
fn dropping_a_pending_completion_cancels_it() {
    let server = MockServer::scripted([Script::new().wait_for_client_gone(LONG)]).unwrap();
    let call = client(&server).build().unwrap().call(ids()).unwrap();
    assert!(server.wait_for_requests(1, LONG));
    drop(call);
    assert!(server.wait_for_disconnects(1, LONG));
}

#[test]
fn a_key_that_the_server_echoes_is_redacted() {
    const KEY: &str = "sk-canary-0123456789abcdef";
    let echo = json!({"id": format!("id-{KEY}"), "choices": [{"text": "Hi", "finish_reason": format!("because {KEY}")}]});
    let refusal = json!({"error": {"message": format!("bad key {KEY}")}});
    let page = format!("<title>{KEY}</title>");
    let server = MockServer::scripted([
        Script::status(200).json(echo),
        Script::status(401).json(&refusal),
        Script::status(200).json(&refusal),
        Script::status(200).body("text/html", page),
    ])
    .unwrap();
    let client = client(&server).api_key(KEY).build().unwrap();
    let shown = (0..4).map(|_| {
        let call = client.call(ids()).unwrap();
        format!("{:?}{:?}", call.join(), call.join_report())
    });
    let shown = shown.collect::<Vec<_>>();
    assert!(
        shown.iter().all(|shown| !shown.contains("canary") && shown.contains("[redacted]")),
        "{shown:#?}"
    );
}
