//! Assembles the tool calls of a chat stream from their pieces.

use serde_json::{Map, Value};

use super::json::CallDelta;
use super::limits::nests_too_deep;
use crate::types::token::StreamToken;
use crate::types::tree::{Malformed, PendingToolCall};

/// The tool calls of one choice. One call is open at a time.
///
/// A piece with a different index begins a new call. Some servers give every call the index 0. For
/// such a server, a piece with a name and a new id begins a new call. No piece is dropped: if a
/// piece belongs to a closed call, it begins a call without a name, which is malformed.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: Option<Draft>,
    /// The number of calls delivered. A call without an id gets an id with this number.
    made: u32,
}

#[derive(Debug, Default)]
struct Draft {
    index: Option<u32>,
    id: String,
    name: String,
    arguments: String,
    /// True if the call was reported as too large. Its later pieces are delivered as they arrive.
    too_large: bool,
}

impl Calls {
    /// Returns whether this piece begins a new call.
    pub(super) fn begins(&self, piece: &CallDelta<'_>) -> bool {
        let Some(open) = &self.open else { return true };
        let index = piece.index.count();
        let id = piece.id.text().unwrap_or_default();
        let is_named = piece.function.name.text().is_some_and(|name| !name.is_empty());
        (index.is_some() && open.index.is_some() && index != open.index)
            || (is_named && !id.is_empty() && !open.id.is_empty() && id != open.id)
    }

    /// Adds a piece to the open call, or begins a new call with the piece.
    ///
    /// Returns the text of a call that is too large to keep.
    pub(super) fn add(&mut self, piece: CallDelta<'_>, max_bytes: usize) -> Option<StreamToken> {
        let draft = self.open.get_or_insert_default();
        draft.index = draft.index.or(piece.index.count());
        // Some servers repeat the id and the name in each piece.
        for (field, value) in [(&mut draft.id, &piece.id), (&mut draft.name, &piece.function.name)] {
            if let (true, Some(text)) = (field.is_empty(), value.text()) {
                text.clone_into(field);
            }
        }
        draft.arguments.push_str(&piece.function.arguments.0);
        let size = draft.id.len() + draft.name.len() + draft.arguments.len();
        draft.too_large |= size > max_bytes;
        (draft.too_large && size > 0).then(|| malformed(draft.take_text(), Malformed::TooLarge))
    }

    /// Closes the open call and returns it.
    ///
    /// `at_token` is the number of tokens before the call. `cut` is true if the response was cut
    /// off.
    pub(super) fn close(&mut self, at_token: u64, cut: bool) -> Option<StreamToken> {
        let mut draft = self.open.take().filter(|draft| !draft.too_large)?;
        if draft.id.is_empty() && draft.name.is_empty() && draft.arguments.is_empty() {
            return None;
        }
        let arguments = match arguments_of(&draft.arguments, cut) {
            _ if draft.name.is_empty() => return Some(malformed(draft.take_text(), Malformed::NoName)),
            Ok(arguments) => arguments,
            Err(reason) => return Some(malformed(draft.take_text(), reason)),
        };
        let number = self.made;
        self.made += 1;
        let Draft { id, name, arguments: raw, .. } = draft;
        let id = if id.is_empty() { format!("call_{number}") } else { id };
        Some(StreamToken::ToolCall(Box::new(PendingToolCall { id, name, arguments, raw, at_token })))
    }
}

impl Draft {
    fn take_text(&mut self) -> String {
        let (name, arguments) = (std::mem::take(&mut self.name), std::mem::take(&mut self.arguments));
        self.id.clear();
        if name.is_empty() || arguments.is_empty() { name + &arguments } else { name + " " + &arguments }
    }
}

fn malformed(text: String, reason: Malformed) -> StreamToken {
    StreamToken::MalformedCall { text, reason }
}

/// Parses the arguments. An empty text means no arguments, unless the response was cut off.
fn arguments_of(raw: &str, cut: bool) -> Result<Value, Malformed> {
    if raw.trim().is_empty() {
        return if cut { Err(Malformed::Unfinished) } else { Ok(Value::Object(Map::new())) };
    }
    match serde_json::from_str(raw) {
        Ok(arguments @ Value::Object(_)) => Ok(arguments),
        _ if nests_too_deep(raw) => Err(Malformed::TooDeep),
        Err(error) if cut && error.is_eof() => Err(Malformed::Unfinished),
        _ => Err(Malformed::Syntax),
    }
}
