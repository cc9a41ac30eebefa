//! Use a router in front of your servers.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, CompletionRequest};
//! # use tokenwire::testing::{MockServer, Script};
//! # let server = MockServer::scripted([Script::tokens([(9707, "Hello")])])?;
//! # let url = server.url();
//!
//! let client = ApiClient::builder(url)
//!     .session_headers(["x-session-id"]) // for vllm-router with the policy `consistent_hash`
//!     .resumes(3)
//!     .build()?;
//! let (_tokens, guard) = client.stream(CompletionRequest::ids([1, 2, 3]).session("user-17"))?;
//! guard.join();
//! # assert_eq!(server.requests()[0].header("x-session-id"), Some("user-17"));
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! | you want | set |
//! | --- | --- |
//! | requests of one conversation at the same worker, for its prefix cache | [`CompletionRequest::session`](crate::CompletionRequest::session). The default header is `x-session-affinity`; [`session_headers`](crate::ApiClientBuilder::session_headers) changes it. |
//! | urgent requests earlier than other requests | [`CompletionRequest::priority`](crate::CompletionRequest::priority); a request with a lower number is served earlier. tokenwire sends the number in the body, for vLLM with `--scheduling-policy priority`. [`priority_header`](crate::ApiClientBuilder::priority_header) sends the number in a header instead. |
//! | to survive the death of a worker | [`resumes`](crate::ApiClientBuilder::resumes). Without resumes, the stream ends as `Incomplete`. |
//! | few additional requests during an outage | nothing. Each client has one budget of retries. The router may add its own retries. |
//!
//! A router may lose the last tokens of a worker that dies. A resume requests these tokens again.
//!
//! # What was tested
//!
//! | test | file |
//! | --- | --- |
//! | vllm-router 0.1.17 in front of two scripted workers: ids, headers, sessions, cancel, unusual error bodies, a worker that is killed while it runs 64 streams, a total outage | `tests/router_live.rs`, in `.ci/run` |
//! | two llama.cpp servers, one of which is killed while it runs 16 streams | `tests/resume_live.rs`, in `.ci/run` |
//! | order, weights, sessions, breaker, probe | `tests/failover.rs` |
//! | many streams at once, with faults, for a long time | `tests/soak` |
//! | Kubernetes, other routers, several machines | not tested |
