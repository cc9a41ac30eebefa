//! Where a raw value ends, and where a tag does: for calls whose arguments stand as plain text between tags.

use std::ops::Range;

use super::marker::{List, Marker};
use super::view::{Found, Match, View};

/// What ends a raw value, or shows that it will have no end.
#[derive(Debug)]
pub(super) struct RawForm {
    /// The value's closing tag.
    end: Marker,
    /// The end of the call.
    call_end: Marker,
    /// What may follow the end of the call: what belongs to it, or the openers and ends of calls, of their region and of
    /// the turn.
    next: List,
    /// All of these.
    all: List,
}

impl RawForm {
    pub(super) fn new(end: Marker, call_end: Marker, next: List) -> Self {
        let all = next.and([&end, &call_end]);
        Self { end, call_end, next, all }
    }
}

/// Looks for the end of a raw value: its first closing tag.
///
/// A missing one must not make it swallow the calls behind, and yet a value may well speak of the end of a call. So
/// that end bounds the search (rule R10 of docs/parsing-rules.md) if it is a real marker, if what comes next is what may follow it, or if an
/// opener or the end of the turn comes before any closing tag.
#[derive(Debug)]
pub(super) struct RawScan {
    start: usize,
    at: usize,
    /// The first end of the call in it.
    call_end: Option<usize>,
}

#[derive(Debug)]
pub(super) enum RawEnd {
    More,
    /// The value, and the place behind its closing tag.
    Value(Range<usize>, usize),
    /// It has none: here the call ends, or what comes behind it begins.
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
                    // A real marker is structure even in a value (rule R10 of docs/parsing-rules.md).
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

/// Looks for the end of a tag, in which nothing else begins.
#[derive(Debug)]
pub(super) struct TagScan {
    start: usize,
    at: usize,
}

#[derive(Debug)]
pub(super) enum TagEnd<'a> {
    More,
    /// What stands in the tag, and the place behind it.
    Text(&'a str, usize),
    /// Something else begins here.
    Missing(usize),
}

impl TagScan {
    /// `start` is the place after the tag's name.
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
