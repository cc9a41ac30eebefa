//! What a server and the threads of its connections share: the requests, the clients that left, and the signal to stop.

use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::script::Script;
use super::tls::TlsIdentity;
use crate::recording::Request;

/// How many requests and how many disconnects are kept; later ones are only counted.
pub const MAX_RECORDS: usize = 65_536;

/// How many bytes of request bodies are kept together, 256 MiB; later requests are kept with an empty
/// body.
pub const MAX_REQUEST_BYTES_KEPT: usize = 256 << 20;

/// A client left before its connection was closed from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disconnect {
    /// The connection's number, from 0 in the order of accepting.
    pub connection: usize,
    /// The number of the request being answered, from 0; `None` if the connection was idle or its request
    /// was not read whole, which is how clients end a connection that they kept.
    pub request: Option<usize>,
    /// Bytes of that response written until then, head and framing counted. The client's system took
    /// them; whether the client read them is not known here.
    pub sent_bytes: u64,
    /// Bytes of its body, without framing, of the writes that were done.
    pub body_bytes: u64,
    /// When it was seen: at once while the script waits (within 20 ms in short pauses), else with a
    /// later write.
    pub at: Instant,
}

/// What a connection gets before anything is read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnAccept {
    /// Its requests are read and served.
    Serve,
    /// Nothing is ever read or written, until the server is dropped. That the client leaves is not seen.
    Hang,
    /// FIN.
    Close,
    /// RST.
    Reset,
}

pub(super) type Handler = dyn Fn(&Request, usize) -> Script + Send + Sync;

/// What the server and its threads have in common.
pub(super) struct Shared {
    pub(super) handler: Box<Handler>,
    pub(super) on_accept: Box<dyn Fn(usize) -> OnAccept + Send + Sync>,
    pub(super) tls: Option<TlsIdentity>,
    /// How many bytes of a request are read at a time, and the pause after them.
    pub(super) reads: Option<(usize, Duration)>,
    pub(super) port: u16,
    pub(super) stopping: AtomicBool,
    pub(super) state: Mutex<State>,
    /// Told after every change of the state that a test can wait for.
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
    /// Connections whose thread has only to be joined, which keeps its stack until then.
    ended: Vec<usize>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
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

    /// Threads that have ended are joined as new ones come, so that their stacks do not pile up.
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

    /// Keeps the request; its number, from 0.
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

    /// The connection's thread ends.
    pub(super) fn forget(&self, number: usize) {
        let mut state = self.lock();
        let socket = state.open.remove(&number);
        state.ended.push(number);
        drop(state);
        // Closed outside the lock, like everything else that asks the system for something.
        drop(socket);
        self.changed.notify_all();
    }
}
