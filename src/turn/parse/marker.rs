//! Defines the markers of a dialect: the texts that open, close and divide the parts of a turn.
//!
//! Copies of a marker share its text, so they are cheap. The memory is freed together with the
//! dialect.

use std::ops::Deref;
use std::sync::Arc;

use serde::Deserialize;

/// The maximum number of markers in one list of a record.
///
/// The number is limited because a search compares the text with each marker in a list.
const MAX_LIST: usize = 16;

/// A text that has a special meaning in a dialect.
///
/// The text is empty if the format does not have this marker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Marker(Arc<str>);

impl Deref for Marker {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Marker {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Creates a marker that is defined in the code. The checks for records are skipped.
impl From<&str> for Marker {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl TryFrom<String> for Marker {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        match text.bytes().next() {
            None => Err("a marker is empty"),
            // The parser skips white space before markers, so it would not find this marker.
            Some(b' ' | b'\t' | b'\r' | b'\n') => Err("a marker begins with white space"),
            Some(_) => Ok(Self(text.into())),
        }
    }
}

/// A list of markers. A single search finds any of these markers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "Vec<Marker>")]
pub(super) struct List(Arc<[Marker]>);

impl Deref for List {
    type Target = [Marker];

    fn deref(&self) -> &[Marker] {
        &self.0
    }
}

/// Creates a list that is defined in the code.
///
/// Empty markers are left out. The length of the list is not limited.
impl<M: Into<Marker>> FromIterator<M> for List {
    fn from_iter<I: IntoIterator<Item = M>>(markers: I) -> Self {
        Self(markers.into_iter().map(Into::into).filter(|marker| !marker.is_empty()).collect())
    }
}

impl TryFrom<Vec<Marker>> for List {
    type Error = String;

    fn try_from(list: Vec<Marker>) -> Result<Self, String> {
        let n = list.len();
        if n <= MAX_LIST {
            return Ok(Self(list.into()));
        }
        let first = &*list[0];
        Err(format!("expected at most {MAX_LIST} markers in a list, got {n} (the first is {first:?})"))
    }
}

impl List {
    /// Returns a list of these markers, followed by the other markers.
    pub(super) fn and<'a>(&'a self, others: impl IntoIterator<Item = &'a Marker>) -> Self {
        self.iter().chain(others).cloned().collect()
    }
}

/// An opening and a closing tag.
///
/// If the opening tag has attributes, `open` does not include its end.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tag {
    pub(super) open: Marker,
    pub(super) close: Marker,
}

/// The markers around reasoning.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reasoning {
    pub(super) open: Marker,
    pub(super) close: Marker,
    /// The label: a word directly after the opener that is not part of the reasoning.
    pub(super) label: Option<Marker>,
    /// The frames that begin an answer. Such a frame ends reasoning that was never closed.
    #[serde(default)]
    pub(super) answer: List,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_made_in_code_leaves_out_empty_markers() {
        let (close, none) = (Marker::from("</call>"), Marker::default());
        let list: List = ["<call>", ""].into_iter().collect();
        let both = list.and([&close, &none]);
        assert_eq!(both.iter().map(|marker| &**marker).collect::<Vec<_>>(), ["<call>", "</call>"]);
    }
}
