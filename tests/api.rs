//! Tests of promises about the public types: which threads can use them, and how they print.

use std::error::Error as StdError;
use std::fmt::Debug;

use tokenwire::recording::{Recording, Request};
use tokenwire::*;

fn shared<T: Send + Sync + Debug + 'static>() {}
fn sent<T: Send + Debug + 'static>() {}
fn value<T: Clone + Send + Sync + Debug + 'static>() {}

/// This test passes if it compiles (Rust API guidelines: C-SEND-SYNC, C-DEBUG, C-COMMON-TRAITS,
/// C-GOOD-ERR).
#[test]
fn types_can_move_between_threads_and_implement_debug() {
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
    value::<CompletionResponse>();
    value::<Canceller>();
    value::<Error>();
    value::<SavedRequest>();
    value::<Recording>();
    value::<Request>();
    value::<Context>();
    value::<Dialect>();
    value::<ServerKind>();
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
    shared::<PendingCompletion>();
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
fn errors_implement_the_std_trait_and_fit_into_a_box() {
    fn error<T: StdError + Send + Sync + 'static>() {}
    error::<Error>();
    error::<TurnError>();
    let failed = ApiClient::builder("ftp://model.test").build().map(drop);
    let boxed: Box<dyn StdError + Send + Sync> = failed.unwrap_err().into();
    assert!(boxed.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::InvalidInput));
}

#[test]
fn types_with_a_stable_name_display_it() {
    fn same(shown: impl std::fmt::Display, name: &str) {
        assert_eq!(shown.to_string(), name);
    }
    same(ErrorKind::NotEventStream, "not_event_stream");
    same(ErrorKind::Timeout(Timer::FirstToken), "timeout (first_token)");
    same(ErrorKind::Limit(Limit::EventBytes), "limit (max_event_bytes)");
    same(Outcome::ConsumerGone, "consumer_gone");
    same(IdsExact::Yes, "exact");
    same(IdsExact::No(Inexact::NoIds), "not exact: the server sent no ids");
    same(ServerKind::LlamaCpp, "llama.cpp");
    same(Role::Assistant, "assistant");
    same(recording::BodyEnd::ClientClosed, "client_closed");
    for dialect in Dialect::all() {
        assert_eq!(dialect.to_string().parse::<Dialect>().unwrap(), *dialect);
    }
    for format in ChatFormat::all() {
        assert_eq!(format.to_string().parse::<ChatFormat>().unwrap(), format);
    }
    assert_eq!("chatty".parse::<Dialect>().unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// A program can wait for many streams without its own dependency on crossbeam.
#[cfg(feature = "testing")]
#[test]
fn select_is_available_without_another_dependency() {
    let server = testing::MockServer::scripted([testing::Script::tokens([(1, "a")])]).unwrap();
    let client = ApiClient::builder(server.url()).build().unwrap();
    let (tokens, _guard) = client.stream(CompletionRequest::text("Hi")).unwrap();
    let never = crossbeam_channel::never::<()>();
    let item = tokenwire::crossbeam_channel::select! {
        recv(tokens) -> item => item.unwrap(),
        recv(never) -> _ => unreachable!(),
    };
    assert!(matches!(item, StreamToken::Token { id: Some(1), .. }));
}
