//! The servers that this crate supports without a record.

use crate::error::macros::names;

names! {
    all
    /// A server whose endpoints and fields are known. A record can name one of them under `like`.
    ///
    /// Records and [`ServerKind::by_name`](super::ServerKind::by_name) use these names.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub(crate) enum Family {
        Vllm = "vllm",
        LlamaCpp = "llamacpp",
        SgLang = "sglang",
        Tgi = "tgi",
        TensorRtLlm = "tensorrt_llm",
        Ollama = "ollama",
        LmStudio = "lmstudio",
    }
}

impl Family {
    /// Returns the names of all families.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.iter().map(|family| family.as_str())
    }

    /// Returns the family whose list of models has this `owned_by`.
    ///
    /// For Ollama, `owned_by` is the namespace in the model's name. The models of Ollama's own
    /// library have the namespace `library`. For LM Studio, `owned_by` is `organization_owner` for
    /// all models.
    pub(super) fn by_owner(owner: &str) -> Option<Self> {
        Some(match owner {
            "vllm" => Self::Vllm,
            "llamacpp" => Self::LlamaCpp,
            "sglang" => Self::SgLang,
            "tensorrt_llm" => Self::TensorRtLlm,
            "library" => Self::Ollama,
            "organization_owner" => Self::LmStudio,
            _ => return None,
        })
    }

    /// Returns the display name, as the server's makers write it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Vllm => "vLLM",
            Self::LlamaCpp => "llama.cpp",
            Self::SgLang => "SGLang",
            Self::Tgi => "TGI",
            Self::TensorRtLlm => "TensorRT-LLM",
            Self::Ollama => "Ollama",
            Self::LmStudio => "LM Studio",
        }
    }
}
