//! Run many streams at once.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, CompletionRequest, Limits, fan_in};
//! # use tokenwire::testing::{MockServer, Script};
//! # let server = MockServer::start(|_| Script::tokens([(9707, "Hello"), (13, ".")]))?;
//! # let url = server.url();
//!
//! let mut limits = Limits::default();
//! limits.max_streams = 1000;
//! let client = ApiClient::builder(url).limits(limits).build()?;
//!
//! // One channel receives the tokens of all streams. Each token has the number of its stream.
//! let (channel, tokens) = fan_in();
//! let request = || CompletionRequest::ids([1, 2, 3]);
//! let guards = (0..20).map(|n| client.stream_into(request(), &channel, n));
//! let guards = guards.collect::<Result<Vec<_>, _>>()?;
//! drop(channel);
//!
//! // The end of a stream is an item without a token.
//! let ended = tokens.iter().filter(|tagged| tagged.token.is_none()).count();
//! assert_eq!(ended, guards.len());
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! Use one client for the whole program. Its clones share threads, connections and the budget of
//! retries.
//!
//! | setting | default | effect |
//! | --- | --- | --- |
//! | [`Limits::max_streams`](crate::Limits::max_streams) | 256 | the number of streams that run at once |
//! | [`WhenFull`](crate::WhenFull) | `Wait` | whether further streams wait for their turn or fail at once |
//!
//! Each running stream has a thread, because its reads block, and it has its own buffers. The page
//! `docs/peers.md` in the repository shows the cost of a thousand streams.
//!
//! You can wait for many streams in three ways:
//!
//! - [`fan_in`](crate::fan_in()): one channel for all streams, as above.
//! - `select!` or `Select` from [crossbeam-channel](crate::crossbeam_channel): one receiver for
//!   each stream.
//! - Threads: your program starts one thread for each stream.
