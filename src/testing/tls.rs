//! The server's side of a connection, with or without TLS.
//!
//! Only this part of the scripted server uses rustls.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::error::Error;

/// A certificate with its key, for a server with TLS.
///
/// See [`MockServer::start_tls`](super::mock_server::MockServer::start_tls). The `Debug` output
/// shows neither the certificate nor the key.
#[derive(Clone)]
pub struct TlsIdentity(Arc<ServerConfig>);

impl TlsIdentity {
    /// Reads a certificate and its private key from PEM text.
    ///
    /// The certificate comes first, followed by any intermediate certificates. The key is PKCS #8,
    /// PKCS #1 or SEC 1.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](crate::ErrorKind::InvalidInput) if one of the texts is invalid, or
    /// if the key does not belong to the certificate.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let certificates: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|error| Error::invalid("the certificate is not PEM").with_source(error))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|error| Error::invalid("the private key is not PEM").with_source(error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(certificates, key))
            .map_err(|error| {
                Error::invalid("the certificate and the key cannot be used together").with_source(error)
            })?;
        Ok(Self(Arc::new(config)))
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsIdentity(..)")
    }
}

/// A socket that the server can shut down while the connection's thread reads or writes.
///
/// It is an `Arc`, because `try_clone` would cost a second file descriptor per connection.
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

/// The stream of a connection. The first read performs the handshake.
pub(super) enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ServerConnection, Socket>>),
}

impl Stream {
    /// Returns `None` if rustls fails. With a checked identity, rustls does not fail.
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

    /// Encodes `bytes` for the wire: unchanged, or as TLS records.
    pub(super) fn encode(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let Self::Tls(tls) = self else { return Ok(bytes.to_vec()) };
        let (mut records, mut rest) = (Vec::new(), bytes);
        while !rest.is_empty() {
            // rustls takes 64 KiB at a time. The records must then be fetched before rustls takes
            // more bytes.
            let taken = tls.conn.writer().write(rest)?;
            rest = &rest[taken..];
            fetch(&mut tls.conn, &mut records)?;
        }
        Ok(records)
    }

    /// Writes the result of [`encode`](Self::encode), or a part of it.
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

    /// Sends the TLS alert that marks a normal end. Without TLS, it does nothing.
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
