//! OpenAI's `/v1/completions`, with the ids that vLLM and llama.cpp add.

use std::mem::take;

use super::delta::{ChoiceDelta, ids_of, mismatch, token_text};
use super::json::{Choice, Verbose};
use crate::error::Error;

/// Reads a choice. Its text is `choices[].text`.
///
/// The ids are in the first of these fields that the chunk has:
///
/// 1. `token_ids` (vLLM, with `return_token_ids`);
/// 2. `delta.token_id` (Together);
/// 3. `__verbose.tokens` (llama.cpp, with `verbose`);
/// 4. the log-probabilities (llama.cpp, with `logprobs`).
pub(super) fn read<'a>(choice: &mut Choice<'a>, verbose: Verbose<'a>) -> Result<ChoiceDelta<'a>, Error> {
    if !choice.text.is_given() && choice.delta.content.is_given() {
        return Err(mismatch("openai", "chat"));
    }
    let counted = verbose.tokens_predicted.count();
    Ok(ChoiceDelta {
        ids: ids_of(choice, verbose)?,
        text: token_text(take(&mut choice.text))?,
        index: take(&mut choice.index),
        finish: take(&mut choice.finish_reason),
        counted,
        ..ChoiceDelta::default()
    })
}
