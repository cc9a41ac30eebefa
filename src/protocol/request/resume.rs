//! Decides whether a broken stream can be resumed, and writes the request that continues it.

use serde_json::{Map, Value};

use super::completion::{CompletionRequest, Prompt};
use super::sampling::SamplingParams;
use crate::protocol::server::endpoint::Endpoint;
use crate::types::ids::TokenId;
use crate::types::not_resumable::NotResumable;

/// Returns whether a value has no effect.
type Neutral = fn(&Value) -> bool;

const NULL: Neutral = Value::is_null;
const OFF: Neutral = |value| matches!(value, Value::Null | Value::Bool(false));
const ONE: Neutral = |value| value.is_null() || value.as_f64() == Some(1.0);
const ZERO: Neutral = |value| value.is_null() || value.as_f64() == Some(0.0);
const EMPTY: Neutral = |value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);

/// Extra fields that affect a resume, each with the reason. The table covers all servers.
///
/// The first two groups always prevent a resume. You can accept the others with
/// [`allow_inexact_resume`](CompletionRequest::allow_inexact_resume).
const FIELDS: &[(&[&str], Neutral, NotResumable)] = &[
    (&["n", "best_of", "n_cmpl"], ONE, NotResumable::SeveralChoices),
    (&["echo"], OFF, NotResumable::Echo),
    (&["structured_outputs", "response_format", "structural_tag"], NULL, NotResumable::StructuredOutput),
    (
        &["guided_json", "guided_regex", "guided_choice", "guided_grammar"],
        NULL,
        NotResumable::StructuredOutput,
    ),
    (&["json_schema", "grammar", "regex", "ebnf"], NULL, NotResumable::StructuredOutput),
    (&["presence_penalty", "frequency_penalty", "dry_multiplier"], ZERO, NotResumable::Penalty),
    (&["repetition_penalty", "repeat_penalty"], ONE, NotResumable::Penalty),
    (&["stop"], EMPTY, NotResumable::StopStrings),
];

/// Fields whose effect changes if the prompt contains a part of the output.
///
/// The server uses these fields to search over whole responses, to count the output, to keep state
/// during the output, or to shorten the prompt.
#[rustfmt::skip] // One row for each reason.
const COUNTING: &[&str] = &[
    "use_beam_search", "length_penalty", "suffix",
    "min_tokens", "min_new_tokens", "thinking_token_budget", "t_max_predict_ms",
    "bad_words", "logits_processors", "custom_logit_processor", "custom_params", "vllm_xargs",
    "repetition_detection", "mirostat", "session_params",
    "truncate_prompt_tokens",
];

/// Fields that the request for a resume must write itself. An extra field would replace the value.
#[rustfmt::skip] // The prompt, and the limit.
const OWN: &[&str] = &[
    "prompt", "token_ids", "input_ids",
    "max_tokens", "max_completion_tokens", "n_predict", "max_new_tokens",
];

impl CompletionRequest {
    /// Rejects a request whose stream on `endpoint` cannot be resumed, with the reason.
    ///
    /// This method checks only the request. When the stream breaks, other reasons may still prevent
    /// a resume.
    pub(crate) fn check_resumable(&self, endpoint: Endpoint) -> Result<(), NotResumable> {
        if matches!(endpoint, Endpoint::Chat | Endpoint::Tgi) {
            return Err(NotResumable::Endpoint);
        }
        if !matches!(self.prompt, Prompt::Ids(_)) {
            return Err(NotResumable::TextPrompt);
        }
        let maps: Vec<_> = self.nested_extras().chain([&self.extras]).collect();
        if let Some(name) = maps.iter().find_map(|map| OWN.iter().find(|name| map.contains_key(**name))) {
            return Err(NotResumable::Field(name));
        }
        let own = [
            (self.structured_output.is_some(), NotResumable::StructuredOutput),
            (self.sampling.penalizes(), NotResumable::Penalty),
        ];
        let own = own.into_iter().filter(|(asked, _)| *asked).map(|(_, why)| why);
        let whys = own.chain(maps.into_iter().flat_map(asked_for));
        whys.into_iter().find(|why| !(self.allow_inexact_resume && why.is_acceptable())).map_or(Ok(()), Err)
    }

    /// Returns the request that continues after the ids in `received`.
    pub(crate) fn behind(&self, received: &[TokenId]) -> Self {
        let less = u32::try_from(received.len()).unwrap_or(u32::MAX);
        let mut next = self.clone();
        if let Prompt::Ids(ids) = &mut next.prompt {
            ids.extend(received);
        }
        for limit in [&mut next.sampling.max_tokens, &mut next.sampling.min_tokens] {
            *limit = limit.map(|limit| limit.saturating_sub(less));
        }
        next
    }

    /// Returns whether sampling always takes the most probable token.
    pub(crate) fn is_greedy(&self) -> bool {
        let nested = self.extras.get("sampling_params");
        let extra = |key| self.extras.get(key).or_else(|| nested?.get(key)).map(Value::as_f64);
        extra("temperature").unwrap_or(self.sampling.temperature) == Some(0.0)
            || extra("top_k").unwrap_or(self.sampling.top_k.map(f64::from)) == Some(1.0)
    }

    pub(crate) fn resumes_anyway(&self) -> bool {
        self.allow_inexact_resume
    }

    /// Returns whether the extra fields contain stop strings. No other method checks these strings.
    pub(crate) fn has_own_stops(&self) -> bool {
        self.any_extras(|map| map.get("stop").is_some_and(|stop| !EMPTY(stop)))
    }

    /// Returns whether the server keeps stop strings in the text.
    pub(crate) fn keeps_stop_strings(&self) -> bool {
        let keys = ["include_stop_str_in_output", "no_stop_trim"];
        self.any_extras(|map| keys.iter().any(|key| map.get(*key) == Some(&true.into())))
    }

    fn any_extras(&self, has: impl Fn(&Map<String, Value>) -> bool) -> bool {
        has(&self.extras) || self.extras.get("sampling_params").and_then(Value::as_object).is_some_and(has)
    }
}

impl SamplingParams {
    fn penalizes(&self) -> bool {
        let is = |value: Option<f64>, neutral: f64| value.is_some_and(|value| value != neutral);
        is(self.presence_penalty, 0.0) || is(self.frequency_penalty, 0.0) || is(self.repetition_penalty, 1.0)
    }
}

/// Returns the reasons why these fields prevent a resume or make it inexact.
fn asked_for(map: &Map<String, Value>) -> impl Iterator<Item = NotResumable> {
    let asks = |name: &str, neutral: Neutral| map.get(name).is_some_and(|value| !neutral(value));
    let named =
        FIELDS.iter().filter(move |(names, neutral, _)| names.iter().any(|name| asks(name, *neutral)));
    let counting = COUNTING.iter().filter(move |name| asks(name, |value| OFF(value) || ZERO(value)));
    named.map(|(_, _, why)| *why).chain(counting.map(|name| NotResumable::Field(name)))
}
