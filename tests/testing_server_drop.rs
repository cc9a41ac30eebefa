//! Tests that no threads or sockets remain after a server is dropped. They are separate from the
//! other tests of the server because they count the threads of the whole process.
#![cfg(all(feature = "testing", target_os = "linux"))]

mod common;

use std::collections::HashSet;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::sockets::{ASK, LONG, ask, connect, events, expect, read_to_end};
use tokenwire::testing::{Cut, Gate, MockServer};

/// Makes these tests run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the names of all server threads in this process.
fn threads() -> HashSet<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // A thread that ends at this moment no longer has a name.
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with("tw-")).collect()
}

/// Waits until there is this number of threads. The system removes a joined thread from its list a
/// moment late. A leaked thread stays and fails the test.
fn expect_threads(count: usize) {
    let begin = Instant::now();
    while threads().len() != count {
        assert!(begin.elapsed() < LONG, "expected {count} threads, found {:?}", threads());
        std::thread::yield_now();
    }
}

/// Drops the server on another thread, so that a hanging drop fails the test.
fn drop_within(server: MockServer, max: Duration) {
    let (done, dropped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(server);
        done.send(()).unwrap();
    });
    dropped.recv_timeout(max).expect("the drop hangs");
}

#[test]
fn drop_of_an_idle_server_leaves_no_thread_and_frees_its_port() {
    let _alone = alone();
    // Use an address that no other process binds, so that the port stays free in the meantime.
    let mut addr = SocketAddr::from(([127, 0, 0, 77], 0));
    for _ in 0..100 {
        let server = MockServer::builder().addr(addr).scripted([events()]).expect("the port is still in use");
        addr = server.addr();
        // The server closes first, so that its side stays in TIME_WAIT.
        let mut stream = ask(&server);
        expect(&mut stream, &events().wire());
        drop_within(server, LONG);
        drop(stream);
        expect_threads(0);
        assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn drop_ends_every_connection_and_leaves_no_thread() {
    let _alone = alone();
    let endless = events().repeat("x".repeat(1 << 16), u64::MAX, Duration::ZERO);
    let scripts = [
        events().hang(Duration::MAX),
        events().pause(LONG * 100),
        events().wait_for(&Gate::new()),
        events().cut_at(30, Cut::Hang),
        events(),
        // This connection blocks in a write, because the client does not read.
        endless,
    ];
    let count = scripts.len();
    let server = MockServer::scripted(scripts).unwrap();
    let mut clients = Vec::new();
    for n in 1..=count {
        clients.push(ask(&server));
        assert!(server.wait_for_requests(n, LONG));
    }
    // One client has sent half a request, another has sent nothing.
    clients.push(connect(&server));
    clients[count].write_all(&ASK[..10]).unwrap();
    clients.push(connect(&server));
    expect_threads(count + 3);
    drop_within(server, LONG);
    expect_threads(0);
    for mut client in clients {
        // The connection may end in any way except by the client's own timeout.
        let (_, end) = read_to_end(&mut client);
        assert!(matches!(end, None | Some(ErrorKind::ConnectionReset)), "{end:?}");
    }
}

#[test]
fn a_server_that_reads_slowly_reads_everything_and_its_drop_skips_the_pauses() {
    let _alone = alone();
    for (piece, pause, served) in
        [(1, Duration::ZERO, true), (0, Duration::ZERO, true), (1, LONG * 100, false)]
    {
        let server = MockServer::builder().reads_slowly(piece, pause).scripted([events()]).unwrap();
        let mut client = ask(&server);
        if served {
            expect(&mut client, &events().wire());
        } else {
            expect_threads(2);
            assert!(server.requests().is_empty(), "the server continued to read");
        }
        drop_within(server, LONG);
        expect_threads(0);
    }
}

#[test]
fn a_thousand_concurrent_connections_are_served_and_their_threads_end() {
    let _alone = alone();
    let server = MockServer::scripted([events().hang(Duration::MAX)]).unwrap();
    let mut clients: Vec<_> = (0..1000).map(|_| ask(&server)).collect();
    for client in &mut clients {
        expect(client, &events().wire()[..30]);
    }
    assert_eq!(server.open_connections(), 1000);
    drop(clients);
    assert!(server.wait_for_disconnects(1000, LONG));
    assert!(server.wait_for_open_connections(0, LONG));
    drop(server);
    expect_threads(0);
}
