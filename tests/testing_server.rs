//! Tests of the mock server with plain sockets, so that they check the bytes on the wire.
#![cfg(feature = "testing")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::checks::each_row;
use common::sockets::{ASK, LONG, ask, connect, events, expect, read_to_end};
use tokenwire::recording::{BodyEnd, Recording, dechunk};
use tokenwire::testing::{
    Cut, Framing, Gate, MAX_REQUEST_HEAD_BYTES, MockServer, OnAccept, Request, Script, TlsIdentity, replay,
};

fn exchange(server: &MockServer) -> (String, Option<ErrorKind>) {
    let (got, end) = read_to_end(&mut ask(server));
    (String::from_utf8(got).unwrap(), end)
}

#[test]
fn each_framing_is_on_the_wire_as_scripted() {
    let framings = [
        Framing::Chunked,
        Framing::ContentLength,
        Framing::GivenLength(3),
        Framing::GivenLength(300),
        Framing::CloseDelimited,
        Framing::Raw,
    ];
    for framing in framings {
        let script = events().framing(framing);
        let server = MockServer::scripted([script.clone().close(), script.clone()]).unwrap();
        let mut wire = script.wire();
        if framing == Framing::Chunked {
            // `close` withholds the last chunk.
            wire.truncate(wire.len() - 5);
        }
        assert_eq!(read_to_end(&mut ask(&server)), (wire, None), "{framing:?}");
        let keeps = matches!(framing, Framing::Chunked | Framing::ContentLength);
        let mut stream = ask(&server);
        expect(&mut stream, &script.wire());
        if keeps {
            stream.write_all(ASK).unwrap();
            expect(&mut stream, &script.wire());
        } else {
            assert_eq!(read_to_end(&mut stream), (vec![], None), "{framing:?}");
        }
    }
}

#[test]
fn a_kept_connection_serves_requests_in_order_pipelined_or_not() {
    let server =
        MockServer::start(|request| Script::status(200).body("text/plain", request.path.clone())).unwrap();
    let mut stream = connect(&server);
    let chunked =
        "POST /chunked HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n";
    let requests = [
        ("GET /plain HTTP/1.1\r\n\r\n", vec!["/plain"]),
        (chunked, vec!["/chunked"]),
        ("GET /one HTTP/1.1\r\n\r\nPOST /two HTTP/1.1\r\ncontent-length: 1\r\n\r\nx", vec!["/one", "/two"]),
        ("GET /last HTTP/1.1\r\nConnection: close\r\n\r\n", vec!["/last"]),
    ];
    each_row(requests, |(text, paths)| {
        stream.write_all(text.as_bytes()).unwrap();
        for path in paths {
            expect(&mut stream, &Script::status(200).body("text/plain", path).wire());
        }
    });
    assert_eq!(read_to_end(&mut stream), (vec![], None), "the client requested a close");
    let seen: Vec<_> = server.requests().iter().map(|r| (r.path.clone(), r.text().into_owned())).collect();
    let expected = [("/plain", ""), ("/chunked", "abcd"), ("/one", ""), ("/two", "x"), ("/last", "")];
    assert_eq!(seen, expected.map(|(path, body)| (path.to_owned(), body.to_owned())));
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_request_may_arrive_in_single_bytes() {
    let server = MockServer::scripted([events().close()]).unwrap();
    let mut stream = connect(&server);
    for byte in ASK {
        stream.write_all(&[*byte]).unwrap();
    }
    assert!(read_to_end(&mut stream).1.is_none());
    let request = &server.requests()[0];
    assert_eq!((request.method.as_str(), request.header("HOST")), ("POST", Some("a.test")));
    assert_eq!(request.json(), serde_json::json!({}));
}

#[test]
fn the_nth_request_gets_the_nth_script_and_the_last_repeats() {
    let server = MockServer::scripted((500..503).map(|n| Script::status(n).close())).unwrap();
    let statuses: Vec<_> = (0..5).map(|_| exchange(&server).0[9..12].to_owned()).collect();
    assert_eq!(statuses, ["500", "501", "502", "502", "502"]);
    assert!(MockServer::scripted([]).is_err());
}

#[test]
fn every_cut_ends_after_its_byte_with_fin_or_reset() {
    let whole = events();
    let wire = whole.wire();
    for (cut, end) in [(Cut::Fin, None), (Cut::Reset, Some(ErrorKind::ConnectionReset))] {
        let server = MockServer::scripted((0..=wire.len()).map(|n| whole.clone().cut_at(n, cut))).unwrap();
        for n in 0..=wire.len() {
            let (got, ended) = read_to_end(&mut ask(&server));
            assert_eq!((got.as_slice(), ended), (&wire[..n], end), "{cut:?} at {n}");
        }
        assert_eq!(server.disconnects(), [], "the server closed the connection, not the client");
    }
}

#[test]
fn a_cut_that_hangs_is_silent_until_the_client_disconnects() {
    let server = MockServer::scripted([events().cut_at(20, Cut::Hang)]).unwrap();
    let mut stream = ask(&server);
    expect(&mut stream, &events().wire()[..20]);
    stream.set_nonblocking(true).unwrap();
    assert_eq!(read_to_end(&mut stream), (vec![], Some(ErrorKind::WouldBlock)));
    drop(stream);
    assert!(server.wait_for_disconnects(1, LONG));
    assert_eq!(server.disconnects()[0].sent_bytes, 20);
}

#[test]
fn close_is_fin_and_reset_is_rst() {
    let head = Script::new().head(200, &[], Framing::Chunked).write("abc");
    let cases = [
        (head.clone().close(), None),
        (head.clone().finish().close(), None),
        (head.clone().reset(), Some(ErrorKind::ConnectionReset)),
        (head.finish().reset(), Some(ErrorKind::ConnectionReset)),
        (Script::new(), None),
        (Script::new().reset(), Some(ErrorKind::ConnectionReset)),
    ];
    for (script, end) in cases {
        let server = MockServer::scripted([script.clone()]).unwrap();
        assert_eq!(read_to_end(&mut ask(&server)), (script.wire(), end), "{script:?}");
    }
}

/// A sleep is never shorter than requested, so the pauses between pieces are a lower bound.
#[test]
fn slow_writes_pause_between_pieces_and_arrive_complete() {
    let pause = Duration::from_millis(2);
    let head = || Script::new().head(200, &[], Framing::Chunked);
    let whole = events().wire().len() as u32;
    // The chunk of six bytes is eleven bytes on the wire.
    let scripts = [
        (head().write_slowly("abcdef", 1, pause).close(), 11),
        (head().write_slowly("abcdef", 0, pause).close(), 11),
        (head().dribble("abcdef", 2, pause).close(), 6),
        (head().repeat("ab", 3, pause).close(), 3),
        (events().slowly(5, pause), whole / 5),
        (events().slowly(1, pause).cut_at(33, Cut::Fin), 32),
    ];
    for (script, pauses) in scripts {
        let server = MockServer::scripted([script.clone()]).unwrap();
        let begin = Instant::now();
        expect(&mut ask(&server), &script.wire());
        // The last pause follows the last byte.
        assert!(begin.elapsed() >= pause * (pauses - 1), "{script:?}: {:?}", begin.elapsed());
    }
}

#[test]
fn pauses_last_at_least_as_long_as_requested() {
    for millis in [0, 5, 60] {
        let time = Duration::from_millis(millis);
        let server =
            MockServer::scripted([Script::new().pause(time).pause_until(time * 2).write("x")]).unwrap();
        let begin = Instant::now();
        assert_eq!(exchange(&server), ("x".to_owned(), None));
        assert!(begin.elapsed() >= time * 2);
    }
}

#[test]
fn a_gate_holds_the_script_until_the_test_opens_it() {
    let gate = Gate::new();
    let server = MockServer::scripted([Script::raw("before").wait_for(&gate).write("after")]).unwrap();
    let mut stream = ask(&server);
    expect(&mut stream, b"before");
    assert!(!gate.wait(Duration::ZERO));
    stream.set_nonblocking(true).unwrap();
    assert_eq!(read_to_end(&mut stream), (vec![], Some(ErrorKind::WouldBlock)));
    stream.set_nonblocking(false).unwrap();
    gate.open();
    expect(&mut stream, b"after");
}

/// Every way in which a script can wait reports the disconnect and the number of bytes before it.
#[test]
fn the_server_reports_a_disconnect_and_the_bytes_sent_before_it() {
    let head = || Script::new().head(200, &[], Framing::Chunked).write("abc");
    let cases = [
        head().hang(Duration::MAX),
        head().wait_for_client_gone(LONG * 10),
        head().pause(LONG * 10).write("never"),
        head().wait_for(&Gate::new()).write("never"),
    ];
    let sent = head().cut_at(usize::MAX, Cut::Fin).wire().len() - 5;
    let leave: [fn(TcpStream); 3] = [
        drop,
        |stream| {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        },
        |stream| {
            // The client closes only its sending half, which counts as a close. The client then
            // receives the server's close.
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&mut &stream), (vec![], None));
        },
    ];
    for script in cases {
        for (i, leave) in leave.iter().enumerate() {
            let server = MockServer::scripted([script.clone()]).unwrap();
            let mut stream = ask(&server);
            let mut got = vec![0; sent];
            stream.read_exact(&mut got).unwrap();
            assert_eq!(server.open_connections(), 1);
            leave(stream);
            assert!(server.wait_for_disconnects(1, LONG), "way {i} to disconnect in {script:?}");
            let seen = server.disconnects()[0];
            assert_eq!((seen.connection, seen.request), (0, Some(0)));
            assert_eq!((seen.sent_bytes, seen.body_bytes), (sent as u64, 3));
            assert!(server.wait_for_open_connections(0, LONG));
        }
    }
}

#[test]
fn an_endless_script_ends_with_its_client() {
    let server = MockServer::scripted([events().repeat(": ping\n\n", u64::MAX, Duration::ZERO)]).unwrap();
    let mut stream = ask(&server);
    stream.read_exact(&mut vec![0; 1 << 20]).unwrap();
    drop(stream);
    assert!(server.wait_for_disconnects(1, LONG));
    let seen = server.disconnects()[0];
    assert!(seen.body_bytes >= 500_000 && seen.request == Some(0), "{seen:?}");
}

#[test]
fn a_client_that_leaves_an_idle_connection_is_recorded_without_a_request() {
    let server = MockServer::scripted([Script::status(204)]).unwrap();
    let mut stream = ask(&server);
    expect(&mut stream, &Script::status(204).wire());
    drop(stream);
    assert!(server.wait_for_disconnects(1, LONG));
    assert_eq!(server.disconnects()[0].request, None);
    assert!(server.wait_for_requests(1, LONG) && !server.wait_for_requests(2, Duration::ZERO));
}

#[test]
fn an_invalid_or_too_large_request_is_rejected() {
    let server = MockServer::scripted([events()]).unwrap();
    let long_head = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(MAX_REQUEST_HEAD_BYTES));
    let cases = [
        ("hello\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nno header\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nContent-Length: 67108865\r\n\r\n", "413"),
        (&long_head, "431"),
        (&long_head[..MAX_REQUEST_HEAD_BYTES + 9], "431"),
    ];
    each_row(cases, |(text, status)| {
        let mut stream = connect(&server);
        stream.write_all(text.as_bytes()).unwrap();
        let (got, end) = read_to_end(&mut stream);
        let got = String::from_utf8(got).unwrap();
        assert!(
            got.starts_with(&format!("HTTP/1.1 {status} ")),
            "{:?}: {got:?}",
            &text[..20.min(text.len())]
        );
        assert_eq!(end, None);
    });
    assert_eq!(server.requests(), []);
    assert!(server.wait_for_open_connections(0, LONG));
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    let server = MockServer::scripted([events().close()]).unwrap();
    let mut stream = connect(&server);
    stream.write_all(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").unwrap();
    expect(&mut stream, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").unwrap();
    read_to_end(&mut stream);
    assert_eq!(server.requests()[0].body, b"abc");
}

#[test]
fn a_connection_can_be_closed_or_ignored_on_accept() {
    let script = |n| [OnAccept::Close, OnAccept::Reset, OnAccept::Hang, OnAccept::Serve][n % 4];
    let server = MockServer::builder().on_accept(script).scripted([events().close()]).unwrap();
    let read = |server: &MockServer| read_to_end(&mut connect(server));
    assert_eq!(read(&server), (vec![], None));
    assert_eq!(read(&server), (vec![], Some(ErrorKind::ConnectionReset)));
    let mut ignored = ask(&server);
    assert_eq!(exchange(&server).1, None);
    assert!(server.wait_for_open_connections(1, LONG));
    assert_eq!((server.connections(), server.requests().len()), (4, 1));
    drop(server);
    // Dropping the server ends the connection. The request is unread, so the system sends an RST.
    assert!(matches!(read_to_end(&mut ignored), (got, _) if got.is_empty()));
}

#[test]
fn a_handler_that_panics_ends_only_its_connection() {
    let server = MockServer::start(|request| match request.path.as_str() {
        "/v1/completions" => panic!("on purpose"),
        _ => Script::status(200).close(),
    })
    .unwrap();
    assert!(exchange(&server).0.is_empty());
    let mut stream = connect(&server);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(read_to_end(&mut stream).0, Script::status(200).wire());
    assert!(server.wait_for_open_connections(0, LONG));
}

#[test]
fn the_server_can_listen_on_all_addresses_and_a_taken_address_is_an_error() {
    let first = MockServer::builder().addr(([0, 0, 0, 0], 0)).scripted([events()]).unwrap();
    let port = first.addr().port();
    assert_eq!(first.url(), format!("http://127.0.0.1:{port}"));
    expect(&mut ask(&first), &events().wire());
    let taken = MockServer::builder().addr(([0, 0, 0, 0], port)).scripted([events()]);
    assert_eq!(taken.unwrap_err().to_string(), format!("cannot serve on 0.0.0.0:{port}"));
}

/// With unread bytes, the system would send an RST, and the response could be lost.
#[test]
fn a_close_is_fin_even_if_the_client_has_sent_more() {
    let gate = Gate::new();
    let server = MockServer::scripted([Script::new().wait_for(&gate).write("x")]).unwrap();
    let mut stream = ask(&server);
    assert!(server.wait_for_requests(1, LONG));
    stream.write_all(&[b'a'; 40_000]).unwrap();
    gate.open();
    assert_eq!(read_to_end(&mut stream), (b"x".to_vec(), None));
}

// ---- TLS

struct Ca {
    identity: TlsIdentity,
    roots: rustls::RootCertStore,
    pem: (String, String),
}

/// Returns a new CA, and a certificate for this machine signed by it.
fn ca() -> Ca {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &Issuer::new(params, ca_key)).unwrap();
    let pem = (leaf.pem(), leaf_key.serialize_pem());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    Ca { identity: TlsIdentity::from_pem(&pem.0, &pem.1).unwrap(), roots, pem }
}

type TlsClient = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

fn ask_tls(server: &MockServer, ca: &Ca) -> TlsClient {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(ca.roots.clone())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TlsClient::new(client, connect(server));
    stream.write_all(ASK).unwrap();
    stream
}

#[test]
fn over_tls_scripts_and_outcomes_are_the_same() {
    let ca = ca();
    let big = Script::status(200).body("text/plain", "x".repeat(300_000)).close();
    let pause = Duration::from_millis(1);
    let cases = [
        (events().finish().close(), None),
        (big, None),
        (events().slowly(7, Duration::ZERO).close(), None),
        (Script::new().head(200, &[], Framing::Chunked).dribble("abcdef", 5, pause).close(), None),
        // rustls reports an end without a closing alert.
        (events().cut_at(40, Cut::Fin), Some(ErrorKind::UnexpectedEof)),
        (events().cut_at(40, Cut::Reset), Some(ErrorKind::ConnectionReset)),
        (events().reset(), Some(ErrorKind::ConnectionReset)),
    ];
    for (script, end) in cases {
        let answer = script.clone();
        let server = MockServer::start_tls(move |_: &Request| answer.clone(), ca.identity.clone()).unwrap();
        assert!(server.url().starts_with("https://127.0.0.1:"));
        assert_eq!(read_to_end(&mut ask_tls(&server, &ca)), (script.wire(), end), "{script:?}");
    }
}

#[test]
fn over_tls_connections_are_kept_and_disconnects_are_seen() {
    let ca = ca();
    let server = MockServer::builder()
        .tls(ca.identity.clone())
        .scripted([events(), events().hang(LONG * 10)])
        .unwrap();
    let mut stream = ask_tls(&server, &ca);
    expect(&mut stream, &events().wire());
    stream.write_all(ASK).unwrap();
    expect(&mut stream, &events().wire()[..40]);
    drop(stream);
    assert!(server.wait_for_disconnects(1, LONG));
    assert_eq!((server.connections(), server.disconnects()[0].request), (1, Some(1)));
    // The next client does not speak TLS. Its connection ends, and the following one is served.
    read_to_end(&mut ask(&server));
    expect(&mut ask_tls(&server, &ca), &events().wire()[..40]);
}

/// Six bytes make a record of at least 28 bytes, which is four pieces of eight. The pauses between
/// them are a lower bound.
#[test]
fn a_dribbled_record_is_unreadable_until_its_last_byte() {
    let ca = ca();
    let pause = Duration::from_millis(50);
    let script = Script::new().dribble("abcdef", 8, pause).close();
    let server = MockServer::builder().tls(ca.identity.clone()).scripted([script]).unwrap();
    let begin = Instant::now();
    let (mut stream, mut got) = (ask_tls(&server, &ca), [0; 16]);
    let n = stream.read(&mut got).unwrap();
    assert_eq!(&got[..n], b"abcdef");
    assert!(begin.elapsed() >= pause * 3, "{:?}", begin.elapsed());
}

#[test]
fn an_invalid_identity_is_an_error_and_its_key_is_not_shown() {
    let ca = ca();
    let (certificate, key) = &ca.pem;
    let other_key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for (certificate, key) in
        [("", &**key), ("x", key), (certificate, ""), (certificate, "x"), (certificate, &other_key)]
    {
        assert!(TlsIdentity::from_pem(certificate, key).is_err());
    }
    assert_eq!(format!("{:?}", ca.identity), "TlsIdentity(..)");
}

// ---- replay

#[test]
fn a_replayed_body_is_chunked_by_its_pieces_and_ends_as_recorded() {
    let headers = [("content-type", "text/event-stream"), ("Content-Length", "999"), ("connection", "close")];
    let ends = [
        (BodyEnd::Complete, Some(true)),
        (BodyEnd::Closed, Some(false)),
        (BodyEnd::Unknown, Some(false)),
        (BodyEnd::Reset, None),
    ];
    for (end, fin) in ends {
        let mut recording = Recording::of_body(Request::new("POST", "/"), 201, headers);
        recording.push(Duration::from_millis(30), "data: a\n\n");
        recording.push(Duration::from_millis(60), "data: b\n\n");
        recording.finish(end, Some(Duration::from_millis(90)));
        let server = replay(&recording).unwrap();
        let begin = Instant::now();
        let mut stream = connect(&server);
        stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let (got, ended) = read_to_end(&mut stream);
        assert!(begin.elapsed() >= Duration::from_millis(90), "{end:?}");
        assert_eq!(ended, fin.map_or(Some(ErrorKind::ConnectionReset), |_| None), "{end:?}");
        let body = b"9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n0\r\n\r\n";
        let head =
            b"HTTP/1.1 201 Created\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let whole = [&head[..], body].concat();
        let expected = if fin == Some(true) { &whole[..] } else { &whole[..whole.len() - 5] };
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected), "{end:?}");
        assert_eq!(dechunk(&got[head.len()..]).body, recording.response_bytes());
    }
}

#[test]
fn a_replay_sends_no_piece_too_early() {
    let mut recording = Recording::of_wire(Request::new("POST", "/"));
    let times = [40, 90, 90, 160];
    for millis in times {
        recording.push(Duration::from_millis(millis), "x");
    }
    for (pace, script) in [1.0, 0.5, 0.0].map(|pace| (pace, Script::replay(&recording, pace))) {
        let server = MockServer::scripted([script]).unwrap();
        let begin = Instant::now();
        let mut stream = ask(&server);
        for millis in times {
            expect(&mut stream, b"x");
            let least = Duration::from_millis(millis).mul_f64(pace);
            assert!(begin.elapsed() >= least, "{millis} ms at pace {pace}: {:?}", begin.elapsed());
        }
    }
}

#[test]
fn a_replay_stays_silent_after_the_recorded_part() {
    for end in [BodyEnd::Silent, BodyEnd::ClientClosed] {
        let mut recording = Recording::of_wire(Request::new("POST", "/"));
        recording.push(Duration::from_secs(3600), "HTTP/1.1 200 OK\r\n");
        recording.finish(end, Some(Duration::from_secs(7200)));
        let server = MockServer::scripted([Script::replay(&recording, 0.0)]).unwrap();
        let mut stream = ask(&server);
        expect(&mut stream, b"HTTP/1.1 200 OK\r\n");
        stream.set_nonblocking(true).unwrap();
        assert_eq!(read_to_end(&mut stream), (vec![], Some(ErrorKind::WouldBlock)));
        drop(stream);
        assert!(server.wait_for_disconnects(1, LONG));
    }
}
