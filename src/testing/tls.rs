//! The scripted server's side of a connection, plain or TLS. The only place of it that names rustls.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::error::Error;

/// A certificate and its key, for [`MockServer::start_tls`](super::mock_server::MockServer::start_tls). Its `Debug` shows
/// neither.
#[derive(Clone)]
pub struct TlsIdentity(Arc<ServerConfig>);

impl TlsIdentity {
    /// From PEM text: the certificate, behind it those between it and its CA if there are any, and the
    /// private key (PKCS #8, PKCS #1 or SEC 1).
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if one of the texts holds no such thing, or the
    /// two do not belong together.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let certificates: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|error| Error::invalid("the certificate is no PEM").with_source(error))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|error| Error::invalid("the private key is no PEM").with_source(error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(certificates, key))
            .map_err(|error| Error::invalid("certificate and key cannot be used").with_source(error))?;
        Ok(Self(Arc::new(config)))
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsIdentity(..)")
    }
}

/// A socket that the server can shut down while the connection's thread is blocked in it. An `Arc`, not
/// `try_clone`: that would cost a second descriptor for each connection.
#[derive(Clone)]
pub(super) struct Socket(pub(super) Arc<TcpStream>);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The handshake is made by the first read.
pub(super) enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ServerConnection, Socket>>),
}

impl Stream {
    /// `None` if rustls refuses, which with a checked identity it does not.
    pub(super) fn new(socket: Socket, tls: Option<&TlsIdentity>) -> Option<Self> {
        let Some(TlsIdentity(config)) = tls else { return Some(Self::Plain(socket)) };
        let connection = ServerConnection::new(Arc::clone(config)).ok()?;
        Some(Self::Tls(Box::new(StreamOwned::new(connection, socket))))
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }

    /// `bytes` as they go over the wire: the same, or TLS records.
    pub(super) fn encode(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let Self::Tls(tls) = self else { return Ok(bytes.to_vec()) };
        let (mut records, mut rest) = (Vec::new(), bytes);
        while !rest.is_empty() {
            // rustls takes 64 KiB at a time, then wants its records fetched.
            let taken = tls.conn.writer().write(rest)?;
            rest = &rest[taken..];
            fetch(&mut tls.conn, &mut records)?;
        }
        Ok(records)
    }

    /// Writes what [`encode`](Self::encode) made, or a part of it.
    pub(super) fn write_encoded(&mut self, records: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(records),
            Self::Tls(tls) => tls.sock.write_all(records),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Self::Plain(socket) = self {
            return socket.write_all(bytes);
        }
        let records = self.encode(bytes)?;
        self.write_encoded(&records)
    }

    /// The alert that tells an end from a cut; nothing on a plain connection.
    pub(super) fn close_notify(&mut self) -> io::Result<()> {
        let Self::Tls(tls) = self else { return Ok(()) };
        tls.conn.send_close_notify();
        let mut records = Vec::new();
        fetch(&mut tls.conn, &mut records)?;
        tls.sock.write_all(&records)
    }
}

fn fetch(connection: &mut ServerConnection, records: &mut Vec<u8>) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(records)?;
    }
    Ok(())
}
