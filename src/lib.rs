//! A blocking client that streams tokens from OpenAI-compatible model servers (vLLM and llama.cpp first) over
//! server-sent events. It keeps the server's own token ids and needs no async runtime: a thread, a channel, a guard.
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
//! # The map
//!
//! ```text
//! prompt ids ─request─▶ JSON ─http─▶ bytes ─sse─▶ events ─chunk─▶ tokens ─stream─▶ channel ─▶ you, or
//!     ▲                        ▲
//!     │                      guard (cancel or join)
//!     └─prompt── tree ◀─parse── tokens: the response parser; each complete call ─▶ channel ─▶ your tools
//! ```
//!
//! - [`ApiClient`] is made once for a server and cloned; [`CompletionRequest`] and [`SamplingParams`] say what to ask.
//! - A stream is a crossbeam receiver of [`StreamToken`]s, so that `select!` over many works, and a [`StreamGuard`]:
//!   dropping it cancels the stream, [`join`](StreamGuard::join) waits for its end, a [`Canceller`] cancels from elsewhere.
//!   [`fan_in()`] is one receiver for many streams, [`recv_many()`] takes many tokens at a time.
//! - [`complete`](ApiClient::complete) has the server send the whole answer at once ([`CompletionResponse`]), which is the only way to all ids
//!   of llama.cpp; a [`PendingCompletion`] is the same with a handle.
//! - [`server`](ApiClient::server) tells what the server is, [`models`](ApiClient::models) what it has;
//!   [`tokenize`](ApiClient::tokenize) and [`detokenize`](ApiClient::detokenize) use its own tokenizer.
//! - [`StreamReport`] tells at the end what came, how fast, and by [`IdsExact`] whether the ids are all there, or why not.
//! - [`ResponseParser`] makes a tree ([`Branch`], [`Leaf`]) of the tokens while they come: reasoning, content, tool calls, each
//!   leaf with its ids. Each complete call is handed out as a [`PendingToolCall`] while the model still writes.
//!   [`Dialect`] says how a family of models writes them; one of your own is a record in JSON.
//! - [`Context`] keeps the turns and makes the ids of the next prompt, in the model's [`ChatFormat`]: the ids of this prompt,
//!   the ids received, and what was added. [`Turn`] is the loop around all that, with [`Tools`] that are plain functions.
//! - [`Error`] is the one error; [`ErrorKind`] is what to branch on.
//! - [`Timeouts`] and [`Limits`] name every wait and every buffer, with its default; [`RetryPolicy`] says what is sent again,
//!   [`ResumePolicy`] how a broken stream goes on.
//! - The stages are usable by themselves: [`SseParser`] (bytes to events), [`ChunkDecoder`] (events to tokens),
//!   [`BodyDecoder`] (both: a whole body to tokens), [`HttpClient`] and [`SseReader`] (a request, its answer as JSON events),
#![cfg_attr(feature = "tokenizer", doc = "  [`Tokenizer`] (text to ids and back),")]
#![cfg_attr(not(feature = "tokenizer"), doc = "  `Tokenizer` (text to ids and back, feature `tokenizer`),")]
//!   [`recording`] (an exchange as a value).
#![cfg_attr(
    feature = "testing",
    doc = "- [`testing`] is a scripted server to test your own program against."
)]
#![cfg_attr(
    not(feature = "testing"),
    doc = "- `testing` (a feature) is a scripted server to test your own program against."
)]
//!
//! The [`guide`] has a page for each question: timeouts, cancel, ids, tools, resume, tests, logs, proxies, scale, and what to write in place
//! of openai-python or async-openai. The page [`servers`] says of each server and endpoint what it gives: ids, counts, errors, and how that is known.
//!
//! # How a stream ends
//!
//! In exactly one of these ways. Complete means that a finish reason or the terminator was seen, never merely that the
//! bytes stopped. Tokens received before the end stay in the channel, in front of it.
//!
//! | ending | decided by | the channel's last item |
//! | --- | --- | --- |
//! | complete | finish reason, or terminator (`[DONE]`, `"stop": true`); what follows the finish reason is waited for as long as [`after_finish`](Timeouts::after_finish) | `Done` |
//! | cancelled | the guard; it comes before whatever a read returned | none: disconnected |
//! | server error | a status other than 2xx, or an error inside the stream | `Error`, [`ServerKind`](ErrorKind::Server) |
//! | no first token | [`first_token`](Timeouts::first_token) | `Error`, [`Timeout`](ErrorKind::Timeout) |
//! | silence | [`chunk`](Timeouts::chunk): no bytes; [`content`](Timeouts::content): no event | `Error`, `Timeout` |
//! | deadline | [`deadline`](Timeouts::deadline) | `Error`, `Timeout` |
//! | closed early | the connection's end with no finish reason seen | `Error`, [`Incomplete`](ErrorKind::Incomplete) |
//! | not an event stream | content type, or a first byte of `{` or `<` | `Error`, [`NotEventStream`](ErrorKind::NotEventStream) |
//! | limit passed | a named limit | `Error`, [`Limit`](ErrorKind::Limit) |
//! | never connected | refused, no such host, TLS | `Error`, [`Refused`](ErrorKind::Refused) or [`Connect`](ErrorKind::Connect) |
//! | broken rules | HTTP framing, an id or index out of range | `Error`, [`Protocol`](ErrorKind::Protocol) |
//! | consumer gone | the receiver was dropped | - |
//!
//! The page [`faults`] has some 200 faults that were tried, one by one, with the ending of each.
//!
//! A stream that breaks off after tokens (silence, closed early, an error that is the server's) can go on, if the client was told
//! so ([`resume`](ApiClientBuilder::resume)): prompt and ids received are sent again, and what comes goes into the same channel,
//! with no id lost and none twice; [`StreamReport::resumes`] lists the breaks. What would not be exact then is not taken up
//! but ends as above, and [`StreamReport::not_resumed`] has the reason ([`NotResumable`]). Nothing is sent after a cancel.
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
//! // However often the server died.
//! assert!(ids == 30 && !report.resumes.is_empty() && report.ids_exact.is_exact());
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! A client may have several servers of the same model ([`base_url`](ApiClientBuilder::base_url), once more for each). A stream that
//! fails at one goes to another: before its first token as a retry, after it as a resume, out of the same budget but without a
//! wait. [`RoutePolicy`] says which server is taken: in order, or by weight, where a
//! [`session`](CompletionRequest::session) stays at its server, which has its prefix in the cache. One that fails several times in a
//! row is left out until a probe finds it well. [`StreamReport::route`] and [`StreamReport::failovers`] tell where a stream went.
//! With [`hedge_after`](RoutePolicy::hedge_after) a stream whose first token is late is asked for a second time, elsewhere if it can be, and
//! goes on with the first to have one.
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
//! // The first server died in mid-stream.
//! assert_eq!((report.route, report.failovers, report.tokens), (1, 1, 30));
//! # }
//! # Ok::<(), tokenwire::Error>(())
//! ```
//!
//! The request of every stream that ended in an `Error` is saved, without credentials, if the client was given a folder for
//! it ([`save_failed`](ApiClientBuilder::save_failed)): a [`SavedRequest`], which [`ApiClient::resend`] sends again.
//!
//! # Threads
//!
//! Each running stream has a reader thread of its own, named `tokenwire-N`, from a pool bounded by
//! [`max_streams`](Limits::max_streams); idle ones end after 10 s. A name that is no IP address is looked up on a
//! thread named `tokenwire-lookup`, because nothing can interrupt the system's lookup. While requests are written, and while
//! streams wait for a place, a thread named `tokenwire-alarm` watches their timers; it ends 10 s later.
//! [`ResponseParser::run`] parses on a thread named `tokenwire-parser`. With several servers, one that was left out is probed on
//! a thread named `tokenwire-probe`, which lasts for [`probe_timeout`](RoutePolicy::probe_timeout) at most. Nothing else is started.
//!
//! # Logging
//!
//! Through the `log` crate, under targets that begin with `tokenwire`:
//!
//! | level | what is printed |
//! | --- | --- |
//! | error, info | nothing |
//! | warn | one line for a client whose API key (or `authorization` header) is to go over plain http to another machine; one per client when a failed request could not be saved |
//! | debug | path and size of a request; status, `x-ratelimit-*` and `x-request-id` headers; counts, sizes, times, the ending; before a retry or a resume, the kind of the failure and its status, and why none is made; what a probe of a server came to |
//! | trace | reply text: the beginning of the first event that is not JSON |
//!
//! Keys (the API key, and the values of headers that a client or a request was given, from 8 characters on): never, at no level, in no error,
//! `Debug` output or recording, also where a server sends them back. ureq and rustls log too, under targets of their own. They
//! never have the keys, but ureq prints all bytes of the traffic at trace, and some headers of a response at debug as
//! they came: what a server sends back stands there, a key that it echoes too. This crate cannot take it out. Filter the
//! target `ureq` (which is also the beginning of `ureq_proto`) to warn, as in `RUST_LOG=trace,ureq=warn`; the `tokenwire`
//! program does unless it is told otherwise.
//!
//! # Not yet
//!
//! A chunk-size line of more than 20 characters, which HTTP allows with chunk extensions, is refused by ureq.

mod client;
mod config;
mod protocol;
mod types;

mod error;
pub mod guide;
/// Every fault that was tried, and how its stream ends. This module holds nothing but this page.
///
#[doc = include_str!("../docs/faults.md")]
pub mod faults {}
/// What each server and endpoint gives, and how that is known. This module holds nothing but this page.
///
#[doc = include_str!("../docs/servers.md")]
pub mod servers {}
pub mod recording;
#[cfg(feature = "testing")]
pub mod testing;
// Where the channels are modelled a stream is no crossbeam channel, which a parser takes.
#[cfg(not(shuttle))]
mod turn;

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
/// The channels' crate, for `select!` over many streams: of the version whose `Receiver` this crate hands out.
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
pub use turn::parse::ResponseParser;
pub use turn::parse::dialect::{Dialect, MAX_DIALECT_BYTES};
pub use turn::parse::engine::Start;
pub use turn::prompt::family::ChatFormat;
pub use turn::prompt::{Context, Encode, Prefix, Prompt, WhenInexact};
pub use turn::respond::{ParsedResponse, ParserHandle, Tree};
pub use turn::tools::{Tool, ToolResult, Tools};
pub use types::ids::{FinishReason, IdsExact, Inexact, TokenId, Usage};
pub use types::not_resumable::NotResumable;
pub use types::token::StreamToken;
pub use types::tree::{Branch, Leaf, LeafKind, Malformed, PendingToolCall, Role, ToolCall};
#[cfg(not(shuttle))]
pub use {turn::Round, turn::Turn, turn::TurnCanceller, turn::TurnError, turn::TurnReport};
#[cfg(feature = "tokenizer")]
pub use {
    turn::tokenizer::AddedToken, turn::tokenizer::MAX_TOKENIZER_FILE_BYTES, turn::tokenizer::Special,
    turn::tokenizer::Tokenizer, turn::tokenizer::decode::TokenDecoder,
};

/// The programs of the README compile.
#[cfg(all(doctest, feature = "tokenizer", feature = "testing"))]
#[doc = include_str!("../README.md")]
mod readme {}

/// So does the program in this one.
#[cfg(doctest)]
#[doc = include_str!("../docs/ten-minutes.md")]
mod ten_minutes {}
