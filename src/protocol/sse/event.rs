//! The types that the parser returns.

/// The maximum size of a stray line's text and of an unended event's data, in bytes.
///
/// See [`Stray`] and [`SseEnd::unended_data`]. Longer lines are cut, and longer data is left out.
pub const MAX_SSE_STRAY_BYTES: usize = 64 << 10;

/// An event, borrowed from its parser. Read or copy the event before you call the parser again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event<'a> {
    /// The event's type. Default: `message`.
    pub event: &'a str,
    /// The values of the `data` lines, joined with line feeds.
    ///
    /// Invalid UTF-8 is replaced with U+FFFD, as [`String::from_utf8_lossy`] does.
    pub data: &'a str,
    /// The last event id of the stream. Empty until the first `id` field.
    ///
    /// An event without an `id` field keeps the last id.
    pub id: &'a str,
    /// The reconnection time of the stream in milliseconds. `None` until a valid time arrives.
    ///
    /// A number that does not fit into a `u64` becomes `u64::MAX`.
    pub retry: Option<u64>,
}

/// The state of a stream at its end, see [`SseParser::finish`](super::SseParser::finish).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SseEnd {
    /// The last event id, see [`Event::id`].
    ///
    /// An `id` field does not count if the body ended before the next blank line.
    pub last_event_id: String,
    /// The reconnection time in milliseconds, see [`Event::retry`].
    pub retry: Option<u64>,
    /// The number of comment lines.
    pub comments: u64,
    /// Whether something was dropped at the end.
    ///
    /// The parser drops a line without a line end, events that were not taken, and everything after
    /// an error. It also drops a block with a `data`, `event`, `id` or `retry` field if no blank
    /// line ended the block.
    pub incomplete: bool,
    /// The data of the last block, if no blank line ended it. A line without a line end counts.
    ///
    /// `None` if there was no data or more than [`MAX_SSE_STRAY_BYTES`]. By the standard, such data
    /// is not an event and is dropped. This field contains the data because some servers forget the
    /// blank line after their last `data: [DONE]`.
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
    /// The line is JSON without `data:` (as Lemonade sends it) or part of an HTML page.
    Line(String),
}
