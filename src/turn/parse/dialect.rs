//! Lists the dialects. A dialect describes how a family of models writes reasoning and calls.
//!
//! Most dialects are JSON records in the folder `dialects/`. The dialects of gpt-oss and Gemma 4
//! have no record. Their tables are in the files of their machines.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use super::built_in::{BuiltIn, by_name, files, find};
use super::machines::{gemma, harmony};
use super::record;
use super::table::Table;
use crate::error::Error;

/// The maximum size of a record for [`Dialect::from_json`], in bytes: 256 KiB.
pub const MAX_DIALECT_BYTES: usize = 256 << 10;

/// Describes how a family of models writes reasoning and tool calls.
///
/// There are three ways to get a dialect:
///
/// - by its name, with [`Dialect::by_name`];
/// - from the added tokens of the model, with [`Dialect::guess`];
/// - from your own record, with [`Dialect::from_json`].
///
/// A dialect is cheap to clone. Two dialects are equal if they come from the same record.
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
#[derive(Clone)]
pub struct Dialect {
    pub(super) table: Arc<Table>,
    /// The JSON of the record. It is empty if the table is defined in the code.
    record: Arc<str>,
}

/// The files in `dialects/`, each with its name and its text.
#[rustfmt::skip]
const FILES: &[(&str, &str)] = files!("dialects/"
    "cohere" "deepseek_dsml" "deepseek_v3" "deepseek_v31" "glm" "granite" "hermes" "internlm2"
    "jamba" "kimi_k2" "kimi_k3" "lfm2" "llama3_json" "minimax_m2" "minimax_m3" "mistral"
    "nemotron_v2" "phi4" "pythonic" "qwen3_xml" "seed_oss" "step3"
);

/// The built-in dialects, in the order of their names.
///
/// If a file cannot be read, its entry is the error.
static BUILT_IN: LazyLock<BuiltIn<Dialect>> = LazyLock::new(|| {
    let files = FILES.iter().map(|(name, text)| (*name, Dialect::read(text)));
    let in_code = [("harmony", harmony::table()), ("gemma4", gemma::table())];
    let in_code = in_code.map(|(name, table)| (name, Ok(Dialect::in_code(table))));
    let mut all: Vec<_> = files.chain(in_code).chain([("plain", Ok(Dialect::plain()))]).collect();
    all.sort_by_key(|(name, _)| *name);
    all
});

/// The dialect of a model without reasoning and calls.
static PLAIN: LazyLock<Dialect> = LazyLock::new(|| {
    let ends = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>"].into_iter().collect();
    Dialect::in_code(Table { name: "plain".into(), ends, ..Table::default() })
});

/// The dialect of a stream whose server has already separated reasoning, content and calls.
static CHAT: LazyLock<Dialect> =
    LazyLock::new(|| Dialect::in_code(Table { name: "chat".into(), ..Table::default() }));

impl Dialect {
    /// Returns the dialect for the streams of chat endpoints.
    ///
    /// The servers of these endpoints have already separated reasoning, content and calls. The
    /// parser therefore does not search for markers, and each item of the stream keeps its kind.
    /// The dialect does not belong to a model. Therefore, [`by_name`](Self::by_name) and
    /// [`all`](Self::all) do not return it.
    #[must_use]
    pub fn chat() -> Self {
        CHAT.clone()
    }

    /// Returns the dialect without reasoning and calls.
    ///
    /// All text is content, except the markers that end the turn.
    #[must_use]
    pub fn plain() -> Self {
        PLAIN.clone()
    }

    /// Returns the built-in dialect with this name.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the name is unknown. The error lists the
    /// known names.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        find(&BUILT_IN, "dialect", "dialects", name).cloned()
    }

    /// Reads a custom dialect from a record in JSON.
    ///
    /// The files in `src/turn/parse/dialects/` of the repository are examples of records. The
    /// README of that folder explains each key. Your dialect may have the same name as a built-in
    /// dialect. [`by_name`](Self::by_name) returns only built-in dialects.
    ///
    /// ```
    /// use tokenwire::{Dialect, ResponseParser};
    ///
    /// let dialect = Dialect::from_json(
    ///     r#"{
    ///         "name": "mine",
    ///         "about": "My model.",
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
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the text is not a valid record or is
    /// longer than [`MAX_DIALECT_BYTES`] bytes. For an invalid record, the message contains the
    /// line and the column of the error, or the key.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_DIALECT_BYTES {
            let n = text.len();
            return Err(Error::invalid(format!(
                "not a dialect: expected at most {MAX_DIALECT_BYTES} bytes, got {n}"
            )));
        }
        Self::read(text).map_err(|why| Error::invalid(format!("not a dialect: {why}")))
    }

    /// Returns the dialect that the added tokens of a model identify.
    ///
    /// `added` contains the texts of the tokens, for example from
    /// [`Tokenizer::added_tokens`](crate::Tokenizer::added_tokens). The tokens do not always
    /// identify a dialect:
    ///
    /// - If all markers of a dialect are plain text, no added tokens belong to the dialect.
    /// - Models that write in different ways can have the same tokens. For example, Qwen3
    ///   (`hermes`) has the same tokens as Qwen3-Coder and Qwen3.5 (`qwen3_xml`).
    ///   [`guess_with_template`](Self::guess_with_template) distinguishes these models.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the tokens do not identify a dialect, or
    /// if they identify several dialects. The message lists either the expected tokens or the
    /// matching dialects.
    pub fn guess<'a>(added: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        Self::guess_with_template(added, "")
    }

    /// Returns the dialect that the added tokens and the chat template of a model identify.
    ///
    /// The template matters only if the tokens fit several dialects. The template contains
    /// instructions for the model, which show how the model writes calls.
    ///
    /// # Errors
    ///
    /// The errors are the same as for [`guess`](Self::guess).
    pub fn guess_with_template<'a>(
        added: impl IntoIterator<Item = &'a str>,
        template: &str,
    ) -> Result<Self, Error> {
        let added: HashSet<&str> = added.into_iter().collect();
        let has_signs = |dialect: &&Self| {
            let signs = &dialect.table.signs;
            !signs.is_empty() && signs.iter().all(|sign| added.contains(&**sign))
        };
        let known: Vec<&Self> = Self::all().filter(has_signs).collect();
        let is_outdone = |one: &Self| known.iter().any(|other| other.table.is_more_specific_than(&one.table));
        let mut left: Vec<&Self> = known.iter().copied().filter(|one| !is_outdone(one)).collect();
        let by_template = left.iter().filter(|one| one.table.is_in_template(template));
        if let [one] = by_template.copied().collect::<Vec<_>>()[..] {
            left = vec![one];
        }
        match left[..] {
            [one] => Ok(one.clone()),
            [] => Err(Error::invalid(format!(
                "the added tokens identify no dialect: expected all tokens of one of {}; choose a dialect by name",
                Self::all().filter_map(Self::shown_signs).collect::<Vec<_>>().join("; ")
            ))),
            _ => {
                let names: Vec<&str> = left.iter().map(|one| one.name()).collect();
                Err(Error::invalid(format!(
                    "the added tokens fit {}, and the chat template is missing or does not identify one of \
                     them; choose a dialect by name",
                    names.join(" and ")
                )))
            }
        }
    }

    /// Returns the name and the signs of the dialect as text, or `None` if the dialect has no
    /// signs.
    fn shown_signs(&self) -> Option<String> {
        let signs: Vec<&str> = self.table.signs.iter().map(|sign| &**sign).collect();
        (!signs.is_empty()).then(|| format!("{} ({})", self.name(), signs.join(", ")))
    }

    /// Returns all built-in dialects, in the order of their names.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        BUILT_IN.iter().filter_map(|(_, dialect)| dialect.as_ref().ok())
    }

    /// Returns the name of the dialect.
    ///
    /// [`by_name`](Self::by_name) accepts the name of a built-in dialect.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.table.name
    }

    /// Returns all markers of the dialect, without duplicates.
    #[must_use]
    pub fn markers(&self) -> Vec<&str> {
        self.table.markers()
    }

    fn in_code(table: Table) -> Self {
        Self { table: Arc::new(table), record: "".into() }
    }

    fn read(text: &str) -> Result<Self, String> {
        Ok(Self { table: Arc::new(record::read(text)?.compile()), record: text.into() })
    }
}

impl PartialEq for Dialect {
    fn eq(&self, other: &Self) -> bool {
        // The record contains the name, so the names need no comparison.
        Arc::ptr_eq(&self.table, &other.table) || (!self.record.is_empty() && self.record == other.record)
    }
}

impl Eq for Dialect {}

by_name!(Dialect, "built-in dialect");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_tokens_identify_the_dialect_or_the_error_lists_what_was_expected() {
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
    fn the_tokens_of_a_dialect_identify_no_other_dialect() {
        for dialect in Dialect::all().filter(|dialect| !dialect.table.signs.is_empty()) {
            let signs = dialect.table.signs.iter().map(|sign| &**sign);
            match Dialect::guess(dialect.markers().into_iter().chain(signs)) {
                Ok(guessed) => assert_eq!(guessed, *dialect),
                Err(error) => assert!(error.to_string().contains(dialect.name()), "{error}"),
            }
        }
    }

    #[test]
    fn the_list_of_files_matches_the_folder() {
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file!()).with_file_name("dialects");
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = files
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        files.sort();
        assert_eq!(FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>(), files);
    }
}
