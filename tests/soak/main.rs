//! Ten thousand streams, half of them cancelled and a third of them faulted, and what is left afterwards: no thread, no
//! descriptor, no memory, no other stream that was hurt.
//!
//! Each test runs its body in a process of its own, one after the other, for it counts that process's threads,
//! descriptors and memory ([`in_own_process`]). The servers whose memory must not count run in one more ([`Elsewhere`]).
//! glibc would give each thread an arena of its own, and with it fragments that differ from run to run: the
//! processes have `MALLOC_ARENA_MAX=1`, and the thresholds from which freed memory is given back are fixed at their defaults.
//! Resident memory is the `Rss` of `/proc/self/smaps_rollup`, because the `VmRSS` of `/proc/self/status` is summed up from counters
//! that each processor holds back by up to 32 pages.
//!
//! Chance has fixed seeds. No clock decides a test but to say that something hangs.

#![cfg(all(feature = "testing", target_os = "linux"))]

mod bounds;
#[path = "../common/mod.rs"]
mod common;
mod innocent;
mod many;
mod phases;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use common::certificates::certificates;
use common::checks::sample_of;
use common::streams::{LONG, Last, Token, collect};
use crossbeam_channel::Receiver;
use tokenwire::testing::{Cut, Framing, Gate, MockServer, Request, Script, TlsIdentity};
use tokenwire::{
    ApiClient, ApiClientBuilder, CompletionRequest, ErrorKind, Limit, Limits, Outcome, RetryPolicy,
    SamplingParams, StreamGuard, StreamReport, StreamToken, Timeouts, TokenId,
};

const MIB: u64 = 1 << 20;
/// Rounds of all streams, of which one has to end within the bound of memory. A round is judged by what it adds to the one
/// before: what is lost with each stream is lost in every round, 105 bytes a stream are over the bound. What the bound cannot
/// see is less than that, and what grows once: the allocator takes such steps when the machine is busy.
const MAX_ROUNDS: usize = 3;
/// Set in a process that runs the body of a test.
const INSIDE: &str = "TOKENWIRE_SOAK_INSIDE";

// ---- processes ----

/// Runs `body` in a process in which nothing else runs. What it prints is printed, how it ends is how this ends.
fn in_own_process(test: &str, body: fn()) {
    static TURN: Mutex<()> = Mutex::new(());
    if env::var_os(INSIDE).is_some() {
        return body();
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let began = Instant::now();
    let output = this_program(&["--exact", test]).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    println!("{shown}{}", String::from_utf8_lossy(&output.stderr));
    println!("{test}: {:.1?}", began.elapsed());
    assert!(output.status.success() && shown.contains("1 passed"), "it failed in its own process");
}

fn this_program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(arguments).args(["--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    command.env("MALLOC_ARENA_MAX", "1");
    command.env("MALLOC_TRIM_THRESHOLD_", "131072").env("MALLOC_MMAP_THRESHOLD_", "131072");
    command
}

/// The servers, plain and TLS, in a process of their own. Dropping it ends that process.
struct Elsewhere {
    process: Child,
    said: BufReader<ChildStdout>,
    plain: String,
    tls: String,
    authority: String,
}

impl Elsewhere {
    fn start() -> Self {
        let mut command = this_program(&["--exact", "serve", "--ignored"]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        let mut lines = said.by_ref().lines().map(Result::unwrap).skip_while(|line| line != "here:").skip(1);
        let (plain, tls) = (lines.next().unwrap(), lines.next().unwrap());
        let authority = lines.take_while(|line| !line.is_empty()).map(|line| line + "\n").collect();
        Self { process, said, plain, tls, authority }
    }

    fn client(&self, tls: bool) -> ApiClientBuilder {
        let url = if tls { &self.tls } else { &self.plain };
        ApiClient::builder(url).ca_pem(self.authority.clone()).retries(0)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // It has a last word to say, and would complain of a pipe that is closed.
        let _ = self.said.read_to_end(&mut Vec::new());
        // If it is gone already, the test has failed before.
        let _ = self.process.wait();
    }
}

/// No test: the program that [`Elsewhere`] runs. It ends with its standard input.
#[test]
#[ignore = "the other tests run it, in a process of its own"]
fn serve() {
    if env::var_os(INSIDE).is_none() {
        return;
    }
    let (authority, identity) = certificates();
    let plain = MockServer::start(answer).unwrap();
    let tls = MockServer::start_tls(answer, identity).unwrap();
    println!("\nhere:\n{}\n{}\n{}\n", plain.url(), tls.url(), authority.trim());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

// ---- what the servers answer ----

/// What a prompt asks for: its first id. The second is the number of the stream, the third a place in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Fin,
    Reset,
    Garbage,
    Busy,
    /// Silence after so many tokens.
    Stall,
    /// Silence before the head.
    Silent,
    SmallTokens,
    BigTokens,
    EndlessLine,
    EndlessComment,
    EndlessEvent,
}

const KINDS: [Kind; 12] = [
    Kind::Good,
    Kind::Fin,
    Kind::Reset,
    Kind::Garbage,
    Kind::Busy,
    Kind::Stall,
    Kind::Silent,
    Kind::SmallTokens,
    Kind::BigTokens,
    Kind::EndlessLine,
    Kind::EndlessComment,
    Kind::EndlessEvent,
];

/// The tokens of a whole answer.
const TOKENS: usize = 8;
/// One of the big tokens.
const BIG_BYTES: usize = 64 << 10;

fn tokens(number: u32) -> Vec<(TokenId, String)> {
    (0..TOKENS as u32).map(|n| (number * 16 + n, format!(" t{n}é"))).collect()
}

fn expected(number: u32) -> Vec<Token> {
    tokens(number).into_iter().map(|(id, text)| (text, Some(id))).collect()
}

fn prompt(kind: Kind, number: u32, place: usize) -> [TokenId; 3] {
    [kind as TokenId, number, place as TokenId]
}

fn one_token(text: &str) -> String {
    serde_json::json!({"choices": [{"index": 0, "text": text, "token_ids": [1]}]}).to_string()
}

fn answer(request: &Request) -> Script {
    let body = request.json();
    let id = |n: usize| body["prompt"][n].as_u64().unwrap() as usize;
    let (kind, number, place) = (KINDS[id(0)], id(1) as u32, id(2));
    let owned = tokens(number);
    let whole = || Script::tokens(owned.iter().map(|(id, text)| (*id, text.as_str())));
    let begun = || {
        Script::events(owned[..place % TOKENS].iter().map(|(id, text)| {
            serde_json::json!({"choices": [{"index": 0, "text": text, "token_ids": [id]}]}).to_string()
        }))
    };
    let endless = |first: &str, again: String| {
        Script::events::<&str>([]).framing(Framing::CloseDelimited).write(first).repeat(
            again,
            u64::MAX,
            Duration::ZERO,
        )
    };
    match kind {
        Kind::Good => whole(),
        Kind::Fin | Kind::Reset => {
            let how = if kind == Kind::Fin { Cut::Fin } else { Cut::Reset };
            let length = whole().wire().len();
            whole().cut_at(place % length, how)
        }
        Kind::Garbage => begun().event("\u{0}{[oops").write("zz\r\n\u{1}\u{2}").close(),
        Kind::Busy => {
            Script::status(503).header("retry-after-ms", "1").json(r#"{"error":{"message":"busy"}}"#)
        }
        Kind::Stall => begun().hang(LONG),
        Kind::Silent => Script::new().hang(LONG),
        Kind::SmallTokens => endless("", format!("data: {}\n\n", one_token(" a")).repeat(200)),
        Kind::BigTokens => endless("", format!("data: {}\n\n", one_token(&"x".repeat(BIG_BYTES)))),
        Kind::EndlessLine => endless("data: {\"choices\": \"", "x".repeat(16 << 10)),
        Kind::EndlessComment => endless(":", "x".repeat(16 << 10)),
        Kind::EndlessEvent => endless("", format!("data: {}\n", "x".repeat(1000)).repeat(16)),
    }
}

// ---- what is counted ----

/// Threads and descriptors of this process.
fn counts() -> (usize, usize) {
    let entries = |folder| fs::read_dir(folder).unwrap().count();
    (entries("/proc/self/task"), entries("/proc/self/fd"))
}

/// Waits until threads and descriptors are as before; how long that took.
fn back_to(before: (usize, usize)) -> Duration {
    let began = Instant::now();
    while counts() != before {
        assert!(
            began.elapsed() < LONG,
            "left behind: {:?} threads and descriptors, before: {before:?}",
            counts()
        );
        thread::sleep(Duration::from_millis(2));
    }
    began.elapsed()
}

/// Resident memory in bytes.
fn resident() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn kib(bytes: u64) -> u64 {
    bytes >> 10
}

/// splitmix64: a fixed row of numbers for each seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn micros(&mut self, below: u64) -> Duration {
        Duration::from_micros(self.next(below))
    }
}

// ---- one stream ----

fn start(client: &ApiClient, prompt: &[TokenId]) -> (Receiver<StreamToken>, StreamGuard) {
    client.stream_completion(prompt, SamplingParams::default(), None).unwrap()
}

fn spin(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        std::hint::spin_loop();
    }
}
