//! Calls back from a loop that must never block, such as a game, an editor or a C daemon.
//!
//! ```sh
//! cargo run --example callback --features testing [-- BASE_URL]
//! ```
//!
//! In each round, the loop receives the tokens that have arrived and calls back for each. Without a
//! URL, the example starts its own mock server.

use std::time::Duration;

use crossbeam_channel::Receiver;
use tokenwire::testing::{FakeModel, MockServer};
use tokenwire::{ApiClient, Error, SamplingParams, StreamToken, TokenId};

/// The state that a C program would pass as `void *`.
#[derive(Default)]
struct State {
    text: String,
    ids: usize,
    is_over: bool,
}

type OnToken = fn(&mut State, &str, Option<TokenId>);
type OnEnd = fn(&mut State, Result<(), &Error>);

/// Calls back for all tokens that have arrived. Never waits.
fn poll(tokens: &Receiver<StreamToken>, state: &mut State, on_token: OnToken, on_end: OnEnd) {
    for token in tokens.try_iter() {
        match token {
            StreamToken::Token { text, id } => on_token(state, &text, id),
            StreamToken::Done { .. } => on_end(state, Ok(())),
            StreamToken::Error(error) => on_end(state, Err(&error)),
            _ => {}
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = FakeModel::new(1);
    let server =
        MockServer::start(move |request| model.answer(request).slowly(500, Duration::from_millis(5)))?;
    let client = ApiClient::builder(std::env::args().nth(1).unwrap_or(server.url())).build()?;
    let (tokens, _guard) =
        client.stream_completion(&[785, 6722], SamplingParams::default().max_tokens(25), None)?;
    let on_token: OnToken = |state, text, id| {
        state.text.push_str(text);
        state.ids += usize::from(id.is_some());
    };
    let on_end: OnEnd = |state, result| {
        state.is_over = true;
        println!("ended: {result:?}");
    };

    let (mut state, mut frames) = (State::default(), 0);
    while !state.is_over {
        poll(&tokens, &mut state, on_token, on_end);
        // The program does the rest of its work for this frame here.
        std::thread::sleep(Duration::from_millis(2));
        frames += 1;
    }
    println!("{} ids in {frames} frames: {:?}", state.ids, state.text);
    Ok(())
}
