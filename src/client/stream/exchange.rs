//! One exchange: sends a request and receives the head of its answer.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::guard::StreamGuard;
use super::resume_state::ResumeState;
use super::run::{Attempt, Unfinished};
use super::shared::Shared;
use super::tally::Tally;
use crate::client::channel::sender::TokenSender;
use crate::client::http::client::Outgoing;
use crate::client::http::headers::{open_headers, sensitive_headers};
use crate::client::http::response::HttpResponse;
use crate::client::http::slot::Wait;
use crate::client::http::{ACCEPT, HeaderMap, HeaderValue, Method, Uri};
use crate::client::policy::retry::Advice;
use crate::client::saved::request::{SavedRequest, Sent};
use crate::error::secrets::Secrets;
use crate::error::{Error, Timer};
use crate::protocol::chunk::decoder::Completion;
use crate::protocol::request::completion::CompletionRequest;
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;
use crate::recording::Request;

const REQUEST_ID: &str = "x-request-id";

/// The parts of a request that do not depend on the server that receives it.
pub(super) struct RequestPlan {
    pub(super) endpoint: Endpoint,
    /// The headers of the request itself. They replace headers of the client with the same names.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) requested: Requested,
}

impl RequestPlan {
    /// Returns the plan that sends a saved request again, with exactly the same bytes.
    pub(super) fn of_saved(saved: &SavedRequest) -> Self {
        Self {
            endpoint: saved.endpoint(),
            headers: saved.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            body: saved.body().to_vec(),
            requested: Requested { call: saved.is_call(), ..Requested::default() },
        }
    }
}

/// The properties of a request that affect how it is sent and how its answer is read.
#[derive(Clone, Default)]
pub(super) struct Requested {
    /// The kind of server, if it was known when the body was built.
    pub(super) server: Option<ServerKind>,
    pub(super) ids: bool,
    /// True if the answer arrives as a whole, not as a stream.
    pub(super) call: bool,
    /// True if the exchange is recorded.
    pub(super) record: bool,
    /// The session. Requests with the same session are sent to the same server.
    pub(super) session: Option<String>,
    /// The server at which another request of the same stream is waiting.
    pub(super) avoid: Option<usize>,
}

impl Requested {
    pub(super) fn of(request: &CompletionRequest, server: Option<ServerKind>, call: bool) -> Self {
        Self {
            ids: request.asks_for_ids(server.as_ref(), !call),
            server,
            call,
            record: request.is_recorded(),
            session: request.session_key().map(str::to_owned),
            avoid: None,
        }
    }
}

pub(super) struct Exchange {
    pub(super) shared: Arc<Shared>,
    /// The URL of the request for each server of the client.
    pub(super) urls: Vec<Uri>,
    pub(super) endpoint: Endpoint,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) requested: Requested,
}

impl Exchange {
    /// Creates an exchange, but does not begin it.
    pub(super) fn new(shared: Arc<Shared>, plan: RequestPlan) -> Result<Self, Error> {
        let RequestPlan { endpoint, headers, body, requested } = plan;
        let (path, accept) = match requested.call {
            true => (endpoint.call_path(), "application/json"),
            false => (endpoint.path(), "text/event-stream"),
        };
        let urls = shared.backend.urls(path)?;
        let mut headers = shared.backend.headers(&headers)?;
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static(accept));
        Ok(Self { shared, urls, endpoint, headers, body, requested })
    }

    /// Makes the exchange on a thread, and retries it as often as the policy allows.
    ///
    /// If this function returns an error, the exchange has not begun.
    pub(super) fn start(
        self,
        resume_state: ResumeState,
        attempt: impl Fn(&Self, &mut Tally, &mut Option<TokenSender>) -> Attempt + Send + 'static,
    ) -> Result<StreamGuard, Error> {
        let shared = self.shared.clone();
        Arc::new(self).run(resume_state, attempt).inspect_err(|_| shared.never_began())?;
        Ok(StreamGuard::new(shared))
    }

    pub(super) fn run(
        self: Arc<Self>,
        resume_state: ResumeState,
        attempt: impl Fn(&Self, &mut Tally, &mut Option<TokenSender>) -> Attempt + Send + 'static,
    ) -> Result<(), Error> {
        let (shared, secrets, saver) =
            (self.shared.clone(), Secrets::of(sensitive_headers(&self.headers)), self.clone());
        shared.start(
            secrets,
            resume_state,
            move |tally, sender| attempt(&self, tally, sender),
            move |route, error| saver.save(route, error),
        )
    }

    /// Makes one exchange whose answer is a stream.
    pub(super) fn attempt(&self, tally: &mut Tally, sender: &mut Option<TokenSender>) -> Attempt {
        self.exchange(tally, |response, tally| self.answer(response, tally, sender))
    }

    /// Sends the request and waits for the head of the answer.
    ///
    /// This function then calls `read`, which reads the body and returns the position where it
    /// ended.
    pub(super) fn exchange(
        &self,
        tally: &mut Tally,
        read: impl FnOnce(&mut HttpResponse, &mut Tally) -> Result<(Completion, ReadUntil), Unfinished>,
    ) -> Attempt {
        let Self { shared, requested, .. } = self;
        let (backend, slot) = (&shared.backend, &shared.slot);
        let next = self.next(tally)?;
        let (url, body) = (next.url, &*next.body);
        log::debug!("POST {}: {} bytes", url.path(), body.len());
        let max_stale_retries = backend.retry.max_stale_retries;
        let outgoing =
            Outgoing { method: Method::POST, url, headers: next.headers.clone(), body, max_stale_retries };
        let answer = backend.http.send(outgoing, slot, self.wait(tally, Instant::now()));
        tally.sent(slot);
        let mut response = answer?;
        tally.head(&response);
        tally.advice = Advice::of(|name| response.header(name), SystemTime::now());
        log_head(&response, shared.started.elapsed(), &tally.secrets);
        if requested.record {
            response.record(next.recorded(), shared.started, backend.limits.max_recording_bytes);
        }
        let result = read(&mut response, tally);
        tally.bytes(response.bytes());
        let recording = response.take_recording();
        tally.report.recording = recording.map(|recording| Arc::new(recording.without(&tally.secrets)));
        let (completion, until) = result?;
        tally.completed(&completion);
        Ok((completion, (until == ReadUntil::Terminator).then_some(response)))
    }

    /// Copies the exchange for a second request.
    ///
    /// The second request goes to another server if another server works.
    pub(super) fn again(&self, shared: Arc<Shared>) -> Result<Self, Error> {
        let Self { urls, endpoint, headers, body, requested, .. } = self;
        let (mut headers, mut requested) = (headers.clone(), requested.clone());
        if let Some(id) = headers.get(REQUEST_ID).cloned() {
            headers.insert(REQUEST_ID, with_suffix(&id, "hedge")?);
        }
        requested.avoid = Some(self.shared.route.load(Ordering::Relaxed));
        Ok(Self { shared, urls: urls.clone(), endpoint: *endpoint, headers, body: body.clone(), requested })
    }

    /// Decides what the next attempt sends, and to which server.
    fn next(&self, tally: &mut Tally) -> Result<Next<'_>, Error> {
        let Self { shared, urls, endpoint: _, headers, body, requested } = self;
        let tried = if tally.failed_at.is_empty() { requested.avoid.as_slice() } else { &tally.failed_at };
        tally.goes_to(shared.backend.route(requested.session.as_deref(), tried));
        shared.route.store(tally.report.route, Ordering::Relaxed);
        let url = urls.get(tally.report.route).ok_or_else(|| Error::invalid("the client has no server"))?;
        let mut headers = headers.clone();
        if let (n @ 1.., Some(id)) = (tally.requests_before(), headers.get(REQUEST_ID).cloned()) {
            headers.insert(REQUEST_ID, with_suffix(&id, &n.to_string())?);
        }
        let body = match tally.resume_state.next_request() {
            None => Cow::Borrowed(&**body),
            // This body has the same fields as the first body, even if the kind of server has been
            // detected since then.
            Some(request) => Cow::Owned(shared.backend.body(&request, requested.server.as_ref())?),
        };
        Ok(Next { url, headers, body })
    }

    /// Saves the request that ended with `error`, if the client has a folder for failed requests.
    pub(super) fn save(&self, route: usize, error: Error) -> Error {
        let Self { shared, urls, endpoint, headers, body, requested } = self;
        let (Some(folder), Some(url)) = (&shared.backend.failed, urls.get(route)) else { return error };
        let sent = Sent { url, endpoint: *endpoint, headers, body: body.clone(), call: requested.call };
        let path = folder.save(&SavedRequest::new(sent, &error));
        error.with_saved_path(path)
    }

    /// Returns the limit of the next wait: the timer that has the least time left at `now`.
    pub(super) fn wait(&self, tally: &Tally, now: Instant) -> Option<Wait> {
        let (timeouts, started) = (&self.shared.backend.timeouts, self.shared.started);
        let deadline = timeouts.deadline.map(|limit| Wait::since(started, limit, Timer::Deadline));
        let (first, second) = if !tally.begun {
            let began = tally.attempt_began;
            (timeouts.first_token.map(|limit| Wait::since(began, limit, Timer::FirstToken)), None)
        } else {
            (
                timeouts.chunk.map(|limit| Wait::each(limit, Timer::Chunk)),
                timeouts.content.map(|limit| Wait::since(tally.content_since, limit, Timer::Content)),
            )
        };
        let tail = tally.finished.zip(timeouts.after_finish);
        let tail = tail.map(|(finished, limit)| Wait::since(finished, limit, Timer::AfterFinish));
        nearer(nearer(nearer(first, second, now), tail, now), deadline, now)
    }
}

/// Returns the wait that ends earlier.
///
/// This function runs for each read of the socket. An iterator over all waits took twice as long.
fn nearer(one: Option<Wait>, other: Option<Wait>, now: Instant) -> Option<Wait> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.left(now) < one.left(now) { other } else { one }),
        (one, other) => one.or(other),
    }
}

/// Appends a suffix to a request id, so that no two requests share an id.
fn with_suffix(id: &HeaderValue, suffix: &str) -> Result<HeaderValue, Error> {
    let id = [id.as_bytes(), b"-", suffix.as_bytes()].concat();
    HeaderValue::from_bytes(&id).map_err(|_| Error::invalid("the request id cannot be sent in a header"))
}

/// The next request, and the URL that it is sent to.
struct Next<'a> {
    url: &'a Uri,
    headers: HeaderMap,
    body: Cow<'a, [u8]>,
}

impl Next<'_> {
    /// Returns the request for a recording, without anything that could be a credential.
    fn recorded(&self) -> Request {
        let request = Request::new("POST", self.url.path()).with_body(self.body.to_vec());
        open_headers(&self.headers).fold(request, |request, (name, value)| request.with_header(name, value))
    }
}

/// The position in the body where reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadUntil {
    /// The end of the body, or a position after which the answer needs no more bytes.
    End,
    Terminator,
    /// A stop string that began before the break. The server cannot detect such a stop string.
    StopString,
}

fn log_head(response: &HttpResponse, elapsed: Duration, secrets: &Secrets) {
    if !log::log_enabled!(log::Level::Debug) {
        return;
    }
    log::debug!("status {} after {elapsed:.3?}", response.status());
    for (name, value) in response.headers_with(&["x-ratelimit-", "x-request-id"]) {
        log::debug!("{name}: {}", secrets.word(value));
    }
}
