//! JSON events out of a response, under a chunk limit: the event stream for those who want no more than that.

use std::time::Duration;

use serde_json::Value;

use super::response::HttpResponse;
use super::slot::Wait;
use crate::error::escape::printable;
use crate::error::{Error, Timer};
use crate::protocol::sse::SseParser;

const TERMINATOR: &str = "[DONE]";
/// How much of a line that is not JSON is shown in the log, in characters.
const MAX_PREVIEW_CHARS: usize = 120;
/// Room that is offered to each read of the socket.
const READ_BYTES: usize = 16 << 10;

/// Turns the body of an [`HttpResponse`] into JSON events.
///
/// For endpoints that this crate does not decode by itself. An event's data is parsed as a whole into a [`Value`],
/// which costs some twenty allocations; [`ApiClient::stream`](crate::ApiClient::stream) does not come this way.
///
/// ```no_run
/// # fn main() -> Result<(), tokenwire::Error> {
/// let client = tokenwire::HttpClient::new()?;
/// let body = serde_json::json!({"prompt": "Hi", "stream": true});
/// let mut response = client.send_json("POST", "http://127.0.0.1:8000/v1/completions", &[], &body)?;
/// let mut events = tokenwire::SseReader::new(std::time::Duration::from_secs(120));
/// while let Some(event) = events.next_event(&mut response)? {
///     println!("{}", event["choices"][0]["text"]);
/// }
/// assert!(events.is_done(), "the stream broke off");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SseReader {
    parser: SseParser,
    chunk_timeout: Duration,
    chunks_received: u64,
    /// Lines of a body that has ended; the parser forgets them then.
    lines: u64,
    parse_errors: u64,
    done: bool,
}

impl SseReader {
    /// A reader that fails when the body brings no byte for `chunk_timeout`.
    #[must_use]
    pub fn new(chunk_timeout: Duration) -> Self {
        Self {
            parser: SseParser::new(),
            chunk_timeout,
            chunks_received: 0,
            lines: 0,
            parse_errors: 0,
            done: false,
        }
    }

    /// Blocks for the next event. Data that is not JSON is counted, the first such is logged (debug: its size, trace: how
    /// it begins), and it is skipped.
    ///
    /// `None` is the end: of the stream, if [`is_done`](Self::is_done) says so, else of the body alone. Some servers
    /// send no terminator, a server that dies sends none either: then the last event must tell which it was.
    ///
    /// # Errors
    ///
    /// `Timeout` ([`Timer::Chunk`]), `Limit` for an event of more than 32 MiB, and what
    /// [`HttpResponse::chunk`] fails with. The stream is over then.
    pub fn next_event(&mut self, response: &mut HttpResponse) -> Result<Option<Value>, Error> {
        while !self.done {
            while let Some(event) = self.parser.next_event()? {
                if event.data.trim() == TERMINATOR {
                    self.done = true;
                    return Ok(None);
                }
                match serde_json::from_str(event.data) {
                    Ok(value) => return Ok(Some(value)),
                    Err(error) => {
                        self.parse_errors += 1;
                        if self.parse_errors == 1 {
                            log::debug!(
                                "skipped an event of {} bytes that is not JSON: {error}",
                                event.data.len()
                            );
                            // Reply text stands at trace only.
                            log::trace!("it begins: {}", printable(event.data, MAX_PREVIEW_CHARS));
                        }
                    }
                }
            }
            let wait = Wait::each(self.chunk_timeout, Timer::Chunk);
            match response.read(self.parser.zeroed_space(READ_BYTES), Some(wait))? {
                0 => {
                    self.lines += self.parser.lines();
                    // Some servers forget the blank line behind their last event.
                    self.done =
                        self.parser.finish().unended_data.is_some_and(|data| data.trim() == TERMINATOR);
                    break;
                }
                len => {
                    self.chunks_received += 1;
                    self.parser.filled(len);
                }
            }
        }
        Ok(None)
    }

    /// The terminator `[DONE]` was seen.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Reads of the socket that brought something.
    #[must_use]
    pub fn chunks_received(&self) -> u64 {
        self.chunks_received
    }

    /// Lines of the event stream, comments and empty lines included.
    #[must_use]
    pub fn sse_lines_parsed(&self) -> u64 {
        self.lines + self.parser.lines()
    }

    /// Events whose data was not JSON.
    #[must_use]
    pub fn sse_parse_errors(&self) -> u64 {
        self.parse_errors
    }
}
