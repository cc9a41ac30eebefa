//! One connection of the scripted server: reads requests, carries their scripts out, sees the client
//! leave. It runs on a thread of its own and may block in a read or a write; the server wakes it by
//! shutting its socket down.

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

/// The longest head of a request, 64 KiB; a longer one is answered with 431.
pub const MAX_REQUEST_HEAD_BYTES: usize = 64 << 10;

/// The longest body of a request, 64 MiB; a longer one is answered with 413.
pub const MAX_REQUEST_BODY_BYTES: usize = 64 << 20;

/// What a client may send ahead while a script runs; more ends the connection.
const MAX_INPUT_BYTES: usize = MAX_REQUEST_HEAD_BYTES + MAX_REQUEST_BODY_BYTES;

const READ_BYTES: usize = 16 << 10;

/// A socket's own timeout comes up to an eighth late (measured on Linux), so the last part of a wait is
/// slept. It is also the longest that a sleep can hold up the server's drop.
const MAX_SLEEP: Duration = Duration::from_millis(20);

/// How often a script that waits for a gate looks for its client.
const GATE_LOOK: Duration = Duration::from_millis(10);

/// What is read away before a FIN at most: a close with unread bytes would become an RST.
const MAX_UNREAD_BYTES: usize = 1 << 20;

/// Why nothing more is sent on this connection.
enum Ended {
    /// Or the server is being dropped: a socket shut down for that reads the same.
    ClientGone,
    /// The server closes it, in good order.
    Closed,
    /// The same with no closing alert, as when a process is killed.
    Killed,
    Reset,
    /// The request is not served; the status says why.
    Refused(u16),
}

impl From<io::Error> for Ended {
    /// A failed write or read: the client is gone, or the server shut the socket down, which is told
    /// apart later.
    fn from(_: io::Error) -> Self {
        Self::ClientGone
    }
}

pub(super) struct Connection {
    shared: Arc<Shared>,
    number: usize,
    socket: Arc<TcpStream>,
    stream: Stream,
    /// Read and not used yet.
    input: Vec<u8>,
    /// The request being answered.
    request: Option<usize>,
    /// Of its response, bytes of the wire and of the body.
    sent_bytes: u64,
    body_bytes: u64,
}

impl Drop for Connection {
    /// Runs on a panicking handler too. The socket is closed after it, with the last `Arc`.
    fn drop(&mut self) {
        self.shared.forget(self.number);
    }
}

impl Connection {
    /// `None` if TLS cannot begin.
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
                // A client that has left already needs no alert.
                let _ = self.stream.close_notify();
                self.discard_unread();
            }
            Ended::Killed => self.discard_unread(),
            Ended::Reset => {
                // With linger 0 the close that follows sends an RST. It fails only on a socket that is
                // gone.
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

    /// A close with unread bytes in the socket sends an RST; this makes it a FIN.
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
    /// Returns the request, and whether the client closes the connection after it. Blocks without a limit: an idle
    /// connection is the client's business, and the server's drop ends it.
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
            // Only a body's end is followed by nothing; looking for it at other places would take the
            // square of the body's length.
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

    /// One read of at most so many bytes, as the socket is set. None within its timeout is no error.
    fn read_some(&mut self, most: usize) -> Result<(), Ended> {
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer[..most]) {
            Ok(0) => Err(Ended::ClientGone),
            Ok(n) if self.input.len() + n > MAX_INPUT_BYTES => Err(Ended::Killed),
            Ok(n) => {
                // A read is no longer than its buffer.
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

    /// Waits this long, or until the client has left or the server's drop shuts the socket down. Every turn
    /// ends with a read, which sees either.
    fn pause(&mut self, time: Duration) -> Result<(), Ended> {
        // A time beyond the clock's range is for ever.
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

    /// Whether the client is still there, without waiting.
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

/// How much may still be sent before the script is cut.
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
