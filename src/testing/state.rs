//! The shared state of a server and its threads: requests, disconnects, and the stop signal.

use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::script::Script;
use super::tls::TlsIdentity;
use crate::recording::Request;

/// The maximum number of requests that are kept, and also the maximum number of disconnects.
///
/// Later requests and disconnects are only counted.
pub const MAX_RECORDS: usize = 65_536;

/// The maximum size of all request bodies that are kept, 256 MiB.
///
/// Later requests are kept with an empty body.
pub const MAX_REQUEST_BYTES_KEPT: usize = 256 << 20;

/// A record of a client that disconnected before the server closed the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disconnect {
    /// The number of the connection.
    ///
    /// Connections are counted from 0, in the order in which the server accepted them.
    pub connection: usize,
    /// The number of the request that the server was answering, counted from 0.
    ///
    /// `None` if the connection was idle or its request was incomplete. Clients normally end a
    /// reused connection in this way.
    pub request: Option<usize>,
    /// The number of response bytes written before the disconnect, including head and framing.
    ///
    /// The client's operating system has received these bytes. The server cannot detect whether the
    /// client has read the bytes.
    pub sent_bytes: u64,
    /// The body bytes in the writes that were completed, without framing.
    pub body_bytes: u64,
    /// The time at which the server detected the disconnect.
    ///
    /// While the script waits, the server detects a disconnect at once. In short pauses, it detects
    /// a disconnect within 20 ms. Otherwise, it detects the disconnect at a later write.
    pub at: Instant,
}

/// Selects what the server does with a new connection before it reads anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnAccept {
    /// Reads and answers requests.
    Serve,
    /// Reads and writes nothing until the server is dropped, and does not detect a disconnect.
    Hang,
    /// Closes the connection with FIN.
    Close,
    /// Resets the connection with RST.
    Reset,
}

pub(super) type Handler = dyn Fn(&Request, usize) -> Script + Send + Sync;

/// The state that the server shares with its threads.
pub(super) struct Shared {
    pub(super) handler: Box<Handler>,
    pub(super) on_accept: Box<dyn Fn(usize) -> OnAccept + Send + Sync>,
    pub(super) tls: Option<TlsIdentity>,
    /// The number of bytes of a request to read at a time, and the pause after each read.
    pub(super) reads: Option<(usize, Duration)>,
    pub(super) port: u16,
    pub(super) stopping: AtomicBool,
    pub(super) state: Mutex<State>,
    /// Notified after each state change for which a test can wait.
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) requests: Vec<Request>,
    pub(super) request_count: usize,
    request_bytes_kept: usize,
    pub(super) disconnects: Vec<Disconnect>,
    pub(super) disconnect_count: usize,
    pub(super) connections: usize,
    pub(super) open: HashMap<usize, Arc<TcpStream>>,
    pub(super) threads: HashMap<usize, JoinHandle<()>>,
    /// Connections whose thread has ended but is not joined yet. Until the join, a thread keeps its
    /// stack.
    ended: Vec<usize>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // No code under this lock can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait(&self, max: Duration, done: impl Fn(&State) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), max, |state| !done(state));
        done(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    pub(super) fn stop(&self) {
        let state = self.lock();
        self.stopping.store(true, Ordering::SeqCst);
        drop(state);
        self.changed.notify_all();
    }

    /// Blocks for this long, or until the server is dropped.
    pub(super) fn pause(&self, time: Duration) {
        self.wait(time, |_| self.is_stopping());
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Joins ended threads before new ones start, so that their stacks do not accumulate.
    pub(super) fn join_ended(&self) {
        let threads: Vec<_> = {
            let mut state = self.lock();
            let ended = std::mem::take(&mut state.ended);
            ended.iter().filter_map(|number| state.threads.remove(number)).collect()
        };
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// Stores the request, and returns its number, counted from 0.
    pub(super) fn add_request(&self, request: &Request) -> usize {
        let mut state = self.lock();
        let number = state.request_count;
        state.request_count += 1;
        if state.requests.len() < MAX_RECORDS {
            let mut kept = request.clone();
            if state.request_bytes_kept + kept.body.len() > MAX_REQUEST_BYTES_KEPT {
                kept.body = Vec::new();
            }
            state.request_bytes_kept += kept.body.len();
            state.requests.push(kept);
        }
        drop(state);
        self.changed.notify_all();
        number
    }

    pub(super) fn add_disconnect(&self, disconnect: Disconnect) {
        let mut state = self.lock();
        state.disconnect_count += 1;
        if state.disconnects.len() < MAX_RECORDS {
            state.disconnects.push(disconnect);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Removes the connection when its thread ends.
    pub(super) fn forget(&self, number: usize) {
        let mut state = self.lock();
        let socket = state.open.remove(&number);
        state.ended.push(number);
        drop(state);
        // The socket is closed outside the lock, because no system call may run under the lock.
        drop(socket);
        self.changed.notify_all();
    }
}
