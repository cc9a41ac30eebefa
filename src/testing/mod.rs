//! A scripted HTTP/1.1 server on this machine, to test your program against.
//!
//! This module needs the feature `testing`. Its main types:
//!
//! - A [`Script`] defines the response to one request, byte by byte if necessary: writes, pauses,
//!   waits, disconnects, and correct or wrong framing.
//! - A [`MockServer`] listens on 127.0.0.1, on a free port by default. It answers each request with
//!   its script, and records the requests and the disconnects of clients.
//!
//! The server does not correct a script, so a fault in the script reaches the client unchanged.
//!
//! ```
//! use tokenwire::testing::{Script, MockServer};
//!
//! let server = MockServer::scripted([
//!     Script::status(429).header("Retry-After", "1").json(r#"{"error":{"message":"busy"}}"#),
//!     Script::tokens([(9707, "Hello"), (1879, " world")]),
//! ])?;
//! let ask = || {
//!     let config = ureq::config::Config::builder().http_status_as_error(false).build();
//!     let agent = ureq::Agent::new_with_config(config);
//!     agent.post(format!("{}/v1/completions", server.url())).send(r#"{"prompt":"Say hello"}"#)
//! };
//!
//! let busy = ask()?;
//! assert_eq!((busy.status().as_u16(), &busy.headers()["retry-after"]), (429, &"1".parse()?));
//!
//! let body = ask()?.into_body().read_to_string()?;
//! assert!(body.starts_with("data: {") && body.ends_with("data: [DONE]\n\n"));
//! assert_eq!(server.requests()[1].json()["prompt"], "Say hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! To add a fault, call one more method. The following server resets the connection after 0 bytes
//! of its first response, after 1 byte of its second response, and so on:
//!
//! ```
//! use tokenwire::testing::{Cut, Script, MockServer};
//!
//! let whole = Script::tokens([(9707, "Hello"), (1879, " world")]);
//! let cuts = (0..whole.wire().len()).map(|n| whole.clone().cut_at(n, Cut::Reset));
//! let server = MockServer::scripted(cuts)?;
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! Other tools:
//!
//! - A [`FakeModel`] always gives the same answer to the same ids. Use it to test resumes.
//! - [`replay()`] serves a recorded exchange with the recorded timing. [`Script::replay`] can
//!   change the timing.
//! - [`MockServer::start_tls`] starts a server that uses TLS.
//! - [`ServerBuilder`] has the settings of the whole server, such as its address and its behaviour
//!   when it accepts a connection.
//! - [`InMemory`] is a server that uses no sockets and never waits. If this server is silent, the
//!   client's timer expires at once.
//!
//! # Errors and limits
//!
//! If a connection breaks or does not send HTTP, only this connection ends. Other connections are
//! not affected. The server answers some requests with an error status:
//!
//! | request | status |
//! | --- | --- |
//! | not HTTP | 400 |
//! | the head is larger than [`MAX_REQUEST_HEAD_BYTES`] | 431 |
//! | the body is larger than [`MAX_REQUEST_BODY_BYTES`] | 413 |
//!
//! Each connection has a thread. Dropping the server closes all connections and joins all threads.
//! The drop waits only for handlers that are still running.

mod connection;
pub(crate) mod fake_model;
pub(crate) mod gate;
pub(crate) mod mock_server;
mod plan;
pub(crate) mod replay;
pub(crate) mod script;
mod state;
mod tls;

pub use self::connection::{MAX_REQUEST_BODY_BYTES, MAX_REQUEST_HEAD_BYTES};
pub use self::fake_model::FakeModel;
pub use self::gate::Gate;
pub use self::mock_server::{BACKLOG, MockServer, ServerBuilder};
pub use self::plan::MAX_WIRE_BYTES;
pub use self::replay::replay;
pub use self::script::{Cut, Framing, Script};
pub use self::state::{Disconnect, MAX_RECORDS, MAX_REQUEST_BYTES_KEPT, OnAccept};
pub use self::tls::TlsIdentity;
pub use crate::client::http::memory::{InMemory, Sent};
pub use crate::recording::Request;

/// Returns the time that a client with this policy waits after a 503 with these headers.
///
/// A property test of the code that reads these headers uses this function.
#[doc(hidden)]
#[must_use]
pub fn wait_of_an_overloaded_server(
    policy: &crate::client::policy::retry::RetryPolicy,
    headers: &[(&str, &str)],
    now: std::time::SystemTime,
) -> std::time::Duration {
    let header = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let error =
        crate::error::Error::server(crate::error::ServerError { status: Some(503), ..Default::default() });
    policy.wait(&error, crate::client::policy::retry::Advice::of(header, now), 0, 1.0).unwrap_or_default()
}
