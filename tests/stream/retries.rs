//! Tests which requests are retried, and when.

use super::*;

/// Returns a client with short waits.
fn retrying(server: &MockServer, first_token: Duration) -> ApiClient {
    let mut policy = RetryPolicy::default();
    (policy.min_wait, policy.max_server_wait) = (ms(5), LONG * 10);
    let timeouts = timeouts(|t| t.first_token = Some(first_token));
    ApiClient::builder(server.url()).retry(policy).timeouts(timeouts).build().unwrap()
}

/// A call is delivered when it is complete. Until then, its pieces show that the response has
/// begun.
#[test]
fn the_first_piece_of_a_call_stops_the_first_token_timer() {
    let piece = |delta: Value, finish: Option<&str>| {
        json!({"choices":[{"index":0,"delta":delta,"finish_reason":finish}]}).to_string()
    };
    let first = json!({"index":0,"id":"c","function":{"name":"f","arguments":"{"}});
    let rest = json!({"index":0,"function":{"arguments":"}"}});
    let script = Script::events([piece(json!({"tool_calls":[first]}), None)])
        .pause_until(ms(2000))
        .event(&piece(json!({"tool_calls":[rest]}), Some("tool_calls")))
        .event("[DONE]");
    let server = MockServer::scripted([script]).unwrap();
    let timeouts = timeouts(|t| t.first_token = Some(ms(1000)));
    let client = client(&server).endpoint(Endpoint::Chat).timeouts(timeouts).build().unwrap();
    let (receiver, guard) = client.stream(CompletionRequest::text("Hi")).unwrap();
    let items: Vec<_> = receiver.iter().collect();
    assert!(matches!(&items[..], [StreamToken::ToolCall(_), StreamToken::Done { .. }]), "{items:?}");
    assert!(guard.join().first_token.is_some());
}

#[test]
fn failures_before_the_first_token_are_retried_and_later_failures_are_not() {
    let busy = r#"{"error":{"message":"busy","code":503}}"#;
    let wrong = r#"{"error":{"message":"bad id","code":400}}"#;
    let a = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
    // name, first response, number of requests
    let cases = [
        ("503", Script::status(503).json(busy), 2),
        ("429", Script::status(429).header("Retry-After", "0").json(busy), 2),
        ("429 with milliseconds", Script::status(429).header("retry-after-ms", "1").json(busy), 2),
        ("409", Script::status(409), 2),
        ("400 that requests a retry", Script::status(400).header("x-should-retry", "true"), 2),
        ("503 that forbids a retry", Script::status(503).header("x-should-retry", "false"), 1),
        ("400", Script::status(400).json(wrong), 1),
        ("closed without a byte", Script::new(), 2),
        ("reset in the head", Script::tokens(HELLO).cut_at(20, Cut::Reset), 2),
        ("closed after the head", Script::events::<&str>([]).close(), 2),
        ("server's error as first event", Script::events([busy, "[DONE]"]), 2),
        ("request's error as first event", Script::events([wrong, "[DONE]"]), 1),
        ("broken after a token", Script::events([a]).close(), 1),
        ("server's error after a token", Script::events([a, busy]), 1),
    ];
    each_row(cases, |(name, script, requests)| {
        let server = MockServer::scripted([script, Script::tokens(HELLO)]).unwrap();
        let (tokens, last, report) = run(&retrying(&server, LONG));
        assert_eq!(server.requests().len(), requests, "{name}: {last:?} {report:?}");
        assert_eq!(report.retries as usize, requests - 1, "{name}");
        if requests == 2 {
            assert!(matches!(last, Last::Done), "{name}: {last:?}");
            assert_eq!((tokens, report.tokens, report.ids_exact), (hello(), 4, IdsExact::Yes), "{name}");
            let requests = server.requests();
            assert_eq!(requests[0].body, requests[1].body, "{name}");
        } else {
            assert!(matches!(last, Last::Error(_)), "{name}: {last:?}");
        }
    });
    with_timer(ms(300), |first_token| {
        let silent = Script::events::<&str>([]).hang(LONG);
        let server = MockServer::scripted([silent, Script::tokens(HELLO)]).unwrap();
        let (tokens, last, report) = run(&retrying(&server, first_token));
        assert!(matches!(last, Last::Done), "{last:?}");
        assert_eq!((tokens, report.retries, server.requests().len()), (hello(), 1, 2));
    });
}

#[test]
fn the_servers_wait_is_respected_unless_it_exceeds_the_deadline() {
    let wait = |ms: &str| Script::status(503).header("retry-after-ms", ms);
    let server = MockServer::scripted([wait("150"), Script::tokens(HELLO)]).unwrap();
    let (_, last, report) = run(&retrying(&server, LONG));
    assert!(matches!(last, Last::Done), "{last:?}");
    assert!(report.elapsed >= ms(150), "{:?}", report.elapsed);

    // A stream that waited until this deadline would hang in `collect`.
    let server = MockServer::scripted([wait("1000000"), Script::tokens(HELLO)]).unwrap();
    let mut policy = RetryPolicy::default();
    policy.max_server_wait = LONG * 100;
    let client = ApiClient::builder(server.url()).timeouts(far()).retry(policy).build().unwrap();
    let (_, last, _) = run(&client);
    assert!(matches!(&last, Last::Error(e) if e.status() == Some(503)), "{last:?}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_cancel_ends_the_wait_before_a_retry_and_nothing_is_sent() {
    // This time is longer than the wait of `collect`.
    let server = MockServer::scripted([Script::status(503).header("Retry-After", "600")]).unwrap();
    let (receiver, guard) = start(&retrying(&server, LONG));
    assert!(server.wait_for_requests(1, LONG));
    thread::sleep(ms(50));
    guard.cancel();
    assert!(matches!(collect(&receiver), (_, Last::Nothing)));
    assert_eq!(guard.join().ending, Outcome::Cancelled);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_total_outage_gets_at_most_a_fifth_more_requests() {
    let server = MockServer::scripted([Script::status(503)]).unwrap();
    let client = retrying(&server, LONG);
    let streams: Vec<_> = (0..100).map(|_| start(&client)).collect();
    for (receiver, _guard) in &streams {
        assert!(matches!(collect(receiver), (_, Last::Error(e)) if e.status() == Some(503)));
    }
    let sent = server.requests().len();
    assert!((101..=120).contains(&sent), "{sent} requests for 100 streams");
}
