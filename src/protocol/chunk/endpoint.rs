//! The dialects and servers there are, and how chunks give them away.

use std::fmt;
use std::str::FromStr;

use super::json::{Choice, Chunk, Mark, Scalar, Shape};
use crate::error::Error;
use crate::error::escape::printable;
use crate::protocol::server::quirks::Quirks;

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

    /// The server that alone has this endpoint.
    pub(crate) fn server(self) -> Option<ServerKind> {
        match self {
            Self::Auto | Self::OpenAi | Self::Chat => None,
            Self::LlamaCpp => Some(ServerKind::LlamaCpp),
            Self::VllmGenerate => Some(ServerKind::Vllm),
            Self::SgLang => Some(ServerKind::SgLang),
            Self::Tgi => Some(ServerKind::Tgi),
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
        Self::ALL
            .into_iter()
            .find(|endpoint| endpoint.as_str() == name)
            .ok_or_else(|| Error::invalid(format!("no wire is called {:?}", printable(name, 40))))
    }
}

/// The program at the other end, as it was told or learned; it decides how ids are asked for.
///
/// [`by_name`](Self::by_name) has all that are known; one of your own is a record in JSON ([`from_json`](Self::from_json)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerKind {
    /// vLLM.
    Vllm,
    /// llama.cpp's `llama-server`.
    LlamaCpp,
    /// SGLang.
    SgLang,
    /// Hugging Face's text-generation-inference.
    Tgi,
    /// TensorRT-LLM's `trtllm-serve`.
    TensorRtLlm,
    /// Ollama.
    Ollama,
    /// LM Studio.
    LmStudio,
    /// One that a record says how it differs from these: a file in the repository's `servers/`, or one of your own.
    Other(Quirks),
}

impl ServerKind {
    /// Whether each of its streams on this wire has ids, if they are asked for.
    pub(crate) fn gives_ids(self, endpoint: Endpoint) -> bool {
        match self {
            Self::Vllm | Self::LlamaCpp => true,
            Self::Tgi => endpoint == Endpoint::Tgi,
            // On its OpenAI endpoint only newer versions do.
            Self::SgLang => endpoint == Endpoint::SgLang,
            Self::TensorRtLlm | Self::Ollama | Self::LmStudio => false,
            Self::Other(quirks) => quirks.gives_ids(|known| known.gives_ids(endpoint)),
        }
    }

    /// The name for people, as its makers write it. Not the one that [`by_name`](Self::by_name) takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vLLM",
            Self::LlamaCpp => "llama.cpp",
            Self::SgLang => "SGLang",
            Self::Tgi => "TGI",
            Self::TensorRtLlm => "TensorRT-LLM",
            Self::Ollama => "Ollama",
            Self::LmStudio => "LM Studio",
            Self::Other(quirks) => quirks.title(),
        }
    }
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// --- what a chunk gives away ---

/// The wire of a chunk that says enough.
pub(super) fn told_by(chunk: &Chunk<'_>) -> Option<Endpoint> {
    let Some(choice) = chunk.choices.first() else {
        return bare_wire(chunk);
    };
    if choice.delta.shape == Shape::Given {
        Some(Endpoint::Chat)
    } else if chunk.output_mode.is_given() || (chunk.request_id.is_given() && !chunk.id.is_given()) {
        Some(Endpoint::VllmGenerate)
    } else if choice.text.is_given() || choice.token_ids.shape == Shape::Given {
        Some(Endpoint::OpenAi)
    } else {
        match chunk.object.text() {
            Some("chat.completion.chunk") => Some(Endpoint::Chat),
            Some("text_completion") => Some(Endpoint::OpenAi),
            _ => None,
        }
    }
}

/// The wire of an event without choices, if it is one that has none.
pub(super) fn bare_wire(chunk: &Chunk<'_>) -> Option<Endpoint> {
    if chunk.choices.shape != Shape::Missing {
        None
    } else if chunk.meta.shape == Shape::Given || chunk.output_ids.shape == Shape::Given {
        Some(Endpoint::SgLang)
    } else if chunk.token.shape == Shape::Given {
        Some(Endpoint::Tgi)
    } else {
        is_native(chunk).then_some(Endpoint::LlamaCpp)
    }
}

/// An event of llama.cpp's own endpoint; `choices` of any kind say that it is not.
pub(super) fn is_native(chunk: &Chunk<'_>) -> bool {
    chunk.choices.shape == Shape::Missing
        && (chunk.tokens.shape == Shape::Given
            || chunk.content.text().is_some()
            || matches!(chunk.stop, Scalar::Bool(_)))
}

pub(super) fn server_of(chunk: &Chunk<'_>) -> Option<ServerKind> {
    let fingerprint = chunk.fingerprint.text().unwrap_or("").as_bytes();
    let has_ids_key = |choice: &Choice<'_>| choice.token_ids.shape != Shape::Missing;
    let has = |mark: &Mark| mark.shape != Shape::Missing;
    let bare = bare_wire(chunk);
    if bare == Some(Endpoint::SgLang) || chunk.choices.iter().any(|choice| has(&choice.matched_stop)) {
        Some(ServerKind::SgLang)
    } else if bare == Some(Endpoint::Tgi) {
        Some(ServerKind::Tgi)
    } else if chunk.choices.iter().any(|choice| has(&choice.avg_decoded)) {
        Some(ServerKind::TensorRtLlm)
    } else if chunk.choices.iter().any(has_ids_key) || fingerprint.starts_with(b"vllm") {
        Some(ServerKind::Vllm)
    } else if chunk.verbose.shape == Shape::Given
        || chunk.timings.shape == Shape::Given
        || is_native(chunk)
        || matches!(fingerprint, [b'b', digit, ..] if digit.is_ascii_digit())
    {
        Some(ServerKind::LlamaCpp)
    } else if fingerprint == b"fp_ollama" {
        Some(ServerKind::Ollama)
    } else {
        None
    }
}
