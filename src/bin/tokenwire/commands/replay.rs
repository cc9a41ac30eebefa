//! `tokenwire replay`: a recording as a server.

use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use tokenwire::recording::Recording;
use tokenwire::testing::{MockServer, Script};

use crate::exit::{Exit, ExitResult, Failure};
use crate::output::text::note;

/// Serve a recorded exchange with its own timing.
///
/// Every request gets the recorded answer, byte by byte when it came, ended as it ended. The base URL is
/// printed on standard output; Ctrl-C ends it.
///
/// FILE is a recording of this program (JSON Lines), as `stream --record FILE` writes it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tokenwire replay answer.jsonl --port 8000 --speed 0.5")]
pub(crate) struct Args {
    /// The recording.
    file: PathBuf,
    /// The port on 127.0.0.1; 0 is a free one.
    #[arg(long, value_name = "P", default_value_t = 0)]
    port: u16,
    /// How many times as fast as recorded.
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = speed)]
    speed: f64,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if speed > 0.0 && speed.is_finite() { Ok(speed) } else { Err("must be a number over 0".to_owned()) }
}

pub(crate) fn run(args: &Args) -> ExitResult {
    let recording = Recording::load(&args.file)?;
    let script = Script::replay(&recording, args.speed.recip());
    let server = MockServer::builder().addr((Ipv4Addr::LOCALHOST, args.port)).scripted([script])?;
    let (interrupt, interrupted) = crossbeam_channel::bounded(1);
    ctrlc::set_handler(move || {
        // Full: told already.
        let _ = interrupt.try_send(());
    })
    .map_err(|error| Failure::Machine(format!("cannot take over Ctrl-C: {error}")))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}/v1", server.url())?;
    out.flush()?;
    note("Serving the recording to every request; Ctrl-C ends it.");
    // The handler, which holds the other end, lives as long as the program.
    let _ = interrupted.recv();
    Ok(Exit::Cancelled)
}
