//! Defines the trait of the machines that read calls. There is one machine for each way to write
//! calls.
//!
//! The engine creates a machine when it finds the opener of a region. Whenever text arrives, the
//! engine requests the next step of the machine. A machine has access to the whole turn so far. It
//! stores its position, so that it reads each part of the text only a few times.
//!
//! A step must depend only on the text, and not on where the text was cut into tokens. If more text
//! could change the meaning of the text, the machine waits.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::marker::{List, Marker, Reasoning};
use super::view::{Found, Match, RegionEnd, View};
use crate::types::tree::Malformed;

/// Reads one region, from its opener to the point where ordinary text continues.
pub(super) trait Machine: std::fmt::Debug + Send {
    /// Changes to the next state of the machine. Returns a step if the engine must act on the
    /// change.
    fn advance(&mut self, view: &View<'_>) -> Option<Step>;

    /// Returns the next step, which begins at the end of the previous step.
    ///
    /// If the turn has ended ([`View::end`]), `Wait` means that the remaining text is an unfinished
    /// call.
    fn step(&mut self, view: &View<'_>) -> Step {
        loop {
            if let Some(step) = self.advance(view) {
                return step;
            }
        }
    }
}

/// The result of one step.
///
/// `until` is an offset in the turn. It never decreases from one step to the next.
#[derive(Debug)]
pub(super) enum Step {
    /// More text is needed.
    Wait,
    /// The text up to `until` is a leaf, and the region continues.
    Leaf { until: usize, leaf: RawLeaf },
    /// The text up to `until` is a leaf, and the region ends at `until`.
    ///
    /// The step adds no leaf if `until` equals the `until` of the previous step. `then` is the kind
    /// of text that follows the region.
    Leave { until: usize, leaf: RawLeaf, then: Then },
}

/// The kind of text that follows a region.
#[derive(Debug)]
pub(super) enum Then {
    Content,
    /// Reasoning. The region was the opener of the reasoning.
    Reasoning(Arc<Reasoning>),
}

/// The kind of a leaf, for a part of a region that does not belong to the turn yet.
#[derive(Debug)]
pub(super) enum RawLeaf {
    Call(RawCall),
    Malformed(Malformed),
    /// Ordinary text, because the region was not a call.
    Content,
    Marker,
}

/// A call whose position in the turn is not set yet.
#[derive(Debug)]
pub(super) struct RawCall {
    /// The id that the model wrote, if the format has ids.
    pub(super) id: Option<String>,
    pub(super) name: String,
    pub(super) arguments: Value,
    pub(super) raw: String,
}

/// A call in a format with a separate tag or key for each argument.
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

    /// Returns the complete call. Its arguments end at `until`.
    pub(super) fn end(&mut self, view: &View<'_>, until: usize) -> RawCall {
        let Self { name, arguments, raw } = std::mem::take(self);
        let raw = view.text[raw..until].to_owned();
        RawCall { id: None, name, arguments: arguments.into(), raw }
    }
}

impl Step {
    /// Creates a step that leaves the region. Ordinary text continues after `until`.
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

/// The markers that end a region, even if the machine cannot read the text in the region.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// The end marker of the region. It is empty if the format has no end marker.
    pub(super) close: Marker,
    /// The openers and end-of-turn markers that end the region if its end marker is missing.
    pub(super) stops: List,
    both: List,
}

impl Bounds {
    pub(super) fn new(close: Marker, stops: List) -> Self {
        let both = [&close].into_iter().chain(&*stops).cloned().collect();
        Self { close, stops, both }
    }

    /// Returns whether the end marker or a stop begins at the offset `at`.
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
    /// The end marker. The field is the offset after this marker.
    Close(usize),
    Stop(usize),
    /// Neither the end marker nor a stop begins before this offset.
    None(usize),
}

/// Finds the end of a region that cannot be read as calls.
///
/// Such a region contains no call or a broken call.
#[derive(Debug)]
pub(super) struct Recovery {
    /// The offset after the opener.
    body: usize,
    /// The search for the end of the region continues at this offset.
    pub(super) at: usize,
    /// The reason why the call is malformed.
    ///
    /// `None` if the text does not look like a call. The opener may then be part of prose.
    reason: Option<Malformed>,
}

impl Recovery {
    /// Starts a recovery after an opener whose next character cannot begin a call.
    pub(super) fn suspect(body: usize) -> Self {
        Self { body, at: body, reason: None }
    }

    /// Starts a recovery in a call that cannot be parsed.
    pub(super) fn broken(body: usize, reason: Malformed) -> Self {
        Self { body, at: body, reason: Some(reason) }
    }

    /// Returns the next step for the region.
    ///
    /// If the region has an end marker, it becomes a malformed call. A region without an end marker
    /// becomes a malformed call if it looks like a call. This malformed call ends at the next
    /// region. Any other region is ordinary text.
    pub(super) fn step(&mut self, view: &View<'_>, bounds: &Bounds) -> Step {
        if self.reason.is_none() && bounds.close.is_empty() {
            return Step::content(self.body);
        }
        let reason = self.reason.unwrap_or(Malformed::Syntax);
        // If the call has an end marker, the reason cannot be `Unfinished`.
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

/// Finds the end marker after the body of a call.
///
/// The search ends at a stop if the end marker is missing.
#[derive(Debug)]
pub(super) struct CallEnd {
    /// The end of the body.
    pub(super) body_end: usize,
    at: usize,
    /// `true` if other text was found between the body and the end marker.
    garbage: bool,
}

impl CallEnd {
    pub(super) fn new(body_end: usize) -> Self {
        Self { body_end, at: body_end, garbage: false }
    }

    /// Returns the last step of a machine that has read the whole body.
    ///
    /// The call is returned if its end marker was received, if another region follows, or if the
    /// turn ended cleanly (R3 and R10 in docs/parsing-rules.md).
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
                        // If the turn ends inside the end marker, the received part of the marker
                        // belongs to the call (R10 in docs/parsing-rules.md).
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

/// Returns the step that leaves a region whose calls were already returned.
///
/// If the end marker comes next, it becomes a leaf, together with the text between the last leaf
/// and the end marker.
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

/// Returns whether the end marker, or a part of it, is at `at`.
///
/// [`leave_at_marker`] would then find the marker or wait.
pub(super) fn may_end(view: &View<'_>, at: usize, close: &str) -> bool {
    !close.is_empty() && (view.here(at, close) != Match::No || view.is_cut_at(at, close))
}
