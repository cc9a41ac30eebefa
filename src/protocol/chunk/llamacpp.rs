//! llama.cpp's native `/completion`.

use super::delta::{ChoiceDelta, good_ids, token_text};
use super::json::Chunk;
use super::value::Scalar;
use crate::error::Error;
use crate::types::ids::Usage;

/// The text is `content`, the ids are `tokens`, and the last event has `"stop": true`; a request with
/// `response_fields` can have that field cut off, so that `stop_type` tells it too.
///
/// Of a character of several tokens only the last id is sent: `tokens_predicted` shows it.
pub(super) fn read<'a>(chunk: &mut Chunk<'a>) -> Result<(ChoiceDelta<'a>, bool), Error> {
    let stop_type = chunk.stop_type.text().unwrap_or("none");
    let ended = matches!(chunk.stop, Scalar::Bool(true)) || stop_type != "none";
    let finish = match stop_type {
        "eos" | "word" => Scalar::Text("stop".into()),
        "limit" => Scalar::Text("length".into()),
        _ => Scalar::Missing,
    };
    let tokens = std::mem::take(&mut chunk.tokens);
    // A progress event carries `"tokens": [0]`, which is no token.
    let ids = if chunk.progress.is_given() { None } else { good_ids(tokens)? };
    let piece = ChoiceDelta {
        text: token_text(std::mem::take(&mut chunk.content))?,
        ids,
        index: std::mem::take(&mut chunk.index),
        finish,
        counted: chunk.tokens_predicted.count(),
        ..ChoiceDelta::default()
    };
    Ok((piece, ended))
}

/// The counts in an event (`tokens_evaluated`, `tokens_predicted`, `timings.cache_n`), on top of those of the events before
/// it: the last event may lack some. `tokens_cached` is not read: it is how full the slot is, not what came from the cache.
pub(super) fn usage(
    evaluated: Option<u32>,
    predicted: Option<u32>,
    cached: Option<u32>,
    before: Option<Usage>,
) -> Option<Usage> {
    Some(Usage {
        prompt_tokens: evaluated.or(before.map(|usage| usage.prompt_tokens))?,
        completion_tokens: predicted.or(before.map(|usage| usage.completion_tokens))?,
        cached_tokens: cached.or(before.and_then(|usage| usage.cached_tokens)),
        reasoning_tokens: None,
    })
}
