//! Tests of how streams end when servers fail.

use super::*;

/// A fault, and the items that the consumer must receive.
struct Fault {
    name: &'static str,
    script: Script,
    tokens: usize,
    kind: ErrorKind,
    says: &'static str,
}

fn faults() -> Vec<Fault> {
    let fault = |name, script, tokens, kind, says| Fault { name, script, tokens, kind, says };
    let chunk =
        |text: &str, id: u32| json!({"choices":[{"index":0,"text":text,"token_ids":[id]}]}).to_string();
    let a = chunk("a", 1);
    let a = a.as_str();
    let html = "<html><head><title>502 Bad Gateway</title></head></html>";
    vec![
        fault(
            "401",
            Script::status(401).json(r#"{"error":"Unauthorized"}"#),
            0,
            ErrorKind::Server,
            "Unauthorized",
        ),
        fault(
            "404",
            Script::status(404).json(r#"{"detail":"Not Found"}"#),
            0,
            ErrorKind::Server,
            "Not Found",
        ),
        fault(
            "HTML 502",
            Script::status(502).body("text/html", html),
            0,
            ErrorKind::Server,
            "502 Bad Gateway",
        ),
        fault(
            "redirect",
            Script::status(307).header("Location", "http://other.test/v1"),
            0,
            ErrorKind::Server,
            "other.test",
        ),
        fault(
            "JSON at 200",
            Script::status(200).json(r#"{"error":{"message":"no"}}"#),
            0,
            ErrorKind::NotEventStream,
            "no",
        ),
        fault(
            "plain text with events",
            Script::status(200).body("text/plain", "data: {}\n\n"),
            0,
            ErrorKind::NotEventStream,
            "text/plain",
        ),
        fault(
            "a router's JSON in two packets",
            Script::status(200)
                .framing(Framing::Chunked)
                .body("text/event-stream", r#"{"message":"#)
                .pause(ms(50))
                .write(r#""late"}"#),
            0,
            ErrorKind::NotEventStream,
            "text/event-stream: late",
        ),
        fault(
            "a router's JSON as event stream",
            Script::status(200).body("text/event-stream", r#" {"message":"context"}"#),
            0,
            ErrorKind::NotEventStream,
            "context",
        ),
        fault(
            "error as first event",
            Script::events([r#"{"error":{"message":"bad id","code":400}}"#, "[DONE]"]),
            0,
            ErrorKind::Server,
            "bad id",
        ),
        fault(
            "error after a token",
            Script::events([a, r#"{"error":{"message":"engine died","code":500}}"#, "[DONE]"]),
            1,
            ErrorKind::Server,
            "engine died",
        ),
        fault(
            "an error field",
            Script::events([a]).write("error: {\"message\":\"old\"}\n\ndata: [DONE]\n\n"),
            1,
            ErrorKind::Server,
            "old",
        ),
        fault(
            "a raw line of JSON",
            Script::events([a]).write("{\"error\":\"raw\"}\n\n"),
            1,
            ErrorKind::Server,
            "raw",
        ),
        fault(
            "a raw line of JSON at the very end",
            Script::events([a]).write("{\"error\":\"last\"}"),
            1,
            ErrorKind::Server,
            "last",
        ),
        fault("no finish", Script::events([a]), 1, ErrorKind::Incomplete, "without a finish reason"),
        fault("an empty body", Script::new(), 0, ErrorKind::Incomplete, "closed before"),
        fault(
            "an invalid id",
            Script::events([a, r#"{"choices":[{"index":0,"text":"b","token_ids":[-1]}]}"#]),
            1,
            ErrorKind::Protocol,
            "id",
        ),
        fault(
            "an index out of range",
            Script::events([a, r#"{"choices":[{"index":7,"text":"b","token_ids":[1]}]}"#]),
            1,
            ErrorKind::Protocol,
            "index",
        ),
        fault(
            "gzip",
            Script::status(200).header("Content-Encoding", "gzip").body("text/event-stream", "x"),
            0,
            ErrorKind::Protocol,
            "gzip",
        ),
        fault(
            "a huge event",
            Script::events([a, &"x".repeat(2000)]),
            1,
            ErrorKind::Limit(Limit::EventBytes),
            "max_event_bytes",
        ),
        fault(
            "a huge head",
            Script::raw(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(40_000))),
            0,
            ErrorKind::Limit(Limit::ResponseHeadBytes),
            "max_response_head_bytes",
        ),
        fault("no HTTP", Script::raw("SSH-2.0-x\r\n\r\n"), 0, ErrorKind::Protocol, "HTTP"),
        fault(
            "a bad chunk size",
            Script::raw(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            ),
            0,
            ErrorKind::Protocol,
            "HTTP",
        ),
        fault(
            "silence before the head",
            Script::new().hang(LONG),
            0,
            ErrorKind::Timeout(Timer::FirstToken),
            "first token",
        ),
        fault(
            "silence after the head",
            Script::events::<&str>([]).hang(LONG),
            0,
            ErrorKind::Timeout(Timer::FirstToken),
            "first token",
        ),
        fault(
            "comments only",
            Script::events::<&str>([]).repeat(": ping\n\n", 1000, ms(20)),
            0,
            ErrorKind::Timeout(Timer::FirstToken),
            "first token",
        ),
        fault(
            "silence after a token",
            Script::events([a]).hang(LONG),
            1,
            ErrorKind::Timeout(Timer::Chunk),
            "no bytes",
        ),
        fault(
            "a byte of framing now and then",
            Script::raw(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
                 {:x}\r\ndata: {a}\n\n\r\n",
                a.len() + 8
            ))
            .write_slowly("000000000000000000", 1, ms(100)),
            1,
            ErrorKind::Timeout(Timer::Chunk),
            "no bytes",
        ),
        fault(
            "comments after a token",
            Script::events([a]).repeat(": ping\n\n", 1000, ms(20)),
            1,
            ErrorKind::Timeout(Timer::Content),
            "no event",
        ),
        fault(
            "endless tokens",
            Script::events::<&str>([]).repeat(format!("data: {a}\n\n"), 1000, ms(100)),
            usize::MAX,
            ErrorKind::Timeout(Timer::Deadline),
            "not finished",
        ),
    ]
}

#[test]
fn every_fault_is_one_typed_error_after_the_received_tokens() {
    each_row(faults(), |fault| {
        let server = MockServer::scripted([fault.script]).unwrap();
        let mut limits = Limits::default();
        limits.max_event_bytes = 1000;
        let timeouts = timeouts(|t| {
            t.first_token = Some(ms(300));
            t.chunk = Some(ms(300));
            t.content = Some(ms(600));
            t.deadline = Some(ms(1500));
        });
        let client = client(&server).timeouts(timeouts).limits(limits).build().unwrap();
        let (tokens, last, report) = run(&client);
        let name = fault.name;
        let Last::Error(error) = last else { panic!("{name}: {last:?} after {tokens:?}") };
        assert_eq!(error.kind(), fault.kind, "{name}: {error}");
        assert!(error.to_string().contains(fault.says), "{name}: {error}");
        if fault.tokens != usize::MAX {
            assert_eq!(tokens.len(), fault.tokens, "{name}");
        }
        assert!(tokens.iter().all(|token| *token == ("a".to_owned(), Some(1))), "{name}");
        assert_eq!(report.ending, Outcome::Failed, "{name}");
        assert_eq!(error.progress().unwrap().tokens, tokens.len() as u64, "{name}");
        assert_eq!(report.error.unwrap().kind(), error.kind(), "{name}");
        assert_eq!(server.requests().len(), 1, "{name}: sent again");
    });
}

#[test]
fn a_refused_connection_and_an_unknown_host_are_different_errors() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (server, kind) in
        [(free.to_string(), ErrorKind::Refused), ("no-such-host.invalid".to_owned(), ErrorKind::Connect)]
    {
        let url = format!("http://{server}/v1");
        let client = ApiClient::builder(&url).retries(0).build().unwrap();
        let (tokens, last, _) = run(&client);
        let Last::Error(error) = last else { panic!("{url}: {last:?}") };
        assert_eq!((error.kind(), tokens.len(), error.is_connect()), (kind, 0, true), "{url}: {error}");
        assert!(error.message().contains(&server), "the error does not contain the address: {error}");
    }
}

/// Returns a listener with a full queue, so the system does not accept further connections.
///
/// The returned streams keep the queue full.
fn unanswered() -> (socket2::Socket, Vec<std::net::TcpStream>, std::net::SocketAddr) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, ms(100)) {
        queued.push(stream);
    }
    (listener, queued, address)
}

#[test]
fn the_expired_timer_is_reported_even_before_a_connection_exists() {
    let (_listener, _queued, address) = unanswered();
    let silent = MockServer::builder().on_accept(|_| OnAccept::Hang).scripted([Script::new()]).unwrap();
    for (place, url) in
        [("connect", format!("http://{address}")), ("handshake", silent.url().replace("http:", "https:"))]
    {
        for timer in [Timer::Connect, Timer::FirstToken, Timer::Deadline] {
            // The unusual value is intended. A connect timer is rounded down to milliseconds, and
            // the timer of the handshake starts a moment earlier.
            let limit = Some(Duration::from_micros(150_900));
            let timeouts = timeouts(|t| match timer {
                Timer::Connect => t.connect = limit,
                Timer::FirstToken => t.first_token = limit,
                _ => t.deadline = limit,
            });
            let (tokens, last, _) =
                run(&ApiClient::builder(&url).retries(0).timeouts(timeouts).build().unwrap());
            let Last::Error(error) = last else { panic!("{place}, {timer:?}: {last:?}") };
            assert_eq!((error.kind(), tokens.len()), (ErrorKind::Timeout(timer), 0), "{place}: {error}");
        }
    }
}

#[test]
fn a_cancel_in_a_connect_ends_the_stream_at_once_and_nothing_is_sent() {
    // On a slow machine, the cancel may happen before the connect. The client then does not
    // connect, so try again with a later cancel.
    let met = [100, 1_000, 5_000].into_iter().any(|begun| cancel_in_a_connect(ms(begun)));
    assert!(met, "every cancel was earlier than the connect");
}

/// Returns true if the cancel happened during a connect, which succeeded in the end.
fn cancel_in_a_connect(begun: Duration) -> bool {
    let (listener, queued, address) = unanswered();
    let client = ApiClient::builder(format!("http://{address}")).retries(0).timeouts(far()).build().unwrap();
    let (receiver, guard) = start(&client);
    thread::sleep(begun);
    guard.cancel();
    assert!(matches!(collect(&receiver), (_, Last::Nothing)));
    assert_eq!(guard.join().ending, Outcome::Cancelled);
    // Let the connect succeed.
    for _ in 0..queued.len() {
        drop(listener.accept());
    }
    drop(queued);
    listener.set_nonblocking(true).unwrap();
    let gives_up = Instant::now() + ms(10_000);
    let mut late = loop {
        match listener.accept() {
            Ok((late, _)) => break late,
            Err(_) if Instant::now() < gives_up => thread::sleep(ms(10)),
            Err(_) => return false,
        }
    };
    late.set_nonblocking(false).unwrap();
    let mut sent = Vec::new();
    std::io::Read::read_to_end(&mut late, &mut sent).unwrap();
    assert!(sent.is_empty(), "{}", String::from_utf8_lossy(&sent));
    true
}

#[test]
fn timers_also_end_a_body_that_is_not_a_stream() {
    let hang = |status, kind, body: &str| {
        Script::status(status).framing(Framing::CloseDelimited).body(kind, body).hang(LONG)
    };
    let json = r#"{"error":{"message":"came before the hang"}}"#;
    each_row(
        [
            ("an error status", hang(503, "application/json", json), ErrorKind::Server),
            ("another type", hang(200, "application/json", json), ErrorKind::NotEventStream),
            ("another first byte", hang(200, "text/event-stream", json), ErrorKind::NotEventStream),
        ],
        |(name, script, kind)| {
            type Set = fn(&mut Timeouts, Duration);
            for set in [(|t, limit| t.deadline = Some(limit)) as Set, |t, limit| t.first_token = Some(limit)]
            {
                with_timer(ms(300), |limit| {
                    let server = MockServer::scripted([script.clone()]).unwrap();
                    let client = client(&server).timeouts(timeouts(|t| set(t, limit))).build().unwrap();
                    let (_, last, report) = run(&client);
                    let Last::Error(error) = last else { panic!("{name}: {last:?}") };
                    assert_eq!(error.kind(), kind, "{name}: {error}");
                    assert!(error.to_string().contains("came before the hang"), "{name}: {error}");
                    // Without this timer, reading an error body takes 5 s.
                    assert!(report.elapsed < ms(5000), "{name}: {:?}", report.elapsed);
                });
            }
        },
    );
}

#[test]
fn the_probe_ends_within_its_timeout() {
    let head = Script::status(200).header("Content-Type", "application/json");
    let server = MockServer::scripted([head.repeat(" ", 1000, ms(100))]).unwrap();
    let client = client(&server).build().unwrap();
    let (done, answer) = mpsc::channel();
    thread::spawn(move || done.send(client.server()));
    // The documented timeout is 5 s.
    let error = answer.recv_timeout(LONG).expect("the probe hangs").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout(Timer::Response), "{error}");
}

#[test]
fn a_rejection_by_a_proxy_is_a_connect_error() {
    for answer in ["HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", ""] {
        let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", proxy.local_addr().unwrap());
        thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = proxy.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let client = ApiClient::builder("http://model.test/v1").retries(0).proxy(url).build().unwrap();
        let (_, last, _) = run(&client);
        let Last::Error(error) = last else { panic!("{answer:?}: {last:?}") };
        assert!(error.kind() == ErrorKind::Connect && error.is_connect(), "{answer:?}: {error:?}");
    }
}

#[test]
fn a_stream_cut_at_any_byte_gives_a_prefix_and_is_complete_only_with_its_finish_reason() {
    each_row([Framing::Chunked, Framing::ContentLength, Framing::CloseDelimited], |framing| {
        let script = Script::tokens(HELLO).framing(framing);
        let len = script.wire().len();
        for cut in [Cut::Fin, Cut::Reset] {
            let server = MockServer::scripted((0..len).map(|n| script.clone().cut_at(n, cut))).unwrap();
            let client = client(&server).build().unwrap();
            let mut complete = 0;
            for n in 0..len {
                let (tokens, last, report) = run(&client);
                let place = format!("{framing:?} {cut:?} at byte {n} of {len}");
                assert!(hello().starts_with(&tokens), "{place}: {tokens:?}");
                match last {
                    // The last token's chunk contains the finish reason.
                    Last::Done => {
                        complete += 1;
                        assert_eq!(tokens.len(), HELLO.len(), "{place}");
                        assert!(report.usage.is_some() || report.ids_exact == IdsExact::Unknown, "{place}");
                    }
                    Last::Error(error) => {
                        assert_eq!(error.kind(), ErrorKind::Incomplete, "{place}: {error}");
                        assert!(tokens.len() < HELLO.len(), "{place}: {error}");
                    }
                    Last::Nothing => panic!("{place}: an end without an outcome"),
                }
            }
            assert!(complete > 50 && complete < len / 2, "{framing:?} {cut:?}: {complete} of {len}");
        }
    });
}

/// ureq reads a bad chunk in one call, and drops the bytes that it decoded in that call.
#[test]
fn bad_framing_loses_no_token_before_it_at_any_cut() {
    let whole = Script::tokens(HELLO).wire();
    let good = whole.strip_suffix(b"0\r\n\r\n").unwrap();
    // The end of the second token's event is also the end of its chunk.
    let second = good.windows(4).enumerate().filter(|(_, w)| w == b"\n\n\r\n").nth(1).unwrap().0 + 4;
    each_row(
        [("after two tokens", &good[..second], 2), ("after the terminator", good, 4)],
        |(name, bytes, tokens)| {
            for bad in ["zz\r\n", "-1\r\n", "5\r\nab", "fffffffffffffffffffff\r\n"] {
                for piece in [usize::MAX, 1, 7] {
                    let script = Script::raw([bytes, bad.as_bytes()].concat()).slowly(piece, Duration::ZERO);
                    let server = MockServer::scripted([script]).unwrap();
                    let (received, last, _) = run(&client(&server).build().unwrap());
                    let place = format!("{name}, {bad:?}, pieces of {piece}: {last:?}");
                    assert_eq!(received, hello()[..tokens], "{place}");
                    match last {
                        Last::Done => assert_eq!(tokens, 4, "{place}"),
                        Last::Error(e) => assert!(tokens == 2 && e.kind() != ErrorKind::Server, "{place}"),
                        Last::Nothing => panic!("{place}"),
                    }
                }
            }
        },
    );
}

#[test]
fn missing_ids_are_reported() {
    let text = |t: &str| json!({"choices":[{"index":0,"text":t}]}).to_string();
    let with_id =
        json!({"choices":[{"index":0,"text":"a","token_ids":[1],"finish_reason":"stop"}]}).to_string();
    let usage = json!({"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}).to_string();
    let no_ids = || Script::events([text("a"), text("b"), "[DONE]".into()]);
    each_row(
        [
            ("no ids", no_ids(), IdsExact::No(Inexact::NoIds)),
            (
                "one of two",
                Script::events([with_id.clone(), usage, "[DONE]".into()]),
                IdsExact::No(Inexact::CountDiffers { received: 1, counted: 2 }),
            ),
            ("not counted", Script::events([with_id, "[DONE]".into()]), IdsExact::Unknown),
        ],
        |(name, script, exact)| {
            let server = MockServer::scripted([script]).unwrap();
            let (_, last, report) = run(&client(&server).build().unwrap());
            assert!(matches!(last, Last::Done), "{name}: {last:?}");
            assert_eq!(report.ids_exact, exact, "{name}");
        },
    );
    let server = MockServer::scripted([no_ids()]).unwrap();
    let (tokens, ..) = run(&client(&server).build().unwrap());
    assert_eq!(tokens, [("a".to_owned(), None), ("b".to_owned(), None)]);
}

#[test]
fn a_key_that_the_server_echoes_is_in_no_error() {
    let echo = r#"{"error":{"message":"Incorrect API key provided: sk-canary-1","code":"sk-canary-1"}}"#;
    let finish = r#"{"id":"sk-canary-1","choices":[{"index":0,"text":"a","finish_reason":"sk-canary-1"}]}"#;
    let server = MockServer::scripted([Script::events([finish])]).unwrap();
    let (_, _, report) = run(&client(&server).api_key("sk-canary-1").build().unwrap());
    assert!(!format!("{report:?}").contains("canary") && report.ending == Outcome::Complete, "{report:?}");
    for script in [Script::status(401).json(echo), Script::status(200).json(echo), Script::events([echo])] {
        let script = script.header("x-request-id", "sk-canary-1");
        let server = MockServer::scripted([script]).unwrap();
        let (_, last, report) = run(&client(&server).api_key("sk-canary-1").build().unwrap());
        let Last::Error(error) = last else { panic!("{last:?}") };
        assert!(error.to_string().contains("Incorrect API key provided: [redacted]"), "{error}");
        assert!(!format!("{error:?} {report:?}").contains("canary"), "{error:?}");
    }
}

#[test]
fn an_invalid_request_is_rejected_before_anything_is_sent() {
    let server = MockServer::scripted([Script::tokens(HELLO)]).unwrap();
    let client = client(&server).build().unwrap();
    let requests = [
        CompletionRequest::ids([]),
        CompletionRequest::ids([1]).header("x-a", "b\r\nx-evil: 1"),
        CompletionRequest::ids([1]).header("authorization", "Bearer other"),
        CompletionRequest::ids([1]).extra("n", 2),
        CompletionRequest::ids([1]).sampling(SamplingParams::default().temperature(f64::NAN)),
    ];
    for request in requests {
        let shown = format!("{request:?}");
        let error = client.stream(request).err().unwrap_or_else(|| panic!("accepted: {shown}"));
        assert!(matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported), "{shown}: {error}");
    }
    assert_eq!(server.connections(), 0);
}
