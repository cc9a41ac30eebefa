//! Tests that no threads, descriptors or memory remain after ten thousand streams.

use super::*;

const STREAMS: u32 = 10_000;
const WARM_UP: u32 = 3_000;
/// The number of streams in a run without `TOKENWIRE_FULL=1`. The limit of memory is the same, so
/// such a run finds only leaks of 500 bytes or more per stream.
const STREAMS_SAMPLE: u32 = 2_000;
const WARM_UP_SAMPLE: u32 = 1_000;
const CLIENT_THREADS: usize = 16;
/// The largest number of streams per client. It is higher than the number of threads that use the
/// client, because a reader may still be draining its connection.
const READERS: usize = 24;

/// The time at which a stream is cancelled.
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

/// Returns the plan of a stream, which depends only on its number.
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

/// The clients of each server. The first one has long timers. The second one has short timers, for
/// the streams that run into a timer.
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

    /// Makes every client start all its reader threads, and each thread use its stack.
    fn fill(&self) {
        let stalled = prompt(Kind::Stall, 0, 1);
        // Fill one client at a time. With more streams at once, more free memory would remain, and
        // a leak could hide in that memory.
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

/// Checks that a stream ended as planned.
fn judge(plan: Plan, received: &[Token], last: &Last, report: &StreamReport) -> Outcome {
    let shown = format!("{plan:?}: {last:?} after {} tokens, {:?}", received.len(), report.ending);
    let expected = expected(plan.number);
    assert!(expected.starts_with(received), "{shown}: {received:?}");
    assert!(report.tokens >= received.len() as u64, "{shown}");
    match last {
        Last::Done => {
            assert_eq!((report.ending, received), (Outcome::Complete, &*expected), "{shown}");
            // A cut after the finish reason loses no token.
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

/// Runs the streams of these numbers on several threads. Returns how many were complete, failed and
/// cancelled.
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
    in_own_process("many::ten_thousand_streams_leave_nothing_behind", || {
        let before = counts();
        let streams = sample_of(STREAMS_SAMPLE, STREAMS);
        let servers = Elsewhere::start();
        let clients = Clients::new(&servers);
        // Without this call, the last reader thread would start at a random time, and its stack
        // would look like a leak.
        clients.fill();
        load(&clients, STREAMS..STREAMS + sample_of(WARM_UP_SAMPLE, WARM_UP));

        // A leak occurs in every round, but the noise of the allocator does not.
        let mut grown = Vec::new();
        let held = loop {
            let (warm, began) = (resident(), Instant::now());
            let endings = load(&clients, 0..streams);
            let (took, held) = (began.elapsed(), counts());
            println!("{streams} streams in {took:.1?}: complete, failed, cancelled {endings:?}");
            assert_eq!(endings.iter().sum::<usize>(), streams as usize);
            assert!(endings.iter().all(|count| *count > streams as usize / 10), "{endings:?}");
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
