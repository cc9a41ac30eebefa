//! Tests of resuming with real llama.cpp servers. In one test, a server is killed with -9 in
//! mid-stream and started again on the same port. In another test, one of two servers is killed
//! while it serves many streams. The tests are ignored by default. They run with
//! `--include-ignored` when `TOKENWIRE_LIVE_SERVER` is the path of `llama-server.sh`.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::live::live_script;
use common::streams::{Token, collect};
use crossbeam_channel::Receiver;
use serde_json::{Value, json};
use tokenwire::{
    ApiClient, CompletionRequest, Endpoint, IdsExact, Outcome, RetryPolicy, SamplingParams, StreamGuard,
    StreamReport, StreamToken, TokenId,
};

const LONG: Duration = Duration::from_secs(120);
/// The ids of "The three primary colors are".
const PROMPT: [TokenId; 5] = [504, 1296, 3003, 4683, 359];
const IDS: u32 = 48;
const KILLS: usize = 20;
/// The arguments of each server. Two servers together have a slot for every stream.
const ARGS: [&str; 4] = ["-np", "2", "-c", "2048"];
const ARGS_OF_MANY: [&str; 4] = ["-np", "16", "-c", "2048"];
const STREAMS: usize = 16;
const IDS_OF_MANY: u32 = 18;

/// A server that is killed when it is dropped.
struct LiveServer {
    script: String,
    args: [&'static str; 4],
    url: String,
}

impl LiveServer {
    fn start(script: &str, args: [&'static str; 4]) -> Self {
        let url = run(script, &[&["start", "0"], &args[..]].concat());
        Self { script: script.to_owned(), args, url }
    }

    fn port(&self) -> &str {
        self.url.rsplit(':').next().unwrap()
    }

    fn kill(&self) {
        run(&self.script, &["kill", self.port()]);
    }

    fn start_again(&self) {
        let args = [&["start", self.port()], &self.args[..]].concat();
        assert_eq!(run(&self.script, &args), self.url);
    }

    /// Returns the server's ids for this prompt, without this crate.
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
    let output = Command::new(script).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Reads a stream whose server is killed after `kill_at` ids and started again. Returns its ids,
/// its text and its report.
fn stream(server: &LiveServer, client: &ApiClient, kill_at: usize) -> (Vec<TokenId>, String, StreamReport) {
    let (tokens, guard) = greedy(client, &PROMPT, IDS);
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
#[ignore = "needs llama-server.sh: TOKENWIRE_LIVE_SERVER"]
fn a_server_killed_and_restarted_in_mid_stream_loses_and_duplicates_no_id() {
    let script = live_script();
    let server = LiveServer::start(&script, ARGS);
    let whole = server.plain_ids(&PROMPT, IDS);
    let mut waits = RetryPolicy::default();
    (waits.min_wait, waits.max_wait, waits.budget) =
        (Duration::from_millis(200), Duration::from_secs(1), 100_000);
    let builder = ApiClient::builder(&server.url).endpoint(Endpoint::LlamaCpp).retry(waits).resumes(1000);
    let client = builder.build().unwrap();
    let (mut resumed, mut equal) = (0, 0);
    for round in 0..KILLS {
        let (ids, text, report) = stream(&server, &client, 1 + round * 2);
        assert_eq!((report.ending, report.ids_exact), (Outcome::Complete, IdsExact::Yes), "{report:?}");
        assert!(text.is_ascii(), "{text:?}");
        let usage = report.usage.unwrap();
        assert_eq!((usage.prompt_tokens as usize, usage.completion_tokens), (PROMPT.len(), IDS));
        assert_eq!((ids.len(), report.tokens as u32), (whole.len(), IDS), "lost or duplicated");
        // The server may have sent all remaining tokens before it died.
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
        "{KILLS} streams, the server killed in each: 0 ids lost, 0 duplicated; {resumed} resumed, each with the ids that \
        the server gives after the prompt and the received ids; {equal} equal to the uninterrupted run"
    );
    assert!(resumed > KILLS / 2, "{resumed}");
}

/// Returns a sequence of rising numbers, with a different start for each stream. The model
/// continues to count, so lost or duplicated tokens are visible. While the model counts, two tokens
/// are rarely almost equally likely, so other streams on the server do not change the result.
fn counting(n: usize) -> String {
    let numbers: Vec<_> = (0..5).map(|more| (10 + 5 * n + more).to_string()).collect();
    format!("{},", numbers.join(", "))
}

fn plain_ids_of_all(server: &LiveServer, prompts: &[(Vec<TokenId>, u32)]) -> Vec<Vec<TokenId>> {
    thread::scope(|scope| {
        let ask = |(prompt, count): &(Vec<TokenId>, u32)| server.plain_ids(prompt, *count);
        let answers: Vec<_> = prompts.iter().map(|prompt| scope.spawn(move || ask(prompt))).collect();
        answers.into_iter().map(|answer| answer.join().unwrap()).collect()
    })
}

fn first_tokens(tokens: &Receiver<StreamToken>, count: usize) -> Vec<Token> {
    let next = |_| match tokens.recv_timeout(LONG).unwrap() {
        StreamToken::Token { text, id } => (text, id),
        other => panic!("{other:?}"),
    };
    (0..count).map(next).collect()
}

#[test]
#[ignore = "needs llama-server.sh: TOKENWIRE_LIVE_SERVER"]
fn two_servers_with_one_killed_under_16_streams_lose_and_duplicate_no_id() {
    let script = live_script();
    let [first, second] = thread::scope(|scope| {
        let starting = [(); 2].map(|()| scope.spawn(|| LiveServer::start(&script, ARGS_OF_MANY)));
        starting.map(|starting| starting.join().unwrap())
    });
    // All streams break at the same time.
    let mut retry = RetryPolicy::default();
    retry.budget = STREAMS as u32 * 2;
    let builder = ApiClient::builder(&first.url).base_url(&second.url).endpoint(Endpoint::LlamaCpp);
    let client = builder.retry(retry).resumes(3).build().unwrap();
    let prompts: Vec<_> = (0..STREAMS).map(|n| client.tokenize(&counting(n), false).unwrap()).collect();
    let from_the_start: Vec<_> = prompts.iter().map(|prompt| (prompt.clone(), IDS_OF_MANY)).collect();
    let whole = plain_ids_of_all(&second, &from_the_start);

    let streams: Vec<_> = prompts.iter().map(|prompt| greedy(&client, prompt, IDS_OF_MANY)).collect();
    let begun: Vec<Vec<Token>> = streams.iter().map(|(tokens, _)| first_tokens(tokens, 5)).collect();
    first.kill();
    let (mut all_ids, mut reports, mut behind) = (Vec::new(), Vec::new(), Vec::new());
    for (((receiver, guard), mut tokens), prompt) in streams.into_iter().zip(begun).zip(&prompts) {
        tokens.extend(collect(&receiver).0);
        let report = guard.join();
        assert_eq!((report.ending, report.ids_exact), (Outcome::Complete, IdsExact::Yes), "{report:?}");
        assert!(tokens.iter().all(|(text, _)| text.is_ascii()), "{tokens:?}");
        let ids: Vec<_> = tokens.iter().filter_map(|(_, id)| *id).collect();
        assert_eq!(
            (ids.len() as u32, report.usage.unwrap().completion_tokens),
            (IDS_OF_MANY, IDS_OF_MANY),
            "lost or duplicated"
        );
        if let Some(resume) = report.resumes.last() {
            assert!(resume.text_exact && report.route == 1 && report.failovers > 0, "{report:?}");
            let from = (resume.at_id - resume.ids_again) as usize;
            behind.push((prompt.iter().chain(&ids[..from]).copied().collect(), IDS_OF_MANY - from as u32));
        }
        all_ids.push(ids);
        reports.push(report);
    }
    let resumed = behind.len();
    let tails: Vec<_> =
        all_ids.iter().zip(&reports).filter(|(_, report)| !report.resumes.is_empty()).collect();
    for ((ids, report), plain) in tails.into_iter().zip(plain_ids_of_all(&second, &behind)) {
        assert_eq!(ids[ids.len() - plain.len()..], plain, "{:?}", report.resumes);
    }
    let equal = all_ids.iter().zip(&whole).filter(|(ids, whole)| ids == whole).count();
    println!(
        "{STREAMS} streams, one of two servers killed: {resumed} broke and were resumed at the other, 0 ids lost, 0 duplicated, \
        each with the ids that the server gives after the prompt and the received ids; {equal} of {STREAMS} equal to the \
        uninterrupted run"
    );
    assert!(resumed > STREAMS / 2, "{resumed}");

    first.start_again();
    wait_for_streams_at_the_first(&client);
}

fn greedy(client: &ApiClient, prompt: &[TokenId], ids: u32) -> (Receiver<StreamToken>, StreamGuard) {
    let params = SamplingParams::default().temperature(0.0).max_tokens(ids);
    client.stream(CompletionRequest::ids(prompt).sampling(params).cache_prompt(false)).unwrap()
}

fn wait_for_streams_at_the_first(client: &ApiClient) {
    let began = Instant::now();
    loop {
        let (_tokens, guard) = greedy(client, &PROMPT, 2);
        let report = guard.join();
        assert_eq!(report.ending, Outcome::Complete, "{report:?}");
        if report.route == 0 {
            break;
        }
        assert!(began.elapsed() < LONG, "the killed server is never used again");
        thread::sleep(Duration::from_millis(100));
    }
    println!("the killed server gets streams again {:.1?} after its restart", began.elapsed());
}
