//! SGLang's native endpoint, `/generate`.

use std::borrow::Cow;

use super::delta::{ChoiceDelta, good_ids, token_text};
use super::json::Chunk;
use super::tally::SoFar;
use super::value::{Id, List, Presence, Scalar};
use crate::error::Error;
use crate::types::ids::{TokenId, Usage};

/// Returns whether the chunk has any field of this endpoint.
pub(super) fn is_native(chunk: &Chunk<'_>) -> bool {
    let has_ids = !matches!(chunk.output_ids.presence, Presence::Missing | Presence::Null);
    has_ids || chunk.meta.presence == Presence::Given || chunk.text.is_given()
}

/// Reads an event, and returns the text and the ids that earlier events did not contain.
///
/// In each event, `text` and `output_ids` contain the whole response so far. A server with
/// incremental streaming sends only the new text and ids. `completion_tokens` shows which of the
/// two forms an event has, because it is always the number of all ids so far. With incremental
/// streaming, every event after the first has fewer ids than this number.
///
/// The finish reason is an object, `{"type": "stop", "matched": ..}`.
pub(super) fn read<'a>(chunk: &mut Chunk<'a>, so_far: &mut SoFar) -> Result<ChoiceDelta<'a>, Error> {
    let finish = std::mem::take(&mut chunk.meta.finish_reason.kind);
    let counted = chunk.meta.completion_tokens.count().map(|count| count as usize);
    let ids = good_ids(std::mem::take(&mut chunk.output_ids))?;
    let given = ids.as_ref().map_or(0, |ids| ids.iter().count());
    let incremental = counted.is_some_and(|counted| counted != given && counted == given + so_far.ids.len());
    let text = token_text(std::mem::take(&mut chunk.text))?;
    let (ids, text) = if incremental {
        (ids, text)
    } else {
        let ids = ids.map(|ids| new_ids(ids.into_items(), &so_far.ids)).transpose()?;
        (ids, new_text(text, &so_far.text, finish.is_given())?)
    };
    so_far.ids.extend(ids.iter().flat_map(List::iter).filter_map(|id| id.valid()));
    so_far.text.push_str(&text);
    Ok(ChoiceDelta { index: std::mem::take(&mut chunk.index), text, ids, finish, ..ChoiceDelta::default() })
}

fn new_ids<const MAX: usize>(
    mut ids: impl Iterator<Item = Id>,
    before: &[TokenId],
) -> Result<List<Id, MAX>, Error> {
    for id in before {
        match ids.next().and_then(Id::valid) {
            Some(same) if same == *id => {}
            Some(_) => return Err(Error::protocol("an event changed ids that were sent earlier")),
            None => return Err(Error::protocol("an event lacks ids that were sent earlier")),
        }
    }
    Ok(List::of(ids))
}

/// Returns the new part of the text.
///
/// At the end, the server removes a stop string from the text. Earlier events may have contained
/// the beginning of the stop string. This part is not removed from the text.
fn new_text<'a>(text: Cow<'a, str>, before: &str, at_end: bool) -> Result<Cow<'a, str>, Error> {
    if at_end && before.starts_with(&*text) {
        return Ok(Cow::Borrowed(""));
    }
    match text {
        Cow::Borrowed(text) => text.strip_prefix(before).map(Cow::Borrowed),
        Cow::Owned(text) => text.strip_prefix(before).map(|new| Cow::Owned(new.to_owned())),
    }
    .ok_or_else(|| Error::protocol("an event changed text that was sent earlier"))
}

/// Returns the counts in an event. They are the counts of the event's choice.
pub(super) fn usage(chunk: &Chunk<'_>) -> Option<Usage> {
    let meta = &chunk.meta;
    Some(Usage {
        completion_tokens: meta.completion_tokens.count()?,
        prompt_tokens: meta.prompt_tokens.count().unwrap_or(0),
        cached_tokens: Scalar::count(&meta.cached_tokens),
        reasoning_tokens: None,
    })
}
