//! `/v1/completions` as OpenAI has it, with the ids that vLLM and llama.cpp add.

use std::mem::take;

use super::delta::{ChoiceDelta, ids_of, mismatch, token_text};
use super::json::{Choice, Verbose};
use crate::error::Error;

/// The text is `choices[].text`; the ids are `token_ids` (vLLM, when asked by `return_token_ids`), else the one in
/// `delta.token_id` (Together), else `__verbose.tokens` (llama.cpp, `verbose`), else those in the log-probabilities (llama.cpp, `logprobs`).
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
