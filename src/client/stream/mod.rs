//! One stream: a request made and its answer read on a reader thread, tokens into a channel, a guard that
//! ends it.
//!
//! This is the joint where the pure stages meet the socket and the clock. The reader thread owns the
//! exchange; the guard owns the right to end it. They meet in [`Shared`], whose lock decides which of the two
//! was first: an ending that was decided is not taken back by a cancel, a cancel that came first lets no
//! ending through.
//!
//! Here is the guard's side. The thread's: [`run`] has attempts made and tells the end of the last, [`exchange`]
//! makes one, [`head`] tells a stream from the answers that are none, [`tally`] counts, [`received`] keeps what a broken
//! stream goes on from. A [`call`] is the same with an answer that comes whole, a [`race`] is two of them for one stream.

pub(crate) mod report;

pub(crate) mod call;
mod exchange;
mod head;
mod race;
mod received;
mod run;
mod tally;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::Instant;

use ureq::http::header::{ACCEPT, HeaderValue};

use self::exchange::Exchange;
use self::race::Race;
use self::received::Received;
use self::report::{Outcome, StreamReport};
use self::run::Attempt;
use self::tally::Tally;
use super::Inner;
use super::channel::sender::{Sink, TokenSender};
use super::http::slot::CancelSlot;
use super::saved::SavedRequest;
use super::threads::pool::Ticket;
use super::threads::sync::channel::{Receiver, unbounded};
use super::threads::sync::{AtomicBool, Condvar, Mutex, MutexGuard};
use crate::error::secrets::Secrets;
use crate::error::{Error, ErrorKind};
use crate::protocol::request::completion::CompletionRequest;
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;
use crate::types::not_resumable::NotResumable;
use crate::types::token::StreamToken;

// ---- the guard ----

/// Ends its stream, or waits for its end.
///
/// Dropping it does what [`on_drop`](Self::on_drop) says: by default the stream is cancelled, now, without
/// waiting for anything.
///
/// ```
/// # #[cfg(feature = "testing")] {
/// use tokenwire::{ApiClient, CompletionRequest, Outcome, StreamToken};
/// # use tokenwire::testing::{Script, ServerKind};
/// # let first = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
/// # let server = MockServer::scripted([Script::events([first]).hang(std::time::Duration::from_secs(60))])?;
/// # let client = ApiClient::builder(server.url()).build()?;
/// let (tokens, guard) = client.stream(CompletionRequest::text("Count."))?;
/// if let Ok(StreamToken::Token { .. }) = tokens.recv() {
///     // One token was enough.
///     guard.cancel();
/// }
/// assert_eq!(guard.join().ending, Outcome::Cancelled);
/// # }
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[must_use = "dropping the guard cancels the stream"]
pub struct StreamGuard {
    life: Arc<dyn Life>,
    on_drop: OnDrop,
}

/// What a guard holds: one request with its retries, or a [race] of two.
trait Life: Send + Sync {
    fn cancel(&self);
    fn join(&self) -> StreamReport;
    fn report(&self) -> Option<StreamReport>;
}

/// What dropping a [`StreamGuard`] does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDrop {
    /// [`StreamGuard::cancel`]: the stream ends now, the drop waits for nothing.
    #[default]
    Cancel,
    /// [`StreamGuard::join`]: the drop waits until the stream has ended by itself.
    Join,
}

/// Cancels a stream from anywhere: another thread, a signal handler's thread. Clones cancel the same stream;
/// dropping one does nothing. It keeps neither the stream nor its client alive.
#[derive(Clone)]
pub struct Canceller(Weak<dyn Life>);

impl StreamGuard {
    fn new(life: Arc<dyn Life>) -> Self {
        Self { life, on_drop: OnDrop::default() }
    }

    /// Ends the stream now and does not wait: the socket is shut down under whatever read or write is blocked
    /// on it, the channel is disconnected without a `Done` or an `Error`, and nothing is sent to the server
    /// afterwards. Tokens already in the channel stay readable. A stream that has ended already is left as it
    /// is.
    ///
    /// Inside the operating system's connect a thread cannot be interrupted: the stream ends for its consumer
    /// at once, the thread when its connect timer passes, and it sends nothing.
    pub fn cancel(&self) {
        self.life.cancel();
    }

    /// Blocks until the stream has ended by itself and says how. What bounds the wait are the stream's own
    /// timers.
    ///
    /// The channel has ended by then: what is left in it is all there is. From here on it has no bound, so that joining cannot wait for a reader that is not there:
    /// what the consumer does not take stays in the channel, in memory.
    pub fn join(self) -> StreamReport {
        self.life.join()
    }

    /// The report, if the stream has ended.
    #[must_use]
    pub fn report(&self) -> Option<StreamReport> {
        self.life.report()
    }

    /// Sets what dropping this guard does. Default [`OnDrop::Cancel`].
    pub fn on_drop(mut self, policy: OnDrop) -> Self {
        self.on_drop = policy;
        self
    }

    /// A handle that can cancel the stream from elsewhere.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::downgrade(&self.life))
    }
}

impl Canceller {
    /// As [`StreamGuard::cancel`].
    pub fn cancel(&self) {
        // Gone: the stream has ended, and its guard.
        if let Some(life) = self.0.upgrade() {
            life.cancel();
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        match self.on_drop {
            OnDrop::Cancel => self.life.cancel(),
            OnDrop::Join => drop(self.life.join()),
        }
    }
}

impl fmt::Debug for StreamGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamGuard")
            .field("ending", &self.life.report().map(|report| report.ending))
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
    /// When the stream was asked for, and when this request of it.
    started: Instant,
    began: Instant,
    /// The server that the last attempt went to.
    route: AtomicUsize,
    state: Mutex<State>,
    ended: Condvar,
}

struct State {
    /// Here until the response's head is there, and between attempts: a cancel in a connect, which the thread cannot leave,
    /// drops it.
    sender: Option<TokenSender>,
    /// What the attempts have come to that gave the sender back.
    so_far: Option<StreamReport>,
    /// How the stream ends is settled, by the thread or by a cancel.
    settled: bool,
    report: Option<StreamReport>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread has come to an ending. False if a cancel was first.
    fn settle(&self) -> bool {
        !std::mem::replace(&mut self.lock().settled, true)
    }

    /// No thread was to be had for it: its caller is told, and the consumer is not.
    fn never_began(&self) {
        if let Some(sender) = self.take_sender() {
            sender.never_began();
        }
    }

    fn take_sender(&self) -> Option<TokenSender> {
        self.lock().sender.take()
    }

    /// Takes the sender back for another attempt, unless a cancel has come meanwhile.
    fn give_back(&self, sender: Option<TokenSender>, so_far: StreamReport) {
        let mut state = self.lock();
        if !state.settled {
            state.so_far = Some(so_far);
            // None: the failed attempt had not taken it.
            state.sender = sender.or(state.sender.take());
        }
    }

    /// Sets the report, once, when the channel has ended: who has joined waits for nothing more.
    fn publish(&self, report: StreamReport) {
        self.lock().report.get_or_insert(report);
        self.ended.notify_all();
    }
}

impl Life for Shared {
    fn cancel(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.settled, true) {
            return;
        }
        let thread_wakes = self.slot.cancel();
        let withdrawn = self.ticket.get().is_some_and(|ticket| self.client.pool.withdraw(*ticket));
        if withdrawn || !thread_wakes {
            // Under the one lock: a thread that is just back from its connect would take the sender away, and the report
            // would be there before the channel's end.
            state.sender = None;
            let mut report = state.so_far.take().unwrap_or_else(|| StreamReport::new(Outcome::Cancelled));
            report.ending = Outcome::Cancelled;
            report.elapsed = self.started.elapsed();
            state.report = Some(report);
            self.ended.notify_all();
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

    fn report(&self) -> Option<StreamReport> {
        self.lock().report.clone()
    }
}

// ---- how a stream begins ----

pub(crate) fn start(
    client: &Arc<Inner>,
    request: CompletionRequest,
) -> Result<(Receiver<StreamToken>, StreamGuard), Error> {
    let (sender, receiver) = unbounded();
    Ok((receiver, start_into(client, request, Sink::Own(sender))?))
}

pub(crate) fn start_into(
    client: &Arc<Inner>,
    request: CompletionRequest,
    sink: Sink,
) -> Result<StreamGuard, Error> {
    request.validate()?;
    let (request, headers) = client.address(request);
    let server = client.server();
    let body = client.body(&request, server.as_ref())?;
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let asked = Asked::of(&request, server, false);
    let endpoint = request.endpoint(client.endpoint);
    let make =
        |shared| Exchange::new(shared, endpoint, (endpoint.path(), ACCEPT_STREAM), headers, body, asked);
    if let Some(after) = client.routes.policy().hedge_after {
        return Race::start(client, request, sink, after, make);
    }
    let received = Received::new(Ok(request), endpoint, client.resume);
    make(Shared::new(client, sink, Common::default()))?.start(received, Exchange::attempt)
}

pub(crate) fn resend(
    client: &Arc<Inner>,
    saved: &SavedRequest,
) -> Result<(Receiver<StreamToken>, StreamGuard), Error> {
    check_saved(saved, true)?;
    let received = Received::new(Err(NotResumable::Resent), saved.endpoint(), client.resume);
    let (sender, receiver) = unbounded();
    let shared = Shared::new(client, Sink::Own(sender), Common::default());
    let (path, body) = ((saved.endpoint().path(), ACCEPT_STREAM), saved.body().to_vec());
    let exchange = Exchange::new(shared, saved.endpoint(), path, saved.headers(), body, Asked::default())?;
    Ok((receiver, exchange.start(received, Exchange::attempt)?))
}

/// An error unless this can be sent again, as a stream or as a call.
fn check_saved(saved: &SavedRequest, stream: bool) -> Result<(), Error> {
    let why = if saved.is_redacted() {
        "the API key was taken out of the saved request, which is not what was sent"
    } else if stream && saved.is_call() {
        "the saved request is a call, whose answer is not streamed: send it again with resend_call"
    } else if !stream && !saved.is_call() {
        "the saved request is that of a stream: send it again with resend"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Unsupported, why))
}

/// What the answer is looked at for.
#[derive(Clone, Default)]
struct Asked {
    /// What was known of the server when it was asked.
    server: Option<ServerKind>,
    ids: bool,
    /// It is a call's, and not a stream.
    call: bool,
    /// It is to be kept.
    record: bool,
    /// What belongs to it goes to one server.
    session: Option<String>,
    /// The server that another request of the same stream waits for.
    avoid: Option<usize>,
}

impl Asked {
    fn of(request: &CompletionRequest, server: Option<ServerKind>, call: bool) -> Self {
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

/// What a stream's answer is asked for as.
const ACCEPT_STREAM: &str = "text/event-stream";

impl Exchange {
    /// An exchange that is not under way. `accept` is sent unless the caller has one.
    fn new<'a>(
        shared: Arc<Shared>,
        endpoint: Endpoint,
        (path, accept): ((&str, bool), &'static str),
        own_headers: impl Iterator<Item = (&'a str, &'a str)>,
        body: Vec<u8>,
        asked: Asked,
    ) -> Result<Self, Error> {
        let urls = shared.client.urls(path)?;
        let mut headers = shared.client.headers(own_headers)?;
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static(accept));
        Ok(Self { shared, urls, endpoint, headers, body, asked })
    }

    /// Has it made on a thread, as often as the policy allows. If there is no thread to be had it has not begun.
    fn start(
        self,
        received: Received,
        attempt: impl Fn(&Self, &mut Tally, &mut Option<TokenSender>) -> Attempt + Send + 'static,
    ) -> Result<StreamGuard, Error> {
        let shared = self.shared.clone();
        Arc::new(self).run(received, attempt).inspect_err(|_| shared.never_began())?;
        Ok(StreamGuard::new(shared))
    }

    fn run(
        self: Arc<Self>,
        received: Received,
        attempt: impl Fn(&Self, &mut Tally, &mut Option<TokenSender>) -> Attempt + Send + 'static,
    ) -> Result<(), Error> {
        let (shared, secrets, saver) = (self.shared.clone(), Secrets::of(&self.headers), self.clone());
        shared.start(
            secrets,
            received,
            move |tally, sender| attempt(&self, tally, sender),
            move |route, error| saver.save(route, error),
        )
    }
}

/// What several requests of one stream have in common.
#[derive(Clone)]
struct Common {
    /// When the stream was asked for.
    started: Instant,
    /// Takes the bound off the channel.
    lifted: Arc<AtomicBool>,
}

impl Default for Common {
    fn default() -> Self {
        Self { started: Instant::now(), lifted: Arc::default() }
    }
}

impl Shared {
    fn new(client: &Arc<Inner>, sink: Sink, Common { started, lifted }: Common) -> Arc<Self> {
        let limits = &client.limits;
        let sender =
            TokenSender::new(sink, limits.max_channel_tokens, limits.max_channel_bytes, lifted.clone());
        let state = State { sender: Some(sender), so_far: None, settled: false, report: None };
        let shared = Self {
            client: client.clone(),
            slot: CancelSlot::new(),
            ticket: OnceLock::new(),
            lifted,
            started,
            began: Instant::now(),
            route: AtomicUsize::new(0),
            state: Mutex::new(state),
            ended: Condvar::new(),
        };
        Arc::new(shared)
    }
}

#[cfg(all(test, shuttle))]
mod model;
