//! A whole response body to tokens: events and chunks together, and the bodies that are no event stream.
//!
//! Pure: bytes in, tokens out, however they are cut. A stream feeds it from its socket, the command line from a file.

use super::decoder::{ChunkDecoder, Completion, Flow};
use super::json::is_error;
use super::server_error::server_error_from_body;
use crate::config::Limits;
use crate::error::escape::printable;
use crate::error::{Error, ErrorKind};
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;
use crate::protocol::sse::event::Stray;
use crate::protocol::sse::{Item, SseParser};
use crate::types::token::StreamToken;

/// Decodes the body of one answer, pushed in pieces: [`SseParser`] and [`ChunkDecoder`] joined, and what neither can
/// see alone.
///
/// - A body whose first byte that is no white space is `{` or `<` is no event stream, whatever its content type says. It
///   is kept, up to [`max_error_body_bytes`](Limits::max_error_body_bytes), for the message in it.
/// - Two servers are known to put errors into lines that the event-stream standard ignores: a field `error:`
///   (llama.cpp before autumn 2025), a line of bare JSON (Lemonade). They are errors here, at their place in the body.
/// - A last `data: [DONE]` without its blank line is the terminator: some servers forget it.
///
/// The tokens and the result do not depend on how the body was cut into pieces.
///
/// ```
/// use tokenwire::StreamToken;
///
/// let mut body = tokenwire::BodyDecoder::new(tokenwire::Endpoint::Auto);
/// let mut text = String::new();
/// let mut sink = |_choice, token| match token {
///     StreamToken::Token { text: piece, .. } => text += &piece,
///     _ => {}
/// };
/// for read in ["data: {\"choices\":[{\"text\":\"Hi\",\"finish", "_reason\":\"stop\"}]}\n\nda", "ta: [DONE]\n\n"] {
///     body.feed(read.as_bytes());
///     while body.decode_event(&mut sink)? == tokenwire::Step::Event {}
/// }
/// assert_eq!(body.finish()?.finish.unwrap().as_str(), "stop");
/// assert_eq!(text, "Hi");
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug)]
pub struct BodyDecoder {
    parser: SseParser,
    decoder: ChunkDecoder,
    kind: Kind,
    max_error_body_bytes: usize,
    /// Comments of the whole body, once the parser is finished and has forgotten them.
    comments: u64,
}

#[derive(Debug)]
enum Kind {
    /// Nothing but white space so far.
    Unknown,
    Events,
    /// JSON or HTML.
    Other(Vec<u8>),
}

/// What [`BodyDecoder::decode_event`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// An event was decoded; there may be more in the bytes that were fed.
    Event,
    /// Feed more bytes.
    More,
    /// The terminator came. What follows has no meaning; ask [`finish`](BodyDecoder::finish).
    Ended,
}

impl BodyDecoder {
    /// A decoder for one answer with one choice, with the default limits.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            parser: SseParser::new(),
            decoder: ChunkDecoder::new(endpoint),
            kind: Kind::Unknown,
            max_error_body_bytes: Limits::default().max_error_body_bytes,
            comments: 0,
        }
    }

    /// As [`ChunkDecoder::max_choices`].
    #[must_use]
    pub fn max_choices(mut self, n: u32) -> Self {
        self.decoder = self.decoder.max_choices(n);
        self
    }

    /// As [`ChunkDecoder::learning`].
    #[must_use]
    pub fn learning(mut self, is_on: bool) -> Self {
        self.decoder = self.decoder.learning(is_on);
        self
    }

    /// As [`ChunkDecoder::ids_asked`].
    #[must_use]
    pub fn ids_asked(mut self, server: Option<ServerKind>) -> Self {
        self.decoder = self.decoder.ids_asked(server);
        self
    }

    /// Sets [`max_event_bytes`](Limits::max_event_bytes), [`max_error_body_bytes`](Limits::max_error_body_bytes) and
    /// [`max_arguments_bytes`](Limits::max_arguments_bytes).
    #[must_use]
    pub fn limits(mut self, limits: &Limits) -> Self {
        self.parser = SseParser::with_max_event_bytes(limits.max_event_bytes);
        self.max_error_body_bytes = limits.max_error_body_bytes;
        self.decoder = self.decoder.max_arguments_bytes(limits.max_arguments_bytes);
        self
    }

    /// Takes the next piece of the body. Then decode events until there are no more.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.parser.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// Room for at least so many bytes of the body, to read straight into: no copy is made.
    pub fn space(&mut self, at_least: usize) -> &mut [u8] {
        self.parser.space(at_least)
    }

    /// As [`space`](Self::space), all zeros.
    pub(crate) fn zeroed_space(&mut self, at_least: usize) -> &mut [u8] {
        self.parser.zeroed_space(at_least)
    }

    /// The first `len` bytes of [`space`](Self::space) are the next piece.
    pub fn filled(&mut self, len: usize) {
        if !matches!(self.kind, Kind::Events) {
            let mut piece = self.parser.free();
            piece = &piece[..len.min(piece.len())];
            if let Kind::Unknown = self.kind {
                // White space before it is not kept: it would count against the limit in some cuts and not in others.
                let start = piece.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(piece.len());
                piece = &piece[start..];
                match piece.first() {
                    Some(b'{' | b'<') => self.kind = Kind::Other(Vec::new()),
                    Some(_) => self.kind = Kind::Events,
                    None => {}
                }
            }
            if let Kind::Other(body) = &mut self.kind {
                body.extend_from_slice(&piece[..piece.len().min(self.max_error_body_bytes - body.len())]);
                return;
            }
        }
        self.parser.filled(len);
    }

    /// Decodes the next event, if it is there whole; what it holds goes to `sink`, as
    /// [`ChunkDecoder::decode`] says.
    ///
    /// # Errors
    ///
    /// As [`ChunkDecoder::decode`], and [`Limit::EventBytes`](crate::Limit::EventBytes). The stream is over; what
    /// was handed out stays valid, nothing more is handed out, and every later call is an error too.
    pub fn decode_event(&mut self, sink: &mut impl FnMut(u32, StreamToken)) -> Result<Step, Error> {
        if let Kind::Other(body) = &self.kind {
            let full = body.len() == self.max_error_body_bytes;
            return if full { Err(self.not_an_event_stream(None)) } else { Ok(Step::More) };
        }
        self.decoder.check_not_failed()?;
        let step = self.next_step(sink);
        if step.is_err() {
            self.decoder.fail();
        }
        step
    }

    fn next_step(&mut self, sink: &mut impl FnMut(u32, StreamToken)) -> Result<Step, Error> {
        loop {
            // Most events are like the one before, and then only what differs is looked at.
            if let Some(bytes) = self.parser.before_event() {
                if let Some(line_bytes) = self.decoder.decode_at_front(bytes, sink) {
                    self.parser.skip_event(line_bytes);
                    return Ok(Step::Event);
                }
            }
            match self.parser.next_item()? {
                Item::More => return Ok(Step::More),
                Item::Stray(stray) => check_stray(stray)?,
                Item::Event(block) => {
                    let (name, data) = self.parser.raw_event(block);
                    if self.decoder.decode_by_template(name, data, sink) {
                        return Ok(Step::Event);
                    }
                    let event = self.parser.event(block);
                    return Ok(match self.decoder.decode_parsed(event.event, event.data, sink)? {
                        Flow::More => Step::Event,
                        Flow::Ended => Step::Ended,
                    });
                }
            }
        }
    }

    /// Whether the answer is complete, asked once, when the body has ended or after [`Step::Ended`].
    ///
    /// # Errors
    ///
    /// As [`ChunkDecoder::finish`]; an error that stood in a last line without an end; and
    /// [`NotEventStream`](ErrorKind::NotEventStream), with what the body says.
    pub fn finish(&mut self) -> Result<Completion, Error> {
        if let Kind::Other(_) = self.kind {
            return Err(self.not_an_event_stream(None));
        }
        self.comments = self.parser.comments();
        if self.decoder.is_ended() {
            return self.decoder.finish();
        }
        let unended = self.parser.finish().unended_data;
        if let Some(stray) = self.parser.take_stray() {
            check_stray(stray)?;
        }
        if let Some(data) = unended.filter(|data| data.trim() == "[DONE]") {
            let mut is_cut = false;
            let _ = self.decoder.decode("message", &data, &mut |_, _| is_cut = true)?;
            if is_cut {
                return Err(Error::new(ErrorKind::Incomplete, "the stream ended inside a tool call"));
            }
        }
        self.decoder.finish()
    }

    /// The chunks' side: usage, finish reason, exactness of the ids, as far as they are known.
    #[must_use]
    pub fn chunks(&self) -> &ChunkDecoder {
        &self.decoder
    }

    /// Comment lines so far: keep-alives.
    #[must_use]
    pub fn comments(&self) -> u64 {
        self.comments.max(self.parser.comments())
    }

    /// The answer is whole: a finish reason or the terminator was seen. What may still come is usage and framing.
    pub(crate) fn is_complete(&self) -> bool {
        self.decoder.is_complete()
    }

    /// The body is JSON or HTML and is read for its message.
    pub(crate) fn is_other(&self) -> bool {
        matches!(self.kind, Kind::Other(_))
    }

    /// What a body that is no event stream says, which came under this content type.
    pub(crate) fn not_an_event_stream(&self, content_type: Option<&str>) -> Error {
        let body = if let Kind::Other(body) = &self.kind { body.as_slice() } else { &[] };
        not_an_event_stream(content_type, body)
    }
}

/// The error for a good status with a body that is no event stream.
pub(crate) fn not_an_event_stream(content_type: Option<&str>, body: &[u8]) -> Error {
    let server = server_error_from_body(None, content_type, body);
    let kind = content_type.map(|kind| format!(" but {}", printable(kind, 64))).unwrap_or_default();
    let message = format!("the answer is no event stream{kind}: {}", server.message);
    Error::new(ErrorKind::NotEventStream, message).with_server(server)
}

fn check_stray(stray: Stray) -> Result<(), Error> {
    let text = match stray {
        Stray::ErrorField(text) => text,
        Stray::Line(line) if is_error(&line) => line,
        Stray::Line(_) => return Ok(()),
    };
    Err(Error::server(server_error_from_body(None, None, text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens, the end in a word, and what it says.
    fn run<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (String, String) {
        let mut limits = Limits::default();
        (limits.max_event_bytes, limits.max_error_body_bytes) = (300, 60);
        let mut body = BodyDecoder::new(Endpoint::Auto).limits(&limits);
        let mut text = String::new();
        let mut result = Ok(Step::More);
        for piece in pieces {
            body.feed(piece);
            if let Kind::Other(kept) = &body.kind {
                assert!(kept.len() <= limits.max_error_body_bytes);
            }
            while let Ok(Step::Event) = {
                result = body.decode_event(&mut |_, token| {
                    let StreamToken::Token { text: piece, .. } = token else { panic!("{token:?}") };
                    text += &piece;
                });
                &result
            } {}
            if !matches!(result, Ok(Step::More)) {
                break;
            }
        }
        if result.is_err() {
            let more =
                "data: {\"choices\":[{\"text\":\"x\",\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
            body.feed(more.as_bytes());
            for _ in 0..4 {
                let again = body.decode_event(&mut |_, _| panic!("a token after the error"));
                assert!(again.is_err(), "{again:?} after {result:?}");
            }
            assert!(body.finish().is_err(), "complete after {result:?}");
        }
        let end = match result.and_then(|_| body.finish()) {
            Ok(completion) => format!("complete {:?}, {} comments", completion.finish, body.comments()),
            Err(error) => format!("{} {error}", error.kind().as_str()),
        };
        (text, end)
    }

    #[test]
    fn a_body_gives_the_same_tokens_and_the_same_end_at_every_cut() {
        let a = r#"data: {"choices":[{"index":0,"text":"a"}]}"#;
        let stop = r#"data: {"choices":[{"index":0,"text":"z","finish_reason":"stop"}]}"#;
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        // (body, text, how the end begins, what it holds)
        let cases = [
            (format!("{a}\n\n: hi\n\n{stop}\n\ndata: [DONE]\n\n"), "az", "complete Some(Stop), 1", ""),
            (format!("\n {a}\n\n{a}\n\ndata: [DONE]"), "a", "complete None", ""),
            (format!("{a}\r\n\r\n{stop}\r\n\r\n"), "az", "complete Some(Stop)", ""),
            (format!("{a}\n\n"), "a", "incomplete", ""),
            (format!("{a}\n\nerror: {{\"message\":\"old\"}}\n\ndata: [DONE]\n\n"), "a", "server", "old"),
            (format!("{a}\n\n{{\"x\":1}}\n\n{{\"error\":\"raw\"}}\n\n{a}\n\n"), "a", "server", "raw"),
            (format!("{a}\n\n{a}\n{{\"error\":\"in a block\"}}\n\n"), "a", "server", "in a block"),
            (format!("{a}\n\n{{\"object\":\"error\",\"message\":\"typed\"}}\n\n"), "a", "server", "typed"),
            (format!("{a}\n\n{{\"error\":\"last\"}}"), "a", "server", "last"),
            (format!("{a}\n\ndata: [DONE]\n\n{{\"error\":\"late\"}}\n\n{a}\n\n"), "a", "complete None", ""),
            (format!("{a}\n\n{{\"harmless\":1}}\n{stop}\n\n"), "az", "complete Some(Stop)", ""),
            (r#" {"error":{"message":"json"}}"#.to_owned(), "", "not_event_stream", "json"),
            (
                format!("{{\"message\":\"long\",\"x\":\"{}\"}}", "y".repeat(90)),
                "",
                "not_event_stream",
                "long",
            ),
            (format!("{}<title>far</title>", " \n".repeat(28)), "", "not_event_stream", "far"),
            ("\n<html><title>502</title></html>".to_owned(), "", "not_event_stream", "502"),
            (format!("{a}\n\ndata: {}\n\n", "x".repeat(400)), "a", "limit", "max_event_bytes"),
            (format!("{a}\n\n: {}", "x".repeat(400)), "a", "limit", "max_event_bytes is 300"),
            (format!("{a}\n\ndata: {}\n\n", nested(129)), "a", "limit", "max_nesting is 128"),
            (format!("{a}\n\ndata: {}\n\n{stop}\n\n", nested(128)), "az", "complete Some(Stop)", ""),
            (
                format!("{a}\n\ndata: {{\"choices\":[{}0]}}\n\n", "0,".repeat(128)),
                "a",
                "limit",
                "max_choices is 128",
            ),
            (format!("{}\n\n", a.replace('0', "1")), "", "protocol", "max_choices is 1"),
            (String::new(), "", "incomplete", ""),
        ];
        for (body, text, begins, holds) in cases {
            let bytes = body.as_bytes();
            let whole = run([bytes].into_iter());
            assert_eq!(whole.0, text, "{body}");
            assert!(whole.1.starts_with(begins) && whole.1.contains(holds), "{body}: {}", whole.1);
            assert_eq!(run(bytes.chunks(1)), whole, "{body}, byte by byte");
            for cut in 0..bytes.len() {
                let (front, back) = bytes.split_at(cut);
                assert_eq!(run([front, back].into_iter()), whole, "{body} cut at {cut}");
            }
        }
    }
}
