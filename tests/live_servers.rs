//! Tests of every endpoint of a real llama.cpp server, streamed and complete. The tests that need a
//! server are ignored by default. They run with `--include-ignored` when `TOKENWIRE_LIVE_URL` is
//! the URL of a server (`http://127.0.0.1:8080`).
//!
//! The chat with tools starts its own server, from a copy of the model with a template for tools.
//! It also needs `TOKENWIRE_LIVE_SERVER`, the path of `llama-server.sh`. `.ci/run` sets both.

#![cfg(feature = "testing")]

mod common;

use std::env;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use common::live::{LONG, PROMPT, greedy, live_script, live_url};
use serde_json::{Value, json};
use tokenwire::testing::{MockServer as Scripted, Script};
use tokenwire::{
    ApiClient, CompletionRequest, CompletionResponse, Endpoint, ErrorKind, IdsExact, Inexact, Message,
    Outcome, ServerKind, StreamReport, StreamToken, TokenId,
};

fn client(url: &str, wire: Endpoint) -> ApiClient {
    ApiClient::builder(url).endpoint(wire).server(ServerKind::LlamaCpp).build().unwrap()
}

/// Reads a stream and returns its text, calls (name, arguments) and ids. The stream must be
/// complete.
fn stream(
    client: &ApiClient,
    request: CompletionRequest,
) -> (String, Vec<(String, Value)>, Vec<TokenId>, StreamReport) {
    let (receiver, guard) = client.stream(request).unwrap();
    let (mut text, mut calls, mut ids) = (String::new(), Vec::new(), Vec::new());
    while let Ok(item) = receiver.recv_timeout(LONG) {
        match item {
            StreamToken::Token { text: piece, id } => {
                text += &piece;
                ids.extend(id);
            }
            StreamToken::ToolCall(call) => calls.push((call.name, call.arguments)),
            StreamToken::Done { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let report = guard.join();
    assert_eq!(report.ending, Outcome::Complete, "{:?}", report.error);
    (text, calls, ids, report)
}

/// Sends the bytes of a request without this crate and returns the response with its head.
fn plain(url: &str, request: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    socket.write_all(request).unwrap();
    // The server keeps the connection open even if the head of its response announces a close.
    socket.set_read_timeout(Some(LONG)).unwrap();
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    let is_whole = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?;
        (body.len() >= length.parse().ok()?).then_some(())
    };
    while is_whole(&answer).is_none() {
        let len = socket.read(&mut piece).unwrap();
        assert!(len > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..len]);
    }
    answer
}

#[test]
#[ignore = "needs a llama.cpp server: TOKENWIRE_LIVE_URL"]
fn each_endpoint_gives_the_same_ids_streamed_and_complete() {
    let url = live_url();
    let mut all: Vec<CompletionResponse> = Vec::new();
    for wire in [Endpoint::OpenAi, Endpoint::LlamaCpp, Endpoint::Chat] {
        let client = client(&url, wire);
        let prompt = match wire {
            Endpoint::Chat => {
                CompletionRequest::messages([Message::user("Name three primary colors in English.")])
            }
            _ => CompletionRequest::ids(PROMPT),
        };
        // Stop before the model's end token, which the stream of a chat does not contain.
        let request = greedy(prompt, 12);
        let (text, _, ids, report) = stream(&client, request.clone());
        let answer = client.complete(request).unwrap();
        assert_eq!((&text, &ids), (&answer.text, &answer.ids), "{wire}");
        assert_eq!((report.ids_exact, answer.ids_exact), (IdsExact::Yes, IdsExact::Yes), "{wire}: {text:?}");
        assert_eq!((&report.finish, report.usage), (&answer.finish, answer.usage), "{wire}");
        assert_eq!(answer.usage.unwrap().completion_tokens as usize, ids.len(), "{wire}");
        println!("{wire}: {} ids, streamed and complete: {text:?}", ids.len());
        all.push(answer);
    }
    assert_eq!(all[0].ids, all[1].ids, "the two endpoints for prompts");
}

/// On each endpoint, only the complete response has the ids inside characters of several tokens,
/// and the end token of a chat.
#[test]
#[ignore = "needs a llama.cpp server: TOKENWIRE_LIVE_URL"]
fn ids_that_are_missing_in_a_stream_are_in_the_complete_response() {
    let url = live_url();
    const TEXT: &str = "你好，世界！🤖 ok";
    for wire in [Endpoint::OpenAi, Endpoint::LlamaCpp, Endpoint::Chat] {
        let client = client(&url, wire);
        let prompt = match wire {
            Endpoint::Chat => CompletionRequest::messages([Message::user("Hello")]),
            _ => CompletionRequest::ids(PROMPT),
        };
        let request = greedy(prompt, 40).structured_output(json!({"grammar": format!("root ::= {TEXT:?}")}));
        let (text, _, some, report) = stream(&client, request.clone());
        let answer = client.complete(request).unwrap();
        assert_eq!((text.as_str(), answer.text.as_str()), (TEXT, TEXT), "{wire}");
        let IdsExact::No(Inexact::LostInCharacter { received, counted }) = report.ids_exact else {
            panic!("{wire}: {:?}", report.ids_exact)
        };
        assert_eq!((some.len() as u64, answer.ids.len() as u64), (received, counted), "{wire}");
        assert_eq!(answer.ids_exact, IdsExact::Yes, "{wire}");
        let mut left = answer.ids.iter();
        assert!(some.iter().all(|id| left.any(|one| one == id)), "{wire}: {some:?} in {:?}", answer.ids);
        println!("{wire}: the stream has {received} ids of {counted}, the complete response all");
    }
}

#[test]
#[ignore = "needs a llama.cpp server: TOKENWIRE_LIVE_URL"]
fn the_server_reports_its_kind_and_lists_its_model() {
    let url = live_url();
    let client = ApiClient::builder(&url).build().unwrap();
    assert_eq!(client.server().unwrap(), Some(ServerKind::LlamaCpp));
    let models = client.models().unwrap();
    let [model] = &models[..] else { panic!("{models:?}") };
    assert_eq!(model.owned_by.as_deref(), Some("llamacpp"));
    assert!(model.max_context_tokens.is_some_and(|context| context >= 512), "{model:?}");
}

#[cfg(feature = "tokenizer")]
#[test]
#[ignore = "needs a llama.cpp server: TOKENWIRE_LIVE_URL"]
fn text_survives_the_servers_tokenizer_like_the_local_one() {
    let url = live_url();
    let Some(file) = common::smollm2() else { return };
    let ours = tokenwire::Tokenizer::from_file(file).unwrap();
    let client = ApiClient::builder(&url).build().unwrap();
    let strings = std::fs::read(common::data("tokenizer-strings.json")).unwrap();
    let strings: Vec<String> = serde_json::from_slice(&strings).unwrap();
    for text in strings.iter().step_by(5) {
        let ids = client.tokenize(text, false).unwrap();
        assert_eq!(ids, ours.encode(text, tokenwire::Special::TEMPLATE).unwrap(), "{text:?}");
        let back = client.detokenize(&ids).unwrap();
        assert_eq!((&back, &back), (text, &ours.decode(&ids, false).unwrap()), "{ids:?}");
    }
    println!("{} texts encoded and decoded", strings.len().div_ceil(5));
}

/// Sends again every request that build 10434 rejected.
///
/// In this build, the status may be different. The kind of error and whether it can be retried must
/// be the same.
#[test]
#[ignore = "needs a llama.cpp server: TOKENWIRE_LIVE_URL"]
fn rejections_are_the_same_errors_in_both_builds() {
    let url = live_url();
    let typed = |answer: Vec<u8>| {
        let server = Scripted::scripted([Script::raw(answer)]).unwrap();
        let client = ApiClient::builder(server.url()).retries(0).build().unwrap();
        client.complete(CompletionRequest::ids(PROMPT)).unwrap_err()
    };
    let mut count = 0;
    let mut statuses = Vec::new();
    for entry in std::fs::read_dir(common::data("llama.cpp")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        // Skip the requests for a server with a key, and the request that did not cause an error.
        let other = name.starts_with("error-auth") || name == "error-empty-prompt";
        if !name.starts_with("error-") || path.extension().is_none_or(|ext| ext != "req") || other {
            continue;
        }
        let then = typed(std::fs::read(path.with_extension("raw")).unwrap());
        let now = typed(plain(&url, &std::fs::read(&path).unwrap()));
        assert_eq!((then.kind(), now.kind()), (ErrorKind::Server, ErrorKind::Server), "{name}: {now}");
        assert_eq!((then.is_retryable(), now.is_retryable()), (false, false), "{name}: {now}");
        assert_eq!(
            then.server_error().unwrap().message.is_empty(),
            now.server_error().unwrap().message.is_empty()
        );
        if then.status() != now.status() {
            statuses.push(format!(
                "{name}: {:?} then, {:?} now",
                then.status().unwrap(),
                now.status().unwrap()
            ));
        }
        count += 1;
    }
    assert!(count >= 20, "{count}");
    println!("{count} rejections, these with another status: {statuses:#?}");
}

#[test]
#[ignore = "needs a llama.cpp server: TOKENWIRE_LIVE_URL"]
fn a_rejection_is_the_same_error_streamed_and_complete() {
    let url = live_url();
    let long = vec![PROMPT[0]; 70_000];
    for (name, wire, request, part) in [
        ("an id out of range", Endpoint::OpenAi, CompletionRequest::ids([99_999_999]), "invalid tokens"),
        ("too long", Endpoint::OpenAi, CompletionRequest::ids(long.clone()), "context size"),
        ("too long, native", Endpoint::LlamaCpp, CompletionRequest::ids(long), "context size"),
        (
            "a bad grammar",
            Endpoint::OpenAi,
            CompletionRequest::ids(PROMPT).extra("grammar", "root ::= ("),
            "grammar",
        ),
        (
            "a bad role",
            Endpoint::Chat,
            CompletionRequest::text("").extra("messages", json!([{"role": 7, "content": "x"}])),
            "messages",
        ),
    ] {
        let client = client(&url, wire);
        let whole = client.complete(greedy(request.clone(), 2)).unwrap_err();
        let (_receiver, guard) = client.stream(greedy(request, 2)).unwrap();
        let streamed = guard.join().error.unwrap();
        // Build 11549 answers bad messages with 500.
        assert_eq!((whole.kind(), whole.is_retryable()), (ErrorKind::Server, false), "{name}: {whole}");
        assert_eq!((streamed.kind(), streamed.message()), (whole.kind(), whole.message()), "{name}");
        assert!(whole.message().contains(part), "{name}: {whole}");
    }
}

/// A server whose chat template supports tools. llama.cpp's template for this model does not
/// support them. The server therefore loads a copy of the model's file that contains another
/// template of the same length.
struct ToolServer {
    script: String,
    url: String,
    model: PathBuf,
}

const TOOL_TEMPLATE: &str = "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}\
    {% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

impl ToolServer {
    fn start(url: &str) -> Self {
        let script = live_script();
        let answer = ureq::get(format!("{url}/props")).call().unwrap().body_mut().read_to_string().unwrap();
        let props: Value = serde_json::from_str(&answer).unwrap();
        let (path, template) =
            (props["model_path"].as_str().unwrap(), props["chat_template"].as_str().unwrap());
        let mut file = std::fs::read(path).unwrap();
        let places = memchr::memmem::find_iter(&file, template).collect::<Vec<_>>();
        let [at] = places[..] else { panic!("the template is at {places:?}") };
        let filled = format!("{TOOL_TEMPLATE}{{#{:1$}#}}", "", template.len() - TOOL_TEMPLATE.len() - 4);
        file[at..at + template.len()].copy_from_slice(filled.as_bytes());
        let model = env::temp_dir().join(format!("tokenwire-tools-{}.gguf", std::process::id()));
        std::fs::write(&model, file).unwrap();
        let mut server = Self { script, url: String::new(), model };
        let mut command = Command::new(&server.script);
        command.args(["start", "0", "-np", "1", "-c", "2048"]).env("LLAMA_MODEL", &server.model);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        server.url = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        server
    }
}

impl Drop for ToolServer {
    fn drop(&mut self) {
        if let Some((_, port)) = self.url.rsplit_once(':') {
            let _ = Command::new(&self.script).args(["kill", port]).output();
        }
        let _ = std::fs::remove_file(&self.model);
    }
}

#[test]
#[ignore = "needs a llama.cpp server: TOKENWIRE_LIVE_URL and TOKENWIRE_LIVE_SERVER"]
fn a_chat_with_a_tool_gives_the_call_streamed_and_complete() {
    let url = live_url();
    let server = ToolServer::start(&url);
    let client = client(&server.url, Endpoint::Auto);
    let schema = json!({"type": "function", "function": {"name": "get_weather", "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}});
    // Such a small model calls a tool only after examples.
    let asked = |city: &str| Message::user(format!("What is the weather in {city}?"));
    let done = [("c0", "Rome", "21"), ("c1", "Oslo", "4")].into_iter().flat_map(|(id, city, degrees)| {
        let call = Message::assistant("").tool_call(id, "get_weather", format!(r#"{{"city": "{city}"}}"#));
        [asked(city), call, Message::tool(id, format!(r#"{{"temp": {degrees}}}"#))]
    });
    let messages: Vec<Message> = done.chain([asked("Paris")]).collect();
    let request = CompletionRequest::messages(messages).tools([schema]).tool_choice("required");
    let request = greedy(request, 60);
    let expected = vec![("get_weather".to_owned(), json!({"city": "Paris"}))];
    let (text, calls, ids, report) = stream(&client, request.clone());
    assert_eq!((text.trim(), &calls), ("", &expected));
    // With tools, the server rejects log-probabilities, which contain the ids of a chat's stream.
    assert_eq!((ids.len(), report.ids_exact), (0, IdsExact::No(Inexact::NoIds)));
    let answer = client.complete(request).unwrap();
    let calls: Vec<_> =
        answer.tool_calls.iter().map(|call| (call.name.clone(), call.arguments.clone())).collect();
    assert_eq!((answer.text.trim(), calls), ("", expected));
    assert_eq!(
        (answer.ids_exact, answer.finish.clone(), report.finish),
        (IdsExact::Yes, answer.finish.clone(), answer.finish.clone())
    );
    assert_eq!(answer.finish.unwrap().as_str(), "tool_calls");
    // The text is the whole call, including its markers.
    let written = client.detokenize(&answer.ids).unwrap();
    assert!(written.contains("<tool_call>") && written.contains("Paris"), "{written:?}");
    println!("{} ids of the call, only in the complete response: {written:?}", answer.ids.len());
}
