//! vLLM's `/inference/v1/generate`: ids in, ids out.

use std::mem::take;

use super::json::{Choice, Verbose};
use super::{Piece, ids_of, token_text};
use crate::error::Error;

/// The ids are `choices[].token_ids`; `text` comes only if the request asked for `"output_mode": "text"`.
pub(super) fn read<'a>(choice: &mut Choice<'a>) -> Result<Piece<'a>, Error> {
    Ok(Piece {
        ids: ids_of(choice, Verbose::default())?,
        text: token_text(take(&mut choice.text))?,
        index: take(&mut choice.index),
        finish: take(&mut choice.finish_reason),
        ..Piece::default()
    })
}
