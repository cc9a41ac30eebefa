//! Runs a turn with tools. The tools run while the model still writes, and the model then continues
//! with their results.
//!
//! ```sh
//! cargo run --example tools --features testing,tokenizer -- BASE_URL TOKENIZER.json [FORMAT]
//! ```
//!
//! Without a URL, the example starts its own mock server, where each character is a token.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokenwire::testing::{MockServer, Script};
use tokenwire::{ApiClient, ChatFormat, Context, Encode, Error, TokenId, Tokenizer, Tool, Tools, Turn};

/// The tokenizer of the scripted model.
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let call = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 19, \"b\": 23}}\n</tool_call>";
    let server = MockServer::scripted([
        Script::tokens([(1, "Let me see. "), (2, call), (900_001, "")]),
        Script::tokens([(3, "It is 42."), (900_001, "")]),
    ])?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    let url = args.first().cloned().unwrap_or(server.url());
    let format = ChatFormat::by_name(args.get(2).map_or("qwen2_5", |name| name))?;
    let mut context = match args.get(1) {
        Some(file) => Context::new(format, Tokenizer::from_file(file)?),
        None => Context::new(format, Characters),
    };

    let add = Tool::new(
        "add",
        "The sum of two numbers.",
        json!({"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}}),
        |call| {
            let number = |key| call.arguments[key].as_f64().ok_or(format!("{key} is not a number"));
            Ok((number("a")? + number("b")?).to_string())
        },
    );
    let tools = Tools::new().with(add);
    context.system(format!(
        "You may call these tools, each as <tool_call>{{\"name\", \"arguments\"}}</tool_call>: {}",
        json!(tools.schemas())
    ));
    context.user("What is 19 and 23?");

    let client = ApiClient::builder(url).build()?;
    let report = Turn::new(&client, Arc::new(Mutex::new(context))).tools(tools).run()?;
    for result in report.rounds.iter().flat_map(|round| &round.results) {
        println!("{}({}) = {}", result.call.name, result.call.arguments, result.text);
    }
    println!("{} (in {} rounds)", report.content(), report.rounds.len());
    Ok(())
}
