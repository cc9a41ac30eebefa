//! What a client is made of, and how: settings with their defaults, checked when it is built.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::ApiClient;
use super::backend::Backend;
use super::backend::base_url::BaseUrl;
use super::backend::request_ids::RequestIds;
use super::http::client::{HttpClient, HttpClientBuilder};
use super::http::headers::header;
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
use crate::protocol::request::completion::CompletionRequest;
use crate::protocol::request::headers::{OWNED_HEADERS, validate_header};
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;

/// Settings of an [`ApiClient`], see [`ApiClient::builder`].
#[derive(Debug, Clone)]
pub struct ApiClientBuilder {
    /// With their weights.
    base_urls: Vec<(String, u32)>,
    routes: RoutePolicy,
    key: Option<Redacted>,
    model: Option<String>,
    endpoint: Endpoint,
    server: Option<ServerKind>,
    headers: Vec<(String, Redacted)>,
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

/// A key, or a header's value, which may be a credential.
#[derive(Clone)]
struct Redacted(String);

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
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

    /// The key, sent as `Authorization: Bearer`. Spaces and line ends around it are removed. Default none.
    ///
    /// Where a server sends it back, it is taken out of errors, logs, reports and recordings, if it has at least 8
    /// characters: a shorter one (`EMPTY`, for a server that wants none) would be found in words that mean something else.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(Redacted(key.into()));
        self
    }

    /// The model to ask for, unless a request names another. Default none: most servers then take the one they have.
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Which endpoint to use and how its chunks are written. Default [`Endpoint::Auto`]: `/v1/completions`, and the first
    /// chunk tells whose it is.
    #[must_use]
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoint = endpoint;
        self
    }

    /// What the server is. Default: not known until it has answered once; the first request then asks for ids
    /// in every way known. [`ServerKind::by_name`] and [`ServerKind::from_json`] have those that a record describes.
    #[must_use]
    pub fn server(mut self, server: ServerKind) -> Self {
        self.server = Some(server);
        self
    }

    /// A header for every request: a router's affinity key, a trace. Its value is treated like a credential: it is shown
    /// nowhere, and from 8 characters on also not where a server sends it back. Spaces and line ends around it are removed. Of the
    /// headers that the client writes itself ([`CompletionRequest::validate`] lists them) only `authorization` can be
    /// given, for another scheme than `Bearer`.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), Redacted(value.into())));
        self
    }

    /// The headers in which the key of a request's [`session`](CompletionRequest::session) is sent, in place of the default,
    /// `x-session-affinity` (Fireworks, Together). Routers have names of their own: with vllm-router's policy
    /// `consistent_hash` it is `x-session-id`.
    #[must_use]
    pub fn session_headers<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.session_headers = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sends a request's [`priority`](CompletionRequest::priority) in this header and not in the body, for a router that
    /// queues. Default: in the body.
    #[must_use]
    pub fn priority_header(mut self, name: impl Into<String>) -> Self {
        self.priority_header = Some(name.into());
        self
    }

    /// Gives each request that has no [`request_id`](CompletionRequest::request_id) one: `prefix`, a number drawn for
    /// this client, and the request's own number, joined by `-`. Default: it is left to the server.
    #[must_use]
    pub fn request_ids(mut self, prefix: impl Into<String>) -> Self {
        self.request_ids = Some(prefix.into());
        self
    }

    /// All timers at once; see [`Timeouts`] for their defaults.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// All limits at once; see [`Limits`] for their defaults.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Whether and when a request that failed before its first token is sent again; see [`RetryPolicy`] for its
    /// defaults.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// How often a request that failed before its first token is sent again: [`RetryPolicy::max_retries`] alone.
    /// Default 2; 0 for never. A kept connection that was closed is another matter: [`RetryPolicy::max_stale_retries`].
    #[must_use]
    pub fn retries(mut self, max_retries: u32) -> Self {
        self.retry.max_retries = max_retries;
        self
    }

    /// Takes streams up again that broke off after tokens; see [`ResumePolicy`] for what that means, and its defaults.
    /// Default: none is.
    #[must_use]
    pub fn resume(mut self, policy: ResumePolicy) -> Self {
        self.resume = policy;
        self
    }

    /// How many requests are sent to take one stream up again: [`ResumePolicy::max_resumes`] alone. Default 0, never.
    #[must_use]
    pub fn resumes(mut self, max_resumes: u32) -> Self {
        self.resume.max_resumes = max_resumes;
        self
    }

    /// What happens to a stream over [`Limits::max_streams`]. Default [`WhenFull::Wait`].
    #[must_use]
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.when_full = policy;
        self
    }

    /// Saves the request of every stream that fails as a file in `folder`, to be looked at or sent again
    /// ([`ApiClient::resend`]): prompt and parameters, where it went, and why it failed; see [`SavedRequest`](crate::SavedRequest). Not saved: streams
    /// that completed, were cancelled or lost their consumer, and requests that were refused before there was a stream.
    /// The file's path is in the error ([`Error::saved_path`]), which comes after the file has been written. Default: none.
    ///
    /// No credential is in the file: neither the key, wherever it stands, nor any header but `accept`, `content-type`,
    /// `traceparent`, `user-agent` and `x-request-id`. Prompts are, so it is for its owner's eyes only (mode 0600).
    ///
    /// The folder is made when it is first needed, for its owner only (0700), and must not be a symbolic link; one that is
    /// there keeps its mode. Several clients and processes may share it. [`Limits::max_saved_files`] and
    /// [`Limits::max_saved_bytes`] bound what is kept; the oldest make room, other files are left alone. If saving fails, the
    /// log says so (the first time at warn) and the stream's error comes without a path.
    #[must_use]
    pub fn save_failed(mut self, folder: impl Into<PathBuf>) -> Self {
        self.save_failed = Some(folder.into());
        self
    }

    /// As [`HttpClientBuilder::ca_pem`].
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.http = self.http.ca_pem(pem);
        self
    }

    /// One more server. All have to be of one kind and to serve the same model: a stream that fails at one is sent to
    /// another, as a retry before its first token, and as a resume, if the client has them ([`resume`](Self::resume)), after it.
    /// That does not wait, as a second request to the same server would, but counts against the same limits and budget. Which
    /// server a stream goes to, and when one is left out, [`routes`](Self::routes) says.
    ///
    /// The key and all headers go to each of them. What is no stream or call ([`models`](ApiClient::models),
    /// [`tokenize`](ApiClient::tokenize)) is asked of the first that works, once.
    ///
    /// A server that dies breaks all its streams at once, and each of them takes one out of the
    /// [`budget`](RetryPolicy::budget) to go elsewhere: for all to go on, it has to be as large as they are many.
    #[must_use]
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_urls.push((url.into(), 1));
        self
    }

    /// The weight of the server that was named last, for [`Balance::Weighted`](crate::Balance::Weighted). Default 1; 0 counts
    /// as 1.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        if let Some((_, of_last)) = self.base_urls.last_mut() {
            *of_last = weight;
        }
        self
    }

    /// How streams are shared out among several servers; see [`RoutePolicy`] for its defaults.
    #[must_use]
    pub fn routes(mut self, policy: RoutePolicy) -> Self {
        self.routes = policy;
        self
    }

    /// As [`HttpClientBuilder::proxy`].
    #[must_use]
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.http = self.http.proxy(url);
        self
    }

    /// Connects to a server in memory, whatever the base URL says (its host an IP address, its scheme `http`).
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn in_memory(mut self, server: &InMemory) -> Self {
        self.http = self.http.memory(server.clone());
        self
    }

    /// Makes the client. Nothing is sent and no thread is started yet.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): a base URL that is not `http` or `https`, holds a user name
    /// or a query; a key or a header that HTTP cannot carry; a CA text without a certificate.
    pub fn build(self) -> Result<ApiClient, Error> {
        let Self {
            base_urls,
            routes,
            key,
            model,
            endpoint,
            server,
            headers,
            session_headers,
            priority_header,
            request_ids,
            timeouts,
            limits,
            retry,
            resume,
            when_full,
            save_failed,
            http,
        } = self;
        let timeouts = timeouts.bounded();
        let (bases, routes) = servers(&base_urls, routes)?;
        let key = key.map(|key| ApiKey::new(&key.0)).transpose()?;
        let headers = header_map(&headers, key.as_ref())?;
        // Only the names are checked: any value will do.
        let names = session_headers.iter().chain(&priority_header);
        names.fold(CompletionRequest::text(""), |request, name| request.header(name, "0")).validate()?;
        let request_ids = request_ids.map(RequestIds::new).transpose()?;
        if headers.contains_key(AUTHORIZATION) && bases.iter().any(BaseUrl::is_plain_and_far) {
            log::warn!("the API key goes over http, readable by everybody between here and the server");
        }
        let http = http.timeouts(timeouts).limits(limits).build()?;
        let max_wait = timeouts.before_first_token().map(|(_, limit)| limit);
        Ok(ApiClient(Arc::new(Backend {
            pool: ReaderPool::new(
                limits.max_streams,
                limits.max_waiting_streams,
                when_full,
                max_wait,
                http.alarms(),
            ),
            http,
            timeouts,
            limits,
            retry,
            retry_budget: Budget::new(retry.budget),
            resume,
            key,
            failed: save_failed.map(|path| Folder::new(&path, &limits)),
            endpoint,
            bases,
            routes,
            model,
            headers,
            session_headers,
            priority_header,
            request_ids,
            server: Mutex::new(server),
            probed: AtomicBool::new(false),
        })))
    }
}

/// The servers, in two forms: where requests go, and which of them is chosen.
fn servers(base_urls: &[(String, u32)], policy: RoutePolicy) -> Result<(Vec<BaseUrl>, Routes), Error> {
    let bases = base_urls.iter().map(|(url, _)| BaseUrl::new(url)).collect::<Result<Vec<_>, _>>()?;
    let weights = base_urls.iter().map(|(_, weight)| *weight);
    let routes = Routes::new(policy, bases.iter().map(|base| base.api.clone()).zip(weights));
    Ok((bases, routes))
}

/// The headers of every request: the caller's, and the key.
fn header_map(headers: &[(String, Redacted)], key: Option<&ApiKey>) -> Result<HeaderMap, Error> {
    // The caller can set `authorization`, for another scheme than the key's.
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
