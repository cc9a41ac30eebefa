//! `tokenwire stream`: one completion from a server.

use std::path::PathBuf;

use tokenwire::{CompletionRequest, Special, TokenId, Tokenizer};

use crate::exit::ExitResult;
use crate::flags::StreamFlags;
use crate::interrupt::Interrupt;
use crate::output::follow;
use crate::output::follow::Aside;
use crate::output::plot::Target;

const EXAMPLE: &str = "Example:
  tokenwire stream --base-url http://127.0.0.1:8000/v1 --max-tokens 8 \\
    --temperature 0 --json --prompt 'The capital of France is'";

const DETAILS: &str = r#"Output:
  tokenwire prints the text as it arrives. A summary follows on standard error.

JSON output:
  One line for each token, printed when it arrives: {"text","id","t_us"}
  "t_us" is the time since the request was made, in microseconds.

  The last line, also after a failure:
  {"report":{"finish","usage","ids_exact","error",..}}"#;

/// Stream one completion from a server.
#[derive(clap::Args)]
#[command(before_help = EXAMPLE, after_long_help = DETAILS)]
pub(crate) struct Args {
    /// The server's base URL, such as http://127.0.0.1:8000/v1. A URL without a path gets /v1.
    /// Repeat it for more servers with the same model: tokenwire uses the first one that works, and
    /// the next one after a failure (see --retries and --resume).
    #[arg(long = "base-url", value_name = "URL", required = true)]
    base_urls: Vec<String>,
    #[command(flatten)]
    prompt: Prompt,
    /// Encode --prompt with this tokenizer.json and send ids. tokenwire recognises special tokens
    /// in the text and does not add any. Without this option, the server gets the text unchanged.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt_ids")]
    tokenizer: Option<PathBuf>,
    /// Save the exchange in this file, without credentials, for `tokenwire replay`. An existing
    /// file is replaced.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Draw the stream into this file (SVG): its tokens, tool calls, breaks and end over time.
    #[arg(long, value_name = "FILE", conflicts_with = "whole")]
    trace: Option<PathBuf>,
    /// Request the whole answer in one piece instead of a stream. llama.cpp returns all ids only in
    /// this mode.
    #[arg(long)]
    whole: bool,
    #[command(flatten)]
    flags: StreamFlags,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Prompt {
    /// The prompt as token ids: 785,6722,315.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    prompt_ids: Option<Vec<TokenId>>,
    /// The prompt as text.
    #[arg(id = "text", long = "prompt", value_name = "TEXT", allow_hyphen_values = true)]
    text: Option<String>,
}

pub(crate) fn run(args: Args) -> ExitResult {
    let Args { base_urls, prompt, tokenizer, record, trace, whole, flags } = args;
    let client = flags.builder_for(&base_urls)?.build()?;
    let request = match (prompt.prompt_ids, prompt.text.unwrap_or_default(), tokenizer) {
        (Some(ids), _, _) => CompletionRequest::ids(ids),
        (None, text, None) => CompletionRequest::text(text),
        (None, text, Some(file)) => {
            let ids = Tokenizer::from_file(file)?.encode(&text, Special::TEMPLATE)?;
            CompletionRequest::ids(ids)
        }
    };
    let mut request = flags.apply_to(request)?;
    if record.is_some() {
        request = request.record();
    }
    let trace = Target::open("--trace", trace)?;
    let interrupt = Interrupt::install()?;
    if whole {
        return follow::whole(client.call(request), &interrupt, flags.json, record.as_deref());
    }
    let aside = Aside { record: record.as_deref(), trace, parser: None };
    follow::stream(&client, request, &interrupt, flags.json, aside)
}
