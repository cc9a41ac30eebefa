//! Finds the end of raw values and of tags.
//!
//! A value is *raw* if it is plain text between two tags.

use std::ops::Range;

use super::marker::{List, Marker};
use super::view::{Found, Match, View};

/// The markers that end a raw value, or that show that its closing tag is missing.
#[derive(Debug)]
pub(super) struct RawForm {
    /// The closing tag of the value.
    end: Marker,
    /// The end marker of the call.
    call_end: Marker,
    /// The markers that may follow the end of the call.
    ///
    /// The list contains the tail of the call, and the markers that open or end calls, regions and
    /// the turn.
    next: List,
    /// All markers in the other fields.
    all: List,
}

impl RawForm {
    pub(super) fn new(end: Marker, call_end: Marker, next: List) -> Self {
        let all = next.and([&end, &call_end]);
        Self { end, call_end, next, all }
    }
}

/// Finds the end of a raw value, which is normally its first closing tag.
///
/// If the closing tag is missing, the value must not include the calls after it. The search
/// therefore ends at the end marker of the call. However, a value may mention this marker in its
/// text. The marker ends the search only in one of these cases (R10 in docs/parsing-rules.md):
///
/// - The marker is real.
/// - A marker that may follow the end of a call comes next.
/// - An opener or the end of the turn follows, and no closing tag is between them.
#[derive(Debug)]
pub(super) struct RawScan {
    start: usize,
    at: usize,
    /// The offset of the first end marker of the call in the value.
    call_end: Option<usize>,
}

#[derive(Debug)]
pub(super) enum RawEnd {
    More,
    /// The range of the value, and the offset after its closing tag.
    Value(Range<usize>, usize),
    /// The value has no closing tag. At this offset, the call ends or the text after the call
    /// begins.
    Missing(usize),
}

impl RawScan {
    pub(super) fn new(start: usize) -> Self {
        Self { start, at: start, call_end: None }
    }

    pub(super) fn step(&mut self, view: &View<'_>, form: &RawForm) -> RawEnd {
        loop {
            match view.find(&form.all, self.at) {
                Found::At(at, marker) if *marker == *form.end => {
                    // A real marker ends the call, even in a value (R10 in docs/parsing-rules.md).
                    let real = view.next_real(self.start).filter(|real| real.start < at);
                    return match real {
                        Some(real) => RawEnd::Missing(real.start),
                        None => RawEnd::Value(self.start..at, at + marker.len()),
                    };
                }
                Found::At(at, marker) if *marker == *form.call_end => {
                    let next = view.skip_blank(at + marker.len());
                    match view.any_here(next, &form.next) {
                        _ if view.holds_real(at, marker) => return RawEnd::Missing(at),
                        Match::Yes => return RawEnd::Missing(self.call_end.unwrap_or(at)),
                        Match::Partial => {
                            self.at = at;
                            return RawEnd::More;
                        }
                        Match::No => {
                            self.call_end.get_or_insert(at);
                            self.at = at + marker.len();
                        }
                    }
                }
                Found::At(at, marker) => {
                    if self.call_end.is_some() || view.holds_real(at, marker) {
                        return RawEnd::Missing(self.call_end.unwrap_or(at));
                    }
                    self.at = at + marker.len();
                }
                Found::Until(at) => {
                    self.at = at;
                    return match self.call_end {
                        Some(call_end) if view.end.is_some() => RawEnd::Missing(call_end),
                        _ => RawEnd::More,
                    };
                }
            }
        }
    }
}

/// Finds the end of a tag. A tag must not contain another marker or tag.
#[derive(Debug)]
pub(super) struct TagScan {
    start: usize,
    at: usize,
}

#[derive(Debug)]
pub(super) enum TagEnd<'a> {
    More,
    /// The text inside the tag, and the offset after the tag.
    Text(&'a str, usize),
    /// The tag has no end, because another marker or tag begins at this offset.
    Missing(usize),
}

impl TagScan {
    /// Creates a scan. `start` is the offset after the name of the tag.
    pub(super) fn new(start: usize) -> Self {
        Self { start, at: start }
    }

    pub(super) fn step<'a>(&mut self, view: &View<'a>, end: &str) -> TagEnd<'a> {
        let first = end.as_bytes().first().copied();
        let rest = &view.bytes()[self.at..];
        let Some(len) = rest.iter().position(|byte| *byte == b'<' || Some(*byte) == first) else {
            self.at = view.text.len();
            return TagEnd::More;
        };
        self.at += len;
        match view.here(self.at, end) {
            Match::Yes => TagEnd::Text(&view.text[self.start..self.at], self.at + end.len()),
            Match::No if !view.is_cut_short(self.at, &[end]) => TagEnd::Missing(self.at),
            Match::Partial | Match::No => TagEnd::More,
        }
    }
}
