//! A blocking client that streams tokens, with the server's own token ids, from OpenAI-compatible model servers.

mod chunk;
mod client;
mod config;
mod error;
mod http;
mod pool;
mod queue;
pub mod recording;
mod report;
mod request;
mod sse;
mod sse_reader;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
#[cfg(feature = "tokenizer")]
mod tokenizer;

pub use chunk::{CHOICES_MAX, ChunkDecoder, Completion, Flow, Server, Wire};
pub use client::{ApiClient, ApiClientBuilder};
pub use config::{ApiKey, Limits, RESPONSE_HEAD_BYTES_MAX, Timeouts, WhenFull};
pub use error::{Error, ErrorKind, Limit, Progress, SERVER_MESSAGE_CHARS_MAX, ServerError, Timer};
pub use http::{HttpClient, HttpClientBuilder, HttpResponse};
pub use report::{Ending, Percentiles, StreamReport};
pub use request::{CompletionRequest, SamplingParams};
pub use sse::{End, Event, SSE_BUFFER_KEPT_BYTES, SSE_STRAY_BYTES_MAX, SseParser, Stray};
pub use sse_reader::SseReader;
pub use stream::{Canceller, OnDrop, StreamGuard};
pub use token::{FinishReason, IdsExact, Inexact, StreamToken, TokenId, Usage};
#[cfg(feature = "tokenizer")]
pub use tokenizer::{AddedToken, Special, TOKENIZER_FILE_BYTES_MAX, TokenDecoder, Tokenizer};
