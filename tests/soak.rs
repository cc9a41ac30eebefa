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

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use common::certificates::certificates;
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

// ---- 1: ten thousand ----

const STREAMS: u32 = 10_000;
const WARM_UP: u32 = 3_000;
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
        (retry.max_retries, retry.min_wait) = (1, Duration::from_millis(1));
        let mut hasty = Timeouts::default();
        (hasty.first_token, hasty.chunk) = (Some(Duration::from_millis(60)), Some(Duration::from_millis(60)));
        let mut limits = Limits::default();
        limits.max_streams = READERS;
        let build = |tls, timeouts| {
            servers.client(tls).retry(retry).limits(limits).timeouts(timeouts).build().unwrap()
        };
        let both = |tls| [build(tls, Timeouts::default()), build(tls, hasty)];
        Self([both(false), both(true)])
    }

    /// Has every client start all the reader threads that it may have, and each of them use its stack.
    fn fill(&self) {
        let stalled = prompt(Kind::Stall, 0, 1);
        // One after the other: the more there are at once, the more free memory there is afterwards in which a leak can hide.
        for client in self.0.iter().flatten() {
            let streams: Vec<_> = (0..READERS).map(|_| start(client, &stalled)).collect();
            for (receiver, guard) in streams {
                receiver.recv_timeout(LONG).unwrap();
                guard.cancel();
                collect(&receiver);
                guard.join();
            }
        }
    }

    fn run(&self, plan: Plan) -> Outcome {
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
fn judge(plan: Plan, received: &[Token], last: &Last, report: &StreamReport) -> Outcome {
    let shown = format!("{plan:?}: {last:?} after {} tokens, {:?}", received.len(), report.ending);
    let expected = expected(plan.number);
    assert!(expected.starts_with(received), "{shown}: {received:?}");
    assert!(report.tokens >= received.len() as u64, "{shown}");
    match last {
        Last::Done => {
            assert_eq!((report.ending, received), (Outcome::Complete, &*expected), "{shown}");
            // A cut after the finish reason costs no token.
            assert!(matches!(plan.kind, Kind::Good | Kind::Fin | Kind::Reset), "{shown}");
        }
        Last::Error(error) => {
            assert_eq!(report.ending, Outcome::Failed, "{shown}");
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
            assert_eq!(report.ending, Outcome::Cancelled, "{shown}");
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
                        Outcome::Complete => 0,
                        Outcome::Failed => 1,
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

        // What leaks, leaks in every round; the allocator's noise does not.
        let mut grown = Vec::new();
        let held = loop {
            let (warm, began) = (resident(), Instant::now());
            let endings = load(&clients, 0..STREAMS);
            let (took, held) = (began.elapsed(), counts());
            println!("{STREAMS} streams in {took:.1?}: complete, failed, cancelled {endings:?}");
            assert_eq!(endings.iter().sum::<usize>(), STREAMS as usize);
            assert!(endings.iter().all(|count| *count > STREAMS as usize / 10), "{endings:?}");
            grown.push(resident().saturating_sub(warm));
            println!("resident: {} KiB and {} KiB more", kib(warm), kib(grown[grown.len() - 1]));
            if grown.len() == MAX_ROUNDS || grown[grown.len() - 1] < MIB {
                break held;
            }
        };
        drop(clients);
        drop(servers);
        let back = back_to(before);
        println!("threads and descriptors: {before:?} before, {held:?} at the end, back in {back:.1?}");
        assert!(grown.iter().any(|grown| *grown < MIB), "{grown:?} bytes more, round by round");
    });
}

// ---- 2: a server too fast, a line without end ----

/// The most memory that is resident while `during` runs, over what it was before.
fn growth_during(during: impl FnOnce()) -> u64 {
    let (before, most, done) = (resident(), AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                most.fetch_max(resident(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        let result = catch_unwind(AssertUnwindSafe(during));
        done.store(true, Ordering::Release);
        result.unwrap_or_else(|panic| resume_unwind(panic));
    });
    most.into_inner().saturating_sub(before)
}

/// Has this client do once what is measured later: code and stack are then there already.
fn warm_up(client: &ApiClient, kind: Kind) {
    let (receiver, guard) = start(client, &prompt(kind, 0, 0));
    // An endless line gives no token; then this is its error.
    receiver.recv_timeout(LONG).unwrap();
    drop(receiver);
    guard.cancel();
    guard.join();
}

#[test]
fn a_slow_consumer_costs_the_channels_bound_and_no_more() {
    in_own_process("a_slow_consumer_costs_the_channels_bound_and_no_more", || {
        const MAX_BYTES: usize = 2 << 20;
        let servers = Elsewhere::start();
        for (name, kind, max_bytes, max_tokens, full, tls) in [
            ("tokens of 64 KiB, plain", Kind::BigTokens, MAX_BYTES, 1024, MAX_BYTES / BIG_BYTES, false),
            ("tokens of 64 KiB, TLS", Kind::BigTokens, MAX_BYTES, 1024, MAX_BYTES / BIG_BYTES, true),
            ("tokens of 2 bytes, plain", Kind::SmallTokens, 1024 * 2, 1024, 1024, false),
        ] {
            let mut limits = Limits::default();
            assert_eq!(limits.max_channel_tokens, max_tokens, "the default is what is tested");
            // Of small tokens the default of the bytes is never reached: so the bound below is tighter than it.
            if kind == Kind::BigTokens {
                limits.max_channel_bytes = max_bytes;
            }
            let mut warm = limits;
            warm.max_channel_tokens = 1;
            warm_up(&servers.client(tls).limits(warm).build().unwrap(), kind);
            let client = servers.client(tls).limits(limits).build().unwrap();
            let mut waited = Duration::ZERO;
            let grown = growth_during(|| {
                let (receiver, guard) = start(&client, &prompt(kind, 0, 0));
                for _ in 0..5 {
                    thread::sleep(Duration::from_secs(1));
                    let began = Instant::now();
                    while receiver.len() < full {
                        assert!(
                            began.elapsed() < LONG,
                            "{name}: the channel does not fill: {}",
                            receiver.len()
                        );
                        thread::sleep(Duration::from_millis(1));
                    }
                    assert_eq!(receiver.len(), full, "{name}");
                    assert!(matches!(receiver.recv_timeout(LONG), Ok(StreamToken::Token { .. })), "{name}");
                }
                guard.cancel();
                waited = guard.join().waited_for_consumer;
            });
            println!(
                "{name}: {full} in the channel, {} KiB more, of {} KiB and 1 MiB allowed; {waited:.1?} of 5 s waited",
                kib(grown),
                max_bytes >> 10
            );
            assert!(grown <= max_bytes as u64 + MIB, "{name}: {} KiB", kib(grown));
        }
    });
}

#[test]
fn what_never_ends_is_capped() {
    in_own_process("what_never_ends_is_capped", || {
        const MAX_BYTES: usize = 4 << 20;
        let servers = Elsewhere::start();
        for kind in [Kind::EndlessLine, Kind::EndlessComment, Kind::EndlessEvent] {
            let mut limits = Limits::default();
            limits.max_event_bytes = 64 << 10;
            warm_up(&servers.client(false).limits(limits).build().unwrap(), kind);
            limits.max_event_bytes = MAX_BYTES;
            let client = servers.client(false).limits(limits).build().unwrap();
            let mut bytes = 0;
            let grown = growth_during(|| {
                let (receiver, guard) = start(&client, &prompt(kind, 0, 0));
                let (tokens, last) = collect(&receiver);
                bytes = guard.join().bytes;
                let Last::Error(error) = last else { panic!("{kind:?}: {last:?}") };
                assert_eq!(error.kind(), ErrorKind::Limit(Limit::EventBytes), "{kind:?}: {error}");
                assert!(tokens.is_empty());
            });
            println!(
                "{kind:?}: {} KiB read, {} KiB more, of {} KiB allowed",
                kib(bytes),
                kib(grown),
                MAX_BYTES >> 10
            );
            assert!(grown <= MAX_BYTES as u64 + MIB, "{kind:?}: {} KiB", kib(grown));
            assert!(bytes <= MAX_BYTES as u64 + MIB, "{kind:?}: {} KiB read", kib(bytes));
        }
    });
}

// ---- 3: a cancel in each phase ----

/// The connect timer of the phases.
const CONNECT: Duration = Duration::from_secs(3);

/// A server that counts each byte which reaches it. It knows no more of HTTP than where this client's request ends; over
/// TLS it hands the bytes on to a server that knows it all.
struct Peer {
    address: SocketAddr,
    seen: Arc<Seen>,
    acceptor: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    bytes: AtomicU64,
    answered: AtomicUsize,
    ended: AtomicUsize,
    stopping: AtomicBool,
    /// Whoever connects is not read from until this is set, save for a TLS handshake.
    reads: AtomicBool,
}

/// More than a client sends in a TLS handshake, and less than the big request of these tests.
const MAX_HANDSHAKE_BYTES: u64 = 8 << 10;

/// What answers behind a [`Peer`].
enum Answers {
    /// The bytes of an answer to each request.
    Endpoint(Vec<u8>),
    /// A server with TLS.
    Tls(MockServer),
}

impl Peer {
    fn start(reads: bool, answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Seen::default()));
        seen.reads.store(reads, Ordering::Release);
        let of_thread = seen.clone();
        let acceptor = thread::spawn(move || {
            thread::scope(|scope| {
                for stream in listener.incoming() {
                    if of_thread.stopping.load(Ordering::Acquire) {
                        break;
                    }
                    of_thread.connections.fetch_add(1, Ordering::AcqRel);
                    scope.spawn(|| match &answers {
                        Answers::Endpoint(answer) => of_thread.serve(stream.unwrap(), answer),
                        Answers::Tls(server) => of_thread.relay(stream.unwrap(), server),
                    });
                }
            });
        });
        Self { address, seen, acceptor: Some(acceptor) }
    }
}

impl Seen {
    fn serve(&self, mut stream: TcpStream, answer: &[u8]) {
        while !self.reads.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        let (mut buffer, mut request) = (vec![0; 64 << 10], Vec::new());
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            self.bytes.fetch_add(length as u64, Ordering::AcqRel);
            request.extend_from_slice(&buffer[..length.min(1 << 10)]);
            // A body of JSON ends so, and no TLS record and no long prompt does.
            if request.starts_with(b"POST") && request.ends_with(b"}") {
                request.clear();
                if stream.write_all(answer).is_ok() {
                    self.answered.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
        self.ended.fetch_add(1, Ordering::AcqRel);
    }

    fn relay(&self, mut client: TcpStream, server: &MockServer) {
        let mut behind = TcpStream::connect(server.addr()).unwrap();
        thread::scope(|scope| {
            let (mut from_server, mut to_client) = (behind.try_clone().unwrap(), client.try_clone().unwrap());
            // It ends with either of them; the tests look at what the client sends.
            scope.spawn(move || std::io::copy(&mut from_server, &mut to_client));
            scope.spawn(|| {
                while !server.wait_for_requests(1, Duration::from_millis(5)) {
                    if self.ended.load(Ordering::Acquire) > 0 {
                        return;
                    }
                }
                self.answered.fetch_add(1, Ordering::AcqRel);
            });
            let mut buffer = vec![0; 4 << 10];
            loop {
                while self.sent().1 > MAX_HANDSHAKE_BYTES && !self.reads.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(1));
                }
                let Ok(length @ 1..) = client.read(&mut buffer) else { break };
                self.bytes.fetch_add(length as u64, Ordering::AcqRel);
                if behind.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            // An error says that the server was quicker.
            let _ = behind.shutdown(std::net::Shutdown::Both);
            self.ended.fetch_add(1, Ordering::AcqRel);
        });
    }

    /// Connections, and bytes on all of them.
    fn sent(&self) -> (usize, u64) {
        (self.connections.load(Ordering::Acquire), self.bytes.load(Ordering::Acquire))
    }
}

impl Drop for Peer {
    /// The clients are gone when this runs, so that every connection ends.
    fn drop(&mut self) {
        self.seen.stopping.store(true, Ordering::Release);
        self.seen.reads.store(true, Ordering::Release);
        let waker = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            // It has panicked if it is an error, which was printed.
            let _ = acceptor.join();
        }
        drop(waker);
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LONG, "{what} did not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

fn impatient(url: String) -> ApiClientBuilder {
    let mut timeouts = Timeouts::default();
    timeouts.connect = Some(CONNECT);
    ApiClient::builder(url).timeouts(timeouts)
}

/// Drops the guard. The drop must be back at once, the receiver must be told at once.
fn leave(phase: &str, receiver: &Receiver<StreamToken>, guard: StreamGuard) {
    let began = Instant::now();
    drop(guard);
    let dropped = began.elapsed();
    let (tokens, last) = collect(receiver);
    let told = began.elapsed();
    println!(
        "{phase}: the drop took {dropped:.1?}, the receiver knew after {told:.1?}; {} tokens",
        tokens.len()
    );
    assert!(matches!(last, Last::Nothing), "{phase}: {last:?}");
    assert!(
        dropped < Duration::from_secs(2) && told < Duration::from_secs(2),
        "{phase}: {dropped:?}, {told:?}"
    );
}

struct Phase {
    name: &'static str,
    scheme: &'static str,
    reads: bool,
    answers: Answers,
    prompt_bytes: usize,
    /// Whether the stream is in the phase.
    reached: fn(&Seen, &Receiver<StreamToken>) -> bool,
}

fn phases(identity: &TlsIdentity) -> Vec<Phase> {
    let answered: fn(&Seen, &Receiver<StreamToken>) -> bool =
        |seen, _| seen.answered.load(Ordering::Acquire) > 0;
    let events = |count| Script::events(vec![one_token("a"); count]).wire();
    let open = |wire: Vec<u8>| wire.strip_suffix(b"0\r\n\r\n").unwrap().to_vec();
    let busy = Script::status(503).header("Retry-After", "25").json("{}").wire();
    let phase = |name, answer, reached| Phase {
        name,
        scheme: "http",
        reads: true,
        answers: Answers::Endpoint(answer),
        prompt_bytes: 1,
        reached,
    };
    let tls = |name, script: Script, reached| {
        let server = MockServer::builder().tls(identity.clone()).scripted([script]).unwrap();
        Phase { name, scheme: "https", reads: true, answers: Answers::Tls(server), prompt_bytes: 1, reached }
    };
    let busy_tls = Script::status(503).header("Retry-After", "25").json("{}");
    vec![
        Phase {
            scheme: "https",
            ..phase("TLS handshake", Vec::new(), |seen, _| seen.bytes.load(Ordering::Acquire) > 0)
        },
        Phase {
            reads: false,
            prompt_bytes: 64 << 20,
            ..phase("upload of 64 MiB", Vec::new(), |seen, _| seen.connections.load(Ordering::Acquire) > 0)
        },
        phase("headers", Vec::new(), answered),
        phase("body", open(events(1)), |_, receiver| receiver.len() == 1),
        phase("sleep before a retry", busy, answered),
        phase("full channel", open(events(1000)), |_, receiver| receiver.len() == 10),
        Phase {
            reads: false,
            prompt_bytes: 64 << 20,
            ..tls("upload of 64 MiB, TLS", Script::new(), |seen, _| seen.sent().1 > MAX_HANDSHAKE_BYTES)
        },
        tls("headers, TLS", Script::new().hang(LONG), answered),
        tls("body, TLS", Script::events([one_token("a")]).hang(LONG), |_, receiver| receiver.len() == 1),
        tls("sleep before a retry, TLS", busy_tls, answered),
        tls("full channel, TLS", Script::events(vec![one_token("a"); 1000]).hang(LONG), |_, receiver| {
            receiver.len() == 10
        }),
    ]
}

#[test]
fn a_cancel_in_each_phase_ends_the_stream_at_once_and_nothing_is_sent() {
    in_own_process("a_cancel_in_each_phase_ends_the_stream_at_once_and_nothing_is_sent", || {
        cancel_in_a_lookup();
        cancel_in_a_connect();
        let (authority, identity) = certificates();
        for phase in 0..phases(&identity).len() {
            let before = counts();
            let Phase { name, scheme, reads, answers, prompt_bytes, reached } =
                phases(&identity).swap_remove(phase);
            let peer = Peer::start(reads, answers);
            let mut limits = Limits::default();
            limits.max_channel_tokens = 10;
            let client = impatient(format!("{scheme}://{}", peer.address)).ca_pem(authority.clone());
            let client = client.limits(limits).build().unwrap();
            let request = CompletionRequest::text("p".repeat(prompt_bytes));
            let (receiver, guard) = client.stream(request).unwrap();
            until(name, || reached(&peer.seen, &receiver));
            // From there to where it blocks. If it is not there yet, the cancel comes a little earlier in the phase.
            thread::sleep(Duration::from_millis(150));
            let sent = peer.seen.sent();
            leave(name, &receiver, guard);
            peer.seen.reads.store(true, Ordering::Release);
            // The connection of a 503 is whole and stays in the pool for as long as the client lives.
            drop(client);
            until(name, || peer.seen.ended.load(Ordering::Acquire) == 1);
            let sent_at_last = peer.seen.sent();
            if reads {
                assert_eq!(sent_at_last, sent, "{name}: connections and bytes");
            } else {
                // What the system's buffers held already.
                assert_eq!(sent_at_last.0, 1, "{name}: connections");
                assert!(sent_at_last.1 < prompt_bytes as u64 / 2, "{name}: {} KiB", kib(sent_at_last.1));
                println!("{name}: {} KiB had been sent", kib(sent_at_last.1));
            }
            drop(peer);
            println!("{name}: threads and descriptors back after {:.1?}", back_to(before));
        }
    });
}

/// Offline the resolver says at once that there is no such name, and nothing here can make it hang. So the cancels come
/// beside its answer: some before it, some after it.
fn cancel_in_a_lookup() {
    let before = counts();
    let client = impatient("http://no-such-host.invalid".to_owned()).retries(0).build().unwrap();
    let began = Instant::now();
    let (receiver, guard) = start(&client, &[1]);
    let (_, last) = collect(&receiver);
    let answered = began.elapsed();
    assert!(matches!(&last, Last::Error(error) if error.kind() == ErrorKind::Connect), "{last:?}");
    guard.join();
    let (mut chance, mut cancelled, mut longest) = (Chance(3), 0, Duration::ZERO);
    for _ in 0..100 {
        let (receiver, guard) = start(&client, &[1]);
        spin(chance.micros(answered.as_micros() as u64 + 100));
        let began = Instant::now();
        drop(guard);
        longest = longest.max(began.elapsed());
        match collect(&receiver).1 {
            Last::Nothing => cancelled += 1,
            Last::Error(error) => assert_eq!(error.kind(), ErrorKind::Connect),
            Last::Done => panic!("a host that does not exist has answered"),
        }
    }
    drop(client);
    let back = back_to(before);
    println!(
        "resolve: answered after {answered:.1?}; {cancelled} of 100 cancelled before that; the longest drop took {longest:.1?}; all back after {back:.1?}"
    );
    assert!(cancelled > 0 && longest < Duration::from_secs(2));
}

/// The listener's queue is full, so that the system answers no further connect until there is room.
fn cancel_in_a_connect() {
    let before = counts();
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        queued.push(stream);
    }
    let client = impatient(format!("http://{address}")).retries(0).build().unwrap();
    // One whose connect goes through after all, and two whose connect timer has to pass.
    for late in [true, false, false] {
        let (receiver, guard) = start(&client, &[1]);
        thread::sleep(Duration::from_millis(150));
        leave("connect", &receiver, guard);
        if late {
            for _ in 0..queued.len() {
                drop(listener.accept().unwrap());
            }
            let (mut stream, _) = listener.accept().unwrap();
            let mut sent = Vec::new();
            stream.read_to_end(&mut sent).unwrap();
            assert!(sent.is_empty(), "{}", String::from_utf8_lossy(&sent));
            queued.clear();
            while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
                queued.push(stream);
            }
        }
    }
    drop(client);
    let began = Instant::now();
    until("the end of the reader threads", || counts().0 == before.0);
    println!("connect: the threads were back after {:.1?}, of {CONNECT:?}", began.elapsed());
    assert!(began.elapsed() < CONNECT + Duration::from_secs(5));
    drop((listener, queued));
    back_to(before);
}

// ---- 4: innocent streams ----

const INNOCENT_THREADS: u32 = 8;

#[test]
fn thousands_of_cancels_hurt_no_stream_beside_them() {
    in_own_process("thousands_of_cancels_hurt_no_stream_beside_them", || {
        let (authority, identity) = certificates();
        for (tls, rounds) in [(false, 600), (true, 150)] {
            let mut builder = MockServer::builder();
            if tls {
                builder = builder.tls(identity.clone());
            }
            let server = builder.start(answer).unwrap();
            let client =
                ApiClient::builder(server.url()).ca_pem(authority.clone()).retries(0).build().unwrap();
            let (cancelled, reused) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let began = Instant::now();
            thread::scope(|scope| {
                for thread in 0..INNOCENT_THREADS {
                    let (client, cancelled, reused) = (&client, &cancelled, &reused);
                    scope.spawn(move || {
                        let mut chance = Chance(u64::from(thread));
                        for round in 0..rounds {
                            let number = 2 * (thread * rounds + round);
                            let (receiver, guard) = start(client, &prompt(Kind::Good, number, 0));
                            spin(chance.micros(900));
                            guard.cancel();
                            // Every other innocent one begins before the cancelled one's thread is back.
                            if round % 2 == 0 {
                                cancelled.fetch_add(
                                    usize::from(guard.join().ending == Outcome::Cancelled),
                                    Ordering::Relaxed,
                                );
                            } else {
                                drop(guard);
                            }
                            let (innocent, guard) = start(client, &prompt(Kind::Good, number + 1, 0));
                            let (received, last) = collect(&innocent);
                            assert!(matches!(last, Last::Done), "stream {number}: {last:?}");
                            assert_eq!(received, expected(number + 1));
                            reused.fetch_add(usize::from(guard.join().connection_reused), Ordering::Relaxed);
                            assert!(expected(number).starts_with(&collect(&receiver).0));
                        }
                    });
                }
            });
            let took = began.elapsed();
            let streams = (INNOCENT_THREADS * rounds) as usize;
            // An innocent one whose pooled connection was shut down could have been sent again without a word.
            let mut times = vec![0; 2 * streams];
            for request in server.requests() {
                times[request.json()["prompt"][1].as_u64().unwrap() as usize] += 1;
            }
            let hurt = times.iter().skip(1).step_by(2).filter(|times| **times != 1).count();
            let (cancelled, reused) = (cancelled.into_inner(), reused.into_inner());
            println!(
                "tls {tls}: {streams} cancels (of {} asked, {cancelled} before the end) beside {streams} innocent streams, \
                 {reused} of them on a used connection: {hurt} hurt, in {took:.1?}",
                streams / 2
            );
            assert_eq!(hurt, 0, "sent twice, or never");
            // Else nothing was shared, or nothing was cancelled in the middle.
            assert!(
                reused > streams / 10 && cancelled > streams / 20,
                "{reused} reused, {cancelled} cancelled"
            );
        }
    });
}

/// A connection is another stream's as soon as the whole of an answer was read: while the first one sleeps before a
/// retry, and when it is over and only its guard was kept. A cancel of the first may not reach the second.
#[test]
fn a_late_cancel_spares_the_stream_that_has_the_connection_now() {
    const SENT_AGAIN: usize = 1000;
    let (authority, identity) = certificates();
    for tls in [false, true] {
        // Of each pair the second answer is in the middle when the first is cancelled.
        let gates: Arc<Vec<Gate>> = Arc::new((0..20).map(|_| Gate::new()).collect());
        let of_server = gates.clone();
        let begun = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
        let rest = r#"{"choices":[{"index":0,"text":"b","token_ids":[2],"finish_reason":"stop"}]}"#;
        let mut builder = MockServer::builder();
        if tls {
            builder = builder.tls(identity.clone());
        }
        let server = builder
            .start(move |request| match request.json()["prompt"][0].as_u64().unwrap() as usize {
                0 => Script::events([rest]),
                SENT_AGAIN => Script::status(503).header("Retry-After", "25").json("{}"),
                n => Script::events([begun]).wait_for(&of_server[n - 1]).event(rest),
            })
            .unwrap();
        let client = ApiClient::builder(server.url()).ca_pem(authority.clone()).build().unwrap();
        let mut shared = [0; 2];
        for (n, gate) in gates.iter().enumerate() {
            let is_over = n % 2 == 0;
            let (first, late) = start(&client, &[if is_over { 0 } else { SENT_AGAIN as TokenId }]);
            if is_over {
                assert!(matches!(collect(&first), (_, Last::Done)));
            } else {
                assert!(server.wait_for_requests(2 * n + 1, LONG));
            }
            // Its connection is back a moment later, when the end of the framing was read.
            thread::sleep(Duration::from_millis(30));
            let canceller = late.canceller();
            let (innocent, guard) = start(&client, &[n as TokenId + 1]);
            let begun = innocent.recv_timeout(LONG);
            assert!(matches!(begun, Ok(StreamToken::Token { .. })), "{begun:?}");
            match n / 2 % 3 {
                0 => late.cancel(),
                1 => canceller.cancel(),
                _ => drop(late),
            }
            gate.open();
            let (tokens, last) = collect(&innocent);
            assert!(matches!(last, Last::Done), "tls {tls}, pair {n}: {last:?}");
            assert_eq!(tokens, [("b".to_owned(), Some(2))]);
            shared[usize::from(is_over)] += usize::from(guard.join().connection_reused);
        }
        println!("tls {tls}: {shared:?} of {} on the connection of the one that was cancelled", gates.len());
        assert!(shared.iter().all(|shared| *shared > gates.len() / 4), "{shared:?}");
    }
}
