//! llama.cpp's native endpoint, `/completion`.

use super::delta::{ChoiceDelta, good_ids, token_text};
use super::json::Chunk;
use super::value::Scalar;
use crate::error::Error;
use crate::types::ids::Usage;

/// Reads an event and returns whether it is the last one.
///
/// The text is `content`, the ids are `tokens`, and the last event has `"stop": true`. A request
/// with `response_fields` can remove that field, so `stop_type` marks the last event too.
///
/// For a character of several tokens, the server sends only the last id. `tokens_predicted` shows
/// that ids are missing.
pub(super) fn read<'a>(chunk: &mut Chunk<'a>) -> Result<(ChoiceDelta<'a>, bool), Error> {
    let stop_type = chunk.stop_type.text().unwrap_or("none");
    let ended = matches!(chunk.stop, Scalar::Bool(true)) || stop_type != "none";
    let finish = match stop_type {
        "eos" | "word" => Scalar::Text("stop".into()),
        "limit" => Scalar::Text("length".into()),
        _ => Scalar::Missing,
    };
    let tokens = std::mem::take(&mut chunk.tokens);
    // The `"tokens": [0]` of a progress event is not a token.
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

/// Adds the counts in an event to the earlier counts. The last event may lack some.
///
/// The counts are `tokens_evaluated`, `tokens_predicted` and `timings.cache_n`. `tokens_cached` is
/// not read, because it is the number of tokens in the slot and not the number taken from the
/// cache.
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
