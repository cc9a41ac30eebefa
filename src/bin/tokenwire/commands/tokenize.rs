//! `tokenwire tokenize` and `detokenize`: the server's tokenizer.

use std::io::{self, Read as _, Write as _};

use serde::Serialize;
use tokenwire::TokenId;

use crate::exit::{Exit, ExitResult, Failure};
use crate::flags::ServerFlags;
use crate::output::json::json_line;
use crate::output::terminal::harmless;
use crate::output::text::failed;

/// The most that is read from standard input.
const MAX_INPUT_BYTES: u64 = 64 << 20;

/// Turn text to token ids, with the server's tokenizer.
///
/// The ids are printed with commas between them, as --prompt-ids takes them; with --json as {"ids":[..]}.
/// vLLM, llama.cpp, SGLang and TGI can do it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tokenwire tokenize --base-url http://127.0.0.1:8000/v1 'Hello world'")]
pub(crate) struct TokenizeArgs {
    /// The text; without it, standard input.
    text: Option<String>,
    /// Put the tokens around it that the tokenizer puts around every prompt, such as a BOS.
    #[arg(long)]
    add_special: bool,
    /// The model, where the server has several.
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    server: ServerFlags,
}

/// Turn token ids to text, with the server's tokenizer.
///
/// With --json as {"text":..}. vLLM, llama.cpp and SGLang can do it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tokenwire detokenize --base-url http://127.0.0.1:8000/v1 9707,1879")]
pub(crate) struct DetokenizeArgs {
    /// The ids: 9707,1879.
    #[arg(value_name = "IDS", value_delimiter = ',', required = true)]
    ids: Vec<TokenId>,
    /// The model, where the server has several.
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
        return Err(Failure::Usage(format!("standard input has over {MAX_INPUT_BYTES} bytes")));
    }
    Ok(text)
}
