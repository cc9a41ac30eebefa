//! llama.cpp's native endpoint, `/completion`.

use super::delta::{ChoiceDelta, good_ids, token_text};
use super::json::Chunk;
use super::value::Scalar;
use crate::error::Error;
use crate::types::ids::Usage;

/// Reads an event. Also returns whether it is the last event.
///
/// The text is `content`, the ids are `tokens`, and the last event has `"stop": true`. A request
/// with `response_fields` can remove `stop`. The last event can therefore also be identified by
/// `stop_type`.
///
/// If a character consists of several tokens, the server sends only the last id. The count in
/// `tokens_predicted` is then higher than the number of ids.
pub(super) fn read<'a>(chunk: &mut Chunk<'a>) -> Result<(ChoiceDelta<'a>, bool), Error> {
    let stop_type = chunk.stop_type.text().unwrap_or("none");
    let ended = matches!(chunk.stop, Scalar::Bool(true)) || stop_type != "none";
    let finish = match stop_type {
        "eos" | "word" => Scalar::Text("stop".into()),
        "limit" => Scalar::Text("length".into()),
        _ => Scalar::Missing,
    };
    let tokens = std::mem::take(&mut chunk.tokens);
    // A progress event contains `"tokens": [0]`, which is not a token.
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

/// Returns the counts in an event. A count that the event lacks is taken from the earlier counts.
///
/// The counts are `tokens_evaluated`, `tokens_predicted` and `timings.cache_n`. `tokens_cached` is
/// not read. It is not the number of tokens that came from the cache, but the number of all tokens
/// in the server's slot (its memory for one request).
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
