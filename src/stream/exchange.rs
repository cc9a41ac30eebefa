//! One exchange: a request out, its answer read into the channel.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ureq::http::header::HeaderValue;
use ureq::http::{HeaderMap, Method, Uri};

use super::run::{Attempt, Broken, token_sender};
use super::tally::Tally;
use super::{Asked, Shared};
use crate::body::{BodyDecoder, Step};
use crate::chunk::{Completion, Wire};
use crate::diagnostics::{SavedRequest, Sent};
use crate::error::{Error, Timer};
use crate::http::slot::Wait;
use crate::http::{HttpResponse, Outgoing, open_headers};
use crate::queue::{Stopped, TokenSender};
use crate::recording::Request;
use crate::report::Ending;
use crate::retry::Advice;
use crate::secrets::Secrets;

/// Room that is offered to each read of the socket.
const READ_BYTES: usize = 16 << 10;

pub(super) struct Exchange {
    pub(super) shared: Arc<Shared>,
    pub(super) url: Uri,
    pub(super) wire: Wire,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) asked: Asked,
}

impl Exchange {
    /// One exchange.
    pub(super) fn attempt(&self, tally: &mut Tally, sender: &mut Option<TokenSender>) -> Attempt {
        let Self { shared, url, headers, body, asked, wire: _ } = self;
        let (client, slot) = (&shared.client, &shared.slot);
        log::debug!("POST {}: {} bytes", url.path(), body.len());
        let mut headers = headers.clone();
        if let (1.., Some(id)) = (tally.report.retries, headers.get("x-request-id").cloned()) {
            let id = [id.as_bytes(), format!("-{}", tally.report.retries).as_bytes()].concat();
            let id =
                HeaderValue::from_bytes(&id).map_err(|_| Error::invalid("the request id cannot be sent"))?;
            headers.insert("x-request-id", id);
        }
        let stale_retries_max = client.retry.stale_retries_max;
        let outgoing = Outgoing { method: Method::POST, url, headers, body, stale_retries_max };
        let answer = client.http.send(outgoing, slot, self.wait(tally, Instant::now()));
        tally.sent(slot);
        let mut response = answer?;
        tally.head(&response);
        tally.advice = Advice::of(|name| response.header(name), SystemTime::now());
        log_head(&response, shared.started.elapsed(), &tally.secrets);
        if asked.record {
            response.record(self.recorded_request(), shared.started, client.limits.recording_bytes_max);
        }
        let result = self.answer(&mut response, tally, sender);
        tally.report.bytes = response.bytes();
        let recording = response.take_recording();
        tally.report.recording = recording.map(|recording| Arc::new(recording.without(&tally.secrets)));
        let (completion, at_end) = result?;
        tally.completed(&completion);
        Ok((completion, (!at_end).then_some(response)))
    }

    /// The answer from its head on; whether its body was read to the end.
    fn answer(
        &self,
        response: &mut HttpResponse,
        tally: &mut Tally,
        sender: &mut Option<TokenSender>,
    ) -> Result<(Completion, bool), Broken> {
        let shared = &self.shared;
        let client = &shared.client;
        client.check_head(response, &tally.secrets)?;
        // None: cancelled in a connect that went through all the same.
        let taken = shared.take_sender().ok_or(Broken::Left(Ending::Cancelled))?;
        let sender = sender.insert(token_sender(shared, taken));

        let mut body = BodyDecoder::new(self.wire).limits(&client.limits);
        if let Some(server) = self.asked.ids_of {
            body = body.ids_asked(server);
        }
        let result = self.read(response, &mut body, tally, sender).and_then(|at_end| {
            let completion = body.finish().map_err(|error| match response.header("content-type") {
                // Of a body that is no event stream, the message tells which type it came under.
                kind @ Some(_) if body.is_other() => body.not_an_event_stream(kind),
                _ => error,
            })?;
            Ok((completion, at_end))
        });
        tally.read(&body);
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
    pub(super) fn save(&self, error: Error) -> Error {
        let Self { shared, url, wire, headers, body, asked: _ } = self;
        let Some(folder) = &shared.client.failed else { return error };
        let sent = Sent { url, wire: *wire, headers, body: body.clone() };
        let path = folder.save(&SavedRequest::new(sent, &error));
        error.with_saved_path(path)
    }

    /// The request as it may be kept: without whatever could be a credential.
    fn recorded_request(&self) -> Request {
        let request = Request::new("POST", self.url.path()).with_body(self.body.clone());
        open_headers(&self.headers).fold(request, |request, (name, value)| request.with_header(name, value))
    }

    /// Reads until the terminator (false) or the end of the body (true).
    fn read(
        &self,
        response: &mut HttpResponse,
        body: &mut BodyDecoder,
        tally: &mut Tally,
        sender: &mut TokenSender,
    ) -> Result<bool, Broken> {
        let shared = &self.shared;
        let limit = shared.client.timeouts.deadline;
        let deadline = limit.and_then(|limit| shared.started.checked_add(limit));
        let mut batch = Vec::new();
        let mut now = Instant::now();
        loop {
            let len = match response.read(body.zeroed_space(READ_BYTES), self.wait(tally, now)) {
                Ok(len) => len,
                // The answer is whole; only what comes after it was lost, or not waited for: usage, terminator, framing.
                Err(error) if !error.is_cancelled() && body.is_complete() => return Ok(true),
                Err(error) => return Err(error.into()),
            };
            if len == 0 {
                return Ok(true);
            }
            body.filled(len);
            if body.is_other() {
                body.feed(&response.error_body());
                return Ok(true);
            }
            now = Instant::now();
            let waited = sender.waited();
            loop {
                let step = body.decode_event(&mut |_, token| batch.push(token));
                let mut sent = Ok(());
                let mut count = 0;
                for token in batch.drain(..) {
                    let size = token.text_bytes();
                    sent = sender.send(token, size, shared.slot.woken(), deadline);
                    // What was received before a deadline is delivered.
                    if matches!(sent, Err(Stopped::ConsumerGone | Stopped::Cancelled)) {
                        break;
                    }
                    count += 1;
                }
                if count > 0 {
                    tally.tokens(now, count);
                }
                sent.map_err(|stopped| stopped_error(stopped, limit))?;
                match step? {
                    Step::Event => tally.event(now),
                    Step::More => break,
                    Step::Ended => {
                        tally.event(now);
                        return Ok(false);
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

    /// What bounds the next wait for the server: the timer that has the least left at `now`.
    fn wait(&self, tally: &Tally, now: Instant) -> Option<Wait> {
        let (timeouts, started) = (&self.shared.client.timeouts, self.shared.started);
        let deadline = timeouts.deadline.map(|limit| Wait::since(started, limit, Timer::Deadline));
        let (first, second) = if tally.report.first_token.is_none() {
            let began = tally.attempt_began;
            (timeouts.first_token.map(|limit| Wait::since(began, limit, Timer::FirstToken)), None)
        } else {
            (
                timeouts.chunk.map(|limit| Wait::each(limit, Timer::Chunk)),
                timeouts.content.map(|limit| Wait::since(tally.content_since, limit, Timer::Content)),
            )
        };
        let tail = tally.finished.zip(timeouts.tail);
        let tail = tail.map(|(finished, limit)| Wait::since(finished, limit, Timer::Tail));
        [first, second, tail, deadline].into_iter().flatten().min_by_key(|wait| wait.left(now))
    }
}

pub(super) fn stopped_error(stopped: Stopped, deadline: Option<Duration>) -> Broken {
    match stopped {
        Stopped::ConsumerGone => Broken::Left(Ending::ConsumerGone),
        Stopped::Cancelled => Broken::Left(Ending::Cancelled),
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
