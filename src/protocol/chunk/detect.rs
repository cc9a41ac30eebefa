//! Detects the endpoint and the server of a stream from its chunks.

use super::json::{Choice, Chunk};
use super::value::{AnyValue, Presence, Scalar};
use crate::protocol::server::endpoint::Endpoint;
use crate::protocol::server::family::Family;

/// Returns the endpoint of a chunk, if the chunk identifies it.
pub(super) fn detect_endpoint(chunk: &Chunk<'_>) -> Option<Endpoint> {
    let Some(choice) = chunk.choices.first() else {
        return endpoint_without_choices(chunk);
    };
    if choice.delta.presence == Presence::Given {
        Some(Endpoint::Chat)
    } else if chunk.output_mode.is_given() || (chunk.request_id.is_given() && !chunk.id.is_given()) {
        Some(Endpoint::VllmGenerate)
    } else if choice.text.is_given() || choice.token_ids.presence == Presence::Given {
        Some(Endpoint::OpenAi)
    } else {
        match chunk.object.text() {
            Some("chat.completion.chunk") => Some(Endpoint::Chat),
            Some("text_completion") => Some(Endpoint::OpenAi),
            _ => None,
        }
    }
}

/// Returns the endpoint of an event without `choices`, if the event is in a server's native format.
pub(super) fn endpoint_without_choices(chunk: &Chunk<'_>) -> Option<Endpoint> {
    if chunk.choices.presence != Presence::Missing {
        None
    } else if chunk.meta.presence == Presence::Given || chunk.output_ids.presence == Presence::Given {
        Some(Endpoint::SgLang)
    } else if chunk.token.presence == Presence::Given {
        Some(Endpoint::Tgi)
    } else {
        is_native(chunk).then_some(Endpoint::LlamaCpp)
    }
}

/// Returns whether this is an event of llama.cpp's native endpoint, which never has `choices`.
pub(super) fn is_native(chunk: &Chunk<'_>) -> bool {
    chunk.choices.presence == Presence::Missing
        && (chunk.tokens.presence == Presence::Given
            || chunk.content.text().is_some()
            || matches!(chunk.stop, Scalar::Bool(_)))
}

/// Returns the server, if the chunk has keys or values that only this server sends.
pub(super) fn detect_server(chunk: &Chunk<'_>) -> Option<Family> {
    let fingerprint = chunk.fingerprint.text().unwrap_or("").as_bytes();
    let has_ids_key = |choice: &Choice<'_>| choice.token_ids.presence != Presence::Missing;
    let has = |mark: &AnyValue| mark.presence != Presence::Missing;
    let bare = endpoint_without_choices(chunk);
    if bare == Some(Endpoint::SgLang) || chunk.choices.iter().any(|choice| has(&choice.matched_stop)) {
        Some(Family::SgLang)
    } else if bare == Some(Endpoint::Tgi) {
        Some(Family::Tgi)
    } else if chunk.choices.iter().any(|choice| has(&choice.avg_decoded)) {
        Some(Family::TensorRtLlm)
    } else if chunk.choices.iter().any(has_ids_key) || fingerprint.starts_with(b"vllm") {
        Some(Family::Vllm)
    } else if chunk.verbose.presence == Presence::Given
        || chunk.timings.presence == Presence::Given
        || is_native(chunk)
        || matches!(fingerprint, [b'b', digit, ..] if digit.is_ascii_digit())
    {
        Some(Family::LlamaCpp)
    } else if fingerprint == b"fp_ollama" {
        Some(Family::Ollama)
    } else {
        None
    }
}
