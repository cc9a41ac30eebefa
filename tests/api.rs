//! What callers rely on about the types, whatever else changes: which threads may have them, and that they can be shown.

use std::error::Error as StdError;
use std::fmt::Debug;

use tokenwire::recording::{Recording, Request};
use tokenwire::*;

fn shared<T: Send + Sync + Debug + 'static>() {}
fn sent<T: Send + Debug + 'static>() {}
fn value<T: Clone + Send + Sync + Debug + 'static>() {}

/// Compiles, or the promise is broken (Rust API guidelines: C-SEND-SYNC, C-DEBUG, C-COMMON-TRAITS, C-GOOD-ERR).
#[test]
fn types_go_between_threads_and_can_be_shown() {
    value::<ApiClient>();
    value::<ApiClientBuilder>();
    value::<HttpClient>();
    value::<CompletionRequest>();
    value::<SamplingParams>();
    value::<Message>();
    value::<StreamToken>();
    value::<Tagged>();
    value::<FanIn>();
    value::<StreamReport>();
    value::<Answer>();
    value::<Canceller>();
    value::<Error>();
    value::<SavedRequest>();
    value::<Recording>();
    value::<Request>();
    value::<Context>();
    value::<Dialect>();
    value::<Server>();
    value::<ChatFormat>();
    value::<Branch>();
    value::<PendingToolCall>();
    value::<Tools>();
    value::<ToolResult>();
    value::<Turn>();
    value::<TurnCanceller>();
    value::<TurnReport>();
    value::<TurnError>();
    shared::<StreamGuard>();
    shared::<Call>();
    shared::<HttpResponse>();
    sent::<ParserHandle>();
    sent::<ResponseParser>();
    sent::<SseParser>();
    sent::<SseReader>();
    sent::<ChunkDecoder>();
    sent::<BodyDecoder>();
    #[cfg(feature = "tokenizer")]
    value::<Tokenizer>();
}

#[test]
fn errors_are_errors_of_std_and_fit_into_a_box() {
    fn error<T: StdError + Send + Sync + 'static>() {}
    error::<Error>();
    error::<TurnError>();
    let failed = ApiClient::builder("ftp://model.test").build().map(drop);
    let boxed: Box<dyn StdError + Send + Sync> = failed.unwrap_err().into();
    assert!(boxed.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::InvalidInput));
}
