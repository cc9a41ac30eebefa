//! The JSON of chunks, borrowed from the event's data, for all the wires at once.
//!
//! To whoever changes this: parsing fails on bad JSON only. A field of an unexpected type, a key given twice
//! (the last one wins, as in most parsers; serde's derive would make it an error) or a key that is not known
//! never ends a stream here; whether an odd value matters is for the reader of the wire to say, which knows
//! what it needed. Known keys are listed once, in the `object!` tables at the top.
//!
//! A chunk of one choice with one id is read without an allocation, save for text that has escapes in it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{MAX_CHOICES, MAX_TOKEN_IDS, MAX_TOOL_CALLS};
use crate::types::ids::{TokenId, Usage};

/// Makes a struct of the fields in the table and reads it in its place: unknown keys are skipped, the last of equal keys
/// wins, null is the same as nothing, and what is no object is marked [`Shape::Odd`].
macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty = $key:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(super) struct $name<'a> {
            // Not every object is asked for its shape.
            #[allow(dead_code)]
            pub(super) shape: Shape,
            life: PhantomData<&'a ()>,
            $(pub(super) $field: $type,)*
        }

        impl $name<'_> {
            // Not every object is learned.
            #[allow(dead_code)]
            pub(super) const KEYS: &'static [&'static str] = &[$($key),*];
        }

        impl<'de: 'a, 'a> Fill<'de> for $name<'a> {
            fn fill<D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
                #[allow(non_camel_case_types)]
                enum Key { $($field,)* Other }
                struct KeyVisitor;
                impl Visitor<'_> for KeyVisitor {
                    type Value = Key;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a key")
                    }
                    #[inline]
                    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                        Ok(match key {
                            $($key => Key::$field,)*
                            _ => Key::Other,
                        })
                    }
                }
                impl<'de> DeserializeSeed<'de> for KeyVisitor {
                    type Value = Key;
                    #[inline]
                    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
                        deserializer.deserialize_str(self)
                    }
                }
                struct ObjectVisitor<'x, 'a>(&'x mut $name<'a>);
                impl<'de: 'a, 'a> Visitor<'de> for ObjectVisitor<'_, 'a> {
                    type Value = ();
                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
                        self.0.shape = Shape::Given;
                        while let Some(key) = map.next_key_seed(KeyVisitor)? {
                            match key {
                                $(Key::$field => map.next_value_seed(InPlace(&mut self.0.$field))?,)*
                                Key::Other => drop(map.next_value::<IgnoredAny>()?),
                            }
                        }
                        Ok(())
                    }
                    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
                        self.0.shape = Shape::Odd;
                        IgnoredAny.visit_seq(seq).map(drop)
                    }
                    or_else!();
                }
                // The last of equal keys wins.
                if self.shape != Shape::Missing {
                    *self = Self::default();
                }
                deserializer.deserialize_any(ObjectVisitor(self))
            }
        }
    };
}

/// The visits of scalars for a visitor that wanted something else: null is nothing, the rest is odd.
macro_rules! or_else {
    () => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any JSON")
        }
        fn visit_unit<E>(self) -> Result<(), E> {
            self.0.shape = Shape::Null;
            Ok(())
        }
        or_else!(odd visit_bool bool, visit_u64 u64, visit_i64 i64, visit_f64 f64, visit_str &str);
    };
    (odd $($visit:ident $type:ty),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<(), E> {
            self.0.shape = Shape::Odd;
            Ok(())
        })*
    };
}

/// Reads a value to where it belongs: an object of a chunk has a thousand bytes and more, and each move of it costs as many
/// instructions as there are in a short parse.
pub(super) trait Fill<'de>: Default {
    fn fill<D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error>;
}

struct InPlace<'x, T>(&'x mut T);

impl<'de, T: Fill<'de>> DeserializeSeed<'de> for InPlace<'_, T> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.fill(deserializer)
    }
}

/// What is small is moved.
macro_rules! fill_by_move {
    ($($type:ty),*) => {
        $(impl<'de: 'a, 'a> Fill<'de> for $type {
            fn fill<D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
                *self = Deserialize::deserialize(deserializer)?;
                Ok(())
            }
        })*
    };
}

/// Reads the whole of some JSON.
pub(super) fn fill<'a, T: Fill<'a>>(value: &mut T, json: &'a str) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    value.fill(&mut deserializer)?;
    deserializer.end()
}

object! {
    /// The whole of an event's data, of whichever wire.
    Chunk {
        id: Scalar<'a> = "id",
        request_id: Scalar<'a> = "request_id",
        object: Scalar<'a> = "object",
        output_mode: Scalar<'a> = "output_mode",
        fingerprint: Scalar<'a> = "system_fingerprint",
        error: Scalar<'a> = "error",
        usage: UsageFields<'a> = "usage",
        choices: List<Choice<'a>, { MAX_CHOICES as usize }> = "choices",
        // llama.cpp: beside the OpenAI fields
        verbose: Verbose<'a> = "__verbose",
        timings: Timings<'a> = "timings",
        progress: Scalar<'a> = "prompt_progress",
        // llama.cpp: its native endpoint
        index: Scalar<'a> = "index",
        content: Scalar<'a> = "content",
        tokens: Ids = "tokens",
        stop: Scalar<'a> = "stop",
        stop_type: Scalar<'a> = "stop_type",
        tokens_predicted: Scalar<'a> = "tokens_predicted",
        tokens_evaluated: Scalar<'a> = "tokens_evaluated",
        // SGLang: its native endpoint
        text: Scalar<'a> = "text",
        output_ids: Ids = "output_ids",
        meta: Meta<'a> = "meta_info",
        // TGI
        token: TgiToken<'a> = "token",
        generated_text: Scalar<'a> = "generated_text",
        details: TgiDetails<'a> = "details",
    }
}

impl Chunk<'_> {
    /// The server says that it failed, whatever else is in it.
    pub(super) fn is_error(&self) -> bool {
        self.error.is_given() || self.object.text() == Some("error")
    }
}

object! {
    /// One of `choices`.
    Choice {
        index: Scalar<'a> = "index",
        text: Scalar<'a> = "text",
        delta: Delta<'a> = "delta",
        // A whole answer has this in place of the delta.
        message: Delta<'a> = "message",
        token_ids: Ids = "token_ids",
        logprobs: Logprobs<'a> = "logprobs",
        finish_reason: Scalar<'a> = "finish_reason",
        // Of no meaning here, but SGLang and TensorRT-LLM alone have them.
        matched_stop: Mark = "matched_stop",
        avg_decoded: Mark = "avg_decoded_tokens_per_iter",
    }
}

object! {
    /// What a chat chunk adds.
    Delta {
        content: Scalar<'a> = "content",
        reasoning: Scalar<'a> = "reasoning",
        reasoning_content: Scalar<'a> = "reasoning_content",
        tool_calls: List<CallDelta<'a>, MAX_TOOL_CALLS> = "tool_calls",
        // Together, in chat and beside the text of completions
        token_id: Id = "token_id",
    }
}

object! {
    /// A piece of a tool call.
    CallDelta {
        index: Scalar<'a> = "index",
        id: Scalar<'a> = "id",
        function: FunctionDelta<'a> = "function",
    }
}

object! {
    FunctionDelta {
        name: Scalar<'a> = "name",
        arguments: Written<'a> = "arguments",
    }
}

object! {
    /// SGLang's native endpoint: what is said beside text and ids.
    Meta {
        id: Scalar<'a> = "id",
        finish_reason: MetaFinish<'a> = "finish_reason",
        prompt_tokens: Scalar<'a> = "prompt_tokens",
        completion_tokens: Scalar<'a> = "completion_tokens",
        cached_tokens: Scalar<'a> = "cached_tokens",
    }
}

object! { MetaFinish { kind: Scalar<'a> = "type", } }

object! {
    /// TGI's token.
    TgiToken {
        id: Id = "id",
        text: Scalar<'a> = "text",
        special: Scalar<'a> = "special",
    }
}

object! {
    /// In TGI's last event, if the request asked for details; the list is in whole answers only.
    TgiDetails {
        tokens: List<TgiToken<'a>, MAX_TOKEN_IDS> = "tokens",
        finish_reason: Scalar<'a> = "finish_reason",
        generated_tokens: Scalar<'a> = "generated_tokens",
        input_length: Scalar<'a> = "input_length",
    }
}

object! {
    /// llama.cpp's `logprobs`: also on its completions endpoint in the shape of chat.
    Logprobs { content: List<LogprobId, MAX_TOKEN_IDS> = "content", }
}

object! { Logprob { id: Id = "id", } }

object! {
    /// llama.cpp's native event inside an OpenAI chunk.
    Verbose {
        tokens: Ids = "tokens",
        tokens_predicted: Scalar<'a> = "tokens_predicted",
        progress: Scalar<'a> = "prompt_progress",
    }
}

object! {
    /// A whole answer, looked at for the ids of its prompt: vLLM has them in the choice, in chat at the top.
    Prompted {
        ids: Ids = "prompt_token_ids",
        choices: List<PromptedChoice<'a>, { MAX_CHOICES as usize }> = "choices",
        details: PromptedDetails<'a> = "details",
    }
}

object! { PromptedChoice { ids: Ids = "prompt_token_ids", } }

object! {
    /// TGI, if the request asked for `decoder_input_details`.
    PromptedDetails { prefill: List<LogprobId, MAX_TOKEN_IDS> = "prefill", }
}

object! { Timings { cache_n: Scalar<'a> = "cache_n", } }

object! {
    /// `usage`, as OpenAI has it.
    UsageFields {
        prompt_tokens: Scalar<'a> = "prompt_tokens",
        completion_tokens: Scalar<'a> = "completion_tokens",
        prompt_details: UsageDetails<'a> = "prompt_tokens_details",
        completion_details: UsageDetails<'a> = "completion_tokens_details",
    }
}

object! {
    UsageDetails {
        cached_tokens: Scalar<'a> = "cached_tokens",
        reasoning_tokens: Scalar<'a> = "reasoning_tokens",
    }
}

impl UsageFields<'_> {
    /// The counts, if `completion_tokens` is one; counts beyond `u32` are no counts.
    pub(super) fn usage(&self) -> Option<Usage> {
        Some(Usage {
            completion_tokens: self.completion_tokens.count()?,
            prompt_tokens: self.prompt_tokens.count().unwrap_or(0),
            cached_tokens: self.prompt_details.cached_tokens.count(),
            reasoning_tokens: self.completion_details.reasoning_tokens.count(),
        })
    }
}

/// What stood in the place of an object or a list.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    #[default]
    Missing,
    Null,
    Given,
    /// Something of another type.
    Odd,
    /// A list longer than it may be; of its items none is kept.
    Long,
}

fill_by_move!(Scalar<'a>, Written<'a>, Id);

// --- scalars ---

/// A value that should be a scalar.
#[derive(Debug, Default)]
pub(super) enum Scalar<'a> {
    /// The key is missing, or its value is null.
    #[default]
    Nothing,
    Bool(bool),
    Uint(u64),
    /// A number that is negative or has a fraction, an exponent or more digits than `u64` holds.
    Float(f64),
    Text(Cow<'a, str>),
    /// A list or an object.
    Compound,
}

impl<'a> Scalar<'a> {
    pub(super) fn is_given(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text, empty if there is none; `Err` if another type stands there.
    pub(super) fn into_text(self) -> Result<Cow<'a, str>, ()> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Nothing => Ok(Cow::Borrowed("")),
            _ => Err(()),
        }
    }

    /// A whole number from 0 to `u32::MAX`, however it is written (`5`, `5.0`, `5e0`).
    pub(super) fn count(&self) -> Option<u32> {
        match *self {
            Self::Uint(n) => u32::try_from(n).ok(),
            // In this range, a whole `f64` is the same number as an integer: the cast is exact.
            Self::Float(n) if n >= 0.0 && n <= f64::from(u32::MAX) && n.fract() == 0.0 => Some(n as u32),
            _ => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor(PhantomData))
    }
}

struct ScalarVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for ScalarVisitor<'a> {
    type Value = Scalar<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Nothing)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Uint(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(u64::try_from(value).map_or(Scalar::Float(value as f64), Scalar::Uint))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Float(value))
    }
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(value)))
    }
    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(value.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_seq(seq).map(|_| Scalar::Compound)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let key = map.next_key::<Scalar<'_>>()?;
        // If some crate in the program turns on serde_json's `arbitrary_precision`, every number comes as
        // this map.
        if key.as_ref().and_then(Scalar::text) == Some("$serde_json::private::Number") {
            let digits = map.next_value::<Scalar<'_>>()?;
            let digits = digits.text().unwrap_or_default();
            let float = || digits.parse().map_or(Scalar::Compound, Scalar::Float);
            return Ok(digits.parse().map_or_else(|_| float(), Scalar::Uint));
        }
        if key.is_some() {
            map.next_value::<IgnoredAny>()?;
        }
        IgnoredAny.visit_map(map).map(|_| Scalar::Compound)
    }
}

// --- arguments ---

/// The arguments of a call as they were written: text that is JSON, or, from some servers, the JSON itself.
#[derive(Debug, Default)]
pub(super) struct Written<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Written<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WrittenVisitor(PhantomData))
    }
}

struct WrittenVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for WrittenVisitor<'a> {
    type Value = Written<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Written::default())
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Written(value.to_string().into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Written(value.to_string().into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Written(value.to_string().into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Written(value.to_string().into()))
    }
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Written(Cow::Borrowed(value)))
    }
    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Written(Cow::Owned(value.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        let value = Value::deserialize(SeqAccessDeserializer::new(seq))?;
        Ok(Written(value.to_string().into()))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let value = Value::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Written(value.to_string().into()))
    }
}

// --- lists ---

/// A list whose first item needs no allocation, of at most `MAX` items.
#[derive(Debug)]
pub(super) struct List<T, const MAX: usize> {
    pub(super) shape: Shape,
    first: Option<T>,
    rest: Vec<T>,
}

/// Something that is only looked at for being there.
pub(super) type Mark = List<Id, 1>;

/// Token ids.
pub(super) type Ids = List<Id, MAX_TOKEN_IDS>;

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self { shape: Shape::Missing, first: None, rest: Vec::new() }
    }
}

impl<T, const MAX: usize> List<T, MAX> {
    pub(super) fn first(&self) -> Option<&T> {
        self.first.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(&self.rest)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.first.iter_mut().chain(&mut self.rest)
    }

    pub(super) fn map<U>(self, each: impl FnMut(T) -> U + Copy) -> List<U, MAX> {
        let rest = self.rest.into_iter().map(each).collect();
        List { shape: self.shape, first: self.first.map(each), rest }
    }

    /// A list of these.
    pub(super) fn of(items: impl IntoIterator<Item = T>) -> Self {
        let mut items = items.into_iter();
        Self { shape: Shape::Given, first: items.next(), rest: items.collect() }
    }

    pub(super) fn into_items(self) -> impl Iterator<Item = T> {
        self.first.into_iter().chain(self.rest)
    }
}

impl<'de, T: Fill<'de>, const MAX: usize> Fill<'de> for List<T, MAX> {
    fn fill<D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
        struct ListVisitor<'x, T, const MAX: usize>(&'x mut List<T, MAX>);
        impl<'de, T: Fill<'de>, const MAX: usize> Visitor<'de> for ListVisitor<'_, T, MAX> {
            type Value = ();
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
                self.0.shape = Shape::Given;
                let first = self.0.first.insert(T::default());
                if seq.next_element_seed(InPlace(first))?.is_none() {
                    self.0.first = None;
                    return Ok(());
                }
                while 1 + self.0.rest.len() < MAX {
                    let mut item = T::default();
                    match seq.next_element_seed(InPlace(&mut item))? {
                        Some(()) => self.0.rest.push(item),
                        None => return Ok(()),
                    }
                }
                if seq.next_element::<IgnoredAny>()?.is_some() {
                    IgnoredAny.visit_seq(seq)?;
                    *self.0 = List { shape: Shape::Long, ..List::default() };
                }
                Ok(())
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
                self.0.shape = Shape::Odd;
                IgnoredAny.visit_map(map).map(drop)
            }
            or_else!();
        }
        if self.shape != Shape::Missing {
            *self = Self::default();
        }
        deserializer.deserialize_any(ListVisitor(self))
    }
}

// --- ids ---

/// What stands where an id should.
#[derive(Debug, Default, Clone, Copy)]
pub(super) enum Id {
    /// No key, or null.
    #[default]
    Nothing,
    Good(TokenId),
    /// Negative, too large, with a fraction, or no number at all.
    Bad,
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let scalar = Scalar::deserialize(deserializer)?;
        Ok(match scalar {
            Scalar::Nothing => Self::Nothing,
            _ => scalar.count().map_or(Self::Bad, Self::Good),
        })
    }
}

/// The id in an entry of `logprobs.content`, or of TGI's `prefill`.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct LogprobId(pub(super) Id);

impl<'de> Fill<'de> for LogprobId {
    fn fill<D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
        let mut logprob = Logprob::default();
        logprob.fill(deserializer)?;
        self.0 = logprob.id;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_borrowed_unless_it_has_escapes() {
        let mut chunk = Chunk::default();
        fill(&mut chunk, r#"{"content":"plain","id":"a\nb"}"#).unwrap();
        assert!(matches!(chunk.content, Scalar::Text(Cow::Borrowed("plain"))));
        assert!(matches!(&chunk.id, Scalar::Text(Cow::Owned(id)) if id == "a\nb"));
    }

    #[test]
    fn numbers_are_read_however_they_are_written() {
        let cases = [
            ("0", Some(0)),
            ("4294967295", Some(u32::MAX)),
            ("5.0", Some(5)),
            ("1e2", Some(100)),
            (r#"{"$serde_json::private::Number":"7"}"#, Some(7)),
            (r#"{"$serde_json::private::Number":"7.5"}"#, None),
            ("4294967296", None),
            ("-1", None),
            ("0.5", None),
            ("1e300", None),
            ("99999999999999999999", None),
            ("\"5\"", None),
            ("true", None),
            ("[5]", None),
            ("{}", None),
            ("null", None),
        ];
        for (json, count) in cases {
            assert_eq!(serde_json::from_str::<Scalar>(json).unwrap().count(), count, "{json}");
        }
    }

    #[test]
    fn a_list_has_a_limit_and_one_item_needs_no_allocation() {
        let list = |json| {
            let mut list = List::<Id, 3>::default();
            fill(&mut list, json).unwrap();
            list
        };
        assert_eq!(list("[1]").rest.capacity(), 0);
        for (json, shape, len) in [
            ("[]", Shape::Given, 0),
            ("[1,2,3]", Shape::Given, 3),
            ("[1,2,3,4]", Shape::Long, 0),
            ("[1,2,3,4,5]", Shape::Long, 0),
            ("null", Shape::Null, 0),
            ("{}", Shape::Odd, 0),
            ("7", Shape::Odd, 0),
        ] {
            let list = list(json);
            assert_eq!((list.shape, list.iter().count()), (shape, len), "{json}");
        }
    }
}
