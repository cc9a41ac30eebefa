//! Tests guards, consumers and pool threads around one client. Only the server is scripted.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex as StdMutex, Weak};
use std::time::{Duration, Instant};

use super::guard::{Canceller, OnDrop, StreamControl as _, StreamGuard};
use super::read::unfinished;
use super::report::{Outcome, StreamReport};
use super::resume_state::ResumeState;
use super::run::{Attempt, Unfinished};
use super::shared::{Shared, StreamContext};
use super::tally::Tally;
use crate::client::ApiClient;
use crate::client::channel::sender::{Sink, TokenSender};
use crate::client::http::slot::shuttle::{Network, Socket};
use crate::client::http::unversioned::transport::ShutdownHandle;
use crate::client::threads::sync::channel::{Receiver, TryRecvError, unbounded};
use crate::client::threads::sync::shuttle::{Limits, any, check, until};
use crate::client::threads::sync::thread;
use crate::config::{Limits as ClientLimits, Timeouts};
use crate::error::secrets::Secrets;
use crate::error::{Error, ErrorKind, Timer};
use crate::protocol::chunk::decoder::Completion;
use crate::protocol::request::completion::CompletionRequest;
use crate::protocol::server::endpoint::Endpoint;
use crate::types::ids::IdsExact;
use crate::types::token::StreamToken;

/// The behaviour of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The system's connect does not return until the stream of the test has ended.
    Stuck,
    /// Fails before its head, and is retried.
    Refused,
    /// Fails after its head, and is retried.
    Lost,
    /// Fails after its head, and is not retried.
    Fatal,
    /// Blocks in a read until a cancel ends the read.
    Silent,
    /// Sends all missing tokens.
    Whole,
    /// Sends this number of tokens, then breaks and is resumed.
    Cut(usize),
    Panics,
}

const TOKENS: usize = 3;
const WAYS: [Way; 9] = [
    Way::Stuck,
    Way::Refused,
    Way::Lost,
    Way::Fatal,
    Way::Silent,
    Way::Whole,
    Way::Cut(1),
    Way::Cut(TOKENS),
    Way::Panics,
];

/// A stream with its script and the observations of the test.
struct Played {
    shared: Arc<Shared>,
    network: Network,
    socket: Arc<Socket>,
    ways: Vec<Way>,
    attempts: AtomicUsize,
    cancels_returned: AtomicUsize,
    /// Violations of the rules. Reader threads do not assert, because their panics are caught.
    faults: StdMutex<Vec<&'static str>>,
    /// True if the first cancel returned before the last attempt returned its result.
    late: std::sync::atomic::AtomicBool,
}

impl Played {
    fn start(client: &ApiClient, ways: &[Way]) -> (Arc<Self>, Receiver<StreamToken>, StreamGuard) {
        let (sender, receiver) = unbounded();
        let shared = Shared::new(&client.0, Sink::Own(sender), StreamContext::default());
        let played = Arc::new(Self {
            shared: shared.clone(),
            network: Network::default(),
            socket: Arc::default(),
            ways: ways.to_vec(),
            attempts: AtomicUsize::new(0),
            cancels_returned: AtomicUsize::new(0),
            faults: StdMutex::default(),
            late: false.into(),
        });
        let script = played.clone();
        let attempt = move |tally: &mut Tally, sender: &mut Option<TokenSender>| {
            let cancelled = script.was_cancelled();
            let way = script.ways.get(script.attempts.fetch_add(1, SeqCst)).copied();
            let result = script.attempt(way.unwrap_or(Way::Whole), tally, sender);
            script.late.store(cancelled || script.was_cancelled(), SeqCst);
            result
        };
        let resume_state = ResumeState::new(Ok(CompletionRequest::ids([1])), Endpoint::Auto, client.0.resume);
        shared.clone().start(Secrets::default(), resume_state, attempt, |_, error| error).unwrap();
        (played, receiver, StreamGuard::new(shared))
    }

    fn was_cancelled(&self) -> bool {
        self.cancels_returned.load(SeqCst) > 0
    }

    fn fault(&self, what: &'static str) {
        self.faults.lock().unwrap().push(what);
    }

    /// Does the same as `Exchange::attempt`, without a server.
    fn attempt(&self, way: Way, tally: &mut Tally, sender: &mut Option<TokenSender>) -> Attempt {
        let (shared, slot) = (&self.shared, &self.shared.slot);
        let cancelled = || Unfinished::Stopped(Outcome::Cancelled);
        slot.begin(None);
        if !slot.begin_connect() {
            return Err(cancelled());
        }
        if way == Way::Stuck {
            self.network.connect();
        }
        slot.end_connect();
        let late = self.was_cancelled();
        let socket: Weak<dyn ShutdownHandle> = Arc::<Socket>::downgrade(&self.socket);
        if !slot.attach(&socket) {
            return Err(cancelled());
        }
        if late {
            self.fault("attached after a cancel");
        }
        if way == Way::Refused {
            return Err(Error::new(ErrorKind::Refused, "refused").into());
        }
        let sender = sender.insert(shared.take_sender().ok_or_else(cancelled)?);
        let (count, whole) = match way {
            Way::Stuck | Way::Silent => {
                if self.socket.read() || !slot.is_cancelled() {
                    self.fault("woken without a cancel");
                }
                return Err(cancelled());
            }
            Way::Lost | Way::Refused => (0, false),
            Way::Fatal => return Err(Error::protocol("fatal").into()),
            Way::Panics => std::panic::resume_unwind(Box::new("a bug")),
            Way::Whole => (TOKENS, true),
            Way::Cut(count) => (count, false),
        };
        let from = tally.resume_state.ids();
        for number in from..TOKENS.min(from + count) {
            let mut event = vec![StreamToken::Token { text: number.to_string(), id: Some(number as u32) }];
            tally.begun = true;
            tally.resume_state.event(&mut event)?;
            let token = event.remove(0);
            sender.send(token, 1, slot.woken(), None).map_err(|why| unfinished(why, None))?;
            tally.tokens(Instant::now(), 1);
        }
        slot.detach();
        if !whole {
            return Err(Error::new(ErrorKind::Incomplete, "cut").into());
        }
        let ids_exact = IdsExact::Unknown;
        Ok((Completion { usage: None, finish: None, ids_exact }, None))
    }

    fn cancel(&self, canceller: &Canceller) {
        canceller.cancel();
        self.cancels_returned.fetch_add(1, SeqCst);
    }

    /// Checks that the report has not changed since `joined`.
    ///
    /// Also checks that all items agree with the report.
    ///
    /// All other threads must have ended before this call.
    fn check(self: Arc<Self>, joined: &StreamReport, items: Option<Vec<StreamToken>>) {
        self.network.answer();
        let shared = self.shared.clone();
        // The reader thread has left the stream. Only `shared` and `self` remain here.
        until(|| Arc::strong_count(&self) == 1);
        assert_eq!(*self.faults.lock().unwrap(), [""; 0]);
        let last = shared.lock().report.clone().unwrap();
        assert_eq!((last.ending, last.elapsed), (joined.ending, joined.elapsed), "the reports differ");
        assert!(
            joined.ending != Outcome::Cancelled || shared.slot.is_cancelled(),
            "the slot is not cancelled"
        );
        assert_eq!(last.error.is_some(), joined.ending == Outcome::Failed);
        assert!(!self.late.load(SeqCst) || joined.ending == Outcome::Cancelled, "a cancel came first");
        assert!(self.was_cancelled() || joined.ending != Outcome::Cancelled, "cancelled without a cancel");
        let Some(items) = items else {
            return;
        };
        assert_ne!(joined.ending, Outcome::ConsumerGone);
        let mut tokens = 0;
        let mut ending = None;
        for item in items {
            assert_eq!(ending, None, "{item:?} after the last item");
            match item {
                StreamToken::Token { text, .. } => {
                    assert_eq!(text, tokens.to_string(), "out of order");
                    tokens += 1;
                }
                StreamToken::Done { .. } => ending = Some(Outcome::Complete),
                StreamToken::Error(_) => ending = Some(Outcome::Failed),
                other => panic!("{other:?} was never sent"),
            }
        }
        assert_eq!(ending.unwrap_or(Outcome::Cancelled), joined.ending, "wrong last item");
        assert!(joined.ending != Outcome::Complete || tokens == TOKENS, "complete, with {tokens} tokens");
        // A cancel during a connect ends the stream before the thread can report.
        let reported = joined.tokens as usize;
        assert!(
            reported == tokens || joined.ending == Outcome::Cancelled && reported == 0,
            "{reported} of {tokens}"
        );
    }
}

/// Returns a client with one reader thread, and a channel of one or two tokens.
fn client() -> ApiClient {
    client_with(Timeouts::default())
}

fn client_with(timeouts: Timeouts) -> ApiClient {
    let mut limits = ClientLimits::default();
    (limits.max_streams, limits.max_channel_tokens) = (1, 1 + any(2));
    ApiClient::builder("http://model.test").limits(limits).timeouts(timeouts).resumes(2).build().unwrap()
}

fn any_ways() -> Vec<Way> {
    (0..1 + any(3)).map(|_| WAYS[any(WAYS.len())]).collect()
}

/// Reads all items of a stream whose report is set. The stream has ended, so this does not wait.
fn rest_now(receiver: &Receiver<StreamToken>) -> Vec<StreamToken> {
    let items = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
    assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Disconnected), "the report came before the end");
    items
}

/// Reads all items.
fn rest(receiver: &Receiver<StreamToken>) -> Vec<StreamToken> {
    std::iter::from_fn(|| receiver.recv().ok()).collect()
}

/// Does the same as the user of a stream.
///
/// Other threads cancel up to two times. The consumer reads everything, drops the receiver, or
/// reads late. The guard is joined, cancelled or dropped.
fn user((played, receiver, guard): (Arc<Played>, Receiver<StreamToken>, StreamGuard)) {
    let needs_cancel = played.ways.iter().any(|way| matches!(way, Way::Stuck | Way::Silent));
    let cancels = any(3).max(usize::from(needs_cancel));
    let cancelling: Vec<_> = (0..cancels)
        .map(|_| {
            let (played, canceller) = (played.clone(), guard.canceller());
            thread::spawn(move || played.cancel(&canceller))
        })
        .collect();
    let reads_late = any(3) == 0;
    let hangs_up = any(4) == 0;
    let mut late = None;
    let consuming = if reads_late {
        late = Some(receiver);
        None
    } else {
        Some(thread::spawn(move || {
            if hangs_up {
                let _ = receiver.recv();
                return None;
            }
            Some(rest(&receiver))
        }))
    };
    let shared = played.shared.clone();
    let report = match any(4) {
        0 => {
            played.cancel(&guard.canceller());
            guard.join()
        }
        1 => {
            drop(guard.on_drop(OnDrop::Join));
            shared.lock().report.clone().expect("a guard that joins waits for the report")
        }
        2 => {
            drop(guard);
            played.cancels_returned.fetch_add(1, SeqCst);
            shared.join()
        }
        _ => guard.join(),
    };
    // The channel ends even if a thread is still in the connect.
    let items = match (late, consuming) {
        (Some(receiver), _) => Some(rest_now(&receiver)),
        (None, Some(thread)) => thread.join().unwrap(),
        (None, None) => None,
    };
    for thread in cancelling {
        thread.join().unwrap();
    }
    drop(shared);
    played.check(&report, items);
}

fn two_streams_and_their_users() {
    let client = client();
    let streams: Vec<_> = (0..1 + any(2)).map(|_| Played::start(&client, &any_ways())).collect();
    drop(client);
    let users: Vec<_> = streams.into_iter().map(|stream| thread::spawn(move || user(stream))).collect();
    for user in users {
        user.join().unwrap();
    }
}

/// The only thread is busy. A stream that waits for the thread ends on a cancel, and never runs.
fn a_waiting_stream() {
    let client = client();
    let (first, first_receiver, first_guard) = Played::start(&client, &[Way::Silent]);
    let (second, receiver, guard) = Played::start(&client, &any_ways());
    let canceller = guard.canceller();
    let cancelling = thread::spawn({
        let second = second.clone();
        move || second.cancel(&canceller)
    });
    if any(2) == 0 {
        second.cancel(&guard.canceller());
    }
    let report = guard.join();
    assert_eq!(report.ending, Outcome::Cancelled);
    let items = rest_now(&receiver);
    assert!(items.is_empty());
    cancelling.join().unwrap();
    assert_eq!(second.attempts.load(SeqCst), 0);
    second.check(&report, Some(items));
    first.cancel(&first_guard.canceller());
    let report = first_guard.join();
    first.check(&report, Some(rest_now(&first_receiver)));
}

/// The only thread is busy. A stream that waits for the thread never runs.
///
/// Such a stream ends because its timer has already expired, or because of a cancel.
fn a_waiting_stream_whose_time_is_over() {
    let mut timeouts = Timeouts::default();
    timeouts.first_token = Some(Duration::ZERO);
    let client = client_with(timeouts);
    let (first, first_receiver, first_guard) = Played::start(&client, &[Way::Silent]);
    let (second, receiver, guard) = Played::start(&client, &any_ways());
    let cancelling = (any(2) == 0).then(|| {
        let (second, canceller) = (second.clone(), guard.canceller());
        thread::spawn(move || second.cancel(&canceller))
    });
    let report = guard.join();
    let is_late = report.error.as_ref().is_some_and(|e| e.kind() == ErrorKind::Timeout(Timer::FirstToken));
    assert!(is_late || cancelling.is_some() && report.ending == Outcome::Cancelled, "{report:?}");
    let items = rest_now(&receiver);
    assert_eq!(items.len(), usize::from(is_late));
    if let Some(thread) = cancelling {
        thread.join().unwrap();
    }
    assert_eq!(second.attempts.load(SeqCst), 0);
    second.check(&report, Some(items));
    first.cancel(&first_guard.canceller());
    let report = first_guard.join();
    first.check(&report, Some(rest_now(&first_receiver)));
}

/// Only a cancel ends the pause before a retry.
fn a_pause_before_a_retry() {
    let client = client();
    let way = [Way::Refused, Way::Lost][any(2)];
    let (played, receiver, guard) = Played::start(&client, &[way; 3]);
    let canceller = guard.canceller();
    let cancelling = thread::spawn({
        let played = played.clone();
        move || played.cancel(&canceller)
    });
    let items = rest(&receiver);
    let report = guard.join();
    assert_eq!(report.ending, Outcome::Cancelled);
    cancelling.join().unwrap();
    played.check(&report, Some(items));
}

#[test]
fn each_stream_has_one_report_and_one_last_item_and_no_wait_is_endless() {
    check(Limits::Pass, two_streams_and_their_users);
}

#[test]
fn a_stream_that_waits_for_a_thread_ends_when_it_is_cancelled() {
    check(Limits::Pass, a_waiting_stream);
    check(Limits::NeverPass, a_waiting_stream);
}

#[test]
fn a_stream_that_waits_for_a_thread_ends_once_by_its_timer_or_a_cancel() {
    check(Limits::Pass, a_waiting_stream_whose_time_is_over);
    check(Limits::NeverPass, a_waiting_stream_whose_time_is_over);
}

#[test]
fn a_pause_before_a_retry_ends_with_a_cancel() {
    check(Limits::NeverPass, a_pause_before_a_retry);
}
