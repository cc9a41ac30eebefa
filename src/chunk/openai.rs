//! `/v1/completions` as OpenAI has it, with the ids that vLLM and llama.cpp add.

use super::json::{Choice, Verbose};
use super::{Piece, ids_of, mismatch, token_text};
use crate::Error;

/// The text is `choices[].text`; the ids are `token_ids` (vLLM, when asked by `return_token_ids`), else the one in
/// `delta.token_id` (Together), else `__verbose.tokens` (llama.cpp, `verbose`), else those in the log-probabilities (llama.cpp, `logprobs`).
pub(super) fn read<'a>(mut choice: Choice<'a>, verbose: Verbose<'a>) -> Result<Piece<'a>, Error> {
    if !choice.text.is_given() && choice.delta.content.is_given() {
        return Err(mismatch("openai", "chat"));
    }
    let counted = verbose.tokens_predicted.count();
    Ok(Piece {
        ids: ids_of(&mut choice, verbose)?,
        text: token_text(choice.text)?,
        index: choice.index,
        finish: choice.finish_reason,
        counted,
        ..Piece::default()
    })
}
