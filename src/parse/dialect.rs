//! The dialects: what each family of models writes around thinking and calls. A dialect is a table; it stands in the
//! file of the machine that reads its calls.

use super::machine::Machine;
use super::{invoke, json, pairs, tagged};
use crate::Error;

/// How a family of models writes thinking and tool calls.
///
/// Chosen by name ([`Dialect::by_name`]), or from the model's added tokens ([`Dialect::guess`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Added tokens that tell this dialect: all of them must be there.
    pub(super) signs: &'static [&'static str],
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
pub(super) const THINK: Think = Think { open: "<think>", close: "</think>", label: "" };

/// The ends of a turn in ChatML.
pub(super) const CHATML_ENDS: &[&str] = &["<|im_end|>", "<|endoftext|>"];

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

impl Dialect {
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
