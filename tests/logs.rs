//! Tests of all log lines, at every level, from this crate and its dependencies. They are in a
//! separate file because a process has one logger.

#![cfg(feature = "testing")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokenwire::testing::{MockServer, Script};
use tokenwire::{ApiClient, HttpClient, Limits, RoutePolicy, SamplingParams, Timeouts};

const KEY: &str = "sk-canary-0123456789-0123456789";
const HEADER: &str = "canary-abcdefghijklmnopqrst";

static LINES: Mutex<String> = Mutex::new(String::new());
static OWN: Mutex<String> = Mutex::new(String::new());
static PANICS: AtomicBool = AtomicBool::new(false);

struct Sink;

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        let is_fatal = line.contains("stream ended") || line.contains("was probed");
        assert!(!is_fatal || !PANICS.load(Ordering::Relaxed), "a log sink that panics");
        if record.target().starts_with("tokenwire") {
            *OWN.lock().unwrap() += &format!("{line}\n");
        }
        let mut lines = LINES.lock().unwrap();
        // ureq-proto logs the sent bytes in rows of 16, in hex and as text. Join the text again.
        let row = record.target().starts_with("ureq_proto").then(|| line.get(line.len().wrapping_sub(16)..));
        match row.flatten() {
            Some(text) => lines.push_str(text),
            None => *lines += &format!("\n{line}\n"),
        }
    }

    fn flush(&self) {}
}

#[test]
fn no_credential_is_logged_and_all_credentials_reach_the_server() {
    log::set_logger(&Sink).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let script = Script::tokens([(1, "a")]);
    let server = MockServer::scripted([script.clone(), Script::new(), script]).unwrap();
    let client =
        ApiClient::builder(server.url()).api_key(KEY).header("x-api-key", HEADER).header("x-empty", "");
    // The second stream starts after the connection of the first one is back in the pool.
    let (mut limits, mut timeouts) = (Limits::default(), Timeouts::default());
    (limits.max_streams, timeouts.drain) = (1, Duration::from_secs(60));
    let client = client.limits(limits).timeouts(timeouts).build().unwrap();
    // The second request is sent twice, because the server closes its pooled connection.
    for _ in 0..2 {
        let (tokens, guard) = client.stream_completion(&[1], SamplingParams::default(), None).unwrap();
        assert!(guard.join().error.is_none());
        assert_eq!(tokens.iter().count(), 2);
    }
    let http = HttpClient::new().unwrap();
    http.get(&server.url(), &[("x-api-key", HEADER), ("x-api-key", KEY), ("connection", "close")]).unwrap();

    let requests = server.requests();
    assert_eq!(requests.len(), 4);
    for request in &requests[..3] {
        assert_eq!(request.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
        assert_eq!((request.header("x-api-key"), request.header("x-empty")), (Some(HEADER), Some("")));
    }
    let sent: Vec<_> = requests[3].headers.iter().filter(|(name, _)| name == "x-api-key").collect();
    assert!(sent.len() == 2 && sent[0].1 == HEADER && sent[1].1 == KEY, "{sent:?}");

    let lines = LINES.lock().unwrap();
    assert!(lines.contains("POST./v1/completions") && lines.contains("authorization:"), "nothing was logged");
    assert!(!lines.contains("canary"), "{lines}");
    drop(lines);

    // The server echoes the key in every possible place. At trace level, ureq-proto logs the
    // response unchanged; this crate does not.
    let echo = Script::events([format!("not JSON, {KEY}")])
        .header("X-Request-Id", KEY)
        .header("X-RateLimit-For", KEY);
    let echoing = MockServer::scripted([echo]).unwrap();
    let client_of_echo = ApiClient::builder(echoing.url()).api_key(KEY).build().unwrap();
    let (tokens, guard) = client_of_echo.stream_completion(&[1], SamplingParams::default(), None).unwrap();
    let shown = format!("{:?} {:?}", guard.join(), tokens.iter().collect::<Vec<_>>());
    assert!(shown.contains("[redacted]") && !shown.contains("canary"), "{shown}");

    // The password of a proxy, in plain form and in the form in which it is sent.
    LINES.lock().unwrap().clear();
    for status in [200, 407] {
        let proxy = MockServer::scripted([Script::status(status)]).unwrap();
        let url = format!("http://me:{KEY}@{}", proxy.addr());
        let client = ApiClient::builder("http://model.test/v1").retries(0).proxy(url).build().unwrap();
        let (tokens, guard) = client.stream_completion(&[1], SamplingParams::default(), None).unwrap();
        let shown = format!("{client:?} {:?} {:?}", guard.join(), tokens.iter().collect::<Vec<_>>());
        assert!(!shown.contains("canary") && !shown.contains("bWU6c2st"), "{shown}");
        let sent = proxy.requests();
        assert_eq!(sent[0].method, "CONNECT", "{sent:?}");
        assert!(sent[0].header("proxy-authorization").is_some_and(|value| value.contains("bWU6c2st")));
    }
    let lines = LINES.lock().unwrap();
    assert!(!lines.contains("canary") && !lines.contains("bWU6c2st"), "{lines}");
    drop(lines);

    let own = OWN.lock().unwrap();
    assert!(own.contains("not JSON") && own.contains("x-ratelimit-for"), "missing in the log: {own}");
    assert!(!own.contains("canary"), "{own}");
    drop(own);

    // A log sink that panics loses its line, but the stream still ends.
    PANICS.store(true, Ordering::Relaxed);
    let (tokens, guard) = client.stream_completion(&[1], SamplingParams::default(), None).unwrap();
    let (done, report) = std::sync::mpsc::channel();
    std::thread::spawn(move || drop(done.send(guard.join())));
    let report = report.recv_timeout(Duration::from_secs(30)).expect("join hangs");
    assert_eq!((report.ending, tokens.iter().count()), (tokenwire::Outcome::Complete, 2));

    // If the sink panics during a probe, the server still gets its next probe.
    let (dead, good) =
        (MockServer::scripted([Script::status(503)]), MockServer::scripted([Script::tokens([(1, "a")])]));
    let (dead, good) = (dead.unwrap(), good.unwrap());
    let mut routes = RoutePolicy::default();
    (routes.breaker_failures, routes.breaker_min_open, routes.breaker_max_open) =
        (1, Duration::from_millis(1), Duration::from_millis(1));
    let client = ApiClient::builder(dead.url()).base_url(good.url()).routes(routes).build().unwrap();
    let probes = || dead.requests().iter().filter(|request| request.path == "/health").count();
    let began = Instant::now();
    while probes() < 3 {
        let (_tokens, guard) = client.stream_completion(&[1], SamplingParams::default(), None).unwrap();
        assert_eq!(guard.join().ending, tokenwire::Outcome::Complete);
        assert!(began.elapsed() < Duration::from_secs(30), "only {} probes were sent", probes());
        std::thread::sleep(Duration::from_millis(5));
    }
}
