//! One connection of the scripted server.
//!
//! A connection reads requests, runs their scripts, and detects when the client disconnects. Each
//! connection has its own thread, which may block in a read or a write. The server wakes the thread
//! by shutting down its socket.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::gate::Gate;
use super::plan::{Action, Plan};
use super::script::{Cut, How, Script, Wait};
use super::state::{Disconnect, Shared};
use super::tls::{Socket, Stream};
use crate::recording::Request;
use crate::recording::http::{BodyState, Head, dechunk};

/// The maximum size of a request's head, 64 KiB. A larger head is answered with 431.
pub const MAX_REQUEST_HEAD_BYTES: usize = 64 << 10;

/// The maximum size of a request's body, 64 MiB. A larger body is answered with 413.
pub const MAX_REQUEST_BODY_BYTES: usize = 64 << 20;

/// The maximum number of bytes that a client may send while a script runs.
///
/// If the client sends more bytes, the connection ends.
const MAX_INPUT_BYTES: usize = MAX_REQUEST_HEAD_BYTES + MAX_REQUEST_BODY_BYTES;

const READ_BYTES: usize = 16 << 10;

/// The maximum length of a sleep.
///
/// A socket timeout can last up to one eighth longer than requested (measured on Linux). The last
/// part of a wait is therefore a sleep. A sleep delays the drop of the server by at most this time.
const MAX_SLEEP: Duration = Duration::from_millis(20);

/// The interval at which a script that waits for a gate checks for a disconnect.
const GATE_LOOK: Duration = Duration::from_millis(10);

/// The maximum number of bytes discarded before a FIN.
///
/// If bytes stayed unread, the system would send an RST.
const MAX_UNREAD_BYTES: usize = 1 << 20;

/// The reason why nothing more is sent on this connection.
enum Ended {
    /// The client disconnected, or the server is being dropped. The socket is shut down in both
    /// cases.
    ClientGone,
    /// The server closes the connection normally.
    Closed,
    /// The server closes the connection without the closing alert, like a process that was killed.
    Killed,
    Reset,
    /// The server refuses the request with this status.
    Refused(u16),
}

impl From<io::Error> for Ended {
    /// Converts a failed read or write.
    ///
    /// The client disconnected, or the server shut down the socket. A later check distinguishes the
    /// two cases.
    fn from(_: io::Error) -> Self {
        Self::ClientGone
    }
}

pub(super) struct Connection {
    shared: Arc<Shared>,
    number: usize,
    socket: Arc<TcpStream>,
    stream: Stream,
    /// Bytes that were read but not used yet.
    input: Vec<u8>,
    /// The number of the request that is being answered.
    request: Option<usize>,
    /// The number of response bytes sent so far. `body_bytes` counts only the bytes of the body.
    sent_bytes: u64,
    body_bytes: u64,
}

impl Drop for Connection {
    /// Removes the connection, even if a handler panics.
    ///
    /// The drop of the last `Arc` then closes the socket.
    fn drop(&mut self) {
        self.shared.forget(self.number);
    }
}

impl Connection {
    /// Returns `None` if TLS cannot start.
    pub(super) fn new(shared: Arc<Shared>, number: usize, socket: Arc<TcpStream>) -> Option<Self> {
        let stream = Stream::new(Socket(Arc::clone(&socket)), shared.tls.as_ref())?;
        let (input, request) = (Vec::new(), None);
        Some(Self { shared, number, socket, stream, input, request, sent_bytes: 0, body_bytes: 0 })
    }

    /// Serves requests until the connection ends.
    pub(super) fn serve(mut self) {
        let mut ended = loop {
            if let Err(ended) = self.serve_one() {
                break ended;
            }
        };
        if let Ended::Refused(status) = ended {
            ended = self.run(&Script::status(status).close().plan()).err().unwrap_or(Ended::Closed);
        }
        if self.shared.is_stopping() {
            return;
        }
        match ended {
            Ended::ClientGone => self.shared.add_disconnect(Disconnect {
                connection: self.number,
                request: self.request,
                sent_bytes: self.sent_bytes,
                body_bytes: self.body_bytes,
                at: Instant::now(),
            }),
            Ended::Closed | Ended::Refused(_) => {
                // A client that has already disconnected does not need the alert.
                let _ = self.stream.close_notify();
                self.discard_unread();
            }
            Ended::Killed => self.discard_unread(),
            Ended::Reset => {
                // With linger 0, the close that follows sends an RST. The call fails only if the
                // socket is already closed.
                let _ = SockRef::from(&*self.socket).set_linger(Some(Duration::ZERO));
            }
        }
    }

    fn serve_one(&mut self) -> Result<(), Ended> {
        (self.request, self.sent_bytes, self.body_bytes) = (None, 0, 0);
        let (request, client_closes) = self.read_request()?;
        let number = self.shared.add_request(&request);
        self.request = Some(number);
        let plan = (self.shared.handler)(&request, number).plan();
        self.run(&plan)?;
        if plan.keep_alive && !client_closes { Ok(()) } else { Err(Ended::Closed) }
    }

    /// Discards unread bytes, so that the close sends a FIN and not an RST.
    fn discard_unread(&mut self) {
        let mut buffer = [0; READ_BYTES];
        let mut left = MAX_UNREAD_BYTES;
        if self.socket.set_nonblocking(true).is_err() {
            return;
        }
        while let Ok(n @ 1..) = io::Read::read(&mut &*self.socket, &mut buffer) {
            left = left.saturating_sub(n);
            if left == 0 {
                break;
            }
        }
    }
}

// ---- the request

impl Connection {
    /// Reads a request, and returns whether the client closes the connection after it.
    ///
    /// The wait has no time limit: a connection may stay idle until the server is dropped.
    fn read_request(&mut self) -> Result<(Request, bool), Ended> {
        let (head, head_bytes) = loop {
            match Head::parse(&self.input) {
                Some(Ok((_, length))) if length > MAX_REQUEST_HEAD_BYTES => return Err(Ended::Refused(431)),
                Some(Ok(parsed)) => break parsed,
                Some(Err(())) => return Err(Ended::Refused(400)),
                None if self.input.len() > MAX_REQUEST_HEAD_BYTES => return Err(Ended::Refused(431)),
                None => self.fill()?,
            }
        };
        let mut words = head.first_line.split(' ');
        let (Some(method), Some(path), Some(_)) = (words.next(), words.next(), words.next()) else {
            return Err(Ended::Refused(400));
        };
        let request = Request::new(method, path);
        self.input.drain(..head_bytes);
        let expects = head.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
        if expects && self.input.is_empty() {
            self.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = self.read_body(&head)?;
        let closes = head.closes();
        Ok((Request { headers: head.headers, ..request }.with_body(body), closes))
    }

    fn read_body(&mut self, head: &Head) -> Result<Vec<u8>, Ended> {
        if head.is_chunked() {
            return self.read_chunked();
        }
        let length = match head.content_length() {
            None if head.header("content-length").is_some() => return Err(Ended::Refused(400)),
            None => 0,
            Some(length) if length > MAX_REQUEST_BODY_BYTES => return Err(Ended::Refused(413)),
            Some(length) => length,
        };
        while self.input.len() < length {
            self.fill()?;
        }
        let rest = self.input.split_off(length);
        Ok(std::mem::replace(&mut self.input, rest))
    }

    fn read_chunked(&mut self) -> Result<Vec<u8>, Ended> {
        loop {
            // The client sends nothing after a body, so a body can end only where the input ends.
            // Decoding the input after every read would take quadratic time.
            if self.input.ends_with(b"\r\n\r\n") {
                let found = dechunk(&self.input);
                match found.state {
                    BodyState::Complete => {
                        self.input.drain(..found.consumed);
                        return Ok(found.body);
                    }
                    BodyState::Broken => return Err(Ended::Refused(400)),
                    BodyState::Cut => {}
                }
            }
            if self.input.len() > MAX_REQUEST_BODY_BYTES {
                return Err(Ended::Refused(413));
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), Ended> {
        self.socket.set_nonblocking(false)?;
        self.socket.set_read_timeout(None)?;
        let Some((piece, pause)) = self.shared.reads else { return self.read_some(READ_BYTES) };
        self.read_some(piece.clamp(1, READ_BYTES))?;
        self.shared.pause(pause);
        Ok(())
    }

    /// Reads once, at most `most` bytes. A timeout without bytes is not an error.
    fn read_some(&mut self, most: usize) -> Result<(), Ended> {
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer[..most]) {
            Ok(0) => Err(Ended::ClientGone),
            Ok(n) if self.input.len() + n > MAX_INPUT_BYTES => Err(Ended::Killed),
            Ok(n) => {
                // A read never returns more bytes than its buffer has.
                self.input.extend_from_slice(&buffer[..n]);
                Ok(())
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(()),
                _ => Err(Ended::ClientGone),
            },
        }
    }
}

// ---- the script

impl Connection {
    fn run(&mut self, plan: &Plan) -> Result<(), Ended> {
        let started = Instant::now();
        let mut room = Room { left: plan.cut.map_or(u64::MAX, |(n, _)| n as u64), cut: plan.cut };
        self.check_cut(&room)?;
        for action in &plan.actions {
            match action {
                Action::Send { bytes, body, how } => self.send(bytes, *body as u64, *how, &mut room)?,
                Action::Wait(Wait::For(time)) => self.pause(*time)?,
                Action::Wait(Wait::Until(time)) => self.pause(time.saturating_sub(started.elapsed()))?,
                Action::Wait(Wait::ClientGone(max)) => self.pause(*max)?,
                Action::Wait(Wait::Gate(gate)) => self.wait_for(gate)?,
                Action::Close => return Err(Ended::Closed),
                Action::Reset => return Err(Ended::Reset),
            }
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8], body: u64, how: How, room: &mut Room) -> Result<(), Ended> {
        match how {
            How::AtOnce => self.write(bytes, room)?,
            How::Slowly { piece, pause, inside_records: false } => {
                for piece in bytes.chunks(piece.max(1)) {
                    self.write(piece, room)?;
                    self.pause(pause)?;
                }
            }
            How::Slowly { piece, pause, inside_records: true } => self.dribble(bytes, piece, pause, room)?,
            How::Repeated { times, pause } => {
                for _ in 0..times {
                    self.write(bytes, room)?;
                    self.body_bytes += body;
                    self.pause(pause)?;
                }
                return Ok(());
            }
        }
        self.body_bytes += body;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], room: &mut Room) -> Result<(), Ended> {
        let bytes = room.take(bytes);
        if !bytes.is_empty() {
            self.socket.set_nonblocking(false)?;
            self.stream.write(bytes)?;
            self.sent_bytes += bytes.len() as u64;
        }
        self.check_cut(room)
    }

    fn dribble(&mut self, bytes: &[u8], piece: usize, pause: Duration, room: &mut Room) -> Result<(), Ended> {
        let bytes = room.take(bytes);
        let records = self.stream.encode(bytes)?;
        for piece in records.chunks(piece.max(1)) {
            self.socket.set_nonblocking(false)?;
            self.stream.write_encoded(piece)?;
            self.pause(pause)?;
        }
        self.sent_bytes += bytes.len() as u64;
        self.check_cut(room)
    }

    fn check_cut(&mut self, room: &Room) -> Result<(), Ended> {
        match room.cut {
            Some((_, cut)) if room.left == 0 => match cut {
                Cut::Fin => Err(Ended::Killed),
                Cut::Reset => Err(Ended::Reset),
                Cut::Hang => self.pause(Duration::MAX).and(Err(Ended::Killed)),
            },
            _ => Ok(()),
        }
    }

    /// Waits for this time, or until the client disconnects or the server is dropped.
    ///
    /// Each iteration ends with a read, which detects both events.
    fn pause(&mut self, time: Duration) -> Result<(), Ended> {
        // A time beyond the range of the clock means an endless wait.
        let until = Instant::now().checked_add(time);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match left {
                Some(Duration::ZERO) => return Ok(()),
                Some(left) if left <= MAX_SLEEP => {
                    thread::sleep(left);
                    self.look()?;
                }
                _ => {
                    self.socket.set_nonblocking(false)?;
                    self.socket.set_read_timeout(left.map(|left| left - left / 8))?;
                    self.read_some(READ_BYTES)?;
                }
            }
        }
    }

    /// Checks for a disconnect, without waiting.
    fn look(&mut self) -> Result<(), Ended> {
        self.socket.set_nonblocking(true)?;
        self.read_some(READ_BYTES)
    }

    fn wait_for(&mut self, gate: &Gate) -> Result<(), Ended> {
        while !gate.wait(GATE_LOOK) {
            self.look()?;
        }
        Ok(())
    }
}

/// The number of bytes that may still be sent before the script is cut.
struct Room {
    left: u64,
    cut: Option<(usize, Cut)>,
}

impl Room {
    fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let allowed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        if self.cut.is_some() {
            self.left -= allowed as u64;
        }
        &bytes[..allowed]
    }
}
