//! Tests of `tokenwire bench` as people and scripts use it.

#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::program::{HANGS, Ran, ended, has, interrupt, program, run};
use serde_json::{Value, json};
use tokenwire::testing::{Cut, Gate, MockServer, Script};

const HELLO: [(u32, &str); 4] = [(9707, "Hello"), (1879, " wörld"), (0, ""), (13, ".")];

fn hello() -> Script {
    Script::tokens(HELLO)
}

/// Runs `bench` against `server`.
fn bench(server: &MockServer, more: &[&str]) -> Ran {
    run(&[&["bench", "--base-url", &server.url()], more].concat(), b"")
}

/// Parses the only line of the output.
fn figures(ran: &Ran) -> Value {
    assert_eq!(ran.lines().len(), 1, "{}", ran.out);
    ran.last()["bench"].clone()
}

fn ordered(percentiles: &Value) -> bool {
    let at = |name: &str| percentiles[name].as_u64().unwrap();
    at("p50") <= at("p90") && at("p90") <= at("p99") && at("p99") <= at("max")
}

#[test]
fn a_load_reports_counts_times_and_rates() {
    // Each response has two pauses of 5 ms, so none of its times is zero.
    let answer = Script::events([""; 0])
        .pause(Duration::from_millis(5))
        .event(r#"{"choices":[{"index":0,"text":"a","token_ids":[7]}]}"#)
        .pause(Duration::from_millis(5))
        .event(r#"{"choices":[{"index":0,"text":"b","token_ids":[8],"finish_reason":"stop"}]}"#)
        .event(r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}"#)
        .event("[DONE]");
    let server = MockServer::scripted([answer]).unwrap();
    let ran = bench(&server, &["-c", "3", "-n", "10", "--request-id", "mine", "--seed", "7", "--json"]);
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{}", ran.out);
    let figures = figures(&ran);
    let expected = json!({
        "streams": 3, "requests": 10, "complete": 10, "failed": 0, "cancelled": 0, "tokens": 20, "ids": 20,
        "ids_exact": {"exact": 10, "not_exact": 0, "not_counted": 0}, "errors": {}, "retries": 0,
        "usage": {"prompt_tokens": 50, "completion_tokens": 20, "cached_tokens": 40},
        "cost": {"cpu_includes_server": false, "self_check": null},
    });
    assert!(has(&figures, &expected), "{figures}");
    for (name, least) in [("first_token_us", 5_000), ("inter_token_us", 4_000), ("answer_us", 10_000)] {
        assert!(ordered(&figures[name]) && figures[name]["max"].as_u64() >= Some(least), "{name}: {figures}");
    }
    let number = |name: &str| figures[name].as_f64().unwrap();
    let seconds = number("elapsed_us") / 1e6;
    assert!((number("tokens_per_second") * seconds - 20.0).abs() < 0.1, "{figures}");
    assert!((number("requests_per_second") * seconds - 10.0).abs() < 0.1, "{figures}");
    // The speed of a stream depends on the machine: a thread that wakes up late receives both
    // tokens together.
    let rate = |name: &str| figures["stream_tokens_per_second"][name].as_f64().unwrap();
    assert!(0.0 < rate("p10") && rate("p10") <= rate("p50"), "{figures}");

    let requests = server.requests();
    assert_eq!(requests.len(), 10);
    let mut ids: Vec<_> = requests.iter().map(|request| request.header("x-request-id").unwrap()).collect();
    ids.sort_unstable();
    let expected: Vec<_> = (0..10).map(|n| format!("mine-{n}")).collect();
    assert_eq!(ids, expected);
    for request in &requests {
        let body = request.json();
        assert!(has(&body, &json!({"max_tokens": 64, "seed": 7, "stream": true})), "{body}");
        assert!(body["prompt"].as_str().is_some_and(|prompt| prompt.contains("lighthouse")), "{body}");
    }
}

#[test]
fn the_number_of_concurrent_streams_is_exact() {
    let gate = Gate::new();
    let token = |finish: &str| {
        format!(r#"{{"choices":[{{"index":0,"text":"a","token_ids":[7],"finish_reason":{finish}}}]}}"#)
    };
    let script = Script::events([token("null")]).wait_for(&gate).event(&token("\"stop\"")).event("[DONE]");
    let server = MockServer::scripted([script]).unwrap();
    let url = server.url();
    let child =
        program(&["bench", "--base-url", &url, "-c", "4", "-n", "12", "--json", "--no-self-check"]).spawn();
    assert!(server.wait_for_requests(4, HANGS));
    assert!(!server.wait_for_requests(5, Duration::from_millis(300)));
    gate.open();
    let ran = ended(child.unwrap());
    assert_eq!((ran.code, &figures(&ran)["complete"]), (Some(0), &json!(12)), "{}", ran.out);
    assert_eq!(server.requests().len(), 12);
}

#[test]
fn errors_are_counted_by_kind_and_set_the_exit_code() {
    let cut = hello().cut_at(hello().wire().len() - 300, Cut::Fin);
    let scripts = [Script::status(503).json(r#"{"error":{"message":"overloaded"}}"#), hello(), cut, hello()];
    let server = MockServer::scripted(scripts).unwrap();
    let ran = bench(&server, &["-c", "1", "-n", "4", "--retries", "0", "--json"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let figures = figures(&ran);
    let expected = json!({"complete": 2, "failed": 2, "errors": {
        "server": {"count": 1, "first": "the server answered 503: overloaded"}, "incomplete": {"count": 1},
    }});
    assert!(has(&figures, &expected), "{figures}");
}

#[test]
fn every_request_to_an_unreachable_server_is_an_error() {
    let url = MockServer::scripted([hello()]).unwrap().url();
    let ran = run(&["bench", "--base-url", &url, "-c", "2", "-n", "6", "--retries", "0", "--json"], b"");
    assert_eq!(ran.code, Some(1));
    let expected =
        json!({"complete": 0, "failed": 6, "inter_token_us": null, "errors": {"refused": {"count": 6}}});
    assert!(has(&figures(&ran), &expected), "{}", ran.out);
}

#[test]
fn output_for_people_is_a_table_without_a_live_line_outside_a_terminal() {
    let server = MockServer::scripted([hello()]).unwrap();
    let ran = bench(&server, &["-c", "2", "-n", "4", "--prompt-ids", "1,2,3"]);
    assert_eq!((ran.code, &*ran.err), (Some(0), ""));
    assert!(ran.out.starts_with("4 of 4 requests complete, 2 streams at a time\n"), "{}", ran.out);
    for word in ["p50", "p99", "first token ", "inter-token ", "exact in 4", "16, ", "none", "CPU time"] {
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
    }
    assert_eq!(server.requests()[0].json()["prompt"], json!([1, 2, 3]));
}

#[test]
fn ctrl_c_prints_the_results_so_far() {
    // The server sends two responses, then stays silent.
    let asked = AtomicUsize::new(0);
    let server = MockServer::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => hello(),
        _ => Script::events([r#"{"choices":[{"index":0,"text":"a","token_ids":[7]}]}"#]).hang(HANGS),
    });
    let server = server.unwrap();
    for json in [true, false] {
        let mut command = program(&["bench", "--base-url", &server.url(), "-c", "2", "-n", "50"]);
        let before = server.requests().len();
        let child = command.args(json.then_some("--json")).spawn().unwrap();
        // Two responses of the first run are complete.
        assert!(server.wait_for_requests(before + if json { 4 } else { 2 }, HANGS));
        interrupt(&child);
        let ran = ended(child);
        assert_eq!(ran.code, Some(130), "{} {}", ran.out, ran.err);
        if json {
            let expected = json!({"complete": 2, "failed": 0, "cancelled": 2, "cost": {"self_check": null}});
            assert!(has(&figures(&ran), &expected), "{}", ran.out);
        } else {
            assert!(ran.out.starts_with("0 of 50 requests complete, 2 cancelled"), "{}", ran.out);
        }
        assert!(server.wait_for_open_connections(0, HANGS), "some connections are still open");
    }
}

#[test]
fn a_plot_is_drawn_only_if_there_is_data() {
    let file = std::env::temp_dir().join(format!("tokenwire-bench-{}.svg", std::process::id()));
    let path = file.to_string_lossy().into_owned();
    let server = MockServer::scripted([hello()]).unwrap();
    let lanes = file.with_extension("lanes.svg");
    let timeline = lanes.to_string_lossy().into_owned();
    let ran = bench(&server, &["-c", "2", "-n", "8", "--plot", &path, "--timeline", &timeline]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let drawn = fs::read_to_string(&lanes).unwrap();
    assert!(drawn.contains("8 streams, 32 tokens in ") && drawn.matches("\nstop\n").count() == 8, "{drawn}");
    fs::remove_file(&lanes).unwrap();
    let svg = fs::read_to_string(&file).unwrap();
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for word in ["Time between tokens: 2 streams at a time, 32 tokens", "p50", "p99", "max", "% of tokens"] {
        assert!(svg.contains(word), "{word}");
    }
    let one_token = MockServer::scripted([Script::tokens([(1, "a")])]).unwrap();
    let ran = bench(&one_token, &["-n", "2", "--plot", &path]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.err.contains("no plot: no stream received two tokens"), "{}", ran.err);
    fs::remove_file(&file).unwrap();
}

#[test]
fn bench_without_a_server_loads_a_recording() {
    let ran = run(&["bench", "-c", "2", "-n", "2", "--json"], b"");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("recorded from a real vLLM"), "{}", ran.err);
    let expected = json!({"complete": 2, "cost": {"cpu_includes_server": true, "self_check": null}});
    assert!(has(&figures(&ran), &expected), "{}", ran.out);
}
