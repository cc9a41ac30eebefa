//! Runs ten thousand streams, half of them cancelled and a third of them faulty. Afterwards no
//! thread, descriptor or memory may remain, and no other stream may be affected.
//!
//! Each test runs its body in its own process ([`in_own_process`]), one after the other, because it
//! counts the threads, descriptors and memory of that process. Servers whose memory must not count
//! run in another process ([`Elsewhere`]).
//!
//! Three settings make the memory comparable between runs:
//!
//! - `MALLOC_ARENA_MAX=1`: otherwise glibc gives each thread its own arena, with fragments that
//!   differ from run to run.
//! - The thresholds at which freed memory is returned are fixed at their defaults.
//! - Resident memory is the `Rss` of `/proc/self/smaps_rollup`. The `VmRSS` of `/proc/self/status`
//!   is a sum of counters, and each processor holds back up to 32 pages of it.
//!
//! Random numbers have fixed seeds. A clock decides a test only if something hangs.

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
/// The largest number of rounds of all streams. One of the rounds must stay within the limit of
/// memory. A round counts the memory that it adds to the previous round. A leak in each stream adds
/// memory in every round, and a leak of 105 bytes per stream exceeds the limit. Smaller leaks are
/// not found. Memory that grows only once, as in the allocator on a busy machine, is not found
/// either.
const MAX_ROUNDS: usize = 3;
/// The variable that is set in a process that runs the body of a test.
const INSIDE: &str = "TOKENWIRE_SOAK_INSIDE";

// ---- processes ----

/// Runs `body` in a separate process and prints the output of that process. The test fails if the
/// process fails.
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
    assert!(output.status.success() && shown.contains("1 passed"), "the test failed in its own process");
}

fn this_program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(arguments).args(["--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    command.env("MALLOC_ARENA_MAX", "1");
    command.env("MALLOC_TRIM_THRESHOLD_", "131072").env("MALLOC_MMAP_THRESHOLD_", "131072");
    command
}

/// The servers, plain and TLS, in a separate process. Dropping this value ends that process.
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
        // The process still prints its last lines, and a closed pipe would be an error.
        let _ = self.said.read_to_end(&mut Vec::new());
        // If the process has already ended, the test has already failed.
        let _ = self.process.wait();
    }
}

/// Not a test: the program that [`Elsewhere`] runs. It ends when its standard input ends.
#[test]
#[ignore = "the other tests run it in a separate process"]
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

// ---- the responses of the servers ----

/// The kind of response that a prompt requests with its first id. The second id is the number of
/// the stream. The third id is a position in the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Fin,
    Reset,
    Garbage,
    Busy,
    /// Silence after this number of tokens.
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

/// The number of tokens in a complete response.
const TOKENS: usize = 8;
/// The size of one big token.
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

// ---- threads, descriptors and memory ----

/// Returns the number of threads and of descriptors of this process.
fn counts() -> (usize, usize) {
    let entries = |folder| fs::read_dir(folder).unwrap().count();
    (entries("/proc/self/task"), entries("/proc/self/fd"))
}

/// Waits until the numbers of threads and descriptors are as before. Returns how long that took.
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

/// Returns the resident memory in bytes.
fn resident() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn kib(bytes: u64) -> u64 {
    bytes >> 10
}

/// The generator splitmix64, which returns the same numbers for the same seed.
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
