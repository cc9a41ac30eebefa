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
  tokenwire stream --base-url http://127.0.0.1:8000/v1 --max-tokens 8 --temperature 0 --json \\
    --prompt 'The capital of France is'";

/// Stream one completion from a server.
///
/// With --json each token is a line {"text","id","t_us"} (microseconds since the request was made), printed
/// as it comes; the last line, on failure too, is {"report":{"finish","usage","ids_exact","error",..}}.
/// Without --json the text is printed live.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// The server, as OpenAI's clients take it: http://127.0.0.1:8000/v1. Without a path, /v1 is added. Again for more with
    /// the same model: the first that works is taken, and where it fails the next (--retries, --resume).
    #[arg(long = "base-url", value_name = "URL", required = true)]
    base_urls: Vec<String>,
    #[command(flatten)]
    prompt: Prompt,
    /// Encode --prompt here, with this tokenizer.json, and send ids. Special tokens that are spelled out in
    /// the text are recognised; none is added. Without it, the text goes to the server as it is.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt_ids")]
    tokenizer: Option<PathBuf>,
    /// Keep the exchange in this file, without credentials, for `tokenwire replay`. An existing file is replaced.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Draw when each token came, tool calls, breaks and the end, into this file (SVG).
    #[arg(long, value_name = "FILE", conflicts_with = "whole")]
    trace: Option<PathBuf>,
    /// Do not stream: have the server send the whole answer at once. llama.cpp gives all ids only then.
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
