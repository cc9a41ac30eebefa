//! `tokenwire models`: the models that a server serves.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::exit::{Exit, ExitResult};
use crate::flags::ServerFlags;
use crate::output::json::json_line;
use crate::output::terminal::harmless;
use crate::output::text::failed;

const EXAMPLE: &str = "Example:
  tokenwire models --base-url http://127.0.0.1:8000/v1";

const DETAILS: &str = r#"JSON output:
  One line for each model: {"id","owned_by","context_tokens_max"}.
  A value that the server does not report is null."#;

/// List the models that a server serves.
#[derive(clap::Args)]
#[command(before_help = EXAMPLE, after_long_help = DETAILS)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerFlags,
}

pub(crate) fn run(args: &Args) -> ExitResult {
    #[derive(Serialize)]
    struct Line<'a> {
        id: &'a str,
        owned_by: Option<&'a str>,
        // Earlier versions printed this key, and scripts read it.
        #[serde(rename = "context_tokens_max")]
        max_context_tokens: Option<u32>,
    }
    let Args { server } = args;
    let models = match server.client(None)?.models() {
        Ok(models) => models,
        Err(error) => return failed(&error),
    };
    let mut out = io::stdout().lock();
    for model in &models {
        let line = Line {
            id: &model.id,
            owned_by: model.owned_by.as_deref(),
            max_context_tokens: model.max_context_tokens,
        };
        if server.json {
            json_line(&mut out, &line)?;
        } else {
            let owner = line.owned_by.map(|owner| format!("  {}", harmless(owner))).unwrap_or_default();
            let context = line.max_context_tokens.map(|max| format!("  {max} tokens")).unwrap_or_default();
            writeln!(out, "{}{owner}{context}", harmless(line.id))?;
        }
    }
    Ok(Exit::Complete)
}
