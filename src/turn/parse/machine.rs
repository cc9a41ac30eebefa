//! What the bodies of calls are read by: small machines, one for each way of writing them.
//!
//! A machine is made when the opener of its region has been found. It is asked for its next step as often as
//! text comes, sees the whole turn so far, and remembers where it was, so that no text is looked at more than a
//! few times. What it says must follow from the text alone, never from where the text was cut: if what is there
//! could still become something else, it waits.

use std::sync::Arc;

use serde_json::Value;

use super::marker::{List, Marker, Reasoning};
use super::view::{Found, Match, RegionEnd, View};
use crate::types::tree::Malformed;

/// Reads one region: all from its opener on, up to where ordinary text goes on.
pub(super) trait Machine: std::fmt::Debug + Send {
    /// Goes from one state to the next. Returns the step that this takes, if any.
    fn advance(&mut self, view: &View<'_>) -> Option<Step>;

    /// What can be said of the text from the last step's end on. At the end of the turn
    /// ([`View::end`]) `Wait` means that the rest is an unfinished call.
    fn step(&mut self, view: &View<'_>) -> Step {
        loop {
            if let Some(step) = self.advance(view) {
                return step;
            }
        }
    }
}

/// What a machine says. `until` is a place in the turn, at or after the last one.
#[derive(Debug)]
pub(super) enum Step {
    /// More text is needed.
    Wait,
    /// The text up to `until` is a leaf, and the region goes on.
    Leaf { until: usize, leaf: RawLeaf },
    /// The text up to `until` is a leaf (nothing, if `until` is the last one), and what follows is as `then`
    /// says.
    Leave { until: usize, leaf: RawLeaf, then: Then },
}

/// What follows a region.
#[derive(Debug)]
pub(super) enum Then {
    Content,
    /// Reasoning, whose opener was the region.
    Reasoning(Arc<Reasoning>),
}

/// A part of a region, before it is a leaf of the turn.
#[derive(Debug)]
pub(super) enum RawLeaf {
    Call(RawCall),
    Malformed(Malformed),
    /// It was no call at all.
    Content,
    Marker,
}

/// A call before it has its place in the turn.
#[derive(Debug)]
pub(super) struct RawCall {
    /// The id on the wire, if the format carries one.
    pub(super) id: Option<String>,
    pub(super) name: String,
    pub(super) arguments: Value,
    pub(super) raw: String,
}

impl Step {
    /// Ordinary text goes on after `until`.
    pub(super) fn leave(until: usize, leaf: RawLeaf) -> Self {
        Self::Leave { until, leaf, then: Then::Content }
    }
}

/// The markers that end a region in which nothing can be read.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// The region's own end; empty if the format has none.
    pub(super) close: Marker,
    /// Openers and ends of the turn: they show that the region is over though its end is missing.
    pub(super) stops: List,
    both: List,
}

impl Bounds {
    pub(super) fn new(close: Marker, stops: List) -> Self {
        let both = [&close].into_iter().chain(&*stops).cloned().collect();
        Self { close, stops, both }
    }

    /// Whether a bound is at `at`.
    pub(super) fn here(&self, view: &View<'_>, at: usize) -> Match {
        view.any_here(at, &self.both)
    }

    fn find(&self, view: &View<'_>, from: usize) -> Bound {
        match view.find(&self.both, from) {
            Found::At(at, marker) if *marker == *self.close => Bound::Close(at + marker.len()),
            Found::At(at, _) => Bound::Stop(at),
            Found::Until(at) => Bound::None(at),
        }
    }
}

enum Bound {
    /// The end marker, and here is the place after it.
    Close(usize),
    Stop(usize),
    /// Neither, up to here.
    None(usize),
}

/// Looks for the end of a region that is no call, or is a broken one.
#[derive(Debug)]
pub(super) struct Recovery {
    /// After the opener.
    body: usize,
    at: usize,
    /// `None`: nothing of a call has been seen, so the opener may have been spelled in prose.
    reason: Option<Malformed>,
}

impl Recovery {
    /// The first character after the opener begins no call.
    pub(super) fn suspect(body: usize) -> Self {
        Self { body, at: body, reason: None }
    }

    /// It is a call, and it does not parse.
    pub(super) fn broken(body: usize, reason: Malformed) -> Self {
        Self { body, at: body, reason: Some(reason) }
    }

    /// A region with its end is a malformed call. Without it, one that looks like a call is so up to the next
    /// region, and what was only suspected is ordinary text.
    pub(super) fn step(&mut self, view: &View<'_>, bounds: &Bounds) -> Step {
        if self.reason.is_none() && bounds.close.is_empty() {
            return Step::leave(self.body, RawLeaf::Content);
        }
        let reason = self.reason.unwrap_or(Malformed::Syntax);
        // What has its end marker is not unfinished.
        let closed = if reason == Malformed::Unfinished { Malformed::Syntax } else { reason };
        match bounds.find(view, self.at) {
            Bound::Close(after) => Step::leave(after, RawLeaf::Malformed(closed)),
            Bound::Stop(at) if self.reason.is_some() => {
                // At the end of the turn: whatever is wrong with it, it was never closed.
                let ended = view.any_here(at, view.ends) == Match::Yes;
                let reason = if ended { Malformed::Unfinished } else { reason };
                Step::leave(at, RawLeaf::Malformed(reason))
            }
            Bound::Stop(_) => Step::leave(self.body, RawLeaf::Content),
            Bound::None(at) => {
                self.at = at;
                match (view.end, self.reason) {
                    (None, _) => Step::Wait,
                    (Some(_), Some(_)) => {
                        Step::leave(view.text.len(), RawLeaf::Malformed(Malformed::Unfinished))
                    }
                    (Some(_), None) => Step::leave(self.body, RawLeaf::Content),
                }
            }
        }
    }

    /// Up to here the region goes on.
    pub(super) fn clear_to(&self) -> usize {
        self.at
    }
}

/// After the body of a call: its end, or what shows that it will not come.
#[derive(Debug)]
pub(super) struct CallEnd {
    /// The body's end.
    body_end: usize,
    at: usize,
    /// There is other text before the end.
    garbage: bool,
}

/// How a call whose body is complete has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    NotYet,
    /// Up to here, with its end marker.
    Closed(usize),
    /// Up to here, its end marker missing: another region follows, or the turn has ended cleanly.
    Unclosed(usize),
    /// With other text between its body and its end marker.
    Garbage(usize),
    /// The turn was cut off before the end marker.
    Cut(usize),
}

impl CallEnd {
    pub(super) fn new(body_end: usize) -> Self {
        Self { body_end, at: body_end, garbage: false }
    }

    pub(super) fn body_end(&self) -> usize {
        self.body_end
    }

    pub(super) fn step(&mut self, view: &View<'_>, bounds: &Bounds) -> Ended {
        if bounds.close.is_empty() {
            return Ended::Closed(self.body_end);
        }
        match bounds.find(view, self.at) {
            Bound::Close(after) => {
                let between = &view.text[self.at..after - bounds.close.len()];
                if self.garbage || !between.trim().is_empty() {
                    Ended::Garbage(after)
                } else {
                    Ended::Closed(after)
                }
            }
            Bound::Stop(_) => Ended::Unclosed(self.body_end),
            Bound::None(at) => {
                self.garbage |= !view.text[self.at..at].trim().is_empty();
                self.at = at;
                match view.end {
                    None => Ended::NotYet,
                    Some(RegionEnd::Clean) => {
                        // "A partial closing marker at the end of an open segment belongs to that segment"
                        // (rule R10 of docs/parsing-rules.md).
                        let rest = view.skip_blank(self.body_end);
                        let is_cut = view.is_cut_at(rest, &bounds.close);
                        Ended::Unclosed(if is_cut { view.text.len() } else { self.body_end })
                    }
                    Some(RegionEnd::Cut) => Ended::Cut(view.text.len()),
                }
            }
        }
    }

    /// The same as the step of a machine that has nothing more to read: the call counts if its end was seen, or
    /// if the turn ended cleanly (rules R3 and R10 of docs/parsing-rules.md).
    pub(super) fn leave(&mut self, view: &View<'_>, bounds: &Bounds, call: &mut Option<RawCall>) -> Step {
        let (until, reason) = match self.step(view, bounds) {
            Ended::NotYet => return Step::Wait,
            Ended::Closed(until) | Ended::Unclosed(until) => match call.take() {
                Some(call) => return Step::leave(until, RawLeaf::Call(call)),
                None => return Step::leave(until, RawLeaf::Marker),
            },
            Ended::Garbage(until) => (until, Malformed::Syntax),
            Ended::Cut(until) => (until, Malformed::Unfinished),
        };
        Step::leave(until, RawLeaf::Malformed(reason))
    }
}

/// After the calls of a region, which are handed out: its end marker is a leaf with what is left before it, if it
/// comes next.
pub(super) fn leave_at_marker(view: &View<'_>, end: usize, close: &str) -> Step {
    let at = view.skip_blank(end);
    if close.is_empty() {
        return Step::leave(end, RawLeaf::Marker);
    }
    match view.here(at, close) {
        Match::Yes => Step::leave(at + close.len(), RawLeaf::Marker),
        Match::Partial => Step::Wait,
        Match::No if view.is_cut_at(at, close) => Step::leave(view.text.len(), RawLeaf::Marker),
        Match::No => Step::leave(end, RawLeaf::Marker),
    }
}

/// Whether [`leave_at_marker`] would wait for the end marker at `at`, or find it or a part of it there.
pub(super) fn may_end(view: &View<'_>, at: usize, close: &str) -> bool {
    !close.is_empty() && (view.here(at, close) != Match::No || view.is_cut_at(at, close))
}
