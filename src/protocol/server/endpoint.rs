//! The endpoints that servers stream from.

use std::fmt;
use std::str::FromStr;

use super::family::Family;
use crate::error::Error;
use crate::error::escape::printable;

/// The dialects in which servers stream, which are also the endpoints they stream from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// Requests as [`OpenAi`](Self::OpenAi); answers are told apart by the first chunk that says something.
    #[default]
    Auto,
    /// `/v1/completions`, as vLLM, llama.cpp and most others have it.
    OpenAi,
    /// `/v1/chat/completions`.
    Chat,
    /// llama.cpp's native `/completion`.
    LlamaCpp,
    /// vLLM's `/inference/v1/generate`: ids in, ids out.
    VllmGenerate,
    /// SGLang's native `/generate`.
    SgLang,
    /// TGI's `/generate_stream`.
    Tgi,
}

impl Endpoint {
    const ALL: [Self; 7] =
        [Self::Auto, Self::OpenAi, Self::Chat, Self::LlamaCpp, Self::VllmGenerate, Self::SgLang, Self::Tgi];

    /// The name on the command line: `auto`, `openai`, `chat`, `llamacpp`, `vllm-generate`, `sglang`, `tgi`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::OpenAi => "openai",
            Self::Chat => "chat",
            Self::LlamaCpp => "llamacpp",
            Self::VllmGenerate => "vllm-generate",
            Self::SgLang => "sglang",
            Self::Tgi => "tgi",
        }
    }

    /// The family that alone has this endpoint.
    pub(crate) fn family(self) -> Option<Family> {
        match self {
            Self::Auto | Self::OpenAi | Self::Chat => None,
            Self::LlamaCpp => Some(Family::LlamaCpp),
            Self::VllmGenerate => Some(Family::Vllm),
            Self::SgLang => Some(Family::SgLang),
            Self::Tgi => Some(Family::Tgi),
        }
    }

    /// The path of the endpoint, and whether it stands under the server's root (true) or under the base URL, which
    /// ends in `/v1` (false).
    pub(crate) fn path(self) -> (&'static str, bool) {
        match self {
            Self::Auto | Self::OpenAi => ("/completions", false),
            Self::Chat => ("/chat/completions", false),
            Self::LlamaCpp => ("/completion", true),
            Self::VllmGenerate => ("/inference/v1/generate", true),
            Self::SgLang => ("/generate", true),
            Self::Tgi => ("/generate_stream", true),
        }
    }

    /// The same for calls, whose answers come whole.
    pub(crate) fn call_path(self) -> (&'static str, bool) {
        if self == Self::Tgi { ("/generate", true) } else { self.path() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for any other word than those of
    /// [`as_str`](Self::as_str).
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|endpoint| endpoint.as_str() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Error::invalid(format!("unknown endpoint {:?}, expected one of {known}", printable(name, 40)))
        })
    }
}

impl Family {
    /// Whether each stream on this endpoint has ids, if they are asked for.
    pub(crate) fn gives_ids(self, endpoint: Endpoint) -> bool {
        match self {
            Self::Vllm | Self::LlamaCpp => true,
            Self::Tgi => endpoint == Endpoint::Tgi,
            // On its OpenAI endpoint only newer versions do.
            Self::SgLang => endpoint == Endpoint::SgLang,
            Self::TensorRtLlm | Self::Ollama | Self::LmStudio => false,
        }
    }
}
