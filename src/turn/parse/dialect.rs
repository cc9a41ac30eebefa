//! The dialects: what each family of models writes around reasoning and calls. Most are records, the files of `dialects/`.
//! A family that writes as no other does has its table in the file of the machine that reads it.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use super::machines::{gemma, harmony};
use super::record;
use super::table::Table;
use crate::error::Error;

/// The longest record that [`Dialect::from_json`] reads, in bytes.
pub const MAX_DIALECT_BYTES: usize = 256 << 10;

/// How a family of models writes reasoning and tool calls.
///
/// Chosen by name ([`Dialect::by_name`]), or from the model's added tokens ([`Dialect::guess`]); or one of your own
/// ([`Dialect::from_json`]). Cloning one is cheap. Two are equal if they were made of the same record.
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
    table: Arc<Table>,
    /// What the table was made of; empty for a table in the code.
    record: Arc<str>,
}

/// The files of `dialects/`, each its name and its text.
const FILES: &[(&str, &str)] = &[
    ("cohere", include_str!("dialects/cohere.json")),
    ("deepseek_dsml", include_str!("dialects/deepseek_dsml.json")),
    ("deepseek_v3", include_str!("dialects/deepseek_v3.json")),
    ("deepseek_v31", include_str!("dialects/deepseek_v31.json")),
    ("glm", include_str!("dialects/glm.json")),
    ("granite", include_str!("dialects/granite.json")),
    ("hermes", include_str!("dialects/hermes.json")),
    ("internlm2", include_str!("dialects/internlm2.json")),
    ("jamba", include_str!("dialects/jamba.json")),
    ("kimi_k2", include_str!("dialects/kimi_k2.json")),
    ("kimi_k3", include_str!("dialects/kimi_k3.json")),
    ("lfm2", include_str!("dialects/lfm2.json")),
    ("llama3_json", include_str!("dialects/llama3_json.json")),
    ("minimax_m2", include_str!("dialects/minimax_m2.json")),
    ("minimax_m3", include_str!("dialects/minimax_m3.json")),
    ("mistral", include_str!("dialects/mistral.json")),
    ("nemotron_v2", include_str!("dialects/nemotron_v2.json")),
    ("phi4", include_str!("dialects/phi4.json")),
    ("pythonic", include_str!("dialects/pythonic.json")),
    ("qwen3_xml", include_str!("dialects/qwen3_xml.json")),
    ("seed_oss", include_str!("dialects/seed_oss.json")),
    ("step3", include_str!("dialects/step3.json")),
];

/// What the crate brings, in the order of the names; of a file that cannot be read, why.
static BUILT_IN: LazyLock<Vec<(&str, Result<Dialect, String>)>> = LazyLock::new(|| {
    let files = FILES.iter().map(|(name, text)| (*name, Dialect::read(text)));
    let in_code = [("harmony", harmony::table()), ("gemma4", gemma::table())];
    let in_code = in_code.map(|(name, table)| (name, Ok(Dialect::in_code(table))));
    let mut all: Vec<_> = files.chain(in_code).chain([("plain", Ok(Dialect::plain()))]).collect();
    all.sort_by_key(|(name, _)| *name);
    all
});

/// Any model without reasoning and calls.
static PLAIN: LazyLock<Dialect> = LazyLock::new(|| {
    let ends = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>"].into_iter().collect();
    Dialect::in_code(Table { name: "plain".into(), ends, ..Table::default() })
});

/// A stream whose server has told everything apart.
static CHAT: LazyLock<Dialect> =
    LazyLock::new(|| Dialect::in_code(Table { name: "chat".into(), ..Table::default() }));

impl Dialect {
    /// For the streams of chat endpoints, whose servers have told reasoning, content and calls apart already: no marker
    /// is looked for, all text is what it came as. It belongs to a stream and not to a model, so that
    /// [`by_name`](Self::by_name) and [`all`](Self::all) leave it out.
    #[must_use]
    pub fn chat() -> Self {
        CHAT.clone()
    }

    /// No reasoning, no calls: all text is content.
    #[must_use]
    pub fn plain() -> Self {
        PLAIN.clone()
    }

    /// The dialect of this name, out of those that the crate brings.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) with the names there are.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, Ok(dialect))) => Ok(dialect.clone()),
            Some((_, Err(why))) => Err(Error::invalid(format!("dialects/{name}.json: {why}"))),
            None => {
                let names: Vec<&str> = Self::all().map(Self::name).collect();
                Err(Error::invalid(format!("no dialect is called {name:?}; there are {}", names.join(", "))))
            }
        }
    }

    /// A dialect of your own, out of a record in JSON: what the files in the repository's `src/turn/parse/dialects/` are, whose README says
    /// what each key means. The name need not be a new one; [`by_name`](Self::by_name) does not know it.
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
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with line and column or the key, for what is no such record, and
    /// for more than [`MAX_DIALECT_BYTES`] bytes.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_DIALECT_BYTES {
            let n = text.len();
            return Err(Error::invalid(format!(
                "not a dialect: {n} bytes are more than {MAX_DIALECT_BYTES}"
            )));
        }
        Self::read(text).map_err(|why| Error::invalid(format!("not a dialect: {why}")))
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
                "the added tokens tell no dialect; looked for all tokens of one of {}; choose one by its name",
                Self::all().filter_map(Self::shown_signs).collect::<Vec<_>>().join("; ")
            ))),
            _ => {
                let names: Vec<&str> = left.iter().map(|one| one.name()).collect();
                Err(Error::invalid(format!(
                    "the added tokens are those of {}, and the chat template was not given or does not tell \
                     which; choose one by its name",
                    names.join(" and ")
                )))
            }
        }
    }

    /// The name and the signs, if there are some.
    fn shown_signs(&self) -> Option<String> {
        let signs: Vec<&str> = self.table.signs.iter().map(|sign| &**sign).collect();
        (!signs.is_empty()).then(|| format!("{} ({})", self.name(), signs.join(", ")))
    }

    /// All dialects that the crate brings, in the order of their names.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        BUILT_IN.iter().filter_map(|(_, dialect)| dialect.as_ref().ok())
    }

    /// The name, as [`by_name`](Self::by_name) takes it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.table.name
    }

    /// All markers, each once.
    #[must_use]
    pub fn markers(&self) -> Vec<&str> {
        self.table.markers()
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.table
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
        // The record has the name in it.
        Arc::ptr_eq(&self.table, &other.table) || (!self.record.is_empty() && self.record == other.record)
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
        for dialect in Dialect::all().filter(|dialect| !dialect.table.signs.is_empty()) {
            let signs = dialect.table.signs.iter().map(|sign| &**sign);
            match Dialect::guess(dialect.markers().into_iter().chain(signs)) {
                Ok(guessed) => assert_eq!(guessed, *dialect),
                Err(error) => assert!(error.to_string().contains(dialect.name()), "{error}"),
            }
        }
    }

    #[test]
    fn the_list_of_files_is_what_the_folder_holds() {
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
