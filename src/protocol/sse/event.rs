//! What comes out of the parser.

/// The most that is kept of a stray line ([`Stray`]) or of the data of an unended event
/// ([`SseEnd::unended_data`]), in bytes.
pub const MAX_SSE_STRAY_BYTES: usize = 64 << 10;

/// One event, borrowed from its parser: read it or copy it before the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event<'a> {
    /// The type, `message` by default.
    pub event: &'a str,
    /// The values of the `data` lines, joined with line feeds. Invalid UTF-8 is replaced with U+FFFD as
    /// [`String::from_utf8_lossy`] does.
    pub data: &'a str,
    /// The stream's last event id. It stays until an event changes it; empty before the first.
    pub id: &'a str,
    /// The stream's reconnection time in milliseconds, `None` before the first valid one. More than a `u64`
    /// holds counts as the largest `u64`.
    pub retry: Option<u64>,
}

/// How a stream stood at its end, see [`SseParser::finish`](super::SseParser::finish).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SseEnd {
    /// The last event id, see [`Event::id`]. An `id` in a block that no blank line ended is not in it.
    pub last_event_id: String,
    /// The reconnection time in milliseconds, see [`Event::retry`].
    pub retry: Option<u64>,
    /// The number of comment lines.
    pub comments: u64,
    /// Something was dropped: an unended line, a block with a `data`, `event`, `id` or `retry` field that no
    /// blank line ended, events that were not taken, or everything after an error.
    pub incomplete: bool,
    /// The data of the block that no blank line ended, an unended line included; `None` if it had none or if
    /// it is over [`MAX_SSE_STRAY_BYTES`]. The standard drops it, and it is no event. It is here because
    /// there are servers that forget the blank line after their last `data: [DONE]`.
    pub unended_data: Option<String>,
}

/// A line that the standard has ignored and that is likely a server's error all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stray {
    /// The value of a field named `error`. llama.cpp sent its errors so before autumn 2025.
    ErrorField(String),
    /// A line whose first character (spaces and tabs aside) is `{` or `<`: JSON without `data:`, as Lemonade
    /// sends it, or an HTML page.
    Line(String),
}
