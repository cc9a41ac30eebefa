//! Port a program from async-openai.
//!
//! ```text
//! async-openai                                    tokenwire
//!
//! #[tokio::main]                                  fn main() -> Result<(), tokenwire::Error> {
//! async fn main() -> Result<..> {
//!   let config = OpenAIConfig::new()                let client = ApiClient::builder(url)
//!     .with_api_base(url).with_api_key(key);           .api_key(key).build()?;
//!   let client = Client::with_config(config);
//!   let request =                                   let request =
//!     CreateChatCompletionRequestArgs                 CompletionRequest::messages([
//!     ::default().model(..).messages([..])              Message::user("Say hello."),
//!     .build()?;                                      ]).model("my-model");
//!   let mut stream = client.chat()                  let (tokens, guard) =
//!     .create_stream(request).await?;                 client.stream(request)?;
//!   while let Some(result) =                        for token in &tokens {
//!     stream.next().await {
//!     let delta = &result?.choices[0].delta;          ..
//!   }                                               }
//! ```
//!
//! | async-openai | tokenwire |
//! | --- | --- |
//! | a task for each stream | a thread for each stream; the thread belongs to a pool of limited size |
//! | `tokio::select!` over streams | crossbeam's `select!` over receivers, or [`fan_in`](crate::fan_in()) |
//! | dropping the stream | dropping the guard, which shuts the socket down at once |
//! | `tokio::time::timeout(..)` around `next()` | [`Timeouts`](crate::Timeouts), one timer for each kind of wait |
//! | `backoff` inside the client | [`RetryPolicy`](crate::RetryPolicy), with one budget for all streams |
//! | `create_stream_byot` for fields that the types do not have | `.extra(key, value)` in the request; tokenwire reads the ids, reasoning and usage of all known servers |
//! | `OpenAIError::StreamError` | [`Error`](crate::Error) with its kind, its progress and the request id |
//!
//! # Several streams
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::crossbeam_channel::Select;
//! use tokenwire::{ApiClient, CompletionRequest, StreamToken};
//! # use tokenwire::testing::{MockServer, Script};
//! # let server = MockServer::start(|_| Script::tokens([(9707, "Hello"), (13, ".")]))?;
//! # let url = server.url();
//!
//! let client = ApiClient::builder(url).build()?;
//! let streams = (0..3).map(|_| client.stream(CompletionRequest::text("Say hello.")));
//! let streams = streams.collect::<Result<Vec<_>, _>>()?;
//! let (receivers, guards): (Vec<_>, Vec<_>) = streams.into_iter().unzip();
//! let mut select = Select::new();
//! receivers.iter().for_each(|receiver| drop(select.recv(receiver)));
//! let mut done = 0;
//! while done < receivers.len() {
//!     let ready = select.select();
//!     let n = ready.index();
//!     match ready.recv(&receivers[n]) {
//!         Ok(StreamToken::Token { text, .. }) => println!("{n}: {text}"),
//!         Ok(_) => {}
//!         Err(_) => {
//!             select.remove(n);
//!             done += 1;
//!         }
//!     }
//! }
//! drop(guards);
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! # Programs that stay async
//!
//! Read the receiver in a blocking task (`spawn_blocking`). The task sends the tokens to your async
//! code.
