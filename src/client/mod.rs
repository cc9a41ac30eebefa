//! The client that a program holds: where the server is, what it is asked with, what it was learned to be.

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

use std::fmt;
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

/// A client for one model server, or for several that serve the same model ([`base_url`](ApiClientBuilder::base_url)). Make one
/// and keep it: clones share its connections, its reader threads and what it has learned of the server.
///
/// Dropping the last clone closes idle connections and ends idle threads; streams that run go on under their
/// guards.
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
/// let client = ApiClient::builder(url).model("my-model").api_key("sk-0123456789").retries(5).build()?;
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
#[derive(Clone)]
pub struct ApiClient(pub(crate) Arc<Backend>);

impl ApiClient {
    /// Starts from the server's base URL, the one that OpenAI's clients take: `http://127.0.0.1:8000/v1`. A URL without
    /// any path gets the `/v1`.
    #[must_use]
    pub fn builder(base_url: impl Into<String>) -> ApiClientBuilder {
        ApiClientBuilder::new(base_url.into())
    }

    /// Streams a completion of `prompt_ids`: the short form of [`stream`](Self::stream).
    ///
    /// `priority` is vLLM's: lower is served earlier; `None` sends none.
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream).
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

    /// Streams a completion. Returns at once; a reader thread makes the request and fills the channel.
    ///
    /// The receiver gives tokens, then one `Done` or `Error`, then it is disconnected. After a cancel it is disconnected
    /// without either. Tokens that are in it stay readable. It holds at most
    /// [`max_channel_tokens`](crate::Limits::max_channel_tokens) tokens and
    /// [`max_channel_bytes`](crate::Limits::max_channel_bytes) bytes; when it is full the stream stops reading from its socket.
    /// Dropping the receiver ends the stream with its next token; to end it now, drop or cancel the guard: a reader
    /// that is blocked on a silent server does not see that nobody listens.
    ///
    /// # Errors
    ///
    /// What can be known before anything is sent: `InvalidInput` and `Unsupported` for a request that cannot be
    /// sent as it is, or of which the server would ignore a part ([`CompletionRequest::to_json`]; a server that is not known
    /// yet, see [`server`](Self::server), is sent everything), `Limit` when no reader thread is to be had. All that happens later comes through the channel.
    pub fn stream(&self, request: CompletionRequest) -> Result<(Receiver<StreamToken>, StreamGuard), Error> {
        start::start(&self.0, request)
    }

    /// Streams a completion into a channel that many streams share ([`fan_in`](crate::fan_in())), so that one consumer waits for all of them at one
    /// place. What it sends is [`Tagged`](crate::Tagged) with `stream`, any number of the caller's, the end of the stream too: each
    /// ending is seen in the channel.
    ///
    /// As [`stream`](Self::stream) otherwise; but [`max_channel_bytes`](crate::Limits::max_channel_bytes) bounds what this stream has in the
    /// channel, [`FanIn::max_tokens`](crate::FanIn::max_tokens) what all have.
    ///
    /// # Errors
    ///
    /// As of [`stream`](Self::stream). Nothing is in the channel then.
    pub fn stream_into(
        &self,
        request: CompletionRequest,
        channel: &FanIn,
        stream: u64,
    ) -> Result<StreamGuard, Error> {
        start::start_into(&self.0, request, Sink::Shared(channel.share(stream)))
    }

    /// Completes a prompt with one answer that comes whole: a [`call`](Self::call) that is waited for. Blocks until the answer
    /// is there.
    ///
    /// What a stream cannot give is here: llama.cpp's ids inside characters of several tokens, and its ids in chats. What
    /// streams have is not: nothing comes before the end, and the server works on to the end for nobody if the connection is
    /// lost (llama.cpp does not even notice).
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
    /// As [`call`](Self::call) and [`PendingCompletion::join`].
    pub fn complete(&self, request: CompletionRequest) -> Result<CompletionResponse, Error> {
        self.call(request)?.join()
    }

    /// Makes a request for one answer that comes whole. Returns at once; a reader thread makes the request, and
    /// [`join`](PendingCompletion::join) has the answer.
    ///
    /// It counts as one of the client's streams, and is treated as one: retries under the same policy and budget, priority,
    /// session, ids and traces in the same places, a file if it fails ([`save_failed`](ApiClientBuilder::save_failed)), a
    /// recording if it is asked for. Of the [`Timeouts`](crate::Timeouts), [`connect`](crate::Timeouts::connect), [`write`](crate::Timeouts::write) and
    /// [`deadline`](crate::Timeouts::deadline) run as for streams; [`first_token`](crate::Timeouts::first_token) bounds each attempt up to
    /// the last byte of its answer, for no token is there before. The others are not used. The body is at most
    /// [`max_body_bytes`](crate::Limits::max_body_bytes).
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream); `Unsupported` also for an extra field `stream`. All that happens later comes from
    /// [`join`](PendingCompletion::join).
    pub fn call(&self, request: CompletionRequest) -> Result<PendingCompletion, Error> {
        call::start(&self.0, request)
    }

    /// Makes a failed call again, as [`resend`](Self::resend) does for streams.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call); [`Unsupported`](crate::ErrorKind::Unsupported) if the request
    /// [`is_redacted`](SavedRequest::is_redacted) or is not a call's ([`is_call`](SavedRequest::is_call)).
    pub fn resend_call(&self, saved: &SavedRequest) -> Result<PendingCompletion, Error> {
        call::resend(&self.0, saved)
    }

    /// Streams a failed request again: the body as it was saved, byte for byte, to this client's server, with this client's
    /// key and headers and those that were saved, which win. Which of the server's endpoints, and how its answer is
    /// read, the saved [`endpoint`](SavedRequest::endpoint) says. A client for where it went before starts from
    /// [`SavedRequest::base_url`].
    ///
    /// From there on it is a stream as any other; if it fails too, it is saved anew.
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream); [`Unsupported`](crate::ErrorKind::Unsupported) if the request
    /// [`is_redacted`](SavedRequest::is_redacted) or is a call's ([`is_call`](SavedRequest::is_call)).
    pub fn resend(&self, saved: &SavedRequest) -> Result<(Receiver<StreamToken>, StreamGuard), Error> {
        start::resend(&self.0, saved)
    }
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Backend {
            http: _,
            pool,
            timeouts,
            limits,
            retry,
            retry_budget: _,
            resume,
            key,
            failed,
            endpoint,
            bases,
            routes,
            model,
            headers: _,
            session_headers,
            priority_header,
            request_ids: _,
            server,
            probed: _,
        } = &*self.0;
        f.debug_struct("ApiClient")
            .field("bases", bases)
            .field("routes", routes)
            .field("model", model)
            .field("endpoint", endpoint)
            .field("server", server)
            .field("key", key)
            .field("session_headers", session_headers)
            .field("priority_header", priority_header)
            .field("failed", failed)
            .field("timeouts", timeouts)
            .field("limits", limits)
            .field("retry", retry)
            .field("resume", resume)
            .field("pool", pool)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It used to be let through, and the server read the next request out of the middle of this one.
    #[test]
    fn headers_that_the_client_writes_itself_are_refused() {
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
    fn credentials_show_in_no_debug_output() {
        let builder =
            ApiClient::builder("http://h.test/v1").header("x-api-key", "canary-2").api_key("canary-1");
        let builder = builder.proxy("http://me:canary-3@proxy.test");
        assert!(!format!("{builder:?}").contains("canary"), "{builder:?}");
        let client = builder.build().unwrap();
        assert!(!format!("{client:?}").contains("canary"));
    }
}
