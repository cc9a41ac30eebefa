//! `tokenwire tokenize` and `detokenize`: convert text and ids with the server's tokenizer.

use std::io::{self, Read as _, Write as _};

use serde::Serialize;
use tokenwire::TokenId;

use crate::exit::{Exit, ExitResult, Failure};
use crate::flags::ServerFlags;
use crate::output::json::json_line;
use crate::output::terminal::harmless;
use crate::output::text::failed;

/// The maximum size of the text on standard input.
const MAX_INPUT_BYTES: u64 = 64 << 20;

const TOKENIZE_EXAMPLE: &str = "Example:
  tokenwire tokenize --base-url http://127.0.0.1:8000/v1 'Hello world'";

const TOKENIZE_DETAILS: &str = r#"Output:
  tokenwire prints the ids with commas between them. The option --prompt-ids
  accepts this form. With --json, the output is one line: {"ids":[..]}

Servers:
  vLLM, llama.cpp, SGLang and TGI have an endpoint for this command."#;

const DETOKENIZE_EXAMPLE: &str = "Example:
  tokenwire detokenize --base-url http://127.0.0.1:8000/v1 9707,1879";

const DETOKENIZE_DETAILS: &str = r#"Output:
  tokenwire prints the text. With --json, the output is one line: {"text":..}

Servers:
  vLLM, llama.cpp and SGLang have an endpoint for this command."#;

/// Convert text to token ids with the server's tokenizer.
#[derive(clap::Args)]
#[command(before_help = TOKENIZE_EXAMPLE, after_long_help = TOKENIZE_DETAILS)]
pub(crate) struct TokenizeArgs {
    /// The text. Without it, tokenwire reads standard input, at most 64 MiB.
    text: Option<String>,
    /// Add the tokens that the tokenizer adds to every prompt, such as BOS.
    #[arg(long)]
    add_special: bool,
    /// The name of the model, if the server has several.
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    server: ServerFlags,
}

/// Convert token ids to text with the server's tokenizer.
#[derive(clap::Args)]
#[command(before_help = DETOKENIZE_EXAMPLE, after_long_help = DETOKENIZE_DETAILS)]
pub(crate) struct DetokenizeArgs {
    /// The token ids: 9707,1879.
    #[arg(value_name = "IDS", value_delimiter = ',', required = true)]
    ids: Vec<TokenId>,
    /// The name of the model, if the server has several.
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    server: ServerFlags,
}

pub(crate) fn tokenize(args: &TokenizeArgs) -> ExitResult {
    #[derive(Serialize)]
    struct Line {
        ids: Vec<TokenId>,
    }
    let TokenizeArgs { text, add_special, model, server } = args;
    let client = server.client(model.as_ref())?;
    let text = match text {
        Some(text) => text.clone(),
        None => input()?,
    };
    let ids = match client.tokenize(&text, *add_special) {
        Ok(ids) => ids,
        Err(error) => return failed(&error),
    };
    let mut out = io::stdout().lock();
    if server.json {
        json_line(&mut out, &Line { ids })?;
    } else {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        writeln!(out, "{}", ids.join(","))?;
    }
    Ok(Exit::Complete)
}

pub(crate) fn detokenize(args: &DetokenizeArgs) -> ExitResult {
    #[derive(Serialize)]
    struct Line {
        text: String,
    }
    let DetokenizeArgs { ids, model, server } = args;
    let text = match server.client(model.as_ref())?.detokenize(ids) {
        Ok(text) => text,
        Err(error) => return failed(&error),
    };
    let mut out = io::stdout().lock();
    if server.json {
        json_line(&mut out, &Line { text })?;
    } else {
        writeln!(out, "{}", harmless(&text))?;
    }
    Ok(Exit::Complete)
}

fn input() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().lock().take(MAX_INPUT_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| Failure::Machine(format!("cannot read standard input as text: {error}")))?;
    if text.len() as u64 > MAX_INPUT_BYTES {
        return Err(Failure::Usage(format!(
            "standard input is larger than {MAX_INPUT_BYTES} bytes: send a shorter text"
        )));
    }
    Ok(text)
}
