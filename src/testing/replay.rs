//! Serves a recorded exchange to a client.

use std::time::Duration;

use super::mock_server::MockServer;
use super::script::{Framing, Script};
use crate::error::Error;
use crate::recording::http::BodyState;
use crate::recording::{BodyEnd, Recording, http};

/// Starts a server that answers every request with this recording, with the recorded timing.
///
/// For another timing, another address or TLS, pass [`Script::replay`] to a [`MockServer`].
///
/// # Errors
///
/// Returns the same errors as [`MockServer::start`].
pub fn replay(recording: &Recording) -> Result<MockServer, Error> {
    MockServer::scripted([Script::replay(recording, 1.0)])
}

impl Script {
    /// Creates a script that sends the recorded response, with its timing and its end.
    ///
    /// The clock starts when the request has been read. `pace` multiplies all times. With 1, the
    /// timing is as recorded. With 0.5, the response takes half the time. With 0, the script does
    /// not wait.
    ///
    /// Raw bytes are sent unchanged. A body without its framing is sent chunked, one chunk per
    /// piece, after the recorded status and headers. Headers about framing and the connection are
    /// left out.
    ///
    /// | end of the recording | end of the script |
    /// | --- | --- |
    /// | complete | complete |
    /// | closed or reset | the same |
    /// | the server was silent, or the client closed the connection | the connection stays open and silent |
    /// | not known | complete if the body is complete, otherwise closed |
    pub fn replay(recording: &Recording, pace: f64) -> Self {
        let at = |time: Duration| Duration::try_from_secs_f64(time.as_secs_f64() * pace).unwrap_or_default();
        let mut script = Self::new();
        if !recording.is_wire() {
            let headers = recording.response_headers();
            let kept: Vec<(&str, &str)> = headers
                .iter()
                .map(|(name, value)| (&**name, &**value))
                .filter(|(name, _)| !is_hop_by_hop(name))
                .collect();
            let first = recording.pieces().first().map_or(Duration::ZERO, |piece| piece.at);
            // The time of the headers is not recorded. The time of the first piece is the latest
            // possible time.
            let status = recording.status().unwrap_or(200);
            script = script.pause_until(at(first)).head(status, &kept, Framing::Chunked);
        }
        for piece in recording.pieces() {
            script = script.pause_until(at(piece.at)).write(piece.bytes.clone());
        }
        if let Some(time) = recording.ended_at() {
            script = script.pause_until(at(time));
        }
        match recording.end() {
            BodyEnd::Complete => script.end_complete(recording),
            BodyEnd::Unknown if recording.response_body().state == BodyState::Complete => {
                script.end_complete(recording)
            }
            BodyEnd::Closed | BodyEnd::Unknown => script.close(),
            BodyEnd::Reset => script.reset(),
            BodyEnd::Silent | BodyEnd::ClientClosed => script.hang(Duration::MAX),
        }
    }

    fn end_complete(self, recording: &Recording) -> Self {
        if !recording.is_wire() {
            return self;
        }
        let head = http::response_head(&recording.response_bytes());
        if head.is_some_and(|(head, _)| !head.closes()) { self.keep_alive() } else { self.close() }
    }
}

/// Returns whether a header belongs to the recorded connection and would be wrong on this one.
fn is_hop_by_hop(name: &str) -> bool {
    ["transfer-encoding", "content-length", "connection", "keep-alive", "trailer", "upgrade"]
        .iter()
        .any(|header| name.eq_ignore_ascii_case(header))
}
