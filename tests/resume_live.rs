//! Resumes against a real llama.cpp server that is killed with -9 in mid-stream and started again on the same port. It runs when
//! `TOKENWIRE_LIVE_SERVER` is the path of `llama-server.sh`; without it the test passes over it and says so.

use std::env;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokenwire::{
    ApiClient, CompletionRequest, Ending, IdsExact, RetryPolicy, SamplingParams, StreamReport, StreamToken,
    TokenId, Wire,
};

const LONG: Duration = Duration::from_secs(120);
/// "The three primary colors are"
const PROMPT: [TokenId; 5] = [504, 1296, 3003, 4683, 359];
const IDS: u32 = 48;
const KILLS: usize = 20;
const ARGS: [&str; 4] = ["-np", "2", "-c", "2048"];

/// Killed when it goes.
struct LiveServer {
    script: String,
    url: String,
}

impl LiveServer {
    fn start(script: String) -> Self {
        let url = run(&script, &["start", "0"]);
        Self { script, url }
    }

    fn port(&self) -> &str {
        self.url.rsplit(':').next().unwrap()
    }

    fn kill(&self) {
        run(&self.script, &["kill", self.port()]);
    }

    fn start_again(&self) {
        assert_eq!(run(&self.script, &["start", self.port()]), self.url);
    }

    /// What the server answers to these ids, asked without any of this crate.
    fn plain_ids(&self, prompt: &[TokenId], count: u32) -> Vec<TokenId> {
        let host = self.url.trim_start_matches("http://");
        let body = json!({"prompt": prompt, "n_predict": count, "temperature": 0.0, "cache_prompt": false, "stream": true,
            "return_tokens": true})
        .to_string();
        let mut socket = TcpStream::connect(host).unwrap();
        write!(
            socket,
            "POST /completion HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        )
        .unwrap();
        write!(socket, "Content-Type: application/json\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let events = answer.lines().filter_map(|line| line.strip_prefix("data: "));
        let events = events.map(|data| serde_json::from_str::<Value>(data).unwrap());
        let ids = events.flat_map(|event| event["tokens"].as_array().unwrap().clone());
        ids.map(|id| id.as_u64().unwrap() as TokenId).collect()
    }
}

impl Drop for LiveServer {
    fn drop(&mut self) {
        let _ = Command::new(&self.script).args(["kill", self.port()]).output();
    }
}

fn run(script: &str, args: &[&str]) -> String {
    let more = if args[0] == "start" { &ARGS[..] } else { &[] };
    let output = Command::new(script).args(args).args(more).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Ids and text of a stream whose server dies when so many have come, and comes back.
fn stream(server: &LiveServer, client: &ApiClient, kill_at: usize) -> (Vec<TokenId>, String, StreamReport) {
    let params = SamplingParams::default().temperature(0.0).max_tokens(IDS);
    let request = CompletionRequest::ids(PROMPT).sampling(params).cache_prompt(false);
    let (tokens, guard) = client.stream(request).unwrap();
    let (mut ids, mut text) = (Vec::new(), String::new());
    while let Ok(item) = tokens.recv_timeout(LONG) {
        if let StreamToken::Token { text: piece, id } = item {
            ids.extend(id);
            text += &piece;
        }
        if ids.len() == kill_at {
            server.kill();
            server.start_again();
        }
    }
    (ids, text, guard.join())
}

#[test]
fn a_server_killed_and_started_again_in_mid_stream_loses_and_doubles_nothing() {
    let Ok(script) = env::var("TOKENWIRE_LIVE_SERVER") else {
        eprintln!("resume: skipped, TOKENWIRE_LIVE_SERVER is not set");
        return;
    };
    let server = LiveServer::start(script);
    let whole = server.plain_ids(&PROMPT, IDS);
    let mut waits = RetryPolicy::default();
    (waits.wait_min, waits.wait_max, waits.budget) =
        (Duration::from_millis(200), Duration::from_secs(1), 100_000);
    let builder = ApiClient::builder(&server.url).wire(Wire::LlamaCpp).retry(waits).resumes(1000);
    let client = builder.build().unwrap();
    let (mut resumed, mut equal) = (0, 0);
    for round in 0..KILLS {
        let (ids, text, report) = stream(&server, &client, 1 + round * 2);
        assert_eq!((report.ending, report.ids_exact), (Ending::Complete, IdsExact::Yes), "{report:?}");
        assert!(text.is_ascii(), "{text:?}");
        let usage = report.usage.unwrap();
        assert_eq!((usage.prompt_tokens as usize, usage.completion_tokens), (PROMPT.len(), IDS));
        assert_eq!((ids.len(), report.tokens as u32), (whole.len(), IDS), "lost or doubled");
        // The server may have sent all the rest before it died.
        if let [resume] = &report.resumes[..] {
            resumed += 1;
            assert!(resume.text_exact, "{resume:?}");
            let from = (resume.at_id - resume.ids_again) as usize;
            let behind: Vec<_> = PROMPT.iter().chain(&ids[..from]).copied().collect();
            let plain = server.plain_ids(&behind, IDS - from as u32);
            assert_eq!(ids[from..], plain, "round {round}, broken after {} ids", resume.at_id);
        }
        equal += usize::from(ids == whole);
    }
    println!(
        "{KILLS} streams, the server killed in each: lost 0, doubled 0; {resumed} taken up again, each tail as the server \
        itself has it behind prompt and ids received; {equal} equal to the unbroken run"
    );
    assert!(resumed > KILLS / 2, "{resumed}");
}
