//! The servers that this crate supports without a record.

/// A server whose endpoints and fields are known. A record names the family of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    Vllm,
    LlamaCpp,
    SgLang,
    Tgi,
    TensorRtLlm,
    Ollama,
    LmStudio,
}

impl Family {
    /// The families and their names.
    ///
    /// Records and [`ServerKind::by_name`](super::ServerKind::by_name) use these names.
    pub(super) const NAMED: [(&'static str, Self); 7] = [
        ("vllm", Self::Vllm),
        ("llamacpp", Self::LlamaCpp),
        ("sglang", Self::SgLang),
        ("tgi", Self::Tgi),
        ("tensorrt_llm", Self::TensorRtLlm),
        ("ollama", Self::Ollama),
        ("lmstudio", Self::LmStudio),
    ];

    pub(super) fn by_name(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(known, _)| *known == name).map(|(_, family)| *family)
    }

    /// Returns the family whose list of models has this `owned_by`.
    ///
    /// Ollama writes the namespace of the model's name there, which is `library` for the models of
    /// its own library. LM Studio writes the same word for all models.
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

    /// Returns the name as its makers write it.
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
