//! Test your program without a model server.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::testing::{Cut, MockServer, Script};
//! use tokenwire::{ApiClient, ErrorKind, SamplingParams, StreamToken};
//!
//! /// The program under test.
//! fn greet(url: &str) -> Result<String, tokenwire::Error> {
//!     let client = ApiClient::builder(url).retries(1).build()?;
//!     let params = SamplingParams::default().max_tokens(9);
//!     let (tokens, guard) = client.stream_completion(&[1, 2, 3], params, None)?;
//!     let text = tokens.iter().filter_map(|token| match token {
//!         StreamToken::Token { text, .. } => Some(text),
//!         _ => None,
//!     });
//!     let text = text.collect();
//!     guard.join().error.map_or(Ok(text), Err)
//! }
//!
//! // The server is busy at first. The second request succeeds.
//! let whole = Script::tokens([(9707, "Hello"), (13, ".")]);
//! let busy = r#"{"error":{"message":"busy"}}"#;
//! let busy = Script::status(429).header("Retry-After", "0").json(busy);
//! let server = MockServer::scripted([busy, whole.clone()])?;
//! assert_eq!(greet(&server.url())?, "Hello.");
//! assert_eq!(server.requests().len(), 2);
//! assert_eq!(server.requests()[1].json()["max_tokens"], 9);
//!
//! // The connection is reset after 150 bytes.
//! let server = MockServer::scripted([whole.cut_at(150, Cut::Reset)])?;
//! assert_eq!(greet(&server.url()).unwrap_err().kind(), ErrorKind::Incomplete);
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! Enable the feature `testing` for your tests:
//!
//! ```toml
//! [dev-dependencies]
//! tokenwire = { path = "../tokenwire", features = ["testing"] }
//! ```
//!
//! A [`Script`](crate::testing::Script) is one answer, which may contain faults. A
//! [`MockServer`](crate::testing::MockServer) sends the scripts over a real socket and keeps the
//! requests that it received.
//!
//! | you want | use |
//! | --- | --- |
//! | an answer that depends on the request | [`MockServer::start`](crate::testing::MockServer::start) with a function |
//! | a connection that breaks at each possible byte | [`Script::cut_at`](crate::testing::Script::cut_at) in a loop over the length of [`wire()`](crate::testing::Script::wire) |
//! | silence, a slow server, or a wait until the test continues | [`hang`](crate::testing::Script::hang), [`slowly`](crate::testing::Script::slowly), [`pause`](crate::testing::Script::pause), [`Gate`](crate::testing::Gate) |
//! | bytes that are not HTTP | [`Script::raw`](crate::testing::Script::raw) |
//! | to check that the server notices a cancel | [`wait_for_disconnects`](crate::testing::MockServer::wait_for_disconnects) |
//! | a model that gives the same answer to the same ids, for resumes | [`FakeModel`](crate::testing::FakeModel) |
//! | no sockets and no waiting: during a silence, the timer expires at once | [`InMemory`](crate::testing::InMemory) |
//! | the bytes and the timing of a real server | [`CompletionRequest::record`](crate::CompletionRequest::record), then [`replay`](crate::testing::replay()) |
//!
//! A recording contains no credentials, so you can commit it.
