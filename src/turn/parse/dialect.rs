//! The dialects: what each family of models writes around reasoning and calls. A dialect is a table. Most are made of a
//! record, a file in `dialects/`; where a family writes as no other does, the table stands in the file of the machine that
//! reads it.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use super::machine::Machine;
use super::{gemma, harmony, record};
use crate::error::Error;
use crate::protocol::server::records::Kept;

/// The longest record that [`Dialect::from_json`] reads, in bytes.
pub const MAX_DIALECT_BYTES: usize = 256 << 10;

/// How many different records [`Dialect::from_json`] reads in one program.
pub const MAX_DIALECTS: usize = 256;

/// How a family of models writes reasoning and tool calls.
///
/// Chosen by name ([`Dialect::by_name`]), or from the model's added tokens ([`Dialect::guess`]); or one of your own
/// ([`Dialect::from_json`]). Two are equal if they were made of the same record.
///
/// ```
/// use tokenwire::Dialect;
///
/// let hermes: Dialect = "hermes".parse()?;
/// assert!(hermes.markers().contains(&"<tool_call>"));
/// let names: Vec<_> = Dialect::all().map(Dialect::name).collect();
/// assert!(names.contains(&"hermes"));
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Dialect(&'static Table);

/// A dialect's table.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) think: Option<Think>,
    pub(super) calls: &'static [Call],
    /// Structure that means nothing by itself: frames around lists of calls or around content.
    pub(super) frames: &'static [&'static str],
    /// Ends of the turn.
    pub(super) ends: &'static [&'static str],
    /// Markers within the bodies of calls, so that their tokens are known.
    pub(super) inner: &'static [&'static str],
    /// What a turn may begin with that has no opener (rule R8 of docs/parsing-rules.md).
    pub(super) bare: Option<Body>,
    /// Added tokens that tell this dialect: all of them must be there. Empty: no tokens tell it.
    pub(super) signs: &'static [&'static str],
    /// What chat templates tell the model to write, for dialects that have the same tokens as another; else empty.
    pub(super) in_template: &'static str,
}

impl Table {
    /// All of the other's signs are this one's too, and it has more. Not so between dialects that are told by the
    /// template: there, more tokens tell nothing.
    fn says_more_than(&self, other: &Self) -> bool {
        let has_all = other.signs.iter().all(|sign| self.signs.contains(sign));
        let by_template = !self.in_template.is_empty() && !other.in_template.is_empty();
        has_all && self.signs.len() > other.signs.len() && !by_template
    }

    fn is_told_by(&self, template: &str) -> bool {
        !self.in_template.is_empty() && template.contains(self.in_template)
    }
}

/// The markers of reasoning.
#[derive(Debug)]
pub(super) struct Think {
    pub(super) open: &'static str,
    pub(super) close: &'static str,
    /// A word after the opener that is no thought.
    pub(super) label: &'static str,
    /// The frames that an answer begins with: reasoning that is never closed ends there.
    pub(super) answer: &'static [&'static str],
}

/// What begins a region of calls, and how it is read.
pub(super) struct Call {
    pub(super) open: &'static str,
    pub(super) body: Body,
}

/// Makes a machine for the region whose opener stands at `open..body`.
pub(super) type Body = &'static (dyn Fn(usize, usize) -> Box<dyn Machine> + Send + Sync);

/// The files of `dialects/`, each its name and its text.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/dialects.rs"));

/// What the crate brings, in the order of the names; of a file that cannot be read, why.
static BUILT_IN: LazyLock<Vec<(&'static str, Result<&'static Table, String>)>> = LazyLock::new(|| {
    let files = FILES.iter().map(|(name, text)| (*name, record::read(text).map(|record| record.keep())));
    let own = [&harmony::HARMONY, &gemma::GEMMA4, &PLAIN].map(|table| (table.name, Ok(table)));
    let mut all: Vec<_> = files.chain(own).collect();
    all.sort_by_key(|(name, _)| *name);
    all
});

/// The records read by [`Dialect::from_json`], and what they are.
static READ: Kept<Table> = Kept::new(("dialect", "dialects"), MAX_DIALECT_BYTES, MAX_DIALECTS);

/// Any model without reasoning and calls.
static PLAIN: Table = Table {
    name: "plain",
    think: None,
    calls: &[],
    frames: &[],
    ends: &["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>"],
    inner: &[],
    bare: None,
    signs: &[],
    in_template: "",
};

/// A stream whose server has told everything apart.
static CHAT: Table = Table {
    name: "chat",
    think: None,
    calls: &[],
    frames: &[],
    ends: &[],
    inner: &[],
    bare: None,
    signs: &[],
    in_template: "",
};

impl Dialect {
    /// For the streams of chat endpoints, whose servers have told reasoning, content and calls apart already: no marker
    /// is looked for, all text is what it came as. It belongs to a stream and not to a model, so that
    /// [`by_name`](Self::by_name) and [`all`](Self::all) leave it out.
    pub const CHAT: Self = Self(&CHAT);

    /// No reasoning, no calls: all text is content.
    pub const PLAIN: Self = Self(&PLAIN);

    /// The dialect of this name, out of those that the crate brings.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) with the names there are.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, Ok(table))) => Ok(Self(table)),
            Some((_, Err(why))) => Err(Error::invalid(format!("dialects/{name}.json: {why}"))),
            None => {
                let names: Vec<&str> = Self::all().map(Self::name).collect();
                Err(Error::invalid(format!("no dialect is called {name:?}; there are {}", names.join(", "))))
            }
        }
    }

    /// A dialect of your own, out of a record in JSON: what the files in the repository's `dialects/` are, whose README says
    /// what each key means. The name need not be a new one; [`by_name`](Self::by_name) does not know it.
    ///
    /// What is read is kept as long as the program, and the same text read again is the same dialect.
    ///
    /// ```
    /// use tokenwire::{Dialect, ResponseParser};
    ///
    /// let dialect = Dialect::from_json(
    ///     r#"{
    ///         "name": "mine",
    ///         "about": "A model of my own.",
    ///         "calls": [{"open": "<call>", "inside": {"json": {"close": "</call>"}}}],
    ///         "ends": ["<eos>"]
    ///     }"#,
    /// )?;
    /// let mut parser = ResponseParser::new(dialect);
    /// let calls = parser.push("Hm. <call>{\"name\": \"now\"}</call><eos>", None);
    /// assert_eq!((calls[0].name.as_str(), parser.branch().content().as_str()), ("now", "Hm."));
    ///
    /// let error = Dialect::from_json("{\n  \"name\": \"\"}").unwrap_err();
    /// assert!(error.to_string().starts_with("not a dialect: a marker is empty at line 2 column "), "{error}");
    /// # Ok::<(), tokenwire::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with line and column or the key, for what is no such record; for
    /// more than [`MAX_DIALECT_BYTES`] bytes, and for more than [`MAX_DIALECTS`] different ones.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        READ.get(text, record::read, |record| record.keep()).map(Self)
    }

    /// The dialect that a model's added tokens tell, as
    /// [`Tokenizer::added_tokens`](crate::Tokenizer::added_tokens) has them. A dialect whose markers are plain text cannot be told
    /// so, and models that write in different ways can have the same tokens: Qwen3 (`hermes`), and Qwen3-Coder
    /// and Qwen3.5 (`qwen3_xml`). [`guess_with_template`](Self::guess_with_template) tells those apart.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with what was looked for, if no dialect is told, or more
    /// than one.
    pub fn guess<'a>(added: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        Self::guess_with_template(added, "")
    }

    /// As [`guess`](Self::guess); where several dialects have the same tokens, what the text of the model's chat
    /// template tells it to write decides.
    ///
    /// # Errors
    ///
    /// As for [`guess`](Self::guess).
    pub fn guess_with_template<'a>(
        added: impl IntoIterator<Item = &'a str>,
        template: &str,
    ) -> Result<Self, Error> {
        let added: HashSet<&str> = added.into_iter().collect();
        let is_told =
            |table: &Table| !table.signs.is_empty() && table.signs.iter().all(|sign| added.contains(sign));
        let tables = || Self::all().map(|dialect| dialect.0);
        let told: Vec<&'static Table> = tables().filter(|table| is_told(table)).collect();
        let is_outdone = |table: &Table| told.iter().any(|other| other.says_more_than(table));
        let mut left: Vec<_> = told.iter().copied().filter(|table| !is_outdone(table)).collect();
        let by_template = left.iter().filter(|table| table.is_told_by(template));
        if let [table] = by_template.copied().collect::<Vec<_>>()[..] {
            left = vec![table];
        }
        match left[..] {
            [table] => Ok(Self(table)),
            [] => {
                let signs = tables().filter(|table| !table.signs.is_empty());
                let signs = signs.map(|table| format!("{} ({})", table.name, table.signs.join(", ")));
                let signs: Vec<String> = signs.collect();
                Err(Error::invalid(format!(
                    "the added tokens tell no dialect; looked for all tokens of one of {}; choose one by its name",
                    signs.join("; ")
                )))
            }
            _ => {
                let names: Vec<&str> = left.iter().map(|table| table.name).collect();
                Err(Error::invalid(format!(
                    "the added tokens are those of {}, and the chat template was not given or does not tell \
                     which; choose one by its name",
                    names.join(" and ")
                )))
            }
        }
    }

    /// All dialects that the crate brings, in the order of their names.
    pub fn all() -> impl Iterator<Item = Self> {
        BUILT_IN.iter().filter_map(|(_, table)| table.as_ref().ok()).map(|table| Self(table))
    }

    /// The name, as [`by_name`](Self::by_name) takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// All markers, each once.
    #[must_use]
    pub fn markers(self) -> Vec<&'static str> {
        let Table { think, calls, frames, ends, inner, .. } = self.0;
        let think = think.iter().flat_map(|think| [think.open, think.close]);
        let calls = calls.iter().map(|call| call.open);
        let all = think.chain(calls).chain([*frames, *ends, *inner].into_iter().flatten().copied());
        let mut markers = Vec::new();
        for marker in all {
            if !markers.contains(&marker) {
                markers.push(marker);
            }
        }
        markers
    }

    pub(super) fn table(self) -> &'static Table {
        self.0
    }
}

impl PartialEq for Dialect {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Dialect {}

impl fmt::Debug for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dialect").field(&self.name()).finish()
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dialect {
    type Err = Error;

    /// As [`by_name`](Self::by_name).
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::by_name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_added_tokens_tell_the_dialect_or_the_error_says_what_was_looked_for() {
        let qwen2 = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"];
        let qwen3 = [&qwen2[..], &["<think>", "</think>", "<tool_response>"]].concat();
        let xml = "<tool_call>\n<function=example>\n";
        let json = r#"{"name": <function-name>, "arguments": <args-json-object>}"#;
        type Expected<'a> = Result<&'a str, &'a [&'a str]>;
        let cases: [(&[&str], &str, Expected<'_>); 10] = [
            (&qwen2, "", Ok("hermes")),
            (&qwen2, xml, Ok("hermes")),
            (&qwen3, xml, Ok("qwen3_xml")),
            (&qwen3, json, Ok("hermes")),
            (&qwen3, "", Err(&["hermes and qwen3_xml", "chat template"])),
            (&qwen3, &format!("{xml}{json}"), Err(&["hermes and qwen3_xml"])),
            (&["<|tool_call>", "<tool_call|>", "<|channel>", "<channel|>", "<|\"|>"], "", Ok("gemma4")),
            (&["<|python_tag|>", "<|eot_id|>", "<|eom_id|>"], "", Ok("llama3_json")),
            (&["<|im_end|>", "<|tool_call_start|>", "<|tool_call_end|>", "<think>"], "", Ok("lfm2")),
            (
                &["<|im_start|>", "<|im_end|>"],
                xml,
                Err(&["hermes (<tool_call>, </tool_call>)", "gemma4 (", "name"]),
            ),
        ];
        for (added, template, expected) in cases {
            match (Dialect::guess_with_template(added.iter().copied(), template), expected) {
                (Ok(dialect), Ok(name)) => assert_eq!(dialect.name(), name, "{added:?}"),
                (Err(error), Err(parts)) => {
                    assert_eq!(error.kind(), crate::error::ErrorKind::InvalidInput);
                    assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
                }
                (guessed, expected) => panic!("{added:?}: {guessed:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn the_tokens_of_a_dialect_tell_no_other() {
        for dialect in Dialect::all().filter(|dialect| !dialect.0.signs.is_empty()) {
            let markers = dialect.markers();
            let signs = dialect.0.signs;
            match Dialect::guess(markers.iter().chain(signs).copied()) {
                Ok(guessed) => assert_eq!(guessed, dialect),
                Err(error) => assert!(error.to_string().contains(dialect.name()), "{error}"),
            }
        }
    }
}
