//! One exchange: a request out, its answer read into the channel.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use ureq::http::header::HeaderValue;
use ureq::http::{HeaderMap, Method, Uri};

use super::report::Outcome;
use super::run::{Attempt, Broken};
use super::tally::Tally;
use super::{Asked, Shared};
use crate::client::channel::sender::{Stopped, TokenSender};
use crate::client::http::response::HttpResponse;
use crate::client::http::slot::Wait;
use crate::client::http::{Outgoing, open_headers};
use crate::client::policy::retry::Advice;
use crate::client::saved::{SavedRequest, Sent};
use crate::error::secrets::Secrets;
use crate::error::{Error, Timer};
use crate::protocol::chunk::body::{BodyDecoder, Step};
use crate::protocol::chunk::decoder::{ChunkDecoder, Completion};
use crate::protocol::server::endpoint::Endpoint;
use crate::recording::Request;
use crate::types::ids::{FinishReason, IdsExact};
use crate::types::token::StreamToken;

/// Room that is offered to the first read of a body. A server sends a token by itself, and a thousand streams each keep
/// what one of them was given.
const MIN_READ_BYTES: usize = 2 << 10;
/// The most that is offered; doubled up to this while reads fill what they were offered.
const MAX_READ_BYTES: usize = 16 << 10;
const REQUEST_ID: &str = "x-request-id";

pub(super) struct Exchange {
    pub(super) shared: Arc<Shared>,
    /// At each of the client's servers.
    pub(super) urls: Vec<Uri>,
    pub(super) endpoint: Endpoint,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) asked: Asked,
}

impl Exchange {
    /// One exchange, its answer a stream.
    pub(super) fn attempt(&self, tally: &mut Tally, sender: &mut Option<TokenSender>) -> Attempt {
        self.exchange(tally, |response, tally| self.answer(response, tally, sender))
    }

    /// The request out, the head in; then `read` takes the answer from its head on, and says how far its body was
    /// read.
    pub(super) fn exchange(
        &self,
        tally: &mut Tally,
        read: impl FnOnce(&mut HttpResponse, &mut Tally) -> Result<(Completion, Till), Broken>,
    ) -> Attempt {
        let Self { shared, asked, .. } = self;
        let (client, slot) = (&shared.client, &shared.slot);
        let next = self.next(tally)?;
        let (url, body) = (next.url, &*next.body);
        log::debug!("POST {}: {} bytes", url.path(), body.len());
        let max_stale_retries = client.retry.max_stale_retries;
        let outgoing =
            Outgoing { method: Method::POST, url, headers: next.headers.clone(), body, max_stale_retries };
        let answer = client.http.send(outgoing, slot, self.wait(tally, Instant::now()));
        tally.sent(slot);
        let mut response = answer?;
        tally.head(&response);
        tally.advice = Advice::of(|name| response.header(name), SystemTime::now());
        log_head(&response, shared.started.elapsed(), &tally.secrets);
        if asked.record {
            response.record(next.recorded(), shared.started, client.limits.max_recording_bytes);
        }
        let result = read(&mut response, tally);
        tally.bytes(response.bytes());
        let recording = response.take_recording();
        tally.report.recording = recording.map(|recording| Arc::new(recording.without(&tally.secrets)));
        let (completion, till) = result?;
        tally.completed(&completion);
        Ok((completion, (till == Till::Terminator).then_some(response)))
    }

    /// The same once more, beside it, at another server if there is one.
    pub(super) fn again(&self, shared: Arc<Shared>) -> Result<Self, Error> {
        let Self { urls, endpoint, headers, body, asked, .. } = self;
        let (mut headers, mut asked) = (headers.clone(), asked.clone());
        if let Some(id) = headers.get(REQUEST_ID).cloned() {
            headers.insert(REQUEST_ID, with_suffix(&id, "hedge")?);
        }
        asked.avoid = Some(self.shared.route.load(Ordering::Relaxed));
        Ok(Self { shared, urls: urls.clone(), endpoint: *endpoint, headers, body: body.clone(), asked })
    }

    /// What the next attempt sends, and where to: the one place that decides it.
    fn next(&self, tally: &mut Tally) -> Result<Next<'_>, Error> {
        let Self { shared, urls, endpoint: _, headers, body, asked } = self;
        let tried = if tally.failed_at.is_empty() { asked.avoid.as_slice() } else { &tally.failed_at };
        tally.goes_to(shared.client.route(asked.session.as_deref(), tried));
        shared.route.store(tally.report.route, Ordering::Relaxed);
        let url = urls.get(tally.report.route).ok_or_else(|| Error::invalid("the client has no server"))?;
        let mut headers = headers.clone();
        if let (n @ 1.., Some(id)) = (tally.requests_before(), headers.get(REQUEST_ID).cloned()) {
            headers.insert(REQUEST_ID, with_suffix(&id, &n.to_string())?);
        }
        let body = match tally.received.next_request() {
            None => Cow::Borrowed(&**body),
            // In the words of the first, whatever was learned of the server since.
            Some(request) => Cow::Owned(shared.client.body(&request, asked.server.as_ref())?),
        };
        Ok(Next { url, headers, body })
    }

    /// The answer from its head on; how far its body was read.
    fn answer(
        &self,
        response: &mut HttpResponse,
        tally: &mut Tally,
        sender: &mut Option<TokenSender>,
    ) -> Result<(Completion, Till), Broken> {
        let shared = &self.shared;
        let client = &shared.client;
        client.check_head(response, &tally.secrets)?;
        // None: cancelled in a connect that went through all the same.
        let taken = shared.take_sender().ok_or(Broken::Left(Outcome::Cancelled))?;
        let sender = sender.insert(taken);

        let mut body = BodyDecoder::new(self.endpoint).limits(&client.limits);
        if self.asked.ids {
            body = body.ids_asked(self.asked.server.clone());
        }
        let result = self.read(response, &mut body, tally, sender).and_then(|till| {
            if till == Till::StopString {
                return Ok((stopped_short(body.chunks()), till));
            }
            let completion = body.finish().map_err(|error| match response.header("content-type") {
                // Of a body that is no event stream, the message tells which type it came under.
                kind @ Some(_) if body.is_other() => body.not_an_event_stream(kind),
                _ => error,
            })?;
            if let Some(rest) = tally.received.rest()? {
                self.send(&mut vec![rest], Instant::now(), tally, sender)?;
            }
            Ok((completion, till))
        });
        tally.read(&body);
        if let Ok((completion, Till::StopString)) = &result {
            tally.report.finish.clone_from(&completion.finish);
        }
        if let Some(first) = body.chunks().first_skipped() {
            log::debug!("{} events are no JSON object and were skipped", body.chunks().skipped());
            log::trace!("the first of them: {}", tally.secrets.redact(first));
        }
        if let Some(server) = body.chunks().server() {
            client.learn(server);
        }
        result
    }

    /// Saves the request that ended with `error`, if the client has a folder for that.
    pub(super) fn save(&self, route: usize, error: Error) -> Error {
        let Self { shared, urls, endpoint, headers, body, asked } = self;
        let (Some(folder), Some(url)) = (&shared.client.failed, urls.get(route)) else { return error };
        let sent = Sent { url, endpoint: *endpoint, headers, body: body.clone(), call: asked.call };
        let path = folder.save(&SavedRequest::new(sent, &error));
        error.with_saved_path(path)
    }

    /// Reads until the answer's end.
    fn read(
        &self,
        response: &mut HttpResponse,
        body: &mut BodyDecoder,
        tally: &mut Tally,
        sender: &mut TokenSender,
    ) -> Result<Till, Broken> {
        let mut batch = Vec::new();
        let mut now = Instant::now();
        let mut room = MIN_READ_BYTES;
        loop {
            let space = body.zeroed_space(room);
            let offered = space.len();
            let len = match response.read(space, self.wait(tally, now)) {
                Ok(len) => len,
                // The answer is whole; only what comes after it was lost, or not waited for: usage, terminator, framing.
                Err(error) if !error.is_cancelled() && body.is_complete() => return Ok(Till::End),
                Err(error) => return Err(error.into()),
            };
            if len == 0 {
                return Ok(Till::End);
            }
            body.filled(len);
            if len == offered {
                room = MAX_READ_BYTES.min(room * 2);
            }
            if body.is_other() {
                body.feed(&response.error_body());
                return Ok(Till::End);
            }
            now = Instant::now();
            let waited = sender.waited();
            loop {
                let step = body.decode_event(&mut |_, token| batch.push(token));
                if !tally.begun && body.chunks().has_begun() {
                    tally.begun = true;
                    self.shared.client.routes.worked(tally.report.route);
                }
                let stopped = tally.received.event(&mut batch)?;
                if !batch.is_empty() {
                    self.send(&mut batch, now, tally, sender)?;
                }
                match step? {
                    _ if stopped => {
                        tally.event(now);
                        return Ok(Till::StopString);
                    }
                    Step::Event => tally.event(now),
                    Step::More => break,
                    Step::Ended => {
                        tally.event(now);
                        return Ok(Till::Terminator);
                    }
                }
            }
            let waited = sender.waited() - waited;
            if !waited.is_zero() {
                tally.consumer_waited(waited);
                now = Instant::now();
            }
            if body.is_complete() {
                tally.finished.get_or_insert(now);
            }
        }
    }

    /// Hands out tokens that came at `now`.
    fn send(
        &self,
        tokens: &mut Vec<StreamToken>,
        now: Instant,
        tally: &mut Tally,
        sender: &mut TokenSender,
    ) -> Result<(), Broken> {
        let shared = &self.shared;
        let limit = shared.client.timeouts.deadline;
        let deadline = limit.and_then(|limit| shared.started.checked_add(limit));
        let mut sent = Ok(());
        let mut count = 0;
        for token in tokens.drain(..) {
            let size = token.text_bytes();
            sent = sender.send(token, size, shared.slot.woken(), deadline);
            // What was received before a deadline is delivered.
            if matches!(sent, Err(Stopped::ConsumerGone | Stopped::Cancelled)) {
                break;
            }
            count += 1;
        }
        if count > 0 {
            // At once, and not when the stream ends: in an outage all end together.
            if tally.report.first_token.is_none() {
                shared.client.retry_budget.refund();
            }
            tally.tokens(now, count);
        }
        sent.map_err(|stopped| stopped_error(stopped, limit))
    }

    /// What bounds the next wait for the server: the timer that has the least left at `now`.
    pub(super) fn wait(&self, tally: &Tally, now: Instant) -> Option<Wait> {
        let (timeouts, started) = (&self.shared.client.timeouts, self.shared.started);
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

/// The one that has less left at `now`. For each read of the socket: an iterator over all of them took twice as long.
fn nearer(one: Option<Wait>, other: Option<Wait>, now: Instant) -> Option<Wait> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.left(now) < one.left(now) { other } else { one }),
        (one, other) => one.or(other),
    }
}

/// No two requests share an id.
fn with_suffix(id: &HeaderValue, suffix: &str) -> Result<HeaderValue, Error> {
    let id = [id.as_bytes(), b"-", suffix.as_bytes()].concat();
    HeaderValue::from_bytes(&id).map_err(|_| Error::invalid("the request id cannot be sent"))
}

/// What goes out, and where to.
struct Next<'a> {
    url: &'a Uri,
    headers: HeaderMap,
    body: Cow<'a, [u8]>,
}

impl Next<'_> {
    /// The request as it may be kept: without whatever could be a credential.
    fn recorded(&self) -> Request {
        let request = Request::new("POST", self.url.path()).with_body(self.body.to_vec());
        open_headers(&self.headers).fold(request, |request, (name, value)| request.with_header(name, value))
    }
}

/// How far a body was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Till {
    /// To its end; or a part of it that nobody needs was lost.
    End,
    Terminator,
    /// To a stop string that began before the break, so that the server did not see it and goes on.
    StopString,
}

/// An answer that the client ends, as the server would have.
fn stopped_short(chunks: &ChunkDecoder) -> Completion {
    Completion {
        usage: chunks.usage(),
        finish: Some(FinishReason::Stop),
        // The server has not counted to the end.
        ids_exact: match chunks.ids_exact() {
            IdsExact::Yes => IdsExact::Unknown,
            exact => exact,
        },
    }
}

pub(super) fn stopped_error(stopped: Stopped, deadline: Option<Duration>) -> Broken {
    match stopped {
        Stopped::ConsumerGone => Broken::Left(Outcome::ConsumerGone),
        Stopped::Cancelled => Broken::Left(Outcome::Cancelled),
        Stopped::Deadline => Broken::Error(Error::timeout(Timer::Deadline, deadline.unwrap_or_default())),
    }
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
