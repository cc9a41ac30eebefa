//! What a dialect is made of: its markers, and what reads each region of calls.

use std::fmt;
use std::sync::Arc;

use super::machine::Machine;
use super::marker::{List, Marker, Reasoning};

/// A dialect's table.
#[derive(Default)]
pub(super) struct Table {
    pub(super) name: Marker,
    pub(super) reasoning: Option<Arc<Reasoning>>,
    pub(super) calls: Vec<Region>,
    /// Structure without a meaning of its own: frames around lists of calls or around content.
    pub(super) frames: List,
    /// Ends of the turn.
    pub(super) ends: List,
    /// Markers within the bodies of calls, so that their tokens are known.
    pub(super) inner: List,
    /// Reads a turn from its beginning, where calls need no opener (rule R8 of docs/parsing-rules.md).
    pub(super) bare: Option<Body>,
    /// The added tokens that identify this dialect when a model has all of them. Empty: no tokens identify it.
    pub(super) signs: List,
    /// What chat templates tell the model to write, for dialects that have the same tokens as another; else empty.
    pub(super) in_template: Marker,
}

/// A region of calls: its opener, and what reads the text after it.
pub(super) struct Region {
    pub(super) open: Marker,
    pub(super) body: Body,
}

/// Makes a machine for a region. Its arguments are the place of the opener and the place after it.
pub(super) type Body = Arc<dyn Fn(usize, usize) -> Box<dyn Machine> + Send + Sync>;

impl Table {
    /// The markers that end content or open a region: those of reasoning come first, then calls and frames, then ends.
    pub(super) fn content_markers(&self) -> Vec<Marker> {
        let reasoning = self.reasoning.iter().flat_map(|reasoning| [&reasoning.open, &reasoning.close]);
        reasoning.chain(self.openers()).chain(&*self.ends).cloned().collect()
    }

    /// What opens calls and frames.
    pub(super) fn openers(&self) -> impl Iterator<Item = &Marker> {
        self.calls.iter().map(|call| &call.open).chain(&*self.frames)
    }

    /// The region whose opener this is.
    pub(super) fn region(&self, open: &str) -> Option<&Region> {
        self.calls.iter().find(|call| *call.open == *open)
    }

    /// All markers, each once.
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

    /// Whether this dialect's signs include all of the other's and more. Dialects that chat templates tell apart are not
    /// compared: for them, more tokens mean nothing.
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
