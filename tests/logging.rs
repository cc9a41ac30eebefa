//! Tests the section "Logging" of the front page, level by level. The only test is in a separate
//! file because a process has one logger.

#![cfg(feature = "testing")]

#[path = "common/checks.rs"]
#[allow(dead_code, unreachable_pub)]
mod checks;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use checks::each_row;
use log::{Level, LevelFilter};
use tokenwire::testing::{Cut, MockServer, Script};
use tokenwire::{ApiClient, CompletionRequest, StreamToken};

static LINES: Mutex<Vec<(Level, String, String)>> = Mutex::new(Vec::new());

struct Keep;

impl log::Log for Keep {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = (record.level(), record.target().to_owned(), record.args().to_string());
        LINES.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn flush(&self) {}
}

fn taken() -> Vec<(Level, String, String)> {
    std::mem::take(&mut *LINES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Replaces each number, together with the characters attached to it, with a single `#`. Times and
/// sizes differ from run to run.
fn numberless(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let is_number = word.starts_with(|c: char| c.is_ascii_digit());
        if is_number { if word.ends_with(',') { "#," } else { "#" } } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn each_level_logs_exactly_the_documented_lines() {
    log::set_logger(&Keep).unwrap();
    log::set_max_level(LevelFilter::Trace);
    let tokens = [(1, "replytext"), (2, "replytext")];
    let good = || Script::tokens(tokens).header("X-Request-Id", "req-7").header("X-RateLimit-Left", "6");
    let head =
        ["POST /v1/completions: # bytes", "status # after #", "x-request-id: req-7", "x-ratelimit-left: #"];
    let odd = "data: replytext, but no JSON\n\n";
    let cases = [
        ("good", good(), &head[..], "stream ended: Complete, # tokens, # bytes, # events, #", false),
        (
            "broken off",
            good().cut_at(500, Cut::Fin),
            &head,
            "stream ended: Failed, # tokens, # bytes, # events, #",
            false,
        ),
        (
            "refused",
            Script::status(400).json(r#"{"error":{"message":"replytext: prompttext"}}"#),
            &head[..2],
            "stream ended: Failed, # tokens, # bytes, # events, #",
            false,
        ),
        (
            "odd",
            Script::events::<&str>([]).write(odd).write(odd).event("[DONE]"),
            &head[..2],
            "stream ended: Complete, # tokens, # bytes, # events, #",
            true,
        ),
    ];
    each_row(cases, |(name, script, head, end, is_odd)| {
        let server = MockServer::scripted([script]).unwrap();
        let client = ApiClient::builder(server.url()).retries(0).api_key("sk-secret-1").build().unwrap();
        let (receiver, guard) = client.stream(CompletionRequest::text("prompttext")).unwrap();
        while receiver
            .recv_timeout(Duration::from_secs(30))
            .is_ok_and(|item| matches!(item, StreamToken::Token { .. }))
        {}
        guard.join();
        drop((client, server));
        let lines = taken();

        let ours = |level| {
            let ours = lines.iter().filter(move |line| line.0 == level && line.1.starts_with("tokenwire"));
            ours.map(|line| numberless(&line.2)).collect::<Vec<_>>()
        };
        for level in [Level::Error, Level::Warn, Level::Info] {
            assert_eq!(ours(level), [""; 0], "{name}, {level}");
        }
        // The HTTP library decides the order of the headers in a response.
        let mut debug = ours(Level::Debug);
        let mut expected =
            [head, if is_odd { &["skipped # events that are not JSON objects"][..] } else { &[] }, &[end]]
                .concat();
        debug.sort();
        expected.sort_unstable();
        assert_eq!(debug, expected, "{name}");
        let odd_line = "first skipped event: replytext, but no JSON";
        assert_eq!(ours(Level::Trace), is_odd.then_some(odd_line).into_iter().collect::<Vec<_>>(), "{name}");

        for (level, target, line) in &lines {
            let text = line.contains("replytext") || line.contains("prompttext");
            assert!(*level == Level::Trace || !text, "{name}: {level} of {target}: {line}");
            assert!(!line.contains("secret"), "{name}: {level} of {target}: {line}");
        }
    });

    // The server's message about a failure that is retried is never logged. It may contain the
    // prompt or the key.
    let busy = r#"{"error":{"message":"prompttext of sk-secret-1","code":503}}"#;
    let server = MockServer::scripted([Script::events([busy]), good()]).unwrap();
    let client = ApiClient::builder(server.url()).retries(1).api_key("sk-secret-1").build().unwrap();
    let (receiver, guard) = client.stream(CompletionRequest::text("prompttext")).unwrap();
    assert_eq!(guard.join().retries, 1);
    drop((receiver, client, server));
    let own = taken().into_iter().filter(|(_, target, _)| target.starts_with("tokenwire"));
    let own: Vec<_> = own.map(|(_, _, line)| line).collect();
    assert!(own.iter().any(|line| line.ends_with(", after: server, 503")), "{own:?}");
    let text = |line: &String| ["prompttext", "secret"].iter().any(|text| line.contains(text));
    assert!(!own.iter().any(text), "{own:?}");

    // The only warning is logged once for each client, when it is created.
    each_row(
        [
            ("http://10.0.0.7/v1", Some("sk-secret-1"), 1),
            ("http://10.0.0.7/v1", None, 0),
            ("https://10.0.0.7/v1", Some("sk-secret-1"), 0),
            ("http://127.0.0.1/v1", Some("sk-secret-1"), 0),
        ],
        |(url, key, warnings)| {
            for as_header in [false, true] {
                let builder = ApiClient::builder(url).retries(0);
                let builder = match key {
                    Some(key) if as_header => builder.header("Authorization", format!("Bearer {key}")),
                    Some(key) => builder.api_key(key),
                    None => builder,
                };
                let client = builder.build().unwrap();
                let lines = taken();
                assert_eq!(
                    lines.iter().filter(|line| line.0 == Level::Warn).count(),
                    warnings,
                    "{url} {key:?}"
                );
                assert_eq!(lines.len(), warnings, "{url} {key:?}: {lines:?}");
                drop(client);
            }
        },
    );
}
