//! One stream: a request made and its answer read on a reader thread, tokens into a channel, a guard that
//! ends it.
//!
//! This is the joint where the pure stages meet the socket and the clock. The reader thread owns the
//! exchange; the guard owns the right to end it. They meet in [`Shared`], whose lock decides which of the two
//! was first: an ending that was decided is not taken back by a cancel, a cancel that came first lets no
//! ending through.

use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ureq::http::header::{ACCEPT, HeaderValue};
use ureq::http::{HeaderMap, Method, Uri};

use crate::body::{BodyDecoder, Step, not_an_event_stream};
use crate::chunk::{Completion, Wire, server_error_from_body};
use crate::client::Inner;
use crate::diagnostics::{SavedRequest, Sent};
use crate::error::{Error, ErrorKind, Progress, Timer, printable};
use crate::http::slot::{CancelSlot, Wait};
use crate::http::{HttpResponse, Outgoing, open_headers};
use crate::pool::{Seat, Ticket};
use crate::queue::{Stopped, TokenSender};
use crate::recording::Request;
use crate::report::{Ending, Histogram, StreamReport};
use crate::request::CompletionRequest;
use crate::retry::{self, Advice};
use crate::secrets::Secrets;
use crate::sync::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use crate::sync::{AtomicBool, Condvar, Mutex, MutexGuard};
use crate::token::{FinishReason, StreamToken};

/// Room that is offered to each read of the socket.
const READ_BYTES: usize = 16 << 10;

// ---- the guard ----

/// Ends its stream, or waits for its end.
///
/// Dropping it does what [`on_drop`](Self::on_drop) says: by default the stream is cancelled, now, without
/// waiting for anything.
#[must_use = "dropping the guard cancels the stream"]
pub struct StreamGuard {
    shared: Arc<Shared>,
    on_drop: OnDrop,
}

/// What dropping a [`StreamGuard`] does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnDrop {
    /// [`StreamGuard::cancel`]: the stream ends now, the drop waits for nothing.
    #[default]
    Cancel,
    /// [`StreamGuard::join`]: the drop waits until the stream has ended by itself.
    Join,
}

/// Cancels a stream from anywhere: another thread, a signal handler's thread. Clones cancel the same stream;
/// dropping one does nothing.
#[derive(Clone)]
pub struct Canceller(Arc<Shared>);

impl StreamGuard {
    /// Ends the stream now and does not wait: the socket is shut down under whatever read or write is blocked
    /// on it, the channel is disconnected without a `Done` or an `Error`, and nothing is sent to the server
    /// afterwards. Tokens already in the channel stay readable. A stream that has ended already is left as it
    /// is.
    ///
    /// Inside the operating system's connect a thread cannot be interrupted: the stream ends for its consumer
    /// at once, the thread when its connect timer passes, and it sends nothing.
    pub fn cancel(&self) {
        self.shared.cancel();
    }

    /// Blocks until the stream has ended by itself and says how. What bounds the wait are the stream's own
    /// timers.
    ///
    /// From here on the channel has no bound, so that joining cannot wait for a reader that is not there:
    /// what the consumer does not take stays in the channel, in memory.
    pub fn join(self) -> StreamReport {
        self.shared.join()
    }

    /// The report, if the stream has ended.
    #[must_use]
    pub fn report(&self) -> Option<StreamReport> {
        self.shared.lock().report.clone()
    }

    /// Sets what dropping this guard does. Default [`OnDrop::Cancel`].
    pub fn on_drop(mut self, policy: OnDrop) -> Self {
        self.on_drop = policy;
        self
    }

    /// A handle that can cancel the stream from elsewhere.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller(self.shared.clone())
    }
}

impl Canceller {
    /// As [`StreamGuard::cancel`].
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        match self.on_drop {
            OnDrop::Cancel => self.shared.cancel(),
            OnDrop::Join => drop(self.shared.join()),
        }
    }
}

impl fmt::Debug for StreamGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamGuard")
            .field("ending", &self.shared.lock().report.as_ref().map(|report| report.ending))
            .field("on_drop", &self.on_drop)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").finish_non_exhaustive()
    }
}

// ---- where guard and thread meet ----

struct Shared {
    client: Arc<Inner>,
    slot: Arc<CancelSlot>,
    /// The place in the pool, set before the guard is handed out.
    ticket: OnceLock<Ticket>,
    /// Takes the bound off the channel.
    lifted: Arc<AtomicBool>,
    started: Instant,
    state: Mutex<State>,
    ended: Condvar,
}

struct State {
    /// Here until the response's head is there: a cancel in a connect, which the thread cannot leave, drops
    /// it.
    sender: Option<Sender<StreamToken>>,
    /// How the stream ends is settled, by the thread or by a cancel.
    settled: bool,
    report: Option<StreamReport>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cancel(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.settled, true) {
            return;
        }
        let thread_wakes = self.slot.cancel();
        drop(state);
        let withdrawn = self.ticket.get().is_some_and(|ticket| self.client.pool.withdraw(*ticket));
        if withdrawn || !thread_wakes {
            let mut report = StreamReport::new(Ending::Cancelled);
            report.elapsed = self.started.elapsed();
            drop(self.take_sender());
            self.publish(report);
        }
    }

    fn join(&self) -> StreamReport {
        self.lifted.store(true, Ordering::Release);
        let mut state = self.lock();
        loop {
            if let Some(report) = &state.report {
                return report.clone();
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The thread has come to an ending. False if a cancel was first.
    fn settle(&self) -> bool {
        !std::mem::replace(&mut self.lock().settled, true)
    }

    fn take_sender(&self) -> Option<Sender<StreamToken>> {
        self.lock().sender.take()
    }

    /// Takes the sender back for another attempt, unless a cancel has come meanwhile.
    fn give_back(&self, sender: Option<TokenSender>) {
        let mut state = self.lock();
        if let (false, Some(sender)) = (state.settled, sender) {
            state.sender = Some(sender.into_sender());
        }
    }

    /// Sets the report, once.
    fn publish(&self, report: StreamReport) {
        self.lock().report.get_or_insert(report);
        self.ended.notify_all();
    }
}

// ---- the thread ----

pub(crate) fn start(
    client: &Arc<Inner>,
    request: CompletionRequest,
) -> Result<(Receiver<StreamToken>, StreamGuard), Error> {
    request.validate()?;
    let body = client.body(&request)?;
    launch(client, client.wire, request.headers(), body, request.is_recorded())
}

pub(crate) fn resend(
    client: &Arc<Inner>,
    saved: &SavedRequest,
) -> Result<(Receiver<StreamToken>, StreamGuard), Error> {
    if saved.is_redacted() {
        let why = "the API key was taken out of the saved request, which is not what was sent";
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    launch(client, saved.wire(), saved.headers(), saved.body().to_vec(), false)
}

fn launch<'a>(
    client: &Arc<Inner>,
    wire: Wire,
    own_headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: Vec<u8>,
    record: bool,
) -> Result<(Receiver<StreamToken>, StreamGuard), Error> {
    let (path, at_root) = wire.path();
    let url = client.url(path, at_root)?;
    let mut headers = client.headers(own_headers)?;
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));

    let (shared, receiver) = Shared::new(client);
    let secrets = Secrets::of(&headers);
    let reader = Arc::new(Reader { shared: shared.clone(), url, wire, headers, body, record });
    let saver = reader.clone();
    let guard = shared.start(
        secrets,
        move |tally, sender| reader.attempt(tally, sender),
        move |error| saver.save(error),
    )?;
    Ok((receiver, guard))
}

impl Shared {
    fn new(client: &Arc<Inner>) -> (Arc<Self>, Receiver<StreamToken>) {
        let (sender, receiver) = unbounded();
        let shared = Self {
            client: client.clone(),
            slot: CancelSlot::new(),
            ticket: OnceLock::new(),
            lifted: Arc::default(),
            started: Instant::now(),
            state: Mutex::new(State { sender: Some(sender), settled: false, report: None }),
            ended: Condvar::new(),
        };
        (Arc::new(shared), receiver)
    }

    /// Has a thread of the pool make the attempts. `failed` sees the error that they ended with before the consumer does.
    fn start(
        self: Arc<Self>,
        secrets: Secrets,
        attempt: impl FnMut(&mut Tally, &mut Option<TokenSender>) -> Attempt + Send + 'static,
        failed: impl FnOnce(Error) -> Error + Send + 'static,
    ) -> Result<StreamGuard, Error> {
        let shared = self.clone();
        let ticket = self.client.pool.run(move |seat| shared.run(seat, secrets, attempt, failed))?;
        let _ = self.ticket.set(ticket);
        Ok(StreamGuard { shared: self, on_drop: OnDrop::default() })
    }

    /// A stream's life on its thread: attempts, then the end of the last, told to everybody.
    fn run(
        &self,
        seat: &Seat<'_>,
        secrets: Secrets,
        attempt: impl FnMut(&mut Tally, &mut Option<TokenSender>) -> Attempt,
        failed: impl FnOnce(Error) -> Error,
    ) {
        let mut tally = Tally::new(self.started, secrets);
        let mut sender = None;
        let result = catch_unwind(AssertUnwindSafe(|| self.attempts(&mut tally, &mut sender, attempt)))
            .unwrap_or_else(
                |_| Err(Error::protocol("the reader thread panicked: a bug in tokenwire").into()),
            );
        let settled = self.settle();
        seat.ending();
        // The stream failed before its head came, or it was cancelled and the sender is gone already.
        let sender = sender.or_else(|| self.take_sender().map(|sender| token_sender(self, sender)));
        if let Some(sender) = &sender {
            tally.report.waited_for_consumer = sender.waited();
        }
        let (ending, last, rest) = match result {
            _ if !settled => (Ending::Cancelled, None, None),
            Ok((Completion { usage, .. }, rest)) => {
                let finish = tally.report.finish.clone();
                (Ending::Complete, Some(StreamToken::Done { usage, finish }), rest)
            }
            Err(Broken::Left(ending)) => (ending, None, None),
            Err(Broken::Error(error)) => {
                let error = failed(tally.place(error));
                tally.report.error = Some(error.clone());
                (Ending::Failed, Some(StreamToken::Error(error)), None)
            }
        };
        let report = tally.into_report(ending);
        // A log sink is the program's own; if it panics, the end is told all the same.
        let _ = catch_unwind(AssertUnwindSafe(|| log_end(&report)));
        if let (Some(sender), Some(last)) = (sender, last) {
            sender.send_last(last);
        }
        self.publish(report);
        // Nobody waits for this: the consumer has its `Done`.
        if let Some(response) = rest {
            response.drain(self.client.timeouts.drain);
        }
    }

    /// Makes an attempt, and another if it fails before its first token and the policy has it so.
    fn attempts(
        &self,
        tally: &mut Tally,
        sender: &mut Option<TokenSender>,
        mut attempt: impl FnMut(&mut Tally, &mut Option<TokenSender>) -> Attempt,
    ) -> Attempt {
        let Self { client, slot, started, .. } = self;
        loop {
            let result = attempt(tally, sender);
            if tally.report.first_token.is_some() {
                client.retry_budget.refund();
            }
            let error = match result {
                Err(Broken::Error(error)) if tally.report.first_token.is_none() => error,
                result => return result,
            };
            let advice = std::mem::take(&mut tally.advice);
            let wait = client.retry.wait(&error, advice, tally.report.retries, retry::random());
            // A wait beyond the deadline would only make the answer later, and worse.
            let in_time = |wait: &Duration| {
                client.timeouts.deadline.is_none_or(|limit| started.elapsed().saturating_add(*wait) < limit)
            };
            let Some(wait) = wait.filter(in_time).filter(|_| client.retry_budget.take()) else {
                return Err(error.into());
            };
            log::debug!("sending again in {wait:.3?}, after: {}", error.message());
            self.give_back(sender.take());
            if slot.woken().recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return Err(Broken::Left(Ending::Cancelled));
            }
            tally.next_attempt();
        }
    }
}

struct Reader {
    shared: Arc<Shared>,
    url: Uri,
    wire: Wire,
    headers: HeaderMap,
    body: Vec<u8>,
    record: bool,
}

/// What an exchange came to. The response is there if its body was not read to the end.
type Attempt = Result<(Completion, Option<HttpResponse>), Broken>;

/// Why a stream stopped short of complete.
enum Broken {
    Error(Error),
    /// The guard, or the consumer, wants no more.
    Left(Ending),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        if error.is_cancelled() { Self::Left(Ending::Cancelled) } else { Self::Error(error) }
    }
}

impl Reader {
    /// One exchange.
    fn attempt(&self, tally: &mut Tally, sender: &mut Option<TokenSender>) -> Attempt {
        let Self { shared, url, headers, body, record: _, wire: _ } = self;
        let (client, slot) = (&shared.client, &shared.slot);
        log::debug!("POST {}: {} bytes", url.path(), body.len());
        let outgoing = Outgoing { method: Method::POST, url, headers: headers.clone(), body };
        let mut response = client.http.send(outgoing, slot, self.wait(tally, Instant::now()))?;
        tally.head(&response, slot);
        tally.advice = Advice::of(|name| response.header(name), SystemTime::now());
        log_head(&response, shared.started.elapsed(), &tally.secrets);
        if self.record {
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
    fn save(&self, error: Error) -> Error {
        let Self { shared, url, wire, headers, body, record: _ } = self;
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
            let len = match response.read(body.space(READ_BYTES), self.wait(tally, now)) {
                Ok(len) => len,
                // The answer is whole; only what comes after it was lost: usage, terminator, framing.
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
                let step = body.decode_event(&mut |_, text, id| batch.push((text, id)));
                if !batch.is_empty() {
                    tally.tokens(now, batch.len());
                }
                let mut sent = Ok(());
                for (text, id) in batch.drain(..) {
                    let size = text.len();
                    let token = StreamToken::Token { text, id };
                    sent = sender.send(token, size, shared.slot.woken(), deadline);
                    // What was received before a deadline is delivered.
                    if matches!(sent, Err(Stopped::ConsumerGone | Stopped::Cancelled)) {
                        break;
                    }
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
                // The server was not waited for in that time.
                tally.content_since += waited;
                now = Instant::now();
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
        [first, second, deadline].into_iter().flatten().min_by_key(|wait| wait.left(now))
    }
}

fn token_sender(shared: &Shared, sender: Sender<StreamToken>) -> TokenSender {
    let limits = &shared.client.limits;
    TokenSender::new(sender, limits.channel_tokens_max, limits.channel_bytes_max, shared.lifted.clone())
}

fn stopped_error(stopped: Stopped, deadline: Option<Duration>) -> Broken {
    match stopped {
        Stopped::ConsumerGone => Broken::Left(Ending::ConsumerGone),
        Stopped::Cancelled => Broken::Left(Ending::Cancelled),
        Stopped::Deadline => Broken::Error(Error::timeout(Timer::Deadline, deadline.unwrap_or_default())),
    }
}

// ---- answers that are no stream ----

impl Inner {
    /// An error unless this is the head of an event stream.
    fn check_head(&self, response: &mut HttpResponse, secrets: &Secrets) -> Result<(), Error> {
        if response.status() / 100 != 2 {
            return Err(self.status_error(response, secrets));
        }
        match response.header("content-type") {
            // Without a type the first byte of the body decides.
            None => Ok(()),
            Some(kind) if is_event_stream(kind) => Ok(()),
            Some(_) => {
                let body = redacted_body(response, secrets);
                Err(not_an_event_stream(response.header("content-type"), &body))
            }
        }
    }

    /// The error that a status other than 2xx stands for, with the message from its body.
    pub(crate) fn status_error(&self, response: &mut HttpResponse, secrets: &Secrets) -> Error {
        let body = redacted_body(response, secrets);
        let status = response.status();
        let mut server = server_error_from_body(Some(status), response.header("content-type"), &body);
        if let (301..=308, Some(location)) = (status, response.header("location")) {
            // Redirects are not followed; of the address only the host is told.
            let host = location.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
            server.message = format!(
                "redirect to {}, which is not followed",
                printable(host.as_deref().unwrap_or("another path"), 256)
            );
        }
        let request_id = response.header("x-request-id").map(|id| secrets.word(id));
        Error::server(server).with_request_id(request_id.as_deref()).redacted(secrets)
    }
}

/// The beginning of a body without the credentials, should the server echo them: before a message is taken
/// out of it and cut.
fn redacted_body(response: &mut HttpResponse, secrets: &Secrets) -> Vec<u8> {
    let body = response.error_body();
    match secrets.redact(&String::from_utf8_lossy(&body)) {
        Cow::Owned(clean) => clean.into_bytes(),
        Cow::Borrowed(_) => body,
    }
}

fn is_event_stream(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("text/event-stream")
}

// ---- what is counted ----

/// The report as it grows, and the clocks.
struct Tally {
    started: Instant,
    attempt_began: Instant,
    /// What the last answer said about sending again.
    advice: Advice,
    report: StreamReport,
    histogram: Histogram,
    last_token: Option<Instant>,
    /// When the last event came; moved on by the time in which the consumer was waited for.
    content_since: Instant,
    /// What the report must not show.
    secrets: Secrets,
}

impl Tally {
    fn new(started: Instant, secrets: Secrets) -> Self {
        Self {
            secrets,
            started,
            attempt_began: started,
            advice: Advice::default(),
            report: StreamReport::new(Ending::Failed),
            histogram: Histogram::new(),
            last_token: None,
            content_since: started,
        }
    }

    /// Another attempt begins: what the failed one has left in the report goes.
    fn next_attempt(&mut self) {
        let retries = self.report.retries + 1;
        self.report = StreamReport::new(Ending::Failed);
        self.report.retries = retries;
        self.attempt_began = Instant::now();
    }

    fn head(&mut self, response: &HttpResponse, slot: &CancelSlot) {
        self.report.head = Some(self.started.elapsed());
        self.report.connection_reused = slot.was_reused();
        self.report.request_id = response.header("x-request-id").map(|id| self.secrets.word(id));
    }

    fn event(&mut self, now: Instant) {
        self.report.events += 1;
        self.content_since = now;
    }

    fn tokens(&mut self, now: Instant, count: usize) {
        self.report.tokens += count as u64;
        let mut together = count;
        match self.last_token {
            Some(last) => self.histogram.add(now - last, 1),
            None => self.report.first_token = Some(now - self.started),
        }
        together -= 1;
        self.histogram.add(Duration::ZERO, u32::try_from(together).unwrap_or(u32::MAX));
        self.last_token = Some(now);
    }

    fn read(&mut self, body: &BodyDecoder) {
        let chunks = body.chunks();
        self.report.comments = body.comments();
        self.report.lines_skipped = chunks.skipped();
        self.report.server = chunks.server();
        self.report.ids_exact = chunks.ids_exact();
        self.report.usage = chunks.usage();
        self.report.finish =
            chunks.finish_reason(0).map(|word| FinishReason::from_wire(&self.secrets.word(word.as_str())));
        if self.report.request_id.is_none() {
            self.report.request_id = chunks.request_id().map(|id| self.secrets.word(id));
        }
    }

    fn completed(&mut self, completion: &Completion) {
        self.report.ids_exact = completion.ids_exact;
        self.report.usage = completion.usage;
    }

    /// `error` with the place where it happened, and without the credentials, should the server have echoed them.
    fn place(&self, error: Error) -> Error {
        let StreamReport { bytes, events, tokens, .. } = self.report;
        let at = Progress { bytes, events, tokens, elapsed: self.started.elapsed() };
        let error = error.redacted(&self.secrets);
        let request_id = self.report.request_id.clone().or_else(|| error.request_id().map(str::to_owned));
        error.with_progress(at).with_request_id(request_id.as_deref())
    }

    fn into_report(self, ending: Ending) -> StreamReport {
        let Self { started, mut report, histogram, last_token, .. } = self;
        report.ending = ending;
        report.elapsed = started.elapsed();
        report.last_token = last_token.map(|last| last - started);
        report.inter_token = histogram.percentiles();
        report
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

fn log_end(report: &StreamReport) {
    log::debug!(
        "stream ended: {:?}, {} tokens, {} bytes, {} events, {:.3?}",
        report.ending,
        report.tokens,
        report.bytes,
        report.events,
        report.elapsed
    );
}

#[cfg(all(test, shuttle))]
mod model;
