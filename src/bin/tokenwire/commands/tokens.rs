//! `tokenwire tokens`: decodes a saved response body, without a server.

use std::io::{self, BufWriter, Write};

use serde::Serialize;
use tokenwire::{BodyDecoder, Completion, Endpoint, Error, MAX_CHOICES, Step};

use super::sse::{ErrorLine, for_each_piece};
use crate::exit::{Exit, ExitResult};
use crate::interrupt::exit_on_interrupt;
use crate::output::json::{DoneJson, ErrorJson, item_line, json_line};
use crate::output::terminal::harmless;
use crate::output::text::{done_summary, item_text, note_dim, note_error};

const EXAMPLE: &str = r#"Example:
  curl -sN http://127.0.0.1:8000/v1/completions \
    -H 'Content-Type: application/json' \
    -d '{"prompt":"Hi","stream":true,"return_token_ids":true}' \
    | tokenwire tokens --json"#;

const DETAILS: &str = r#"JSON output:
  One line for each token: {"text","id"}
  "id" is null if it is unknown. "reasoning":true marks the reasoning of a chat
  endpoint. "index" is present for choices other than the first.

  One line for each tool call of a chat endpoint:
  {"tool_call":{"id","name","arguments"}} or
  {"malformed_call":{"text","reason"}}

  The last line: {"done":{"finish","usage","ids_exact"}} or
  {"error":{"kind","message",..}}"#;

/// Decode the body of an event stream from standard input into tokens.
#[derive(clap::Args)]
#[command(before_help = EXAMPLE, after_long_help = DETAILS)]
pub(crate) struct Args {
    /// The format of the chunks: auto, openai, chat, llamacpp, vllm-generate, sglang or tgi.
    #[arg(long, alias = "wire", value_name = "ENDPOINT", default_value_t)]
    endpoint: Endpoint,
    /// Feed the parser N bytes at a time; 0 means all bytes of each read. N does not change the
    /// tokens.
    #[arg(long, value_name = "N", default_value_t = 0)]
    cut: usize,
    /// Print JSON Lines.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> ExitResult {
    exit_on_interrupt()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut body = BodyDecoder::new(args.endpoint).max_choices(MAX_CHOICES);
    let mut result = Ok(Step::More);
    for_each_piece(&mut io::stdin().lock(), args.cut, |bytes| {
        body.feed(bytes);
        result = print_tokens(&mut body, &mut out, args.json)?;
        Ok(matches!(result, Ok(Step::More)))
    })?;
    let tokens = body.chunks().tokens();
    let finished = result.and_then(|_| body.finish());
    if !args.json && tokens > 0 {
        out.write_all(b"\n")?;
    }
    let exit = print_end(&finished, tokens, &mut out, args.json)?;
    out.flush()?;
    Ok(exit)
}

/// Prints the tokens of the complete events. Returns the last step, or the error that ended the
/// stream.
fn print_tokens(body: &mut BodyDecoder, out: &mut impl Write, json: bool) -> io::Result<Result<Step, Error>> {
    let mut tokens = Vec::new();
    let last = loop {
        match body.decode_event(&mut |index, item| tokens.push((index, item))) {
            Ok(Step::Event) => {}
            last => break last,
        }
    };
    for (index, item) in tokens {
        if json {
            item_line(out, &item, index, None)?;
        } else {
            out.write_all(harmless(&item_text(&item)).as_bytes())?;
        }
    }
    out.flush()?;
    Ok(last)
}

fn print_end(
    finished: &Result<Completion, Error>,
    tokens: u64,
    out: &mut impl Write,
    json: bool,
) -> io::Result<Exit> {
    #[derive(Serialize)]
    struct DoneLine {
        done: DoneJson,
    }
    match finished {
        Ok(Completion { finish, usage, ids_exact, .. }) if json => {
            json_line(out, &DoneLine { done: DoneJson::new(finish.as_ref(), *usage, *ids_exact) })?;
        }
        Ok(Completion { finish, usage, ids_exact, .. }) => {
            note_dim(&done_summary(tokens, finish.as_ref(), *usage, *ids_exact));
        }
        Err(failed) => {
            let error = ErrorJson { tokens: Some(tokens), ..ErrorJson::new(failed) };
            note_error(error.message);
            if json {
                json_line(out, &ErrorLine { error })?;
            }
            return Ok(Exit::Failed);
        }
    }
    Ok(Exit::Complete)
}
