//! `tokenwire replay`: serves a recording.

use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use tokenwire::recording::Recording;
use tokenwire::testing::{MockServer, Script};

use crate::exit::{Exit, ExitResult, Failure};
use crate::output::text::note;

const EXAMPLE: &str = "Example:
  tokenwire replay answer.jsonl --port 8000 --speed 0.5";

const DETAILS: &str = "Behaviour:
  Every request gets the recorded answer: the same bytes, with the recorded
  timing and the recorded end. tokenwire prints the base URL on standard output.
  Ctrl-C ends the server.

Recording:
  `tokenwire stream --record FILE` writes a recording (JSON Lines).";

/// Serve a recorded exchange with its own timing.
#[derive(clap::Args)]
#[command(before_help = EXAMPLE, after_long_help = DETAILS)]
pub(crate) struct Args {
    /// The recording.
    file: PathBuf,
    /// The port on 127.0.0.1; 0 chooses a free port.
    #[arg(long, value_name = "P", default_value_t = 0)]
    port: u16,
    /// Speed relative to the recording; 2 is twice as fast.
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = speed)]
    speed: f64,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if speed > 0.0 && speed.is_finite() { Ok(speed) } else { Err("expected a number over 0".to_owned()) }
}

pub(crate) fn run(args: &Args) -> ExitResult {
    let recording = Recording::load(&args.file)?;
    let script = Script::replay(&recording, args.speed.recip());
    let server = MockServer::builder().addr((Ipv4Addr::LOCALHOST, args.port)).scripted([script])?;
    let (interrupt, interrupted) = crossbeam_channel::bounded(1);
    ctrlc::set_handler(move || {
        // If the channel is full, the end was requested already.
        let _ = interrupt.try_send(());
    })
    .map_err(|error| Failure::Machine(format!("cannot install a handler for Ctrl-C: {error}")))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}/v1", server.url())?;
    out.flush()?;
    note("Every request gets the recorded answer. Press Ctrl-C to stop.");
    // This waits until Ctrl-C, because the handler holds the sender and is never dropped.
    let _ = interrupted.recv();
    Ok(Exit::Cancelled)
}
