//! Tests of the state after the end of a stream: the connection if the server withholds the end,
//! and the token count after a cancel.

#![cfg(feature = "testing")]

#[path = "common/checks.rs"]
#[allow(dead_code, unreachable_pub)]
mod checks;

use std::thread;
use std::time::{Duration, Instant};

use checks::each_row;
use crossbeam_channel::Receiver;
use tokenwire::testing::{MockServer, Script};
use tokenwire::{
    ApiClient, CompletionRequest, Limits, Outcome, StreamGuard, StreamReport, StreamToken, Timeouts,
};

/// A limit that only a hanging test reaches. No test here takes a tenth of it.
const LONG: Duration = Duration::from_secs(30);
const TAIL: Duration = Duration::from_secs(1);
const TOKEN: &str = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
const FINISH: &str = r#"{"choices":[{"index":0,"text":".","token_ids":[2],"finish_reason":"stop"}]}"#;
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;

fn client(server: &MockServer, tail: Duration, max_channel_tokens: usize) -> ApiClient {
    let (mut timeouts, mut limits) = (Timeouts::default(), Limits::default());
    timeouts.after_finish = Some(tail);
    limits.max_channel_tokens = max_channel_tokens;
    ApiClient::builder(server.url()).retries(0).timeouts(timeouts).limits(limits).build().unwrap()
}

fn start(client: &ApiClient) -> (Receiver<StreamToken>, StreamGuard) {
    client.stream(CompletionRequest::text("p")).unwrap()
}

/// Receives everything in the channel, up to its end.
fn collect(receiver: &Receiver<StreamToken>) -> Vec<StreamToken> {
    let mut items = Vec::new();
    loop {
        match receiver.recv_timeout(LONG) {
            Ok(item) => items.push(item),
            Err(error) => {
                assert!(error.is_disconnected(), "the stream hangs after {items:?}");
                return items;
            }
        }
    }
}

fn report_of(guard: &StreamGuard) -> StreamReport {
    let began = Instant::now();
    loop {
        if let Some(report) = guard.report() {
            return report;
        }
        assert!(began.elapsed() < LONG, "the stream does not end");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_stream_with_a_withheld_end_is_complete_and_its_connection_is_closed() {
    let withheld = || Script::events([TOKEN, FINISH]).hang(LONG);
    let cases = [
        ("nothing", withheld(), Duration::from_millis(50), false),
        ("nothing, with a wait of zero", withheld(), Duration::ZERO, false),
        ("the usage", Script::events([TOKEN, FINISH, USAGE]).hang(LONG), Duration::from_millis(500), true),
    ];
    each_row(cases, |(comes, script, tail, usage)| {
        let server = MockServer::scripted([script, Script::tokens([(1, "a")])]).unwrap();
        let client = client(&server, tail, 100);
        let (receiver, guard) = start(&client);
        let items = collect(&receiver);
        assert!(matches!(items.last(), Some(StreamToken::Done { .. })), "{comes}: {items:?}");
        let report = guard.join();
        assert_eq!((report.ending, report.tokens), (Outcome::Complete, 2), "{comes}");
        assert_eq!(report.usage.is_some(), usage, "{comes}");
        assert!(server.wait_for_disconnects(1, LONG), "{comes}: the server still has its connection");
        let (receiver, guard) = start(&client);
        assert_eq!(collect(&receiver).len(), 2, "{comes}");
        assert!(!guard.join().connection_reused, "{comes}");
    });
}

#[test]
fn the_wait_for_the_end_starts_after_the_consumer_has_received_the_tokens() {
    let apart = Duration::from_millis(100);
    let script = Script::events([TOKEN, TOKEN, FINISH]).pause(apart).event(USAGE).event("[DONE]");
    let server = MockServer::scripted([script]).unwrap();
    let (receiver, guard) = start(&client(&server, TAIL, 1));
    thread::sleep(TAIL + TAIL / 2);
    assert_eq!(collect(&receiver).len(), 4);
    assert!(guard.join().usage.is_some(), "the stream did not wait for the usage");
}

#[test]
fn a_token_that_a_cancel_withheld_from_the_consumer_is_not_counted() {
    let ten_tokens = r#"{"choices":[{"index":0,"text":"a","token_ids":[1,2,3,4,5,6,7,8,9,10]}]}"#;
    let server = MockServer::scripted([Script::events([ten_tokens]).hang(LONG)]).unwrap();
    let (receiver, guard) = start(&client(&server, TAIL, 2));
    let began = Instant::now();
    while receiver.len() < 2 {
        assert!(began.elapsed() < LONG, "no tokens");
        thread::sleep(Duration::from_millis(1));
    }
    guard.cancel();
    // Do not read before this line, because a read would make room for more tokens.
    let report = report_of(&guard);
    assert_eq!(collect(&receiver).len(), 2);
    assert_eq!((report.ending, report.tokens), (Outcome::Cancelled, 2));
}
