//! Tests of failed requests that are saved and resent, against the mock server: which outcomes are
//! saved, and the contents of the file.

#![cfg(feature = "testing")]

#[path = "common/checks.rs"]
#[allow(dead_code, unreachable_pub)]
mod checks;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use std::{fs, process, thread};

use checks::each_row;
use crossbeam_channel::Receiver;
use serde_json::{Value, json};
use tokenwire::testing::{Cut, MockServer, OnAccept, Script, TlsIdentity};
use tokenwire::{
    ApiClient, ApiClientBuilder, CompletionRequest, Endpoint, Error, ErrorKind, Limits, Outcome,
    SavedRequest, StreamGuard, StreamReport, StreamToken, Timeouts,
};

/// A limit that only a hanging test reaches. No test here takes a hundredth of it.
const LONG: Duration = Duration::from_secs(30);
const KEY: &str = "sk-canary-77aa";
const GATEWAY: &str = "canary-gateway-88bb";
const OWN: &str = "canary-own-99cc";
const BAD_CHUNK_SIZE: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
const TOKENS: [(u32, &str); 2] = [(9707, "Hello"), (13, ".")];

// ---- helpers ----

/// A folder that does not exist yet. It is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tokenwire-saved-{}-{name}", process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.0) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns a client without retries, so that each failure is one request.
fn builder(url: &str) -> ApiClientBuilder {
    ApiClient::builder(url).retries(0)
}

fn client(url: &str, folder: &Path, timeouts: Timeouts, limits: Limits) -> ApiClient {
    let builder = builder(url).api_key(KEY).header("x-gateway", GATEWAY).model("m");
    builder.save_failed(folder).timeouts(timeouts).limits(limits).build().unwrap()
}

fn request() -> CompletionRequest {
    CompletionRequest::ids([785, 6722]).header("x-own", OWN).request_id("r-7").extra("z", json!({"a": 1.50}))
}

/// Returns the number of tokens and the last error. The file of the error must already exist when
/// the error arrives.
fn collect(receiver: &Receiver<StreamToken>) -> (usize, Option<Error>) {
    let (mut tokens, mut last) = (0, None);
    loop {
        match receiver.recv_timeout(LONG) {
            Ok(StreamToken::Token { .. }) => tokens += 1,
            Ok(StreamToken::Error(error)) => {
                assert!(error.saved_path().is_none_or(Path::exists), "the file does not exist yet");
                last = Some(error);
            }
            Ok(_) => {}
            Err(error) => {
                assert!(error.is_disconnected(), "the stream hangs");
                return (tokens, last);
            }
        }
    }
}

fn finish(stream: Result<(Receiver<StreamToken>, StreamGuard), Error>) -> (usize, StreamReport) {
    let (receiver, guard) = stream.unwrap();
    let (tokens, last) = collect(&receiver);
    let report = guard.join();
    assert_eq!(last.and_then(path_of), report.error.clone().and_then(path_of));
    (tokens, report)
}

fn path_of(error: Error) -> Option<PathBuf> {
    error.saved_path().map(Path::to_owned)
}

fn no_canary(text: &str) {
    for canary in [KEY, GATEWAY, OWN] {
        assert!(!text.contains(canary), "{text}");
    }
}

fn one_token() -> Script {
    Script::events([r#"{"choices":[{"index":0,"text":"canary-of-the-answer","token_ids":[1]}]}"#])
}

// ---- which outcomes are saved ----

struct Case {
    name: &'static str,
    script: Script,
    timeouts: fn(&mut Timeouts),
    limits: fn(&mut Limits),
    kind: &'static str,
    tokens: usize,
}

/// Returns the table of failures that are saved.
fn failures() -> Vec<Case> {
    let echo = format!("no: {KEY} {GATEWAY} {OWN}");
    let case =
        |name, script, kind, tokens| Case { name, script, timeouts: |_| {}, limits: |_| {}, kind, tokens };
    let timed = |name, script, timeouts, tokens| Case { timeouts, ..case(name, script, "timeout", tokens) };
    let comments = (0..200).fold(one_token(), |s, _| s.write(": alive\n\n").pause(Duration::from_millis(20)));
    vec![
        case("status", Script::status(500).json(json!({"error": {"message": echo}})), "server", 0),
        case("first event", Script::events([json!({"error": {"message": echo}}).to_string()]), "server", 0),
        case(
            "error in the stream",
            one_token().event(&json!({"error": {"message": echo, "code": 500}}).to_string()),
            "server",
            1,
        ),
        timed("silence", one_token().hang(LONG), |t| t.chunk = Some(Duration::from_millis(100)), 1),
        timed("comments only", comments, |t| t.content = Some(Duration::from_millis(100)), 1),
        timed(
            "no first token",
            Script::new().hang(LONG),
            |t| t.first_token = Some(Duration::from_millis(100)),
            0,
        ),
        timed("deadline", one_token().hang(LONG), |t| t.deadline = Some(Duration::from_millis(500)), 1),
        case("closed early", one_token().close(), "incomplete", 1),
        case("reset", one_token().reset(), "incomplete", 1),
        case("cut in the head", Script::tokens(TOKENS).cut_at(9, Cut::Fin), "incomplete", 0),
        case("not an event stream", Script::status(200).json(json!({"error": echo})), "not_event_stream", 0),
        case("broken framing", Script::raw(BAD_CHUNK_SIZE), "protocol", 0),
        case(
            "id out of range",
            one_token().event(r#"{"choices":[{"text":"a","token_ids":[-1]}]}"#),
            "protocol",
            1,
        ),
        Case { limits: |l| l.max_event_bytes = 64, ..case("limit", one_token(), "limit", 0) },
    ]
}

#[test]
fn every_failure_is_saved_and_a_resend_is_the_same_request() {
    each_row(
        failures(),
        |Case { name, script, timeouts: set_timeouts, limits: set_limits, kind, tokens }| {
            let folder = Folder::new(&name.replace(' ', "-"));
            let server = MockServer::scripted([script, Script::tokens(TOKENS)]).unwrap();
            let (mut timeouts, mut limits) = (Timeouts::default(), Limits::default());
            set_timeouts(&mut timeouts);
            set_limits(&mut limits);
            let client = client(&server.url(), &folder.0, timeouts, limits);
            let (received, report) = finish(client.stream(request()));
            let error = report.error.unwrap();
            assert_eq!((error.kind().as_str(), received), (kind, tokens), "{name}: {error}");
            let path = error.saved_path().unwrap_or_else(|| panic!("{name}: {error}"));
            assert_eq!(folder.files(), [path], "{name}");
            assert!(error.to_string().contains(&format!("saved as {path:?}")), "{name}: {error}");

            let text = fs::read_to_string(path).unwrap();
            no_canary(&text);
            assert!(!text.contains("canary-of-the-answer"), "{name}: {text}");
            let saved = SavedRequest::load(path).unwrap();
            no_canary(&format!("{saved:?}"));
            let failure = saved.failure();
            assert_eq!((&*failure.kind, failure.status), (kind, error.status()), "{name}");
            assert_eq!(failure.progress.tokens, tokens as u64, "{name}");
            assert!(failure.message.starts_with(error.message().split(':').next().unwrap()), "{name}");
            assert_eq!(saved.base_url(), format!("{}/v1", server.url()), "{name}");
            assert_eq!(
                saved.headers().collect::<Vec<_>>(),
                [("x-request-id", "r-7"), ("accept", "text/event-stream")],
                "{name}"
            );

            // The same client still has the limits that caused the failure.
            let again = self::client(saved.base_url(), &folder.0, Timeouts::default(), Limits::default());
            let (received, report) = finish(again.resend(&saved));
            assert_eq!((received, report.ending), (2, Outcome::Complete), "{name}: {:?}", report.error);
            let requests = server.requests();
            let [first, .., last] = &*requests else { panic!("{name}: {requests:?}") };
            assert_eq!((&first.body, &*first.path), (&last.body, &*last.path), "{name}");
            assert_eq!(first.body, saved.body(), "{name}");
            for header in ["authorization", "x-gateway", "x-request-id", "accept", "content-type"] {
                assert_eq!(first.header(header), last.header(header), "{name}: {header}");
            }
            assert_eq!(folder.files().len(), 1, "{name}: a successful request was saved");
        },
    );
}

#[test]
fn failed_connections_are_saved_too() {
    let folder = Folder::new("connect");
    let refusing = MockServer::scripted([Script::new()]).unwrap().url();
    // A certificate of an unknown authority.
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let identity = TlsIdentity::from_pem(&made.cert.pem(), &made.signing_key.serialize_pem()).unwrap();
    let untrusted = MockServer::start_tls(|_| Script::new(), identity).unwrap();
    let silent = MockServer::builder().on_accept(|_| OnAccept::Close).scripted([Script::new()]).unwrap();
    for (url, kind) in [
        (&*refusing, ErrorKind::Refused),
        (&*untrusted.url(), ErrorKind::Connect),
        (&*silent.url(), ErrorKind::Incomplete),
    ] {
        let client = client(url, &folder.0, Timeouts::default(), Limits::default());
        let error = finish(client.stream(request())).1.error.unwrap();
        assert_eq!(error.kind(), kind, "{error}");
        let saved = SavedRequest::load(error.saved_path().unwrap()).unwrap();
        assert_eq!(saved.failure().kind, kind.as_str());
    }
    assert_eq!(folder.files().len(), 3);
}

#[test]
fn a_request_that_did_not_fail_is_not_saved() {
    let folder = Folder::new("endings");
    let endless = || {
        one_token().repeat("data: {\"choices\":[{\"text\":\"a\"}]}\n\n", u64::MAX, Duration::from_millis(1))
    };
    let server = MockServer::scripted([Script::tokens(TOKENS), endless(), endless(), endless()]).unwrap();
    let client = client(&server.url(), &folder.0, Timeouts::default(), Limits::default());
    let (_, report) = finish(client.stream(request()));
    assert_eq!(report.ending, Outcome::Complete);

    let (receiver, guard) = client.stream(request()).unwrap();
    receiver.recv_timeout(LONG).unwrap();
    guard.cancel();
    assert_eq!(guard.join().ending, Outcome::Cancelled);

    let (receiver, guard) = client.stream(request()).unwrap();
    receiver.recv_timeout(LONG).unwrap();
    drop(receiver);
    assert_eq!(guard.join().ending, Outcome::ConsumerGone);

    // The request is rejected before a stream exists.
    client.stream(CompletionRequest::ids([])).unwrap_err();
    assert!(!folder.0.exists(), "{:?}", folder.files());

    let off = builder(&MockServer::scripted([Script::new()]).unwrap().url()).build().unwrap();
    assert_eq!(finish(off.stream(request())).1.error.unwrap().saved_path(), None);
}

// ---- more about resending ----

#[test]
fn the_endpoint_is_saved_and_a_resend_uses_it() {
    each_row(
        [
            (Endpoint::LlamaCpp, Endpoint::OpenAi, "", Script::llama_tokens(TOKENS)),
            (Endpoint::OpenAi, Endpoint::LlamaCpp, "/gate/v1", Script::tokens(TOKENS)),
        ],
        |(wire, other, base, script)| {
            let folder = Folder::new(wire.as_str());
            let server = MockServer::scripted([Script::status(503), script]).unwrap();
            let url = format!("{}{base}", server.url());
            let client = builder(&url).endpoint(wire).save_failed(&folder.0).build().unwrap();
            let error = finish(client.stream(CompletionRequest::ids([1]))).1.error.unwrap();
            let saved = SavedRequest::load(error.saved_path().unwrap()).unwrap();
            assert_eq!(saved.endpoint(), wire);
            // The second client has another endpoint.
            let again = builder(saved.base_url()).endpoint(other).build().unwrap();
            let (received, report) = finish(again.resend(&saved));
            assert_eq!((received, report.ending), (2, Outcome::Complete), "{wire}: {:?}", report.error);
            let requests = server.requests();
            assert_eq!(
                (&requests[0].path, &requests[0].body),
                (&requests[1].path, &requests[1].body),
                "{wire}"
            );
        },
    );
}

#[test]
fn a_key_inside_the_prompt_is_redacted_and_such_a_request_cannot_be_resent() {
    let folder = Folder::new("key-in-prompt");
    let server = MockServer::scripted([Script::status(503)]).unwrap();
    let client = client(&server.url(), &folder.0, Timeouts::default(), Limits::default());
    let prompt = format!("curl -H 'Authorization: Bearer {KEY}'");
    let error = finish(client.stream(CompletionRequest::text(prompt))).1.error.unwrap();
    let path = error.saved_path().unwrap();
    no_canary(&fs::read_to_string(path).unwrap());
    let saved = SavedRequest::load(path).unwrap();
    let body: Value = serde_json::from_slice(saved.body()).unwrap();
    assert_eq!(body["prompt"], "curl -H 'Authorization: Bearer [redacted]'");
    assert_eq!(client.resend(&saved).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_resend_that_fails_is_saved_again() {
    let folder = Folder::new("anew");
    let server = MockServer::scripted([Script::status(503)]).unwrap();
    let client = client(&server.url(), &folder.0, Timeouts::default(), Limits::default());
    let first = finish(client.stream(request())).1.error.and_then(path_of).unwrap();
    let saved = SavedRequest::load(&first).unwrap();
    let second = finish(client.resend(&saved)).1.error.and_then(path_of).unwrap();
    assert_ne!(first, second);
    assert_eq!(SavedRequest::load(second).unwrap().body(), saved.body());
}

// ---- what saving must not change ----

#[test]
fn an_unusable_folder_changes_only_the_saved_path() {
    let folder = Folder::new("a-file");
    fs::write(&folder.0, "in the way").unwrap();
    let server = MockServer::scripted([Script::status(503).json(r#"{"error":"busy"}"#)]).unwrap();
    for _ in 0..2 {
        let client = client(&server.url(), &folder.0, Timeouts::default(), Limits::default());
        let error = finish(client.stream(request())).1.error.unwrap();
        assert_eq!((error.status(), error.saved_path()), (Some(503), None));
        assert!(!error.to_string().contains("saved"), "{error}");
    }
    fs::remove_file(&folder.0).unwrap();
}

#[test]
fn many_concurrent_failures_keep_the_limit_of_files() {
    let folder = Folder::new("many");
    let server = MockServer::start(|_| Script::status(503)).unwrap();
    let mut limits = Limits::default();
    limits.max_saved_files = 40;
    let client = client(&server.url(), &folder.0, Timeouts::default(), limits);
    let paths = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..6 {
                    let error = finish_any(client.stream(request()));
                    paths.lock().unwrap().push(path_of(error).unwrap());
                }
            });
        }
    });
    let mut paths = paths.into_inner().unwrap();
    paths.sort();
    paths.dedup();
    assert_eq!((paths.len(), folder.files().len()), (48, 40));
}

/// Reads any stream to its error. With many streams, the file may already be removed to make room
/// for another.
fn finish_any(stream: Result<(Receiver<StreamToken>, StreamGuard), Error>) -> Error {
    let (_receiver, guard) = stream.unwrap();
    guard.join().error.unwrap()
}
