//! Collects the tokens of a turn as one text, with the offset of each token in the text.
//!
//! The id of a token shows whether the token is a marker. If a chunk has several ids, the parser
//! waits for all of them before it uses the text of the chunk ([`Group`]). If the server left a
//! marker out of the text, the parser inserts the marker.

use super::view::{RealMarkers, is_blank};
use crate::types::ids::TokenId;

/// The part of a turn that was received so far.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// The text of the whole turn, including markers that the server left out.
    pub(super) text: String,
    /// The text contains only blanks after this offset.
    pub(super) blank_from: usize,
    pub(super) tokens: Vec<Token>,
    /// The number of tokens that already belong to leaves.
    pub(super) owned: usize,
    pub(super) markers: RealMarkers,
    /// A chunk with text that looks like a marker.
    ///
    /// It is kept here until its ids show whether the marker is real.
    group: Option<Group>,
}

#[derive(Debug)]
pub(super) struct Token {
    /// The offset of the token's first byte.
    ///
    /// If the token has no text, this is the offset of the previous byte.
    pub(super) at: usize,
    pub(super) id: Option<TokenId>,
    /// `true` if the token has text.
    ///
    /// If several tokens share one text, the value is `true` only for the first token. For a
    /// marker, the value is `true` even if the server left its text out.
    pub(super) has_text: bool,
}

/// The received tokens of a chunk that has one text for several tokens.
///
/// The text of such a chunk arrives with its first id. The later ids show whether a marker in the
/// text is real.
#[derive(Debug)]
struct Group {
    text: String,
    ids: Vec<TokenId>,
    /// The parts of the text that look like a marker.
    ///
    /// Each entry contains the offset of the part and the index of the marker.
    look_alikes: Vec<(usize, usize)>,
    /// The number of look-alikes that were already checked.
    ///
    /// The look-alikes are checked in order, because the ids and the text have the same order.
    decided: usize,
    /// The look-alikes that are real markers.
    ///
    /// Each entry contains the offset, the index of the marker and the index of the id.
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
                // The server left out the text of this marker. `text` belongs to the tokens after
                // the marker.
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
        // The bytes of a character may be spread over several tokens. The whole character is the
        // text of the last of these tokens. The earlier tokens have no text, and their offset is
        // the start of the character. The number of earlier tokens is less than the number of bytes
        // in the character.
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
    /// markers belongs to the first ordinary token between these markers. The other tokens between
    /// the markers have no text and keep their order.
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
