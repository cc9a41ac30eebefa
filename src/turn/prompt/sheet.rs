//! Writes the text of templates, callers and tools into leaves, and adds the ids of the text.

use std::ops::Range;

use super::Encode;
use super::family::Family;
use crate::error::Error;
use crate::types::ids::TokenId;
use crate::types::tree::{Leaf, LeafKind};

/// The leaves of a prompt while they are written and encoded.
///
/// The text between two tokens of the template is encoded in one piece, even if it spans several
/// leaves. The boundaries between leaves therefore do not change the ids. A token that spans two
/// leaves belongs to the leaf that contains its first byte, as in the parser.
pub(super) struct Sheet<'a> {
    encoder: &'a dyn Encode,
    /// The family's tokens that are in the vocabulary of this tokenizer.
    tokens: Vec<Known>,
    /// The leaves written so far.
    pub(super) leaves: Vec<Leaf>,
    /// The text that is not encoded yet.
    ///
    /// `parts` contains the position in this text at which each leaf begins, and the number of the
    /// leaf.
    run: String,
    parts: Vec<(usize, usize)>,
    /// The id that the model sampled last, before the text of this sheet.
    ///
    /// If the text of the sheet begins with the same token, this token is not written again.
    pub(super) sampled: Option<TokenId>,
}

struct Known {
    name: &'static str,
    id: TokenId,
    /// True for tokens around turns. Other tokens appear inside the model's answer.
    of_turns: bool,
}

impl<'a> Sheet<'a> {
    pub(super) fn new(encoder: &'a dyn Encode, family: &'static Family) -> Self {
        let known = |name: &'static String| {
            Some(Known { name, id: encoder.token(name)?, of_turns: family.is_of_turns(name) })
        };
        let tokens = family.tokens.iter().filter_map(known).collect();
        Self { encoder, tokens, leaves: Vec::new(), run: String::new(), parts: Vec::new(), sampled: None }
    }

    /// Writes a piece of the template. If the last leaf is a marker, the piece becomes part of it.
    pub(super) fn template(&mut self, text: &str) -> Result<(), Error> {
        if text.is_empty() {
            return Ok(());
        }
        if !matches!(self.leaves.last(), Some(Leaf { kind: LeafKind::Marker, .. })) {
            self.begin(LeafKind::Marker);
        }
        self.structured(text, true)
    }

    /// Begins a new leaf.
    pub(super) fn begin(&mut self, kind: LeafKind) {
        self.leaves.push(Leaf::new(kind, "", Vec::new()));
    }

    /// Writes text, and converts each spelled token into its id.
    ///
    /// Tokens around turns are converted only if `turns` is true.
    pub(super) fn structured(&mut self, text: &str, turns: bool) -> Result<(), Error> {
        let mut rest = text;
        while let Some((at, name, id)) = self.first_token(rest, turns) {
            self.plain(&rest[..at]);
            rest = &rest[at + name.len()..];
            if self.sampled.take() != Some(id) {
                self.flush()?;
                if let Some(leaf) = self.leaves.last_mut() {
                    push_text(leaf, name);
                    leaf.ids.push(id);
                }
            }
        }
        self.plain(rest);
        Ok(())
    }

    /// Writes plain text. If the text spells a token of the template, it stays text.
    pub(super) fn plain(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.sampled = None;
        self.parts.push((self.run.len(), self.leaves.len().saturating_sub(1)));
        self.run.push_str(text);
        if let Some(leaf) = self.leaves.last_mut() {
            push_text(leaf, text);
        }
    }

    fn first_token(&self, text: &str, turns: bool) -> Option<(usize, &'static str, TokenId)> {
        let wanted = self.tokens.iter().filter(|token| turns || !token.of_turns);
        let places = wanted.filter_map(|token| Some((text.find(token.name)?, token.name, token.id)));
        places.min_by_key(|(at, ..)| *at)
    }

    /// Returns the id of the token with this name, if the tokenizer has it.
    pub(super) fn id(&self, name: &str) -> Option<TokenId> {
        self.tokens.iter().find(|token| token.name == name).map(|token| token.id)
    }

    /// Returns the id of the token at the beginning of `text`.
    pub(super) fn first_id(&self, text: &str) -> Option<TokenId> {
        self.tokens.iter().find(|token| text.starts_with(token.name)).map(|token| token.id)
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.run.is_empty() {
            return Ok(());
        }
        let mut part = 0;
        for (id, at) in self.encoder.encode_text(&self.run)? {
            while self.parts.get(part + 1).is_some_and(|(start, _)| *start <= at) {
                part += 1;
            }
            let leaf = self.parts.get(part).and_then(|(_, leaf)| self.leaves.get_mut(*leaf));
            if let Some(leaf) = leaf {
                leaf.ids.push(id);
            }
        }
        self.run.clear();
        self.parts.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Vec<Leaf>, Error> {
        self.flush()?;
        Ok(self.leaves)
    }
}

fn push_text(leaf: &mut Leaf, text: &str) {
    leaf.text.push_str(text);
    leaf.inner.end = leaf.text.len();
}

/// Returns the markers before the content of the leaf, the content, and the markers after it.
pub(super) fn parts(leaf: &Leaf) -> [&str; 3] {
    let Range { start, end } = leaf.inner.clone();
    [0..start, start..end, end..leaf.text.len()].map(|range| leaf.text.get(range).unwrap_or_default())
}
