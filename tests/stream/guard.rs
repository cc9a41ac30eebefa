//! Tests of cancelling, joining and dropping, and of the limits on streams and connections.

use super::*;

/// Starts a server that sends one token and then waits.
fn stalled() -> MockServer {
    MockServer::scripted([
        Script::events([r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#]).hang(LONG)
    ])
    .unwrap()
}

#[test]
fn cancel_closes_the_channel_without_an_item_and_disconnects() {
    each_row(["cancel", "drop", "canceller", "drop the receiver"], |how| {
        let server = stalled();
        let client = client(&server).build().unwrap();
        let (receiver, guard) = start(&client);
        // The token is in the channel, and the thread is blocked in a read.
        while receiver.is_empty() {
            thread::sleep(ms(1));
        }
        let (mut guard, mut receiver) = (Some(guard), Some(receiver));
        match how {
            "cancel" => guard.as_ref().unwrap().cancel(),
            "drop" => drop(guard.take()),
            "canceller" => {
                let canceller = guard.as_ref().unwrap().canceller();
                thread::spawn(move || canceller.cancel()).join().unwrap();
            }
            _ => {
                drop(receiver.take());
                // If the guard were kept, the thread would detect this only at the next token or at
                // its silence limit.
                drop(guard.take());
            }
        }
        if let Some(receiver) = &receiver {
            let (tokens, last) = collect(receiver);
            assert_eq!(tokens, [("a".to_owned(), Some(1))], "{how}: received tokens can still be read");
            assert!(matches!(last, Last::Nothing), "{how}: {last:?}");
        }
        assert!(server.wait_for_disconnects(1, LONG), "{how}: the server did not see the disconnect");
        if let Some(guard) = guard {
            let report = guard.join();
            assert_eq!((report.ending, report.tokens), (Outcome::Cancelled, 1), "{how}");
            assert!(report.error.is_none(), "{how}");
        }
    });
}

#[test]
fn cancel_works_before_any_response() {
    each_row(["connection accepted, then silence", "request read, then silence", "TLS handshake"], |phase| {
        let builder = MockServer::builder();
        let server = match phase {
            "request read, then silence" => builder.scripted([Script::new().hang(LONG)]),
            _ => builder.on_accept(|_| OnAccept::Hang).scripted([Script::new()]),
        }
        .unwrap();
        let url =
            if phase == "TLS handshake" { server.url().replace("http:", "https:") } else { server.url() };
        let client = ApiClient::builder(url).retries(0).timeouts(far()).build().unwrap();
        let (receiver, guard) = start(&client);
        let began = Instant::now();
        while server.connections() == 0 {
            assert!(began.elapsed() < LONG, "{phase}: no connection");
            thread::sleep(ms(1));
        }
        thread::sleep(ms(20));
        guard.cancel();
        assert!(matches!(collect(&receiver), (tokens, Last::Nothing) if tokens.is_empty()), "{phase}");
        assert_eq!(guard.join().ending, Outcome::Cancelled, "{phase}");
    });
}

#[test]
fn a_joining_guard_waits_and_loses_nothing_without_a_reader() {
    let many = 5_000;
    let server = MockServer::scripted([Script::tokens((0..many).map(|n| (n, "some text")))]).unwrap();
    let client = client(&server).build().unwrap();
    // Test both ways to join, with a channel that holds a fifth of the tokens.
    let (receiver, guard) = start(&client);
    let report = guard.join();
    assert_eq!((report.ending, report.tokens), (Outcome::Complete, u64::from(many)));
    let (tokens, last) = collect(&receiver);
    assert!(matches!(last, Last::Done));
    assert!(tokens.iter().enumerate().all(|(n, (_, id))| *id == Some(n as TokenId)));

    let (receiver, guard) = start(&client);
    drop(guard.on_drop(OnDrop::Join));
    assert_eq!(receiver.len(), many as usize + 1, "the drop did not wait");
    assert_eq!(collect(&receiver).0.len(), many as usize);
}

#[test]
fn a_slow_consumer_pauses_the_socket_and_all_timers_except_the_deadline() {
    let events = |n: usize| vec![r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#; n];
    let gate = Gate::new();
    let server = MockServer::scripted([Script::events(events(50)).wait_for(&gate).event("[DONE]")]).unwrap();
    let mut limits = Limits::default();
    limits.max_channel_tokens = 10;
    let timeouts = timeouts(|t| {
        t.chunk = Some(ms(200));
        t.content = Some(ms(200));
    });
    let client = client(&server).limits(limits).timeouts(timeouts).build().unwrap();
    let (receiver, guard) = start(&client);
    until(|| receiver.len() == 10, "the channel is full");
    // Sleep for longer than the timers that must be paused now.
    thread::sleep(ms(600));
    assert_eq!(receiver.len(), 10, "the channel grew over its limit");
    gate.open();
    let (tokens, last) = collect(&receiver);
    assert!(matches!(last, Last::Done), "{last:?}");
    assert_eq!(tokens.len(), 50);
    assert!(guard.join().waited_for_consumer > Duration::ZERO);

    // The deadline expires while the channel is not read. All received tokens are still delivered.
    with_timer(ms(300), |deadline| {
        let server = MockServer::scripted([Script::events(events(50)).hang(LONG)]).unwrap();
        let timeouts = self::timeouts(|t| t.deadline = Some(deadline));
        let client = self::client(&server).limits(limits).timeouts(timeouts).build().unwrap();
        let (receiver, guard) = start(&client);
        until(|| guard.report().is_some(), "the deadline does not wait for the consumer");
        let (tokens, last) = collect(&receiver);
        assert!(
            matches!(&last, Last::Error(e) if e.kind() == ErrorKind::Timeout(Timer::Deadline)),
            "{last:?}"
        );
        assert!(tokens.len() >= 10);
        assert_eq!(guard.join().tokens, tokens.len() as u64);
    });
}

fn until(done: impl Fn() -> bool, what: &str) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LONG, "never: {what}");
        thread::sleep(ms(1));
    }
}

#[test]
fn a_cancel_during_the_end_gives_one_outcome_and_a_matching_report() {
    let server = MockServer::scripted([Script::tokens(HELLO)]).unwrap();
    let client = client(&server).build().unwrap();
    let mut endings = [0, 0];
    for n in 0..400 {
        let (receiver, guard) = start(&client);
        let began = Instant::now();
        while began.elapsed() < Duration::from_micros(n % 100 * 10) {
            std::hint::spin_loop();
        }
        guard.cancel();
        let (tokens, last) = collect(&receiver);
        let report = guard.join();
        assert!(hello().starts_with(&tokens));
        match last {
            Last::Done => assert_eq!((report.ending, tokens.len()), (Outcome::Complete, HELLO.len())),
            Last::Nothing => assert_eq!(report.ending, Outcome::Cancelled),
            Last::Error(error) => panic!("{error}"),
        }
        endings[usize::from(report.ending == Outcome::Complete)] += 1;
    }
    println!("cancelled, complete: {endings:?}");
}

#[test]
fn a_cancel_after_the_end_keeps_the_connection() {
    // The framing ends a moment after the content.
    let gate = Gate::new();
    let server = MockServer::scripted([Script::tokens(HELLO).wait_for(&gate)]).unwrap();
    let client = reusing(&server).build().unwrap();
    for n in 0..2 {
        let (receiver, guard) = start(&client);
        assert!(matches!(collect(&receiver), (_, Last::Done)));
        guard.cancel();
        let report = guard.join();
        assert_eq!((report.ending, report.connection_reused), (Outcome::Complete, n > 0));
        gate.open();
    }
}

#[test]
fn the_drain_of_a_connection_is_limited_in_time_and_bytes() {
    let (short, long) = (ms(200), LONG * 2);
    let good = || Script::tokens(HELLO);
    // bytes after the end, limit, whether the connection is reused
    let cases = [
        ("nothing", good(), long, true),
        ("some bytes", good().write(vec![b'x'; 4000]), long, true),
        ("more bytes than the limit", good().write(vec![b'x'; 40_000]), long, false),
        ("endless bytes", good().repeat("x", u64::MAX, Duration::ZERO), long, false),
        ("silence", good().hang(LONG), short, false),
        ("a pause, with a limit of zero", good().pause(ms(20)), Duration::ZERO, false),
    ];
    each_row(cases, |(name, script, limit, reused)| {
        let server = MockServer::scripted([script, Script::tokens(HELLO)]).unwrap();
        let mut limits = Limits::default();
        // With one thread, the second stream starts after the drain of the first.
        limits.max_streams = 1;
        let set = timeouts(|t| t.drain = limit);
        let client = client(&server).limits(limits).timeouts(set).build().unwrap();
        let began = Instant::now();
        for n in 0..2 {
            let (tokens, last, report) = run(&client);
            assert!(matches!(last, Last::Done), "{name}: {last:?}");
            assert_eq!((tokens, report.connection_reused), (hello(), reused && n > 0), "{name}");
        }
        assert!(began.elapsed() < LONG, "{name}: waits for endless bytes");
    });
}

#[test]
fn idle_connections_are_kept_up_to_the_limit() {
    each_row([(0, 1), (2, 6), (6, 6)], |(kept, streams)| {
        let gate = Gate::new();
        let server =
            MockServer::scripted([Script::events::<&str>([]).wait_for(&gate).event("[DONE]")]).unwrap();
        let mut limits = Limits::default();
        limits.max_idle_connections = kept;
        // Idle connections must be closed because of their number, not because the drain was too
        // short.
        let set = timeouts(|t| t.drain = LONG);
        let client = client(&server).limits(limits).timeouts(set).build().unwrap();
        let running: Vec<_> = (0..streams).map(|_| start(&client)).collect();
        assert!(server.wait_for_requests(streams, LONG));
        gate.open();
        for (receiver, _guard) in &running {
            assert!(matches!(collect(receiver), (_, Last::Done)));
        }
        assert!(server.wait_for_open_connections(kept, LONG), "{kept} of {streams}");
        assert_eq!(server.connections(), streams);
        if kept == streams {
            // Check that the client does not keep fewer connections.
            thread::sleep(ms(50));
            assert_eq!(server.open_connections(), kept);
        }
        assert_eq!(run(&client).2.connection_reused, kept > 0, "{kept} of {streams}");
    });
}

#[test]
fn the_servers_request_id_is_reported_and_its_header_comes_first() {
    let event =
        r#"{"id":"cmpl-body","choices":[{"index":0,"text":"a","token_ids":[1],"finish_reason":"stop"}]}"#;
    let error = r#"{"error":{"message":"no"}}"#;
    each_row(
        [
            (Script::events([event, "[DONE]"]), "cmpl-body"),
            (Script::events([event, "[DONE]"]).header("X-Request-Id", "head"), "head"),
            (Script::events([error]).header("X-Request-Id", "head"), "head"),
            (Script::status(500).header("X-Request-Id", "head").json(error), "head"),
        ],
        |(script, id)| {
            let server = MockServer::scripted([script]).unwrap();
            let (_, last, report) = run(&client(&server).build().unwrap());
            assert_eq!(report.request_id.as_deref(), Some(id));
            if let Last::Error(error) = last {
                assert_eq!(error.request_id(), Some(id));
            }
        },
    );
}

#[test]
fn caller_settings_override_detection_and_request_headers_override_client_headers() {
    let server = MockServer::scripted([Script::tokens(HELLO), Script::status(404).json("{}")]).unwrap();
    let told =
        client(&server).server(tokenwire::ServerKind::LlamaCpp).header("x-a", "client's").build().unwrap();
    let request = CompletionRequest::ids([1]).header("x-a", "own");
    let (receiver, _guard) = told.stream(request).unwrap();
    assert!(matches!(collect(&receiver), (_, Last::Done)));
    assert_eq!(told.server().unwrap(), Some(tokenwire::ServerKind::LlamaCpp));
    let sent = server.requests().remove(0).headers;
    let values: Vec<_> =
        sent.iter().filter(|(name, _)| name == "x-a").map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["own"]);
}

#[test]
fn a_reused_connection_that_breaks_in_its_response_is_not_retried() {
    let broken = Script::raw("HTTP/1.1 200 OK\r\ncontent-ty");
    let server = MockServer::scripted([Script::tokens(HELLO), broken, Script::tokens(HELLO)]).unwrap();
    let client = reusing(&server).build().unwrap();
    assert!(matches!(run(&client).1, Last::Done));
    let (_, last, _) = run(&client);
    assert!(matches!(&last, Last::Error(e) if e.kind() == ErrorKind::Incomplete), "{last:?}");
    assert_eq!((server.requests().len(), server.connections()), (2, 1));
}

#[test]
fn a_timer_on_a_reused_connection_does_not_resend_the_request() {
    with_timer(ms(300), |first_token| {
        let server = MockServer::scripted([Script::tokens(HELLO), Script::new().hang(LONG)]).unwrap();
        let timeouts = timeouts(|t| t.first_token = Some(first_token));
        let client = one_at_a_time(client(&server), timeouts).build().unwrap();
        assert!(matches!(run(&client).1, Last::Done));
        let (_, last, _) = run(&client);
        assert!(
            matches!(&last, Last::Error(e) if e.kind() == ErrorKind::Timeout(Timer::FirstToken)),
            "{last:?}"
        );
        assert_eq!((server.requests().len(), server.connections()), (2, 1));
    });
}

#[test]
fn over_the_limit_a_stream_waits_or_fails_and_can_be_cancelled_unsent() {
    let gate = Gate::new();
    let waiting = Script::events::<&str>([]).wait_for(&gate).event("[DONE]");
    let server = MockServer::scripted([waiting]).unwrap();
    let mut limits = Limits::default();
    limits.max_streams = 1;
    let client = client(&server).limits(limits).build().unwrap();
    let (first, _first_guard) = start(&client);
    let (second, second_guard) = start(&client);
    let (third, _third_guard) = start(&client);
    assert!(server.wait_for_requests(1, LONG));
    second_guard.cancel();
    assert!(matches!(collect(&second), (_, Last::Nothing)));
    assert_eq!(second_guard.join().ending, Outcome::Cancelled);
    gate.open();
    assert!(matches!(collect(&first), (_, Last::Done)));
    assert!(matches!(collect(&third), (_, Last::Done)));
    assert_eq!(server.requests().len(), 2, "the cancelled request was sent");

    let server = stalled();
    let client = self::client(&server).limits(limits).when_full(WhenFull::Fail).build().unwrap();
    let (_receiver, _guard) = start(&client);
    let error = client.stream_completion(&[1], SamplingParams::default(), None).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Limit(Limit::Streams));

    // A stream that has ended does not count. Its thread may still drain the connection or be about
    // to return.
    let server = MockServer::scripted([Script::tokens(HELLO).pause(ms(30))]).unwrap();
    let client = self::client(&server).limits(limits).when_full(WhenFull::Fail).build().unwrap();
    for n in 0..20 {
        let (receiver, guard) = start(&client);
        if n % 2 == 0 {
            assert!(matches!(collect(&receiver), (_, Last::Done)));
        } else {
            guard.cancel();
            guard.join();
        }
    }
}

#[test]
fn a_waiting_stream_ends_with_its_timers() {
    // The timers are multiples of a short timer.
    each_row(
        [
            ("deadline", Some(1), None, Timer::Deadline),
            ("first token", None, Some(1), Timer::FirstToken),
            ("both", Some(1), Some(2), Timer::Deadline),
            ("both, in the other order", Some(100), Some(1), Timer::FirstToken),
        ],
        |(name, deadline, first_token, ends)| {
            with_timer(ms(250), |short| {
                let limit = |times: Option<u32>| times.map(|times| short * times);
                // The only thread waits for the last bytes of its connection, which never arrive.
                let server = MockServer::scripted([Script::tokens(HELLO).hang(LONG)]).unwrap();
                let set = timeouts(|t| (t.deadline, t.first_token) = (limit(deadline), limit(first_token)));
                let client = one_at_a_time(client(&server), set).build().unwrap();
                assert!(matches!(run(&client).1, Last::Done), "{name}");
                let waiting: Vec<_> = (0..3).map(|_| start(&client)).collect();
                for (receiver, guard) in waiting {
                    let (tokens, last) = collect(&receiver);
                    let Last::Error(error) = last else { panic!("{name}: {last:?}") };
                    assert_eq!((error.kind(), tokens.len()), (ErrorKind::Timeout(ends), 0), "{name}");
                    let report = guard.join();
                    assert_eq!(report.ending, Outcome::Failed, "{name}");
                    assert!(report.elapsed >= short, "{name}: {:?}", report.elapsed);
                }
                assert_eq!(server.requests().len(), 1, "{name}: a waiting stream was sent");
            });
        },
    );
}

#[test]
fn many_streams_can_be_selected() {
    let gate = Gate::new();
    let slow = Script::events::<&str>([]).wait_for(&gate).event("[DONE]");
    let server = MockServer::start(move |request| {
        if request.json()["prompt"][0] == 1 { slow.clone() } else { Script::tokens(HELLO) }
    })
    .unwrap();
    let client = client(&server).build().unwrap();
    let open = |id| client.stream_completion(&[id], SamplingParams::default(), None).unwrap();
    let ((slow, _a), (quick, _b)) = (open(1), open(2));
    let got = crossbeam_channel::select! {
        recv(slow) -> _ => "slow",
        recv(quick) -> _ => "quick",
        default(LONG) => "nothing",
    };
    assert_eq!(got, "quick");
    gate.open();
    assert!(matches!(collect(&slow), (_, Last::Done)));
}
