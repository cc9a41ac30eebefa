//! `tokenwire tokens`: what the decoder makes of a body that was kept, with no server.

use std::io::{self, BufWriter, Write};

use serde::Serialize;
use tokenwire::{BodyDecoder, Endpoint, MAX_CHOICES, Step};

use crate::interrupt::exit_on_interrupt;
use crate::output::{
    DoneJson, ErrorJson, done_summary, item_line, item_text, json_line, note_dim, note_error,
};
use crate::sse::{ErrorLine, for_each_piece};
use crate::terminal::harmless;
use crate::{CommandResult, Exit};

const EXAMPLE: &str = r#"Example:
  curl -sN http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \
    -d '{"prompt":"Hi","stream":true,"return_token_ids":true}' | tokenwire tokens --json"#;

/// Decode an event-stream body from standard input to tokens.
///
/// With --json each token is a line {"text","id"} (id null if unknown, "reasoning":true beside it for what a chat
/// endpoint calls so, "index" for choices other than the first), each tool call of a chat endpoint a line
/// {"tool_call":{"id","name","arguments"}} (or {"malformed_call":{"text","reason"}}), and the last line is {"done":{"finish","usage","ids_exact"}} or
/// {"error":{"kind","message",..}}.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// How the chunks are written: auto, openai, chat, llamacpp, vllm-generate,
    /// sglang, tgi.
    #[arg(long, value_name = "WIRE", default_value_t)]
    wire: Endpoint,
    /// Feed the parser this many bytes at a time; 0 = whole, as it is read. The tokens are the same.
    #[arg(long, value_name = "N", default_value_t = 0)]
    cut: usize,
    /// JSON Lines.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    #[derive(Serialize)]
    struct DoneLine {
        done: DoneJson,
    }
    exit_on_interrupt()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut body = BodyDecoder::new(args.wire).max_choices(MAX_CHOICES);
    let mut result = Ok(Step::More);
    for_each_piece(&mut io::stdin().lock(), args.cut, |bytes| {
        let mut tokens = Vec::new();
        body.feed(bytes);
        result = loop {
            match body.decode_event(&mut |index, item| tokens.push((index, item))) {
                Ok(Step::Event) => {}
                last => break last,
            }
        };
        for (index, item) in tokens {
            if args.json {
                item_line(&mut out, &item, index, None)?;
            } else {
                out.write_all(harmless(&item_text(&item)).as_bytes())?;
            }
        }
        out.flush()?;
        Ok(matches!(result, Ok(Step::More)))
    })?;
    let tokens = body.chunks().tokens();
    let finished = result.and_then(|_| body.finish());
    if !args.json && tokens > 0 {
        out.write_all(b"\n")?;
    }
    let exit = match finished {
        Ok(done) => {
            if args.json {
                let done = DoneJson::new(done.finish.as_ref(), done.usage, done.ids_exact);
                json_line(&mut out, &DoneLine { done })?;
            } else {
                note_dim(&done_summary(tokens, done.finish.as_ref(), done.usage, done.ids_exact));
            }
            Exit::Complete
        }
        Err(failed) => {
            let error = ErrorJson { tokens: Some(tokens), ..ErrorJson::new(&failed) };
            note_error(error.message);
            if args.json {
                json_line(&mut out, &ErrorLine { error })?;
            }
            Exit::Failed
        }
    };
    out.flush()?;
    Ok(exit)
}
