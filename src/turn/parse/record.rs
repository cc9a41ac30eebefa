//! Reads a dialect from a record in JSON. `dialects/README.md` explains each key.
//!
//! This file defines the keys of a record. The module `compile` converts a record into a table.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::machines::headed::Header;
use super::machines::invoke::{Invoke, Parameter, Values};
use super::machines::json::Keys;
use super::marker::{List, Marker, Reasoning, Tag};

/// The minimum length, in characters, of a marker that may appear anywhere in a turn.
const MIN_MARKER_CHARS: usize = 3;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) name: Marker,
    /// The models that use the dialect, for human readers.
    #[serde(rename = "about")]
    _about: String,
    pub(super) think: Option<Reasoning>,
    #[serde(default)]
    pub(super) calls: Vec<Call>,
    pub(super) bare: Option<Inside>,
    #[serde(default)]
    pub(super) frames: List,
    pub(super) ends: List,
    #[serde(default)]
    pub(super) inner: List,
    #[serde(default)]
    pub(super) signs: List,
    pub(super) in_template: Option<Marker>,
    /// The cases for the tests.
    #[serde(default, rename = "cases")]
    _cases: IgnoredAny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Call {
    pub(super) open: Marker,
    pub(super) inside: Inside,
}

/// The format of the text inside a region of calls.
///
/// Each format has its own machine, which the documentation of the variant names.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Inside {
    /// The machine is [`JsonCalls`](super::machines::json::JsonCalls).
    Json {
        close: Option<Marker>,
        stops: Option<List>,
        #[serde(default)]
        keys: Keys,
    },
    /// The machine is [`BareJson`](super::machines::bare_json::BareJson).
    BareJson {
        stops: Option<List>,
        #[serde(default)]
        keys: Keys,
    },
    /// The machine is [`TaggedCalls`](super::machines::tagged::TaggedCalls).
    Tagged {
        close: Marker,
        stops: Option<List>,
        #[serde(default)]
        framed: bool,
        #[serde(default)]
        alone: bool,
        json: Option<Keys>,
    },
    /// The machine is [`HeadedCall`](super::machines::headed::HeadedCall).
    Headed {
        close: Option<Marker>,
        stops: Option<List>,
        marks: List,
        fence: Option<Marker>,
        header: Header,
        json: Option<Keys>,
    },
    /// The machine is [`Section`](super::machines::headed::Section).
    Section { followed_by: List },
    /// The machine is [`PythonCalls`](super::machines::python::PythonCalls).
    Python { close: Option<Marker>, stops: Option<List>, json: Option<Keys> },
    /// The machine is [`InvokeCalls`](super::machines::invoke::InvokeCalls).
    Invoke(Box<Invoke>),
    /// The machine is [`PairCalls`](super::machines::pairs::PairCalls).
    Pairs { close: Marker, stops: Option<List>, key: Tag, value: Tag },
    /// An opener of reasoning in addition to the first opener of the dialect.
    #[serde(alias = "thinking")]
    Reasoning { close: Marker },
}

/// Reads a record. An error contains the line and the column, or the key.
pub(super) fn read(text: &str) -> Result<Record, String> {
    let record: Record = serde_json::from_str(text).map_err(|error| error.to_string())?;
    record.check()?;
    Ok(record)
}

impl Record {
    /// Checks the rules that involve several values of the record.
    fn check(&self) -> Result<(), String> {
        let markers = self.structure();
        for (n, (key, marker)) in markers.iter().enumerate() {
            let text = &***marker;
            // A shorter marker would often appear in JSON and Python by chance. The opener `[` is
            // allowed, because it begins a Python list of calls.
            if text.chars().count() < MIN_MARKER_CHARS && !(text == "[" && key.ends_with("open")) {
                return Err(format!("{key}: {text:?} has fewer than {MIN_MARKER_CHARS} characters"));
            }
            // A marker must not be the beginning of another marker. Otherwise, the parser could not
            // decide which marker it has read. Two markers in `ends` are an exception.
            let begins = |(other_key, other): &&(String, &Marker)| {
                other.starts_with(text) && !(key.starts_with("ends") && other_key.starts_with("ends"))
            };
            let others = markers[..n].iter().chain(&markers[n + 1..]);
            if let Some((other_key, other)) = others.clone().find(begins) {
                return Err(format!("{key}: {text:?} is a prefix of {:?} ({other_key})", &***other));
            }
        }
        for (n, call) in self.calls.iter().enumerate() {
            call.inside.check().map_err(|why| format!("calls[{n}].inside.{why}"))?;
        }
        if let Some(bare) = &self.bare {
            bare.check().map_err(|why| format!("bare.{why}"))?;
        }
        List::try_from(self.default_stops().to_vec()).map_err(|why| format!("calls and ends: {why}"))?;
        Ok(())
    }

    /// Returns the markers that may appear anywhere in a turn, each with its key.
    ///
    /// If a marker closes several regions, the list contains it only once.
    fn structure(&self) -> Vec<(String, &Marker)> {
        let mut all = Vec::new();
        if let Some(think) = &self.think {
            all.extend([("think.open".to_owned(), &think.open), ("think.close".to_owned(), &think.close)]);
        }
        for (n, call) in self.calls.iter().enumerate() {
            all.push((format!("calls[{n}].open"), &call.open));
        }
        for (n, call) in self.calls.iter().enumerate() {
            let close = call.inside.close();
            let is_frame = |close: &&Marker| self.frames.iter().any(|frame| frame == *close);
            let is_new =
                |close: &&Marker| !all.iter().any(|(key, known)| key.ends_with("inside") && known == close);
            if let Some(close) = close.filter(|close| !is_frame(close)).filter(is_new) {
                all.push((format!("the end of calls[{n}].inside"), close));
            }
        }
        for (key, list) in [("frames", &self.frames), ("ends", &self.ends)] {
            all.extend(list.iter().enumerate().map(|(n, marker)| (format!("{key}[{n}]"), marker)));
        }
        all
    }

    /// Returns the stops of a region if the record does not list `stops` for it.
    pub(super) fn default_stops(&self) -> List {
        let regions = self.calls.iter().filter(|call| !matches!(call.inside, Inside::Reasoning { .. }));
        regions.map(|call| &call.open).chain(&*self.ends).cloned().collect()
    }
}

impl Inside {
    /// Returns the end marker of the region.
    fn close(&self) -> Option<&Marker> {
        match self {
            Self::Json { close, .. } | Self::Headed { close, .. } | Self::Python { close, .. } => {
                close.as_ref()
            }
            Self::Tagged { close, .. } | Self::Pairs { close, .. } | Self::Reasoning { close } => Some(close),
            Self::Invoke(invoke) => Some(&invoke.close),
            Self::BareJson { .. } | Self::Section { .. } => None,
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Headed { marks, header: Header::First { id_mark: Some(mark) }, .. }
                if !marks.iter().any(|known| known == mark) =>
            {
                Err(format!("headed.header.first.id_mark: {:?} is not one of the marks", &**mark))
            }
            Self::Invoke(invoke) => {
                let Parameter { open, close, key } = &invoke.parameter;
                match (invoke.values, open.strip_suffix('<')) {
                    (Values::Elements, None | Some("")) => {
                        Err("invoke.parameter.open: expected a namespace and `<` for elements".to_owned())
                    }
                    (Values::Elements, _) => Ok(()),
                    _ if close.is_none() || key.is_none() => {
                        Err("invoke.parameter: `close` or `key` is missing".to_owned())
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
