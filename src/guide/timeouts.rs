//! Set timeouts.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use std::time::Duration;
//! use tokenwire::{ApiClient, ErrorKind, SamplingParams, Timeouts, Timer};
//! # use tokenwire::testing::{MockServer, Script};
//! # let first = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
//! # let silence = Duration::from_secs(60);
//! # let server = MockServer::scripted([Script::events([first]).hang(silence)])?;
//! # let url = server.url();
//!
//! let mut timeouts = Timeouts::default();
//! timeouts.chunk = Some(Duration::from_millis(50));
//! let client = ApiClient::builder(url).timeouts(timeouts).build()?;
//! let (_tokens, guard) = client.stream_completion(&[1, 2, 3], SamplingParams::default(), None)?;
//!
//! // This server sends one token and then nothing.
//! let error = guard.join().error.unwrap();
//! assert_eq!(error.kind(), ErrorKind::Timeout(Timer::Chunk));
//! assert_eq!(error.progress().unwrap().tokens, 1);
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! Every wait has a named timer in [`Timeouts`](crate::Timeouts), and every timer except `deadline`
//! has a default:
//!
//! | timer | limits | default |
//! | --- | --- | --- |
//! | `connect` | name lookup, TCP connect and TLS handshake together | 30 s |
//! | `write` | one write of the request, of at most 16 KiB | 30 s |
//! | `first_token` | the time from the start of an attempt to its first token | 600 s |
//! | `chunk` | the time between tokens in which no byte of the body arrives | 120 s |
//! | `content` | the time between tokens in which no event arrives; keep-alive comments do not count | 600 s |
//! | `after_finish` | the wait for usage and terminator after the finish reason; when this timer expires, the stream is complete without usage and terminator | 5 s |
//! | `deadline` | the whole request, with its retries and resumes | none |
//! | `drain` | the wait for the last bytes of the HTTP framing after the end, so that the connection can be reused; your program does not wait | 50 ms |
//!
//! `first_token` and `chunk` are separate timers. A server may keep a request in its queue for
//! minutes, and later send many tokens per second.
//!
//! No timer except `deadline` runs while the stream waits for a slow consumer.
//!
//! When a timer expires, the error is an [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) with the
//! name of the timer. [`Error::is_timeout`](crate::Error::is_timeout) returns true for all timers.
