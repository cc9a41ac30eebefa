//! The settings of a client and their default values. Building the client checks the settings.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::ApiClient;
use super::backend::Backend;
use super::backend::base_url::BaseUrl;
use super::backend::request_ids::RequestIds;
use super::http::client::{HttpClient, HttpClientBuilder};
use super::http::headers::{Redacted, header};
#[cfg(feature = "testing")]
use super::http::memory::InMemory;
use super::http::{AUTHORIZATION, HeaderMap, HeaderValue};
use super::policy::resume::ResumePolicy;
use super::policy::retry::{Budget, RetryPolicy};
use super::policy::route::{RoutePolicy, Routes};
use super::saved::folder::Folder;
use super::threads::pool::ReaderPool;
use crate::config::{ApiKey, Limits, Timeouts, WhenFull};
use crate::error::Error;
use crate::error::macros::setters;
use crate::protocol::request::completion::CompletionRequest;
use crate::protocol::request::headers::{OWNED_HEADERS, validate_header};
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;

/// The settings of an [`ApiClient`]. Start with [`ApiClient::builder`].
///
/// Every setting except the base URL has a default. [`build`](Self::build) checks the settings.
///
/// ```
/// use std::time::Duration;
/// use tokenwire::{ApiClient, Timeouts};
///
/// let mut timeouts = Timeouts::default();
/// timeouts.first_token = Some(Duration::from_secs(30));
/// let client = ApiClient::builder("http://127.0.0.1:8000/v1")
///     .api_key("sk-0123456789")
///     .model("my-model")
///     .timeouts(timeouts)
///     .retries(5)
///     .resumes(3)
///     .build()?;
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ApiClientBuilder {
    /// Each URL with its weight.
    base_urls: Vec<(String, u32)>,
    routes: RoutePolicy,
    key: Option<Redacted<String>>,
    model: Option<String>,
    endpoint: Endpoint,
    server: Option<ServerKind>,
    headers: Vec<(String, Redacted<String>)>,
    session_headers: Vec<String>,
    priority_header: Option<String>,
    request_ids: Option<String>,
    timeouts: Timeouts,
    limits: Limits,
    retry: RetryPolicy,
    resume: ResumePolicy,
    when_full: WhenFull,
    save_failed: Option<PathBuf>,
    http: HttpClientBuilder,
}

impl ApiClientBuilder {
    pub(super) fn new(base_url: String) -> Self {
        Self {
            base_urls: vec![(base_url, 1)],
            routes: RoutePolicy::default(),
            key: None,
            model: None,
            endpoint: Endpoint::Auto,
            server: None,
            headers: Vec::new(),
            session_headers: vec!["x-session-affinity".to_owned()],
            priority_header: None,
            request_ids: None,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            retry: RetryPolicy::default(),
            resume: ResumePolicy::never(),
            when_full: WhenFull::default(),
            save_failed: None,
            http: HttpClient::builder(),
        }
    }

    setters! {
        /// Sets the endpoint. It determines the format of the answers. Default: [`Endpoint::Auto`].
        ///
        /// `Auto` sends requests to `/v1/completions` and detects the server from the first chunk.
        endpoint: Endpoint,

        /// Sets the kind of server. By default, tokenwire detects it from the first answer.
        ///
        /// Until the kind is detected, requests ask for ids in every known way. Some kinds are
        /// described by a JSON record: [`ServerKind::by_name`] and [`ServerKind::from_json`] return
        /// such kinds.
        server: ServerKind,

        /// Sets all timers. [`Timeouts`] lists their defaults.
        timeouts: Timeouts,

        /// Sets all limits. [`Limits`] lists their defaults.
        limits: Limits,

        /// Sets when a request that failed before its first token is retried.
        ///
        /// [`RetryPolicy`] lists the defaults.
        retry: RetryPolicy,

        /// Sets how a stream that breaks after tokens is resumed. Default: streams are not resumed.
        ///
        /// [`ResumePolicy`] explains how a stream is resumed and lists the defaults.
        resume: ResumePolicy,

        /// Sets what happens to a new stream while [`Limits::max_streams`] streams are running.
        ///
        /// Default: [`WhenFull::Wait`].
        when_full: WhenFull,

        /// Sets how streams are distributed among several servers.
        ///
        /// [`RoutePolicy`] lists the defaults.
        routes: RoutePolicy,
    }

    /// Sets the API key, which is sent as `Authorization: Bearer`. Default: none.
    ///
    /// Spaces and line ends around the key are removed.
    ///
    /// If a server sends the key back, tokenwire removes it from errors, logs, reports and
    /// recordings. tokenwire does this only if the key has at least 8 characters. A shorter key,
    /// such as `EMPTY` for a server that needs no key, could also be part of an ordinary word.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(Redacted(key.into()));
        self
    }

    /// Sets the model for requests that do not name one. Default: none.
    ///
    /// Without a model, most servers use the model that they have loaded.
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Adds a header to every request, for example a router's affinity key or a trace.
    ///
    /// Spaces and line ends around the value are removed. The value is treated like a credential:
    /// tokenwire never shows it. If a server sends back a value of at least 8 characters, tokenwire
    /// removes the value in the same places as the API key.
    ///
    /// tokenwire writes some headers itself; [`CompletionRequest::validate`] lists them. You cannot
    /// set these headers, with one exception: `authorization` for a scheme other than `Bearer`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), Redacted(value.into())));
        self
    }

    /// Sets the headers that carry the key of a [`session`](CompletionRequest::session).
    ///
    /// Default: `x-session-affinity` (Fireworks, Together). Your names replace the default. Routers
    /// use their own names: vllm-router with the policy `consistent_hash` uses `x-session-id`.
    pub fn session_headers<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.session_headers = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sends the [`priority`](CompletionRequest::priority) of a request in this header.
    ///
    /// The priority is then not in the body. Use this for a router that queues requests. Default:
    /// the priority is sent in the body.
    pub fn priority_header(mut self, name: impl Into<String>) -> Self {
        self.priority_header = Some(name.into());
        self
    }

    /// Gives an id to each request without a [`request_id`](CompletionRequest::request_id).
    ///
    /// The id consists of `prefix`, a random number of this client, and the number of the request,
    /// joined by `-`. Default: the server chooses the id.
    pub fn request_ids(mut self, prefix: impl Into<String>) -> Self {
        self.request_ids = Some(prefix.into());
        self
    }

    /// Sets [`RetryPolicy::max_retries`]: how often a request is retried before its first token.
    ///
    /// Default: 2. Set 0 to turn retries off. [`RetryPolicy::max_stale_retries`] is a separate
    /// limit for retries on kept connections that the server had closed.
    pub fn retries(mut self, max_retries: u32) -> Self {
        self.retry.max_retries = max_retries;
        self
    }

    /// Sets [`ResumePolicy::max_resumes`]: how many requests may be sent to resume one stream.
    ///
    /// Default: 0, which means that streams are not resumed.
    pub fn resumes(mut self, max_resumes: u32) -> Self {
        self.resume.max_resumes = max_resumes;
        self
    }

    /// Saves the request of every failed stream or call as a file in `folder`. Default: off.
    ///
    /// The file contains the prompt, the parameters, the address and the reason for the failure;
    /// see [`SavedRequest`](crate::SavedRequest). You can read it, or send the request again with
    /// [`ApiClient::resend`]. [`Error::saved_path`] returns the path of the file. The file is
    /// complete before you receive the error.
    ///
    /// A request is not saved if its stream completed, was cancelled or lost its consumer. A
    /// request that was rejected before a stream began is not saved either.
    ///
    /// The file contains no credentials. tokenwire removes the key everywhere. It saves only these
    /// headers: `accept`, `content-type`, `traceparent`, `user-agent` and `x-request-id`. The file
    /// does contain prompts, so only its owner can read it (mode 0600).
    ///
    /// The folder is created when it is first needed, for its owner only (mode 0700). An existing
    /// folder keeps its mode. The folder must not be a symbolic link. Several clients and processes
    /// may share it.
    ///
    /// [`Limits::max_saved_files`] and [`Limits::max_saved_bytes`] limit the saved requests. The
    /// oldest ones are deleted first; other files in the folder are left alone.
    ///
    /// If saving fails, the log reports it (the first time at level warn), and the error of the
    /// stream has no path.
    pub fn save_failed(mut self, folder: impl Into<PathBuf>) -> Self {
        self.save_failed = Some(folder.into());
        self
    }

    /// Replaces the trusted certificate authorities; see [`HttpClientBuilder::ca_pem`].
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.http = self.http.ca_pem(pem);
        self
    }

    /// Adds another server. All servers must be of one kind and serve the same model.
    ///
    /// A stream that fails at one server moves to another server. Before its first token, the move
    /// is a retry. After the first token, the move is a resume, if the client
    /// [resumes](Self::resume) streams. Before a second request to the same server, tokenwire
    /// waits. Before a move, it does not wait. A move counts against the same limits and the same
    /// budget as other retries and resumes. [`routes`](Self::routes) sets which server a stream
    /// uses and when a server is left out.
    ///
    /// The key and all headers are sent to every server. Requests that are not streams or calls,
    /// such as [`models`](ApiClient::models) and [`tokenize`](ApiClient::tokenize), are sent once,
    /// to the first server that works.
    ///
    /// A server that dies breaks all its streams at once. Each of these streams takes one retry
    /// from the [`budget`](RetryPolicy::budget) when it moves. If all streams must continue, set
    /// the budget to at least the number of streams.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_urls.push((url.into(), 1));
        self
    }

    /// Sets the weight of a server for [`Balance::Weighted`](crate::Balance::Weighted).
    ///
    /// The weight applies to the server that you added last. Default: 1. A weight of 0 counts as 1.
    pub fn weight(mut self, weight: u32) -> Self {
        if let Some((_, of_last)) = self.base_urls.last_mut() {
            *of_last = weight;
        }
        self
    }

    /// Sends everything through a proxy; see [`HttpClientBuilder::proxy`].
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.http = self.http.proxy(url);
        self
    }

    /// Connects to a server in memory, not to the host of the base URL.
    ///
    /// The host of the base URL must be an IP address, and its scheme `http`.
    #[cfg(feature = "testing")]
    pub fn in_memory(mut self, server: &InMemory) -> Self {
        self.http.memory = Some(server.clone());
        self
    }

    /// Builds the client. Sends nothing and starts no thread yet.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for:
    ///
    /// - a base URL that is not `http` or `https`, or that contains a user name or a query;
    /// - a key or a header that HTTP cannot carry, or a header that only tokenwire may write;
    /// - a CA text without a certificate, or an invalid proxy URL.
    pub fn build(self) -> Result<ApiClient, Error> {
        let Self { timeouts, limits, retry, .. } = self;
        let timeouts = timeouts.bounded();
        let (bases, routes) = servers(&self.base_urls, self.routes)?;
        let key = self.key.map(|key| ApiKey::new(&key.0)).transpose()?;
        let headers = header_map(&self.headers, key.as_ref())?;
        // This check concerns only the names, so the value can be any text.
        let names = self.session_headers.iter().chain(&self.priority_header);
        names.fold(CompletionRequest::text(""), |request, name| request.header(name, "0")).validate()?;
        let request_ids = self.request_ids.map(RequestIds::new).transpose()?;
        if headers.contains_key(AUTHORIZATION) && bases.iter().any(BaseUrl::is_plain_and_far) {
            log::warn!("the API key is sent over http without encryption; use an https base URL");
        }
        let http = HttpClientBuilder { timeouts, limits, ..self.http }.build()?;
        let max_wait = timeouts.before_first_token().map(|(_, limit)| limit);
        Ok(ApiClient(Arc::new(Backend {
            pool: ReaderPool::new(&limits, self.when_full, max_wait, http.alarms()),
            http,
            timeouts,
            limits,
            retry,
            retry_budget: Budget::new(retry.budget),
            resume: self.resume,
            failed: self.save_failed.map(|path| Folder::new(&path, &limits)),
            endpoint: self.endpoint,
            bases,
            routes,
            model: self.model,
            headers,
            session_headers: self.session_headers,
            priority_header: self.priority_header,
            request_ids,
            server: Mutex::new(self.server),
            probed: AtomicBool::new(false),
        })))
    }
}

/// Returns the servers in two forms: the URLs for requests, and the routes to choose from.
fn servers(base_urls: &[(String, u32)], policy: RoutePolicy) -> Result<(Vec<BaseUrl>, Routes), Error> {
    let bases = base_urls.iter().map(|(url, _)| BaseUrl::new(url)).collect::<Result<Vec<_>, _>>()?;
    let weights = base_urls.iter().map(|(_, weight)| *weight);
    let routes = Routes::new(policy, bases.iter().map(|base| base.api.clone()).zip(weights));
    Ok((bases, routes))
}

/// Returns the headers of every request: your headers and the key.
fn header_map(headers: &[(String, Redacted<String>)], key: Option<&ApiKey>) -> Result<HeaderMap, Error> {
    // The key uses the scheme `Bearer`. You can set `authorization` for any other scheme.
    let can_set = |name: &&str| !name.eq_ignore_ascii_case(AUTHORIZATION.as_str());
    let owned: Vec<&str> = OWNED_HEADERS.into_iter().filter(can_set).collect();
    let mut map = HeaderMap::new();
    for (name, Redacted(value)) in headers {
        validate_header(name, value.trim(), &owned)?;
        let (name, value) = header(name, value)?;
        map.append(name, value);
    }
    if let Some(key) = key {
        let mut bearer = HeaderValue::from_str(&key.bearer())
            .map_err(|_| Error::invalid("the API key cannot be sent in a header"))?;
        bearer.set_sensitive(true);
        map.insert(AUTHORIZATION, bearer);
    }
    Ok(map)
}
