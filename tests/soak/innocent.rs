//! Tests that a cancel does not affect other streams.

use super::*;

const INNOCENT_THREADS: u32 = 8;

#[test]
fn thousands_of_cancels_do_not_affect_concurrent_streams() {
    in_own_process("innocent::thousands_of_cancels_do_not_affect_concurrent_streams", || {
        let (authority, identity) = certificates();
        for (tls, rounds) in [(false, sample_of(150, 600)), (true, sample_of(40, 150))] {
            let mut builder = MockServer::builder();
            if tls {
                builder = builder.tls(identity.clone());
            }
            let server = builder.start(answer).unwrap();
            let client =
                ApiClient::builder(server.url()).ca_pem(authority.clone()).retries(0).build().unwrap();
            let (cancelled, reused) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let began = Instant::now();
            thread::scope(|scope| {
                for thread in 0..INNOCENT_THREADS {
                    let (client, cancelled, reused) = (&client, &cancelled, &reused);
                    scope.spawn(move || {
                        let mut chance = Chance(u64::from(thread));
                        for round in 0..rounds {
                            let number = 2 * (thread * rounds + round);
                            let (receiver, guard) = start(client, &prompt(Kind::Good, number, 0));
                            spin(chance.micros(900));
                            guard.cancel();
                            // Every other concurrent stream starts before the thread of the
                            // cancelled one is back.
                            if round % 2 == 0 {
                                cancelled.fetch_add(
                                    usize::from(guard.join().ending == Outcome::Cancelled),
                                    Ordering::Relaxed,
                                );
                            } else {
                                drop(guard);
                            }
                            let (innocent, guard) = start(client, &prompt(Kind::Good, number + 1, 0));
                            let (received, last) = collect(&innocent);
                            assert!(matches!(last, Last::Done), "stream {number}: {last:?}");
                            assert_eq!(received, expected(number + 1));
                            reused.fetch_add(usize::from(guard.join().connection_reused), Ordering::Relaxed);
                            assert!(expected(number).starts_with(&collect(&receiver).0));
                        }
                    });
                }
            });
            let took = began.elapsed();
            let streams = (INNOCENT_THREADS * rounds) as usize;
            // If a cancel had shut down the pooled connection of another stream, that stream could
            // have been resent silently.
            let mut times = vec![0; 2 * streams];
            for request in server.requests() {
                times[request.json()["prompt"][1].as_u64().unwrap() as usize] += 1;
            }
            let hurt = times.iter().skip(1).step_by(2).filter(|times| **times != 1).count();
            let (cancelled, reused) = (cancelled.into_inner(), reused.into_inner());
            println!(
                "tls {tls}: {streams} cancels (in {} of them the outcome was read: {cancelled} before the end) and {streams} other streams, \
                 {reused} of them on a reused connection: {hurt} affected, in {took:.1?}",
                streams / 2
            );
            assert_eq!(hurt, 0, "sent twice or never");
            // Without these numbers, the test would not have shared any connection or cancelled any
            // stream in the middle.
            assert!(
                reused > streams / 10 && cancelled > streams / 20,
                "{reused} reused, {cancelled} cancelled"
            );
        }
    });
}

/// A connection can belong to another stream as soon as a whole response was read. The first stream
/// may then be asleep before a retry, or it may be over while its guard still exists. A cancel of
/// the first stream must not affect the second.
#[test]
fn a_late_cancel_does_not_affect_the_next_stream_on_the_connection() {
    const SENT_AGAIN: usize = 1000;
    let (authority, identity) = certificates();
    for tls in [false, true] {
        // In each pair, the second response is in progress when the first stream is cancelled.
        let gates: Arc<Vec<Gate>> = Arc::new((0..20).map(|_| Gate::new()).collect());
        let of_server = gates.clone();
        let begun = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
        let rest = r#"{"choices":[{"index":0,"text":"b","token_ids":[2],"finish_reason":"stop"}]}"#;
        let mut builder = MockServer::builder();
        if tls {
            builder = builder.tls(identity.clone());
        }
        let server = builder
            .start(move |request| match request.json()["prompt"][0].as_u64().unwrap() as usize {
                0 => Script::events([rest]),
                SENT_AGAIN => Script::status(503).header("Retry-After", "25").json("{}"),
                n => Script::events([begun]).wait_for(&of_server[n - 1]).event(rest),
            })
            .unwrap();
        let client = ApiClient::builder(server.url()).ca_pem(authority.clone()).build().unwrap();
        let mut shared = [0; 2];
        for (n, gate) in gates.iter().enumerate() {
            let is_over = n % 2 == 0;
            let (first, late) = start(&client, &[if is_over { 0 } else { SENT_AGAIN as TokenId }]);
            if is_over {
                assert!(matches!(collect(&first), (_, Last::Done)));
            } else {
                assert!(server.wait_for_requests(2 * n + 1, LONG));
            }
            // The end of the framing is read a moment later, and only then is the connection back
            // in the pool. Most pairs share the connection, as checked below.
            thread::sleep(Duration::from_millis(30));
            let canceller = late.canceller();
            let (innocent, guard) = start(&client, &[n as TokenId + 1]);
            let begun = innocent.recv_timeout(LONG);
            assert!(matches!(begun, Ok(StreamToken::Token { .. })), "{begun:?}");
            match n / 2 % 3 {
                0 => late.cancel(),
                1 => canceller.cancel(),
                _ => drop(late),
            }
            gate.open();
            let (tokens, last) = collect(&innocent);
            assert!(matches!(last, Last::Done), "tls {tls}, pair {n}: {last:?}");
            assert_eq!(tokens, [("b".to_owned(), Some(2))]);
            shared[usize::from(is_over)] += usize::from(guard.join().connection_reused);
        }
        println!("tls {tls}: {shared:?} of {} on the connection of the cancelled stream", gates.len());
        assert!(shared.iter().all(|shared| *shared > gates.len() / 4), "{shared:?}");
    }
}
