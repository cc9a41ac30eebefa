//! Reads a stream, like a consumer.

use std::time::Duration;

use crossbeam_channel::Receiver;
use tokenwire::{ApiClientBuilder, Error, Limits, StreamToken, Timeouts, TokenId};

/// A limit that only a hanging test reaches. No stream takes more than a tenth of it.
pub const LONG: Duration = Duration::from_secs(60);

pub type Token = (String, Option<TokenId>);

/// The last item of a stream.
#[derive(Debug)]
pub enum Last {
    Done,
    Error(Error),
    /// The channel was closed without an outcome.
    Nothing,
}

/// Makes each stream of the client start after the previous stream has returned its connection. The
/// client has only one reader thread, which first reads the rest of the framing, however long that
/// takes. This function replaces the limits of the client, and the drain timer in `timeouts`.
pub fn one_at_a_time(client: ApiClientBuilder, mut timeouts: Timeouts) -> ApiClientBuilder {
    let mut limits = Limits::default();
    limits.max_streams = 1;
    timeouts.drain = LONG;
    client.limits(limits).timeouts(timeouts)
}

/// Receives all items. The test fails if the stream does not end, or ends twice.
pub fn collect(receiver: &Receiver<StreamToken>) -> (Vec<Token>, Last) {
    let (mut tokens, mut last) = (Vec::new(), Last::Nothing);
    loop {
        let item = receiver.recv_timeout(LONG);
        let ended = !matches!(last, Last::Nothing);
        match item {
            Err(error) => {
                assert!(error.is_disconnected(), "the stream hangs after {tokens:?}");
                return (tokens, last);
            }
            Ok(item) => {
                assert!(!ended, "{item:?} follows {last:?}");
                match item {
                    StreamToken::Token { text, id } => tokens.push((text, id)),
                    StreamToken::Done { .. } => last = Last::Done,
                    StreamToken::Error(error) => last = Last::Error(error),
                    _ => panic!("an unknown kind of item"),
                }
            }
        }
    }
}
