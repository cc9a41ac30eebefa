//! The scripted server: listens, gives each connection a thread, keeps what tests ask about, and ends
//! all of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::connection::Connection;
use super::script::Script;
use super::state::{Disconnect, Handler, OnAccept, Shared};
use super::tls::TlsIdentity;
use crate::error::Error;
use crate::recording::Request;

/// Connections that may wait to be accepted. std's listener has 128, and a burst of a thousand clients
/// then finds some reset. The system may have a lower bound of its own.
pub const BACKLOG: i32 = 4096;

/// The threads run a TLS handshake and your handler; a debug build with JSON in it needs half of this.
const STACK_BYTES: usize = 512 << 10;

/// A running server. Dropping it closes all connections and joins all threads: see the
/// [module](super).
pub struct MockServer {
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    addr: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl MockServer {
    /// Starts a server on a free port of 127.0.0.1. `handler` is called for each request, when it has
    /// been read whole, on its connection's thread; several may run at once.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) with the cause behind it if the address cannot
    /// be listened on or no thread started.
    pub fn start(handler: impl Fn(&Request) -> Script + Send + Sync + 'static) -> Result<Self, Error> {
        Self::builder().start(handler)
    }

    /// The same over TLS. The client must trust the certificate's CA; [`url`](Self::url) names the host
    /// 127.0.0.1.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_tls(
        handler: impl Fn(&Request) -> Script + Send + Sync + 'static,
        identity: TlsIdentity,
    ) -> Result<Self, Error> {
        Self::builder().tls(identity).start(handler)
    }

    /// Starts a server that gives the n-th request, over all connections, the n-th script. The last one
    /// repeats.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), and if there is no script.
    pub fn scripted(scripts: impl IntoIterator<Item = Script>) -> Result<Self, Error> {
        Self::builder().scripted(scripts)
    }

    /// A server with an address, TLS or a behaviour on accept of your choice.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// `http://127.0.0.1:PORT`, or `https:`; no slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr())
    }

    /// Where to connect to; loopback if the server listens on all addresses.
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

    /// The requests read so far, with their credentials, oldest first; at most [`MAX_RECORDS`](super::MAX_RECORDS). Copies
    /// them.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// Connections that are open now, as far as this side has seen.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.lock().open.len()
    }

    /// The clients that left so far, in the order in which it was seen; at most [`MAX_RECORDS`](super::MAX_RECORDS).
    #[must_use]
    pub fn disconnects(&self) -> Vec<Disconnect> {
        self.shared.lock().disconnects.clone()
    }

    /// Blocks until `n` requests were read in all, or `max` has passed; whether they were.
    #[must_use]
    pub fn wait_for_requests(&self, n: usize, max: Duration) -> bool {
        self.shared.wait(max, |state| state.request_count >= n)
    }

    /// Blocks until `n` clients were seen to have left in all, or `max` has passed; whether they were.
    #[must_use]
    pub fn wait_for_disconnects(&self, n: usize, max: Duration) -> bool {
        self.shared.wait(max, |state| state.disconnect_count >= n)
    }

    /// Blocks until at most `n` connections are open, or `max` has passed; whether that is so.
    #[must_use]
    pub fn wait_for_open_connections(&self, n: usize, max: Duration) -> bool {
        self.shared.wait(max, |state| state.open.len() <= n)
    }
}

impl Drop for MockServer {
    fn drop(&mut self) {
        self.shared.stop();
        // The first wakes a blocked accept on Linux, the second elsewhere. On Linux it finds nobody
        // listening.
        let _ = SockRef::from(&*self.listener).shutdown(std::net::Shutdown::Both);
        let _ = TcpStream::connect_timeout(&self.addr(), Duration::from_secs(1));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        let threads = {
            let mut state = self.shared.lock();
            for socket in state.open.values() {
                // Wakes its thread, whatever it is blocked in. A socket that is gone already needs none.
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
            std::mem::take(&mut state.threads)
        };
        for (_, thread) in threads {
            // An error is the panic of a handler, which has been printed.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for MockServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockServer").field("url", &self.url()).finish_non_exhaustive()
    }
}

/// What a [`MockServer`] is started with: [`MockServer::builder`].
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
    /// Listens here. Port 0 is a free port. Default 127.0.0.1:0.
    pub fn addr(mut self, addr: impl Into<SocketAddr>) -> Self {
        self.addr = addr.into();
        self
    }

    /// Speaks TLS with this certificate. Default plain.
    pub fn tls(mut self, identity: TlsIdentity) -> Self {
        self.tls = Some(identity);
        self
    }

    /// Decides about each connection by its number, from 0, before anything is read. Default: serve all.
    pub fn on_accept(mut self, decide: impl Fn(usize) -> OnAccept + Send + Sync + 'static) -> Self {
        self.on_accept = Box::new(decide);
        self
    }

    /// Reads requests `piece` bytes at a time, and pauses for this long after each; over TLS so many of the decrypted bytes,
    /// after the handshake. Default: as they come.
    pub fn reads_slowly(mut self, piece: usize, pause: Duration) -> Self {
        self.reads = Some((piece, pause));
        self
    }

    /// As [`MockServer::scripted`].
    ///
    /// # Errors
    ///
    /// As [`MockServer::scripted`].
    pub fn scripted(self, scripts: impl IntoIterator<Item = Script>) -> Result<MockServer, Error> {
        let scripts: Vec<Script> = scripts.into_iter().collect();
        let Some(last) = scripts.last().cloned() else {
            return Err(Error::invalid("a scripted server needs a script"));
        };
        self.launch(Box::new(move |_, n| scripts.get(n).unwrap_or(&last).clone()))
    }

    /// As [`MockServer::start`].
    ///
    /// # Errors
    ///
    /// As [`MockServer::start`].
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

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, tls, on_accept: _, reads } = self;
        f.debug_struct("ServerBuilder")
            .field("addr", addr)
            .field("tls", tls)
            .field("reads", reads)
            .finish_non_exhaustive()
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // As std does: a port whose last connections are in TIME_WAIT can be bound again. Windows means
    // another thing by it.
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
            // Out of descriptors, or the client left the queue. Either way the next one may do
            // better.
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
            // With linger 0 the close sends an RST.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }
    shared.changed.notify_all();
    shared.join_ended();
}

fn serve(shared: &Arc<Shared>, number: usize, socket: Arc<TcpStream>) {
    // A piece of a stream is to leave when it is written, not with the next one.
    let _ = socket.set_nodelay(true);
    let Some(connection) = Connection::new(Arc::clone(shared), number, Arc::clone(&socket)) else { return };
    shared.lock().open.insert(number, socket);
    // A thread's name has 15 bytes on Linux.
    let thread = thread::Builder::new().name(format!("tw-{}-{number}", shared.port)).stack_size(STACK_BYTES);
    // If there is no thread to be had, the connection is dropped, which notes its end. A thread may
    // end before its handle is noted here: handles are looked for on this thread only, or after it
    // was joined.
    if let Ok(thread) = thread.spawn(move || connection.serve()) {
        shared.lock().threads.insert(number, thread);
    }
}
