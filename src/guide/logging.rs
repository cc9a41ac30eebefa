//! Log and trace requests.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, CompletionRequest};
//! # use tokenwire::testing::{MockServer, Script};
//! # let server = MockServer::scripted([Script::tokens([(9707, "Hello")])])?;
//! # let url = server.url();
//!
//! let client = ApiClient::builder(url).request_ids("rollout").build()?;
//! let request = CompletionRequest::ids([1, 2, 3])
//!     .traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
//! let (_tokens, guard) = client.stream(request)?;
//! let report = guard.join();
//! println!("first token after {:?}, {} retries", report.first_token, report.retries);
//! # assert!(server.requests()[0].header("x-request-id").unwrap().starts_with("rollout-"));
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! With [`request_ids`](crate::ApiClientBuilder::request_ids), each request has an `x-request-id`
//! header that begins with your prefix, so you can find the request in the server's log. A retry or
//! a resume uses the same id with the suffix `-1`, `-2` and so on. `traceparent` connects the
//! request to your trace.
//!
//! # One stream
//!
//! You do not need a log to examine one stream. Its [`StreamReport`](crate::StreamReport) contains:
//!
//! - the outcome
//! - the times to the head of the response, to the first token and to the last token
//! - percentiles of the time between tokens
//! - retries and resumes
//! - the server's request id
//!
//! An [`Error`](crate::Error) also contains the request id and the number of tokens that arrived.
//! [`save_failed`](crate::ApiClientBuilder::save_failed) saves failed requests in files. These
//! files contain prompts but no credentials.
//!
//! # The log
//!
//! tokenwire uses the crate `log`. All its targets begin with `tokenwire`.
//!
//! | level | content |
//! | --- | --- |
//! | warn | problems that an operator must know about |
//! | debug | sizes, statuses, times and outcomes |
//! | trace | the beginning of the first event that is not JSON; this may be text of an answer |
//!
//! The [front page](crate#logging) has the details. Prompts are not logged at any level. Text of an
//! answer is logged only at trace level, as the table shows. tokenwire never logs API keys of at
//! least 8 characters.
//!
//! ureq and rustls have their own log lines. At debug level, ureq logs some response headers. At
//! trace level, it logs all bytes of the traffic. If a server sends your key back, these lines may
//! contain the key. Filter the target `ureq`, for example with `RUST_LOG=trace,ureq=warn`.
