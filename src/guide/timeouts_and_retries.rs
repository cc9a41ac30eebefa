//! Which waits there are, what ends them, and what is sent again.
//!
//! # Timers
//!
//! No wait is without a name, and all but one have a limit by default ([`Timeouts`](crate::Timeouts)):
//!
//! | timer | bounds | default |
//! | --- | --- | --- |
//! | `connect` | name lookup, TCP connect, TLS handshake, together | 30 s |
//! | `write` | one write of the request, 16 KiB at most | 30 s |
//! | `first_token` | from the start of an attempt to its first token | 600 s |
//! | `chunk` | between tokens: no byte of the body | 120 s |
//! | `content` | between tokens: no event; keep-alive comments do not count | 600 s |
//! | `tail` | after the finish reason: usage and terminator | 5 s, then the stream is complete without them |
//! | `deadline` | the whole, retries and resumes included | none |
//! | `drain` | after the end: the framing's last bytes, so that the connection can be used again; nobody waits for it | 50 ms |
//!
//! Servers queue a request for minutes before its first token, and then send tokens many times a second: so the two waits have
//! two timers. The timers stand still while the stream waits for a slow consumer, save the deadline.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use std::time::Duration;
//! use tokenwire::{ApiClient, ErrorKind, SamplingParams, Timeouts, Timer};
//! # use tokenwire::testing::{Script, ServerKind};
//! # let first = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
//! # let server = MockServer::scripted([Script::events([first]).hang(Duration::from_secs(60))])?;
//! # let url = server.url(); // A server that sends a token and goes silent.
//!
//! let mut timeouts = Timeouts::default();
//! timeouts.chunk = Some(Duration::from_millis(50));
//! let client = ApiClient::builder(url).timeouts(timeouts).build()?;
//! let (_tokens, guard) = client.stream_completion(&[1, 2, 3], SamplingParams::default(), None)?;
//! let error = guard.join().error.unwrap();
//! assert_eq!(error.kind(), ErrorKind::Timeout(Timer::Chunk));
//! assert_eq!(error.progress().unwrap().tokens, 1);
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! # Retries
//!
//! What fails before its first token is sent again ([`RetryPolicy`](crate::RetryPolicy)): a connection that could not be made or
//! that ended, 408, 409, 429 and 5xx, no first token in time. Twice by default; after what `Retry-After` or `retry-after-ms` says,
//! or a random wait that doubles. The consumer sees nothing of it; [`StreamReport::retries`](crate::StreamReport::retries) counts.
//!
//! All streams of a client share one budget of ten retries, which successes fill up again, one for five. A server that is down
//! gets ten requests more from a client with a thousand streams, and not two thousand.
//!
//! After the first token nothing is sent again as it was: that would be another answer. See
//! [`resume_and_failover`](super::resume_and_failover).
//!
//! | you want | say |
//! | --- | --- |
//! | no retries | `.retries(0)` |
//! | each request sent once at most, whatever happens | `max_retries` and `max_stale_retries` 0 |
//! | more patience with a busy server | `max_retries` 5, `max_server_wait` as long as you would wait |
//! | many streams that all survive a restart of the server | `budget` as large as they are many |
//!
//! What still fails is one [`Error`](crate::Error) at the end of the channel. Branch on its
//! [`kind`](crate::Error::kind), or on [`is_timeout`](crate::Error::is_timeout), [`is_connect`](crate::Error::is_connect),
//! [`is_retryable`](crate::Error::is_retryable).
