//! Requests and responses as values. The code uses no socket, clock, thread or file.
//!
//! ```text
//! server ─▶ request (values -> JSON body)
//!   └─────▶ chunk (events -> tokens) ◀── sse (bytes -> events)
//! ```

pub(crate) mod chunk;
pub(crate) mod request;
pub(crate) mod server;
pub(crate) mod sse;
