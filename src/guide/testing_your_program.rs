//! A server that does what you say, faults included: feature `testing`.
//!
//! ```toml
//! [dev-dependencies]
//! tokenwire = { version = "0.1", features = ["testing"] }
//! ```
//!
//! A [`Script`](crate::testing::script::Script) is one answer, a [`ServerKind`](crate::testing::server::ServerKind) gives them out and notes what it was asked:
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::testing::{Cut, Script, ServerKind};
//! use tokenwire::{ApiClient, ErrorKind, SamplingParams};
//!
//! /// The program under test.
//! fn greet(url: &str) -> Result<String, tokenwire::Error> {
//!     let client = ApiClient::builder(url).retries(1).build()?;
//!     let (tokens, guard) = client.stream_completion(&[1, 2, 3], SamplingParams::default().max_tokens(9), None)?;
//!     let text = tokens.iter().filter_map(|token| match token {
//!         tokenwire::StreamToken::Token { text, .. } => Some(text),
//!         _ => None,
//!     });
//!     let text = text.collect();
//!     guard.join().error.map_or(Ok(text), Err)
//! }
//!
//! // Busy, then well: it is asked twice.
//! let whole = Script::tokens([(9707, "Hello"), (13, ".")]);
//! let busy = Script::status(429).header("Retry-After", "0").json(r#"{"error":{"message":"busy"}}"#);
//! let server = MockServer::scripted([busy, whole.clone()])?;
//! assert_eq!(greet(&server.url())?, "Hello.");
//! assert_eq!(server.requests().len(), 2);
//! assert_eq!(server.requests()[1].json()["max_tokens"], 9);
//!
//! // Broken off behind 150 bytes.
//! let server = MockServer::scripted([whole.cut_at(150, Cut::Reset)])?;
//! assert_eq!(greet(&server.url()).unwrap_err().kind(), ErrorKind::Incomplete);
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! | you want | use |
//! | --- | --- |
//! | an answer that depends on the request | [`MockServer::start`](crate::testing::server::MockServer::start) with a function |
//! | a break at every byte | [`Script::cut_at`](crate::testing::script::Script::cut_at) in a loop over [`endpoint().len()`](crate::testing::script::Script::endpoint) |
//! | silence, slowness, a wait until the test says so | `hang`, `slowly`, `pause`, [`Gate`](crate::testing::gate::Gate) |
//! | bytes that are no HTTP | [`Script::raw`](crate::testing::script::Script::raw) |
//! | to see a cancel arrive | [`wait_for_disconnects`](crate::testing::server::ServerKind::wait_for_disconnects) |
//! | a model with the same answer to the same ids, for resumes | [`Model`](crate::testing::model::Model) |
//! | no sockets and no waits: a silence passes its timer at once | [`InMemory`](crate::client::http::memory::InMemory) |
//! | what a real server sent, with its timing | [`CompletionRequest::record`](crate::CompletionRequest::record), then [`replay`](crate::testing::replay()) |
//!
//! A recording has no credentials in it and can be committed.
