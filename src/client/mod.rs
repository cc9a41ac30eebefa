//! The client: streams, calls, and failed requests that are sent again.

mod backend;
pub(crate) mod builder;
pub(crate) mod channel;
pub(crate) mod http;
pub(crate) mod models;
pub(crate) mod policy;
mod probe;
pub(crate) mod saved;
pub(crate) mod stream;
mod threads;
mod tokenize;

use std::sync::Arc;

use self::backend::Backend;
use self::builder::ApiClientBuilder;
use self::channel::fan_in::FanIn;
use self::channel::sender::Sink;
use self::saved::request::SavedRequest;
use self::stream::call::PendingCompletion;
use self::stream::guard::StreamGuard;
use self::stream::{call, start};
use self::threads::sync::channel::Receiver;
use crate::error::Error;
use crate::protocol::chunk::answer::CompletionResponse;
use crate::protocol::request::completion::CompletionRequest;
use crate::protocol::request::sampling::SamplingParams;
use crate::types::ids::TokenId;
use crate::types::token::StreamToken;

/// A client for one model server, or for several servers of the same model.
///
/// Create one client and keep it. Clones share its connections, its reader threads, its budget of
/// retries, and the detected kind of server. [`base_url`](ApiClientBuilder::base_url) adds more
/// servers.
///
/// Dropping the last clone closes idle connections and ends idle threads. Running streams continue,
/// and their guards still control them.
///
/// ```
/// # #[cfg(feature = "testing")] {
/// use tokenwire::{ApiClient, CompletionRequest, SamplingParams};
/// # use tokenwire::testing::{Script, MockServer};
/// # let server = MockServer::scripted([Script::tokens([(9707, "Hello")])])?;
/// # let url = server.url(); /*
/// let url = "http://127.0.0.1:8000/v1";
/// # */
///
/// let client = ApiClient::builder(url).model("my-model").api_key("sk-0123456789").build()?;
/// let sampling = SamplingParams::default().max_tokens(64).temperature(0.0);
/// let (tokens, guard) = client.stream(CompletionRequest::text("Say hello.").sampling(sampling))?;
/// for token in &tokens {
///     println!("{token:?}");
/// }
/// let report = guard.join();
/// println!("{}: {} tokens, ids {}", report.ending, report.tokens, report.ids_exact);
/// # }
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ApiClient(pub(crate) Arc<Backend>);

impl ApiClient {
    /// Starts a builder with the base URL of the server: `http://127.0.0.1:8000/v1`.
    ///
    /// OpenAI's clients take the same URL. A URL without a path gets the path `/v1`.
    pub fn builder(base_url: impl Into<String>) -> ApiClientBuilder {
        ApiClientBuilder::new(base_url.into())
    }

    /// Streams a completion of `prompt_ids`. This is the short form of [`stream`](Self::stream).
    ///
    /// `priority` is for vLLM: a request with a lower number is served earlier. With `None`, no
    /// priority is sent.
    ///
    /// # Errors
    ///
    /// The same as [`stream`](Self::stream).
    pub fn stream_completion(
        &self,
        prompt_ids: &[TokenId],
        params: SamplingParams,
        priority: Option<i32>,
    ) -> Result<(Receiver<StreamToken>, StreamGuard), Error> {
        let mut request = CompletionRequest::ids(prompt_ids).sampling(params);
        if let Some(priority) = priority {
            request = request.priority(priority);
        }
        self.stream(request)
    }

    /// Streams a completion. Returns at once.
    ///
    /// A reader thread sends the request and fills the channel. The receiver yields tokens, then
    /// one `Done` or `Error`, and is then disconnected. After a cancel, it is disconnected without
    /// `Done` or `Error`. You can still read the tokens that are already in the channel.
    ///
    /// The channel holds at most [`max_channel_tokens`](crate::Limits::max_channel_tokens) tokens
    /// and [`max_channel_bytes`](crate::Limits::max_channel_bytes) bytes. When it is full, the
    /// stream stops reading from its socket.
    ///
    /// Dropping the receiver ends the stream at its next token. While the server is silent, the
    /// reader thread is blocked and does not notice the drop. To end the stream at once, drop or
    /// cancel the guard.
    ///
    /// # Errors
    ///
    /// This method returns only failures that are found before anything is sent:
    ///
    /// - `InvalidInput` or `Unsupported` if the request cannot be sent as it is, or if the server
    ///   would ignore a part of it; see [`CompletionRequest::to_json`]. As long as the kind of
    ///   server is [unknown](Self::server), no field counts as ignored.
    /// - `Limit` if no reader thread is available.
    ///
    /// All later failures arrive through the channel.
    pub fn stream(&self, request: CompletionRequest) -> Result<(Receiver<StreamToken>, StreamGuard), Error> {
        start::start(&self.0, request)
    }

    /// Streams a completion into a channel that many streams share.
    ///
    /// [`fan_in`](crate::fan_in()) creates such a channel.
    ///
    /// One consumer can then wait for all streams in one place. Every item in the channel is a
    /// [`Tagged`](crate::Tagged) with `stream`, a number of your choice. The end of each stream is
    /// an item too, so you see in the channel how each stream ended.
    ///
    /// Two limits apply to the channel:
    ///
    /// - [`max_channel_bytes`](crate::Limits::max_channel_bytes) limits the bytes of this stream.
    /// - [`FanIn::max_tokens`](crate::FanIn::max_tokens) limits the tokens of all streams together.
    ///
    /// Everything else is the same as for [`stream`](Self::stream).
    ///
    /// # Errors
    ///
    /// The same as [`stream`](Self::stream). After an error, the channel has received nothing.
    pub fn stream_into(
        &self,
        request: CompletionRequest,
        channel: &FanIn,
        stream: u64,
    ) -> Result<StreamGuard, Error> {
        start::start_into(&self.0, request, Sink::Shared(channel.share(stream)))
    }

    /// Requests a completion as one whole answer. Blocks until the answer has arrived.
    ///
    /// This method does the same as [`call`](Self::call) followed by
    /// [`join`](PendingCompletion::join). A whole answer differs from a stream:
    ///
    /// - llama.cpp sends more ids than in a stream: the ids of chats, and each id of a character
    ///   that consists of several tokens.
    /// - You receive nothing before the end.
    /// - If the connection is lost, the server still generates the whole answer, although nobody
    ///   receives it. llama.cpp does not even detect the loss.
    ///
    /// ```no_run
    /// # let client = tokenwire::ApiClient::builder("http://127.0.0.1:8000/v1").build()?;
    /// let answer = client.complete(tokenwire::CompletionRequest::ids([785, 6722, 315]))?;
    /// println!("{} {:?} {:?}", answer.text, answer.ids, answer.ids_exact);
    /// # Ok::<(), tokenwire::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same as [`call`](Self::call) and [`PendingCompletion::join`].
    pub fn complete(&self, request: CompletionRequest) -> Result<CompletionResponse, Error> {
        self.call(request)?.join()
    }

    /// Starts a request for one whole answer. Returns at once.
    ///
    /// A reader thread sends the request, and [`join`](PendingCompletion::join) returns the answer.
    ///
    /// A call counts as one of the client's streams and is treated like one:
    ///
    /// - It is retried under the same policy and budget.
    /// - Its priority, session, ids and trace are sent in the same fields and headers as for a
    ///   stream.
    /// - It is saved if it fails ([`save_failed`](ApiClientBuilder::save_failed)), and recorded if
    ///   you request it ([`record`](CompletionRequest::record)).
    ///
    /// The timers [`connect`](crate::Timeouts::connect), [`write`](crate::Timeouts::write) and
    /// [`deadline`](crate::Timeouts::deadline) run as for a stream.
    /// [`first_token`](crate::Timeouts::first_token) limits each attempt up to the last byte of its
    /// answer, because no token arrives earlier. The other [`Timeouts`](crate::Timeouts) are not
    /// used. The body may have at most [`max_body_bytes`](crate::Limits::max_body_bytes) bytes.
    ///
    /// # Errors
    ///
    /// The same as [`stream`](Self::stream), and `Unsupported` for an extra field `stream`.
    /// [`join`](PendingCompletion::join) returns all later failures.
    pub fn call(&self, request: CompletionRequest) -> Result<PendingCompletion, Error> {
        call::start(&self.0, request)
    }

    /// Sends a failed call again, as [`resend`](Self::resend) does for a stream.
    ///
    /// # Errors
    ///
    /// The same as [`call`](Self::call). Also [`Unsupported`](crate::ErrorKind::Unsupported) if the
    /// request [`is_redacted`](SavedRequest::is_redacted), or if it is not a call
    /// ([`is_call`](SavedRequest::is_call)).
    pub fn resend_call(&self, saved: &SavedRequest) -> Result<PendingCompletion, Error> {
        call::resend(&self.0, saved)
    }

    /// Sends the request of a failed stream again, as a stream.
    ///
    /// The body is sent as it was saved, byte for byte. The request goes to the server of this
    /// client, with the key and the headers of this client. The saved headers are sent too. If the
    /// client has a header with the same name, the saved header replaces it. The saved
    /// [`endpoint`](SavedRequest::endpoint) determines the path and how the answer is read.
    ///
    /// To send the request to its original server, build the client with
    /// [`SavedRequest::base_url`].
    ///
    /// The new stream is like any other stream. If it fails too, its request is saved again.
    ///
    /// # Errors
    ///
    /// The same as [`stream`](Self::stream). Also [`Unsupported`](crate::ErrorKind::Unsupported) if
    /// the request [`is_redacted`](SavedRequest::is_redacted), or if it is a call
    /// ([`is_call`](SavedRequest::is_call)).
    pub fn resend(&self, saved: &SavedRequest) -> Result<(Receiver<StreamToken>, StreamGuard), Error> {
        start::resend(&self.0, saved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An earlier version accepted these headers.
    ///
    /// The server then misread where the next request began.
    #[test]
    fn headers_that_the_client_writes_itself_are_rejected() {
        for (name, value, good) in [
            ("content-length", "3", false),
            ("Transfer-Encoding", "chunked", false),
            ("host", "other.test", false),
            ("content-type", "text/plain", false),
            ("x-a", "a\tb", false),
            ("x-a", " from a file\n", true),
            ("authorization", "Basic bWU6c2s=", true),
        ] {
            let built = ApiClient::builder("http://h.test/v1").header(name, value).build();
            assert_eq!(built.is_ok(), good, "{name}: {value:?}");
        }
    }

    #[test]
    fn credentials_never_appear_in_debug_output() {
        let builder =
            ApiClient::builder("http://h.test/v1").header("x-api-key", "canary-2").api_key("canary-1");
        let builder = builder.proxy("http://me:canary-3@proxy.test");
        assert!(!format!("{builder:?}").contains("canary"), "{builder:?}");
        let client = builder.build().unwrap();
        assert!(!format!("{client:?}").contains("canary"));
    }
}
