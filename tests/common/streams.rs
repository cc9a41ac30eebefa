//! A stream from the consumer's side.

use std::time::Duration;

use crossbeam_channel::Receiver;
use tokenwire::{Error, StreamToken, TokenId};

/// "Does not hang": nothing takes a tenth of it.
pub const LONG: Duration = Duration::from_secs(60);

pub type Token = (String, Option<TokenId>);

/// The last item of a stream.
#[derive(Debug)]
pub enum Last {
    Done,
    Error(Error),
    /// Disconnected with neither.
    Nothing,
}

/// Everything that a receiver gives. A stream that does not end, or ends twice, fails the test.
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
                    _ => panic!("an item of no known kind"),
                }
            }
        }
    }
}
