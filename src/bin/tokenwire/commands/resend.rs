//! `tokenwire resend`: sends a saved failed request again.

use std::path::PathBuf;

use tokenwire::SavedRequest;

use crate::exit::ExitResult;
use crate::flags::{ClientFlags, name_and_value};
use crate::interrupt::Interrupt;
use crate::output::follow;

const EXAMPLE: &str = "Example:
  tokenwire stream --base-url http://127.0.0.1:8000/v1 --prompt Hi \\
    --save-failed failed
  tokenwire resend failed/tokenwire-failed-1763836458123-4242-0.json --json";

const DETAILS: &str = "Request:
  The body is sent exactly as it was saved. The API key was not saved; set
  --api-key-env if the server requires one. Most headers were not saved either,
  because any of them may be a credential; add them with --header.

Output:
  tokenwire prints the same output as `tokenwire stream`.";

/// Resend a failed request that --save-failed saved.
#[derive(clap::Args)]
#[command(before_help = EXAMPLE, after_long_help = DETAILS)]
pub(crate) struct Args {
    /// The saved request.
    file: PathBuf,
    /// The server's base URL [default: the server that failed].
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Print JSON Lines on standard output.
    #[arg(long)]
    json: bool,
    /// Additional header; repeat it for more headers.
    #[arg(long = "header", value_name = "NAME:VALUE", help_heading = "Request")]
    headers: Vec<String>,
    #[command(flatten)]
    client: ClientFlags,
}

pub(crate) fn run(args: &Args) -> ExitResult {
    let Args { file, base_url, json, headers, client } = args;
    let saved = SavedRequest::load(file)?;
    let mut builder = client.builder(base_url.as_deref().unwrap_or(saved.base_url()))?;
    for header in headers {
        let (name, value) = name_and_value(header)?;
        builder = builder.header(name, value);
    }
    let (client, interrupt) = (builder.build()?, Interrupt::install()?);
    if saved.is_call() {
        return follow::whole(client.resend_call(&saved), &interrupt, *json, None);
    }
    follow::resend(&client, &saved, &interrupt, *json)
}
