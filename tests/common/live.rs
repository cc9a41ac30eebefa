//! A real llama.cpp server with SmolLM2, where `.ci/run` has started one.

use std::env;
use std::time::Duration;

use tokenwire::{CompletionRequest, SamplingParams, TokenId};

/// "Does not hang", on a machine where a model runs beside.
pub const LONG: Duration = Duration::from_secs(120);
/// "The three primary colors are"
pub const PROMPT: [TokenId; 5] = [504, 1296, 3003, 4683, 359];

/// Where it is. `None`, and a word about it, if `TOKENWIRE_LIVE_URL` does not say.
pub fn live_url(test: &str) -> Option<String> {
    let url = env::var("TOKENWIRE_LIVE_URL").ok();
    if url.is_none() {
        eprintln!("{test}: skipped, TOKENWIRE_LIVE_URL is not set");
    }
    url
}

/// The same text each time.
pub fn greedy(request: CompletionRequest, max_tokens: u32) -> CompletionRequest {
    let params = SamplingParams::default().temperature(0.0).seed(1).max_tokens(max_tokens);
    request.sampling(params).cache_prompt(false)
}
