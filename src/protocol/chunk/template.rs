//! Decodes chunks with templates, because the chunks of a stream differ in only a few places.
//!
//! Read this description before you change this file. A [`Template`] is a chunk that was parsed in
//! full, with the positions of its values (`outline`). The decoder compares the next chunk with the
//! template byte by byte, and reads only the values that may differ. It must never accept a chunk
//! that the full parser would read differently. Three rules ensure this:
//!
//! - Equal bytes have the same meaning in both chunks.
//! - A value is read only in its plainest spelling, which serde_json reads in the same way.
//! - In all other cases, the result is `None`, and the full parser reads the chunk.
//!
//! Text, ids and the number of generated tokens may always differ. Other counts, and values that
//! the decoder ignores, may differ only after they were different in an earlier chunk.
//!
//! A property test (`tests/common/chunk_property.rs`) checks that templates and the full parser
//! give the same result. The test runs on every recording, and on recordings with random changes.

use std::borrow::Cow;

use simdutf8::basic::from_utf8;

use super::limits::MAX_TOKEN_IDS;
use super::outline::{
    COUNTS, Count, Kind, Leaf, Text, list_len, number_len, numbers_len, outline, plain_count, string_len,
};
use crate::protocol::server::endpoint::Endpoint;
use crate::types::ids::TokenId;

/// The maximum number of templates. Some streams alternate between chunks with and without text.
const MAX_TEMPLATES: usize = 3;
/// The maximum length of a chunk that becomes a template.
const MAX_TEMPLATE_BYTES: usize = 16 << 10;
/// The initial and the maximum number of credits, which limit how often a chunk is learned.
///
/// Learning a chunk takes as long as parsing it, so each learned chunk uses [`LESSON`] credits.
/// Each chunk that matches a template adds one credit.
const MAX_CREDIT: u32 = 64;
const LESSON: u32 = 8;

/// The templates of a stream.
#[derive(Debug)]
pub(super) struct Templates {
    templates: Vec<Template>,
    /// The index of the template that matched last.
    last: usize,
    /// The ids of the last chunk that matched a template.
    pub(super) ids: Vec<TokenId>,
    credit: u32,
    pub(super) is_on: bool,
}

/// A chunk with holes: the values that may differ in the next chunk.
#[derive(Debug, Default)]
struct Template {
    json: Vec<u8>,
    leaves: Vec<Leaf>,
    /// The values that may differ.
    holes: Vec<Leaf>,
    /// The bytes before each hole. The bytes after the last hole are in `end`.
    between: Vec<Box<[u8]>>,
    end: Box<[u8]>,
    /// The counts of this chunk.
    counts: Counts,
}

/// The values of a chunk that matches a template. Its ids are in [`Templates::ids`].
#[derive(Debug)]
pub(super) struct ParsedChunk<'a> {
    /// The text. It is empty if the chunk has no text.
    pub(super) text: Cow<'a, str>,
    pub(super) reasoning: Cow<'a, str>,
    counts: Counts,
}

type Counts = [Option<u32>; COUNTS];

impl<'a> ParsedChunk<'a> {
    #[inline]
    pub(super) fn count(&self, count: Count) -> Option<u32> {
        self.counts[count as usize]
    }

    /// Reads the value at the beginning of `rest`, and returns its length.
    #[inline(always)]
    fn read_hole(&mut self, kind: Kind, rest: &'a [u8], ids: &mut Vec<TokenId>) -> Option<usize> {
        match kind {
            Kind::Text(text) => {
                let (value, len) = string(rest)?;
                match text {
                    Text::Content => self.text = value,
                    Text::Reasoning if !value.is_empty() => self.reasoning = value,
                    Text::ReasoningContent if self.reasoning.is_empty() => self.reasoning = value,
                    Text::Reasoning | Text::ReasoningContent => {}
                }
                Some(len)
            }
            Kind::Count(count) => {
                let (value, len) = plain_count(rest)?;
                self.counts[count as usize] = Some(value);
                Some(len)
            }
            Kind::Ids => list_len(rest, |item| {
                let (id, len) = plain_count(item)?;
                ids.push(id);
                (ids.len() <= MAX_TOKEN_IDS).then_some(len)
            }),
            Kind::Id => {
                let (id, len) = plain_count(rest)?;
                ids.push(id);
                Some(len)
            }
            Kind::OtherText => string(rest).map(|(_, len)| len),
            Kind::OtherNumber => number_len(rest),
            Kind::OtherNumbers => numbers_len(rest),
            Kind::Fixed => None,
        }
    }
}

impl Default for Templates {
    fn default() -> Self {
        Self { templates: Vec::new(), last: 0, ids: Vec::new(), credit: MAX_CREDIT, is_on: true }
    }
}

impl Templates {
    /// Reads the chunk at the beginning of `data` if it matches a template.
    ///
    /// Returns the values and the length of the chunk.
    ///
    /// `ends` checks whether the bytes after the chunk are allowed.
    #[inline]
    pub(super) fn read<'a>(
        &mut self,
        data: &'a [u8],
        ends: impl Fn(&[u8]) -> bool,
    ) -> Option<(ParsedChunk<'a>, usize)> {
        let last = self.templates.get(self.last)?.read(data, &mut self.ids);
        let (parsed, rest) = match last.filter(|(_, rest)| ends(rest)) {
            Some(last) => last,
            None => self.read_as_another(data, ends)?,
        };
        if self.credit < MAX_CREDIT {
            self.credit += 1;
        }
        Some((parsed, data.len() - rest.len()))
    }

    fn read_as_another<'a>(
        &mut self,
        data: &'a [u8],
        ends: impl Fn(&[u8]) -> bool,
    ) -> Option<(ParsedChunk<'a>, &'a [u8])> {
        let mut others = self.templates.iter().enumerate().filter(|(n, _)| *n != self.last);
        let (n, found) = others.find_map(|(n, other)| {
            let found = other.read(data, &mut self.ids).filter(|(_, rest)| ends(rest))?;
            Some((n, found))
        })?;
        self.last = n;
        Some(found)
    }

    /// Turns a parsed chunk into a template. The chunk must contain only text, ids and counts.
    pub(super) fn learn(&mut self, json: &str, endpoint: Endpoint) {
        if !self.is_on || self.credit < LESSON || json.len() > MAX_TEMPLATE_BYTES {
            return;
        }
        self.credit -= LESSON;
        // Such a byte may be a line end, which would look like the end of the event's line.
        if json.bytes().any(|byte| byte < 0x20) {
            return;
        }
        let Some(leaves) = outline(json, endpoint) else { return };
        let mut new = Template::new(json, leaves);
        let like = self.templates.iter().enumerate().find_map(|(n, old)| Some((n, new.holes_beside(old)?)));
        self.last = match like {
            // The chunk differs from this template in a value that was equal until now. A template
            // with the new hole replaces this template.
            Some((n, holes)) => {
                new.set_holes(holes);
                self.templates[n] = new;
                n
            }
            None => {
                let holes = new.leaves.iter().filter(|leaf| leaf.kind.differs()).copied().collect();
                new.set_holes(holes);
                if self.templates.len() == MAX_TEMPLATES {
                    self.templates.remove(0);
                }
                self.templates.push(new);
                self.templates.len() - 1
            }
        };
    }
}

impl Kind {
    /// Returns whether the value may differ even if it was equal in all chunks so far.
    fn differs(self) -> bool {
        match self {
            Self::Text(_) | Self::Ids | Self::Id => true,
            Self::Count(count) => matches!(count, Count::Completion | Count::Predicted),
            Self::Fixed | Self::OtherText | Self::OtherNumber | Self::OtherNumbers => false,
        }
    }
}

impl Template {
    /// Creates a template without holes.
    fn new(json: &str, leaves: Vec<Leaf>) -> Self {
        let mut counts = Counts::default();
        for leaf in &leaves {
            if let Kind::Count(count) = leaf.kind {
                counts[count as usize] = plain_count(&json.as_bytes()[leaf.from..]).map(|(value, _)| value);
            }
        }
        Self { json: json.into(), leaves, counts, ..Self::default() }
    }

    fn set_holes(&mut self, holes: Vec<Leaf>) {
        let mut from = 0;
        for hole in &holes {
            self.between.push(self.json[from..hole.from].into());
            from = hole.to;
        }
        self.end = self.json[from..].into();
        self.holes = holes;
    }

    /// Returns holes that match both chunks, if the chunks differ only in values that may differ.
    fn holes_beside(&self, other: &Self) -> Option<Vec<Leaf>> {
        if self.leaves.len() != other.leaves.len() {
            return None;
        }
        let (mut from, mut others_from) = (0, 0);
        let mut holes = Vec::new();
        let mut others_holes = other.holes.iter().peekable();
        for (leaf, others) in self.leaves.iter().zip(&other.leaves) {
            let is_like = leaf.kind == others.kind
                && self.json[from..leaf.from] == other.json[others_from..others.from];
            let is_equal = self.json[leaf.from..leaf.to] == other.json[others.from..others.to];
            if !is_like || (!is_equal && leaf.kind == Kind::Fixed) {
                return None;
            }
            let was_hole = others_holes.next_if_eq(&others).is_some();
            if was_hole || !is_equal {
                holes.push(*leaf);
            }
            (from, others_from) = (leaf.to, others.to);
        }
        (self.json[from..] == other.json[others_from..]).then_some(holes)
    }

    #[inline]
    fn read<'a>(&self, data: &'a [u8], ids: &mut Vec<TokenId>) -> Option<(ParsedChunk<'a>, &'a [u8])> {
        let mut parsed =
            ParsedChunk { text: Cow::Borrowed(""), reasoning: Cow::Borrowed(""), counts: self.counts };
        ids.clear();
        let mut rest = data;
        for (hole, before) in self.holes.iter().zip(&self.between) {
            rest = rest.strip_prefix(&**before)?;
            rest = &rest[parsed.read_hole(hole.kind, rest, ids)?..];
        }
        Some((parsed, rest.strip_prefix(&*self.end)?))
    }
}

/// Reads a string in quotes, and returns its text and its length in the JSON.
#[inline]
fn string(bytes: &[u8]) -> Option<(Cow<'_, str>, usize)> {
    let rest = bytes.strip_prefix(b"\"")?;
    let len = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20))?;
    match rest[len] {
        b'"' => Some((Cow::Borrowed(std::str::from_utf8(&rest[..len]).ok()?), len + 2)),
        b'\\' => {
            let len = string_len(bytes)?;
            Some((Cow::Owned(unescaped(bytes.get(1..len - 1)?)?), len))
        }
        _ => None,
    }
}

/// Decodes the escapes. Returns `None` for surrogate pairs, which the full parser reads.
fn unescaped(bytes: &[u8]) -> Option<String> {
    let text = from_utf8(bytes).ok()?;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        out.push_str(before);
        let mut after = escape.chars();
        out.push(match after.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            same @ ('"' | '\\' | '/') => same,
            'u' => {
                let digits =
                    escape.get(1..5).filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()))?;
                after = escape[5..].chars();
                char::from_u32(u32::from_str_radix(digits, 16).ok()?)?
            }
            _ => return None,
        });
        rest = after.as_str();
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str =
        r#"{"created":7,"choices":[{"index":0,"text":"a","finish_reason":null,"token_ids":[1],"x":[1.5]}]}"#;

    fn text_of(templates: &mut Templates, json: &str) -> Option<(String, Vec<TokenId>)> {
        let (parsed, len) = templates.read(json.as_bytes(), <[u8]>::is_empty)?;
        assert_eq!(len, json.len());
        Some((parsed.text.into_owned(), templates.ids.clone()))
    }

    #[test]
    fn a_template_reads_new_text_and_ids_and_learns_other_values() {
        // Each case: the text to replace, the new text, whether a template reads the new chunk at
        // once, and whether a template reads it after learning.
        let cases: [(&str, &str, bool, bool); 19] = [
            ("\"a\"", r#""b c""#, true, true),
            ("\"a\"", r#""\n\u00e9\"\\\/""#, true, true),
            ("\"a\"", r#""\ud83d\ude00""#, false, false),
            ("\"a\"", "null", false, true),
            ("[1]", "[2,33, 4294967295]", true, true),
            ("[1]", "[]", true, true),
            ("[1]", "[01]", false, false),
            ("[1]", "[4294967296]", false, false),
            ("[1]", "null", false, true),
            ("[1.5]", "[]", false, true),
            ("[1.5]", "[-1e-7,0]", false, true),
            ("[1.5]", "[1e999]", false, false),
            (":7", ":8", false, true),
            (":7", ":\"8\"", false, true),
            ("0", "1", false, true),
            ("null", "\"stop\"", false, false),
            ("\"created\"", "\"error\":1,\"created\"", false, false),
            ("\"index\"", "\"index\":0,\"index\"", false, false),
            ("\"index\"", "\"\\u0069ndex\"", false, false),
        ];
        for (from, to, at_once, learned_from) in cases {
            let mut templates = Templates::default();
            assert!(text_of(&mut templates, FIRST).is_none());
            templates.learn(FIRST, Endpoint::OpenAi);
            assert_eq!(text_of(&mut templates, FIRST), Some(("a".to_owned(), vec![1])));
            let other = FIRST.replacen(from, to, 1);
            assert_ne!(other, FIRST);
            assert_eq!(text_of(&mut templates, &other).is_some(), at_once, "{other}");
            templates.learn(&other, Endpoint::OpenAi);
            assert_eq!(
                text_of(&mut templates, &other).is_some(),
                learned_from,
                "{other}, after it was learned"
            );
            assert!(text_of(&mut templates, FIRST).is_some(), "{FIRST}, after {other}");
        }
    }

    #[test]
    fn a_chunk_with_a_line_end_does_not_become_a_template() {
        let mut templates = Templates::default();
        let json = FIRST.replace(",\"choices\"", ",\n\"choices\"");
        templates.learn(&json, Endpoint::OpenAi);
        assert!(text_of(&mut templates, &json).is_none());
    }

    #[test]
    fn a_stream_of_different_chunks_costs_only_a_few_lessons() {
        let mut templates = Templates::default();
        for n in 0..1000 {
            let json = FIRST.replace("\"x\"", &format!("\"x{n}\""));
            assert!(text_of(&mut templates, &json).is_none());
            templates.learn(&json, Endpoint::OpenAi);
        }
        assert!(templates.credit < LESSON && templates.templates.len() == MAX_TEMPLATES);
    }
}
