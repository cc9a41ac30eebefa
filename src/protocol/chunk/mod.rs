//! Event data to tokens, usage, finish reason, or error: one file per endpoint.
//!
//! ```text
//!               ┌──────────── not JSON: counted, skipped ────────────┐
//! event's data ─┤ "[DONE]" ──▶ Flow::Ended                           │
//!               └ JSON ──▶ Chunk (json.rs) ──▶ endpoint's read() ──▶ ChoiceDelta ──▶ tokens to the sink
//!                             │                                          └──▶ tally.rs: ids against counts
//!                             └──▶ error (server_error.rs) ──▶ Err: the stream is over
//! ```
//!
//! Most chunks take a shorter way: they are compared with an earlier one, and only the values that differ are read
//! (template.rs).
//!
//! The files in the order of their imports, each importing only from those before it: limits, value, json; detect, delta, calls,
//! tally; one file per endpoint; outline, template; decoder; answer.
//!
//! # A new endpoint
//!
//! Its file returns the text, ids and finish reason of a chunk as a `ChoiceDelta`, and does nothing else. Besides the file:
//!
//! 1. In `server`: a variant of [`Endpoint`](crate::Endpoint) in endpoint.rs with its name, path and family, and what it calls the sampling parameters in
//!    fields.rs. The compiler asks for the rest of what depends on the endpoint.
//! 2. In json.rs: the keys that no other endpoint has.
//! 3. In detect.rs: how a chunk gives the endpoint away (`detect_endpoint`; for chunks without `choices`,
//!    `endpoint_without_choices`) and its server (`detect_server`).
//! 4. In decoder/read.rs: a line in `read_chunk`, or in `read_choices` if its chunks have `choices`.
//! 5. In `request`: the body, a line in `Body::serialize`; what it refuses, in `check_for`; whether it can be resumed.
//! 6. Cases in `tests/data/chunk`.
//!
//! Its chunks are then parsed one by one. To have them compared with a template, tell outline.rs where its text, ids and counts
//! are, and add the endpoint to the `match` at the end of `decode_open`.

pub(crate) mod answer;
pub(crate) mod body;
mod calls;
mod chat;
pub(crate) mod decoder;
mod delta;
mod detect;
mod json;
pub(crate) mod limits;
mod llamacpp;
mod openai;
mod outline;
pub(crate) mod server_error;
mod sglang;
mod tally;
mod template;
mod tgi;
mod value;
mod vllm_generate;
