//! A scripted HTTP/1.1 server on this machine, to test programs against: feature `testing`.
//!
//! A [`Script`] says what one request gets, byte by byte if need be: writes, pauses, waits, hang-ups,
//! right and wrong framings. A [`MockServer`] listens on 127.0.0.1, on a port of its own unless told
//! otherwise, gives each request its script, and notes what it received and when its clients left. It
//! does no more than it is told: a fault in a script reaches the client as it stands there.
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
//! A fault is a word more. A stream that breaks off after every byte, in turn, with a reset:
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
//! What a resumed stream must come to, a [`FakeModel`] knows: it answers any ids, always the same way.
//!
//! A recorded exchange is served with its own timing by [`replay()`], or by [`Script::replay`] at
//! another pace. Over TLS it is the same with [`MockServer::start_tls`]; what only makes sense for a whole
//! server (address, what happens on accept) is in [`ServerBuilder`].
//!
//! Without sockets and waits, a silence passing its timer at once, it is [`InMemory`].
//!
//! # What goes wrong, and limits
//!
//! A connection that breaks, or that sends what is no HTTP, ends by itself and touches no other. A
//! request with a head over [`MAX_REQUEST_HEAD_BYTES`] gets 431, with a body over
//! [`MAX_REQUEST_BODY_BYTES`] 413, what is no request 400. Each connection has a thread. Dropping the
//! server closes every connection and joins every thread; it waits for nothing but a handler of yours
//! that is still running.

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

/// How long a client of this policy waits after a 503 with these headers; for the property of the header's reader.
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
