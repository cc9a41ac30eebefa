//! A real llama.cpp server with SmolLM2, where `.ci/run` has started one.

use std::env;
use std::time::Duration;

use tokenwire::{CompletionRequest, SamplingParams, TokenId};

/// "Does not hang", on a machine where a model runs beside.
pub const LONG: Duration = Duration::from_secs(120);
/// "The three primary colors are"
pub const PROMPT: [TokenId; 5] = [504, 1296, 3003, 4683, 359];

/// The URL of the running server. The tests that call this are ignored by default, so a missing variable fails them.
pub fn live_url() -> String {
    env::var("TOKENWIRE_LIVE_URL").expect("TOKENWIRE_LIVE_URL names a llama.cpp server")
}

/// The script that starts further servers.
pub fn live_script() -> String {
    env::var("TOKENWIRE_LIVE_SERVER").expect("TOKENWIRE_LIVE_SERVER is the path of llama-server.sh")
}

/// The same text each time.
pub fn greedy(request: CompletionRequest, max_tokens: u32) -> CompletionRequest {
    let params = SamplingParams::default().temperature(0.0).seed(1).max_tokens(max_tokens);
    request.sampling(params).cache_prompt(false)
}
