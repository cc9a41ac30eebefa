//! Retry failed requests.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use std::time::Duration;
//! use tokenwire::{ApiClient, RetryPolicy, SamplingParams};
//! # use tokenwire::testing::{MockServer, Script};
//! # let busy = Script::status(429).header("Retry-After", "0").json("{}");
//! # let server = MockServer::scripted([busy, Script::tokens([(9707, "Hello")])])?;
//! # let url = server.url();
//!
//! let mut retry = RetryPolicy::default();
//! retry.max_retries = 5;
//! retry.max_server_wait = Duration::from_secs(300);
//! let client = ApiClient::builder(url).retry(retry).build()?;
//! let (_tokens, guard) = client.stream_completion(&[1, 2, 3], SamplingParams::default(), None)?;
//!
//! // This server answers the first request with status 429.
//! let report = guard.join();
//! assert_eq!((report.retries, report.tokens), (1, 1));
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! tokenwire retries a request that fails before its first token, for one of these reasons:
//!
//! - The connection cannot be made, or it ends.
//! - The server answers with status 408, 409, 429 or 5xx.
//! - The first token does not arrive in time.
//!
//! By default, a request is retried at most twice. A retry does not appear in the channel;
//! [`StreamReport::retries`](crate::StreamReport::retries) holds the number of retries.
//!
//! The header `Retry-After` or `retry-after-ms` sets the wait before a retry, at most 60 s
//! (`max_server_wait`). Without such a header, the wait is random. Its maximum is 500 ms
//! (`min_wait`) before the first retry. The maximum doubles before each further retry, up to 8 s
//! (`max_wait`).
//!
//! After the first token, a request is never sent again unchanged, because the server would produce
//! a different answer. See [`resume`](super::resume) for broken streams.
//!
//! # The budget
//!
//! All streams of a client share one budget of ten retries. Five successful requests give one retry
//! back. Example: a server is down, and a client has a thousand streams. The client then sends ten
//! additional requests, not two thousand.
//!
//! # Stale connections
//!
//! A server may close a kept connection at the moment when tokenwire sends a request on it.
//! tokenwire then sends the request again at once, even with `retries(0)`. Such a retry does not
//! use the budget. [`max_stale_retries`](crate::RetryPolicy::max_stale_retries) limits these
//! retries; the default is 2.
//!
//! # Settings
//!
//! | you want | set |
//! | --- | --- |
//! | no retries | `.retries(0)` on the builder |
//! | each request sent at most once, even after a failure | `max_retries` and `max_stale_retries` to 0 |
//! | more patience with a busy server | `max_retries` to 5, and `max_server_wait` to the longest wait that you accept |
//! | many streams that all survive a restart of the server | `budget` to the number of streams |
