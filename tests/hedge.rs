//! Tests of hedging: a stream whose first token is late is requested again, and the first request
//! to produce a token wins.

#![cfg(feature = "testing")]

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::checks::{each_row, with_timer};
use common::streams::{LONG, Last, Token, collect};
use tokenwire::testing::{Cut, Gate, MockServer, Script};
use tokenwire::{
    ApiClient, ApiClientBuilder, CompletionRequest, ErrorKind, Outcome, RetryPolicy, RoutePolicy,
    SamplingParams, fan_in,
};

const WORDS: [(u32, &str); 3] = [(9707, "Hello"), (1879, " world"), (13, ".")];

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn words() -> Vec<Token> {
    WORDS.iter().map(|(id, text)| ((*text).to_owned(), Some(*id))).collect()
}

fn client(servers: &[&MockServer], after: Duration) -> ApiClientBuilder {
    let mut routes = RoutePolicy::default();
    routes.hedge_after = Some(after);
    let mut builder = ApiClient::builder(servers[0].url());
    for server in &servers[1..] {
        builder = builder.base_url(server.url());
    }
    builder.retries(0).routes(routes)
}

fn request() -> CompletionRequest {
    CompletionRequest::ids([1, 2, 3]).sampling(SamplingParams::default().temperature(0.0).max_tokens(3))
}

fn good() -> Script {
    Script::tokens(WORDS)
}

/// Sends the head at once, then comments, but no token.
fn begun() -> Script {
    Script::events::<&str>([]).write(": queued\n\n")
}

fn error(status: u16) -> Script {
    Script::status(status).json(r#"{"error":{"message":"no"}}"#)
}

/// Waits until the gate is open, then runs the script.
fn later(gate: &Gate, script: Script) -> Script {
    Script::new().wait_for(gate).write(script.wire()).close()
}

#[test]
fn the_first_token_decides_and_a_failure_decides_only_if_both_requests_fail() {
    let hang = || Script::new().hang(LONG);
    // Each gate opens when the second server has received its request.
    let gates: [Gate; 5] = std::array::from_fn(|_| Gate::new());
    let slowly = |script: Script| Script::new().pause(ms(50)).write(script.wire()).close();
    // name, first server, second server, hedge time, gate, errors, hedged, routes
    let cases = [
        ("in time", good(), good(), LONG, None, vec![], false, 0..1),
        ("silent before its head", hang(), good(), ms(30), None, vec![], true, 1..2),
        ("silent after its head", begun().hang(LONG), good(), ms(30), None, vec![], true, 1..2),
        (
            "late, but earlier than the second",
            later(&gates[0], good()),
            hang(),
            ms(30),
            Some(0),
            vec![],
            true,
            0..1,
        ),
        ("fails late", later(&gates[1], error(500)), slowly(good()), ms(30), Some(1), vec![], true, 1..2),
        ("refused late", later(&gates[2], error(400)), slowly(good()), ms(30), Some(2), vec![], true, 1..2),
        ("the second fails", later(&gates[3], good()), error(500), ms(30), Some(3), vec![], true, 0..1),
        ("both fail", later(&gates[4], error(500)), error(503), ms(30), Some(4), vec![500, 503], true, 0..2),
        ("fails before", error(400), good(), LONG, None, vec![400], false, 0..1),
        ("the second at once", hang(), good(), Duration::ZERO, None, vec![], true, 1..2),
    ];
    each_row(cases, |(what, first, second, after, gate, errors, hedged, routes)| {
        let servers = [first, second].map(|script| MockServer::scripted([script]).unwrap());
        let client = client(&[&servers[0], &servers[1]], after).request_ids("r").build().unwrap();
        let (receiver, guard) = client.stream(request()).unwrap();
        if let Some(gate) = gate {
            assert!(servers[1].wait_for_requests(1, LONG), "{what}");
            gates[gate].open();
        }
        let (tokens, last) = collect(&receiver);
        let report = guard.join();
        match last {
            Last::Done if errors.is_empty() => assert_eq!(tokens, words(), "{what}"),
            Last::Error(error) => {
                assert!(errors.contains(&error.status().unwrap()), "{what}: {error}");
                assert_eq!(report.error.unwrap().to_string(), error.to_string(), "{what}");
            }
            last => panic!("{what}: {last:?}"),
        }
        let found = (report.hedged, report.route);
        assert!(found.0 == hedged && routes.contains(&found.1), "{what}: {found:?}");
        assert_eq!(report.tokens as usize, tokens.len(), "{what}");
        let sent = servers.each_ref().map(|server| server.requests());
        // The first request may have lost before the server read it.
        assert!(sent[0].len() <= 1, "{what}");
        assert_eq!(sent[1].len(), usize::from(hedged), "{what}");
        if hedged && !sent[0].is_empty() {
            let id = |n: usize| sent[n][0].header("x-request-id").unwrap().to_owned();
            assert_eq!(id(1), format!("{}-hedge", id(0)), "{what}");
            assert_eq!(sent[0][0].json(), sent[1][0].json(), "{what}");
        }
        // The losing request was cancelled.
        drop(client);
        for server in &servers {
            assert!(server.wait_for_open_connections(0, LONG), "{what}");
        }
    });
}

#[test]
fn a_cancel_reaches_both_requests() {
    each_row(["cancel", "drop", "canceller"], |how| {
        let servers = [(); 2].map(|()| MockServer::scripted([begun().hang(LONG)]).unwrap());
        let client = client(&[&servers[0], &servers[1]], ms(5)).build().unwrap();
        let (receiver, guard) = client.stream(request()).unwrap();
        assert!(servers.iter().all(|server| server.wait_for_requests(1, LONG)));
        let mut guard = Some(guard);
        match how {
            "cancel" => guard.as_ref().unwrap().cancel(),
            "drop" => drop(guard.take()),
            _ => guard.as_ref().unwrap().canceller().cancel(),
        }
        let (tokens, last) = collect(&receiver);
        assert!(tokens.is_empty() && matches!(last, Last::Nothing), "{how}: {last:?}");
        assert!(servers.iter().all(|server| server.wait_for_disconnects(1, LONG)), "{how}");
        if let Some(guard) = guard {
            let report = guard.join();
            assert_eq!((report.ending, report.hedged), (Outcome::Cancelled, true));
        }
    });
}

#[test]
fn a_cancel_before_the_second_request_prevents_it() {
    // On a busy machine the cancel can be too late.
    with_timer(ms(500), |after| {
        let server = MockServer::scripted([begun().hang(LONG)]).unwrap();
        let client = client(&[&server], after).build().unwrap();
        let (_receiver, guard) = client.stream(request()).unwrap();
        assert!(server.wait_for_requests(1, LONG));
        guard.cancel();
        assert_eq!(guard.join().ending, Outcome::Cancelled);
        thread::sleep(after + ms(300));
        assert_eq!(server.requests().len(), 1);
    });
}

#[test]
fn one_server_can_be_requested_twice_and_an_empty_budget_prevents_the_second_request() {
    for budget in [10, 0] {
        let gate = Gate::new();
        let server = MockServer::scripted([later(&gate, good()), good()]).unwrap();
        let mut retry = RetryPolicy::default();
        (retry.max_retries, retry.budget) = (0, budget);
        let client = client(&[&server], ms(20)).retry(retry).build().unwrap();
        let (receiver, guard) = client.stream(request()).unwrap();
        if budget == 0 {
            assert!(server.wait_for_requests(1, LONG));
            thread::sleep(ms(100));
            gate.open();
        }
        assert_eq!(collect(&receiver).0, words());
        assert_eq!(guard.join().hedged, budget > 0);
        assert_eq!(server.requests().len(), if budget > 0 { 2 } else { 1 });
    }
}

#[test]
fn the_winner_can_be_resumed() {
    let first = MockServer::scripted([Script::new().hang(LONG), Script::new().hang(LONG)]).unwrap();
    let gate = Gate::new();
    let half = &good().wire()[..good().wire().len() / 2];
    let cut = Script::new().wait_for(&gate).write(half).reset();
    let second = MockServer::scripted([cut, good()]).unwrap();
    // The servers are used in order. A stream that breaks off at the second server resumes at the
    // first server, which hangs.
    let client = client(&[&first, &second], ms(20)).resumes(3).build().unwrap();
    let (receiver, guard) = client.stream(request()).unwrap();
    assert!(first.wait_for_requests(1, LONG));
    gate.open();
    let one = receiver.recv_timeout(LONG).unwrap();
    assert!(matches!(one, tokenwire::StreamToken::Token { id: Some(9707), .. }), "{one:?}");
    assert!(first.wait_for_requests(2, LONG), "the stream is resumed");
    assert_eq!(first.requests()[1].json()["prompt"][3], 9707);
    guard.cancel();
    assert_eq!(guard.join().resumes.len(), 1);
}

#[test]
fn a_shared_channel_gets_one_of_the_two_streams_and_one_end() {
    let servers = [Script::new().hang(LONG), good()].map(|script| MockServer::scripted([script]).unwrap());
    let client = client(&[&servers[0], &servers[1]], ms(20)).build().unwrap();
    let (channel, receiver) = fan_in();
    let guard = client.stream_into(request(), &channel, 7).unwrap();
    drop(channel);
    let items: Vec<_> = std::iter::from_fn(|| receiver.recv_timeout(LONG).ok()).collect();
    assert!(items.iter().all(|tagged| tagged.stream == 7));
    let ended: Vec<_> = items.iter().map(|tagged| tagged.token.is_none()).collect();
    assert_eq!(ended, [false, false, false, false, true]);
    assert_eq!(guard.join().ending, Outcome::Complete);
}

/// Delays and failures are random, and so close together that all events overlap. A stream never
/// contains tokens of both requests, and it always has an end.
#[test]
fn overlapping_requests_give_one_response_and_one_end() {
    const STREAMS: u32 = 600;
    let seed = |request: &tokenwire::testing::Request, salt: u64| {
        let prompt = request.json()["prompt"][0].as_u64().unwrap();
        (prompt + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ salt)
            .rotate_left(23)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    let servers = [3, 5].map(|salt| {
        MockServer::start(move |request| {
            let seed = seed(request, salt);
            let script = match seed >> 8 & 7 {
                0 => error(500),
                1 => good().cut_at(60, Cut::Reset),
                _ => good(),
            };
            Script::new().pause(Duration::from_micros(seed >> 16 & 0x1fff)).write(script.wire()).close()
        })
        .unwrap()
    });
    let mut retry = RetryPolicy::default();
    (retry.max_retries, retry.budget) = (0, 10_000);
    let client = client(&[&servers[0], &servers[1]], ms(4)).retry(retry).build().unwrap();
    let mut seen = [0; 4];
    let streams: Vec<_> = (0..STREAMS).collect();
    for batch in streams.chunks(24) {
        let begun = batch.iter().map(|n| client.stream(CompletionRequest::ids([*n])).unwrap());
        let begun: Vec<_> = begun.collect();
        for (n, (receiver, guard)) in batch.iter().zip(begun) {
            if n % 10 == 0 {
                thread::sleep(Duration::from_micros(u64::from(n * 37 % 6_000)));
                guard.cancel();
            }
            let (tokens, last) = collect(&receiver);
            let report = guard.join();
            assert_eq!(report.tokens as usize, tokens.len(), "{n}: {report:?}");
            assert!(words().starts_with(&tokens), "{n}: {tokens:?}");
            let ending = match last {
                Last::Done => {
                    assert_eq!(tokens, words(), "{n}");
                    seen[usize::from(report.hedged)] += 1;
                    Outcome::Complete
                }
                Last::Error(error) => {
                    assert!(
                        matches!(error.kind(), ErrorKind::Server | ErrorKind::Incomplete),
                        "{n}: {error}"
                    );
                    seen[2] += 1;
                    Outcome::Failed
                }
                Last::Nothing => {
                    assert_eq!(n % 10, 0, "an end without an item: {report:?}");
                    seen[3] += 1;
                    Outcome::Cancelled
                }
            };
            assert_eq!(report.ending, ending, "{n}");
        }
    }
    println!(
        "complete {}, complete and hedged {}, failed {}, cancelled {}",
        seen[0], seen[1], seen[2], seen[3]
    );
    // The machine's speed decides how many streams are cancelled and how many end in time.
    assert!(seen[1] > 0 && seen[2] > 0, "{seen:?}");
    let began = Instant::now();
    drop(client);
    assert!(servers.iter().all(|server| server.wait_for_open_connections(0, LONG)), "{:?}", began.elapsed());
}
