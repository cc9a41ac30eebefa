//! The client that a program holds: where the server is, what it is asked with, what it was learned to be.

pub(crate) mod builder;
pub(crate) mod channel;
pub(crate) mod http;
pub(crate) mod models;
pub(crate) mod policy;
mod probe;
mod routing;
pub(crate) mod saved;
pub(crate) mod stream;
mod threads;
mod tokenize;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ureq::http::{HeaderMap, Uri};

pub use self::builder::ApiClientBuilder;
use self::channel::fan_in::FanIn;
use self::channel::sender::Sink;
use self::http::{HttpClient, check_url, header};
pub use self::models::ModelInfo;
use self::policy::resume::ResumePolicy;
use self::policy::retry::{Budget, RetryPolicy, random};
use self::policy::route::Routes;
use self::saved::SavedRequest;
use self::saved::folder::Folder;
use self::stream::call::PendingCompletion;
use self::stream::{StreamGuard, call};
use self::threads::pool::ReaderPool;
use self::threads::sync::channel::Receiver;
use crate::config::{ApiKey, Limits, Timeouts};
use crate::error::Error;
use crate::protocol::chunk::answer::CompletionResponse;
use crate::protocol::request::completion::CompletionRequest;
use crate::protocol::request::sampling::SamplingParams;
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;
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
/// # use tokenwire::testing::{Script, ServerKind};
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
pub struct ApiClient(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) http: HttpClient,
    pub(crate) pool: ReaderPool,
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    pub(crate) retry: RetryPolicy,
    pub(crate) retry_budget: Budget,
    pub(crate) resume: ResumePolicy,
    pub(crate) key: Option<ApiKey>,
    /// Where failed requests are saved.
    pub(crate) failed: Option<Folder>,
    pub(crate) endpoint: Endpoint,
    bases: Vec<BaseUrl>,
    pub(crate) routes: Routes,
    model: Option<String>,
    headers: HeaderMap,
    /// Under which names a session's key is sent.
    session_headers: Vec<String>,
    priority_header: Option<String>,
    request_ids: Option<RequestIds>,
    /// What the caller said the server is, or what its answers have shown.
    server: Mutex<Option<ServerKind>>,
    /// The server was asked what it is.
    probed: AtomicBool,
}

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
    /// [`max_channel_tokens`](Limits::max_channel_tokens) tokens and
    /// [`max_channel_bytes`](Limits::max_channel_bytes) bytes; when it is full the stream stops reading from its socket.
    /// Dropping the receiver ends the stream with its next token; to end it now, drop or cancel the guard: a reader
    /// that is blocked on a silent server does not see that nobody listens.
    ///
    /// # Errors
    ///
    /// What can be known before anything is sent: `InvalidInput` and `Unsupported` for a request that cannot be
    /// sent as it is, or of which the server would ignore a part ([`CompletionRequest::to_json`]; a server that is not known
    /// yet, see [`server`](Self::server), is sent everything), `Limit` when no reader thread is to be had. All that happens later comes through the channel.
    pub fn stream(&self, request: CompletionRequest) -> Result<(Receiver<StreamToken>, StreamGuard), Error> {
        stream::start(&self.0, request)
    }

    /// Streams a completion into a channel that many streams share ([`fan_in`](crate::fan_in())), so that one consumer waits for all of them at one
    /// place. What it sends is [`Tagged`](crate::Tagged) with `stream`, any number of the caller's, the end of the stream too: each
    /// ending is seen in the channel.
    ///
    /// As [`stream`](Self::stream) otherwise; but [`max_channel_bytes`](Limits::max_channel_bytes) bounds what this stream has in the
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
        stream::start_into(&self.0, request, Sink::Shared(channel.share(stream)))
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
        self.call(request)?.join().0
    }

    /// Makes a request for one answer that comes whole. Returns at once; a reader thread makes the request, and
    /// [`join`](PendingCompletion::join) has the answer.
    ///
    /// It counts as one of the client's streams, and is treated as one: retries under the same policy and budget, priority,
    /// session, ids and traces in the same places, a file if it fails ([`save_failed`](ApiClientBuilder::save_failed)), a
    /// recording if it is asked for. Of the [`Timeouts`], [`connect`](Timeouts::connect), [`write`](Timeouts::write) and
    /// [`deadline`](Timeouts::deadline) run as for streams; [`first_token`](Timeouts::first_token) bounds each attempt up to
    /// the last byte of its answer, for no token is there before. The others are not used. The body is at most
    /// [`max_body_bytes`](Limits::max_body_bytes).
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
        stream::resend(&self.0, saved)
    }
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
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
            .field("wire", endpoint)
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

impl Inner {
    pub(crate) fn server(&self) -> Option<ServerKind> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers what an answer has shown the server to be. What is known already stays: the caller may have said it.
    pub(crate) fn learn(&self, server: ServerKind) {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(server);
    }

    /// Gives the request its id, and takes out of it what this client sends in headers: those, name and value.
    pub(crate) fn address(
        &self,
        mut request: CompletionRequest,
    ) -> (CompletionRequest, Vec<(String, String)>) {
        if let (None, Some(ids)) = (&request.request_id, &self.request_ids) {
            request = request.request_id(ids.next());
        }
        let session = request
            .session_key()
            .into_iter()
            .flat_map(|key| self.session_headers.iter().map(|name| (name.clone(), key.to_owned())));
        let mut headers: Vec<_> = session.collect();
        if let Some(name) = &self.priority_header {
            headers.extend(request.priority.take().map(|priority| (name.clone(), priority.to_string())));
        }
        let own = request.headers().map(|(name, value)| (name.to_owned(), value.to_owned()));
        // A header that the request names itself wins.
        headers.extend(own);
        (request, headers)
    }

    /// The body of `request`, for what is known of the server.
    pub(crate) fn body(
        &self,
        request: &CompletionRequest,
        server: Option<&ServerKind>,
    ) -> Result<Vec<u8>, Error> {
        request.to_json(self.model.as_deref(), self.endpoint, server)
    }

    pub(crate) fn call_body(
        &self,
        request: &CompletionRequest,
        server: Option<&ServerKind>,
    ) -> Result<Vec<u8>, Error> {
        request.to_call_json(self.model.as_deref(), self.endpoint, server)
    }

    /// The client's headers with the request's own, which win.
    pub(crate) fn headers<'a>(
        &self,
        own: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<HeaderMap, Error> {
        let mut map = self.headers.clone();
        for (name, value) in own {
            let (name, value) = header(name, value)?;
            map.insert(name, value);
        }
        Ok(map)
    }
}

/// Makes up ids of requests.
struct RequestIds {
    prefix: String,
    next: AtomicU64,
}

impl RequestIds {
    fn new(prefix: String) -> Result<Self, Error> {
        CompletionRequest::text("").request_id(&prefix).validate()?;
        // Two clients with one prefix must not make the same ids.
        let drawn = (random() * (1_u64 << 48) as f64) as u64;
        Ok(Self { prefix: format!("{prefix}-{drawn:012x}"), next: AtomicU64::new(0) })
    }

    fn next(&self) -> String {
        format!("{}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// The base URL in two forms: OpenAI's paths go below the one, a server's native paths below the other.
#[derive(Clone)]
struct BaseUrl {
    /// With the version: `http://host:8000/v1`.
    api: String,
    /// Without: `http://host:8000`.
    root: String,
    plain_and_far: bool,
}

impl BaseUrl {
    fn new(url: &str) -> Result<Self, Error> {
        let uri = check_url(url.trim())?;
        if uri.query().is_some() {
            return Err(Error::invalid("the base URL has a query"));
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let plain_and_far = uri.scheme_str() == Some("http") && !near;
        let place = format!(
            "{}://{}",
            uri.scheme_str().unwrap_or("http"),
            uri.authority().map_or("", |authority| authority.as_str())
        );
        let path = uri.path().trim_end_matches('/');
        Ok(if path.is_empty() {
            Self { api: format!("{place}/v1"), root: place, plain_and_far }
        } else {
            let root = path.strip_suffix("/v1").unwrap_or(path);
            Self { api: format!("{place}{path}"), root: format!("{place}{root}"), plain_and_far }
        })
    }

    fn join(&self, path: &str, at_root: bool) -> Result<Uri, Error> {
        let below = if at_root { &self.root } else { &self.api };
        check_url(&format!("{below}{path}"))
    }

    fn is_plain_and_far(&self) -> bool {
        self.plain_and_far
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.api)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_without_a_path_gets_the_version() {
        let cases = [
            (
                "http://127.0.0.1:8080",
                "http://127.0.0.1:8080/v1/completions",
                "http://127.0.0.1:8080/completion",
            ),
            (
                "http://127.0.0.1:8080/",
                "http://127.0.0.1:8080/v1/completions",
                "http://127.0.0.1:8080/completion",
            ),
            ("http://h.test/v1", "http://h.test/v1/completions", "http://h.test/completion"),
            (
                "http://h.test/proxy/v1",
                "http://h.test/proxy/v1/completions",
                "http://h.test/proxy/completion",
            ),
            (
                " https://h.test/api/v1/ ",
                "https://h.test/api/v1/completions",
                "https://h.test/api/completion",
            ),
            ("http://[::1]:1/x", "http://[::1]:1/x/completions", "http://[::1]:1/x/completion"),
        ];
        for (base, api, root) in cases {
            let base = BaseUrl::new(base).unwrap();
            for (endpoint, url) in
                [(Endpoint::Auto, api), (Endpoint::OpenAi, api), (Endpoint::LlamaCpp, root)]
            {
                let (path, at_root) = endpoint.path();
                assert_eq!(base.join(path, at_root).unwrap(), url, "{endpoint}");
            }
        }
        assert!(BaseUrl::new("http://h.test/v1?key=1").is_err());
    }

    #[test]
    fn only_a_far_plain_server_gets_the_warning_about_the_key() {
        for (url, far) in [
            ("http://127.0.0.1/v1", false),
            ("http://localhost:1/v1", false),
            ("http://[::1]/v1", false),
            ("https://h.test/v1", false),
            ("http://10.0.0.7/v1", true),
        ] {
            assert_eq!(BaseUrl::new(url).unwrap().is_plain_and_far(), far, "{url}");
        }
    }

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
