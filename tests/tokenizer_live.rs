//! Compares the tokenizer with a server that runs the same model. The ids of 200 varied strings
//! equal the ids from llama-server's `/tokenize`.
//!
//! ```sh
//! TOKENWIRE_LIVE_URL=http://127.0.0.1:8080 cargo test --test tokenizer_live -- --include-ignored
//! ```
//!
//! With `TOKENWIRE_WRITE=1`, the server's answers are also written to
//! tests/data/tokenizer-ids.json. tests/tokenizer.rs compares them on every machine.
#![cfg(feature = "tokenizer")]

mod common;

use serde_json::{Value, json};
use tokenwire::{Special, TokenId, Tokenizer};

fn ask(url: &str, content: &str, parse_special: bool) -> Vec<TokenId> {
    let body = json!({"content": content, "add_special": false, "parse_special": parse_special});
    let answer = ureq::post(format!("{url}/tokenize"))
        .header("content-type", "application/json")
        .send(body.to_string())
        .and_then(|mut response| response.body_mut().read_to_string())
        .unwrap_or_else(|e| panic!("{url}/tokenize: {e}"));
    let answer: Value = serde_json::from_str(&answer).unwrap();
    serde_json::from_value(answer["tokens"].clone()).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

#[test]
#[ignore = "needs a llama.cpp server: TOKENWIRE_LIVE_URL"]
fn ids_equal_those_of_the_server() {
    let url = common::live::live_url();
    let url = url.trim_end_matches('/').trim_end_matches("/v1");
    let strings = std::fs::read(common::data("tokenizer-strings.json")).unwrap();
    let strings: Vec<String> = serde_json::from_slice(&strings).unwrap();
    let Some(file) = common::smollm2() else { return };
    let tokenizer = Tokenizer::from_file(file).unwrap();

    let mut rows = Vec::new();
    let mut differing = 0;
    for string in &strings {
        let template = ask(url, string, true);
        let text = ask(url, string, false);
        for (special, theirs) in [(Special::TEMPLATE, &template), (Special::TEXT, &text)] {
            let ours = tokenizer.encode(string, special).unwrap();
            if ours != *theirs {
                eprintln!("{special:?} {string:?}\n  ours   {ours:?}\n  server {theirs:?}");
                differing += 1;
            }
        }
        rows.push(json!({"template": template, "text": text}).to_string());
    }
    assert_eq!((strings.len(), differing), (200, 0));

    if std::env::var_os("TOKENWIRE_WRITE").is_some() {
        let rows = format!("[\n{}\n]\n", rows.join(",\n"));
        std::fs::write(common::data("tokenizer-ids.json"), rows).unwrap();
    }
}
