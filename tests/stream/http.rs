//! Tests of streams over TLS, and of `HttpClient` and `SseReader` without a stream.

use super::*;

// ---- TLS ----

#[test]
fn https_needs_a_trusted_authority_and_then_streams_and_cancels_like_http() {
    let (authority, identity) = certificates();
    let hang = Script::tokens(HELLO[..1].iter().copied()).event("{}");
    let server = MockServer::start_tls(
        move |request: &tokenwire::recording::Request| match request.json()["prompt"][0].as_u64() {
            Some(2) => {
                let first = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
                Script::events([first]).hang(LONG)
            }
            Some(3) => hang.clone().cut_at(300, Cut::Fin),
            _ => Script::tokens(HELLO),
        },
        identity,
    )
    .unwrap();
    let (_, last, _) = run(&client(&server).build().unwrap());
    assert!(matches!(&last, Last::Error(e) if e.kind() == ErrorKind::Connect), "{last:?}");

    let client = reusing(&server).ca_pem(authority).build().unwrap();
    let (tokens, last, _) = run(&client);
    assert!(matches!(last, Last::Done), "{last:?}");
    assert_eq!(tokens, hello());

    let (receiver, guard) = client.stream_completion(&[2], SamplingParams::default(), None).unwrap();
    while receiver.is_empty() {
        thread::sleep(ms(1));
    }
    guard.cancel();
    assert!(matches!(collect(&receiver), (_, Last::Nothing)));
    let report = guard.join();
    assert_eq!(report.ending, Outcome::Cancelled);
    assert!(report.connection_reused);

    let (receiver, _guard) = client.stream_completion(&[3], SamplingParams::default(), None).unwrap();
    assert!(matches!(collect(&receiver), (_, Last::Error(e)) if e.kind() == ErrorKind::Incomplete));
}

// ---- HttpClient and SseReader alone ----

#[test]
fn the_http_client_returns_status_headers_text_and_pieces() {
    let server = MockServer::scripted([
        Script::status(418).header("X-Tea", "pot").json(r#"{"a":"ä"}"#),
        Script::events(["1", "{\"b\":2}", "[DONE]", "3"]),
        Script::events(["1", "{\"b\":2}"]).write("data: [DONE]"),
        Script::events(["1", "{\"b\":2}"]),
    ])
    .unwrap();
    let http = tokenwire::HttpClient::new().unwrap();
    let url = format!("{}/x", server.url());
    let response = http.send_json("PUT", &url, &[("x-y", "z")], &json!({"q": 1})).unwrap();
    assert_eq!((response.status(), response.header("x-tea")), (418, Some("pot")));
    assert_eq!(response.text().unwrap(), r#"{"a":"ä"}"#);
    let request = server.requests().remove(0);
    assert_eq!(
        (request.method.as_str(), request.header("x-y"), request.json()),
        ("PUT", Some("z"), json!({"q": 1}))
    );

    for done in [true, true, false] {
        let mut response = http.get(&url, &[]).unwrap();
        let mut events = tokenwire::SseReader::new(LONG);
        let mut values = Vec::<Value>::new();
        while let Some(value) = events.next_event(&mut response).unwrap() {
            values.push(value);
        }
        assert_eq!(values, [json!(1), json!({"b": 2})]);
        assert_eq!((events.is_done(), events.chunks_received() > 0), (done, true));
        assert_eq!((events.sse_parse_errors(), events.sse_lines_parsed() >= 4), (0, true));
    }
}

#[test]
fn the_sse_reader_skips_invalid_json_and_stops_at_silence() {
    let server =
        MockServer::scripted([Script::events(["{\"a\":1}", "oops", "{\"b\":2}"]).hang(LONG)]).unwrap();
    let http = tokenwire::HttpClient::new().unwrap();
    let mut response = http.get(&server.url(), &[]).unwrap();
    let mut events = tokenwire::SseReader::new(ms(200));
    assert_eq!(events.next_event(&mut response).unwrap(), Some(json!({"a": 1})));
    assert_eq!(events.next_event(&mut response).unwrap(), Some(json!({"b": 2})));
    let error = events.next_event(&mut response).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout(Timer::Chunk));
    assert_eq!((events.sse_parse_errors(), events.is_done()), (1, false));
}

#[test]
fn guards_and_receivers_can_move_to_other_threads() {
    let (done, finished) = mpsc::channel();
    let server = MockServer::scripted([Script::tokens(HELLO)]).unwrap();
    let client = client(&server).build().unwrap();
    let (receiver, guard) = start(&client);
    thread::spawn(move || {
        let tokens = collect(&receiver).0;
        done.send((tokens, guard.join().ending)).unwrap();
    });
    assert_eq!(finished.recv_timeout(LONG).unwrap(), (hello(), Outcome::Complete));
}

#[test]
fn ids_dropped_by_a_proxy_differ_from_ids_that_no_server_sent() {
    let text = r#"{"choices":[{"index":0,"text":"Hi","finish_reason":"stop"}]}"#;
    each_row(
        [
            (Some(tokenwire::ServerKind::Vllm), None, Inexact::Dropped),
            (Some(tokenwire::ServerKind::Ollama), None, Inexact::NoIds),
            (None, None, Inexact::NoIds),
            // The caller has turned the ids off.
            (Some(tokenwire::ServerKind::Vllm), Some("return_token_ids"), Inexact::NoIds),
        ],
        |(server_is, extra, why)| {
            let server = MockServer::scripted([Script::events([text, "[DONE]"])]).unwrap();
            let mut builder = client(&server);
            if let Some(server) = server_is.clone() {
                builder = builder.server(server);
            }
            let mut request = CompletionRequest::text("Hello");
            if let Some(key) = extra {
                request = request.extra(key, false);
            }
            let (tokens, guard) = builder.build().unwrap().stream(request).unwrap();
            let report = guard.join();
            drop(tokens);
            assert_eq!(report.ids_exact, IdsExact::No(why), "{server_is:?} {extra:?}");
        },
    );
}

#[test]
fn each_attempt_has_its_own_request_id_and_the_headers_for_routers() {
    let busy = || Script::status(503).header("retry-after-ms", "1");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let server =
        MockServer::scripted([busy(), busy(), Script::tokens(HELLO), Script::tokens(HELLO)]).unwrap();
    let client = client(&server)
        .retries(2)
        .session_headers(["x-session-affinity", "x-user-id"])
        .priority_header("x-priority")
        .request_ids("test");
    let client = client.build().unwrap();
    let request = || CompletionRequest::ids([1]).session("s-1").traceparent(trace).priority(-3);
    let (_tokens, guard) = client.stream(request().request_id("mine")).unwrap();
    assert_eq!(guard.join().ending, Outcome::Complete);
    let (_tokens, guard) = client.stream(request()).unwrap();
    assert_eq!(guard.join().ending, Outcome::Complete);
    let seen = server.requests();
    let header = |n: usize, name: &str| seen[n].header(name).map(str::to_owned);
    let ids: Vec<_> = (0..4).map(|n| header(n, "x-request-id").unwrap()).collect();
    assert_eq!(ids[..3], ["mine", "mine-1", "mine-2"]);
    assert!(ids[3].starts_with("test-") && ids[3].ends_with("-0"), "{ids:?}");
    for (n, request) in seen.iter().enumerate() {
        for (name, value) in [
            ("x-session-affinity", "s-1"),
            ("x-user-id", "s-1"),
            ("x-priority", "-3"),
            ("traceparent", trace),
        ] {
            assert_eq!(header(n, name).as_deref(), Some(value), "{name}");
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert!(body.get("priority").is_none(), "{body}");
    }
}
