//! Finds the built-in dialects and chat formats by their names.

use crate::error::Error;

/// The values that a folder of JSON files contains, each with its name.
///
/// If a file cannot be read, its entry is the error.
pub(crate) type BuiltIn<T> = Vec<(&'static str, Result<T, String>)>;

/// Returns the value with this name. The error lists the known names.
pub(crate) fn find<'a, T>(all: &'a BuiltIn<T>, what: &str, folder: &str, name: &str) -> Result<&'a T, Error> {
    match all.iter().find(|(known, _)| *known == name) {
        Some((_, Ok(value))) => Ok(value),
        Some((_, Err(why))) => Err(Error::invalid(format!("{folder}/{name}.json: {why}"))),
        None => {
            let names: Vec<&str> =
                all.iter().filter(|(_, value)| value.is_ok()).map(|(name, _)| *name).collect();
            Err(Error::invalid(format!("unknown {what} {name:?}: expected one of {}", names.join(", "))))
        }
    }
}

/// Lists the JSON files in a folder, each with its name and its text.
macro_rules! files {
    ($folder:literal $($name:literal)*) => { &[$(($name, include_str!(concat!($folder, $name, ".json")))),*] };
}

/// Implements the conversions of a type with a name: `Debug`, `Display` and `FromStr`.
macro_rules! by_name {
    ($type:ident, $what:literal) => {
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($type)).field(&self.name()).finish()
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = Error;

            #[doc = concat!("Returns the ", $what, " with this name, like [`by_name`](Self::by_name).")]
            fn from_str(name: &str) -> Result<Self, Error> {
                Self::by_name(name)
            }
        }
    };
}

pub(crate) use {by_name, files};
