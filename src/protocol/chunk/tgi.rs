//! TGI's endpoints, `/generate_stream` and `/generate`.

use super::delta::{ChoiceDelta, good_ids, token_text};
use super::json::Chunk;
use super::value::{Id, List, Presence, Scalar};
use crate::error::Error;
use crate::types::ids::Usage;

/// Reads an event, which is one token. Also returns whether it is the last event.
///
/// The `index` of an event counts tokens, not choices. The last event has `generated_text`, which
/// repeats the whole text, and `details` if the request asked for them. The stream has no
/// terminator.
///
/// The server sends the end token's name as its text. As on every endpoint, only the id of this
/// token is delivered.
pub(super) fn read<'a>(chunk: &mut Chunk<'a>) -> Result<(ChoiceDelta<'a>, bool), Error> {
    let token = std::mem::take(&mut chunk.token);
    let finish = std::mem::take(&mut chunk.details.finish_reason);
    let ended = chunk.generated_text.is_given() || chunk.details.presence == Presence::Given;
    let ids = match token.id {
        Id::Missing => None,
        id => good_ids(List::of([id]))?,
    };
    let is_end = finish.text() == Some("eos_token") && matches!(token.special, Scalar::Bool(true));
    let text = token_text(if is_end { Scalar::Missing } else { token.text })?;
    Ok((ChoiceDelta { text, ids, finish, ..ChoiceDelta::default() }, ended))
}

/// Reads a whole response: the whole text, and the ids of the tokens in `details`.
pub(super) fn read_whole<'a>(chunk: &mut Chunk<'a>) -> Result<ChoiceDelta<'a>, Error> {
    let details = &mut chunk.details;
    let tokens = std::mem::take(&mut details.tokens);
    Ok(ChoiceDelta {
        text: token_text(std::mem::take(&mut chunk.generated_text))?,
        ids: good_ids(tokens.map(|token| token.id))?,
        finish: std::mem::take(&mut details.finish_reason),
        ..ChoiceDelta::default()
    })
}

/// Returns the counts in the last event or in a whole response.
///
/// A whole response has no count of the prompt's tokens.
pub(super) fn usage(chunk: &Chunk<'_>) -> Option<Usage> {
    Some(Usage {
        completion_tokens: chunk.details.generated_tokens.count()?,
        prompt_tokens: chunk.details.input_length.count().unwrap_or(0),
        ..Usage::default()
    })
}
