//! Converts errors of ureq into errors of this crate.

use std::fmt;

use ureq::Timeout;

use super::slot::CancelSlot;
use crate::config::{MAX_RESPONSE_HEADERS, Timeouts};
use crate::error::{Error, ErrorKind, Limit, Timer};

const CLOSED_EARLY: &str = "the connection was closed before the response was complete";

/// Converts an error of ureq into an error of this crate.
///
/// The slot contains information that ureq lacks: whether the request was cancelled, and which
/// timer ran. If no connection was made, the message names `server`, because a client may have
/// several servers.
pub(super) fn fault(error: ureq::Error, slot: &CancelSlot, timeouts: &Timeouts, server: &str) -> Error {
    if slot.is_cancelled() {
        return Error::cancelled();
    }
    let sent = slot.was_sent();
    match error {
        ureq::Error::Timeout(reason) => timeout(reason, slot, timeouts),
        ureq::Error::Io(cause) => io_fault(cause, sent, server),
        ureq::Error::LargeResponseHeader(_, max) => Error::limit(Limit::ResponseHeadBytes, max as u64),
        ureq::Error::Protocol(cause) if is_named(&cause, "TooManyHeaders") => {
            Error::limit(Limit::ResponseHeaders, MAX_RESPONSE_HEADERS as u64).with_source(cause)
        }
        // ureq uses this error for an invalid chunk and for a long chunk-size line. A long line is
        // legal if it has a chunk extension.
        ureq::Error::Protocol(cause) if is_named(&cause, "ChunkExpectedCrLf") => {
            let what = "a chunk of the response has no line end, or its size line is over 20 characters";
            Error::protocol(what).with_source(cause)
        }
        // The body ended in the middle of the HTTP framing.
        cause @ ureq::Error::BodyStalled => {
            Error::new(ErrorKind::Incomplete, CLOSED_EARLY).with_source(cause)
        }
        ureq::Error::Protocol(cause) => {
            Error::protocol("the response breaks the rules of HTTP").with_source(cause)
        }
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            Error::invalid("the request cannot be sent as HTTP").with_source(error)
        }
        ureq::Error::HostNotFound => {
            Error::new(ErrorKind::Connect, format!("could not connect to {server}: host name not found"))
        }
        other if sent => Error::protocol("the HTTP exchange failed").with_source(other),
        other => Error::new(ErrorKind::Connect, format!("could not connect to {server}")).with_source(other),
    }
}

fn is_named(error: &impl fmt::Debug, name: &str) -> bool {
    // ureq does not re-export the type of these variants, so compare the names of the variants.
    format!("{error:?}").contains(name)
}

fn timeout(reason: Timeout, slot: &CancelSlot, timeouts: &Timeouts) -> Error {
    match (reason, slot.nearest_wait()) {
        (Timeout::PerWrite, _) => Error::timeout(Timer::Write, timeouts.write.unwrap_or_default()),
        (_, Some(wait)) => Error::timeout(wait.timer, wait.limit),
        (_, None) => Error::timeout(Timer::Connect, timeouts.connect.unwrap_or_default()),
    }
}

fn io_fault(cause: std::io::Error, sent: bool, server: &str) -> Error {
    use std::io::ErrorKind as Io;
    let error = match cause.kind() {
        // The address that refused the connection may be the address of a proxy.
        Io::ConnectionRefused => {
            Error::new(ErrorKind::Refused, format!("the connection to {server} was refused"))
        }
        _ if !sent => Error::new(ErrorKind::Connect, format!("could not connect to {server}")),
        Io::InvalidData => Error::protocol("the connection received data that breaks its protocol"),
        _ => Error::new(ErrorKind::Incomplete, CLOSED_EARLY),
    };
    error.with_source(cause)
}
