//! vLLM's generate endpoint, `/inference/v1/generate`, which takes and returns ids.

use std::mem::take;

use super::delta::{ChoiceDelta, ids_of, token_text};
use super::json::{Choice, Verbose};
use crate::error::Error;

/// Reads a choice. Its ids are `choices[].token_ids`.
///
/// The chunk has `text` only if the request sets `"output_mode": "text"`.
pub(super) fn read<'a>(choice: &mut Choice<'a>) -> Result<ChoiceDelta<'a>, Error> {
    Ok(ChoiceDelta {
        ids: ids_of(choice, Verbose::default())?,
        text: token_text(take(&mut choice.text))?,
        index: take(&mut choice.index),
        finish: take(&mut choice.finish_reason),
        ..ChoiceDelta::default()
    })
}
