//! Defines the machines that read the bodies of calls, one for each way to write calls.
//!
//! The engine creates a machine when it finds the opener of a region, and requests the next step
//! whenever text arrives. A machine can read the whole turn so far. It stores its position, so that
//! it reads each part of the text only a few times.
//!
//! A step must depend on the text alone, never on where the text was cut. If the text could still
//! become something else, the machine waits.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::marker::{List, Marker, Reasoning};
use super::view::{Found, Match, RegionEnd, View};
use crate::types::tree::Malformed;

/// Reads one region, from its opener to the point where ordinary text continues.
pub(super) trait Machine: std::fmt::Debug + Send {
    /// Changes to the next state. Returns a step if this change produces one.
    fn advance(&mut self, view: &View<'_>) -> Option<Step>;

    /// Returns the step for the text after the last step.
    ///
    /// At the end of the turn ([`View::end`]), `Wait` means that the rest is an unfinished call.
    fn step(&mut self, view: &View<'_>) -> Step {
        loop {
            if let Some(step) = self.advance(view) {
                return step;
            }
        }
    }
}

/// The result of one step. `until` is an offset in the turn that never decreases.
#[derive(Debug)]
pub(super) enum Step {
    /// More text is needed.
    Wait,
    /// The text up to `until` is a leaf, and the region continues.
    Leaf { until: usize, leaf: RawLeaf },
    /// The text up to `until` is a leaf, and the region ends there.
    ///
    /// The step adds no leaf if `until` is the previous one. `then` is the kind of text that
    /// follows.
    Leave { until: usize, leaf: RawLeaf, then: Then },
}

/// The kind of text that follows a region.
#[derive(Debug)]
pub(super) enum Then {
    Content,
    /// Reasoning. The region was its opener.
    Reasoning(Arc<Reasoning>),
}

/// A part of a region, before it becomes a leaf of the turn.
#[derive(Debug)]
pub(super) enum RawLeaf {
    Call(RawCall),
    Malformed(Malformed),
    /// Ordinary text, because the region was not a call.
    Content,
    Marker,
}

/// A call that does not have a position in the turn yet.
#[derive(Debug)]
pub(super) struct RawCall {
    /// The id that the model wrote, if the format has ids.
    pub(super) id: Option<String>,
    pub(super) name: String,
    pub(super) arguments: Value,
    pub(super) raw: String,
}

/// A call whose arguments are written one by one.
#[derive(Debug, Default)]
pub(super) struct OpenCall {
    pub(super) name: String,
    pub(super) arguments: Map<String, Value>,
    /// The offset where the arguments begin.
    pub(super) raw: usize,
}

impl OpenCall {
    pub(super) fn new(name: &str, raw: usize) -> Self {
        Self { name: name.to_owned(), arguments: Map::new(), raw }
    }

    /// Ends the call, whose arguments end at `until`.
    pub(super) fn end(&mut self, view: &View<'_>, until: usize) -> RawCall {
        let Self { name, arguments, raw } = std::mem::take(self);
        let raw = view.text[raw..until].to_owned();
        RawCall { id: None, name, arguments: arguments.into(), raw }
    }
}

impl Step {
    /// Leaves the region. Ordinary text continues after `until`.
    pub(super) fn leave(until: usize, leaf: RawLeaf) -> Self {
        Self::Leave { until, leaf, then: Then::Content }
    }

    pub(super) fn content(until: usize) -> Self {
        Self::leave(until, RawLeaf::Content)
    }

    pub(super) fn marker(until: usize) -> Self {
        Self::leave(until, RawLeaf::Marker)
    }

    pub(super) fn malformed(until: usize, reason: Malformed) -> Self {
        Self::leave(until, RawLeaf::Malformed(reason))
    }
}

/// The markers that end a region, even if the machine cannot read the text in it.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// The end marker of the region. Empty if the format has no end marker.
    pub(super) close: Marker,
    /// The openers and end-of-turn markers, which end a region whose end marker is missing.
    pub(super) stops: List,
    both: List,
}

impl Bounds {
    pub(super) fn new(close: Marker, stops: List) -> Self {
        let both = [&close].into_iter().chain(&*stops).cloned().collect();
        Self { close, stops, both }
    }

    /// Returns whether a bound is at `at`.
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
    /// The end marker. The value is the offset after it.
    Close(usize),
    Stop(usize),
    /// No bound begins before this offset.
    None(usize),
}

/// Finds the end of a region that is not a call, or that is a broken call.
#[derive(Debug)]
pub(super) struct Recovery {
    /// The offset after the opener.
    body: usize,
    /// The offset up to which the region continues.
    pub(super) at: usize,
    /// The reason. `None` if the text does not look like a call, so that the opener may be part of
    /// prose.
    reason: Option<Malformed>,
}

impl Recovery {
    /// Starts a recovery after an opener whose next character cannot begin a call.
    pub(super) fn suspect(body: usize) -> Self {
        Self { body, at: body, reason: None }
    }

    /// Starts a recovery in a call that does not parse.
    pub(super) fn broken(body: usize, reason: Malformed) -> Self {
        Self { body, at: body, reason: Some(reason) }
    }

    /// Returns the step for the region.
    ///
    /// A region with an end marker is a malformed call. Without an end marker, a region that looks
    /// like a call is malformed up to the next region. Any other region is ordinary text.
    pub(super) fn step(&mut self, view: &View<'_>, bounds: &Bounds) -> Step {
        if self.reason.is_none() && bounds.close.is_empty() {
            return Step::content(self.body);
        }
        let reason = self.reason.unwrap_or(Malformed::Syntax);
        // A call with an end marker is not unfinished.
        let closed = if reason == Malformed::Unfinished { Malformed::Syntax } else { reason };
        match bounds.find(view, self.at) {
            Bound::Close(after) => Step::malformed(after, closed),
            Bound::Stop(at) if self.reason.is_some() => {
                // At the end of the turn, `Unfinished` replaces any other reason.
                let ended = view.any_here(at, view.ends) == Match::Yes;
                let reason = if ended { Malformed::Unfinished } else { reason };
                Step::malformed(at, reason)
            }
            Bound::Stop(_) => Step::content(self.body),
            Bound::None(at) => {
                self.at = at;
                match (view.end, self.reason) {
                    (None, _) => Step::Wait,
                    (Some(_), Some(_)) => Step::malformed(view.text.len(), Malformed::Unfinished),
                    (Some(_), None) => Step::content(self.body),
                }
            }
        }
    }
}

/// Finds the end marker after the body of a call, or a bound that shows that it is missing.
#[derive(Debug)]
pub(super) struct CallEnd {
    /// The end of the body.
    pub(super) body_end: usize,
    at: usize,
    /// `true` if other text comes before the end marker.
    garbage: bool,
}

impl CallEnd {
    pub(super) fn new(body_end: usize) -> Self {
        Self { body_end, at: body_end, garbage: false }
    }

    /// Returns the step of a machine that has read its whole text.
    ///
    /// The call counts if its end marker was received, if another region follows, or if the turn
    /// ended cleanly (R3 and R10 in docs/parsing-rules.md).
    pub(super) fn leave(&mut self, view: &View<'_>, bounds: &Bounds, call: &mut Option<RawCall>) -> Step {
        let mut ended = |until| Step::leave(until, call.take().map_or(RawLeaf::Marker, RawLeaf::Call));
        if bounds.close.is_empty() {
            return ended(self.body_end);
        }
        match bounds.find(view, self.at) {
            Bound::Close(after) => {
                let between = &view.text[self.at..after - bounds.close.len()];
                let is_blank = !self.garbage && between.trim().is_empty();
                if is_blank { ended(after) } else { Step::malformed(after, Malformed::Syntax) }
            }
            Bound::Stop(_) => ended(self.body_end),
            Bound::None(at) => {
                self.garbage |= !view.text[self.at..at].trim().is_empty();
                self.at = at;
                match view.end {
                    None => Step::Wait,
                    Some(RegionEnd::Clean) => {
                        // The beginning of a closing marker at the end of an open segment belongs
                        // to that segment (R10 in docs/parsing-rules.md).
                        let rest = view.skip_blank(self.body_end);
                        let is_cut = view.is_cut_at(rest, &bounds.close);
                        ended(if is_cut { view.text.len() } else { self.body_end })
                    }
                    Some(RegionEnd::Cut) => Step::malformed(view.text.len(), Malformed::Unfinished),
                }
            }
        }
    }
}

/// Leaves a region whose calls were already returned.
///
/// If the end marker comes next, it becomes a leaf, together with the text before it.
pub(super) fn leave_at_marker(view: &View<'_>, end: usize, close: &str) -> Step {
    let at = view.skip_blank(end);
    if close.is_empty() {
        return Step::marker(end);
    }
    match view.here(at, close) {
        Match::Yes => Step::marker(at + close.len()),
        Match::Partial => Step::Wait,
        Match::No if view.is_cut_at(at, close) => Step::marker(view.text.len()),
        Match::No => Step::marker(end),
    }
}

/// Returns whether [`leave_at_marker`] at `at` would find a part of the end marker, or would wait.
pub(super) fn may_end(view: &View<'_>, at: usize, close: &str) -> bool {
    !close.is_empty() && (view.here(at, close) != Match::No || view.is_cut_at(at, close))
}
