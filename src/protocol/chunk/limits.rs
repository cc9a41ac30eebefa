//! Limits on one chunk.

/// The maximum number of choices in one stream.
///
/// [`max_choices`](super::decoder::ChunkDecoder::max_choices) cannot exceed this maximum, because
/// the decoder keeps state for each choice.
pub const MAX_CHOICES: u32 = 128;

/// The maximum nesting of lists and objects in one event.
///
/// Deeper JSON ends the stream with [`Limit::Nesting`](crate::Limit::Nesting). The chunks of real
/// servers have up to eight levels.
pub const MAX_NESTING: usize = 128;

/// The maximum number of token ids in one list of a chunk.
///
/// A longer list ends the stream with [`Limit::TokenIds`](crate::Limit::TokenIds). Servers usually
/// send a few ids in a chunk. A server that holds ids back sends all ids of its response at once.
pub const MAX_TOKEN_IDS: usize = 1 << 20;

/// The maximum number of pieces of tool calls in one chunk.
///
/// More pieces end the stream with [`Limit::ToolCalls`](crate::Limit::ToolCalls). Servers usually
/// send one piece in a chunk.
pub const MAX_TOOL_CALLS: usize = 128;

/// Returns whether valid JSON has more levels than [`MAX_NESTING`].
pub(super) fn nests_too_deep(json: &str) -> bool {
    // Each level needs two bytes for its brackets.
    if json.len() <= 2 * MAX_NESTING {
        return false;
    }
    // Almost no event has more opening brackets than the limit, so a count of the brackets is
    // enough. The count has sixteen separate sums, so that the compiler generates SIMD code.
    let mut opens = [0_u8; 16];
    let parts = json.as_bytes().chunks_exact(opens.len());
    let unseen = parts.remainder().len();
    for part in parts {
        opens.iter_mut().zip(part).for_each(|(n, byte)| *n = n.saturating_add(u8::from(byte | 0x20 == b'{')));
    }
    if opens.iter().map(|n| usize::from(*n)).sum::<usize>() + unseen <= MAX_NESTING {
        return false;
    }
    let (mut depth, mut in_string, mut bytes) = (0_usize, false, json.bytes());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            // In valid JSON, only strings contain backslashes. The next byte is skipped, because it
            // may be an escaped quote.
            b'\\' => drop(bytes.next()),
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_NESTING {
            return true;
        }
    }
    false
}
