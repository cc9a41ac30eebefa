//! Holds a conversation with a llama.cpp server at temperature 1, once with prompts built from the
//! ids received and once with prompts built from their text. Prints how many tokens the server had
//! to evaluate again:
//!
//! ```text
//! cargo run --release --example drift -- URL TOKENIZER.json
//! ```
//!
//! The model must be SmolLM2, and the file must be its tokenizer.
//!
//! With `--write`, it replaces the tables in `docs/drift.md`.

#[path = "../tests/common/talk.rs"]
#[allow(unreachable_pub)]
mod talk;

use std::{env, fs};

use talk::{Way, table, talk};
use tokenwire::Tokenizer;

/// The line before the tables.
const TABLES_BEGIN: &str = "<!-- tables -->\n";

const SEEDS: [i64; 3] = [100, 200, 300];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--write").collect();
    let [url, tokenizer] = args.as_slice() else {
        return Err("usage: drift URL TOKENIZER.json [--write]".into());
    };
    let tokenizer = Tokenizer::from_file(tokenizer)?;
    let mut tables = Vec::new();
    for seed in SEEDS {
        let ids = talk(url, &tokenizer, seed, Way::Ids)?;
        let text = talk(url, &tokenizer, seed, Way::Text)?;
        tables.push(table(seed, &ids, &text));
        println!("{}", tables.last().map(String::as_str).unwrap_or_default());
    }
    if env::args().any(|arg| arg == "--write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/drift.md");
        let page = fs::read_to_string(path)?;
        let head = page.split(TABLES_BEGIN).next().unwrap_or_default();
        fs::write(path, format!("{head}{TABLES_BEGIN}\n{}", tables.join("\n")))?;
    }
    Ok(())
}
