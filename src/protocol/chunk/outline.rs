//! Finds the values in the JSON of a chunk, and determines how the decoder uses each value.
//!
//! The chunk has already been read by `json` and decoded without an error. This code therefore does
//! not check the JSON. It finds the values that may be different in the next chunk. For an unusual
//! chunk, it returns `None`, and the chunk does not become a template. The tables use the keys of
//! `json`. If a key is in `json` but not in a table here, its value must be the same in the next
//! chunk.

use super::json::{Choice, Chunk, Delta, Logprob, Logprobs, Timings, UsageDetails, UsageFields, Verbose};
use crate::protocol::server::endpoint::Endpoint;

/// The position of a value in the JSON, and how the decoder uses the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaf {
    /// The index of the value's first byte in the JSON.
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The value must be the same in the next chunk.
    Fixed,
    Text(Text),
    Count(Count),
    /// A list of ids.
    Ids,
    /// A single id outside of a list: the id of a log-probability.
    Id,
    /// A value that the decoder ignores. It may be any string, number or list of numbers.
    OtherText,
    OtherNumber,
    OtherNumbers,
}

/// The meaning of a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Content,
    Reasoning,
    /// The text of `reasoning_content`, the second name for reasoning.
    ReasoningContent,
}

/// The meaning of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    Index,
    Prompt,
    Completion,
    Cached,
    Reasoning,
    Predicted,
    Evaluated,
}

pub(super) const COUNTS: usize = Count::Evaluated as usize + 1;

/// The maximum number of keys in one object of a template. A template also has a maximum of values.
const MAX_KEYS: usize = 64;
const MAX_LEAVES: usize = 256;

/// The kind of value that is expected at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Choices,
    Choice,
    Delta,
    Usage,
    PromptDetails,
    CompletionDetails,
    Verbose,
    Timings,
    Logprobs,
    LogprobList,
    Logprob,
    LogprobId,
    Text(Text),
    Count(Count),
    Ids,
    /// A value that the decoder reads. The whole value must be the same in the next chunk.
    Fixed,
    /// The decoder ignores this value.
    Other,
    // For the following kinds, a chunk with any other value at the position cannot become a
    // template.
    Null,
    NullOrEmpty,
    NullOrFalse,
    /// The value null or `"none"`.
    NullOrNone,
    Never,
}

impl Place {
    /// Returns whether only certain scalars are allowed at the position, but no list or object.
    fn is_bare(self) -> bool {
        matches!(self, Self::Null | Self::NullOrFalse | Self::NullOrNone | Self::Never | Self::LogprobId)
    }
}

/// The keys of one kind of object, each with the kind of its value.
type Keys = &'static [(&'static str, Place)];

const ROOT: Keys = &[
    ("choices", Place::Choices),
    ("usage", Place::Usage),
    ("__verbose", Place::Verbose),
    ("prompt_progress", Place::Null),
    ("error", Place::Null),
    ("stop", Place::NullOrFalse),
    ("stop_type", Place::NullOrNone),
    // The decoder checks only whether this key is present. It ignores the value.
    ("timings", Place::Other),
];

/// The outermost object on llama.cpp's native endpoint.
const NATIVE_ROOT: Keys = &[
    ("index", Place::Count(Count::Index)),
    ("content", Place::Text(Text::Content)),
    ("tokens", Place::Ids),
    ("tokens_predicted", Place::Count(Count::Predicted)),
    ("tokens_evaluated", Place::Count(Count::Evaluated)),
    ("timings", Place::Timings),
    ("choices", Place::Never),
    ("prompt_progress", Place::Null),
    ("error", Place::Null),
    ("stop", Place::NullOrFalse),
    ("stop_type", Place::NullOrNone),
];

/// A choice. Its text is in `text`, or in `delta` on the chat endpoint.
const CHOICE: Keys = &[
    ("index", Place::Count(Count::Index)),
    ("text", Place::Text(Text::Content)),
    ("delta", Place::Delta),
    ("token_ids", Place::Ids),
    ("logprobs", Place::Logprobs),
    ("finish_reason", Place::Null),
];

const DELTA: Keys = &[
    ("content", Place::Text(Text::Content)),
    ("reasoning", Place::Text(Text::Reasoning)),
    ("reasoning_content", Place::Text(Text::ReasoningContent)),
    ("tool_calls", Place::NullOrEmpty),
];

const USAGE: Keys = &[
    ("prompt_tokens", Place::Count(Count::Prompt)),
    ("completion_tokens", Place::Count(Count::Completion)),
    ("prompt_tokens_details", Place::PromptDetails),
    ("completion_tokens_details", Place::CompletionDetails),
];

const VERBOSE: Keys = &[
    ("tokens", Place::Ids),
    ("tokens_predicted", Place::Count(Count::Predicted)),
    ("prompt_progress", Place::Null),
];

const PROMPT_DETAILS: Keys = &[("cached_tokens", Place::Count(Count::Cached))];
const COMPLETION_DETAILS: Keys = &[("reasoning_tokens", Place::Count(Count::Reasoning))];
const TIMINGS: Keys = &[("cache_n", Place::Count(Count::Cached))];
const LOGPROBS: Keys = &[("content", Place::LogprobList)];
const LOGPROB: Keys = &[("id", Place::LogprobId)];

/// Returns the kind of value under `key` in an object at `parent`, for this endpoint.
fn place_of(endpoint: Endpoint, parent: Place, key: &[u8]) -> Place {
    // `places` is the table of this object, and `known` lists the keys that `json` reads. If a key
    // is only in `known`, its value must not change.
    let (places, known) = match parent {
        Place::Root if endpoint == Endpoint::LlamaCpp => (NATIVE_ROOT, Chunk::KEYS),
        Place::Root => (ROOT, Chunk::KEYS),
        Place::Choice => (CHOICE, Choice::KEYS),
        Place::Delta => (DELTA, Delta::KEYS),
        Place::Usage => (USAGE, UsageFields::KEYS),
        Place::PromptDetails => (PROMPT_DETAILS, UsageDetails::KEYS),
        Place::CompletionDetails => (COMPLETION_DETAILS, UsageDetails::KEYS),
        Place::Verbose => (VERBOSE, Verbose::KEYS),
        Place::Timings => (TIMINGS, Timings::KEYS),
        Place::Logprobs => (LOGPROBS, Logprobs::KEYS),
        Place::Logprob => (LOGPROB, Logprob::KEYS),
        Place::Other => return Place::Other,
        _ => return Place::Fixed,
    };
    let found = places.iter().find(|(name, _)| name.as_bytes() == key);
    match found.map(|(_, place)| *place) {
        // The tables contain keys that the decoder does not read on this endpoint.
        Some(Place::Verbose) if endpoint == Endpoint::VllmGenerate => Place::Fixed,
        Some(Place::Delta) if endpoint != Endpoint::Chat => Place::Fixed,
        Some(Place::Text(_)) if parent == Place::Choice && endpoint == Endpoint::Chat => Place::Fixed,
        Some(place) => place,
        None if known.iter().any(|name| name.as_bytes() == key) => Place::Fixed,
        None => Place::Other,
    }
}

/// Returns all values of the chunk in the order of the text.
///
/// Returns `None` if the chunk cannot become a template. Such a chunk contains more than text, ids
/// and counts, or these values have an unexpected form.
pub(super) fn outline(json: &str, endpoint: Endpoint) -> Option<Vec<Leaf>> {
    let mut walk = Walk { json: json.as_bytes(), at: 0, endpoint, leaves: Vec::new(), ids: 0, choices: 0 };
    walk.value(Place::Root)?;
    let is_whole = match endpoint {
        Endpoint::LlamaCpp => walk.leaves.iter().any(|leaf| leaf.kind == Kind::Text(Text::Content)),
        _ => walk.choices == 1,
    };
    // If the chunk has ids in two fields, the decoder uses only one field. Such a chunk cannot be a
    // template.
    (is_whole && walk.ids <= 1).then_some(walk.leaves)
}

struct Walk<'a> {
    json: &'a [u8],
    at: usize,
    endpoint: Endpoint,
    leaves: Vec<Leaf>,
    /// The number of fields with ids.
    ids: usize,
    choices: usize,
}

impl Walk<'_> {
    fn value(&mut self, place: Place) -> Option<()> {
        self.skip_blank();
        match self.peek()? {
            b'{' => self.object(place),
            b'[' => self.list(place),
            _ => self.scalar(place),
        }
    }

    fn scalar(&mut self, place: Place) -> Option<()> {
        let from = self.at;
        let rest = &self.json[from..];
        let (len, kind) = match (rest[0], place) {
            (b'"', Place::Text(text)) => (string_len(rest)?, Kind::Text(text)),
            (b'"', Place::Other) => (string_len(rest)?, Kind::OtherText),
            (b'"', _) => (string_len(rest)?, Kind::Fixed),
            (b'a'..=b'z', _) => {
                (rest.iter().take_while(|byte| byte.is_ascii_lowercase()).count(), Kind::Fixed)
            }
            (_, Place::Count(count)) => (number_len(rest)?, Kind::Count(count)),
            (_, Place::LogprobId) => (number_len(rest)?, Kind::Id),
            (_, Place::Other) => (number_len(rest)?, Kind::OtherNumber),
            (_, _) => (number_len(rest)?, Kind::Fixed),
        };
        // A template accepts only plain digits. `1.0` and `1e0` are also valid counts, but only the
        // full parser reads them.
        if matches!(kind, Kind::Count(_) | Kind::Id) && plain_count(rest)?.1 != len {
            return None;
        }
        let allowed = match (&rest[..len], place) {
            (_, Place::Never) => false,
            (b"null", _) | (b"false", Place::NullOrFalse) | (b"\"none\"", Place::NullOrNone) => true,
            (_, Place::LogprobId) => kind == Kind::Id,
            _ => !place.is_bare() && place != Place::NullOrEmpty,
        };
        self.ids += usize::from(kind == Kind::Id);
        self.at += len;
        if allowed { self.leaf(from, kind) } else { None }
    }

    fn object(&mut self, place: Place) -> Option<()> {
        if place.is_bare() || place == Place::NullOrEmpty {
            return None;
        }
        let mut keys: Vec<&[u8]> = Vec::new();
        self.at += 1;
        self.skip_blank();
        while self.peek()? != b'}' {
            let from = self.at;
            self.at += string_len(&self.json[from..])?;
            let key = &self.json[from + 1..self.at - 1];
            // A repeated key could change the meaning of the chunk, and a key with escapes can have
            // several spellings. Such a chunk cannot be a template.
            if key.contains(&b'\\') || keys.contains(&key) || keys.len() == MAX_KEYS {
                return None;
            }
            keys.push(key);
            self.skip_blank();
            if self.peek()? != b':' {
                return None;
            }
            self.at += 1;
            self.value(place_of(self.endpoint, place, key))?;
            self.skip_to_next();
        }
        self.at += 1;
        Some(())
    }

    fn list(&mut self, place: Place) -> Option<()> {
        let from = self.at;
        let of = match place {
            Place::Ids => {
                self.at += ids_len(&self.json[from..])?;
                self.ids += 1;
                return self.leaf(from, Kind::Ids);
            }
            Place::Other => {
                if let Some(len) = numbers_len(&self.json[from..]) {
                    self.at += len;
                    return self.leaf(from, Kind::OtherNumbers);
                }
                Place::Other
            }
            Place::Choices => Place::Choice,
            Place::LogprobList => Place::Logprob,
            Place::NullOrEmpty => Place::Never,
            _ if place.is_bare() => return None,
            _ => Place::Fixed,
        };
        let mut items = 0;
        self.at += 1;
        self.skip_blank();
        while self.peek()? != b']' {
            self.value(of)?;
            items += 1;
            self.skip_to_next();
        }
        self.at += 1;
        if place == Place::Choices {
            self.choices = items;
        }
        (place != Place::LogprobList || items <= 1).then_some(())
    }

    fn leaf(&mut self, from: usize, kind: Kind) -> Option<()> {
        self.leaves.push(Leaf { from, to: self.at, kind });
        (self.leaves.len() <= MAX_LEAVES).then_some(())
    }

    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn skip_blank(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// Skips a comma, if it is the next byte.
    fn skip_to_next(&mut self) {
        self.skip_blank();
        if self.peek() == Some(b',') {
            self.at += 1;
            self.skip_blank();
        }
    }
}

// The functions below return the length of the value at the beginning of some bytes. They return
// `None` if the value has an unexpected form.

/// Returns the length of a string, including its quotes.
pub(super) fn string_len(bytes: &[u8]) -> Option<usize> {
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            ..0x20 => return None,
            _ => at += 1,
        }
    }
}

/// Returns a whole number from 0 to `u32::MAX` in plain digits, and its length.
#[inline]
pub(super) fn plain_count(bytes: &[u8]) -> Option<(u32, usize)> {
    let (mut number, mut len) = (0_u64, 0);
    while let Some(digit) = bytes.get(len).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        number = number * 10 + u64::from(digit);
        len += 1;
        if len > 10 {
            return None;
        }
    }
    let is_plain = len == 1 || (len > 1 && bytes[0] != b'0');
    is_plain.then_some((u32::try_from(number).ok()?, len))
}

/// Returns the length of a number, or `None` if its value is near the limits of an `f64`.
#[inline]
pub(super) fn number_len(bytes: &[u8]) -> Option<usize> {
    let sign = usize::from(bytes.first() == Some(&b'-'));
    let whole = digits_len(bytes.get(sign..)?);
    let has_zero = whole > 1 && bytes[sign] == b'0';
    if whole == 0 || whole > 19 || has_zero {
        return None;
    }
    let len = sign + whole;
    match bytes.get(len) {
        Some(b'.' | b'e' | b'E') => Some(len + fraction_len(&bytes[len..])?),
        _ => Some(len),
    }
}

fn fraction_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    if bytes[0] == b'.' {
        let part = digits_len(&bytes[1..]);
        if part == 0 || part > 40 {
            return None;
        }
        at += 1 + part;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let power = digits_len(bytes.get(at..)?);
        if power == 0 || power > 2 {
            return None;
        }
        at += power;
    }
    Some(at)
}

fn digits_len(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// Returns the length of a list of ids, if it has the format that servers use.
fn ids_len(bytes: &[u8]) -> Option<usize> {
    list_len(bytes, |item| plain_count(item).map(|(_, len)| len))
}

pub(super) fn numbers_len(bytes: &[u8]) -> Option<usize> {
    list_len(bytes, number_len)
}

/// Returns the length of a list in brackets. Each comma may be followed by one space.
#[inline]
pub(super) fn list_len(bytes: &[u8], mut item_len: impl FnMut(&[u8]) -> Option<usize>) -> Option<usize> {
    let mut at = 1;
    if bytes.first() != Some(&b'[') {
        return None;
    }
    if bytes.get(at) == Some(&b']') {
        return Some(2);
    }
    loop {
        at += item_len(bytes.get(at..)?)?;
        match bytes.get(at)? {
            b']' => return Some(at + 1),
            b',' => at += 1 + usize::from(bytes.get(at + 1) == Some(&b' ')),
            _ => return None,
        }
    }
}
