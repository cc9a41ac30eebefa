//! The endpoints that servers stream from.

use std::fmt;
use std::str::FromStr;

use super::family::Family;
use crate::error::Error;
use crate::error::escape::printable;

/// An endpoint of a server, with its format of requests and responses.
///
/// ```
/// use tokenwire::Endpoint;
///
/// let endpoint: Endpoint = "chat".parse()?;
/// assert_eq!(endpoint, Endpoint::Chat);
/// assert_eq!(endpoint.to_string(), "chat");
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// Sends requests as [`OpenAi`](Self::OpenAi), and detects the format of the response.
    ///
    /// The first chunk that identifies the format decides.
    #[default]
    Auto,
    /// `/v1/completions`, as in vLLM, llama.cpp and most other servers.
    OpenAi,
    /// `/v1/chat/completions`.
    Chat,
    /// llama.cpp's native `/completion`.
    LlamaCpp,
    /// vLLM's `/inference/v1/generate`, which takes and returns ids.
    VllmGenerate,
    /// SGLang's native `/generate`.
    SgLang,
    /// TGI's `/generate_stream`.
    Tgi,
}

impl Endpoint {
    const ALL: [Self; 7] =
        [Self::Auto, Self::OpenAi, Self::Chat, Self::LlamaCpp, Self::VllmGenerate, Self::SgLang, Self::Tgi];

    /// Returns the name on the command line.
    ///
    /// It is `auto`, `openai`, `chat`, `llamacpp`, `vllm-generate`, `sglang` or `tgi`.
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

    /// Returns the only family that has this endpoint.
    pub(crate) fn family(self) -> Option<Family> {
        match self {
            Self::Auto | Self::OpenAi | Self::Chat => None,
            Self::LlamaCpp => Some(Family::LlamaCpp),
            Self::VllmGenerate => Some(Family::Vllm),
            Self::SgLang => Some(Family::SgLang),
            Self::Tgi => Some(Family::Tgi),
        }
    }

    /// Returns the path, and whether it is under the server's root (true) or the base URL (false).
    ///
    /// The base URL ends in `/v1`.
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

    /// Returns the same for requests without streaming.
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
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for any name that [`as_str`](Self::as_str)
    /// does not return.
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|endpoint| endpoint.as_str() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Error::invalid(format!("unknown endpoint {:?}, expected one of {known}", printable(name, 40)))
        })
    }
}

impl Family {
    /// Returns whether each stream on this endpoint has ids, if the request asks for them.
    pub(crate) fn gives_ids(self, endpoint: Endpoint) -> bool {
        match self {
            Self::Vllm | Self::LlamaCpp => true,
            Self::Tgi => endpoint == Endpoint::Tgi,
            // Only newer versions send ids on the OpenAI endpoint.
            Self::SgLang => endpoint == Endpoint::SgLang,
            Self::TensorRtLlm | Self::Ollama | Self::LmStudio => false,
        }
    }
}
