//! Tests against a real llama.cpp server. They are ignored by default and run with
//! `--include-ignored` when `TOKENWIRE_LIVE_URL` is the URL of a server (`http://127.0.0.1:8080`).
//! Tests that start their own server also need `TOKENWIRE_LIVE_SERVER`, the path of
//! `llama-server.sh`. `.ci/run` sets both.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::live::{LONG, PROMPT, greedy, live_script, live_url};
use serde_json::{Value, json};
use tokenwire::{
    ApiClient, ApiClientBuilder, CompletionRequest, Endpoint, ErrorKind, IdsExact, Outcome, StreamToken,
    TokenId,
};

/// Reads a stream and returns its ids, text and exactness. The stream must be complete.
fn stream(client: &ApiClient, request: CompletionRequest) -> (Vec<TokenId>, String, IdsExact) {
    let (receiver, guard) = client.stream(request).unwrap();
    let (mut ids, mut text, mut done) = (Vec::new(), String::new(), false);
    while let Ok(item) = receiver.recv_timeout(LONG) {
        match item {
            StreamToken::Token { text: piece, id } => {
                ids.extend(id);
                text.push_str(&piece);
            }
            StreamToken::Done { .. } => done = true,
            other => panic!("{other:?}"),
        }
    }
    let report = guard.join();
    assert!(done, "{report:?}");
    assert_eq!(report.ending, Outcome::Complete);
    (ids, text, report.ids_exact)
}

/// Sends a request over a plain socket, without this crate, and returns the body.
fn plain_post(url: &str, path: &str, body: &Value) -> String {
    let host = url.trim_start_matches("http://");
    let mut socket = TcpStream::connect(host).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(body.as_bytes()).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

/// Returns the ids that the server streams for the same request on its native endpoint, without
/// this crate.
fn plain_ids(url: &str, prompt: impl Into<Value>, max_tokens: u32) -> Vec<TokenId> {
    let prompt = prompt.into();
    let body = json!({"prompt": prompt, "n_predict": max_tokens, "temperature": 0.0, "seed": 1,
        "cache_prompt": false, "stream": true, "return_tokens": true});
    plain_post(url, "/completion", &body)
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str::<Value>(data).unwrap())
        .flat_map(|event| event["tokens"].as_array().unwrap().clone())
        .map(|id| id.as_u64().unwrap() as TokenId)
        .collect()
}

#[test]
#[ignore = "needs a llama.cpp server: TOKENWIRE_LIVE_URL"]
fn ids_equal_those_of_the_same_request_without_this_crate() {
    let url = live_url();
    let expected = plain_ids(&url, PROMPT.to_vec(), 24);
    assert_eq!(expected.len(), 24);
    for wire in [Endpoint::Auto, Endpoint::OpenAi, Endpoint::LlamaCpp] {
        let client = ApiClient::builder(&url).endpoint(wire).build().unwrap();
        for round in ["unknown server", "known server"] {
            let (ids, text, exact) = stream(&client, greedy(CompletionRequest::ids(PROMPT), 24));
            assert_eq!(ids, expected, "{wire}, {round}");
            assert!(!text.is_empty());
            assert_eq!(exact, IdsExact::Yes, "{wire}, {round}");
        }
        assert_eq!(client.server().unwrap(), Some(tokenwire::ServerKind::LlamaCpp));
    }
}

#[cfg(feature = "tokenizer")]
#[test]
#[ignore = "needs a llama.cpp server: TOKENWIRE_LIVE_URL"]
fn a_text_prompt_encoded_with_the_tokenizer_gives_the_same_ids() {
    let url = live_url();
    let Some(file) = common::shared("tokenizers/smollm2/tokenizer.json") else { return };
    let tokenizer = tokenwire::Tokenizer::from_file(file).unwrap();
    let prompt = "<|im_start|>user\nWrite one English sentence about the sea. (naïve café, 颜色, 🎨)<|im_end|>\n<|im_start|>assistant\n";
    let prompt_ids = tokenizer.encode(prompt, tokenwire::Special::TEMPLATE).unwrap();
    let client = ApiClient::builder(&url).endpoint(Endpoint::LlamaCpp).build().unwrap();
    let (ids, text, exact) = stream(&client, greedy(CompletionRequest::ids(prompt_ids), 24));
    let (from_text, ..) = stream(&client, greedy(CompletionRequest::text(prompt), 24));
    assert_eq!(ids, plain_ids(&url, prompt, 24));
    assert_eq!(ids, from_text);
    // Plain English has no characters of several tokens, whose ids this server holds back.
    assert_eq!(exact, IdsExact::Yes, "{text:?}");
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
}

#[test]
#[ignore = "needs a llama.cpp server: TOKENWIRE_LIVE_URL"]
fn sixteen_concurrent_streams_are_complete_and_exact() {
    let url = live_url();
    let client = ApiClient::builder(&url).build().unwrap();
    let streams: Vec<_> = (0..16)
        .map(|n| client.stream(greedy(CompletionRequest::ids(PROMPT[..3 + n % 3].to_vec()), 32)).unwrap())
        .collect();
    for (receiver, guard) in streams {
        let report = guard.join();
        assert_eq!(
            (report.ending, report.ids_exact),
            (Outcome::Complete, IdsExact::Yes),
            "{:?}",
            report.error
        );
        assert_eq!(report.usage.unwrap().completion_tokens, 32);
        let ids = receiver.iter().filter(|token| matches!(token, StreamToken::Token { id: Some(_), .. }));
        assert_eq!(ids.count(), 32);
    }
}

#[test]
#[ignore = "needs a llama.cpp server: TOKENWIRE_LIVE_URL"]
fn a_cancel_in_mid_stream_frees_the_slot_of_the_server() {
    let url = live_url();
    let client = ApiClient::builder(&url).build().unwrap();
    let busy = || {
        let metrics = plain_get(&url, "/metrics");
        let line = metrics.lines().find(|line| line.starts_with("llamacpp:requests_processing "));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .expect("the metrics contain the number of busy slots")
    };
    let request = greedy(CompletionRequest::ids(PROMPT), 900).extra("ignore_eos", true);
    let (receiver, guard) = client.stream(request).unwrap();
    for _ in 0..5 {
        receiver.recv_timeout(LONG).unwrap();
    }
    assert!(busy() >= 1.0);
    guard.cancel();
    let began = Instant::now();
    while busy() > 0.0 {
        assert!(began.elapsed() < LONG, "the slot is still busy");
        thread::sleep(Duration::from_millis(5));
    }
    println!("slot free {:?} after the cancel", began.elapsed());
    assert_eq!(guard.join().ending, Outcome::Cancelled);
}

fn plain_get(url: &str, path: &str) -> String {
    let host = url.trim_start_matches("http://");
    let mut socket = TcpStream::connect(host).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// The server of one test. Dropping it kills it.
struct OwnServer {
    script: String,
    url: String,
}

impl OwnServer {
    fn start(args: &[&str]) -> Self {
        let script = live_script();
        let output = Command::new(&script).args(["start", "0"]).args(args).output().unwrap();
        let url = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { script, url }
    }

    fn client(&self) -> ApiClientBuilder {
        ApiClient::builder(&self.url)
    }

    fn kill(&self) {
        let port = self.url.rsplit(':').next().unwrap();
        Command::new(&self.script).args(["kill", port]).output().unwrap();
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
#[ignore = "needs llama-server.sh: TOKENWIRE_LIVE_SERVER"]
fn a_wrong_key_is_a_typed_error_and_the_right_key_works() {
    let server = OwnServer::start(&["-np", "1", "-c", "512", "--api-key", "sesame"]);
    for (key, status) in [(Some("wrong-canary"), Some(401)), (None, Some(401)), (Some("sesame"), None)] {
        let mut client = server.client();
        if let Some(key) = key {
            client = client.api_key(key);
        }
        let client = client.build().unwrap();
        let (_receiver, guard) = client.stream(greedy(CompletionRequest::ids(PROMPT), 2)).unwrap();
        let report = guard.join();
        assert_eq!(report.error.as_ref().and_then(|error| error.status()), status, "{key:?}: {report:?}");
        if let Some(error) = report.error {
            assert_eq!(error.kind(), ErrorKind::Server);
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }
}

#[test]
#[ignore = "needs llama-server.sh: TOKENWIRE_LIVE_SERVER"]
fn a_server_killed_in_mid_stream_is_one_typed_error_after_the_tokens() {
    let server = OwnServer::start(&["-np", "1", "-c", "2048"]);
    let client = server.client().build().unwrap();
    let request = greedy(CompletionRequest::ids(PROMPT), 1500).extra("ignore_eos", true);
    let (receiver, guard) = client.stream(request).unwrap();
    let mut tokens = 0;
    let mut errors = Vec::new();
    while let Ok(item) = receiver.recv_timeout(LONG) {
        match item {
            StreamToken::Token { .. } => tokens += 1,
            StreamToken::Error(error) => errors.push(error),
            other => panic!("{other:?}"),
        }
        if tokens == 10 && errors.is_empty() {
            server.kill();
        }
    }
    assert!(tokens >= 10, "{tokens}");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].kind(), ErrorKind::Incomplete, "{}", errors[0]);
    let report = guard.join();
    assert_eq!((report.ending, report.tokens), (Outcome::Failed, tokens));
    println!("{tokens} tokens, then: {}", errors[0]);
}
