//! Decodes a response body into tokens. It also handles bodies that are not event streams.
//!
//! The decoder uses no socket or file. It takes bytes, in pieces of any size, and returns tokens. A
//! stream passes bytes from its socket, and the command-line tool passes bytes from a file.

use super::decoder::{ChunkDecoder, Completion, Flow};
use super::json::is_error;
use super::server_error::server_error_from_body;
use super::tally::Sink;
use crate::config::Limits;
use crate::error::escape::printable;
use crate::error::{Error, ErrorKind};
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;
use crate::protocol::sse::event::Stray;
use crate::protocol::sse::{Item, SseParser};
use crate::types::token::StreamToken;

/// Decodes the body of one response, which you feed in pieces.
///
/// It combines an [`SseParser`] with a [`ChunkDecoder`]. It also handles three cases that these
/// types cannot handle alone:
///
/// - A body is not an event stream if its first byte after white space is `{` or `<`. The content
///   type does not matter. The decoder keeps at most
///   [`max_error_body_bytes`](Limits::max_error_body_bytes) of such a body, for the message in it.
/// - Two servers put errors into lines that the event-stream standard ignores. llama.cpp before
///   autumn 2025 sends a field `error:`, and Lemonade sends a line of bare JSON. The decoder
///   returns an error at the position of such a line in the body.
/// - Some servers forget the blank line after the last `data: [DONE]`. That line still counts as
///   the terminator.
///
/// The tokens and the result do not depend on how the body is cut into pieces.
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
#[must_use]
pub struct BodyDecoder {
    parser: SseParser,
    decoder: ChunkDecoder,
    kind: Kind,
    max_error_body_bytes: usize,
    /// The number of comments in the whole body. The parser resets its own count when it finishes.
    comments: u64,
}

#[derive(Debug)]
enum Kind {
    /// The body has only white space so far.
    Unknown,
    Events,
    /// The body is JSON or HTML.
    Other(Vec<u8>),
}

/// The result of [`BodyDecoder::decode_event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// An event was decoded. The bytes that you passed may contain more events.
    Event,
    /// The decoder needs more bytes.
    More,
    /// The terminator arrived. Call [`finish`](BodyDecoder::finish), and ignore any later bytes.
    Ended,
}

impl BodyDecoder {
    /// Creates a decoder for one response with one choice, with the default limits.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            parser: SseParser::new(),
            decoder: ChunkDecoder::new(endpoint),
            kind: Kind::Unknown,
            max_error_body_bytes: Limits::default().max_error_body_bytes,
            comments: 0,
        }
    }

    /// Sets the maximum number of choices, as [`ChunkDecoder::max_choices`] does.
    pub fn max_choices(mut self, n: u32) -> Self {
        self.decoder = self.decoder.max_choices(n);
        self
    }

    /// Turns learning on or off, as [`ChunkDecoder::learning`] does.
    pub fn learning(mut self, is_on: bool) -> Self {
        self.decoder = self.decoder.learning(is_on);
        self
    }

    /// States that the request asked for ids, as [`ChunkDecoder::ids_asked`] does.
    pub fn ids_asked(mut self, server: Option<ServerKind>) -> Self {
        self.decoder = self.decoder.ids_asked(server);
        self
    }

    /// Sets the three limits that apply to a body.
    ///
    /// The limits are [`max_event_bytes`](Limits::max_event_bytes),
    /// [`max_error_body_bytes`](Limits::max_error_body_bytes) and
    /// [`max_arguments_bytes`](Limits::max_arguments_bytes).
    pub fn limits(mut self, limits: &Limits) -> Self {
        self.parser = SseParser::with_max_event_bytes(limits.max_event_bytes);
        self.max_error_body_bytes = limits.max_error_body_bytes;
        self.decoder = self.decoder.max_arguments_bytes(limits.max_arguments_bytes);
        self
    }

    /// Takes the next piece of the body.
    ///
    /// Afterwards, call [`decode_event`](Self::decode_event) repeatedly, as long as it returns
    /// [`Step::Event`].
    pub fn feed(&mut self, bytes: &[u8]) {
        self.parser.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// Returns a buffer of at least `at_least` bytes, so that you can read the body without a copy.
    pub fn space(&mut self, at_least: usize) -> &mut [u8] {
        self.parser.space(at_least)
    }

    /// Returns the same buffer as [`space`](Self::space), filled with zeros.
    pub(crate) fn zeroed_space(&mut self, at_least: usize) -> &mut [u8] {
        self.parser.zeroed_space(at_least)
    }

    /// Takes the next piece of the body, which is the first `len` bytes of [`space`](Self::space).
    pub fn filled(&mut self, len: usize) {
        if !matches!(self.kind, Kind::Events) {
            let mut piece = self.parser.free();
            piece = &piece[..len.min(piece.len())];
            if let Kind::Unknown = self.kind {
                // Leading white space is dropped. Otherwise it would count against the limit only
                // if the body was cut in certain places.
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

    /// Decodes the next event, if all of it has arrived.
    ///
    /// The tokens of the event are passed to `sink`, as in [`ChunkDecoder::decode`].
    ///
    /// # Errors
    ///
    /// Returns the errors of [`ChunkDecoder::decode`], and
    /// [`Limit::EventBytes`](crate::Limit::EventBytes). After an error the stream is over. Items
    /// that were delivered stay valid. Every later call returns an error and delivers nothing.
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

    fn next_step(&mut self, sink: &mut impl Sink) -> Result<Step, Error> {
        loop {
            // Most events are like an earlier event. For such an event, the decoder reads only the
            // values that differ.
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

    /// Returns the completion if the response is complete.
    ///
    /// Call this method once, when the body has ended or after [`Step::Ended`].
    ///
    /// # Errors
    ///
    /// - The errors of [`ChunkDecoder::finish`].
    /// - The server's error, if the last line contains an error and has no line end.
    /// - [`NotEventStream`](ErrorKind::NotEventStream) if the body is not an event stream. The
    ///   error contains the message in the body.
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

    /// Returns the chunk decoder, which has the usage, the finish reason and the ids' state.
    pub fn chunks(&self) -> &ChunkDecoder {
        &self.decoder
    }

    /// Returns the number of comment lines so far.
    ///
    /// Servers send comments to keep the connection alive.
    #[must_use]
    pub fn comments(&self) -> u64 {
        self.comments.max(self.parser.comments())
    }

    /// Returns whether a finish reason or the terminator was seen.
    ///
    /// After that, the body can contain only usage and the end of the stream.
    pub(crate) fn is_complete(&self) -> bool {
        self.decoder.is_complete()
    }

    /// Returns whether the body is JSON or HTML, which is read only for its message.
    pub(crate) fn is_other(&self) -> bool {
        matches!(self.kind, Kind::Other(_))
    }

    /// Returns the error for this body, which is not an event stream.
    ///
    /// `content_type` is the content type of the response.
    pub(crate) fn not_an_event_stream(&self, content_type: Option<&str>) -> Error {
        let body = if let Kind::Other(body) = &self.kind { body.as_slice() } else { &[] };
        not_an_event_stream(content_type, body)
    }
}

/// Returns the error for a body that is not an event stream although its status reports success.
pub(crate) fn not_an_event_stream(content_type: Option<&str>, body: &[u8]) -> Error {
    let server = server_error_from_body(None, content_type, body);
    let kind = content_type.map(|kind| format!(" but {}", printable(kind, 64))).unwrap_or_default();
    let message = format!("the response is not an event stream{kind}: {}", server.message);
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

    /// Returns the tokens, and a line that describes how the body ended.
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
        // Each case: the body, the text, and the beginning and a part of the line that describes
        // the end.
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
