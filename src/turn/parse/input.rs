//! The tokens of a turn as they come: one text, and where each token begins in it.
//!
//! A token counts as a marker by its id, so the text of a chunk with several ids waits until they have come
//! ([`Group`]). A marker that the server left out of the text is put into it.

use super::view::{RealMarkers, is_blank};
use crate::types::ids::TokenId;

/// What has come of a turn.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// The whole turn; markers that the server left out are in it.
    pub(super) text: String,
    /// From here on it is blank.
    pub(super) blank_from: usize,
    pub(super) tokens: Vec<Token>,
    /// As many tokens are in leaves.
    pub(super) owned: usize,
    pub(super) markers: RealMarkers,
    /// A token whose text reads like markers that its id is not.
    group: Option<Group>,
}

#[derive(Debug)]
pub(super) struct Token {
    /// The place of the token's first byte; without text, of the byte before it.
    pub(super) at: usize,
    pub(super) id: Option<TokenId>,
    /// It is a token of its own. A marker that was left out of the text and a text of several tokens are one.
    pub(super) has_text: bool,
}

/// Several tokens with one text, as far as they have come. A chunk with several ids has the text at the first
/// of them: whether a marker in it is real is told by the ids that follow.
#[derive(Debug)]
struct Group {
    text: String,
    ids: Vec<TokenId>,
    /// What in the text reads like a marker: its place and the marker.
    look_alikes: Vec<(usize, usize)>,
    /// Up to here it is known of them whether they are real: ids and text have the same order.
    decided: usize,
    /// Those that are: place, marker, the number of the id.
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
                // Its text was left out: what came with it is the text of the tokens behind it.
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
        // The bytes of a character may be spread over tokens. Its text comes with the last of them; those before
        // it, fewer than it has bytes, came without text and begin where it begins.
        let spread = text.chars().next().map_or(0, |first| first.len_utf8() - 1);
        let before = self.tokens[self.owned..].iter_mut().rev();
        for token in before.take(spread).take_while(|token| !token.has_text) {
            token.at = at;
        }
        self.tokens.push(Token { at: if has_text { at } else { at.saturating_sub(1) }, id, has_text });
        self.add_text(text);
    }

    /// A marker whose token has come and whose text has not.
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

    /// Of a group's tokens it is known where the first begins and where the markers do. What stands between two
    /// markers is the text of the first token there that is no marker's; those without text stand in their order.
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
