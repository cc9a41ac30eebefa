//! Describes a dialect: its markers, and the machines for its regions of calls.

use std::fmt;
use std::sync::Arc;

use super::machine::Machine;
use super::marker::{List, Marker, Reasoning};

/// The compiled form of a dialect.
#[derive(Default)]
pub(super) struct Table {
    pub(super) name: Marker,
    pub(super) reasoning: Option<Arc<Reasoning>>,
    pub(super) calls: Vec<Region>,
    /// The frames: markers around lists of calls or around content. They become marker leaves and
    /// have no other effect.
    pub(super) frames: List,
    /// The markers that end the turn.
    pub(super) ends: List,
    /// The markers inside the bodies of calls. The list is needed to recognize the tokens of these
    /// markers.
    pub(super) inner: List,
    /// The function that creates the machine for calls without an opener (R8 in
    /// docs/parsing-rules.md).
    ///
    /// The machine reads the turn from its beginning.
    pub(super) bare: Option<Body>,
    /// The added tokens that together identify this dialect.
    ///
    /// The dialect fits a model that has all of these tokens.
    ///
    /// If the list is empty, the dialect cannot be identified by tokens.
    pub(super) signs: List,
    /// A text in the chat template that identifies this dialect.
    ///
    /// It distinguishes the dialect from other dialects with the same tokens.
    ///
    /// The text is empty if the dialect does not need it.
    pub(super) in_template: Marker,
}

/// A region of calls: its opener, and the machine for the text after the opener.
pub(super) struct Region {
    pub(super) open: Marker,
    pub(super) body: Body,
}

/// A function that creates the machine for a region.
///
/// Its arguments are the offset of the opener and the offset after the opener.
pub(super) type Body = Arc<dyn Fn(usize, usize) -> Box<dyn Machine> + Send + Sync>;

impl Table {
    /// Returns the markers that end content or open a region.
    ///
    /// The order is: markers of reasoning, openers of calls, frames, and markers that end the turn.
    pub(super) fn content_markers(&self) -> Vec<Marker> {
        let reasoning = self.reasoning.iter().flat_map(|reasoning| [&reasoning.open, &reasoning.close]);
        reasoning.chain(self.openers()).chain(&*self.ends).cloned().collect()
    }

    /// Returns the markers that open calls and frames.
    pub(super) fn openers(&self) -> impl Iterator<Item = &Marker> {
        self.calls.iter().map(|call| &call.open).chain(&*self.frames)
    }

    /// Returns the region with this opener.
    pub(super) fn region(&self, open: &str) -> Option<&Region> {
        self.calls.iter().find(|call| *call.open == *open)
    }

    /// Returns all markers, without duplicates.
    pub(super) fn markers(&self) -> Vec<&str> {
        let reasoning = self.reasoning.iter().flat_map(|reasoning| [&reasoning.open, &reasoning.close]);
        let mut markers: Vec<&str> = Vec::new();
        for marker in reasoning.chain(self.openers()).chain(&*self.ends).chain(&*self.inner) {
            if !markers.contains(&&**marker) {
                markers.push(marker);
            }
        }
        markers
    }

    /// Returns whether this dialect has all signs of the other dialect, and additional signs.
    ///
    /// If the chat template distinguishes both dialects, their signs are not compared. Additional
    /// signs do not matter for such dialects.
    pub(super) fn is_more_specific_than(&self, other: &Self) -> bool {
        let has_all = other.signs.iter().all(|sign| self.signs.contains(sign));
        let by_template = !self.in_template.is_empty() && !other.in_template.is_empty();
        has_all && self.signs.len() > other.signs.len() && !by_template
    }

    pub(super) fn is_in_template(&self, template: &str) -> bool {
        !self.in_template.is_empty() && template.contains(&*self.in_template)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &&*self.name).finish_non_exhaustive()
    }
}
