//! What is logged, and what is not.
//!
//! Through the crate `log`, under targets that begin with `tokenwire`: at warn what an operator has to know, at debug sizes, statuses,
//! times and endings, at trace the beginning of the first event that is not JSON. The table is
//! [on the front page](crate#logging). No prompt is logged at any level; replies only at trace, as above; keys never.
//!
//! What happened to one stream is better asked of its [`StreamReport`](crate::StreamReport), which needs no log: ending, times to head, first
//! and last token, percentiles between tokens, retries and resumes, the server's request id. An
//! [`Error`](crate::Error) carries the request id too, and how far the stream had come.
//!
//! To find a request in the server's log, and in a trace:
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, CompletionRequest};
//! # use tokenwire::testing::{Script, ServerKind};
//! # let server = MockServer::scripted([Script::tokens([(9707, "Hello")])])?;
//! # let url = server.url();
//!
//! let client = ApiClient::builder(url).request_ids("rollout").build()?;
//! let request = CompletionRequest::ids([1, 2, 3])
//!     .traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
//! let (_tokens, guard) = client.stream(request)?;
//! guard.join();
//! assert!(server.requests()[0].header("x-request-id").unwrap().starts_with("rollout-"));
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! A retry or resume of it has the same id with `-1`, `-2` and so on behind it.
//!
//! ureq and rustls log too. ureq prints the bytes of the traffic at trace, in which a server may echo a key: filter the target `ureq`, as
//! in `RUST_LOG=trace,ureq=warn`.
//!
//! Failed requests can be kept for a look: [`save_failed`](crate::ApiClientBuilder::save_failed). They have prompts in them and no
//! credentials.
