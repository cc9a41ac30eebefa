//! Values in the JSON of a chunk: scalars, arguments, lists and ids, read in place.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::limits::MAX_TOKEN_IDS;
use crate::error::{Error, Limit};
use crate::types::ids::TokenId;

/// Declares the scalar methods for a visitor of lists or objects.
///
/// Any scalar except null has the wrong type.
macro_rules! or_else {
    () => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any JSON")
        }
        fn visit_unit<E>(self) -> Result<(), E> {
            self.0.presence = Presence::Null;
            Ok(())
        }
        or_else!(odd visit_bool bool, visit_u64 u64, visit_i64 i64, visit_f64 f64, visit_str &str);
    };
    (odd $($visit:ident $type:ty),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<(), E> {
            self.0.presence = Presence::WrongType;
            Ok(())
        })*
    };
}

pub(super) use or_else;

/// Reads a value into its final place in memory.
///
/// An object of a chunk has more than a thousand bytes. Moving it takes as long as parsing a short
/// chunk.
pub(super) trait Fill<'de>: Default {
    fn fill<D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error>;
}

pub(super) struct InPlace<'x, T>(pub(super) &'x mut T);

impl<'de, T: Fill<'de>> DeserializeSeed<'de> for InPlace<'_, T> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.fill(deserializer)
    }
}

/// Implements [`Fill`] for small values, which are moved.
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

/// Reads the whole JSON text into `value`. Bytes after the value are an error.
pub(super) fn fill<'a, T: Fill<'a>>(value: &mut T, json: &'a str) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    value.fill(&mut deserializer)?;
    deserializer.end()
}

/// The kind of value that was found where an object or a list was expected.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    #[default]
    Missing,
    Null,
    Given,
    /// A value of another type.
    WrongType,
    /// A list that is longer than allowed. Its items are not kept.
    TooLong,
}

fill_by_move!(Scalar<'a>, RawArguments<'a>, Id);

// --- scalars ---

/// A value that is expected to be a scalar.
#[derive(Debug, Default)]
pub(super) enum Scalar<'a> {
    /// The key is missing, or its value is null.
    #[default]
    Missing,
    Bool(bool),
    Uint(u64),
    /// A number that is negative, has a fraction or an exponent, or is too large for a `u64`.
    Float(f64),
    Text(Cow<'a, str>),
    /// A list or an object.
    Compound,
}

impl<'a> Scalar<'a> {
    pub(super) fn is_given(&self) -> bool {
        !matches!(self, Self::Missing)
    }

    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Returns the text, or `Err` for a value of another type. A missing key gives an empty text.
    pub(super) fn into_text(self) -> Result<Cow<'a, str>, ()> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Missing => Ok(Cow::Borrowed("")),
            _ => Err(()),
        }
    }

    /// Returns a whole number from 0 to `u32::MAX`, in any spelling (`5`, `5.0`, `5e0`).
    pub(super) fn count(&self) -> Option<u32> {
        match *self {
            Self::Uint(n) => u32::try_from(n).ok(),
            // In this range, a whole `f64` equals an integer, so the cast is exact.
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
        Ok(Scalar::Missing)
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
        // If any crate in the program enables serde_json's `arbitrary_precision`, every number
        // arrives as this map.
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

/// The arguments of a call as the server wrote them: JSON in a string, or a JSON value.
#[derive(Debug, Default)]
pub(super) struct RawArguments<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for RawArguments<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawArgumentsVisitor(PhantomData))
    }
}

/// Declares the visitor's methods for scalars, which are copied as the server wrote them.
macro_rules! as_written {
    ($($visit:ident $type:ty),*) => {
        $(fn $visit<E>(self, value: $type) -> Result<Self::Value, E> {
            Ok(RawArguments(value.to_string().into()))
        })*
    };
}

struct RawArgumentsVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for RawArgumentsVisitor<'a> {
    type Value = RawArguments<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(RawArguments::default())
    }
    as_written!(visit_bool bool, visit_u64 u64, visit_i64 i64, visit_f64 f64, visit_str &str);
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(RawArguments(Cow::Borrowed(value)))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        let value = Value::deserialize(SeqAccessDeserializer::new(seq))?;
        Ok(RawArguments(value.to_string().into()))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let value = Value::deserialize(MapAccessDeserializer::new(map))?;
        Ok(RawArguments(value.to_string().into()))
    }
}

// --- lists ---

/// A list of at most `MAX` items. A list of one item needs no allocation.
#[derive(Debug)]
pub(super) struct List<T, const MAX: usize> {
    pub(super) presence: Presence,
    first: Option<T>,
    rest: Vec<T>,
}

/// A value that is only checked for presence.
pub(super) type AnyValue = List<Id, 1>;

/// A list of token ids.
pub(super) type Ids = List<Id, MAX_TOKEN_IDS>;

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self { presence: Presence::Missing, first: None, rest: Vec::new() }
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

    /// Returns an error if the value is not a list, or has too many items. `what` names the items.
    #[inline]
    pub(super) fn check(&self, what: &str, limit: Limit) -> Result<(), Error> {
        match self.presence {
            Presence::WrongType => Err(Error::protocol(format!("the {what} of a chunk are not a list"))),
            Presence::TooLong => Err(Error::limit(limit, MAX as u64)),
            Presence::Missing | Presence::Null | Presence::Given => Ok(()),
        }
    }

    pub(super) fn map<U>(self, each: impl FnMut(T) -> U + Copy) -> List<U, MAX> {
        let rest = self.rest.into_iter().map(each).collect();
        List { presence: self.presence, first: self.first.map(each), rest }
    }

    /// Creates a list of these items.
    pub(super) fn of(items: impl IntoIterator<Item = T>) -> Self {
        let mut items = items.into_iter();
        Self { presence: Presence::Given, first: items.next(), rest: items.collect() }
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
                self.0.presence = Presence::Given;
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
                    *self.0 = List { presence: Presence::TooLong, ..List::default() };
                }
                Ok(())
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
                self.0.presence = Presence::WrongType;
                IgnoredAny.visit_map(map).map(drop)
            }
            or_else!();
        }
        if self.presence != Presence::Missing {
            *self = Self::default();
        }
        deserializer.deserialize_any(ListVisitor(self))
    }
}

// --- ids ---

/// The value that was found where an id was expected.
#[derive(Debug, Default, Clone, Copy)]
pub(super) enum Id {
    /// The key is missing, or its value is null.
    #[default]
    Missing,
    Valid(TokenId),
    /// The value is not an id: it is negative, too large, has a fraction, or is not a number.
    Invalid,
}

impl Id {
    #[inline]
    pub(super) fn valid(self) -> Option<TokenId> {
        if let Self::Valid(id) = self { Some(id) } else { None }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let scalar = Scalar::deserialize(deserializer)?;
        Ok(match scalar {
            Scalar::Missing => Self::Missing,
            _ => scalar.count().map_or(Self::Invalid, Self::Valid),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_every_spelling() {
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
        for (json, presence, len) in [
            ("[]", Presence::Given, 0),
            ("[1,2,3]", Presence::Given, 3),
            ("[1,2,3,4]", Presence::TooLong, 0),
            ("[1,2,3,4,5]", Presence::TooLong, 0),
            ("null", Presence::Null, 0),
            ("{}", Presence::WrongType, 0),
            ("7", Presence::WrongType, 0),
        ] {
            let list = list(json);
            assert_eq!((list.presence, list.iter().count()), (presence, len), "{json}");
        }
    }
}
