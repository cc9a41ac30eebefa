//! The turn as the parser sees it: text in which real markers are told from text that only looks like one.
//!
//! Where a marker is one added token and ids come with the text, only that id is structure (rule R9 of
//! docs/parsing-rules.md): a model that explains its own format spells the marker with other tokens. So the place of
//! each such token is kept, and the same characters elsewhere do not match. A marker token that the server
//! left out of the text (vLLM does so with the end of a turn) stands in the parser's text all the same, and is
//! left out again when a leaf gets its text.

use std::ops::Range;

use memchr::{memchr, memchr2, memchr3};

use super::marker::Marker;
use super::schema::Schemas;
use crate::types::ids::TokenId;

/// The bytes that some markers begin with. Most tokens have none of them, which is told in a few instructions a byte.
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

    /// Whether one of them is in `bytes`.
    pub(super) fn any_in(&self, bytes: &[u8]) -> bool {
        bytes.iter().any(|byte| self.has(*byte))
    }
}

/// Real markers in a turn's text.
#[derive(Debug, Default)]
pub(super) struct RealMarkers {
    /// The added tokens that a marker of the dialect is or holds, longest first.
    atoms: Vec<(Box<str>, TokenId)>,
    first_bytes: FirstBytes,
    /// In the order of the text.
    real: Vec<Real>,
    /// Parts of the text whose tokens came without an id: there, text alone decides. In order, not touching.
    without_ids: Vec<Range<usize>>,
}

/// A marker's token.
#[derive(Debug)]
struct Real {
    at: usize,
    atom: usize,
    /// Its text was in the answer.
    shown: bool,
}

impl RealMarkers {
    /// The added tokens (text and id) that `markers` contain.
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

    /// The places in `text` that read like an atom: the leftmost first, none inside another.
    pub(super) fn look_alikes(&self, text: &str) -> Vec<(usize, usize)> {
        let (mut found, mut from) = (Vec::new(), 0);
        while let Some((at, atom)) = self.first_atom(text, from) {
            found.push((at, atom));
            from = at + self.atoms[atom].0.len();
        }
        found
    }

    /// Of two at one place, the longer: `atoms` has it first.
    fn first_atom(&self, text: &str, from: usize) -> Option<(usize, usize)> {
        let bytes = text.as_bytes();
        (from..bytes.len()).filter(|at| self.first_bytes.has(bytes[*at])).find_map(|at| {
            let here = |(marker, _): &(Box<str>, TokenId)| bytes[at..].starts_with(marker.as_bytes());
            Some((at, self.atoms.iter().position(here)?))
        })
    }

    pub(super) fn add_real(&mut self, at: usize, atom: usize, shown: bool) {
        self.real.push(Real { at, atom, shown });
    }

    pub(super) fn add_without_id(&mut self, range: Range<usize>) {
        match self.without_ids.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.without_ids.push(range),
        }
    }

    fn real_at(&self, at: usize) -> Option<&Real> {
        self.real.binary_search_by_key(&at, |real| real.at).ok().map(|n| &self.real[n])
    }

    /// The first real marker at or after `from`, its place and its end.
    fn next_real(&self, from: usize) -> Option<Range<usize>> {
        let n = self.real.partition_point(|real| real.at < from);
        self.real.get(n).map(|real| real.at..real.at + self.atoms[real.atom].0.len())
    }

    /// The real markers at or after `from`, their places and texts.
    pub(super) fn real_from(&self, from: usize) -> impl Iterator<Item = (usize, &str)> {
        let n = self.real.partition_point(|real| real.at < from);
        self.real[n..].iter().map(|real| (real.at, &*self.atoms[real.atom].0))
    }

    /// The end of the real marker that `at` is inside of, else `at`.
    pub(super) fn end_of_real_around(&self, at: usize) -> usize {
        let n = self.real.partition_point(|real| real.at < at);
        let before = n.checked_sub(1).map(|n| self.real[n].at + self.atoms[self.real[n].atom].0.len());
        before.map_or(at, |end| end.max(at))
    }

    fn is_without_id(&self, at: usize) -> bool {
        let n = self.without_ids.partition_point(|range| range.end <= at);
        self.without_ids.get(n).is_some_and(|range| range.start <= at)
    }

    /// Whether the text at `at`, which reads like `marker`, is one. It is none if it shares characters with the token of
    /// another.
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

    /// Whether the text from `at` on, which `marker` begins with, may become it. A token is never cut, so a
    /// marker that is one token cannot.
    fn may_become(&self, at: usize, marker: &str) -> bool {
        self.is_without_id(at) || !self.atoms.iter().any(|(atom, _)| **atom == *marker)
    }

    /// Whether all of the text from `from` on was in the answer, as it nearly always was.
    pub(super) fn shows_all(&self, from: usize) -> bool {
        self.real.last().is_none_or(|real| real.at < from)
    }

    /// The parts of `range` that were in the answer.
    pub(super) fn shown(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let first = self.real.partition_point(|real| real.at < range.start);
        let hidden = self.real[first..].iter().take_while({
            let end = range.end;
            move |real| real.at < end
        });
        let hidden =
            hidden.filter(|real| !real.shown).map(|real| real.at..real.at + self.atoms[real.atom].0.len());
        let mut from = range.start;
        let ends = hidden.chain(std::iter::once(range.end..range.end));
        ends.map(move |hidden| {
            let shown = from..hidden.start;
            from = hidden.end;
            shown
        })
    }
}

/// How the text that a region may see has ended, once it has: with the turn, or with a real end of the turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RegionEnd {
    /// The model stopped by itself.
    Clean,
    /// It was cut off: by the token limit, an error, a cancel.
    Cut,
}

/// All of the turn's text so far, for a machine that reads calls.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) text: &'a str,
    /// From here on it is blank: what waits for the end of many blanks does not look at them again.
    pub(super) blank_from: usize,
    pub(super) marks: &'a RealMarkers,
    pub(super) tools: &'a Schemas,
    /// The dialect's ends of the turn.
    pub(super) ends: &'a [Marker],
    pub(super) max_nesting: usize,
    /// `None`: more may come.
    pub(super) end: Option<RegionEnd>,
}

/// Whether a marker is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    Yes,
    No,
    /// The text ends within what could become the marker.
    Partial,
}

/// What a search has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found<'m> {
    At(usize, &'m str),
    /// Nothing so far, and from here on something may become one of them. At the end of the turn this is
    /// the end of the text.
    Until(usize),
}

impl View<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The first place at or after `at` that is no blank (space, tab, line end); the text's end if there is none.
    pub(super) fn skip_blank(&self, at: usize) -> usize {
        if at >= self.blank_from {
            return self.text.len();
        }
        let rest = &self.bytes()[at..];
        at + rest.iter().position(|byte| !is_blank(*byte)).unwrap_or(rest.len())
    }

    /// Whether `marker` stands at `at`.
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

    /// Whether the turn ends within `marker`, which begins at `at`.
    pub(super) fn is_cut_at(&self, at: usize, marker: &str) -> bool {
        let rest = &self.bytes()[at..];
        let begins = !rest.is_empty() && rest.len() < marker.len() && marker.as_bytes().starts_with(rest);
        self.end.is_some() && begins && self.marks.may_become(at, marker)
    }

    /// Whether one of `markers` stands at `at`.
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

    /// Whether the turn has ended at `at`, or within one of `markers` that begins there.
    pub(super) fn is_cut_short(&self, at: usize, markers: &[impl AsRef<str>]) -> bool {
        let ended = self.end.is_some() && at == self.text.len();
        ended || markers.iter().any(|marker| self.is_cut_at(at, marker.as_ref()))
    }

    /// The first of `markers` at or after `from`; of two at one place, the longer. Costs time in proportion to
    /// the text searched: go on from the place given.
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
            // What may still become one is longer than all that is there.
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

    /// Whether the marker at `at` is known to be one by its id.
    pub(super) fn is_real(&self, at: usize) -> bool {
        self.marks.real_at(at).is_some()
    }

    /// The same of a marker that may hold its token in the middle.
    pub(super) fn holds_real(&self, at: usize, marker: &str) -> bool {
        self.next_real(at).is_some_and(|real| real.end <= at + marker.len())
    }

    /// The next real marker at or after `from`: where ids are known, no string and no value goes beyond it.
    pub(super) fn next_real(&self, from: usize) -> Option<Range<usize>> {
        // One may stand behind the part of the text that a region may see.
        self.marks.next_real(from).filter(|real| real.start < self.text.len())
    }
}

/// The first byte that begins one of `markers`.
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

/// A space, tab or line end.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
