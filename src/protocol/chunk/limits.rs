//! The limits on one chunk.

/// The most choices that one stream can be decoded for, whatever
/// [`max_choices`](super::decoder::ChunkDecoder::max_choices) asks for: state is kept for each.
pub const MAX_CHOICES: u32 = 128;

/// How deep lists and objects may stand inside of each other in one event; deeper is
/// [`Limit::Nesting`](crate::Limit::Nesting). Chunks of real servers have up to eight levels.
pub const MAX_NESTING: usize = 128;

/// The most token ids in one list of a chunk; more are [`Limit::TokenIds`](crate::Limit::TokenIds). Servers send a few;
/// one that holds ids back sends its whole answer at once.
pub const MAX_TOKEN_IDS: usize = 1 << 20;

/// The most pieces of tool calls in one chunk; more are [`Limit::ToolCalls`](crate::Limit::ToolCalls). Servers send one.
pub const MAX_TOOL_CALLS: usize = 128;

/// Whether valid JSON has more levels than [`MAX_NESTING`].
pub(super) fn nests_too_deep(json: &str) -> bool {
    // Each level has two brackets.
    if json.len() <= 2 * MAX_NESTING {
        return false;
    }
    // Almost no event has so many of them, wherever they stand. Counted in sixteen sums, which the compiler makes SIMD of.
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
            // Only a string has one; what follows may be a quote.
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
