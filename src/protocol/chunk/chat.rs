//! The chat endpoint, `/v1/chat/completions`.

use std::mem::take;

use super::delta::{ChoiceDelta, ids_of, mismatch, token_text};
use super::json::{Choice, Verbose};
use super::value::Presence;
use crate::error::{Error, Limit};

/// Reads a choice. Its delta has separate fields for reasoning, content and tool calls.
///
/// `reasoning` and `reasoning_content` are two names for the same text. The ids are in the same
/// fields as on the completions endpoint.
pub(super) fn read<'a>(choice: &mut Choice<'a>, verbose: Verbose<'a>) -> Result<ChoiceDelta<'a>, Error> {
    if choice.delta.presence == Presence::WrongType {
        return Err(Error::protocol("the delta of a chunk is not an object"));
    }
    if choice.delta.presence == Presence::Missing && choice.text.text().is_some_and(|text| !text.is_empty()) {
        return Err(mismatch("chat", "openai"));
    }
    let counted = verbose.tokens_predicted.count();
    let ids = ids_of(choice, verbose)?;
    let mut reasoning = token_text(take(&mut choice.delta.reasoning))?;
    if reasoning.is_empty() {
        reasoning = token_text(take(&mut choice.delta.reasoning_content))?;
    }
    let calls = take(&mut choice.delta.tool_calls);
    calls.check("tool calls", Limit::ToolCalls)?;
    Ok(ChoiceDelta {
        index: take(&mut choice.index),
        reasoning,
        text: token_text(take(&mut choice.delta.content))?,
        calls,
        ids,
        finish: take(&mut choice.finish_reason),
        counted,
    })
}
