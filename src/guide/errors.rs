//! Handle errors.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, CompletionRequest, ErrorKind, StreamToken};
//! # use tokenwire::testing::{Cut, MockServer, Script};
//! # let whole = Script::tokens([(9707, "Hello"), (13, ".")]);
//! # let server = MockServer::scripted([whole.cut_at(600, Cut::Reset)])?;
//! # let url = server.url();
//!
//! let client = ApiClient::builder(url).build()?;
//! let (tokens, _guard) = client.stream(CompletionRequest::text("Say hello."))?;
//! for token in &tokens {
//!     match token {
//!         StreamToken::Token { text, .. } => println!("{text}"),
//!         StreamToken::Done { finish, .. } => println!("complete: {finish:?}"),
//!         StreamToken::Error(error) => match error.kind() {
//!             ErrorKind::Refused | ErrorKind::Connect => println!("is the server running?"),
//!             ErrorKind::Timeout(timer) => println!("the server is slow or gone: {timer}"),
//!             ErrorKind::Incomplete => println!("the connection ended too early: {error}"),
//!             ErrorKind::Server if error.status() == Some(429) => println!("the server is busy"),
//!             _ if error.is_retryable() => println!("try again later: {error}"),
//!             _ => println!("failed: {error}"),
//!         },
//!         _ => {}
//!     }
//! }
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! Every stream ends in exactly one way:
//!
//! | last item | meaning |
//! | --- | --- |
//! | `StreamToken::Done` | The answer is complete: the finish reason or the terminator arrived. |
//! | `StreamToken::Error` | The stream failed. The channel contains all tokens that arrived, and then the error. |
//! | neither | The stream was cancelled. |
//!
//! The page [`faults`](crate::faults) lists every tested fault, and how the stream ends after it.
//! Each fault was tested over plain HTTP and over TLS.
//!
//! # Contents of an error
//!
//! | method | returns |
//! | --- | --- |
//! | [`kind`](crate::Error::kind) | the kind of failure, for example `refused`, `connect`, `timeout`, `incomplete`, `server`, `not_event_stream`, `protocol` or `limit` |
//! | [`progress`](crate::Error::progress) | the number of bytes, events and tokens that arrived before the failure, and the elapsed time |
//! | [`request_id`](crate::Error::request_id) | the server's id of the request; with this id, you find the request in the server's log |
//! | [`status`](crate::Error::status) | the HTTP status, or the status of an error inside the stream |
//! | [`server_error`](crate::Error::server_error) | the server's own message, type, code and parameter; tokenwire reads all known formats |
//! | [`is_timeout`](crate::Error::is_timeout), [`is_connect`](crate::Error::is_connect), [`is_retryable`](crate::Error::is_retryable) | whether a timer expired, whether nothing was sent, whether a retry may help |
//!
//! API keys of at least 8 characters never appear in errors, `Debug` output or logs of tokenwire.
//!
//! # Errors before the stream
//!
//! [`ApiClient::stream`](crate::ApiClient::stream) itself returns an error if the request cannot be
//! sent. Examples are an empty prompt, or a field that the known server would ignore. Later
//! failures arrive in the channel.
//!
//! # Failed requests on disk
//!
//! [`save_failed(folder)`](crate::ApiClientBuilder::save_failed) saves every failed request in a
//! file, without credentials. [`ApiClient::resend`](crate::ApiClient::resend) sends such a request
//! again. The files contain prompts.
