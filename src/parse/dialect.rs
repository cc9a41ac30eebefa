//! The dialects: what each family of models writes around thinking and calls. A dialect is a table; it stands in the
//! file of the machine that reads its calls.

use std::collections::HashSet;
use std::fmt;

use super::machine::Machine;
use super::{bare_json, gemma, harmony, headed, invoke, json, pairs, python, tagged};
use crate::Error;

/// How a family of models writes thinking and tool calls.
///
/// Chosen by name ([`Dialect::by_name`]), or from the model's added tokens ([`Dialect::guess`]).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Dialect(&'static Table);

/// A dialect's table.
#[derive(Debug)]
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
    /// What a turn may begin with that has no opener (rule R8).
    pub(super) bare: Option<Body>,
    /// Added tokens that tell this dialect: all of them must be there. Empty: no tokens tell it.
    pub(super) signs: &'static [&'static str],
}

impl Table {
    /// All of the other's signs are this one's too, and it has more. Not so between dialects that are told by the
    /// template: there, more tokens tell nothing.
    fn says_more_than(&self, other: &Self) -> bool {
        let has_all = other.signs.iter().all(|sign| self.signs.contains(sign));
        let by_template = |table: &Self| IN_TEMPLATES.iter().any(|(name, _)| *name == table.name);
        has_all && self.signs.len() > other.signs.len() && !(by_template(self) && by_template(other))
    }

    fn is_told_by(&self, template: &str) -> bool {
        IN_TEMPLATES.iter().any(|(name, text)| *name == self.name && template.contains(text))
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Table {}

/// The markers of thinking.
#[derive(Debug)]
pub(super) struct Think {
    pub(super) open: &'static str,
    pub(super) close: &'static str,
    /// A word after the opener that is no thought.
    pub(super) label: &'static str,
    /// The frames that an answer begins with: thinking that is never closed ends there.
    pub(super) answer: &'static [&'static str],
}

/// What begins a region of calls, and how it is read.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) open: &'static str,
    pub(super) body: Body,
}

/// Makes a machine for the region whose opener stands at `open..body`.
pub(super) type Body = fn(open: usize, body: usize) -> Box<dyn Machine>;

/// What most models write around thinking.
pub(super) const THINK: Think = Think { open: "<think>", close: "</think>", label: "", answer: &[] };

/// The ends of a turn in ChatML.
pub(super) const CHATML_ENDS: &[&str] = &["<|im_end|>", "<|endoftext|>"];

/// What chat templates tell the model to write, for dialects that have the same tokens.
static IN_TEMPLATES: &[(&str, &str)] = &[("qwen3_xml", "<function="), ("hermes", "<function-name>")];

/// All dialects.
static DIALECTS: &[&Table] = &[
    &tagged::QWEN3_XML,
    &json::HERMES,
    &pairs::GLM,
    &invoke::DEEPSEEK_DSML,
    &invoke::MINIMAX_M2,
    &tagged::SEED_OSS,
    &invoke::MINIMAX_M3,
    &invoke::STEP3,
    &invoke::KIMI_K3,
    &headed::KIMI_K2,
    &harmony::HARMONY,
    &headed::DEEPSEEK_V3,
    &headed::DEEPSEEK_V31,
    &headed::MISTRAL,
    &json::COHERE,
    &json::GRANITE,
    &json::PHI4,
    &json::INTERNLM2,
    &json::NEMOTRON_V2,
    &gemma::GEMMA4,
    &bare_json::LLAMA3_JSON,
    &python::PYTHONIC,
    &python::LFM2,
    &PLAIN,
];

/// Any model without thinking and calls.
static PLAIN: Table = Table {
    name: "plain",
    think: None,
    calls: &[],
    frames: &[],
    ends: &["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>"],
    inner: &[],
    bare: None,
    signs: &[],
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
};

impl Dialect {
    /// For the streams of chat endpoints, whose servers have told thinking, content and calls apart already: no marker
    /// is looked for, all text is what it came as. It belongs to a stream and not to a model, so that
    /// [`by_name`](Self::by_name) and [`all`](Self::all) leave it out.
    pub const CHAT: Self = Self(&CHAT);

    /// No thinking, no calls: all text is content.
    pub const PLAIN: Self = Self(&PLAIN);

    /// The dialect of this name.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) with the names there are.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        Self::all().find(|dialect| dialect.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::all().map(Self::name).collect();
            Error::invalid(format!("no dialect is called {name:?}; there are {}", names.join(", ")))
        })
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
        let told: Vec<&'static Table> = DIALECTS.iter().copied().filter(|table| is_told(table)).collect();
        let is_outdone = |table: &Table| told.iter().any(|other| other.says_more_than(table));
        let mut left: Vec<_> = told.iter().copied().filter(|table| !is_outdone(table)).collect();
        let by_template = left.iter().filter(|table| table.is_told_by(template));
        if let [table] = by_template.copied().collect::<Vec<_>>()[..] {
            left = vec![table];
        }
        match left[..] {
            [table] => Ok(Self(table)),
            [] => {
                let signs = DIALECTS.iter().filter(|table| !table.signs.is_empty());
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

    /// All dialects.
    pub fn all() -> impl Iterator<Item = Self> {
        DIALECTS.iter().map(|table| Self(table))
    }

    /// The name, as [`by_name`](Self::by_name) takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// All markers.
    #[must_use]
    pub fn markers(self) -> Vec<&'static str> {
        let Table { think, calls, frames, ends, inner, .. } = self.0;
        let think = think.iter().flat_map(|think| [think.open, think.close]);
        let calls = calls.iter().map(|call| call.open);
        think.chain(calls).chain([*frames, *ends, *inner].into_iter().flatten().copied()).collect()
    }

    pub(super) fn table(self) -> &'static Table {
        self.0
    }
}

impl fmt::Debug for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dialect").field(&self.name()).finish()
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
            (&qwen3, "", Err(&["qwen3_xml and hermes", "chat template"])),
            (&qwen3, &format!("{xml}{json}"), Err(&["qwen3_xml and hermes"])),
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
                    assert_eq!(error.kind(), crate::ErrorKind::InvalidInput);
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
