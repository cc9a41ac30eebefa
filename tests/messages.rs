//! Tests of chats without a tokenizer. A test sends messages and receives a tree with text and
//! calls, but without ids.
#![cfg(feature = "testing")]

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokenwire::testing::{MockServer, Script};
use tokenwire::{
    ApiClient, Branch, CompletionRequest, Dialect, IdsExact, Inexact, LeafKind, Message, ParsedResponse,
    ResponseParser, Role, StreamReport, Tool, ToolResult, Tools,
};

fn delta(delta: Value, finish: Option<&str>) -> String {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
    json!({"object": "chat.completion.chunk", "choices": [choice]}).to_string()
}

fn call_piece(index: u32, id: Option<&str>, name: Option<&str>, arguments: &str) -> String {
    let call = json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    delta(json!({"tool_calls": [call]}), None)
}

/// Runs one round. Returns the response as a tree, and the results of its calls.
fn round(
    client: &ApiClient,
    messages: &[Message],
    tools: &Tools,
) -> (ParsedResponse, Vec<ToolResult>, StreamReport) {
    let request = CompletionRequest::messages(messages.to_vec()).tools(tools.schemas());
    let (tokens, guard) = client.stream(request).unwrap();
    let tree = Arc::new(Mutex::new(Branch::new(Role::Assistant)));
    let (calls, handle) = ResponseParser::new(Dialect::chat()).run(tokens, tree);
    let results = tools.run(&calls);
    (handle.join().unwrap(), results, guard.join())
}

#[test]
fn a_chat_with_tools_works_without_a_tokenizer_and_its_tree_reports_missing_ids() {
    let first = Script::events([
        delta(json!({"role": "assistant", "content": ""}), None),
        delta(json!({"reasoning_content": "Two cities."}), None),
        delta(json!({"content": "Let me "}), None),
        delta(json!({"content": "see. "}), None),
        call_piece(0, Some("x"), Some("weather"), ""),
        call_piece(0, None, None, "{\"city\": \"Bonn\"}"),
        call_piece(1, Some("y"), Some("weather"), "{\"city\": \"Rome\"}"),
        delta(json!({}), Some("tool_calls")),
        "[DONE]".to_owned(),
    ]);
    let second = Script::events([
        delta(json!({"content": "Rain and sun."}), None),
        delta(json!({}), Some("stop")),
        "[DONE]".to_owned(),
    ]);
    let server = MockServer::scripted([first, second]).unwrap();
    let client = ApiClient::builder(format!("{}/v1", server.url())).model("test").retries(0).build().unwrap();
    let weather = |call: &tokenwire::PendingToolCall| {
        Ok(if call.arguments["city"] == "Bonn" { "rain" } else { "sun" }.to_owned())
    };
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let tools = Tools::new().with(Tool::new("weather", "The weather.", schema, weather));

    let image = "https://images.example/map.png";
    let mut messages =
        vec![Message::system("Be brief."), Message::user("Weather on this map?").image_url(image)];
    let (response, results, report) = round(&client, &messages, &tools);
    assert_eq!(report.ids_exact, IdsExact::No(Inexact::NoIds));
    let branch = &response.branch;
    assert_eq!((branch.content().as_str(), branch.reasoning().as_str()), ("Let me see.", "Two cities."));
    assert_eq!((branch.ids().count(), branch.ids_missing()), (0, 5), "{branch}");
    for leaf in &branch.leaves {
        assert!(leaf.ids_missing > 0 || leaf.kind == LeafKind::Marker, "{leaf}");
        assert!(leaf.to_string().contains("without id"), "{leaf}");
    }
    let told: Vec<&str> = results.iter().map(|result| result.text.as_str()).collect();
    assert_eq!(told, ["rain", "sun"]);

    messages.push(Message::from(branch));
    messages.extend(results.iter().map(Message::from));
    let (response, results, _) = round(&client, &messages, &tools);
    assert_eq!((response.branch.content().as_str(), results.len()), ("Rain and sun.", 0));

    let call = |id: &str, city: &str| json!({"id": id, "type": "function", "function": {"name": "weather", "arguments": format!("{{\"city\": \"{city}\"}}")}});
    let user = json!([
        {"type": "text", "text": "Weather on this map?"},
        {"type": "image_url", "image_url": {"url": image}},
    ]);
    let sent = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": user},
        {"role": "assistant", "content": "Let me see. ", "tool_calls": [call("x", "Bonn"), call("y", "Rome")]},
        {"role": "tool", "content": "rain", "tool_call_id": "x"},
        {"role": "tool", "content": "sun", "tool_call_id": "y"},
    ]);
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    for (request, messages) in requests.iter().zip([&sent.as_array().unwrap()[..2], sent.as_array().unwrap()])
    {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(request.path, "/v1/chat/completions");
        assert_eq!(body["messages"], json!(messages));
        assert_eq!(body["tools"], json!(tools.schemas()));
    }
}

#[test]
fn a_parsed_turn_becomes_the_equivalent_message() {
    let parsed = |dialect: &str, text: &str| {
        let mut parser = ResponseParser::new(Dialect::by_name(dialect).unwrap());
        parser.push(text, Some(1));
        parser.finish(None).0
    };
    let call = |arguments: &str| json!([{"id": "call_0", "type": "function", "function": {"name": "now", "arguments": arguments}}]);
    let turn = parsed(
        "hermes",
        "<think>Hm.</think>It is\n<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": 1}}\n</tool_call>",
    );
    let message = serde_json::to_value(Message::from(&turn)).unwrap();
    assert_eq!(message["tool_calls"], call("{\"a\": 1}"));
    assert_eq!(message["role"], "assistant");
    assert!(message["content"].as_str().unwrap().starts_with("It is"), "{message}");
    assert!(!message.to_string().contains("Hm."), "{message}");
    let turn = parsed("hermes", "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>");
    let message = serde_json::to_value(Message::from(&turn)).unwrap();
    assert_eq!(message, json!({"role": "assistant", "content": null, "tool_calls": call("{}")}));
    let empty = Branch::new(Role::Assistant);
    assert_eq!(
        serde_json::to_value(Message::from(&empty)).unwrap(),
        json!({"role": "assistant", "content": ""})
    );
}
