//! Streams tokens from OpenAI-compatible servers such as vLLM and llama.cpp, without async.
//!
//! tokenwire is a blocking client. It keeps the token ids that the server generated, and it reports
//! how each stream ended. A stream consists of a thread, a channel and a guard, and it needs no
//! async runtime.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! use tokenwire::{ApiClient, SamplingParams, StreamToken};
//! # let server = tokenwire::testing::MockServer::scripted([tokenwire::testing::Script::tokens([(9707, "Hello"), (13, ".")])])?;
//! # let url = server.url(); /*
//! let url = "http://127.0.0.1:8000/v1";
//! # */
//!
//! let client = ApiClient::builder(url).build()?;
//! let (tokens, guard) = client.stream_completion(&[785, 6722], SamplingParams::default(), None)?;
//! for token in &tokens {
//!     match token {
//!         StreamToken::Token { text, id } => println!("{text:?} {id:?}"),
//!         StreamToken::Done { finish, .. } => println!("done: {finish:?}"),
//!         StreamToken::Error(error) => println!("failed: {error}"),
//!         _ => {}
//!     }
//! }
//! let report = guard.join();
//! assert!(report.ids_exact.is_exact());
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! # Overview
//!
//! A request and its stream:
//!
//! ```text
//! prompt ids ─request─▶ JSON ─http─▶ bytes ─sse─▶ events ─chunk─▶ tokens ─stream─▶ channel ─▶ you
//!                              ▲
//!                            guard (cancel or join)
//! ```
//!
//! The response parser and your tools, if you use them:
//!
//! ```text
//! channel ─▶ parser ─▶ tree ───────────────────────────────────┬─▶ ids of the next prompt
//!               └────▶ complete calls ─▶ your tools ─▶ results ┘
//! ```
//!
//! Requests and streams:
//!
//! | item | use |
//! | --- | --- |
//! | [`ApiClient`] | the client for a server; build it once and clone it |
//! | [`CompletionRequest`], [`SamplingParams`] | the prompt and the settings of a request |
//! | [`StreamToken`] | an item of a stream; the channel is a crossbeam receiver, so `select!` works over many streams |
//! | [`StreamGuard`] | controls a stream: dropping it cancels the stream, [`join`](StreamGuard::join) waits for the end |
//! | [`Canceller`] | cancels a stream from another thread |
//! | [`StreamReport`] | what arrived, how fast, and how the stream ended |
//! | [`IdsExact`] | whether all ids arrived, or the reason why ids are missing |
//! | [`fan_in()`], [`recv_many()`] | `fan_in` makes one receiver for many streams; `recv_many` takes many tokens at a time |
//! | [`complete`](ApiClient::complete), [`PendingCompletion`] | request the whole answer in one piece; only this returns all ids from llama.cpp |
//! | [`server`](ApiClient::server), [`models`](ApiClient::models) | `server` detects the server; `models` lists its models |
//! | [`tokenize`](ApiClient::tokenize), [`detokenize`](ApiClient::detokenize) | use the server's tokenizer |
//!
//! Answers, tools and prompts:
//!
//! | item | use |
//! | --- | --- |
//! | [`ResponseParser`] | parses tokens as they arrive into a tree of reasoning, content and tool calls |
//! | [`Branch`], [`Leaf`] | the tree; each leaf has its text and its ids |
//! | [`PendingToolCall`] | a complete tool call, delivered while the model is still writing |
//! | [`Dialect`] | how a family of models writes reasoning and calls; you can load your own from JSON |
//! | [`Context`], [`ChatFormat`] | keep the turns of a conversation, and make the ids of the next prompt from the ids received |
//! | [`Turn`], [`Tools`] | the loop of prompt, answer and tool results; the tools are plain functions |
//!
//! Errors and policies:
//!
//! | item | use |
//! | --- | --- |
//! | [`Error`], [`ErrorKind`] | the error type, and the kind to branch on |
//! | [`Timeouts`], [`Limits`] | every wait and every buffer, with its default; a few limits are constants, such as [`MAX_CHOICES`] |
//! | [`RetryPolicy`], [`ResumePolicy`], [`RoutePolicy`] | when a request is sent again, and to which server |
//!
//! Parts that you can use separately:
//!
//! | item | use |
//! | --- | --- |
//! | [`SseParser`] | converts bytes to events |
//! | [`ChunkDecoder`] | converts events to tokens |
//! | [`BodyDecoder`] | converts a whole body to tokens |
//! | [`HttpClient`], [`SseReader`] | `HttpClient` sends a request; `SseReader` reads the response as JSON events |
#![cfg_attr(feature = "tokenizer", doc = "| [`Tokenizer`] | text to ids, and ids to text |")]
#![cfg_attr(
    not(feature = "tokenizer"),
    doc = "| `Tokenizer` (feature `tokenizer`) | text to ids, and ids to text |"
)]
//! | [`recording`] | a recorded exchange with a server |
#![cfg_attr(feature = "testing", doc = "| [`testing`] | a scripted server for your tests |")]
#![cfg_attr(
    not(feature = "testing"),
    doc = "| `testing` (feature `testing`) | a scripted server for your tests |"
)]
//!
//! The [`guide`] answers one question on each page, for example how to set timeouts or cancel a
//! stream. The page [`servers`] shows what each server and endpoint returns, and how it was tested.
//!
//! # How a stream ends
//!
//! A stream ends in exactly one of these ways. A stream is complete only if a finish reason or the
//! terminator arrived. The end of the bytes alone does not make a stream complete. Tokens that
//! arrived earlier stay in the channel, ahead of the last item.
//!
//! | ending | cause | last item in the channel |
//! | --- | --- | --- |
//! | complete | a finish reason, or the terminator (`[DONE]`, `"stop": true`); after the finish reason, the stream waits up to [`after_finish`](Timeouts::after_finish) for the rest | `Done` |
//! | cancelled | your program cancelled the stream, even if a read has just returned data | none: the channel is disconnected |
//! | server error | a status other than 2xx, or an error inside the stream | `Error`, [`Server`](ErrorKind::Server) |
//! | no first token | the timer [`first_token`](Timeouts::first_token) expired | `Error`, [`Timeout`](ErrorKind::Timeout) |
//! | silence | the timer [`chunk`](Timeouts::chunk) (no bytes) or [`content`](Timeouts::content) (no event) expired | `Error`, [`Timeout`](ErrorKind::Timeout) |
//! | deadline | the timer [`deadline`](Timeouts::deadline) expired | `Error`, [`Timeout`](ErrorKind::Timeout) |
//! | closed early | the connection ended without a finish reason | `Error`, [`Incomplete`](ErrorKind::Incomplete) |
//! | not an event stream | another content type, or a body that begins with `{` or `<` | `Error`, [`NotEventStream`](ErrorKind::NotEventStream) |
//! | limit exceeded | one of the [`Limits`] | `Error`, [`Limit`](ErrorKind::Limit) |
//! | not connected | connection refused, host not found, TLS failure | `Error`, [`Refused`](ErrorKind::Refused) or [`Connect`](ErrorKind::Connect) |
//! | protocol violation | invalid HTTP framing; an id or index out of range | `Error`, [`Protocol`](ErrorKind::Protocol) |
//! | consumer gone | the receiver was dropped | - |
//!
//! The page [`faults`] lists more than 200 tested faults, and how a stream ends after each fault.
//!
//! # Resuming a stream
//!
//! A stream may break off after tokens have arrived: the connection ends or goes silent, or the
//! server reports an internal error. With [`resume`](ApiClientBuilder::resume) or
//! [`resumes`](ApiClientBuilder::resumes), tokenwire then sends the prompt plus the ids received so
//! far. It lowers `max_tokens` by the number received, and delivers the rest through the same
//! channel. No id is lost, and no id arrives twice.
//!
//! [`StreamReport::resumes`] lists the breaks. A stream that cannot be resumed exactly ends with
//! its error, and [`StreamReport::not_resumed`] holds the reason ([`NotResumable`]). After a
//! cancel, tokenwire sends nothing.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! # use tokenwire::RetryPolicy;
//! # use tokenwire::testing::{Cut, FakeModel, MockServer};
//! use tokenwire::{ApiClient, SamplingParams, StreamToken};
//! # let model = FakeModel::new(2).ends_one_of(0);
//! # let server = MockServer::start(move |request| model.answer(request).cut_at(1500, Cut::Reset))?;
//! # let url = server.url(); /*
//! let url = "http://127.0.0.1:8000/v1";
//! # */
//!
//! let client = ApiClient::builder(url).resumes(20).build()?;
//! # let mut retry = RetryPolicy::default();
//! # (retry.min_wait, retry.budget) = (std::time::Duration::ZERO, 100);
//! # let client = ApiClient::builder(server.url()).retry(retry).resumes(20).build()?;
//! let params = SamplingParams::default().temperature(0.0).max_tokens(30);
//! let (tokens, guard) = client.stream_completion(&[785, 6722], params, None)?;
//! let ids = tokens.iter().filter(|token| matches!(token, StreamToken::Token { id: Some(_), .. })).count();
//! let report = guard.join();
//! // All 30 ids arrived, although the server failed several times.
//! assert!(ids == 30 && !report.resumes.is_empty() && report.ids_exact.is_exact());
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! # Several servers
//!
//! A client can have several servers with the same model: call
//! [`base_url`](ApiClientBuilder::base_url) once for each further server. A stream that fails at
//! one server moves to another one. Before the first token, the move is a retry. After the first
//! token, the move is a resume. Retries and resumes use the same budget. tokenwire does not wait
//! before it moves a stream.
//!
//! [`RoutePolicy`] selects the server:
//!
//! - In order: a stream uses the first server that works.
//! - By weight: requests with the same [`session`](CompletionRequest::session) go to the same
//!   server, which has their prefix in its cache.
//!
//! A server that fails several times in a row is skipped until a probe succeeds.
//! [`StreamReport::route`] and [`StreamReport::failovers`] report the route of a stream.
//!
//! With [`hedge_after`](RoutePolicy::hedge_after), a stream whose first token is late is requested
//! again, from another server if there is one. The first of the two to produce a token wins.
//!
//! ```
//! # #[cfg(feature = "testing")] {
//! # use tokenwire::testing::{Cut, FakeModel, MockServer};
//! use tokenwire::{ApiClient, SamplingParams};
//! # let model = FakeModel::new(2).ends_one_of(0);
//! # let first = MockServer::start(move |request| model.answer(request).cut_at(1500, Cut::Reset))?;
//! # let second = MockServer::start(move |request| model.answer(request))?;
//! # let (first, second) = (first.url(), second.url()); /*
//! let (first, second) = ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8001/v1");
//! # */
//!
//! let client = ApiClient::builder(first).base_url(second).resumes(3).build()?;
//! let params = SamplingParams::default().temperature(0.0).max_tokens(30);
//! let (_tokens, guard) = client.stream_completion(&[785, 6722], params, None)?;
//! let report = guard.join();
//! // The first server failed in the middle of the stream.
//! assert_eq!((report.route, report.failovers, report.tokens), (1, 1, 30));
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! # Failed requests
//!
//! With [`save_failed`](ApiClientBuilder::save_failed), the client saves the request of each stream
//! that ends in an `Error`, without credentials. [`ApiClient::resend`] sends such a
//! [`SavedRequest`] again.
//!
//! # Threads
//!
//! tokenwire starts only the threads in this table. The servers of the feature `testing` have
//! additional threads.
//!
//! | name | work | lifetime |
//! | --- | --- | --- |
//! | `tokenwire-N` | reads one running stream | belongs to a pool of at most [`max_streams`](Limits::max_streams) threads; ends after 10 s without work |
//! | `tokenwire-lookup` | looks up a host name, because nothing can interrupt the system's lookup | ends when no lookup is waiting |
//! | `tokenwire-alarm` | watches the timers while requests are written and while streams wait for their turn | ends after 10 s without such work |
//! | `tokenwire-parser` | parses a response for [`ResponseParser::run`] | ends with the turn |
//! | `tokenwire-tool` | runs calls for [`Tools::run`] | ends after the last call |
//! | `tokenwire-probe` | probes a server that was skipped | ends after at most [`probe_timeout`](RoutePolicy::probe_timeout) |
//!
//! # Logging
//!
//! tokenwire uses the crate `log`. All its targets begin with `tokenwire`.
//!
//! | level | content |
//! | --- | --- |
//! | error, info | nothing |
//! | warn | the API key or an `authorization` header is sent over plain HTTP to another machine (once per client) |
//! | warn | a failed request could not be saved (once per client) |
//! | debug | path and size of a request; status, `x-ratelimit-*` and `x-request-id` headers of its response |
//! | debug | counts, sizes, times and the ending of a stream |
//! | debug | before a retry or a resume: the kind and status of the failure, or the reason why tokenwire does not retry or resume |
//! | debug | the result of a probe |
//! | trace | the beginning of the first event that is not JSON; this may be text of the answer |
//!
//! A secret is the API key or the value of a header that you set, if it has at least 8 characters.
//! Secrets never appear in errors, `Debug` output, logs or recordings, even if the server sends
//! them back.
//!
//! ureq and rustls have their own log lines, under their own targets. These lines never contain the
//! secrets that tokenwire sends: ureq gets asterisks, and tokenwire replaces them when the request
//! goes to the socket. But ureq reads responses unchanged. At debug level, ureq logs some response
//! headers. At trace level, it logs all bytes. If a server sends a key back, the key appears in the
//! log of ureq, and tokenwire cannot remove the key. Set the target `ureq` to warn (this includes
//! `ureq_proto`), as in `RUST_LOG=trace,ureq=warn`. The `tokenwire` program does this by default.
//!
//! # Known limitations
//!
//! ureq rejects a chunk-size line of more than 20 characters. HTTP allows such a line if it
//! contains a chunk extension.

// The modules, in the order of the pipeline. The blank lines keep rustfmt from sorting them.

mod error;

mod config;

mod types;

pub mod recording;

mod protocol;

mod client;

// Under shuttle, the channel of a stream is not a crossbeam channel. The parser needs a crossbeam
// channel.
#[cfg(not(shuttle))]
mod turn;

#[cfg(feature = "testing")]
pub mod testing;

pub mod guide;

/// A table of all tested faults. It shows how the stream ends after each fault.
///
#[doc = include_str!("../docs/faults.md")]
pub mod faults {}

/// A table of what each server and endpoint returns, and how it was tested.
///
#[doc = include_str!("../docs/servers.md")]
pub mod servers {}

pub use client::ApiClient;
pub use client::builder::ApiClientBuilder;
pub use client::channel::fan_in::{FanIn, MAX_FAN_IN_TOKENS, Tagged, fan_in};
pub use client::channel::recv_many::recv_many;
pub use client::http::client::{HttpClient, HttpClientBuilder};
pub use client::http::response::HttpResponse;
pub use client::http::sse_reader::SseReader;
pub use client::models::ModelInfo;
pub use client::policy::resume::{MAX_RESUMES, Resume, ResumePolicy};
pub use client::policy::retry::RetryPolicy;
pub use client::policy::route::{Balance, RoutePolicy};
pub use client::saved::form::MAX_SAVED_REQUEST_BYTES;
pub use client::saved::request::{SavedFailure, SavedRequest};
pub use client::stream::call::PendingCompletion;
pub use client::stream::guard::{Canceller, OnDrop, StreamGuard};
pub use client::stream::report::{Histogram, Outcome, Percentiles, StreamReport};
pub use config::{ApiKey, Limits, MAX_RESPONSE_HEAD_BYTES, MAX_RESPONSE_HEADERS, Timeouts, WhenFull};
/// The crate that provides the channels. Use its `select!` to wait for many streams.
///
/// tokenwire returns the `Receiver` of this version.
pub use crossbeam_channel;
pub use error::{Error, ErrorKind, Limit, MAX_SERVER_MESSAGE_CHARS, Progress, ServerError, Timer};
pub use protocol::chunk::answer::{CompletionResponse, MalformedCall};
pub use protocol::chunk::body::{BodyDecoder, Step};
pub use protocol::chunk::decoder::{ChunkDecoder, Completion, Flow};
pub use protocol::chunk::limits::{MAX_CHOICES, MAX_NESTING, MAX_TOKEN_IDS, MAX_TOOL_CALLS};
pub use protocol::request::completion::CompletionRequest;
pub use protocol::request::message::Message;
pub use protocol::request::sampling::SamplingParams;
pub use protocol::server::endpoint::Endpoint;
pub use protocol::server::{MAX_SERVER_RECORD_BYTES, Quirks, ServerKind};
pub use protocol::sse::event::{Event, MAX_SSE_STRAY_BYTES, SseEnd, Stray};
pub use protocol::sse::{SSE_BUFFER_KEPT_BYTES, SseParser};
#[cfg(not(shuttle))]
pub use turn::{
    Round, Turn, TurnCanceller, TurnError, TurnReport,
    parse::{
        ResponseParser,
        dialect::{Dialect, MAX_DIALECT_BYTES},
        engine::Start,
    },
    prompt::{Context, Encode, Prefix, Prompt, WhenInexact, family::ChatFormat},
    respond::{ParsedResponse, ParserHandle, Tree},
    tools::{Tool, ToolResult, Tools},
};
pub use types::ids::{FinishReason, IdsExact, Inexact, TokenId, Usage};
pub use types::not_resumable::NotResumable;
pub use types::token::StreamToken;
pub use types::tree::{Branch, Leaf, LeafKind, Malformed, PendingToolCall, Role, ToolCall};
#[cfg(feature = "tokenizer")]
pub use {
    turn::tokenizer::AddedToken, turn::tokenizer::MAX_TOKENIZER_FILE_BYTES, turn::tokenizer::Special,
    turn::tokenizer::Tokenizer, turn::tokenizer::decode::TokenDecoder,
};

/// Compiles the programs of the README.
#[cfg(all(doctest, feature = "tokenizer", feature = "testing"))]
#[doc = include_str!("../README.md")]
mod readme {}

/// Compiles the program of this page.
#[cfg(doctest)]
#[doc = include_str!("../docs/ten-minutes.md")]
mod ten_minutes {}
