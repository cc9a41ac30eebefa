//! How a stream is ended from outside, and what dropping each thing does.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, Outcome, SamplingParams, StreamToken};
//! # use tokenwire::testing::{Script, ServerKind};
//! # let first = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
//! # let server = MockServer::scripted([Script::events([first]).hang(std::time::Duration::from_secs(60))])?;
//! # let url = server.url();
//!
//! let client = ApiClient::builder(url).build()?;
//! let (tokens, guard) = client.stream_completion(&[1, 2, 3], SamplingParams::default(), None)?;
//! assert!(matches!(tokens.recv(), Ok(StreamToken::Token { .. })));
//!
//! // From anywhere: another thread, the thread of a signal handler.
//! let canceller = guard.canceller();
//! std::thread::spawn(move || canceller.cancel());
//!
//! assert!(tokens.recv().is_err(), "disconnected, with neither `Done` nor `Error`");
//! assert_eq!(guard.join().ending, Outcome::Cancelled);
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! A cancel shuts the socket down under whatever read or write is blocked on it; it does not wait for anything. The server sees the
//! connection close, which is how vLLM and llama.cpp notice that nobody wants the rest. Nothing is sent afterwards: no retry, no
//! resume. Tokens that are in the channel stay readable.
//!
//! | what you drop | what happens |
//! | --- | --- |
//! | [`StreamGuard`](crate::StreamGuard) | cancels, now, waiting for nothing; after [`on_drop(OnDrop::Join)`](crate::StreamGuard::on_drop) it waits for the end |
//! | the receiver | the stream ends with its next token ([`Outcome::ConsumerGone`](crate::Outcome::ConsumerGone)): a reader that is blocked on a silent server does not see it before its timer. Drop the guard to end it now |
//! | [`Canceller`](crate::Canceller) | nothing |
//! | [`PendingCompletion`](crate::PendingCompletion) | cancels |
//! | [`ParserHandle`](crate::ParserHandle) | the parser's thread stops, what was parsed stays in the tree |
//! | [`ApiClient`](crate::ApiClient), the last clone | running streams go on, idle threads and connections end |
//!
//! A guard that is not bound to a name is dropped at once: `let (tokens, _) = client.stream(..)?` is a stream that is cancelled
//! before it begins. `let (tokens, _guard) = ..` keeps it.
//!
//! Joining without reading is safe: [`join`](crate::StreamGuard::join) takes the channel's bound away, so that the stream cannot wait for a
//! reader that is not there.
//!
//! Inside the operating system's connect a thread cannot be interrupted. The stream ends for its consumer at once all the same, the
//! thread when its connect timer passes, and it sends nothing.
//!
//! How fast a cancel is: `cargo bench --features testing --bench cancel`.
