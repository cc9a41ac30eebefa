//! Cancel a stream.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, Outcome, SamplingParams, StreamToken};
//! # use tokenwire::testing::{MockServer, Script};
//! # let first = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
//! # let silence = std::time::Duration::from_secs(60);
//! # let server = MockServer::scripted([Script::events([first]).hang(silence)])?;
//! # let url = server.url();
//!
//! let client = ApiClient::builder(url).build()?;
//! let (tokens, guard) = client.stream_completion(&[1, 2, 3], SamplingParams::default(), None)?;
//! assert!(matches!(tokens.recv(), Ok(StreamToken::Token { .. })));
//!
//! // A canceller works from any thread, for example from the thread of a signal handler.
//! let canceller = guard.canceller();
//! std::thread::spawn(move || canceller.cancel());
//!
//! assert!(tokens.recv().is_err(), "disconnected, without `Done` or `Error`");
//! assert_eq!(guard.join().ending, Outcome::Cancelled);
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! [`StreamGuard::cancel`](crate::StreamGuard::cancel) ends the stream at once and does not wait:
//!
//! - It shuts the socket down, even while a read or a write is blocked on the socket.
//! - The server notices that the connection is closed. vLLM and llama.cpp then stop generating.
//! - tokenwire sends nothing afterwards. The stream is neither retried nor resumed.
//! - The channel ends without `Done` and without `Error`. You can still read the tokens that are
//!   already in the channel.
//!
//! The command `cargo bench --features testing --bench cancel` measures how long a cancel takes.
//!
//! # Dropping
//!
//! | you drop | effect |
//! | --- | --- |
//! | [`StreamGuard`](crate::StreamGuard) | Cancels the stream and does not wait. If you have called [`on_drop(OnDrop::Join)`](crate::StreamGuard::on_drop), dropping the guard waits for the end of the stream instead. |
//! | the receiver | The stream ends at its next token, as [`Outcome::ConsumerGone`](crate::Outcome::ConsumerGone). While the server is silent, the stream continues until a timer ends it. Drop the guard to end the stream at once. |
//! | [`Canceller`](crate::Canceller) | Nothing happens. |
//! | [`PendingCompletion`](crate::PendingCompletion) | Cancels the request. |
//! | [`ParserHandle`](crate::ParserHandle) | The parser thread stops. The tree keeps everything that was parsed. |
//! | the last clone of an [`ApiClient`](crate::ApiClient) | Running streams continue. Idle threads and connections end. |
//!
//! Give the guard a name. `let (tokens, _) = client.stream(..)?` drops the guard at once. This
//! cancels the stream before it begins. `let (tokens, _guard) = ..` keeps the guard.
//!
//! # Joining
//!
//! [`StreamGuard::join`](crate::StreamGuard::join) waits for the end of the stream. You may call it
//! without reading the tokens: `join` removes the size limit of the channel, so the stream never
//! waits for a reader.
//!
//! # During a connect
//!
//! Nothing can interrupt a thread while the operating system connects. The channel still ends at
//! once. The thread ends at the latest when its connect timer expires, and it sends nothing.
