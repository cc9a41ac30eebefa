//! Access to a real llama.cpp server with SmolLM2, which `.ci/run` starts.

use std::env;
use std::time::Duration;

use tokenwire::{CompletionRequest, SamplingParams, TokenId};

/// A limit that only a hanging test reaches, on a machine that also runs a model.
pub const LONG: Duration = Duration::from_secs(120);
/// The ids of "The three primary colors are".
pub const PROMPT: [TokenId; 5] = [504, 1296, 3003, 4683, 359];

/// Returns the URL of the running server. Tests that call this are ignored by default, so a missing
/// variable is a failure.
pub fn live_url() -> String {
    env::var("TOKENWIRE_LIVE_URL").expect("TOKENWIRE_LIVE_URL names a llama.cpp server")
}

/// Returns the path of the script that starts more servers.
pub fn live_script() -> String {
    env::var("TOKENWIRE_LIVE_SERVER").expect("TOKENWIRE_LIVE_SERVER is the path of llama-server.sh")
}

/// Sets the temperature to 0, so that the text is the same each time.
pub fn greedy(request: CompletionRequest, max_tokens: u32) -> CompletionRequest {
    let params = SamplingParams::default().temperature(0.0).seed(1).max_tokens(max_tokens);
    request.sampling(params).cache_prompt(false)
}
