//! Connections without sockets, for tests.
//!
//! A server in memory sends its responses from a list. When the list contains a silence, the
//! client's timer expires at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::{fmt, io};

use ureq::Error;

use super::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};

/// A server in memory, for tests without sockets and without waiting.
///
/// Pass it to [`ApiClientBuilder::in_memory`](crate::ApiClientBuilder::in_memory).
///
/// Each connection of the client gets the next list of [`Sent`] items. After the last list, the
/// server refuses connections. A connection is never used for a second request. All clones refer to
/// one server.
///
/// ```
/// use std::time::Duration;
/// use tokenwire::testing::{InMemory, Sent};
/// use tokenwire::{ApiClient, ErrorKind, SamplingParams, StreamToken, Timer};
///
/// let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {\"choices\":[{\"text\":\"Hi\"}]}\n\n";
/// let server = InMemory::new([vec![Sent::bytes(answer), Sent::Silence]]);
/// let client = ApiClient::builder("http://127.0.0.1").in_memory(&server).build()?;
/// let (tokens, guard) = client.stream_completion(&[1], SamplingParams::default(), None)?;
/// assert!(matches!(tokens.recv(), Ok(StreamToken::Token { text, .. }) if text == "Hi"));
/// // The limit on silence is two minutes. In memory, it passes at once.
/// assert_eq!(guard.join().error.unwrap().kind(), ErrorKind::Timeout(Timer::Chunk));
/// assert!(server.received()[0].starts_with(b"POST /v1/completions HTTP/1.1\r\n"));
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct InMemory(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    connections: VecDeque<Vec<Sent>>,
    received: Vec<Vec<u8>>,
}

/// An item that a server in memory sends. Each read of the client receives one item.
///
/// After the last item, the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sent {
    /// Sends these bytes. If the bytes do not fit into the client's buffer, the next reads get the
    /// rest. An empty list is skipped.
    Bytes(Vec<u8>),
    /// Sends nothing. The client's timer then expires at once.
    ///
    /// A client without a timer would wait forever, so the connection of such a client breaks
    /// instead.
    Silence,
    /// Resets the connection.
    Reset,
}

impl Sent {
    /// Creates an item that sends these bytes in one read, if the client has room for them.
    pub fn bytes(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bytes(bytes.as_ref().to_vec())
    }
}

impl InMemory {
    /// Creates a server that answers its connections with these lists, in order.
    pub fn new(connections: impl IntoIterator<Item = Vec<Sent>>) -> Self {
        let connections = connections.into_iter().collect();
        Self(Arc::new(Mutex::new(State { connections, received: Vec::new() })))
    }

    /// Starts again with these lists.
    ///
    /// Discards the received bytes and the lists that are not used yet.
    pub fn restart(&self, connections: impl IntoIterator<Item = Vec<Sent>>) {
        let connections = connections.into_iter().collect();
        self.with(|state| *state = State { connections, received: Vec::new() });
    }

    /// Returns the bytes that the client has sent on each connection so far, head and body.
    #[must_use]
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.with(|state| state.received.clone())
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for InMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Do not show the received bytes: they contain prompts and possibly a key.
        let connections = self.with(|state| (state.received.len(), state.connections.len()));
        f.debug_struct("InMemory").field("used", &connections.0).field("left", &connections.1).finish()
    }
}

/// The connector that ureq uses for an [`InMemory`] server.
#[derive(Debug)]
pub(super) struct MemoryConnector(pub(super) InMemory);

impl Connector<()> for MemoryConnector {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Self::Out>, Error> {
        let Self(server) = self;
        let next = server.with(|state| {
            let sent = state.connections.pop_front()?;
            state.received.push(Vec::new());
            Some((sent, state.received.len() - 1))
        });
        let Some((sent, number)) = next else {
            return Err(Error::Io(io::ErrorKind::ConnectionRefused.into()));
        };
        let shut = Arc::new(Shut(AtomicBool::new(false)));
        let handle: Weak<dyn ShutdownHandle> = Arc::<Shut>::downgrade(&shut);
        (details.register_shutdown)(handle)?;
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Box::new(Connection { server: server.clone(), number, sent: sent.into(), shut, buffers })))
    }
}

#[derive(Debug)]
struct Shut(AtomicBool);

impl ShutdownHandle for Shut {
    fn shutdown(&self) {
        self.0.store(true, Ordering::Release);
    }
}

#[derive(Debug)]
struct Connection {
    server: InMemory,
    number: usize,
    sent: VecDeque<Sent>,
    shut: Arc<Shut>,
    buffers: LazyBuffers,
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        if self.shut.0.load(Ordering::Acquire) {
            return Err(Error::Io(io::ErrorKind::BrokenPipe.into()));
        }
        let Self { server, number, buffers, .. } = self;
        server.with(|state| {
            // If the server was restarted in the meantime, it has no entry for this connection.
            if let Some(received) = state.received.get_mut(*number) {
                received.extend_from_slice(&buffers.output()[..amount]);
            }
        });
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        loop {
            if self.shut.0.load(Ordering::Acquire) {
                return Ok(false);
            }
            match self.sent.pop_front() {
                None => return Ok(false),
                Some(Sent::Reset) => return Err(Error::Io(io::ErrorKind::ConnectionReset.into())),
                Some(Sent::Silence) => {
                    return Err(match timeout.for_read().not_zero() {
                        Some(_) => Error::Timeout(timeout.for_read().reason),
                        None => Error::Io(io::ErrorKind::ConnectionReset.into()),
                    });
                }
                Some(Sent::Bytes(bytes)) if bytes.is_empty() => {}
                Some(Sent::Bytes(mut bytes)) => {
                    let room = self.buffers.input_append_buf();
                    let len = bytes.len().min(room.len());
                    room[..len].copy_from_slice(&bytes[..len]);
                    self.buffers.input_appended(len);
                    let rest = bytes.split_off(len);
                    if !rest.is_empty() {
                        self.sent.push_front(Sent::Bytes(rest));
                    }
                    return Ok(len > 0);
                }
            }
        }
    }

    fn is_open(&mut self) -> bool {
        false
    }
}
