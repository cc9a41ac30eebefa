//! Plain sockets to the mock server, so that a test checks the bytes on the wire.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tokenwire::testing::{MockServer, Script};

/// The longest wait for expected bytes. Only a hanging test reaches it.
pub const LONG: Duration = Duration::from_secs(30);

pub const ASK: &[u8] = b"POST /v1/completions HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\n{}";

pub fn connect(server: &MockServer) -> TcpStream {
    let stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub fn ask(server: &MockServer) -> TcpStream {
    let mut stream = connect(server);
    stream.write_all(ASK).unwrap();
    stream
}

/// Reads until the end. Returns the bytes, and the error that ended the connection, or `None` for a
/// FIN.
pub fn read_to_end(stream: &mut impl Read) -> (Vec<u8>, Option<ErrorKind>) {
    let mut got = Vec::new();
    let end = stream.read_to_end(&mut got).err().map(|error| error.kind());
    (got, end)
}

/// Reads as many bytes from the socket as `wire` has, and checks that the bytes are equal.
pub fn expect(stream: &mut impl Read, wire: &[u8]) {
    let mut got = vec![0; wire.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(wire));
}

pub fn events() -> Script {
    Script::events(["{\"a\":1}", "[DONE]"])
}
