//! Provides a view of the turn that distinguishes real markers from ordinary text.
//!
//! A marker may be one added token of the model. If the server sends ids, such a marker is real
//! only if its token has the right id (R9 in docs/parsing-rules.md). A model that explains its own
//! format spells the marker with other tokens. The view therefore stores the offset of each real
//! marker. The same characters at other offsets are ordinary text.
//!
//! A server may leave a marker out of the text, as vLLM does with the marker at the end of a turn.
//! The parser inserts the missing marker into its text. The leaves contain the text without the
//! inserted marker.

use std::ops::Range;

use memchr::{memchr, memchr2, memchr3};

use super::marker::Marker;
use super::schema::Schemas;
use crate::types::ids::TokenId;

/// The set of the first bytes of some markers.
///
/// Most tokens do not contain any of these bytes. The check takes only a few instructions per byte.
#[derive(Debug, Default)]
pub(super) struct FirstBytes([u64; 4]);

impl FirstBytes {
    pub(super) fn of(markers: &[impl AsRef<str>]) -> Self {
        let mut new = Self::default();
        for byte in markers.iter().filter_map(|marker| marker.as_ref().bytes().next()) {
            new.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
        new
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }

    /// Returns whether `bytes` contains at least one byte of this set.
    pub(super) fn any_in(&self, bytes: &[u8]) -> bool {
        bytes.iter().any(|byte| self.has(*byte))
    }
}

/// The real markers in the text of a turn.
#[derive(Debug, Default)]
pub(super) struct RealMarkers {
    /// The atoms: the added tokens that are a marker or a part of a marker. The longest atom comes
    /// first.
    atoms: Vec<(Box<str>, TokenId)>,
    first_bytes: FirstBytes,
    /// The real markers, in text order.
    real: Vec<Real>,
    /// The parts of the text whose tokens arrived without an id.
    ///
    /// In these parts, markers are recognized by their text.
    ///
    /// The ranges are in text order, and there is a gap between any two ranges.
    without_ids: Vec<Range<usize>>,
}

/// A real marker: a token whose id identifies it.
#[derive(Debug)]
struct Real {
    range: Range<usize>,
    atom: usize,
    /// `true` if the server sent the text of the marker.
    shown: bool,
}

impl RealMarkers {
    /// Selects the added tokens (text and id) that occur in `markers`.
    pub(super) fn new<'a>(markers: &[&str], added: impl Iterator<Item = (&'a str, TokenId)>) -> Self {
        let is_in_markers = |text: &str| markers.iter().any(|marker| marker.contains(text));
        let added = added.filter(|(text, _)| !text.is_empty() && is_in_markers(text));
        let mut atoms: Vec<(Box<str>, TokenId)> = added.map(|(text, id)| (text.into(), id)).collect();
        atoms.sort_by(|a, b| (b.0.len(), &b.0).cmp(&(a.0.len(), &a.0)));
        let texts: Vec<&str> = atoms.iter().map(|(text, _)| &**text).collect();
        let first_bytes = FirstBytes::of(&texts);
        Self { atoms, first_bytes, ..Self::default() }
    }

    pub(super) fn atom_of(&self, id: TokenId) -> Option<usize> {
        self.atoms.iter().position(|(_, known)| *known == id)
    }

    pub(super) fn atom_text(&self, atom: usize) -> &str {
        &self.atoms[atom].0
    }

    /// Returns the parts of `text` that look like an atom, from left to right and without overlaps.
    pub(super) fn look_alikes(&self, text: &str) -> Vec<(usize, usize)> {
        let (mut found, mut from) = (Vec::new(), 0);
        while let Some((at, atom)) = self.first_atom(text, from) {
            found.push((at, atom));
            from = at + self.atoms[atom].0.len();
        }
        found
    }

    /// Returns the first atom in `text` at or after `from`.
    ///
    /// If two atoms begin at the same offset, the longer atom is returned, because it comes first
    /// in `atoms`.
    fn first_atom(&self, text: &str, from: usize) -> Option<(usize, usize)> {
        let bytes = text.as_bytes();
        (from..bytes.len()).filter(|at| self.first_bytes.has(bytes[*at])).find_map(|at| {
            let here = |(marker, _): &(Box<str>, TokenId)| bytes[at..].starts_with(marker.as_bytes());
            Some((at, self.atoms.iter().position(here)?))
        })
    }

    pub(super) fn add_real(&mut self, at: usize, atom: usize, shown: bool) {
        let range = at..at + self.atoms[atom].0.len();
        self.real.push(Real { range, atom, shown });
    }

    pub(super) fn add_without_id(&mut self, range: Range<usize>) {
        match self.without_ids.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.without_ids.push(range),
        }
    }

    fn real_at(&self, at: usize) -> Option<&Real> {
        self.real.binary_search_by_key(&at, |real| real.range.start).ok().map(|n| &self.real[n])
    }

    /// Returns the range of the first real marker at or after `from`.
    fn next_real(&self, from: usize) -> Option<Range<usize>> {
        self.real.get(self.before(from)).map(|real| real.range.clone())
    }

    /// Returns the offset and the text of each real marker at or after `from`.
    pub(super) fn real_from(&self, from: usize) -> impl Iterator<Item = (usize, &str)> {
        self.real[self.before(from)..].iter().map(|real| (real.range.start, self.atom_text(real.atom)))
    }

    /// Returns the number of real markers that begin before `at`.
    fn before(&self, at: usize) -> usize {
        self.real.partition_point(|real| real.range.start < at)
    }

    /// Returns the end of the real marker around `at`, or `at` if this offset is not inside a real
    /// marker.
    pub(super) fn end_of_real_around(&self, at: usize) -> usize {
        self.real[..self.before(at)].last().map_or(at, |real| real.range.end.max(at))
    }

    fn is_without_id(&self, at: usize) -> bool {
        let n = self.without_ids.partition_point(|range| range.end <= at);
        self.without_ids.get(n).is_some_and(|range| range.start <= at)
    }

    /// Returns whether the text at `at` is a real `marker` and not only looks like this marker.
    ///
    /// The text is not a marker if it overlaps with the token of another marker.
    fn is_marker(&self, at: usize, marker: &str) -> bool {
        let end = at + marker.len();
        if self.end_of_real_around(at) > at || self.end_of_real_around(end) > end {
            return false;
        }
        let mut from = 0;
        while let Some((offset, atom)) = self.first_atom(marker, from) {
            let real = self.real_at(at + offset).is_some_and(|real| real.atom == atom);
            if !real && !self.is_without_id(at + offset) {
                return false;
            }
            from = offset + self.atoms[atom].0.len();
        }
        true
    }

    /// Returns whether more text may complete the `marker` whose beginning is at `at`.
    ///
    /// If a marker is one token, its text is never incomplete, because a token is never cut.
    fn may_become(&self, at: usize, marker: &str) -> bool {
        self.is_without_id(at) || !self.atoms.iter().any(|(atom, _)| **atom == *marker)
    }

    /// Returns whether the text after `from` contains no real marker.
    ///
    /// The server has then sent all of this text.
    ///
    /// The result is almost always `true`.
    pub(super) fn shows_all(&self, from: usize) -> bool {
        self.real.last().is_none_or(|real| real.range.start < from)
    }

    /// Returns the parts of `range` that the server sent.
    pub(super) fn shown(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let hidden = self.real[self.before(range.start)..self.before(range.end)].iter();
        let hidden = hidden.filter(|real| !real.shown).map(|real| real.range.clone());
        let mut from = range.start;
        let ends = hidden.chain(std::iter::once(range.end..range.end));
        ends.map(move |hidden| {
            let shown = from..hidden.start;
            from = hidden.end;
            shown
        })
    }
}

/// Describes the end of the text that a region may read.
///
/// The text ends with the turn, or with a real end-of-turn marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RegionEnd {
    /// The model stopped by itself.
    Clean,
    /// The turn was cut off by the token limit, by an error or because it was canceled.
    Cut,
}

/// The text of the turn so far, for a machine that reads calls.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) text: &'a str,
    /// The text contains only blanks after this offset. [`View::skip_blank`] does not read these
    /// blanks again.
    pub(super) blank_from: usize,
    pub(super) marks: &'a RealMarkers,
    pub(super) tools: &'a Schemas,
    /// The markers that end the turn.
    pub(super) ends: &'a [Marker],
    pub(super) max_nesting: usize,
    /// The end of the text, or `None` while more text may arrive.
    pub(super) end: Option<RegionEnd>,
}

/// The result of comparing a marker with the text at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    Yes,
    No,
    /// The text ends inside a possible marker.
    Partial,
}

/// The result of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found<'m> {
    At(usize, &'m str),
    /// No marker begins before this offset, but a marker may begin at this offset.
    ///
    /// If the turn has ended, this offset is the end of the text.
    Until(usize),
}

impl View<'_> {
    /// Returns whether the text has ended because the model stopped by itself.
    pub(super) fn ended_cleanly(&self) -> bool {
        self.end == Some(RegionEnd::Clean)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// Returns the first offset at or after `at` that is not blank, or the end of the text.
    ///
    /// Blanks are spaces, tabs and line ends.
    pub(super) fn skip_blank(&self, at: usize) -> usize {
        if at >= self.blank_from {
            return self.text.len();
        }
        let rest = &self.bytes()[at..];
        at + rest.iter().position(|byte| !is_blank(*byte)).unwrap_or(rest.len())
    }

    /// Returns whether `marker` begins at the offset `at`.
    pub(super) fn here(&self, at: usize, marker: &str) -> Match {
        let rest = &self.bytes()[at..];
        if rest.starts_with(marker.as_bytes()) {
            return if self.marks.is_marker(at, marker) { Match::Yes } else { Match::No };
        }
        let begins = marker.as_bytes().starts_with(rest);
        if begins && self.end.is_none() && (rest.is_empty() || self.marks.may_become(at, marker)) {
            Match::Partial
        } else {
            Match::No
        }
    }

    /// Returns whether the turn ends inside a `marker` that begins at the offset `at`.
    pub(super) fn is_cut_at(&self, at: usize, marker: &str) -> bool {
        let rest = &self.bytes()[at..];
        let begins = !rest.is_empty() && rest.len() < marker.len() && marker.as_bytes().starts_with(rest);
        self.end.is_some() && begins && self.marks.may_become(at, marker)
    }

    /// Returns whether one of `markers` begins at the offset `at`.
    pub(super) fn any_here(&self, at: usize, markers: &[impl AsRef<str>]) -> Match {
        let mut any = Match::No;
        for marker in markers {
            match self.here(at, marker.as_ref()) {
                Match::Yes => return Match::Yes,
                Match::Partial => any = Match::Partial,
                Match::No => {}
            }
        }
        any
    }

    /// Returns whether the turn ends at `at`, or inside one of `markers` that begins at `at`.
    pub(super) fn is_cut_short(&self, at: usize, markers: &[impl AsRef<str>]) -> bool {
        let ended = self.end.is_some() && at == self.text.len();
        ended || markers.iter().any(|marker| self.is_cut_at(at, marker.as_ref()))
    }

    /// Returns the first of `markers` at or after `from`.
    ///
    /// If two markers begin at the same offset, the longer marker is returned. The time is
    /// proportional to the length of the searched text. The next search should therefore begin at
    /// the returned offset.
    pub(super) fn find<'m>(&self, markers: &'m [impl AsRef<str>], from: usize) -> Found<'m> {
        let mut from = from;
        while let Some(at) = first_of(markers, &self.bytes()[from..]).map(|offset| from + offset) {
            let (mut found, mut wait) = (None::<&str>, false);
            for marker in markers.iter().map(AsRef::as_ref) {
                match self.here(at, marker) {
                    Match::Yes if found.is_none_or(|other| other.len() < marker.len()) => {
                        found = Some(marker)
                    }
                    Match::Partial => wait = true,
                    Match::Yes | Match::No => {}
                }
            }
            // An incomplete marker is always longer than a complete marker at the same offset.
            if wait {
                return Found::Until(at);
            }
            if let Some(marker) = found {
                return Found::At(at, marker);
            }
            from = at + 1;
        }
        Found::Until(self.text.len())
    }

    /// Returns whether the id of a token identifies the marker at `at`.
    pub(super) fn is_real(&self, at: usize) -> bool {
        self.marks.real_at(at).is_some()
    }

    /// Returns whether the `marker` at `at` contains a real marker, even in its middle.
    pub(super) fn holds_real(&self, at: usize, marker: &str) -> bool {
        self.next_real(at).is_some_and(|real| real.end <= at + marker.len())
    }

    /// Returns the next real marker at or after `from`.
    ///
    /// If ids are known, a string or a value never extends beyond a real marker.
    pub(super) fn next_real(&self, from: usize) -> Option<Range<usize>> {
        // The next real marker may be after the part of the text that a region may read.
        self.marks.next_real(from).filter(|real| real.start < self.text.len())
    }
}

/// Returns the offset of the first byte that begins one of `markers`.
fn first_of(markers: &[impl AsRef<str>], bytes: &[u8]) -> Option<usize> {
    let first_byte = |marker: &_| AsRef::<str>::as_ref(marker).as_bytes()[0];
    let mut firsts = [0; 3];
    let mut len = 0;
    for first in markers.iter().map(first_byte) {
        if !firsts[..len].contains(&first) {
            if len == firsts.len() {
                let begins = |byte: &u8| markers.iter().any(|marker| first_byte(marker) == *byte);
                return bytes.iter().position(begins);
            }
            firsts[len] = first;
            len += 1;
        }
    }
    match firsts[..len] {
        [a, b, c] => memchr3(a, b, c, bytes),
        [a, b] => memchr2(a, b, bytes),
        [a] => memchr(a, bytes),
        _ => None,
    }
}

/// Returns whether a byte is a space, a tab or part of a line end.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
