//! A recorded exchange, served again.

use std::time::Duration;

use super::mock_server::MockServer;
use super::script::{Framing, Script};
use crate::error::Error;
use crate::recording::http::BodyState;
use crate::recording::{BodyEnd, Recording, http};

/// A server that answers every request with this recording, at its own pace. For another pace, another
/// address or TLS, give [`Script::replay`] to a [`MockServer`].
///
/// # Errors
///
/// As [`MockServer::start`].
pub fn replay(recording: &Recording) -> Result<MockServer, Error> {
    MockServer::scripted([Script::replay(recording, 1.0)])
}

impl Script {
    /// What the recorded server sent, when it sent it, and its end. The clock starts when the request
    /// has been read.
    ///
    /// `pace` multiplies all times: 1 as recorded, 0.5 in half the time, 0 without any waiting.
    ///
    /// Raw bytes go out as they are. A body without its framing is chunked, a chunk per piece, behind
    /// the recorded status and headers without those about framing and connection. It ends as it ended:
    /// where the server fell silent or the client left, the connection stays open and silent; where the
    /// record does not say, it is closed.
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
            // When the headers came is not recorded; with the first piece is the latest it can have been.
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

/// Headers that belong to the recorded connection and would be wrong on this one.
fn is_hop_by_hop(name: &str) -> bool {
    ["transfer-encoding", "content-length", "connection", "keep-alive", "trailer", "upgrade"]
        .iter()
        .any(|header| name.eq_ignore_ascii_case(header))
}
