//! Runs each example as a separate program and checks its output.
#![cfg(feature = "cli")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use common::program::{Ran, ended, interrupt};
use serde_json::json;
use tokenwire::testing::{MockServer, Script};

/// Returns the program of an example. It is built here, because `cargo test --test examples` does
/// not build it and might run an old version.
fn example(name: &str) -> Command {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let tests = std::env::current_exe().unwrap();
        let profile = tests.parent().unwrap().parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--all-features", "--examples", "--target-dir"]);
        build.arg(profile.parent().unwrap()).args(profile.ends_with("release").then_some("--release"));
        // With the variables that cargo sets for this test, other packages (ring) would be built
        // again.
        let mine = |name: &String| {
            ["CARGO_PKG_", "CARGO_MANIFEST", "OUT_DIR"].iter().any(|own| name.starts_with(own))
        };
        for (name, _) in std::env::vars().filter(|(name, _)| mine(name)) {
            build.env_remove(name);
        }
        assert!(build.status().unwrap().success());
        profile.join("examples")
    });
    let mut command = Command::new(FOLDER.join(name));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(name: &str, args: &[&str], input: &str) -> Ran {
    let mut child: Child = example(name).args(args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let ran = ended(child);
    assert_eq!(ran.code, Some(0), "{name}: {}\n{}", ran.out, ran.err);
    ran
}

/// The examples that start their own mock server, with parts of their output, in order.
const ALONE: &[(&str, &[&str])] = &[
    ("select", &["0: 20 tokens", "1: 20 tokens", "2: 20 tokens", "3: 20 tokens"]),
    ("fan_in", &["100 streams ended, each of 10 ids: true"]),
    ("tools", &["add({\"a\":19,\"b\":23}) = 42", "It is 42. (in 2 rounds)"]),
    ("resend_failed", &["failed after 2 tokens: incomplete", "sent again: \"Hello world.\"", "Complete"]),
    ("record", &["bytes recorded", "words replayed", "the same as live: true"]),
    ("scheduler", &["start high 2", "start high 1", "start middle", "start low 2", "start low 1"]),
    ("callback", &["ended: Ok(())", "25 ids in"]),
    ("resume", &["60 ids, Some(Length)", "broke off after", "the same as uninterrupted: true"]),
];

#[test]
fn each_example_prints_its_result() {
    for (name, expected) in ALONE {
        let ran = run(name, &[], "");
        let mut rest = ran.out.as_str();
        for part in *expected {
            let at = rest.find(part).unwrap_or_else(|| panic!("{name}: no {part:?} in {}", ran.out));
            rest = &rest[at + part.len()..];
        }
    }
}

#[test]
fn the_scheduler_runs_all_jobs_two_at_a_time() {
    let ran = run("scheduler", &[], "");
    let (mut running, mut most) = (0, 0);
    for line in ran.out.lines() {
        running += if line.starts_with("start") { 1 } else { -1 };
        most = most.max(running);
    }
    assert_eq!((running, most, ran.out.matches("Complete, 10 tokens").count()), (0, 2, 5), "{}", ran.out);
}

#[test]
fn the_first_program_prints_tokens_with_their_ids() {
    let server = MockServer::scripted([Script::tokens([(9707, "Hello"), (13, ".")])]).unwrap();
    let ran = run("first", &[&server.url(), "785", "6722"], "");
    assert_eq!(ran.out, "\"Hello\" Some(9707)\n\".\" Some(13)\ndone: Some(Stop)\nids: Yes\n");
}

#[test]
fn ctrl_c_ends_the_stream_without_ending_the_program() {
    let mut child = example("ctrl_c").spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    // Wait until a part of the response has arrived.
    assert!(!out.fill_buf().unwrap().is_empty());
    interrupt(&child);
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert!(text.contains("\nCancelled after "), "{text}");
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_chat_sends_the_previous_messages() {
    let chunk = |delta, finish: Option<&str>| {
        json!({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
            .to_string()
    };
    let answer = |text: &str| {
        Script::events([
            chunk(json!({"content": text}), None),
            chunk(json!({}), Some("stop")),
            "[DONE]".into(),
        ])
    };
    let server = MockServer::scripted([answer("In Bern."), answer("To Bern.")]).unwrap();
    let ran = run("llama_chat", &[&server.url()], "Where are you?\nAnd where to?\n");
    assert!(
        ran.out.contains("In Bern.\n(1 tokens") && ran.out.contains("To Bern.\n(1 tokens"),
        "{}",
        ran.out
    );
    let messages = server.requests()[1].json()["messages"].clone();
    let said: Vec<_> = messages.as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!(said[1..], ["Where are you?", "In Bern.", "And where to?"]);
}
