//! A blocking client that streams tokens, with the server's own token ids, from OpenAI-compatible model servers.

mod chunk;
mod config;
mod error;
mod http;
mod pool;
mod queue;
mod request;
pub mod recording;
#[cfg(feature = "testing")]
pub mod testing;
mod sse;
mod token;
#[cfg(feature = "tokenizer")]
mod tokenizer;

pub use chunk::{CHOICES_MAX, ChunkDecoder, Completion, Flow, Server, Wire};
pub use config::{ApiKey, Limits, RESPONSE_HEAD_BYTES_MAX, Timeouts, WhenFull};
pub use error::{Error, ErrorKind, Limit, Progress, SERVER_MESSAGE_CHARS_MAX, ServerError, Timer};
pub use http::{HttpClient, HttpClientBuilder, HttpResponse};
pub use request::{CompletionRequest, SamplingParams};
pub use sse::{End, Event, SSE_BUFFER_KEPT_BYTES, SSE_STRAY_BYTES_MAX, SseParser, Stray};
pub use token::{FinishReason, IdsExact, Inexact, StreamToken, TokenId, Usage};
#[cfg(feature = "tokenizer")]
pub use tokenizer::{AddedToken, Special, TOKENIZER_FILE_BYTES_MAX, TokenDecoder, Tokenizer};
