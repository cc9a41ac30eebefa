//! `tokenwire resend`: a saved failed request, once more.

use std::path::PathBuf;

use tokenwire::SavedRequest;

use crate::exit::ExitResult;
use crate::flags::{ClientFlags, name_and_value};
use crate::interrupt::Interrupt;
use crate::output::follow;

const EXAMPLE: &str = "Example:
  tokenwire stream --base-url http://127.0.0.1:8000/v1 --prompt Hi --save-failed failed
  tokenwire resend failed/tokenwire-failed-1763836458123-4242-0.json --json";

/// Send a failed request, saved with --save-failed, again.
///
/// The body goes out as it was saved, byte for byte. The key was not saved: give it with --api-key-env.
/// The output is that of `stream`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// The saved request.
    file: PathBuf,
    /// The server to send it to, as OpenAI's clients take it [default: where it went before].
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// JSON Lines on standard output.
    #[arg(long)]
    json: bool,
    /// One more header, "Name: value"; again for more. Most of the request's own were not saved: any could
    /// have been a credential.
    #[arg(long = "header", value_name = "K:V", help_heading = "Request")]
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
