//! Decodes event data into tokens, usage, a finish reason or an error. Each endpoint has one file.
//!
//! ```text
//!               ┌──────────── not JSON: counted, skipped ────────────┐
//! event's data ─┤ "[DONE]" ──▶ Flow::Ended                           │
//!               └ JSON ──▶ Chunk (json.rs) ──▶ endpoint's read() ──▶ ChoiceDelta ──▶ tokens to the sink
//!                             │                                          └──▶ tally.rs: ids against counts
//!                             └──▶ error (server_error.rs) ──▶ Err: the stream is over
//! ```
//!
//! Most chunks take a shorter path (template.rs): they are compared with an earlier chunk, and only
//! the values that differ are read.
//!
//! The files in the order of their imports (a file imports only from earlier files): limits, value,
//! json; detect, delta, calls, tally; one file per endpoint; outline, template; decoder; answer.
//!
//! # How to add an endpoint
//!
//! Write a file that only returns the text, ids and finish reason of a chunk, as a `ChoiceDelta`.
//! Then add:
//!
//! 1. In `server`: a variant of [`Endpoint`](crate::Endpoint) in endpoint.rs, with its name, path
//!    and family, and its names for the sampling parameters in fields.rs. The compiler then reports
//!    every other `match` that needs the endpoint.
//! 2. In json.rs: the keys that no other endpoint has.
//! 3. In detect.rs: how a chunk identifies the endpoint (`detect_endpoint`;
//!    `endpoint_without_choices` for chunks without `choices`) and its server (`detect_server`).
//! 4. In decoder/read.rs: a line in `read_chunk`, or in `read_choices` if the chunks have
//!    `choices`.
//! 5. In `request`: a line in `Body::serialize` for the body, the unsupported features in
//!    `check_for`, and whether a stream can be resumed.
//! 6. Cases in `tests/data/chunk`.
//!
//! The decoder then parses the chunks of the endpoint one by one. To compare them with a template,
//! add the places of text, ids and counts to outline.rs, and add the endpoint to the `match` at the
//! end of `decode_open`.

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
