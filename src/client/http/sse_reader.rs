//! Reads JSON events from a response, with a limit on the silence between two chunks.

use std::time::Duration;

use serde_json::Value;

use super::response::HttpResponse;
use super::slot::Wait;
use crate::error::escape::printable;
use crate::error::{Error, Timer};
use crate::protocol::sse::SseParser;

const TERMINATOR: &str = "[DONE]";
/// Limits how many characters of an event the log shows if the event is not JSON.
const MAX_PREVIEW_CHARS: usize = 120;
/// The size in bytes of the buffer for each read of the socket.
const READ_BYTES: usize = 16 << 10;

/// Turns the body of an [`HttpResponse`] into JSON events.
///
/// Use this reader for endpoints that this crate does not decode. It parses the data of each event
/// into a [`Value`], which costs about twenty allocations.
/// [`ApiClient::stream`](crate::ApiClient::stream) does not use this reader.
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
    /// The number of lines in the body, set when the body ends. The parser then resets its own
    /// count.
    lines: u64,
    parse_errors: u64,
    done: bool,
}

impl SseReader {
    /// Creates a reader that returns an error if no byte of the body arrives for `chunk_timeout`.
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

    /// Waits for the next event and returns it.
    ///
    /// Data that is not JSON is counted and skipped. For the first such event, the log shows the
    /// size at debug level and the first characters at trace level.
    ///
    /// `None` means that the body has ended. If [`is_done`](Self::is_done) returns true, the stream
    /// is complete. Otherwise, the terminator is missing: either this server never sends a
    /// terminator, or the server died. The last event usually shows which case applies.
    ///
    /// # Errors
    ///
    /// - `Timeout` ([`Timer::Chunk`]): no byte arrives within the chunk timeout
    /// - `Limit`: an event has more than 32 MiB
    /// - every error of [`HttpResponse::chunk`]
    ///
    /// The stream is over after an error.
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
                            let (data, size) = (event.data, event.data.len());
                            log::debug!("skipped an event of {size} bytes that is not JSON: {error}");
                            // The event may contain generated text, which is logged only at trace
                            // level.
                            log::trace!("the skipped event begins: {}", printable(data, MAX_PREVIEW_CHARS));
                        }
                    }
                }
            }
            let wait = Wait::each(self.chunk_timeout, Timer::Chunk);
            match response.read(self.parser.zeroed_space(READ_BYTES), Some(wait))? {
                0 => {
                    self.lines += self.parser.lines();
                    // Some servers omit the blank line after their last event.
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

    /// Returns true if the terminator `[DONE]` was received.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Returns the number of socket reads that returned bytes.
    #[must_use]
    pub fn chunks_received(&self) -> u64 {
        self.chunks_received
    }

    /// Returns the number of lines of the event stream, including comments and empty lines.
    #[must_use]
    pub fn sse_lines_parsed(&self) -> u64 {
        self.lines + self.parser.lines()
    }

    /// Returns the number of events whose data was not JSON.
    #[must_use]
    pub fn sse_parse_errors(&self) -> u64 {
        self.parse_errors
    }
}
