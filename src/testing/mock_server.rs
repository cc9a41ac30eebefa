//! The scripted server. It listens, starts a thread for each connection, and records requests.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::connection::Connection;
use super::script::Script;
use super::state::{Disconnect, Handler, OnAccept, Shared};
use super::tls::TlsIdentity;
use crate::error::Error;
use crate::error::macros::debug_fields;
use crate::recording::Request;

/// The number of connections that may wait to be accepted.
///
/// The listener of std allows only 128. If a thousand clients connect at the same time, some
/// connections are then reset. The operating system may have a lower limit.
pub const BACKLOG: i32 = 4096;

/// The stack size of a connection's thread, which runs a TLS handshake and your handler.
///
/// A debug build that handles JSON needs half of this size.
const STACK_BYTES: usize = 512 << 10;

/// A running server. Dropping it closes all connections and joins all threads.
///
/// ```
/// use tokenwire::ApiClient;
/// use tokenwire::testing::{MockServer, Script};
///
/// let server = MockServer::scripted([Script::tokens([(9707, "Hello")])])?;
/// let client = ApiClient::builder(server.url()).build()?;
/// let (_tokens, guard) = client.stream(tokenwire::CompletionRequest::text("Say hello."))?;
/// assert_eq!(guard.join().tokens, 1);
/// assert_eq!(server.requests()[0].json()["prompt"], "Say hello.");
/// # Ok::<(), tokenwire::Error>(())
/// ```
pub struct MockServer {
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    addr: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl MockServer {
    /// Starts a server on a free port of 127.0.0.1.
    ///
    /// The server calls `handler` for each request after it has read the whole request. The call
    /// runs on the thread of the connection. Several calls may run at the same time.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](crate::ErrorKind::InvalidInput) with the cause as its source if the
    /// server cannot listen on the address, or if no thread can be started.
    pub fn start(handler: impl Fn(&Request) -> Script + Send + Sync + 'static) -> Result<Self, Error> {
        Self::builder().start(handler)
    }

    /// Starts a server like [`start`](Self::start), but with TLS.
    ///
    /// The client must trust the CA of the certificate. The host in [`url`](Self::url) is
    /// 127.0.0.1.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`start`](Self::start).
    pub fn start_tls(
        handler: impl Fn(&Request) -> Script + Send + Sync + 'static,
        identity: TlsIdentity,
    ) -> Result<Self, Error> {
        Self::builder().tls(identity).start(handler)
    }

    /// Starts a server that answers the n-th request with the n-th script.
    ///
    /// Requests are counted over all connections. The last script repeats.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`start`](Self::start), and an error if `scripts` is empty.
    pub fn scripted(scripts: impl IntoIterator<Item = Script>) -> Result<Self, Error> {
        Self::builder().scripted(scripts)
    }

    /// Returns a builder that sets the address, TLS and the behaviour on accept.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// Returns `http://127.0.0.1:PORT`, or `https://` with TLS, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr())
    }

    /// Returns the address to which a client can connect.
    ///
    /// If the server listens on all addresses, this is the loopback address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        let mut addr = self.addr;
        if addr.ip().is_unspecified() {
            addr.set_ip(match addr.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        addr
    }

    /// Returns a copy of the requests read so far, oldest first.
    ///
    /// The requests include credentials. The server keeps at most
    /// [`MAX_RECORDS`](super::MAX_RECORDS) requests.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// Returns the number of connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// Returns the number of connections that the server considers open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.lock().open.len()
    }

    /// Returns the disconnects of clients so far, in the order in which the server detected them.
    ///
    /// The server keeps at most [`MAX_RECORDS`](super::MAX_RECORDS) disconnects.
    #[must_use]
    pub fn disconnects(&self) -> Vec<Disconnect> {
        self.shared.lock().disconnects.clone()
    }

    /// Blocks until the server has read `n` requests in total, or until `max` has passed.
    ///
    /// Returns whether the server has read `n` requests.
    #[must_use]
    pub fn wait_for_requests(&self, n: usize, max: Duration) -> bool {
        self.shared.wait(max, |state| state.request_count >= n)
    }

    /// Blocks until `n` clients in total have disconnected, or until `max` has passed.
    ///
    /// Returns whether `n` clients have disconnected.
    #[must_use]
    pub fn wait_for_disconnects(&self, n: usize, max: Duration) -> bool {
        self.shared.wait(max, |state| state.disconnect_count >= n)
    }

    /// Blocks until at most `n` connections are open, or until `max` has passed.
    ///
    /// Returns whether at most `n` connections are open.
    #[must_use]
    pub fn wait_for_open_connections(&self, n: usize, max: Duration) -> bool {
        self.shared.wait(max, |state| state.open.len() <= n)
    }
}

impl Drop for MockServer {
    fn drop(&mut self) {
        self.shared.stop();
        // On Linux, the shutdown wakes a blocked accept. On other systems, the connect wakes it. On
        // Linux, the connect fails because the port is closed.
        let _ = SockRef::from(&*self.listener).shutdown(std::net::Shutdown::Both);
        let _ = TcpStream::connect_timeout(&self.addr(), Duration::from_secs(1));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        let threads = {
            let mut state = self.shared.lock();
            for socket in state.open.values() {
                // The shutdown wakes the thread of the socket from any blocking call. It fails if
                // the socket is already closed.
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
            std::mem::take(&mut state.threads)
        };
        for (_, thread) in threads {
            // An error means that a handler panicked. The message of the panic has already been
            // printed.
            let _ = thread.join();
        }
    }
}

debug_fields! { MockServer { addr } }

/// The settings of a [`MockServer`], from [`MockServer::builder`].
#[must_use]
pub struct ServerBuilder {
    addr: SocketAddr,
    tls: Option<TlsIdentity>,
    on_accept: Box<dyn Fn(usize) -> OnAccept + Send + Sync>,
    reads: Option<(usize, Duration)>,
}

impl Default for ServerBuilder {
    fn default() -> Self {
        let addr = (Ipv4Addr::LOCALHOST, 0).into();
        Self { addr, tls: None, on_accept: Box::new(|_| OnAccept::Serve), reads: None }
    }
}

impl ServerBuilder {
    /// Sets the address. Port 0 means a free port. Default 127.0.0.1:0.
    pub fn addr(mut self, addr: impl Into<SocketAddr>) -> Self {
        self.addr = addr.into();
        self
    }

    /// Enables TLS with this certificate. Default: no TLS.
    pub fn tls(mut self, identity: TlsIdentity) -> Self {
        self.tls = Some(identity);
        self
    }

    /// Sets a function that decides how the server treats each new connection.
    ///
    /// The function receives the number of the connection, counted from 0, before anything is read.
    ///
    /// By default, all connections are served.
    pub fn on_accept(mut self, decide: impl Fn(usize) -> OnAccept + Send + Sync + 'static) -> Self {
        self.on_accept = Box::new(decide);
        self
    }

    /// Reads requests `piece` bytes at a time, with a pause after each piece.
    ///
    /// Over TLS, this applies to the decrypted bytes after the handshake. Default: no limit and no
    /// pause.
    pub fn reads_slowly(mut self, piece: usize, pause: Duration) -> Self {
        self.reads = Some((piece, pause));
        self
    }

    /// Starts a server like [`MockServer::scripted`].
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`MockServer::scripted`].
    pub fn scripted(self, scripts: impl IntoIterator<Item = Script>) -> Result<MockServer, Error> {
        let scripts: Vec<Script> = scripts.into_iter().collect();
        let Some(last) = scripts.last().cloned() else {
            return Err(Error::invalid("a scripted server needs a script"));
        };
        self.launch(Box::new(move |_, n| scripts.get(n).unwrap_or(&last).clone()))
    }

    /// Starts a server like [`MockServer::start`].
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`MockServer::start`].
    pub fn start(
        self,
        handler: impl Fn(&Request) -> Script + Send + Sync + 'static,
    ) -> Result<MockServer, Error> {
        self.launch(Box::new(move |request, _| handler(request)))
    }

    fn launch(self, handler: Box<Handler>) -> Result<MockServer, Error> {
        let Self { addr, tls, on_accept, reads } = self;
        let failed = |error: io::Error| Error::invalid(format!("cannot serve on {addr}")).with_source(error);
        let listener = Arc::new(listen(addr).map_err(failed)?);
        let addr = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            handler,
            on_accept,
            tls,
            reads,
            port: addr.port(),
            stopping: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let (for_thread, listener_of_thread) = (Arc::clone(&shared), Arc::clone(&listener));
        let acceptor = thread::Builder::new()
            .name(format!("tw-{}", addr.port()))
            .stack_size(STACK_BYTES)
            .spawn(move || accept_all(&for_thread, &listener_of_thread))
            .map_err(failed)?;
        Ok(MockServer { shared, listener, addr, acceptor: Some(acceptor) })
    }
}

debug_fields! { ServerBuilder { addr, tls, reads } }

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // As in std, a port whose last connections are in TIME_WAIT can be bound again. On Windows, the
    // option has another meaning.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn accept_all(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        let accepted = listener.accept();
        if shared.is_stopping() {
            return;
        }
        match accepted {
            Ok((stream, _)) => take(shared, stream),
            // No file descriptors are left, or the client disconnected before the accept. The next
            // accept may succeed.
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn take(shared: &Arc<Shared>, stream: TcpStream) {
    let number = {
        let mut state = shared.lock();
        state.connections += 1;
        state.connections - 1
    };
    match (shared.on_accept)(number) {
        OnAccept::Serve => serve(shared, number, Arc::new(stream)),
        OnAccept::Hang => drop(shared.lock().open.insert(number, Arc::new(stream))),
        OnAccept::Close => drop(stream),
        OnAccept::Reset => {
            // With linger 0, the close sends an RST.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }
    shared.changed.notify_all();
    shared.join_ended();
}

fn serve(shared: &Arc<Shared>, number: usize, socket: Arc<TcpStream>) {
    // A piece of a stream must be sent when it is written, not with the next piece.
    let _ = socket.set_nodelay(true);
    let Some(connection) = Connection::new(Arc::clone(shared), number, Arc::clone(&socket)) else { return };
    shared.lock().open.insert(number, socket);
    // A thread name has at most 15 bytes on Linux.
    let thread = thread::Builder::new().name(format!("tw-{}-{number}", shared.port)).stack_size(STACK_BYTES);
    // If no thread can be started, the connection is dropped, and the drop records its end. A
    // thread may end before its handle is stored here. This is safe: only this thread uses the
    // handles until the server has joined this thread.
    if let Ok(thread) = thread.spawn(move || connection.serve()) {
        shared.lock().threads.insert(number, thread);
    }
}
