//! Where a raw value ends, and where a tag does: for calls whose arguments stand as plain text between tags.

use std::ops::Range;

use super::machine::Markers;
use super::view::{Found, Here, View};

/// What ends a raw value, or shows that it will have no end.
#[derive(Debug)]
pub(super) struct RawForm {
    /// The value's closing tag.
    pub(super) end: &'static str,
    /// The end of the call, and what belongs to that or is empty.
    pub(super) call_end: &'static str,
    pub(super) tail: &'static str,
    /// What may come after it: the openers and ends of calls, of their region and of the turn.
    pub(super) stops: &'static [&'static str],
}

/// Looks for the end of a raw value: its first closing tag.
///
/// A missing one must not make it swallow the calls behind, and yet a value may well speak of the end of a call. So
/// that end bounds the search (rule R10 of docs/parsing-rules.md) if it is a real marker, if what comes next is what may
/// follow it, or if an opener or the end of the turn comes before any closing tag.
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
        let look = Markers::new(&[&[form.end, form.call_end, form.tail], form.stops]);
        loop {
            match view.find(look.as_slice(), self.at) {
                Found::At(at, marker) if marker == form.end => {
                    // A real marker is structure even in a value (rule R10 of docs/parsing-rules.md).
                    let real = view.next_real(self.start).filter(|real| real.start < at);
                    return match real {
                        Some(real) => RawEnd::Missing(real.start),
                        None => RawEnd::Value(self.start..at, at + marker.len()),
                    };
                }
                Found::At(at, marker) if marker == form.call_end => {
                    let next = view.skip_blank(at + marker.len());
                    match view.any_here(next, Markers::new(&[&[form.tail], form.stops]).as_slice()) {
                        _ if view.holds_real(at, marker) => return RawEnd::Missing(at),
                        Here::Yes => return RawEnd::Missing(self.call_end.unwrap_or(at)),
                        Here::NotYet => {
                            self.at = at;
                            return RawEnd::More;
                        }
                        Here::No => {
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

    pub(super) fn step<'a>(&mut self, view: &View<'a>, end: &'static str) -> TagEnd<'a> {
        let first = end.as_bytes().first().copied();
        let rest = &view.bytes()[self.at..];
        let Some(len) = rest.iter().position(|byte| *byte == b'<' || Some(*byte) == first) else {
            self.at = view.text.len();
            return TagEnd::More;
        };
        self.at += len;
        match view.here(self.at, end) {
            Here::Yes => TagEnd::Text(&view.text[self.start..self.at], self.at + end.len()),
            Here::No if !view.is_cut_short(self.at, &[end]) => TagEnd::Missing(self.at),
            Here::NotYet | Here::No => TagEnd::More,
        }
    }
}
