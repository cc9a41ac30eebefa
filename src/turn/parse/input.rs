//! Collects the tokens of a turn: one text, and the offset of each token in it.
//!
//! A token counts as a marker by its id. The text of a chunk with several ids therefore waits until
//! the ids have arrived ([`Group`]). If the server left a marker out of the text, the parser
//! inserts it.

use super::view::{RealMarkers, is_blank};
use crate::types::ids::TokenId;

/// The part of a turn that was received so far.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// The text of the whole turn, including markers that the server left out.
    pub(super) text: String,
    /// The text is blank from this offset on.
    pub(super) blank_from: usize,
    pub(super) tokens: Vec<Token>,
    /// The number of tokens that are in leaves.
    pub(super) owned: usize,
    pub(super) markers: RealMarkers,
    /// A chunk whose text looks like a marker, until its ids show whether the marker is real.
    group: Option<Group>,
}

#[derive(Debug)]
pub(super) struct Token {
    /// The offset of the token's first byte. Without text, the offset of the previous byte.
    pub(super) at: usize,
    pub(super) id: Option<TokenId>,
    /// `true` if the token has text.
    ///
    /// If several tokens share a text, only the first has text. A marker counts as having text,
    /// even if the server left its text out.
    pub(super) has_text: bool,
}

/// The tokens received so far of a chunk that has one text for several tokens.
///
/// A chunk with several ids has its text at the first id. The ids that follow show whether a marker
/// in the text is real.
#[derive(Debug)]
struct Group {
    text: String,
    ids: Vec<TokenId>,
    /// The parts of the text that look like a marker: the offset and the marker.
    look_alikes: Vec<(usize, usize)>,
    /// The number of look-alikes that are decided. They are decided in order, because ids and text
    /// have the same order.
    decided: usize,
    /// The look-alikes that are real markers: the offset, the marker and the index of the id.
    real: Vec<(usize, usize, usize)>,
}

impl Group {
    fn add(&mut self, id: TokenId, atom: Option<usize>) {
        let left = self.look_alikes[self.decided..].iter();
        if let Some(n) = left.map(|(_, look)| Some(*look)).position(|look| look == atom && atom.is_some()) {
            let (at, atom) = self.look_alikes[self.decided + n];
            self.real.push((at, atom, self.ids.len()));
            self.decided += n + 1;
        }
        self.ids.push(id);
    }

    fn is_decided(&self) -> bool {
        self.decided == self.look_alikes.len()
    }
}

impl Input {
    pub(super) fn take(&mut self, text: &str, id: Option<TokenId>) {
        match (&mut self.group, id) {
            (Some(group), Some(id)) if text.is_empty() => {
                group.add(id, self.markers.atom_of(id));
                if group.is_decided() {
                    self.flush_group();
                }
                return;
            }
            _ => self.flush_group(),
        }
        let Some(id) = id else {
            let from = self.text.len();
            self.add_token(text, None);
            if !text.is_empty() {
                self.markers.add_without_id(from..self.text.len());
            }
            return;
        };
        let look_alikes = self.markers.look_alikes(text);
        if look_alikes.is_empty() {
            match self.markers.atom_of(id) {
                None => self.add_token(text, Some(id)),
                // The server left out the text of this marker. `text` is the text of the tokens
                // after it.
                Some(atom) => {
                    self.add_hidden(atom, id);
                    self.add_text(text);
                }
            }
            return;
        }
        let (ids, decided, real) = (Vec::new(), 0, Vec::new());
        let mut group = Group { text: text.to_owned(), ids, look_alikes, decided, real };
        group.add(id, self.markers.atom_of(id));
        let is_decided = group.is_decided();
        self.group = Some(group);
        if is_decided {
            self.flush_group();
        }
    }

    pub(super) fn add_token(&mut self, text: &str, id: Option<TokenId>) {
        let at = self.text.len();
        let has_text = !text.is_empty();
        // The bytes of a character may be spread over several tokens. The last of these tokens has
        // the character as its text. The earlier tokens have no text and begin where the character
        // begins. Their number is less than the number of bytes.
        let spread = text.chars().next().map_or(0, |first| first.len_utf8() - 1);
        let before = self.tokens[self.owned..].iter_mut().rev();
        for token in before.take(spread).take_while(|token| !token.has_text) {
            token.at = at;
        }
        self.tokens.push(Token { at: if has_text { at } else { at.saturating_sub(1) }, id, has_text });
        self.add_text(text);
    }

    /// Adds a marker whose token arrived without its text.
    fn add_hidden(&mut self, atom: usize, id: TokenId) {
        let at = self.text.len();
        self.markers.add_real(at, atom, false);
        self.tokens.push(Token { at, id: Some(id), has_text: true });
        let text = self.markers.atom_text(atom).to_owned();
        self.add_text(&text);
    }

    pub(super) fn add_text(&mut self, text: &str) {
        if let Some(last) = text.bytes().rposition(|byte| !is_blank(byte)) {
            self.blank_from = self.text.len() + last + 1;
        }
        self.text.push_str(text);
    }

    /// Adds the tokens of the group to the turn.
    ///
    /// The offsets of the first token and of the real markers are known. The text between two
    /// markers belongs to the first token there that is not a marker. The other tokens between them
    /// have no text and keep their order.
    pub(super) fn flush_group(&mut self) {
        let Some(group) = self.group.take() else { return };
        let ends = group.real.iter().map(|(at, atom, n)| (*at, *n, Some(*atom)));
        let ends = ends.chain([(group.text.len(), group.ids.len(), None)]);
        let (mut from, mut first) = (0, 0);
        for (end, until, marker) in ends {
            let mut text = &group.text[from..end];
            for id in &group.ids[first..until] {
                match self.markers.atom_of(*id) {
                    Some(atom) => self.add_hidden(atom, *id),
                    None => self.add_token(std::mem::take(&mut text), Some(*id)),
                }
            }
            self.add_text(text);
            let Some(atom) = marker else { return };
            self.markers.add_real(self.text.len(), atom, true);
            (from, first) = (end + self.markers.atom_text(atom).len(), until + 1);
            self.add_token(&group.text[end..from], Some(group.ids[until]));
        }
    }
}
