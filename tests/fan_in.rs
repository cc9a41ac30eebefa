//! Tests of many streams in one channel.

#![cfg(feature = "testing")]

mod common;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use common::checks::each_row;
use common::streams::{LONG, Last, Token, collect};
use crossbeam_channel::{Receiver, Sender, unbounded};
use tokenwire::testing::{Cut, MockServer, Script};
use tokenwire::{
    ApiClient, ApiClientBuilder, CompletionRequest, ErrorKind, Limit, Limits, Outcome, StreamToken, Tagged,
    TokenId, WhenFull, fan_in, recv_many,
};

fn client(server: &MockServer) -> ApiClientBuilder {
    ApiClient::builder(server.url()).retries(0)
}

fn request() -> CompletionRequest {
    CompletionRequest::ids([1, 2, 3])
}

fn limits(set: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    set(&mut limits);
    limits
}

/// Returns a stream with this number of tokens. Each token has its index as its id and its text.
fn numbers(count: TokenId) -> Script {
    let texts: Vec<_> = (0..count).map(|n| (n, n.to_string())).collect();
    Script::tokens(texts.iter().map(|(id, text)| (*id, text.as_str())))
}

/// Distributes the items to one channel per stream. Each channel ends where the end of its stream
/// was reported.
#[derive(Default)]
struct Dealt {
    open: BTreeMap<u64, Sender<StreamToken>>,
    streams: BTreeMap<u64, Receiver<StreamToken>>,
}

impl Dealt {
    fn deal(&mut self, Tagged { stream, token, .. }: Tagged) {
        if !self.streams.contains_key(&stream) {
            let (sender, receiver) = unbounded();
            self.open.insert(stream, sender);
            self.streams.insert(stream, receiver);
        }
        let sender =
            self.open.get(&stream).unwrap_or_else(|| panic!("{token:?} after the end of stream {stream}"));
        match token {
            Some(token) => sender.send(token).unwrap(),
            None => drop(self.open.remove(&stream)),
        }
    }

    /// Receives items until every stream has ended.
    fn all(receiver: &Receiver<Tagged>) -> BTreeMap<u64, Receiver<StreamToken>> {
        let mut dealt = Self::default();
        loop {
            match receiver.recv_timeout(LONG) {
                Ok(tagged) => dealt.deal(tagged),
                Err(error) => {
                    assert!(error.is_disconnected(), "the channel hangs");
                    assert!(dealt.open.is_empty(), "streams without an end: {:?}", dealt.open.keys());
                    return dealt.streams;
                }
            }
        }
    }
}

/// Returns the tokens and the outcome of a stream, so that two streams can be compared.
///
/// An error is represented by its kind.
fn told(receiver: &Receiver<StreamToken>) -> (Vec<Token>, Option<Result<(), ErrorKind>>) {
    let (tokens, last) = collect(receiver);
    let last = match last {
        Last::Done => Some(Ok(())),
        Last::Error(error) => Some(Err(error.kind())),
        Last::Nothing => None,
    };
    (tokens, last)
}

#[test]
fn each_stream_delivers_the_same_items_as_through_its_own_channel() {
    let scripts = [
        ("whole", numbers(20)),
        ("cut", numbers(20).cut_at(900, Cut::Reset)),
        ("an error", Script::status(400).json(r#"{"error":{"message":"no","code":400}}"#)),
        ("no tokens", numbers(0)),
        ("cancelled", Script::events([r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#]).hang(LONG)),
        ("cancelled, nothing received", Script::new().hang(LONG)),
    ];
    let servers = scripts.map(|(name, script)| (name, MockServer::scripted([script]).unwrap()));
    let clients = servers.each_ref().map(|(name, server)| (*name, client(server).build().unwrap()));
    let (channel, receiver) = fan_in();
    let mut cancellers = Vec::new();
    let mut guards = Vec::new();
    let mut alone = Vec::new();
    for round in 0..3 {
        for (n, (name, client)) in clients.iter().enumerate() {
            let guard = client.stream_into(request(), &channel, round * 100 + n as u64).unwrap();
            let (own, own_guard) = client.stream(request()).unwrap();
            if name.starts_with("cancelled") {
                cancellers.extend([guard.canceller(), own_guard.canceller()]);
            }
            guards.extend([guard, own_guard]);
            alone.push((round * 100 + n as u64, *name, own));
        }
    }
    drop(channel);
    // If the cancelled stream has a token, the token has arrived by now.
    let waiting = alone.iter().filter(|(_, name, _)| *name == "cancelled");
    let began = Instant::now();
    let mut dealt = Dealt::default();
    while waiting
        .clone()
        .any(|(n, _, own)| own.is_empty() || dealt.streams.get(n).is_none_or(Receiver::is_empty))
    {
        assert!(began.elapsed() < LONG);
        if let Ok(tagged) = receiver.recv_timeout(Duration::from_millis(10)) {
            dealt.deal(tagged);
        }
    }
    cancellers.iter().for_each(|canceller| canceller.cancel());
    let mut dealt = dealt;
    while let Ok(tagged) = receiver.recv_timeout(LONG) {
        dealt.deal(tagged);
    }
    assert!(dealt.open.is_empty(), "streams without an end: {:?}", dealt.open.keys());
    assert_eq!(dealt.streams.len(), alone.len());
    each_row(alone, |(n, name, own)| {
        let expected = told(&own);
        assert_eq!(told(&dealt.streams[&n]), expected, "{name}");
        assert_eq!(expected.1.is_none(), name.starts_with("cancelled"), "{name}: {expected:?}");
    });
}

#[test]
fn a_stream_that_fails_to_start_sends_nothing_to_the_channel() {
    let server = MockServer::scripted([Script::new().hang(LONG)]).unwrap();
    let one = limits(|limits| limits.max_streams = 1);
    let client = client(&server).limits(one).when_full(WhenFull::Fail).build().unwrap();
    let (channel, receiver) = fan_in();
    let _guard = client.stream_into(request(), &channel, 0).unwrap();
    // request, error
    let refused = [
        (request(), ErrorKind::Limit(Limit::Streams)),
        (CompletionRequest::ids([]), ErrorKind::InvalidInput),
        (request().header("x y", "z"), ErrorKind::InvalidInput),
    ];
    for (n, (request, why)) in (1..).zip(refused) {
        assert_eq!(client.stream_into(request, &channel, n).unwrap_err().kind(), why);
    }
    assert!(receiver.is_empty(), "{:?}", receiver.try_recv());
}

#[test]
fn a_stream_cancelled_before_its_thread_starts_still_sends_its_end() {
    let server = MockServer::scripted([Script::new().hang(LONG)]).unwrap();
    let client = client(&server).limits(limits(|limits| limits.max_streams = 1)).build().unwrap();
    let (channel, receiver) = fan_in();
    let running = client.stream_into(request(), &channel, 1).unwrap();
    let waiting = client.stream_into(request(), &channel, 2).unwrap();
    drop((waiting, channel));
    let first = receiver.recv_timeout(LONG).unwrap();
    assert!(matches!(first, Tagged { stream: 2, token: None, .. }), "{first:?}");
    drop(running);
    assert_eq!(Dealt::all(&receiver).into_keys().collect::<Vec<_>>(), [1]);
}

#[test]
fn the_bound_applies_to_all_streams_together_and_no_token_is_lost() {
    const STREAMS: u64 = 8;
    const TOKENS: TokenId = 1_000;
    const BOUND: usize = 100;
    let server = MockServer::start(|_| numbers(TOKENS)).unwrap();
    let client = client(&server).build().unwrap();
    for join in [false, true] {
        let (channel, receiver) = fan_in();
        let channel = channel.max_tokens(BOUND);
        let guards: Vec<_> =
            (0..STREAMS).map(|n| client.stream_into(request(), &channel, n).unwrap()).collect();
        drop(channel);
        let mut kept = Vec::new();
        if join {
            // The channel is not read here, because a join removes the limit.
            for guard in guards {
                let report = guard.join();
                assert_eq!((report.ending, report.tokens), (Outcome::Complete, u64::from(TOKENS)));
            }
        } else {
            let began = Instant::now();
            while receiver.len() < BOUND {
                assert!(began.elapsed() < LONG, "{} tokens", receiver.len());
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(200));
            let (len, most) = (receiver.len(), BOUND + 16 * STREAMS as usize);
            assert!(len <= most, "{len} tokens in the channel");
            kept = guards;
        }
        let streams = Dealt::all(&receiver);
        drop(kept);
        assert_eq!(streams.len(), STREAMS as usize);
        for (n, stream) in streams {
            let (tokens, last) = told(&stream);
            let expected: Vec<Token> = (0..TOKENS).map(|n| (n.to_string(), Some(n))).collect();
            assert_eq!((tokens, last), (expected, Some(Ok(()))), "stream {n}");
        }
    }
}

#[test]
fn dropping_the_receiver_ends_all_streams() {
    let server = MockServer::start(|_| numbers(5_000)).unwrap();
    let client = client(&server).build().unwrap();
    let (channel, receiver) = fan_in();
    let guards: Vec<_> = (0..4).map(|n| client.stream_into(request(), &channel, n).unwrap()).collect();
    receiver.recv_timeout(LONG).unwrap();
    drop(receiver);
    for guard in guards {
        assert_eq!(guard.join().ending, Outcome::ConsumerGone);
    }
}

#[test]
fn recv_many_returns_many_tokens_and_the_end() {
    // number of tokens, tokens per call, sizes of the batches
    let cases: [(usize, usize, &[usize]); 6] = [
        (0, 4, &[]),
        (1, 4, &[1]),
        (4, 4, &[4]),
        (9, 4, &[4, 4, 1]),
        (3, 1, &[1, 1, 1]),
        (3, usize::MAX, &[3]),
    ];
    each_row(cases, |(count, max, sizes)| {
        let (sender, receiver) = unbounded();
        (0..count).for_each(|n| sender.send(n).unwrap());
        assert!(recv_many(&receiver, &mut Vec::new(), 0), "a request for no tokens always succeeds");
        drop(sender);
        let (mut all, mut seen) = (vec![usize::MAX], Vec::new());
        let mut before = 1;
        while recv_many(&receiver, &mut all, max) {
            seen.push(all.len() - before);
            before = all.len();
        }
        assert_eq!(seen, sizes, "{count} by {max}");
        assert_eq!(all[1..], (0..count).collect::<Vec<_>>(), "after the existing items");
    });
}
