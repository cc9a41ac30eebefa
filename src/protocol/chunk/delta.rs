//! The contents of a chunk for one choice, and functions that read them.

use std::borrow::Cow;

use super::json::{CallDelta, Choice, Verbose};
use super::limits::MAX_TOOL_CALLS;
use super::value::{Id, Ids, List, Presence, Scalar};
use crate::error::{Error, Limit};

/// The contents of one chunk for one choice, in the same form for every endpoint.
#[derive(Default)]
pub(super) struct ChoiceDelta<'a> {
    pub(super) index: Scalar<'a>,
    pub(super) reasoning: Cow<'a, str>,
    pub(super) text: Cow<'a, str>,
    pub(super) calls: List<CallDelta<'a>, MAX_TOOL_CALLS>,
    /// The ids, which are valid. `None` if the chunk has no field for ids.
    pub(super) ids: Option<Ids>,
    pub(super) finish: Scalar<'a>,
    /// The server's running count of the choice's tokens.
    pub(super) counted: Option<u32>,
}

/// Returns the ids of a choice. If the chunk has several fields for ids, the first one is used.
pub(super) fn ids_of(choice: &mut Choice<'_>, verbose: Verbose<'_>) -> Result<Option<Ids>, Error> {
    let by_key = std::mem::take(&mut choice.token_ids);
    if !matches!(by_key.presence, Presence::Missing | Presence::Null) {
        return good_ids(by_key);
    }
    if !matches!(choice.delta.token_id, Id::Missing) {
        return good_ids(Ids::of([choice.delta.token_id]));
    }
    if verbose.progress.is_given() {
        return Ok(None);
    }
    if !matches!(verbose.tokens.presence, Presence::Missing | Presence::Null) {
        return good_ids(verbose.tokens);
    }
    let logprobs = std::mem::take(&mut choice.logprobs.content);
    // Other servers send log-probabilities without ids.
    if logprobs.iter().any(|logprob| matches!(logprob.0, Id::Missing)) {
        return Ok(None);
    }
    good_ids(logprobs.map(|logprob| logprob.0))
}

/// Returns the ids if each of them is valid. `None` means that the chunk has no such list.
pub(super) fn good_ids(ids: Ids) -> Result<Option<Ids>, Error> {
    if matches!(ids.presence, Presence::Missing | Presence::Null) {
        return Ok(None);
    }
    ids.check("token ids", Limit::TokenIds)?;
    if !ids.iter().all(|id| matches!(id, Id::Valid(_))) {
        return Err(Error::protocol("a token id is not a whole number from 0 to 4294967295"));
    }
    Ok(Some(ids))
}

pub(super) fn token_text<'a>(text: Scalar<'a>) -> Result<Cow<'a, str>, Error> {
    text.into_text().map_err(|()| Error::protocol("the text of a chunk is not a string"))
}

pub(super) fn mismatch(expected: &str, came: &str) -> Error {
    Error::protocol(format!("expected a chunk of the {expected} endpoint, got one of the {came} endpoint"))
}
