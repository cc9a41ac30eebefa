//! Tests of a turn that is parsed on a separate thread. Calls arrive while the model writes, the
//! tree grows under its lock, and each outcome is reported once.
#![cfg(feature = "testing")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokenwire::testing::{Cut, Gate, MockServer, Script};
use tokenwire::{
    ApiClient, Branch, Dialect, ErrorKind, FinishReason, LeafKind, Limit, Limits, Malformed, OnDrop,
    ResponseParser, Role, SamplingParams, StreamToken,
};

/// A generous limit. Only a broken test waits for it.
const SOON: Duration = Duration::from_secs(20);

const FIRST_CALL: &str = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
const SECOND_CALL: &str = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>";

fn client(server: &MockServer) -> ApiClient {
    ApiClient::builder(format!("{}/v1", server.url())).model("test").retries(0).build().unwrap()
}

fn parser() -> ResponseParser {
    ResponseParser::new(Dialect::by_name("hermes").unwrap())
}

fn tree() -> Arc<Mutex<Branch>> {
    Arc::new(Mutex::new(Branch::new(Role::Assistant)))
}

/// Returns one event of a stream, with its id.
fn event(text: &str, id: u32, finish: Option<&str>) -> String {
    json!({"choices": [{"index": 0, "text": text, "token_ids": [id], "finish_reason": finish}]}).to_string()
}

#[test]
fn the_first_of_two_calls_runs_before_the_last_token_is_sent() {
    let called = Gate::new();
    let script = Script::events([event("Let me see. ", 1, None), event(FIRST_CALL, 2, None)])
        .wait_for(&called)
        .event(&event(SECOND_CALL, 3, None))
        .event(&event("", 4, Some("stop")))
        .event("[DONE]");
    let server = MockServer::scripted([script]).unwrap();
    let (tokens, guard) = client(&server).stream_completion(&[1], SamplingParams::default(), None).unwrap();
    let tree = tree();
    let (calls, handle) = parser().run(tokens, tree.clone());

    let first = calls.recv_timeout(SOON).unwrap();
    assert_eq!((first.name.as_str(), first.at_token), ("now", 1));
    {
        // The server waits for this test, so no other token can have arrived.
        let tree = tree.lock().unwrap();
        assert_eq!(tree.ids().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(tree.content(), "Let me see.");
        assert_eq!(tree.find_call(&first.id).unwrap().ids, [2]);
    }
    called.open();

    let second = calls.recv_timeout(SOON).unwrap();
    assert_eq!((second.name.as_str(), second.arguments, second.at_token), ("add", json!({"a": 1}), 2));
    assert!(calls.recv_timeout(SOON).is_err(), "the channel ends with the turn");
    let response = handle.join().unwrap();
    assert_eq!(response.finish, Some(FinishReason::Stop));
    assert_eq!(response.branch.ids().collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(response.branch, *tree.lock().unwrap());
    assert!(guard.join().error.is_none());
}

#[test]
fn a_turn_that_breaks_off_reports_the_reason_and_keeps_the_received_part() {
    let whole = |last: &str| {
        Script::events([
            event("Hi ", 1, None),
            event(FIRST_CALL, 2, None),
            event("<tool_call>\n{\"na", 3, None),
        ])
        .event(last)
    };
    let error = json!({"error": {"message": "engine died", "type": "server_error", "code": 500}}).to_string();
    for (what, script, expected) in [
        ("an error in the stream", whole(&error), ErrorKind::Server),
        ("a reset", whole("").cut_at(whole("").wire().len() - 8, Cut::Reset), ErrorKind::Incomplete),
        ("the end of the connection", whole("").close(), ErrorKind::Incomplete),
    ] {
        let server = MockServer::scripted([script]).unwrap();
        let (tokens, _guard) =
            client(&server).stream_completion(&[1], SamplingParams::default(), None).unwrap();
        let tree = tree();
        let (calls, handle) = parser().run(tokens, tree.clone());
        assert_eq!(calls.iter().map(|call| call.name).collect::<Vec<_>>(), ["now"], "{what}");
        assert_eq!(handle.join().unwrap_err().kind(), expected, "{what}");
        let tree = tree.lock().unwrap();
        assert_eq!(tree.ids().collect::<Vec<_>>(), [1, 2, 3], "{what}");
        let last = &tree.leaves.last().unwrap().kind;
        assert_eq!(*last, LeafKind::Malformed { reason: Malformed::Unfinished }, "{what}");
    }
}

#[test]
fn a_cancelled_stream_ends_its_turn() {
    let script = Script::events([event("Hi", 1, None)]).hang(SOON);
    let server = MockServer::scripted([script]).unwrap();
    let (tokens, guard) = client(&server).stream_completion(&[1], SamplingParams::default(), None).unwrap();
    let tree = tree();
    let (calls, handle) = parser().run(tokens, tree.clone());
    let started = Instant::now();
    while tree.lock().unwrap().leaves.is_empty() {
        assert!(started.elapsed() < SOON);
        std::thread::yield_now();
    }
    guard.cancel();
    assert!(calls.recv_timeout(SOON).is_err());
    assert_eq!(handle.join().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(tree.lock().unwrap().content(), "Hi");
}

#[test]
fn dropping_the_handle_stops_the_parser_or_waits_for_it() {
    for policy in [OnDrop::Cancel, OnDrop::Join] {
        let (sender, tokens) = crossbeam_channel::unbounded();
        let tree = tree();
        let (calls, handle) = parser().run(tokens, tree.clone());
        let mut open = Some(sender);
        if policy == OnDrop::Join {
            // A drop that waits returns only if the stream ends.
            let sender = open.take().unwrap();
            sender.send(StreamToken::Token { text: "Hi".into(), id: Some(1) }).unwrap();
        }
        drop(handle.on_drop(policy));
        if policy == OnDrop::Join {
            assert_eq!(tree.lock().unwrap().content(), "Hi", "the drop did not wait");
        }
        assert!(calls.recv_timeout(SOON).is_err(), "{policy:?}: the thread is still running");
    }
}

#[test]
fn a_turn_over_a_limit_is_an_error_with_that_limit() {
    let (sender, tokens) = crossbeam_channel::unbounded();
    for text in ["12345678", "9", "no more"] {
        sender.send(StreamToken::Token { text: text.into(), id: None }).unwrap();
    }
    let mut limits = Limits::default();
    limits.max_turn_bytes = 8;
    let tree = tree();
    let (_calls, handle) = parser().limits(&limits).run(tokens, tree.clone());
    assert_eq!(handle.join().unwrap_err().kind(), ErrorKind::Limit(Limit::TurnBytes));
    assert_eq!(tree.lock().unwrap().text(), "12345678");
    assert_eq!(tree.lock().unwrap().ids_missing(), 1);
}
