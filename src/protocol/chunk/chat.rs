//! `/v1/chat/completions`.

use std::mem::take;

use super::json::{Choice, Shape, Verbose};
use super::{Piece, ids_of, mismatch, token_text};
use crate::error::{Error, Limit};

/// Reasoning, content and tool calls stand apart in the delta; `reasoning` and `reasoning_content` are two names
/// for the same text. The ids stand where completions have them.
pub(super) fn read<'a>(choice: &mut Choice<'a>, verbose: Verbose<'a>) -> Result<Piece<'a>, Error> {
    if choice.delta.shape == Shape::Odd {
        return Err(Error::protocol("a chunk's delta is no object"));
    }
    if choice.delta.shape == Shape::Missing && choice.text.text().is_some_and(|text| !text.is_empty()) {
        return Err(mismatch("chat", "openai"));
    }
    let counted = verbose.tokens_predicted.count();
    let ids = ids_of(choice, verbose)?;
    let mut reasoning = token_text(take(&mut choice.delta.reasoning))?;
    if reasoning.is_empty() {
        reasoning = token_text(take(&mut choice.delta.reasoning_content))?;
    }
    let calls = take(&mut choice.delta.tool_calls);
    match calls.shape {
        Shape::Odd => return Err(Error::protocol("the tool calls of a chunk are no list")),
        Shape::Long => return Err(Error::limit(Limit::ToolCalls, super::MAX_TOOL_CALLS as u64)),
        Shape::Missing | Shape::Null | Shape::Given => {}
    }
    Ok(Piece {
        index: take(&mut choice.index),
        reasoning,
        text: token_text(take(&mut choice.delta.content))?,
        calls,
        ids,
        finish: take(&mut choice.finish_reason),
        counted,
    })
}
