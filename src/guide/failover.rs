//! Use several servers: failover, weights and hedging.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use std::time::Duration;
//! use tokenwire::{ApiClient, RoutePolicy, SamplingParams};
//! # use tokenwire::testing::{MockServer, Script};
//! # let first = MockServer::scripted([Script::new().hang(Duration::from_secs(60))])?;
//! # let second = MockServer::scripted([Script::tokens([(9707, "Hello")])])?;
//! # let (first, second) = (first.url(), second.url());
//!
//! let mut routes = RoutePolicy::default();
//! routes.hedge_after = Some(Duration::from_millis(50));
//! let client = ApiClient::builder(first).base_url(second).routes(routes).build()?;
//! let (_tokens, guard) = client.stream_completion(&[1, 2, 3], SamplingParams::default(), None)?;
//!
//! // The first server is silent, so the second server gets the request too, and answers.
//! let report = guard.join();
//! assert_eq!((report.hedged, report.route), (true, 1));
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! # Failover
//!
//! Call [`base_url`](crate::ApiClientBuilder::base_url) once for each additional server. All
//! servers must serve the same model. A stream that fails at one server moves to another server
//! immediately:
//!
//! - before its first token, as a retry
//! - after its first token, as a [resume](super::resume), if you allow resumes
//!
//! Retries and resumes use the same budget of [retries](super::retries).
//!
//! # Which server a stream uses
//!
//! | [`Balance`](crate::Balance) | a new stream goes to |
//! | --- | --- |
//! | `InOrder`, the default | the first server that works |
//! | `Weighted` | a server chosen by weight. All requests of one [`session`](crate::CompletionRequest::session) go to the same server while this server works, because its cache contains their prefix. |
//!
//! A server that fails three times in a row gets no streams until a probe succeeds. See
//! [`RoutePolicy`](crate::RoutePolicy) for the settings.
//! [`StreamReport::route`](crate::StreamReport::route) and
//! [`StreamReport::failovers`](crate::StreamReport::failovers) report which server a stream used
//! last, and how often it moved.
//!
//! # Hedging
//!
//! [`RoutePolicy::hedge_after`](crate::RoutePolicy::hedge_after) shortens the longest waits for a
//! first token. If a stream has no token after the time `hedge_after`, tokenwire sends the request
//! a second time. The second request goes to another server if there is one. The first of the two
//! requests to produce a token wins, and tokenwire cancels the other request.
//! [`StreamReport::hedged`](crate::StreamReport::hedged) reports whether a second request was sent.
//!
//! Each second request makes a server compute the prompt again. Choose a time that few requests
//! exceed.
