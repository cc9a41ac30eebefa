//! The endpoints that servers stream from.

use std::str::FromStr;

use super::family::Family;
use crate::error::Error;
use crate::error::escape::printable;
use crate::error::macros::{display_as_str, names};

names! {
    all
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
        /// The decoder uses the format of the first chunk that identifies one.
        #[default]
        Auto = "auto",
        /// `/v1/completions`, as in vLLM, llama.cpp and most other servers.
        OpenAi = "openai",
        /// `/v1/chat/completions`.
        Chat = "chat",
        /// llama.cpp's native `/completion`.
        LlamaCpp = "llamacpp",
        /// vLLM's `/inference/v1/generate`, which takes and returns ids.
        VllmGenerate = "vllm-generate",
        /// SGLang's native `/generate`.
        SgLang = "sglang",
        /// TGI's `/generate_stream`.
        Tgi = "tgi",
    }
}

display_as_str!(Endpoint);

impl Endpoint {
    /// Returns the family of servers that has this endpoint, if only one family has it.
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
    /// The base URL is the server's root followed by `/v1`.
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

    /// Returns the path for requests without streaming, in the same form as `path`.
    pub(crate) fn call_path(self) -> (&'static str, bool) {
        if self == Self::Tgi { ("/generate", true) } else { self.path() }
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for any name that [`as_str`](Self::as_str)
    /// does not return.
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::by_name(name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|endpoint| endpoint.as_str()).collect();
            let (name, known) = (printable(name, 40), known.join(", "));
            Error::invalid(format!("unknown endpoint {name:?}, expected one of {known}"))
        })
    }
}

impl Family {
    /// Returns true if each stream on this endpoint has ids when the request asks for ids.
    pub(crate) fn gives_ids(self, endpoint: Endpoint) -> bool {
        match self {
            Self::Vllm | Self::LlamaCpp => true,
            Self::Tgi => endpoint == Endpoint::Tgi,
            // On the OpenAI endpoint, only newer versions of SGLang send ids.
            Self::SgLang => endpoint == Endpoint::SgLang,
            Self::TensorRtLlm | Self::Ollama | Self::LmStudio => false,
        }
    }
}
