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
//! Most chunks are read in a faster way (template.rs). The decoder compares the chunk with an
//! earlier chunk, and reads only the values that differ.
//!
//! Each file imports only from earlier files in this order: limits, value, json; detect, delta,
//! calls, tally; one file per endpoint; outline, template; decoder; answer.
//!
//! # How to add an endpoint
//!
//! Write a file that only returns the text, ids and finish reason of a chunk, as a `ChoiceDelta`.
//! Then add:
//!
//! 1. In `server`: a variant of [`Endpoint`](crate::Endpoint) in endpoint.rs, with its name, path
//!    and family. Add its names for the sampling parameters in fields.rs. The compiler then reports
//!    every other `match` that needs the new endpoint.
//! 2. In json.rs: the keys that only this endpoint has.
//! 3. In detect.rs: code that detects the endpoint of a chunk in `detect_endpoint`, or in
//!    `endpoint_without_choices` for chunks without `choices`. Add code that detects the server in
//!    `detect_server`.
//! 4. In decoder/read.rs: a line in `read_chunk`, or in `read_choices` if the chunks have
//!    `choices`.
//! 5. In `request`: a line in `Body::serialize` for the body, the unsupported features in
//!    `check_for`, and the rules for resuming in resume.rs.
//! 6. In `tests/data/chunk`: test cases.
//!
//! The decoder then parses the chunks of the endpoint one by one. To make templates work for the
//! endpoint, add the keys of its text, ids and counts to outline.rs. Then add the endpoint to the
//! `match` at the end of `decode_open`.

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
