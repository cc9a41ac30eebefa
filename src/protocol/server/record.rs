//! A server record in JSON, as `records/README.md` describes it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::family::Family;
use super::fields::{FIELDS, FLAGS, Feature, validate_extras};

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    name: Name,
    pub(super) title: Option<String>,
    /// A description of the server for human readers.
    #[serde(rename = "about")]
    _about: String,
    like: Option<Like>,
    #[serde(alias = "told_by")]
    identified_by: Option<IdentifiedBy>,
    /// Maps the name of a field in tokenwire to the server's name. `None` leaves the field out.
    #[serde(default)]
    pub(super) renames: BTreeMap<String, Option<String>>,
    #[serde(default)]
    pub(super) sets: Map<String, Value>,
    /// Features that tokenwire rejects for this server, each with the reason.
    #[serde(default)]
    pub(super) refuses: BTreeMap<String, String>,
    pub(super) gives_ids: Option<bool>,
    /// Requests and their expected results. Only the tests use this field.
    #[serde(default, rename = "cases")]
    _cases: IgnoredAny,
    /// Responses and their decoded tokens. Only the tests use this field.
    #[serde(default, rename = "streams")]
    _streams: IgnoredAny,
}

/// The server's name. It must differ from the names of all known servers.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
            Err(format!("invalid name {name:?}: expected letters, digits, `_`, `-` and `.`"))
        } else if Family::by_name(&name).is_some() {
            Err(format!("{name:?} is the name of a built-in server"))
        } else {
            Ok(Self(name))
        }
    }
}

/// The name of a known server.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
struct Like(Family);

impl TryFrom<String> for Like {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Family::by_name(&name).map(Self).ok_or_else(|| {
            let names = Family::names().collect::<Vec<_>>().join(", ");
            format!("unknown server {name:?}, expected one of {names}")
        })
    }
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentifiedBy {
    owned_by: String,
}

/// Reads a record. The error message contains the line and the column, or the key.
pub(super) fn read(text: &str) -> Result<Record, String> {
    let record: Record = serde_json::from_str(text).map_err(|error| error.to_string())?;
    record.check()?;
    Ok(record)
}

impl Record {
    pub(super) fn name(&self) -> &str {
        &self.name.0
    }

    pub(super) fn family(&self) -> Option<Family> {
        self.like.as_ref().map(|like| like.0)
    }

    pub(super) fn owned_by(&self) -> Option<&str> {
        self.identified_by.as_ref().map(|told| told.owned_by.as_str())
    }

    /// Checks the rules that involve more than one value.
    fn check(&self) -> Result<(), String> {
        let texts = [("title", self.title.as_deref()), ("identified_by.owned_by", self.owned_by())];
        for (key, text) in texts {
            if text.is_some_and(|text| text.is_empty() || text.chars().any(char::is_control)) {
                return Err(format!("{key}: the text is empty or contains control characters"));
            }
        }
        if let Some(owner) = self.owned_by().filter(|owner| Family::by_owner(owner).is_some()) {
            return Err(format!("identified_by.owned_by: {owner:?} already identifies a built-in server"));
        }
        for (field, name) in &self.renames {
            self.check_rename(field, name.as_deref()).map_err(|why| format!("renames.{field}: {why}"))?;
        }
        for field in self.sets.keys() {
            // Callers set this field. A record that also set it would override the value of the
            // caller.
            if FIELDS.contains(&field.as_str()) || self.renames.values().flatten().any(|name| name == field) {
                return Err(format!("sets.{field}: only a request can set this field"));
            }
        }
        validate_extras(&self.sets).map_err(|error| format!("sets: {}", error.message()))?;
        for (field, reason) in &self.refuses {
            if Feature::by_name(field).is_none() {
                return Err(format!("refuses.{field}: unknown feature"));
            }
            if reason.trim().is_empty() || reason.chars().any(char::is_control) {
                return Err(format!("refuses.{field}: the reason is empty or contains control characters"));
            }
        }
        Ok(())
    }

    fn check_rename(&self, field: &str, name: Option<&str>) -> Result<(), String> {
        let is_flag = FLAGS.contains(&field);
        if !is_flag && !FIELDS.contains(&field) {
            return Err("unknown field".to_owned());
        }
        let Some(name) = name else {
            let why = "a field that callers set cannot be left out; list its feature in `refuses`";
            return if is_flag { Ok(()) } else { Err(why.to_owned()) };
        };
        if name.is_empty() {
            return Err("the new name is empty".to_owned());
        }
        let is_ours = FIELDS.contains(&name) || FLAGS.contains(&name);
        if is_ours && !self.renames.contains_key(name) {
            return Err(format!("{name:?} is the name of another field; rename that field too"));
        }
        let others = self.renames.iter().filter(|(other, _)| *other != field);
        match others.map(|(other, taken)| (other, taken.as_deref())).find(|(_, taken)| *taken == Some(name)) {
            Some((other, _)) => Err(format!("{name:?} is also the new name of {other}")),
            None => Ok(()),
        }
    }
}
