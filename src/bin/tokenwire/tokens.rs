//! `tokenwire tokens`: what the decoder makes of a body that was kept, with no server.

use std::io::{self, BufWriter, Write};

use serde::Serialize;
use tokenwire::{
    CHOICES_MAX, ChunkDecoder, Completion, Error, ErrorKind, Flow, Limits, SseParser, Stray, TokenId, Wire,
};

use crate::interrupt::exit_on_interrupt;
use crate::output::{DoneJson, ErrorJson, TokenLine, done_summary, json_line, note_dim, note_error};
use crate::sse::{ErrorLine, for_each_piece};
use crate::terminal::harmless;
use crate::{Exit, Outcome};

const EXAMPLE: &str = r#"Example:
  curl -sN http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \
    -d '{"prompt":"Hi","stream":true,"return_token_ids":true}' | tokenwire tokens --json"#;

/// Decode an event-stream body from standard input to tokens.
///
/// With --json each token is a line {"text","id"} (id null if unknown, "index" beside it for choices other
/// than the first), and the last line is {"done":{"finish","usage","ids_exact"}} or
/// {"error":{"kind","message",..}}.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// How the chunks are written: auto, openai, chat, llamacpp, vllm-generate.
    #[arg(long, value_name = "WIRE", default_value_t)]
    wire: Wire,
    /// Feed the parser this many bytes at a time; 0 = whole, as it is read. The tokens are the same.
    #[arg(long, value_name = "N", default_value_t = 0)]
    cut: usize,
    /// JSON Lines.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    #[derive(Serialize)]
    struct DoneLine {
        done: DoneJson,
    }
    exit_on_interrupt()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut body = Body::new(args.wire);
    let mut result = Ok(Flow::More);
    for_each_piece(&mut io::stdin().lock(), args.cut, |bytes| {
        let mut tokens = Vec::new();
        result = body.feed(bytes, &mut |index, text, id| tokens.push((index, text, id)));
        for (index, text, id) in tokens {
            if args.json {
                json_line(&mut out, &TokenLine { text: &text, id, index, t_us: None })?;
            } else {
                out.write_all(harmless(&text).as_bytes())?;
            }
        }
        out.flush()?;
        Ok(matches!(result, Ok(Flow::More)))
    })?;
    let tokens = body.decoder.tokens();
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
            let error = ErrorJson { tokens: Some(tokens), ..failed.json() };
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

/// Why a body gave no whole answer.
enum Failed {
    Error(Error),
    /// A body that is no event stream: what it says, with the words for it.
    NotEventStream(Error, String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failed {
    fn json(&self) -> ErrorJson<'_> {
        match self {
            Self::Error(error) => ErrorJson::new(error),
            Self::NotEventStream(error, message) => {
                ErrorJson { kind: ErrorKind::NotEventStream.as_str(), message, ..ErrorJson::new(error) }
            }
        }
    }
}

/// Bytes of a body to tokens: the joint that the library has inside its reader thread, without socket and
/// clock.
struct Body {
    parser: SseParser,
    decoder: ChunkDecoder,
    /// What the first byte that is no white space said.
    kind: Kind,
    /// The terminator was seen; what is behind it has no meaning.
    ended: bool,
}

enum Kind {
    Unknown,
    Events,
    /// JSON or HTML: kept for its message, up to the limit for error bodies.
    Other(Vec<u8>),
}

impl Body {
    fn new(wire: Wire) -> Self {
        let decoder = ChunkDecoder::new(wire).choices_max(CHOICES_MAX);
        Self { parser: SseParser::new(), decoder, kind: Kind::Unknown, ended: false }
    }

    fn feed(
        &mut self,
        bytes: &[u8],
        sink: &mut impl FnMut(u32, String, Option<TokenId>),
    ) -> Result<Flow, Failed> {
        if let Kind::Unknown = self.kind {
            match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
                Some(b'{' | b'<') => self.kind = Kind::Other(Vec::new()),
                Some(_) => self.kind = Kind::Events,
                None => {}
            }
        }
        if let Kind::Other(body) = &mut self.kind {
            let room = Limits::default().error_body_bytes_max - body.len();
            body.extend_from_slice(&bytes[..room.min(bytes.len())]);
            return Ok(if room > bytes.len() { Flow::More } else { Flow::Ended });
        }
        self.parser.feed(bytes);
        while let Some(event) = self.parser.next_event()? {
            let (kind, data) = (event.event.to_owned(), event.data.to_owned());
            // A stray line is seen no later than the event behind it, however the bytes were cut; so it comes
            // before it here too.
            self.check_stray()?;
            if self.decoder.decode(&kind, &data, sink)? == Flow::Ended {
                self.ended = true;
                return Ok(Flow::Ended);
            }
        }
        self.check_stray()?;
        Ok(Flow::More)
    }

    fn finish(&mut self) -> Result<Completion, Failed> {
        if let Kind::Other(body) = &self.kind {
            said_by_server(&String::from_utf8_lossy(body)).map_err(|error| {
                let said = error.server_error().map_or("", |server| &server.message);
                let message = format!("the body is no event stream: {said}");
                Failed::NotEventStream(error, message)
            })?;
        }
        if self.ended {
            return Ok(self.decoder.finish()?);
        }
        let end = self.parser.finish();
        self.check_stray()?;
        // Some servers forget the blank line behind their last event; a terminator counts all the same.
        let unended = end.unended_data.filter(|data| data.trim() == "[DONE]");
        if let Some(data) = unended {
            // It has no token for the sink, and is no error.
            let _ = self.decoder.decode("message", &data, &mut |_, _, _| {})?;
        }
        Ok(self.decoder.finish()?)
    }

    /// Two servers are known to put errors where the standard says to ignore the line.
    fn check_stray(&mut self) -> Result<(), Error> {
        match self.parser.take_stray() {
            Some(Stray::ErrorField(value)) => said_by_server(&value),
            Some(Stray::Line(line)) if is_error_object(&line) => said_by_server(&line),
            _ => Ok(()),
        }
    }
}

fn is_error_object(line: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line).is_ok_and(|object| {
        object.contains_key("error") || object.get("object").is_some_and(|o| o == "error")
    })
}

/// The server error in a text. An event of the type `error` is one whatever its data is.
fn said_by_server(text: &str) -> Result<(), Error> {
    ChunkDecoder::new(Wire::Auto).decode("error", text, &mut |_, _, _| {}).map(drop)
}
