//! Tables of request fields: their names on each endpoint, and the fields that servers ignore.

use serde_json::{Map, Value};

use super::endpoint::Endpoint;
use super::family::Family;
use crate::error::macros::names;
use crate::error::{Error, ErrorKind};

/// The fields on an OpenAI endpoint that callers set.
#[rustfmt::skip] // One row for each group.
pub(crate) const FIELDS: &[&str] = &[
    "model", "prompt", "messages", "tools", "tool_choice", "stream", "priority", "cache_salt", "cache_prompt",
    "max_tokens", "min_tokens", "ignore_eos", "stop", "stop_token_ids", "skip_special_tokens",
    "temperature", "top_p", "top_k", "min_p", "seed", "logit_bias",
    "presence_penalty", "frequency_penalty", "repetition_penalty",
    "structured_outputs", "json_schema", "regex", "grammar", "ebnf", "response_format",
];

/// The fields on an OpenAI endpoint that this crate uses to ask for ids and counts.
pub(crate) const FLAGS: &[&str] =
    &["stream_options", "return_token_ids", "return_tokens", "verbose", "logprobs", "top_logprobs"];

impl Endpoint {
    /// Returns this endpoint's name for a field, or `None` if the field is not supported.
    ///
    /// `key` is vLLM's name for the field. If the endpoint uses vLLM's name, the result is `key`.
    pub(crate) fn field(self, key: &'static str) -> Option<&'static str> {
        Some(match (self, key) {
            (Self::LlamaCpp, "max_tokens") => "n_predict",
            (Self::LlamaCpp, "repetition_penalty") => "repeat_penalty",
            (Self::LlamaCpp, "min_tokens" | "stop_token_ids" | "skip_special_tokens") => return None,
            (Self::SgLang | Self::Tgi, "max_tokens") => "max_new_tokens",
            (Self::SgLang, "min_tokens") => "min_new_tokens",
            (Self::SgLang, "seed") => "sampling_seed",
            (Self::Tgi, "min_tokens" | "min_p" | "presence_penalty" | "ignore_eos")
            | (Self::Tgi, "stop_token_ids" | "logit_bias" | "skip_special_tokens") => return None,
            _ => key,
        })
    }
}

names! {
    all
    /// A feature that a request may use and a server may ignore or get wrong.
    ///
    /// Records and errors use these names.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Feature {
        PromptIds = "prompt ids",
        NoTokens = "max_tokens of 0",
        MinTokens = "min_tokens",
        MinP = "min_p",
        TopK = "top_k",
        PresencePenalty = "presence_penalty",
        FrequencyPenalty = "frequency_penalty",
        RepetitionPenalty = "repetition_penalty",
        Seed = "seed",
        Stop = "stop",
        StopTokenIds = "stop_token_ids",
        IgnoreEos = "ignore_eos",
        LogitBias = "logit_bias",
        SkipSpecialTokens = "skip_special_tokens",
        Priority = "priority",
        CacheSalt = "cache_salt",
        CachePrompt = "cache_prompt",
        StructuredOutput = "structured_output",
        Tools = "tools",
        ToolChoice = "tool_choice",
    }
}

impl Family {
    /// Returns the features that this server accepts but ignores.
    ///
    /// The list for TensorRT-LLM is empty, because that server rejects unknown fields itself.
    #[rustfmt::skip] // One row for each server.
    pub(crate) fn ignores(self) -> &'static [Feature] {
        use Feature::*;
        match self {
            Self::Vllm | Self::SgLang => &[CachePrompt],
            // If the limit is 0 tokens, llama.cpp still generates one token.
            Self::LlamaCpp => &[NoTokens, MinTokens, StopTokenIds, SkipSpecialTokens, Priority, CacheSalt],
            Self::Tgi => &[
                PromptIds, MinTokens, MinP, PresencePenalty, StopTokenIds, IgnoreEos, LogitBias, SkipSpecialTokens,
                Priority, CacheSalt, CachePrompt,
            ],
            Self::TensorRtLlm => &[],
            Self::Ollama => &[
                PromptIds, MinTokens, MinP, TopK, RepetitionPenalty, StopTokenIds, IgnoreEos, LogitBias,
                SkipSpecialTokens, Priority, CacheSalt, CachePrompt, ToolChoice,
            ],
            Self::LmStudio => &[
                PromptIds, MinTokens, MinP, StopTokenIds, IgnoreEos, SkipSpecialTokens, Priority, CacheSalt,
                CachePrompt,
            ],
        }
    }
}

/// Rejects extra fields that turn streaming off or request more than one choice.
pub(crate) fn validate_extras(extras: &Map<String, Value>) -> Result<(), Error> {
    if extras.get("stream").is_some_and(|stream| *stream != Value::Bool(true)) {
        return Err(Error::new(ErrorKind::Unsupported, "an extra field turns streaming off"));
    }
    for key in ["n", "best_of"] {
        if extras.get(key).is_some_and(|n| !n.is_null() && n.as_u64() != Some(1)) {
            let why = "more than one choice: send one request for each choice";
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
    }
    Ok(())
}
