//! Tests with several servers. A stream that fails at one server moves to another, before its first
//! token or later. A failed server is skipped until a probe succeeds. A session stays at one
//! server.
#![cfg(feature = "testing")]

#[path = "common/checks.rs"]
#[allow(dead_code, unreachable_pub)]
mod checks;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use checks::each_row;
use tokenwire::recording::Request;
use tokenwire::testing::{Cut, FakeModel, MockServer, Script};
use tokenwire::{
    ApiClient, ApiClientBuilder, Balance, CompletionRequest, ErrorKind, IdsExact, Outcome, RetryPolicy,
    RoutePolicy, SamplingParams, StreamReport, StreamToken, TokenId,
};

/// A generous limit. Only a broken test waits for it.
const LONG: Duration = Duration::from_secs(60);

fn model() -> FakeModel {
    FakeModel::new(7)
}

/// Returns a policy with a wait longer than any test. It shows that a stream does not wait before
/// it uses another server.
fn retry() -> RetryPolicy {
    let mut retry = RetryPolicy::default();
    (retry.min_wait, retry.max_wait, retry.budget) = (LONG, LONG, 1_000);
    retry
}

fn client(servers: &[&MockServer]) -> ApiClientBuilder {
    let builder = ApiClient::builder(servers[0].url()).retry(retry()).resumes(8);
    servers[1..].iter().fold(builder, |builder, server| builder.base_url(server.url()))
}

fn request(n: TokenId) -> CompletionRequest {
    let greedy = SamplingParams::default().temperature(0.0).max_tokens(20);
    CompletionRequest::ids([n, 5, 6]).sampling(greedy)
}

fn read(client: &ApiClient, request: CompletionRequest) -> (Vec<TokenId>, StreamReport) {
    let (tokens, guard) = client.stream(request).unwrap();
    let mut ids = Vec::new();
    loop {
        match tokens.recv_timeout(LONG) {
            Ok(StreamToken::Token { id, .. }) => ids.extend(id),
            Ok(StreamToken::Done { .. } | StreamToken::Error(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) if error.is_disconnected() => return (ids, guard.join()),
            Err(error) => panic!("{error}"),
        }
    }
}

fn whole() -> MockServer {
    MockServer::start(|request| model().answer(request)).unwrap()
}

/// Starts a server whose streams break off in the middle.
fn cut() -> MockServer {
    MockServer::start(|request| {
        let script = model().answer(request);
        let half = script.wire().len() / 2;
        script.cut_at(half, Cut::Reset)
    })
    .unwrap()
}

fn status(code: u16) -> MockServer {
    MockServer::start(move |_| Script::status(code).json(r#"{"error":{"message":"no"}}"#)).unwrap()
}

/// Returns an address without a listener.
fn nobody() -> String {
    let server = whole();
    server.url()
}

#[test]
fn a_failed_stream_moves_to_the_next_server_at_once_with_the_same_tokens() {
    let good = whole();
    let expected = read(&client(&[&good]).build().unwrap(), request(1)).0;
    assert_eq!(expected.len(), 20);
    let (busy, dead, breaks) = (status(429), status(503), cut());
    // failing servers before the good one, number of failovers, retries, resumes
    let cases: &[(&[&MockServer], u32, u32, usize)] = &[
        (&[], 0, 0, 0),
        (&[&dead], 1, 1, 0),
        (&[&busy], 1, 1, 0),
        (&[&dead, &busy], 2, 2, 0),
        (&[&breaks], 1, 0, 1),
        (&[&dead, &breaks], 2, 1, 1),
    ];
    each_row(cases, |(before, failovers, retries, resumes)| {
        let servers: Vec<&MockServer> = before.iter().copied().chain([&good]).collect();
        let (ids, report) = read(&client(&servers).build().unwrap(), request(1));
        assert_eq!((ids, report.ending), (expected.clone(), Outcome::Complete), "{report:?}");
        assert_eq!(
            (report.failovers, report.retries, report.resumes.len()),
            (*failovers, *retries, *resumes)
        );
        assert_eq!((report.route, report.ids_exact), (before.len(), IdsExact::Yes));
    });
    let refused = ApiClient::builder(nobody()).base_url(good.url()).retry(retry()).build().unwrap();
    assert_eq!(read(&refused, request(1)).0, expected);
}

#[test]
fn an_invalid_request_is_not_sent_to_another_server() {
    let (bad, good) = (status(400), whole());
    let (ids, report) = read(&client(&[&bad, &good]).build().unwrap(), request(1));
    assert_eq!((ids.len(), report.error.unwrap().status(), report.failovers), (0, Some(400), 0));
    assert!(good.requests().is_empty());
    // Without retries, a stream fails at its first server. Without resumes, a stream fails at the
    // point where it breaks.
    let (dead, breaks) = (status(503), cut());
    let (_, report) = read(&client(&[&dead, &good]).retries(0).build().unwrap(), request(1));
    assert_eq!((report.error.unwrap().status(), report.route), (Some(503), 0));
    let (ids, report) = read(&client(&[&breaks, &good]).resumes(0).build().unwrap(), request(1));
    assert_eq!((report.error.unwrap().kind(), report.route), (ErrorKind::Incomplete, 0));
    assert!(!ids.is_empty() && good.requests().is_empty());
}

#[test]
fn a_failed_server_is_skipped_until_a_probe_succeeds() {
    let well = Arc::new(AtomicBool::new(false));
    let probes = Arc::new(AtomicUsize::new(0));
    let (state, seen) = (well.clone(), probes.clone());
    let first = MockServer::start(move |request: &Request| {
        let is_probe = request.path == "/health";
        seen.fetch_add(usize::from(is_probe), Ordering::SeqCst);
        match (state.load(Ordering::SeqCst), is_probe) {
            (false, _) => Script::status(503),
            (true, true) => Script::status(200),
            (true, false) => model().answer(request),
        }
    })
    .unwrap();
    let second = whole();
    let mut routes = RoutePolicy::default();
    (routes.breaker_failures, routes.breaker_min_open) = (2, Duration::from_millis(20));
    let client = client(&[&first, &second]).routes(routes).build().unwrap();
    let completions = || first.requests().iter().filter(|request| request.path != "/health").count();
    for n in 0..2 {
        assert_eq!(read(&client, request(n)).1.failovers, 1);
    }
    assert_eq!(completions(), 2);
    // A skipped server gets only probes. The probes are repeated.
    let began = Instant::now();
    while probes.load(Ordering::SeqCst) < 3 {
        let (ids, report) = read(&client, request(9));
        assert_eq!((ids.len(), report.route, report.failovers), (20, 1, 0));
        assert!(began.elapsed() < LONG, "no probe is sent");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(completions(), 2);
    well.store(true, Ordering::SeqCst);
    let began = Instant::now();
    while read(&client, request(3)).1.route == 1 {
        assert!(began.elapsed() < LONG, "the server is never used again");
        thread::sleep(Duration::from_millis(5));
    }
    assert!(completions() > 2);
}

/// A hanging probe does not delay any stream, and does not prevent later probes.
#[test]
fn a_probe_without_an_answer_ends_and_is_repeated() {
    let first = MockServer::start(|request: &Request| match request.path.as_str() {
        "/health" => Script::new().hang(Duration::MAX),
        _ => Script::status(503),
    });
    let (first, second) = (first.unwrap(), whole());
    let mut routes = RoutePolicy::default();
    (routes.breaker_failures, routes.probe_timeout) = (1, Duration::from_millis(20));
    (routes.breaker_min_open, routes.breaker_max_open) = (Duration::from_millis(1), Duration::from_millis(1));
    let client = client(&[&first, &second]).routes(routes).build().unwrap();
    let probes = || first.requests().iter().filter(|request| request.path == "/health").count();
    let began = Instant::now();
    while probes() < 3 {
        assert_eq!(read(&client, request(1)).0.len(), 20);
        assert!(began.elapsed() < LONG, "only {} probes were sent", probes());
        thread::sleep(Duration::from_millis(5));
    }
    // The probe's connection is closed too.
    drop(client);
    assert!(first.wait_for_open_connections(0, LONG), "a probe holds its connection");
}

#[test]
fn a_session_stays_at_its_server_and_weights_distribute_the_rest() {
    let servers = [whole(), whole(), whole()];
    let mut routes = RoutePolicy::default();
    routes.balance = Balance::Weighted;
    let client = || client(&servers.each_ref()).routes(routes).build().unwrap();
    let (one, other) = (client(), client());
    let mut used = [0; 3];
    for n in 0..30 {
        let ask = || request(n).session(format!("session-{n}"));
        let places: Vec<usize> = [&one, &other, &one].map(|client| read(client, ask()).1.route).to_vec();
        assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
        used[places[0]] += 1;
    }
    assert!(used.iter().all(|n| *n > 0), "{used:?}");
    let mut used = [0; 3];
    (0..40).for_each(|n| used[read(&one, request(n)).1.route] += 1);
    assert!(used.iter().all(|n| *n > 0), "{used:?}");
}

/// Two servers serve 16 streams at a time, and one of the servers dies. All streams still complete.
#[test]
fn all_streams_are_complete_and_exact_when_one_of_two_servers_dies() {
    let good = whole();
    let one = client(&[&good]).build().unwrap();
    let expected: Vec<Vec<TokenId>> = (0..64).map(|n| read(&one, request(n)).0).collect();
    let breaks = cut();
    let two = client(&[&breaks, &good]).build().unwrap();
    let reports = thread::scope(|scope| {
        let streams = (0..16).map(|lane| {
            let (two, expected) = (&two, &expected);
            scope.spawn(move || {
                let mut resumed = 0;
                for n in (lane..64).step_by(16) {
                    let (ids, report) = read(two, request(n as TokenId));
                    assert_eq!((ids, report.ending), (expected[n].clone(), Outcome::Complete), "{report:?}");
                    resumed += report.resumes.len();
                }
                resumed
            })
        });
        let streams: Vec<_> = streams.collect();
        streams.into_iter().map(|stream| stream.join().unwrap()).sum::<usize>()
    });
    assert!(reports >= 16, "only {reports} were broken");
}

/// All servers are down. One budget of the client limits the requests, for any number of streams
/// and servers.
#[test]
fn in_a_total_outage_the_load_grows_by_at_most_a_fifth() {
    let servers = [status(503), status(503)];
    let mut policy = retry();
    (policy.budget, policy.min_wait, policy.max_wait) = (10, Duration::ZERO, Duration::ZERO);
    let client = client(&servers.each_ref()).retry(policy).build().unwrap();
    for n in 0..100 {
        let (ids, report) = read(&client, request(n));
        assert_eq!((ids.len(), report.ending), (0, Outcome::Failed));
    }
    let sent = servers.iter().flat_map(MockServer::requests).filter(|request| request.path != "/health");
    let sent = sent.count();
    assert!((100..=120).contains(&sent), "{sent} requests for 100 streams");
}
