//! Chat formats: the text that each family's chat template puts around the turns.
//!
//! A format is a file in `families/`. The README there explains the keys. The files contain only
//! text: `tokens` lists the special tokens in these texts. A tokenizer may lack some of these
//! tokens.
//!
//! The texts come from rendered templates. If the templates do not show the text of a key reliably,
//! the key is left out. A prompt that needs this text then fails with
//! [`Unsupported`](crate::ErrorKind::Unsupported).

use std::sync::LazyLock;

use serde::Deserialize;

use crate::error::Error;
use crate::turn::parse::built_in::{BuiltIn, by_name, files, find};
use crate::turn::parse::dialect::Dialect;

/// The text that a model family's chat template puts around the turns of a conversation.
///
/// You choose a format by name ([`ChatFormat::by_name`]): `qwen3_xml`, `qwen3_coder`, `glm_4_7`,
/// `deepseek_v4` and so on. The format also names the [`Dialect`] in which the model writes
/// reasoning and tool calls.
///
/// ```
/// let format = tokenwire::ChatFormat::by_name("qwen3")?;
/// assert_eq!(format.dialect()?.name(), "hermes");
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChatFormat(&'static Family);

/// The names of the files in `families/` with their text, in the order of [`ChatFormat::all`].
#[rustfmt::skip]
pub(super) const FILES: &[(&str, &str)] = files!("families/"
    "qwen3_xml" "qwen3_coder" "nemotron3" "qwen3" "qwen3_thinking" "qwen2_5" "hermes3" "smollm2" "granite4" "gemma4"
    "kimi_k2" "kimi_k2_5" "glm_4_6" "glm_4_7" "deepseek_v3_1" "deepseek_v3_2" "deepseek_v4" "harmony" "mistral"
    "mistral_small_3_2" "mistral_nemo" "minimax_m2" "llama3" "cohere" "granite" "phi4" "seed_oss" "plain"
);

/// The parsed files.
///
/// For a file that cannot be parsed, the list contains the reason. A test parses all files.
static FAMILIES: LazyLock<BuiltIn<Family>> =
    LazyLock::new(|| FILES.iter().map(|(name, text)| (*name, Family::read(name, text))).collect());

/// A file in `families/`, whose README explains each key.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Family {
    /// The name of the file.
    #[serde(skip)]
    pub(super) name: &'static str,
    #[serde(rename = "about")]
    _about: String,
    dialect: String,
    pub(super) tokens: Vec<String>,
    #[serde(default)]
    pub(super) begin: String,
    pub(super) system: Option<Frame>,
    pub(super) developer: Option<Frame>,
    #[serde(default)]
    pub(super) system_reasoning_on: String,
    default_system: Option<String>,
    pub(super) user: Frame,
    #[serde(default)]
    pub(super) user_reasoning_off: String,
    pub(super) results: Option<Results>,
    next: Opening,
    next_after_results: Option<Opening>,
    pub(super) reasoning: Option<Frame>,
    pub(super) dropped_reasoning: Option<String>,
    #[serde(default)]
    pub(super) close: String,
    close_before_results: Option<String>,
    #[serde(default)]
    pub(super) ends: Vec<String>,
    #[serde(default)]
    pub(super) stops: Vec<String>,
}

/// The text before and after a part of the conversation.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Frame {
    pub(super) open: String,
    pub(super) close: String,
}

/// A turn of tool results.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Results {
    #[serde(default)]
    pub(super) all: Frame,
    pub(super) each: Frame,
    pub(super) between: Option<String>,
    #[serde(default)]
    pub(super) text: ResultText,
}

/// The form of a tool result's text in the prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ResultText {
    #[default]
    AsIs,
    /// Writes the text as a JSON string.
    JsonString,
    /// Writes valid JSON unchanged, and other text as a JSON string.
    Json,
}

/// The opening: the text after which the model answers.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Opening {
    pub(super) head: String,
    pub(super) reasoning_on: String,
    pub(super) reasoning_off: Option<String>,
}

impl ChatFormat {
    /// Returns the format with this name.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](crate::ErrorKind::InvalidInput) for an unknown name. The message
    /// lists the known names.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        find(&FAMILIES, "chat format", "families", name).map(Self)
    }

    /// Returns all formats.
    pub fn all() -> impl Iterator<Item = Self> {
        FAMILIES.iter().filter_map(|(_, family)| family.as_ref().ok()).map(Self)
    }

    /// Returns the name that [`by_name`](Self::by_name) accepts.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Returns the dialect in which the models of this family write reasoning and tool calls.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidInput`](crate::ErrorKind::InvalidInput) if this version of the crate does
    /// not have the dialect. [`Dialect::plain`] then reads the whole answer as content.
    pub fn dialect(self) -> Result<Dialect, Error> {
        Dialect::by_name(&self.0.dialect)
    }

    /// Returns the system text that the template uses if the caller gives none.
    ///
    /// [`Context`](super::Context) does not add this text. To use the text, pass it to
    /// [`system`](super::Context::system).
    #[must_use]
    pub fn default_system(self) -> Option<&'static str> {
        self.0.default_system.as_deref()
    }

    pub(super) fn family(self) -> &'static Family {
        self.0
    }
}

impl Family {
    pub(super) fn read(name: &'static str, text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map(|family| Self { name, ..family }).map_err(|error| error.to_string())
    }

    /// Returns the opening after tool results, or after a user turn.
    pub(super) fn next(&self, after_results: bool) -> &Opening {
        self.next_after_results.as_ref().filter(|_| after_results).unwrap_or(&self.next)
    }

    /// Returns the text that closes the model's turn.
    pub(super) fn close(&self, before_results: bool) -> &str {
        self.close_before_results.as_ref().filter(|_| before_results).unwrap_or(&self.close)
    }

    /// Returns whether the token appears in the text around turns.
    ///
    /// Other tokens appear inside the model's answer.
    pub(super) fn is_of_turns(&self, token: &str) -> bool {
        let results = self.results.iter().flat_map(|results| [&results.all, &results.each]);
        let frames = self.system.iter().chain(&self.developer).chain([&self.user]).chain(results);
        let mut texts = frames.flat_map(|frame| [&frame.open, &frame.close]).chain([
            &self.begin,
            &self.system_reasoning_on,
            &self.close,
            &self.next(false).head,
            &self.next(true).head,
        ]);
        texts.any(|text| text.contains(token))
            || self.ends.iter().chain(&self.stops).any(|text| text == token)
    }
}

by_name!(ChatFormat, "format");
