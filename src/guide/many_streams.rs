//! Many streams in one program, many machines behind one address.
//!
//! # In one program
//!
//! Each running stream has a thread and its buffers, which is what blocking reads cost. A client runs 256 at a time
//! ([`max_streams`](crate::Limits::max_streams)); more wait for their turn, or fail, as you say ([`WhenFull`](crate::WhenFull)). One
//! client for all: its clones share threads, connections and the budget of retries.
//!
//! One consumer for all of them, by [`fan_in`](crate::fan_in()):
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, CompletionRequest, Limits, fan_in};
//! # use tokenwire::testing::{Script, ServerKind};
//! # let server = MockServer::start(|_| Script::tokens([(9707, "Hello"), (13, ".")]))?;
//! # let url = server.url();
//!
//! let mut limits = Limits::default();
//! limits.max_streams = 1000;
//! let client = ApiClient::builder(url).limits(limits).build()?;
//! let (channel, tokens) = fan_in();
//! let guards = (0..20).map(|n| client.stream_into(CompletionRequest::ids([1, 2, 3]), &channel, n));
//! let guards = guards.collect::<Result<Vec<_>, _>>()?;
//! drop(channel);
//! let ended = tokens.iter().filter(|tagged| tagged.token.is_none()).count();
//! assert_eq!(ended, guards.len());
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! `docs/peers.md` has what a thousand streams cost.
//!
//! # Behind a router
//!
//! | matter | what to say |
//! | --- | --- |
//! | the prefix cache | [`CompletionRequest::session`](crate::CompletionRequest::session) names the talk; the header is `x-session-affinity` unless [`session_headers`](crate::ApiClientBuilder::session_headers) says otherwise: `x-session-id` for vllm-router with `consistent_hash` |
//! | urgent before patient | [`CompletionRequest::priority`](crate::CompletionRequest::priority), lower is earlier, in the body (vLLM with `--scheduling-policy priority`) or, with [`priority_header`](crate::ApiClientBuilder::priority_header), in a header |
//! | an outage | one budget of retries for each process; the routers' own retries come on top |
//! | a worker that dies | the stream ends as `Incomplete`, and goes on with [`resumes`](crate::ApiClientBuilder::resumes) |
//!
//! # What was tried
//!
//! | what | where |
//! | --- | --- |
//! | vllm-router 0.1.17 in front of two scripted workers: ids, headers, sessions, cancel, odd error bodies, a worker killed under 64 streams, a total outage | `tests/router_live.rs`, in `.ci/run` |
//! | two llama.cpp servers, one killed under 16 streams | `tests/resume_live.rs`, in `.ci/run` |
//! | order, weights, sessions, breaker, probe | `tests/failover.rs` |
//! | many streams at once, with faults, for long | `tests/soak.rs` |
//! | Kubernetes, other routers, several machines | not tried |
//!
//! A worker's last tokens before its death may be lost inside a router; a resume asks for them again.
