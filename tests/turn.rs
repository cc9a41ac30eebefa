//! Tests of the turn loop against the mock server. Calls run while the model writes, and results
//! are sent in order. Each prompt begins with the previous prompt and the ids received. Every
//! failure is reported.
#![cfg(feature = "testing")]

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tokenwire::testing::{Gate, MockServer, Script};
use tokenwire::{
    ApiClient, ChatFormat, Context, Encode, Error, ErrorKind, Prefix, Role, SamplingParams, TokenId, Tool,
    Tools, Turn,
};

/// A generous limit. Only a broken test waits for it.
const SOON: Duration = Duration::from_secs(20);

const IM_END: TokenId = 900_001;

/// A tokenizer in which each character is a token. Each of the two markers of ChatML is also one
/// token.
struct Characters;

impl Encode for Characters {
    fn encode_text(&self, text: &str) -> Result<Vec<(TokenId, usize)>, Error> {
        Ok(text.char_indices().map(|(at, c)| (c as TokenId, at)).collect())
    }

    fn token(&self, name: &str) -> Option<TokenId> {
        ["<|im_start|>", "<|im_end|>"]
            .iter()
            .zip(900_000..)
            .find(|(text, _)| **text == name)
            .map(|(_, id)| id)
    }
}

fn context() -> Arc<Mutex<Context>> {
    let mut context = Context::new(ChatFormat::by_name("qwen2_5").unwrap(), Characters);
    context.user("Go!");
    Arc::new(Mutex::new(context))
}

fn call(name: &str, arguments: Value) -> String {
    format!("<tool_call>\n{}\n</tool_call>", json!({"name": name, "arguments": arguments}))
}

fn event(text: &str, id: TokenId, finish: Option<&str>) -> String {
    json!({"choices": [{"index": 0, "text": text, "token_ids": [id], "finish_reason": finish}]}).to_string()
}

/// Returns a response with one token for each text, then the end of the turn.
fn answer(texts: &[&str]) -> Script {
    let tokens = texts.iter().zip(1..).map(|(text, id)| event(text, id, None));
    let count = texts.len() + 1;
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": count}}).to_string();
    Script::events(tokens.chain([event("", IM_END, Some("stop")), usage, "[DONE]".to_owned()]))
}

fn client(server: &MockServer) -> ApiClient {
    ApiClient::builder(format!("{}/v1", server.url())).model("test").retries(0).build().unwrap()
}

fn prompt(server: &MockServer, n: usize) -> Vec<TokenId> {
    serde_json::from_value(server.requests()[n].json()["prompt"].clone()).unwrap()
}

fn tool(name: &str, function: impl Fn(&Value) -> Result<String, String> + Send + Sync + 'static) -> Tool {
    Tool::new(name, "", json!({"type": "object"}), move |call| Ok(function(&call.arguments)?))
}

#[test]
fn calls_run_while_the_model_writes_and_their_results_are_sent_in_order() {
    let (first, second) = (call("first", json!({"n": 1})), call("second", json!({})));
    let called = Gate::new();
    // The server sends the rest of the response only while the first call runs.
    let script = Script::events([event("Let me see.", 1, None), event(&first, 2, None)])
        .wait_for(&called)
        .event(&event(&second, 3, None))
        .event(&event("", IM_END, Some("stop")))
        .event("[DONE]");
    let server = MockServer::scripted([script, answer(&["Done."])]).unwrap();
    // The first call ends after the second, but its result is sent first.
    let second_done = Gate::new();
    let tools = Tools::new()
        .with(tool("first", {
            let second_done = second_done.clone();
            move |arguments| {
                called.open();
                assert!(second_done.wait(SOON));
                Ok(format!("one: {arguments}"))
            }
        }))
        .with(tool("second", move |_| {
            second_done.open();
            Ok("two".into())
        }));
    let context = context();
    let report = Turn::new(&client(&server), context.clone()).tools(tools).run().unwrap();

    assert_eq!((report.rounds.len(), report.content().as_str(), report.is_unfinished), (2, "Done.", false));
    assert!(report.is_prefix_kept());
    let told: Vec<&str> = report.rounds[0].results.iter().map(|result| result.text.as_str()).collect();
    assert_eq!(told, ["one: {\"n\":1}", "two"]);
    let next = prompt(&server, 1);
    assert!(next.starts_with(&[&prompt(&server, 0)[..], &[1, 2, 3, IM_END]].concat()));
    let rendered: String = next.iter().map(|id| char::from_u32(*id).unwrap_or('|')).collect();
    assert!(rendered.find("one").unwrap() < rendered.find("two").unwrap(), "{rendered}");
    let roles: Vec<Role> = context.lock().unwrap().turns().iter().map(|turn| turn.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool, Role::Assistant]);
}

#[test]
fn a_tool_error_is_sent_to_the_model() {
    let calls = [call("fails", json!({})), call("panics", json!({})), call("nobody", json!({}))].concat();
    let server = MockServer::scripted([answer(&[&calls]), answer(&["Sorry."])]).unwrap();
    let tools = Tools::new()
        .with(tool("fails", |_| Err("out of paper".into())))
        .with(tool("panics", |_| panic!("boom")));
    let report = Turn::new(&client(&server), context()).tools(tools).run().unwrap();
    let told: Vec<&str> = report.rounds[0].results.iter().map(|result| result.text.as_str()).collect();
    assert_eq!(told[..2], ["error: out of paper", "error: the tool panicked: boom"]);
    assert!(told[2].starts_with("error: there is no tool \"nobody\""), "{told:?}");
    assert_eq!(report.content(), "Sorry.");
}

#[test]
fn a_turn_ends_with_its_last_round_and_can_be_continued() {
    let again = call("again", json!({}));
    let server = MockServer::scripted([answer(&[&again]), answer(&[&again]), answer(&["At last."])]).unwrap();
    let context = context();
    let turn =
        Turn::new(&client(&server), context).tools(Tools::new().with(tool("again", |_| Ok("more".into()))));
    let report = turn.clone().max_rounds(2).run().unwrap();
    assert_eq!((report.rounds.len(), report.is_unfinished), (2, true));
    let report = turn.run().unwrap();
    assert_eq!((report.rounds.len(), report.content().as_str()), (1, "At last."));
    assert_eq!(report.rounds[0].prompt.prefix, Prefix::Kept);
}

#[test]
fn a_failed_stream_keeps_the_received_part_and_the_turn_can_run_again() {
    let error = json!({"error": {"message": "engine died", "type": "server_error", "code": 500}}).to_string();
    let ping = call("ping", json!({}));
    let broken = Script::events([event("Half", 1, None), event(&ping, 2, None), error]);
    let refused = Script::status(500).json(r#"{"error":{"message":"busy"}}"#);
    let server = MockServer::scripted([refused, broken, answer(&["Whole."])]).unwrap();
    let context = context();
    let turn = Turn::new(&client(&server), context.clone())
        .tools(Tools::new().with(tool("ping", |_| Ok("pong".into()))));

    assert_eq!(turn.run().unwrap_err().error.kind(), ErrorKind::Server);
    assert_eq!(context.lock().unwrap().turns().len(), 1, "an empty response was added");

    assert_eq!(turn.run().unwrap_err().error.kind(), ErrorKind::Server);
    let roles: Vec<Role> = context.lock().unwrap().turns().iter().map(|turn| turn.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool], "the result of the call is missing");
    assert_eq!(context.lock().unwrap().turns()[1].content(), "Half");

    let report = turn.run().unwrap();
    assert_eq!(report.content(), "Whole.");
    // The prompt contains the received ids, then the end marker, which the model did not sample.
    assert!(prompt(&server, 2).starts_with(&[&prompt(&server, 1)[..], &[1, 2, IM_END]].concat()));
}

#[test]
fn a_cancel_reaches_the_stream_and_the_waiting_calls() {
    let calls = [call("slow", json!({})), call("never", json!({}))].concat();
    let script = Script::events([event(&calls, 1, None)]).hang(SOON);
    let server = MockServer::scripted([script]).unwrap();
    let (running, go_on) = (Gate::new(), Gate::new());
    let tools = Tools::new().max_concurrency(1).with(tool("slow", {
        let (running, go_on) = (running.clone(), go_on.clone());
        move |_| {
            running.open();
            assert!(go_on.wait(SOON));
            Ok("late".into())
        }
    }));
    let tools = tools.with(tool("never", |_| panic!("a cancelled call has begun")));
    let context = context();
    let turn = Turn::new(&client(&server), context.clone()).tools(tools);
    let canceller = turn.canceller();
    let thread = thread::spawn(move || turn.run());
    assert!(running.wait(SOON));
    canceller.cancel();
    go_on.open();
    assert!(thread.join().unwrap().unwrap_err().is_cancelled());
    let context = context.lock().unwrap();
    let results: Vec<&str> = context.turns()[2].leaves.iter().map(|leaf| leaf.inner()).collect();
    assert_eq!(results, ["late", "error: the call was cancelled before it began"]);
}

#[test]
fn a_turn_cancelled_before_it_runs_sends_nothing() {
    let server = MockServer::scripted([answer(&["Hi"])]).unwrap();
    let turn = Turn::new(&client(&server), context());
    turn.canceller().cancel();
    assert!(turn.run().unwrap_err().is_cancelled());
    assert!(server.requests().is_empty());
}

#[test]
fn a_turn_uses_its_sampling_in_every_round() {
    let server = MockServer::scripted([answer(&[&call("now", json!({}))]), answer(&["Ten."])]).unwrap();
    let tools = Tools::new().with(tool("now", |_| Ok("ten".to_owned())));
    let sampling = SamplingParams::default().max_tokens(7).temperature(0.5);
    let report = Turn::new(&client(&server), context()).tools(tools).sampling(sampling).run().unwrap();
    assert_eq!((report.rounds.len(), report.content().as_str()), (2, "Ten."));
    for request in server.requests() {
        assert_eq!((&request.json()["max_tokens"], &request.json()["temperature"]), (&json!(7), &json!(0.5)));
    }
}
