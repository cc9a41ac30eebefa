//! Reads values that are written as nested tags, as in MiniMax M3.
//!
//! The same marker, called the namespace, precedes each tag.

use super::marker::Marker;
use super::schema::Element;
use super::view::{Found, View};
use crate::types::tree::Malformed;

/// Reads one element and its inner elements.
///
/// Text is a tag only if the namespace marker precedes it.
#[derive(Debug)]
pub(super) struct Elements {
    namespace: Marker,
    at: usize,
    /// Before this offset, the current tag contains no `>`.
    tag: Option<usize>,
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    name: String,
    /// The offset where the text after the last tag begins.
    text: usize,
    mixed: String,
    inner: Vec<(String, Element)>,
}

/// The result of reading an element.
///
/// It contains the name, the content and the end of the element, or the offset and the reason of an
/// error.
type Read = Result<(String, Element, usize), (usize, Malformed)>;

impl Elements {
    /// Creates a reader. `at` is the offset of the namespace marker before the opening tag.
    pub(super) fn new(namespace: Marker, at: usize) -> Self {
        Self { namespace, at, tag: None, open: Vec::new() }
    }

    /// Returns the element when it is complete, or `None` if more text is needed.
    pub(super) fn step(&mut self, view: &View<'_>) -> Option<Read> {
        loop {
            let at = match view.find(std::slice::from_ref(&self.namespace), self.at) {
                Found::At(at, _) => at,
                Found::Until(at) => {
                    self.at = at;
                    return None;
                }
            };
            // No other real marker may appear in a value (R10 in docs/parsing-rules.md).
            if let Some(real) = view.next_real(self.at).filter(|real| real.start < at) {
                return Some(Err((real.start, Malformed::Syntax)));
            }
            self.at = at;
            let tag = at + self.namespace.len();
            match view.bytes().get(tag) {
                Some(b'<') => {}
                Some(_) => {
                    self.at = tag;
                    continue;
                }
                None => return None,
            }
            let scanned = self.tag.unwrap_or(tag + 1);
            let Some(len) = view.bytes()[scanned..].iter().position(|byte| matches!(byte, b'<' | b'>'))
            else {
                self.tag = Some(view.text.len());
                return None;
            };
            self.tag = None;
            let end = scanned + len;
            if view.bytes()[end] == b'<' {
                return Some(Err((at, Malformed::Syntax)));
            }
            if let Some(read) = self.take(view, at, &view.text[tag + 1..end], end + 1) {
                return Some(read);
            }
            self.at = end + 1;
        }
    }

    /// Processes one tag. Returns the whole element if this tag is its closing tag.
    fn take(&mut self, view: &View<'_>, at: usize, tag: &str, after: usize) -> Option<Read> {
        if let Some(open) = self.open.last_mut() {
            open.mixed.push_str(&view.text[open.text..at]);
            open.text = after;
        }
        let Some(name) = tag.strip_prefix('/') else {
            if tag.is_empty() || tag.contains(char::is_whitespace) {
                return Some(Err((at, Malformed::Syntax)));
            }
            if self.open.len() >= view.max_nesting {
                return Some(Err((at, Malformed::TooDeep)));
            }
            let name = tag.to_owned();
            self.open.push(Open { name, text: after, mixed: String::new(), inner: Vec::new() });
            return None;
        };
        let Some(Open { name, mixed, inner, .. }) = self.open.pop().filter(|open| open.name == name) else {
            return Some(Err((at, Malformed::Syntax)));
        };
        let element = if inner.is_empty() { Element::Text(mixed) } else { Element::Inner(inner, mixed) };
        match self.open.last_mut() {
            None => return Some(Ok((name, element, after))),
            Some(outer) => {
                outer.inner.push((name, element));
                outer.text = after;
            }
        }
        None
    }
}
