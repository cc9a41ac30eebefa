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

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crossbeam_channel::Receiver;
use tokenwire::testing::{Cut, Framing, Request, Script, Server, TlsIdentity};
use tokenwire::{
    ApiClient, ApiClientBuilder, CompletionRequest, Ending, Error, ErrorKind, Limit, Limits, RetryPolicy,
    SamplingParams, StreamGuard, StreamReport, StreamToken, Timeouts, TokenId,
};

/// "Does not hang": nothing here takes a tenth of it.
const LONG: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
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
    let plain = Server::start(answer).unwrap();
    let tls = Server::start_tls(answer, identity).unwrap();
    println!("\nhere:\n{}\n{}\n{authority}", plain.url(), tls.url());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// An authority of our own (PEM), and a server's identity signed by it.
fn certificates() -> (String, TlsIdentity) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &authority).unwrap();
    (
        authority.pem().trim().to_owned() + "\n",
        TlsIdentity::from_pem(&leaf.pem(), &key.serialize_pem()).unwrap(),
    )
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

type Token = (String, Option<TokenId>);

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

#[derive(Debug)]
enum Last {
    Done,
    Error(Error),
    /// Disconnected with neither.
    Nothing,
}

/// Everything that a receiver gives. A stream that does not end, or ends twice, fails the test.
fn collect(receiver: &Receiver<StreamToken>) -> (Vec<Token>, Last) {
    let (mut tokens, mut last) = (Vec::new(), Last::Nothing);
    loop {
        let item = receiver.recv_timeout(LONG);
        let ended = !matches!(last, Last::Nothing);
        match item {
            Err(error) => {
                assert!(error.is_disconnected(), "the stream hangs after {tokens:?}");
                return (tokens, last);
            }
            Ok(item) => {
                assert!(!ended, "{item:?} follows {last:?}");
                match item {
                    StreamToken::Token { text, id } => tokens.push((text, id)),
                    StreamToken::Done { .. } => last = Last::Done,
                    StreamToken::Error(error) => last = Last::Error(error),
                    _ => panic!("an item of no known kind"),
                }
            }
        }
    }
}

fn start(client: &ApiClient, prompt: &[TokenId]) -> (Receiver<StreamToken>, StreamGuard) {
    client.stream_completion(prompt, SamplingParams::default(), None).unwrap()
}

fn spin(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        std::hint::spin_loop();
    }
}

// ---- 1: ten thousand ----

const STREAMS: u32 = 10_000;
const WARM_UP: u32 = 1_000;
const CLIENT_THREADS: usize = 16;
/// Streams that a client may have at the same time. More than there are client threads: a reader may have its
/// connection still to drain.
const READERS: usize = 24;

/// When a stream is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Never,
    After(Duration),
    AfterTokens(usize),
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    number: u32,
    kind: Kind,
    place: usize,
    tls: bool,
    cancel: Moment,
}

/// The plan of a stream depends on its number alone.
fn plan(number: u32) -> Plan {
    let mut chance = Chance(u64::from(number));
    let (cancelled, faulted, tls) = (number % 2 == 0, number % 3 == 0, chance.next(8) == 0);
    let place = chance.next(4000) as usize;
    let faults = [Kind::Fin, Kind::Reset, Kind::Garbage, Kind::Busy, Kind::Stall];
    let (mut kind, mut cancel) = (Kind::Good, Moment::Never);
    if faulted {
        kind = faults[chance.next(5) as usize];
    }
    if cancelled {
        cancel = Moment::After(chance.micros(3000));
    }
    if cancelled && !faulted {
        (kind, cancel) = match chance.next(5) {
            0 => (Kind::Good, Moment::After(Duration::ZERO)),
            1 => (Kind::Silent, cancel),
            2 => (Kind::Stall, Moment::AfterTokens(place % TOKENS)),
            3 => (Kind::Good, Moment::AfterTokens(TOKENS)),
            _ => (Kind::Good, cancel),
        };
    }
    Plan { number, kind, place, tls, cancel }
}

/// The clients: with far timers, and with near ones for the streams that run into them.
struct Clients([[ApiClient; 2]; 2]);

impl Clients {
    fn new(servers: &Elsewhere) -> Self {
        let mut retry = RetryPolicy::default();
        (retry.retries_max, retry.wait_min) = (1, Duration::from_millis(1));
        let mut hasty = Timeouts::default();
        (hasty.first_token, hasty.chunk) = (Some(Duration::from_millis(60)), Some(Duration::from_millis(60)));
        let mut limits = Limits::default();
        limits.streams_max = READERS;
        let build = |tls, timeouts| {
            servers.client(tls).retry(retry).limits(limits).timeouts(timeouts).build().unwrap()
        };
        let both = |tls| [build(tls, Timeouts::default()), build(tls, hasty)];
        Self([both(false), both(true)])
    }

    /// Has every client start all the reader threads that it may have, and each of them use its stack.
    fn fill(&self) {
        let stalled = prompt(Kind::Stall, 0, 1);
        let start_all = |client| (0..READERS).map(move |_| start(client, &stalled));
        let streams: Vec<_> = self.0.iter().flatten().flat_map(start_all).collect();
        for (receiver, _) in &streams {
            receiver.recv_timeout(LONG).unwrap();
        }
        for (receiver, guard) in streams {
            guard.cancel();
            collect(&receiver);
            guard.join();
        }
    }

    fn run(&self, plan: Plan) -> Ending {
        let hasty = plan.kind == Kind::Stall && plan.cancel == Moment::Never;
        let client = &self.0[usize::from(plan.tls)][usize::from(hasty)];
        let (receiver, guard) = start(client, &prompt(plan.kind, plan.number, plan.place));
        let mut received = Vec::new();
        match plan.cancel {
            Moment::Never => {}
            Moment::After(time) => {
                thread::sleep(time);
                guard.cancel();
            }
            Moment::AfterTokens(count) => {
                while received.len() < count {
                    let Ok(StreamToken::Token { text, id }) = receiver.recv_timeout(LONG) else {
                        panic!("{plan:?}: no token")
                    };
                    received.push((text, id));
                }
                guard.cancel();
            }
        }
        let (rest, last) = collect(&receiver);
        received.extend(rest);
        judge(plan, &received, &last, &guard.join())
    }
}

/// Whether a stream may end so.
fn judge(plan: Plan, received: &[Token], last: &Last, report: &StreamReport) -> Ending {
    let shown = format!("{plan:?}: {last:?} after {} tokens, {:?}", received.len(), report.ending);
    let expected = expected(plan.number);
    assert!(expected.starts_with(received), "{shown}: {received:?}");
    assert!(report.tokens >= received.len() as u64, "{shown}");
    match last {
        Last::Done => {
            assert_eq!((report.ending, received), (Ending::Complete, &*expected), "{shown}");
            // A cut after the finish reason costs no token.
            assert!(matches!(plan.kind, Kind::Good | Kind::Fin | Kind::Reset), "{shown}");
        }
        Last::Error(error) => {
            assert_eq!(report.ending, Ending::Failed, "{shown}");
            let fits = match plan.kind {
                Kind::Fin | Kind::Reset => error.kind() == ErrorKind::Incomplete,
                Kind::Garbage => !error.is_timeout(),
                Kind::Busy => error.status() == Some(503),
                Kind::Stall => error.is_timeout(),
                _ => false,
            };
            assert!(fits, "{shown}: {error}");
        }
        Last::Nothing => {
            assert_eq!(report.ending, Ending::Cancelled, "{shown}");
            assert!(plan.cancel != Moment::Never, "{shown}");
        }
    }
    report.ending
}

/// Runs the streams of these numbers on several threads; how many were complete, failed, cancelled.
fn load(clients: &Clients, numbers: std::ops::Range<u32>) -> [usize; 3] {
    let next = AtomicUsize::new(numbers.start as usize);
    let endings = [const { AtomicUsize::new(0) }; 3];
    thread::scope(|scope| {
        for _ in 0..CLIENT_THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed) as u32;
                    if number >= numbers.end {
                        break;
                    }
                    let place = match clients.run(plan(number)) {
                        Ending::Complete => 0,
                        Ending::Failed => 1,
                        _ => 2,
                    };
                    endings[place].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    endings.map(AtomicUsize::into_inner)
}

#[test]
fn ten_thousand_streams_leave_nothing_behind() {
    in_own_process("ten_thousand_streams_leave_nothing_behind", || {
        let before = counts();
        let servers = Elsewhere::start();
        let clients = Clients::new(&servers);
        // Else it is chance when the last reader thread is started, and its stack is taken for a leak.
        clients.fill();
        load(&clients, STREAMS..STREAMS + WARM_UP);
        let warm = resident();

        let began = Instant::now();
        let endings = load(&clients, 0..STREAMS);
        let (took, after, held) = (began.elapsed(), resident(), counts());
        println!("{STREAMS} streams in {took:.1?}: complete, failed, cancelled {endings:?}");
        println!(
            "resident: {} KiB after {WARM_UP} streams, {} KiB after {STREAMS} more",
            kib(warm),
            kib(after)
        );
        assert_eq!(endings.iter().sum::<usize>(), STREAMS as usize);
        assert!(endings.iter().all(|count| *count > STREAMS as usize / 10), "{endings:?}");
        drop(clients);
        drop(servers);
        let back = back_to(before);
        println!("threads and descriptors: {before:?} before, {held:?} at the end, back in {back:.1?}");
        assert!(after < warm + MIB, "{} KiB more than after the warm-up", kib(after - warm));
    });
}
