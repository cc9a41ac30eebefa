//! Tests that a broken stream resumes. Its ids, text, usage and calls are the same as in an
//! uninterrupted stream, wherever and however often it was cut. A stream that cannot be resumed
//! exactly ends with its error, and the report contains the reason.
#![cfg(feature = "testing")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, thread};

use tokenwire::recording::Request;
use tokenwire::testing::{Cut, FakeModel, MockServer, Script};
use tokenwire::{
    ApiClient, ApiClientBuilder, Branch, CompletionRequest, Dialect, Endpoint, FinishReason, IdsExact,
    Outcome, ResponseParser, RetryPolicy, SamplingParams, StreamReport, StreamToken, Timeouts, TokenId,
    Usage,
};

/// A generous limit. Only a broken test waits for it.
const LONG: Duration = Duration::from_secs(60);
/// The timer for streams that are cut by silence.
const SHORT: Duration = Duration::from_millis(60);

// ---- the result of a stream ----

#[derive(Debug, Clone, PartialEq)]
struct Whole {
    ids: Vec<TokenId>,
    text: String,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
    /// The result of a parser: the tree, and the calls that it returned.
    tree: Branch,
    calls: String,
}

/// Reads a stream to its end and parses it at the same time.
fn read(client: &ApiClient, request: CompletionRequest) -> (Whole, StreamReport) {
    let (tokens, guard) = client.stream(request).unwrap();
    let (mut ids, mut text, mut calls) = (Vec::new(), String::new(), Vec::new());
    let (mut usage, mut finish) = (None, None);
    let mut parser = ResponseParser::new(Dialect::by_name("hermes").unwrap());
    loop {
        let item = match tokens.recv_timeout(LONG) {
            Ok(item) => item,
            Err(error) if error.is_disconnected() => break,
            Err(error) => panic!("{error}"),
        };
        calls.extend(parser.push_item(&item));
        match item {
            StreamToken::Token { text: piece, id } => {
                ids.extend(id);
                text += &piece;
            }
            StreamToken::Done { usage: u, finish: f, .. } => (usage, finish) = (u, f),
            StreamToken::Error(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let (tree, rest) = parser.finish(finish.as_ref());
    calls.extend(rest);
    (Whole { ids, text, finish, usage, tree, calls: format!("{calls:?}") }, guard.join())
}

fn client(server: &MockServer) -> ApiClientBuilder {
    let mut retry = RetryPolicy::default();
    (retry.max_retries, retry.min_wait, retry.budget) = (50, Duration::ZERO, 1_000_000);
    ApiClient::builder(server.url()).retry(retry).resumes(50)
}

fn greedy(max_tokens: u32) -> SamplingParams {
    SamplingParams::default().temperature(0.0).max_tokens(max_tokens)
}

// ---- streams that are cut ----

/// Returns a random number that depends only on `parts`.
fn draw(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |state, part| {
        let z = (state ^ part).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (z >> 32)
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Way {
    Fin,
    Reset,
    ErrorFrame,
    Stall,
}

const ERROR: &str = r#"{"error":{"message":"the engine died","type":"InternalServerError","code":500}}"#;

/// Returns the response to a request. The response is whole, or cut at a place that depends on the
/// stream and the attempt.
fn answer(model: FakeModel, request: &Request, cuts: u64, ways: &[Way], done: &Mutex<Vec<Way>>) -> Script {
    let (stream, attempt) = stream_and_attempt(request);
    let at = |salt: u64, below: usize| (draw(&[stream, attempt, salt]) % below as u64) as usize;
    let script = match draw(&[stream, 1]) % 3 {
        0 => model.answer(request),
        1 => model.answer_until_close(request, false),
        _ => model.answer_until_close(request, true),
    };
    if attempt >= cuts {
        return script;
    }
    let way = ways[at(2, ways.len())];
    done.lock().unwrap().push(way);
    match way {
        Way::Fin => script.clone().cut_at(at(3, script.wire().len()), Cut::Fin),
        Way::Reset => script.clone().cut_at(at(3, script.wire().len()), Cut::Reset),
        Way::Stall => script.clone().cut_at(at(3, script.wire().len()), Cut::Hang),
        Way::ErrorFrame => {
            let events = model.events(request).unwrap();
            // After the finish reason, an error ends the stream without a resume.
            let before = events.iter().take_while(|data| !ends(data)).count();
            let kept = &events[..at(4, before + 1)];
            Script::events(kept).event(ERROR).event("[DONE]")
        }
    }
}

fn ends(data: &str) -> bool {
    ["\"finish_reason\":\"", "\"finish_reason\":{", "\"stop\":true", "\"usage\"", "[DONE]"]
        .iter()
        .any(|mark| data.contains(mark))
}

/// Parses the request's id: `s7`, `s7-1`, `s7-2`.
fn stream_and_attempt(request: &Request) -> (u64, u64) {
    let id = request.header("x-request-id").expect("an id");
    let mut numbers = id.trim_start_matches('s').split('-').map(|n| n.parse().expect("a number"));
    (numbers.next().unwrap(), numbers.next().unwrap_or(0))
}

/// The settings of a request.
#[derive(Debug, Clone, Copy)]
struct Ask {
    wire: Endpoint,
    prompt: u64,
    max_tokens: u32,
    min_tokens: u32,
    interval: u32,
}

impl Ask {
    fn of(number: u64) -> Self {
        let wires =
            [Endpoint::Auto, Endpoint::OpenAi, Endpoint::LlamaCpp, Endpoint::VllmGenerate, Endpoint::SgLang];
        let wire = wires[(number % 5) as usize];
        let pick = |salt, from: &[u32]| from[(draw(&[number, salt]) % from.len() as u64) as usize];
        Self {
            wire,
            prompt: draw(&[number, 5]) % 7,
            max_tokens: pick(6, &[1, 17, 60, 120]),
            // llama.cpp does not support this field.
            min_tokens: if wire == Endpoint::LlamaCpp { 0 } else { pick(7, &[0, 0, 9, 40]) },
            interval: pick(8, &[1, 1, 1, 3]),
        }
    }

    fn request(self, number: u64) -> CompletionRequest {
        let ids: Vec<TokenId> = (0..3 + self.prompt as u32).map(|i| 20 + i * 3).collect();
        let mut sampling = greedy(self.max_tokens);
        if self.wire != Endpoint::LlamaCpp {
            sampling = sampling.min_tokens(self.min_tokens).stop_token_ids(vec![0]);
        }
        CompletionRequest::ids(ids)
            .sampling(sampling)
            .extra("interval", self.interval)
            .request_id(format!("s{number}"))
    }
}

#[derive(Default)]
struct Counts {
    streams: usize,
    complete: usize,
    ids: usize,
    lost: usize,
    doubled: usize,
    wrong: usize,
    resumes: usize,
    ids_again: u64,
    without_usage: usize,
    /// The differences in the first streams that had a wrong result.
    differences: Vec<String>,
}

/// Runs this number of streams, four at a time. Each stream is cut up to `cuts` times, in one of
/// these `ways`.
fn run(name: &str, streams: u64, cuts: u64, ways: &'static [Way], timeouts: Timeouts) -> Vec<Way> {
    let model = FakeModel::new(11);
    let done = Arc::new(Mutex::new(Vec::new()));
    let of_server = done.clone();
    let server = MockServer::start(move |request| answer(model, request, cuts, ways, &of_server)).unwrap();
    let whole = MockServer::start(move |request| model.answer(request)).unwrap();
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(Counts::default());
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let wires = [
                    Endpoint::Auto,
                    Endpoint::OpenAi,
                    Endpoint::LlamaCpp,
                    Endpoint::VllmGenerate,
                    Endpoint::SgLang,
                ];
                // Use one client for each endpoint, because a client stores what it detects on an
                // endpoint.
                let clients = |server, timeouts| {
                    wires.map(|wire| client(server).endpoint(wire).timeouts(timeouts).build().unwrap())
                };
                let (cut, unbroken) = (clients(&server, timeouts), clients(&whole, Timeouts::default()));
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed) as u64;
                    if number >= streams {
                        return;
                    }
                    let ask = Ask::of(number);
                    let wire = (number % 5) as usize;
                    let (expected, report) = read(&unbroken[wire], ask.request(number));
                    assert_eq!(
                        (report.ending, report.ids_exact),
                        (Outcome::Complete, IdsExact::Yes),
                        "{report:?}"
                    );
                    let (found, report) = read(&cut[wire], ask.request(number));
                    compare(number, ask, &expected, found, &report, &counts);
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    let done = done.lock().unwrap().clone();
    println!(
        "{name}: {} streams cut {} times; {} complete; {} ids: lost {}, doubled {}, wrong {}; {} resumes, {} ids taken \
         once more and not handed out; {} cut behind their last id, without usage; {:.1?}",
        counts.streams,
        done.len(),
        counts.complete,
        counts.ids,
        counts.lost,
        counts.doubled,
        counts.wrong,
        counts.resumes,
        counts.ids_again,
        counts.without_usage,
        began.elapsed()
    );
    assert!(counts.differences.is_empty(), "{}", counts.differences.join("\n"));
    assert_eq!((counts.complete, counts.lost, counts.doubled, counts.wrong), (counts.streams, 0, 0, 0));
    done
}

fn compare(
    number: u64,
    ask: Ask,
    expected: &Whole,
    mut found: Whole,
    report: &StreamReport,
    counts: &Mutex<Counts>,
) {
    let mut counts = counts.lock().unwrap();
    counts.streams += 1;
    counts.complete += usize::from(report.ending == Outcome::Complete);
    counts.ids += found.ids.len();
    counts.resumes += report.resumes.len();
    counts.ids_again += report.resumes.iter().map(|resume| resume.ids_again).sum::<u64>();
    if found.ids.len() < expected.ids.len() {
        counts.lost += expected.ids.len() - found.ids.len();
    } else {
        counts.doubled += found.ids.len() - expected.ids.len();
    }
    counts.wrong += expected.ids.iter().zip(&found.ids).filter(|(a, b)| a != b).count();
    // If the stream is cut after the finish reason, the response is complete, but its counts are
    // lost.
    let exact = if found.usage.is_none() { IdsExact::Unknown } else { IdsExact::Yes };
    counts.without_usage += usize::from(found.usage.is_none());
    found.usage = found.usage.or(expected.usage);
    // The number of cached tokens comes from the first attempt, if it was received.
    if let (Some(found), Some(expected)) = (&mut found.usage, expected.usage) {
        found.cached_tokens = expected.cached_tokens;
    }
    let resumes_are_told = report.resumes.iter().all(|resume| resume.text_exact && resume.took.is_some());
    let is_right = found == *expected
        && report.ids_exact == exact
        && report.tokens as usize == found.ids.len()
        && report.not_resumed.is_none()
        && resumes_are_told;
    if !is_right && counts.differences.len() < 3 {
        counts.differences.push(format!("stream {number} {ask:?}\n{found:?}\n{expected:?}\n{report:?}"));
    }
}

#[test]
fn a_stream_cut_anywhere_in_any_way_equals_the_uninterrupted_one() {
    let wanted =
        env::var("RESUME_CUTS").ok().map_or(1500, |cuts| cuts.parse().expect("RESUME_CUTS is a number"));
    // Not every stream reaches its last cut, because a cut after the finish reason ends the stream.
    let streams = wanted / 3;
    let cuts = run("cuts", streams, 4, &[Way::Fin, Way::Reset, Way::ErrorFrame], Timeouts::default());
    assert!(cuts.len() as u64 >= wanted, "{} cuts of {wanted}", cuts.len());
    for way in [Way::Fin, Way::Reset, Way::ErrorFrame] {
        let count = cuts.iter().filter(|cut| **cut == way).count();
        println!("{way:?}: {count}");
        assert!(count > cuts.len() / 5, "{way:?}: {count}");
    }
}

#[test]
fn a_silent_stream_is_resumed_too() {
    let mut timeouts = Timeouts::default();
    (timeouts.first_token, timeouts.chunk, timeouts.after_finish) = (Some(SHORT), Some(SHORT), Some(SHORT));
    let cuts = run("stalls", 60, 2, &[Way::Stall], timeouts);
    assert!(cuts.len() >= 100, "{}", cuts.len());
}
