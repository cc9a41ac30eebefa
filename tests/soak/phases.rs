//! Tests of a cancel in each phase of a request.

use super::*;

/// The connect timer for a test that waits for it to expire.
const CONNECT: Duration = Duration::from_secs(3);

/// A server that counts each byte that it receives. It does not parse HTTP: it detects the end of a
/// request only in the form that this client sends. Over TLS, it passes the bytes on to a real
/// server.
struct Peer {
    address: SocketAddr,
    seen: Arc<Seen>,
    acceptor: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    bytes: AtomicU64,
    answered: AtomicUsize,
    ended: AtomicUsize,
    stopping: AtomicBool,
    /// True once the server may read the request. Until then, it reads only a TLS handshake.
    reads: AtomicBool,
}

/// A limit above the size of a TLS handshake and below the size of the big request in these tests.
const MAX_HANDSHAKE_BYTES: u64 = 8 << 10;

/// The size of the big request. A body of 64 MiB would be too large: the mock server rejects it
/// with 413 and closes the connection. The relay then also closes the client's connection, and the
/// client sends the request again on a second connection.
const UPLOAD_BYTES: usize = 48 << 20;

/// The part of a [`Peer`] that answers requests.
enum Answers {
    /// The server sends the same bytes for each request.
    Endpoint(Vec<u8>),
    /// A real server answers over TLS.
    Tls(MockServer),
}

impl Peer {
    fn start(reads: bool, answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Seen::default()));
        seen.reads.store(reads, Ordering::Release);
        let of_thread = seen.clone();
        let acceptor = thread::spawn(move || {
            thread::scope(|scope| {
                for stream in listener.incoming() {
                    if of_thread.stopping.load(Ordering::Acquire) {
                        break;
                    }
                    of_thread.connections.fetch_add(1, Ordering::AcqRel);
                    scope.spawn(|| match &answers {
                        Answers::Endpoint(answer) => of_thread.serve(stream.unwrap(), answer),
                        Answers::Tls(server) => of_thread.relay(stream.unwrap(), server),
                    });
                }
            });
        });
        Self { address, seen, acceptor: Some(acceptor) }
    }
}

impl Seen {
    fn serve(&self, mut stream: TcpStream, answer: &[u8]) {
        while !self.reads.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        let (mut buffer, mut request) = (vec![0; 64 << 10], Vec::new());
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            self.bytes.fetch_add(length as u64, Ordering::AcqRel);
            request.extend_from_slice(&buffer[..length.min(1 << 10)]);
            // A JSON body ends like this. A TLS record or a long prompt does not.
            if request.starts_with(b"POST") && request.ends_with(b"}") {
                request.clear();
                if stream.write_all(answer).is_ok() {
                    self.answered.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
        self.ended.fetch_add(1, Ordering::AcqRel);
    }

    fn relay(&self, mut client: TcpStream, server: &MockServer) {
        let mut behind = TcpStream::connect(server.addr()).unwrap();
        thread::scope(|scope| {
            let (mut from_server, mut to_client) = (behind.try_clone().unwrap(), client.try_clone().unwrap());
            // This thread ends when either side ends. The tests check the bytes from the client.
            scope.spawn(move || std::io::copy(&mut from_server, &mut to_client));
            scope.spawn(|| {
                while !server.wait_for_requests(1, Duration::from_millis(5)) {
                    if self.ended.load(Ordering::Acquire) > 0 {
                        return;
                    }
                }
                self.answered.fetch_add(1, Ordering::AcqRel);
            });
            let mut buffer = vec![0; 4 << 10];
            loop {
                while self.sent().1 > MAX_HANDSHAKE_BYTES && !self.reads.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(1));
                }
                let Ok(length @ 1..) = client.read(&mut buffer) else { break };
                self.bytes.fetch_add(length as u64, Ordering::AcqRel);
                if behind.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            // An error means that the real server has already closed the connection.
            let _ = behind.shutdown(std::net::Shutdown::Both);
            self.ended.fetch_add(1, Ordering::AcqRel);
        });
    }

    /// Returns the number of connections, and the total number of bytes.
    fn sent(&self) -> (usize, u64) {
        (self.connections.load(Ordering::Acquire), self.bytes.load(Ordering::Acquire))
    }
}

impl Drop for Peer {
    /// Stops the server. The clients were dropped earlier, so every connection ends.
    fn drop(&mut self) {
        self.seen.stopping.store(true, Ordering::Release);
        self.seen.reads.store(true, Ordering::Release);
        let waker = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            // An error means that the thread panicked, which was printed.
            let _ = acceptor.join();
        }
        drop(waker);
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LONG, "{what} did not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns a client whose other timers are long. On a busy machine, a connect timer of 3 s expired
/// in the TLS handshake, and the stream was sent again on a second connection.
fn connecting_within(connect: Duration, url: String) -> ApiClientBuilder {
    let (mut timeouts, mut retry) = (Timeouts::default(), RetryPolicy::default());
    let far = Some(LONG * 10);
    (timeouts.first_token, timeouts.chunk, timeouts.write) = (far, far, far);
    (timeouts.connect, retry.max_server_wait) = (Some(connect), LONG);
    ApiClient::builder(url).timeouts(timeouts).retry(retry)
}

/// Drops the guard. Neither the drop nor the receiver may wait until the phase ends.
fn leave(phase: &str, receiver: &Receiver<StreamToken>, guard: StreamGuard) {
    let began = Instant::now();
    drop(guard);
    let dropped = began.elapsed();
    let (tokens, last) = collect(receiver);
    let told = began.elapsed();
    println!(
        "{phase}: the drop took {dropped:.1?}, the receiver was closed after {told:.1?}; {} tokens",
        tokens.len()
    );
    assert!(matches!(last, Last::Nothing), "{phase}: {last:?}");
    // Every phase would last LONG. A time below half of LONG shows that nothing waited for the end
    // of the phase.
    assert!(told < LONG / 2, "{phase}: {dropped:?}, {told:?}");
}

struct Phase {
    name: &'static str,
    scheme: &'static str,
    reads: bool,
    answers: Answers,
    prompt_bytes: usize,
    /// Returns whether the stream has reached the phase.
    reached: fn(&Seen, &Receiver<StreamToken>) -> bool,
}

fn phases(identity: &TlsIdentity) -> Vec<Phase> {
    let answered: fn(&Seen, &Receiver<StreamToken>) -> bool =
        |seen, _| seen.answered.load(Ordering::Acquire) > 0;
    let events = |count| Script::events(vec![one_token("a"); count]).wire();
    let open = |wire: Vec<u8>| wire.strip_suffix(b"0\r\n\r\n").unwrap().to_vec();
    let busy = Script::status(503).header("Retry-After", "60").json("{}").wire();
    let phase = |name, answer, reached| Phase {
        name,
        scheme: "http",
        reads: true,
        answers: Answers::Endpoint(answer),
        prompt_bytes: 1,
        reached,
    };
    let tls = |name, script: Script, reached| {
        let server = MockServer::builder().tls(identity.clone()).scripted([script]).unwrap();
        Phase { name, scheme: "https", reads: true, answers: Answers::Tls(server), prompt_bytes: 1, reached }
    };
    let busy_tls = Script::status(503).header("Retry-After", "60").json("{}");
    vec![
        Phase {
            scheme: "https",
            ..phase("TLS handshake", Vec::new(), |seen, _| seen.bytes.load(Ordering::Acquire) > 0)
        },
        Phase {
            reads: false,
            prompt_bytes: UPLOAD_BYTES,
            ..phase("upload", Vec::new(), |seen, _| seen.connections.load(Ordering::Acquire) > 0)
        },
        phase("headers", Vec::new(), answered),
        phase("body", open(events(1)), |_, receiver| receiver.len() == 1),
        phase("sleep before a retry", busy, answered),
        phase("full channel", open(events(1000)), |_, receiver| receiver.len() == 10),
        Phase {
            reads: false,
            prompt_bytes: UPLOAD_BYTES,
            ..tls("upload, TLS", Script::new(), |seen, _| seen.sent().1 > MAX_HANDSHAKE_BYTES)
        },
        tls("headers, TLS", Script::new().hang(LONG), answered),
        tls("body, TLS", Script::events([one_token("a")]).hang(LONG), |_, receiver| receiver.len() == 1),
        tls("sleep before a retry, TLS", busy_tls, answered),
        tls("full channel, TLS", Script::events(vec![one_token("a"); 1000]).hang(LONG), |_, receiver| {
            receiver.len() == 10
        }),
    ]
}

#[test]
fn a_cancel_in_each_phase_ends_the_stream_at_once_and_nothing_is_sent() {
    in_own_process("phases::a_cancel_in_each_phase_ends_the_stream_at_once_and_nothing_is_sent", || {
        cancel_in_a_lookup();
        cancel_in_a_connect();
        let (authority, identity) = certificates();
        for phase in 0..phases(&identity).len() {
            let before = counts();
            let Phase { name, scheme, reads, answers, prompt_bytes, reached } =
                phases(&identity).swap_remove(phase);
            let peer = Peer::start(reads, answers);
            let mut limits = Limits::default();
            limits.max_channel_tokens = 10;
            let client = connecting_within(LONG, format!("{scheme}://{}", peer.address));
            let client = client.ca_pem(authority.clone()).limits(limits).build().unwrap();
            let request = CompletionRequest::text("p".repeat(prompt_bytes));
            let (receiver, guard) = client.stream(request).unwrap();
            until(name, || reached(&peer.seen, &receiver));
            // Give the stream time to block. If the stream has not blocked by then, the cancel only
            // happens a little earlier in the phase.
            thread::sleep(Duration::from_millis(150));
            let sent = peer.seen.sent();
            leave(name, &receiver, guard);
            peer.seen.reads.store(true, Ordering::Release);
            // The connection of a 503 is intact and stays in the pool while the client exists.
            drop(client);
            until(name, || peer.seen.ended.load(Ordering::Acquire) == 1);
            let sent_at_last = peer.seen.sent();
            if reads {
                assert_eq!(sent_at_last, sent, "{name}: connections and bytes");
            } else {
                // The system's buffers already contained these bytes.
                assert_eq!(sent_at_last.0, 1, "{name}: connections");
                assert!(sent_at_last.1 < prompt_bytes as u64 / 2, "{name}: {} KiB", kib(sent_at_last.1));
                println!("{name}: {} KiB had been sent", kib(sent_at_last.1));
            }
            drop(peer);
            println!("{name}: threads and descriptors back after {:.1?}", back_to(before));
        }
    });
}

/// Cancels name lookups at random times, some before the answer of the resolver and some after it.
/// Offline, the resolver reports at once that the name does not exist, and a test cannot make it
/// hang.
fn cancel_in_a_lookup() {
    let before = counts();
    let client =
        connecting_within(LONG, "http://no-such-host.invalid".to_owned()).retries(0).build().unwrap();
    let began = Instant::now();
    let (receiver, guard) = start(&client, &[1]);
    let (_, last) = collect(&receiver);
    let answered = began.elapsed();
    assert!(matches!(&last, Last::Error(error) if error.kind() == ErrorKind::Connect), "{last:?}");
    guard.join();
    let (mut chance, mut cancelled, mut longest) = (Chance(3), 0, Duration::ZERO);
    for _ in 0..100 {
        let (receiver, guard) = start(&client, &[1]);
        spin(chance.micros(answered.as_micros() as u64 + 100));
        let began = Instant::now();
        drop(guard);
        longest = longest.max(began.elapsed());
        match collect(&receiver).1 {
            Last::Nothing => cancelled += 1,
            Last::Error(error) => assert_eq!(error.kind(), ErrorKind::Connect),
            Last::Done => panic!("a host that does not exist answered"),
        }
    }
    drop(client);
    let back = back_to(before);
    println!(
        "resolve: answered after {answered:.1?}; {cancelled} of 100 cancelled before that; the longest drop took {longest:.1?}; all back after {back:.1?}"
    );
    assert!(cancelled > 0 && longest < LONG / 2, "{cancelled} cancelled, {longest:?}");
}

/// Cancels a connect that blocks. The queue of the listener is full, so the system answers no
/// further connect until there is room.
fn cancel_in_a_connect() {
    let before = counts();
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        queued.push(stream);
    }
    // One connect succeeds later. The connect timer has to expire for two other connects.
    for late in [true, false, false] {
        let connect = if late { LONG } else { CONNECT };
        let client = connecting_within(connect, format!("http://{address}")).retries(0).build().unwrap();
        let (receiver, guard) = start(&client, &[1]);
        thread::sleep(Duration::from_millis(150));
        leave("connect", &receiver, guard);
        if late {
            for _ in 0..queued.len() {
                drop(listener.accept().unwrap());
            }
            let (mut stream, _) = listener.accept().unwrap();
            let mut sent = Vec::new();
            stream.read_to_end(&mut sent).unwrap();
            assert!(sent.is_empty(), "{}", String::from_utf8_lossy(&sent));
            queued.clear();
            while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
                queued.push(stream);
            }
        }
    }
    let began = Instant::now();
    until("the end of the reader threads", || counts().0 == before.0);
    println!("connect: the threads were back after {:.1?}, of {CONNECT:?}", began.elapsed());
    drop((listener, queued));
    back_to(before);
}
