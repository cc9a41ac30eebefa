//! Reads the JSON of chunks for all endpoints. The result borrows from the event's data.
//!
//! Read this description before you change this file. Parsing fails only on invalid JSON. The
//! following are not errors in this file:
//!
//! - a field of an unexpected type;
//! - a repeated key: the last value is used, as in most parsers (serde's derive would return an
//!   error);
//! - an unknown key.
//!
//! Each endpoint's `read` function decides whether an unexpected value is an error, because only
//! that function knows which values the endpoint needs. The `object!` tables at the top list each
//! known key once.
//!
//! Reading a chunk with one choice and one id allocates only if its text contains escapes.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::limits::{MAX_CHOICES, MAX_TOKEN_IDS, MAX_TOOL_CALLS};
use super::value::{AnyValue, Fill, Id, Ids, InPlace, List, Presence, RawArguments, Scalar, fill, or_else};
use crate::types::ids::Usage;

/// Declares a struct with the fields in the table, and code that reads it in place.
///
/// Unknown keys are skipped. If a key is repeated, the last value is used. Null counts as missing.
/// A value that is not an object is marked as [`Presence::WrongType`].
macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty = $key:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(super) struct $name<'a> {
            // Some objects never use this field.
            #[allow(dead_code)]
            pub(super) presence: Presence,
            life: PhantomData<&'a ()>,
            $(pub(super) $field: $type,)*
        }

        impl $name<'_> {
            // Some objects are never part of a template.
            #[allow(dead_code)]
            pub(super) const KEYS: &'static [&'static str] = &[$($key),*];
        }

        impl<'de: 'a, 'a> Fill<'de> for $name<'a> {
            fn fill<D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
                #[allow(non_camel_case_types)]
                enum Key { $($field,)* Other }
                struct KeyVisitor;
                impl Visitor<'_> for KeyVisitor {
                    type Value = Key;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a key")
                    }
                    #[inline]
                    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                        Ok(match key {
                            $($key => Key::$field,)*
                            _ => Key::Other,
                        })
                    }
                }
                impl<'de> DeserializeSeed<'de> for KeyVisitor {
                    type Value = Key;
                    #[inline]
                    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
                        deserializer.deserialize_str(self)
                    }
                }
                struct ObjectVisitor<'x, 'a>(&'x mut $name<'a>);
                impl<'de: 'a, 'a> Visitor<'de> for ObjectVisitor<'_, 'a> {
                    type Value = ();
                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
                        self.0.presence = Presence::Given;
                        while let Some(key) = map.next_key_seed(KeyVisitor)? {
                            match key {
                                $(Key::$field => map.next_value_seed(InPlace(&mut self.0.$field))?,)*
                                Key::Other => drop(map.next_value::<IgnoredAny>()?),
                            }
                        }
                        Ok(())
                    }
                    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
                        self.0.presence = Presence::WrongType;
                        IgnoredAny.visit_seq(seq).map(drop)
                    }
                    or_else!();
                }
                // If a key is repeated, the last value is used.
                if self.presence != Presence::Missing {
                    *self = Self::default();
                }
                deserializer.deserialize_any(ObjectVisitor(self))
            }
        }
    };
}

object! {
    /// The data of one event, with the fields of all endpoints.
    Chunk {
        id: Scalar<'a> = "id",
        request_id: Scalar<'a> = "request_id",
        object: Scalar<'a> = "object",
        output_mode: Scalar<'a> = "output_mode",
        fingerprint: Scalar<'a> = "system_fingerprint",
        error: Scalar<'a> = "error",
        usage: UsageFields<'a> = "usage",
        choices: List<Choice<'a>, { MAX_CHOICES as usize }> = "choices",
        // llama.cpp sends these fields in addition to the OpenAI fields.
        verbose: Verbose<'a> = "__verbose",
        timings: Timings<'a> = "timings",
        progress: Scalar<'a> = "prompt_progress",
        // These are the fields of llama.cpp's native endpoint.
        index: Scalar<'a> = "index",
        content: Scalar<'a> = "content",
        tokens: Ids = "tokens",
        stop: Scalar<'a> = "stop",
        stop_type: Scalar<'a> = "stop_type",
        tokens_predicted: Scalar<'a> = "tokens_predicted",
        tokens_evaluated: Scalar<'a> = "tokens_evaluated",
        // These are the fields of SGLang's native endpoint.
        text: Scalar<'a> = "text",
        output_ids: Ids = "output_ids",
        meta: Meta<'a> = "meta_info",
        // These are the fields of TGI's native endpoint.
        token: TgiToken<'a> = "token",
        generated_text: Scalar<'a> = "generated_text",
        details: TgiDetails<'a> = "details",
    }
}

impl Chunk<'_> {
    /// Returns whether the chunk contains an error from the server, even beside other fields.
    pub(super) fn is_error(&self) -> bool {
        self.error.is_given() || self.object.text() == Some("error")
    }

    /// Moves the message of a whole response to the delta, as in a chunk.
    ///
    /// Each entry in the list of tool calls is a complete call. Each call gets its own index, so
    /// that two calls stay separate even if they have the same id or no id.
    pub(super) fn message_to_delta(&mut self) {
        for choice in self.choices.iter_mut().filter(|choice| choice.message.presence != Presence::Missing) {
            choice.delta = std::mem::take(&mut choice.message);
            for (index, call) in (0..).zip(choice.delta.tool_calls.iter_mut()) {
                call.index = Scalar::Uint(index);
            }
        }
    }
}

object! {
    /// One entry of `choices`.
    Choice {
        index: Scalar<'a> = "index",
        text: Scalar<'a> = "text",
        delta: Delta<'a> = "delta",
        // A whole response has this field instead of `delta`.
        message: Delta<'a> = "message",
        token_ids: Ids = "token_ids",
        logprobs: Logprobs<'a> = "logprobs",
        finish_reason: Scalar<'a> = "finish_reason",
        // The values are not used, but the keys identify SGLang and TensorRT-LLM.
        matched_stop: AnyValue = "matched_stop",
        avg_decoded: AnyValue = "avg_decoded_tokens_per_iter",
    }
}

object! {
    /// The additional fields of a chat chunk.
    Delta {
        content: Scalar<'a> = "content",
        reasoning: Scalar<'a> = "reasoning",
        reasoning_content: Scalar<'a> = "reasoning_content",
        tool_calls: List<CallDelta<'a>, MAX_TOOL_CALLS> = "tool_calls",
        // The provider Together sends this id on its chat and completions endpoints. Its chunks
        // contain the text twice: in `text` and in the delta.
        token_id: Id = "token_id",
    }
}

object! {
    /// A piece of a tool call.
    CallDelta {
        index: Scalar<'a> = "index",
        id: Scalar<'a> = "id",
        function: FunctionDelta<'a> = "function",
    }
}

object! {
    FunctionDelta {
        name: Scalar<'a> = "name",
        arguments: RawArguments<'a> = "arguments",
    }
}

object! {
    /// The fields of SGLang's native endpoint other than text and ids.
    Meta {
        id: Scalar<'a> = "id",
        finish_reason: MetaFinish<'a> = "finish_reason",
        prompt_tokens: Scalar<'a> = "prompt_tokens",
        completion_tokens: Scalar<'a> = "completion_tokens",
        cached_tokens: Scalar<'a> = "cached_tokens",
    }
}

object! { MetaFinish { kind: Scalar<'a> = "type", } }

object! {
    /// A token of TGI.
    TgiToken {
        id: Id = "id",
        text: Scalar<'a> = "text",
        special: Scalar<'a> = "special",
    }
}

object! {
    /// The details in TGI's last event, if the request asked for them.
    ///
    /// Only whole responses have the list of tokens.
    TgiDetails {
        tokens: List<TgiToken<'a>, MAX_TOKEN_IDS> = "tokens",
        finish_reason: Scalar<'a> = "finish_reason",
        generated_tokens: Scalar<'a> = "generated_tokens",
        input_length: Scalar<'a> = "input_length",
    }
}

object! {
    /// llama.cpp's `logprobs`. Its completions endpoint uses the format of the chat endpoint too.
    Logprobs { content: List<LogprobId, MAX_TOKEN_IDS> = "content", }
}

object! { Logprob { id: Id = "id", } }

object! {
    /// llama.cpp's native event, as a field of an OpenAI chunk.
    Verbose {
        tokens: Ids = "tokens",
        tokens_predicted: Scalar<'a> = "tokens_predicted",
        progress: Scalar<'a> = "prompt_progress",
    }
}

object! {
    /// The fields of a whole response that contain the ids of the prompt.
    ///
    /// On the completions endpoint, vLLM sends these ids in the choice. On the chat endpoint, it
    /// sends them at the top level.
    PromptIds {
        ids: Ids = "prompt_token_ids",
        choices: List<PromptIdsChoice<'a>, { MAX_CHOICES as usize }> = "choices",
        details: PromptIdsDetails<'a> = "details",
    }
}

object! { PromptIdsChoice { ids: Ids = "prompt_token_ids", } }

object! {
    /// The prompt in TGI's details, if the request sets `decoder_input_details`.
    PromptIdsDetails { prefill: List<LogprobId, MAX_TOKEN_IDS> = "prefill", }
}

object! { Timings { cache_n: Scalar<'a> = "cache_n", } }

object! {
    /// The `usage` object of OpenAI.
    UsageFields {
        prompt_tokens: Scalar<'a> = "prompt_tokens",
        completion_tokens: Scalar<'a> = "completion_tokens",
        prompt_details: UsageDetails<'a> = "prompt_tokens_details",
        completion_details: UsageDetails<'a> = "completion_tokens_details",
    }
}

object! {
    UsageDetails {
        cached_tokens: Scalar<'a> = "cached_tokens",
        reasoning_tokens: Scalar<'a> = "reasoning_tokens",
    }
}

impl UsageFields<'_> {
    /// Returns the counts, if `completion_tokens` is valid. Counts above `u32::MAX` are invalid.
    pub(super) fn usage(&self) -> Option<Usage> {
        Some(Usage {
            completion_tokens: self.completion_tokens.count()?,
            prompt_tokens: self.prompt_tokens.count().unwrap_or(0),
            cached_tokens: self.prompt_details.cached_tokens.count(),
            reasoning_tokens: self.completion_details.reasoning_tokens.count(),
        })
    }
}

/// The id in an entry of `logprobs.content` or of TGI's `prefill`.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct LogprobId(pub(super) Id);

impl<'de> Fill<'de> for LogprobId {
    fn fill<D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
        let mut logprob = Logprob::default();
        logprob.fill(deserializer)?;
        self.0 = logprob.id;
        Ok(())
    }
}

/// Returns whether a line is the JSON of an error.
pub(crate) fn is_error(json: &str) -> bool {
    let mut chunk = Chunk::default();
    fill(&mut chunk, json).is_ok() && chunk.is_error()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[test]
    fn text_is_borrowed_unless_it_has_escapes() {
        let mut chunk = Chunk::default();
        fill(&mut chunk, r#"{"content":"plain","id":"a\nb"}"#).unwrap();
        assert!(matches!(chunk.content, Scalar::Text(Cow::Borrowed("plain"))));
        assert!(matches!(&chunk.id, Scalar::Text(Cow::Owned(id)) if id == "a\nb"));
    }
}
