//! The output of the parser.

/// The limit for the text of a stray line and for the data of an unended event, in bytes.
///
/// See [`Stray`] and [`SseEnd::unended_data`]. Longer lines are cut, and longer data is left out.
pub const MAX_SSE_STRAY_BYTES: usize = 64 << 10;

/// An event, borrowed from its parser. Read or copy it before the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event<'a> {
    /// The type, `message` by default.
    pub event: &'a str,
    /// The values of the `data` lines, joined with line feeds.
    ///
    /// Invalid UTF-8 is replaced with U+FFFD, as [`String::from_utf8_lossy`] does.
    pub data: &'a str,
    /// The last event id of the stream. It stays until an event changes it, and is empty at first.
    pub id: &'a str,
    /// The reconnection time of the stream in milliseconds. `None` before the first valid one.
    ///
    /// A number that does not fit into a `u64` counts as the largest `u64`.
    pub retry: Option<u64>,
}

/// The state of a stream at its end, see [`SseParser::finish`](super::SseParser::finish).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SseEnd {
    /// The last event id, see [`Event::id`].
    ///
    /// It does not include an `id` in a block that no blank line ended.
    pub last_event_id: String,
    /// The reconnection time in milliseconds, see [`Event::retry`].
    pub retry: Option<u64>,
    /// The number of comment lines.
    pub comments: u64,
    /// Whether something was dropped at the end.
    ///
    /// This is an unended line, a block with a `data`, `event`, `id` or `retry` field that no blank
    /// line ended, events that were not taken, or everything after an error.
    pub incomplete: bool,
    /// The data of the block that no blank line ended, including an unended line.
    ///
    /// `None` if there was no data or more than [`MAX_SSE_STRAY_BYTES`]. By the standard this data
    /// is dropped and is not an event. It is returned because some servers forget the blank line
    /// after their last `data: [DONE]`.
    pub unended_data: Option<String>,
}

/// A line that the standard ignores but that is probably an error from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stray {
    /// The value of a field named `error`.
    ///
    /// llama.cpp sent its errors in this form before autumn 2025.
    ErrorField(String),
    /// A line that begins with `{` or `<`, after any spaces and tabs.
    ///
    /// This is JSON without `data:`, as Lemonade sends it, or an HTML page.
    Line(String),
}
