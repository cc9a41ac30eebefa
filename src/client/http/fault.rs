//! Failures of ureq as errors of this crate.

use std::fmt;

use ureq::Timeout;

use super::slot::CancelSlot;
use crate::config::{MAX_RESPONSE_HEADERS, Timeouts};
use crate::error::{Error, ErrorKind, Limit, Timer};

const CLOSED_EARLY: &str = "the connection was closed before the response was complete";

/// ureq's failure in this crate's words. The slot knows what ureq cannot: that it was cancelled, which timer ran.
/// `server` is named where no connection came about: of several one would not know which.
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
        // One name for both, in ureq; the second is legal, if the line has a chunk extension.
        ureq::Error::Protocol(cause) if is_named(&cause, "ChunkExpectedCrLf") => {
            let what =
                "a chunk of the response has no line end, or the line of its size is over 20 characters";
            Error::protocol(what).with_source(cause)
        }
        // The end came inside HTTP's own framing.
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
            Error::new(ErrorKind::Connect, format!("could not connect to {server}: its name was not found"))
        }
        other if sent => Error::protocol("the exchange failed").with_source(other),
        other => Error::new(ErrorKind::Connect, format!("could not connect to {server}")).with_source(other),
    }
}

fn is_named(error: &impl fmt::Debug, name: &str) -> bool {
    // The variants belong to a crate that ureq does not re-export whole; a name is the only handle.
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
        // Also where it was a proxy that refused.
        Io::ConnectionRefused => {
            Error::new(ErrorKind::Refused, format!("the connection to {server} was refused"))
        }
        _ if !sent => Error::new(ErrorKind::Connect, format!("could not connect to {server}")),
        Io::InvalidData => Error::protocol("the connection carried data that breaks its protocol"),
        _ => Error::new(ErrorKind::Incomplete, CLOSED_EARLY),
    };
    error.with_source(cause)
}
