//! Decoding that learns the stream: the chunks of one stream differ in a few places only.
//!
//! A letter to whoever changes this next. A [`Template`] is a chunk that was read in the slow way, with its values' places
//! (`outline`). The next chunk is compared with it, bytes with bytes, and only at the places where values may differ is it
//! read. So nothing is accepted here that the slow way would read otherwise: the bytes that are equal mean what they meant
//! before; a value that is read here is one that serde_json takes, in its plainest spelling; for anything else the answer
//! is `None`, and the slow way says what it is. Which values may differ: text, ids and counts always; others, which mean
//! nothing to the decoder, once they were seen to differ.
//!
//! That both ways say the same is a property (`tests/common/chunk_property.rs`), held against every recording, and against
//! recordings that were changed at random.

use std::borrow::Cow;

use simdutf8::basic::from_utf8;

use super::MAX_TOKEN_IDS;
use super::endpoint::Endpoint;
use super::outline::{
    COUNTS, Count, Kind, Leaf, Text, list_len, number_len, numbers_len, outline, plain_count, string_len,
};
use crate::types::ids::TokenId;

/// Templates kept: chunks of some streams come in turns of two kinds, with text and without.
const MAX_TEMPLATES: usize = 3;
/// The longest chunk that is learned.
const MAX_TEMPLATE_BYTES: usize = 16 << 10;
/// To learn costs as much as to read a chunk in the slow way, so it must pay: each time takes [`LESSON`] of the credit that
/// each chunk read by what was learned gives back.
const MAX_CREDIT: u32 = 64;
const LESSON: u32 = 8;

/// What was learned of a stream.
#[derive(Debug)]
pub(super) struct Learned {
    templates: Vec<Template>,
    /// The one that fitted last.
    last: usize,
    /// The ids of the chunk that was read last.
    pub(super) ids: Vec<TokenId>,
    credit: u32,
    pub(super) is_on: bool,
}

/// A chunk with places in it.
#[derive(Debug, Default)]
struct Template {
    json: Vec<u8>,
    leaves: Vec<Leaf>,
    /// The leaves that may differ.
    holes: Vec<Leaf>,
    /// What stands before each of them, and behind the last.
    between: Vec<Box<[u8]>>,
    end: Box<[u8]>,
    /// The counts of this chunk.
    counts: Counts,
}

/// What a chunk says that fits a template; its ids are in [`Learned::ids`].
#[derive(Debug)]
pub(super) struct Said<'a> {
    /// Empty where the chunk has no such place.
    pub(super) text: Cow<'a, str>,
    pub(super) reasoning: Cow<'a, str>,
    counts: Counts,
}

type Counts = [Option<u32>; COUNTS];

impl Said<'_> {
    #[inline]
    pub(super) fn count(&self, count: Count) -> Option<u32> {
        self.counts[count as usize]
    }
}

impl Default for Learned {
    fn default() -> Self {
        Self { templates: Vec::new(), last: 0, ids: Vec::new(), credit: MAX_CREDIT, is_on: true }
    }
}

impl Learned {
    /// What the chunk says that `data` begins with, if it is like one that was learned, and how long it is; what follows has
    /// to be as `ends` says.
    #[inline]
    pub(super) fn read<'a>(
        &mut self,
        data: &'a [u8],
        ends: impl Fn(&[u8]) -> bool,
    ) -> Option<(Said<'a>, usize)> {
        let last = self.templates.get(self.last)?.read(data, &mut self.ids);
        let (said, rest) = match last.filter(|(_, rest)| ends(rest)) {
            Some(last) => last,
            None => self.read_as_another(data, ends)?,
        };
        if self.credit < MAX_CREDIT {
            self.credit += 1;
        }
        Some((said, data.len() - rest.len()))
    }

    fn read_as_another<'a>(
        &mut self,
        data: &'a [u8],
        ends: impl Fn(&[u8]) -> bool,
    ) -> Option<(Said<'a>, &'a [u8])> {
        let mut others = self.templates.iter().enumerate().filter(|(n, _)| *n != self.last);
        let (n, found) = others.find_map(|(n, other)| {
            let found = other.read(data, &mut self.ids).filter(|(_, rest)| ends(rest))?;
            Some((n, found))
        })?;
        self.last = n;
        Some(found)
    }

    /// Learns from a chunk that was read in the slow way, and in which the decoder found nothing but text, ids and counts.
    pub(super) fn learn(&mut self, json: &str, endpoint: Endpoint) {
        if !self.is_on || self.credit < LESSON || json.len() > MAX_TEMPLATE_BYTES {
            return;
        }
        self.credit -= LESSON;
        // A line end could not be told from that of an event's line.
        if json.bytes().any(|byte| byte < 0x20) {
            return;
        }
        let Some(leaves) = outline(json, endpoint) else { return };
        let mut new = Template { json: json.into(), leaves, ..Template::default() };
        for leaf in &new.leaves {
            if let Kind::Count(count) = leaf.kind {
                new.counts[count as usize] = plain_count(&new.json[leaf.from..]).map(|(value, _)| value);
            }
        }
        // One that differs in more than was known takes the place of what it is like.
        let same = self.templates.iter().enumerate().find_map(|(n, old)| Some((n, new.holes_beside(old)?)));
        let n = match same {
            Some((n, holes)) => {
                new.holes = holes;
                Some(n)
            }
            None => {
                new.holes = new.leaves.iter().filter(|leaf| leaf.kind.differs()).copied().collect();
                None
            }
        };
        let mut from = 0;
        for hole in &new.holes {
            new.between.push(new.json[from..hole.from].into());
            from = hole.to;
        }
        new.end = new.json[from..].into();
        self.last = match n {
            Some(n) => {
                self.templates[n] = new;
                n
            }
            None => {
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
    /// It is taken for one that differs before it was seen to.
    fn differs(self) -> bool {
        match self {
            Self::Text(_) | Self::Ids | Self::Id => true,
            Self::Count(count) => matches!(count, Count::Completion | Count::Predicted),
            Self::Fixed | Self::OtherText | Self::OtherNumber | Self::OtherNumbers => false,
        }
    }
}

impl Template {
    /// The places that may differ, if this is a chunk like the other but for values that may.
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
    fn read<'a>(&self, data: &'a [u8], ids: &mut Vec<TokenId>) -> Option<(Said<'a>, &'a [u8])> {
        let mut said = Said { text: Cow::Borrowed(""), reasoning: Cow::Borrowed(""), counts: self.counts };
        ids.clear();
        let mut rest = data;
        for (hole, before) in self.holes.iter().zip(&self.between) {
            rest = rest.strip_prefix(&**before)?;
            let len = match hole.kind {
                Kind::Text(text) => {
                    let (value, len) = string(rest)?;
                    match text {
                        Text::Said => said.text = value,
                        Text::Reasoning if !value.is_empty() => said.reasoning = value,
                        Text::ReasoningContent if said.reasoning.is_empty() => said.reasoning = value,
                        Text::Reasoning | Text::ReasoningContent => {}
                    }
                    len
                }
                Kind::Count(count) => {
                    let (value, len) = plain_count(rest)?;
                    said.counts[count as usize] = Some(value);
                    len
                }
                Kind::Ids => list_len(rest, |item| {
                    let (id, len) = plain_count(item)?;
                    ids.push(id);
                    (ids.len() <= MAX_TOKEN_IDS).then_some(len)
                })?,
                Kind::Id => {
                    let (id, len) = plain_count(rest)?;
                    ids.push(id);
                    len
                }
                Kind::OtherText => string(rest)?.1,
                Kind::OtherNumber => number_len(rest)?,
                Kind::OtherNumbers => numbers_len(rest)?,
                Kind::Fixed => return None,
            };
            rest = &rest[len..];
        }
        Some((said, rest.strip_prefix(&*self.end)?))
    }
}

/// A string with its quotes, and its length.
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

/// Halves of a character that is written as two escapes are for the slow way.
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

    fn text_of(learned: &mut Learned, json: &str) -> Option<(String, Vec<TokenId>)> {
        let (said, len) = learned.read(json.as_bytes(), <[u8]>::is_empty)?;
        assert_eq!(len, json.len());
        Some((said.text.into_owned(), learned.ids.clone()))
    }

    #[test]
    fn what_differs_in_text_and_ids_is_read_and_what_differs_elsewhere_is_learned_or_not() {
        // What is replaced by what, and whether a chunk with it is read: at once, and after it was learned from.
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
            let mut learned = Learned::default();
            assert!(text_of(&mut learned, FIRST).is_none());
            learned.learn(FIRST, Endpoint::OpenAi);
            assert_eq!(text_of(&mut learned, FIRST), Some(("a".to_owned(), vec![1])));
            let other = FIRST.replacen(from, to, 1);
            assert_ne!(other, FIRST);
            assert_eq!(text_of(&mut learned, &other).is_some(), at_once, "{other}");
            learned.learn(&other, Endpoint::OpenAi);
            assert_eq!(
                text_of(&mut learned, &other).is_some(),
                learned_from,
                "{other}, after it was learned"
            );
            assert!(text_of(&mut learned, FIRST).is_some(), "{FIRST}, after {other}");
        }
    }

    #[test]
    fn what_has_a_line_end_in_it_is_not_learned() {
        let mut learned = Learned::default();
        let json = FIRST.replace(",\"choices\"", ",\n\"choices\"");
        learned.learn(&json, Endpoint::OpenAi);
        assert!(text_of(&mut learned, &json).is_none());
    }

    #[test]
    fn a_stream_that_never_repeats_itself_costs_a_few_lessons() {
        let mut learned = Learned::default();
        for n in 0..1000 {
            let json = FIRST.replace("\"x\"", &format!("\"x{n}\""));
            assert!(text_of(&mut learned, &json).is_none());
            learned.learn(&json, Endpoint::OpenAi);
        }
        assert!(learned.credit < LESSON && learned.templates.len() == MAX_TEMPLATES);
    }
}
