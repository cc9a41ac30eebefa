//! `/v1/chat/completions`.

use super::json::{Choice, Shape, Verbose};
use super::{Piece, ids_of, mismatch, token_text};
use crate::Error;

/// The text is the delta's reasoning and then its content, joined: the two are not told apart here (a later
/// stage does that by the ids of the marks). `reasoning` and `reasoning_content` are two names for the same
/// text. Pieces of tool calls bring ids, but no text. The ids stand where completions have them.
pub(super) fn read<'a>(mut choice: Choice<'a>, verbose: Verbose<'a>) -> Result<Piece<'a>, Error> {
    if choice.delta.shape == Shape::Odd {
        return Err(Error::protocol("a chunk's delta is no object"));
    }
    if choice.delta.shape == Shape::Missing && choice.text.text().is_some_and(|text| !text.is_empty()) {
        return Err(mismatch("chat", "openai"));
    }
    let counted = verbose.tokens_predicted.count();
    let ids = ids_of(&mut choice, verbose)?;
    let mut text = token_text(choice.delta.reasoning)?;
    if text.is_empty() {
        text = token_text(choice.delta.reasoning_content)?;
    }
    let content = token_text(choice.delta.content)?;
    if text.is_empty() {
        text = content;
    } else {
        // Appending to borrowed text copies it: only where both are in one chunk.
        text += content;
    }
    Ok(Piece {
        text,
        ids,
        index: choice.index,
        finish: choice.finish_reason,
        counted,
        said_more: choice.delta.tool_calls.is_given(),
    })
}
