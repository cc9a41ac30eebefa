//! Rejects a request with features that the server would silently ignore or get wrong.

use std::borrow::Cow;

use super::completion::{CompletionRequest, Prompt};
use crate::error::{Error, ErrorKind};
use crate::protocol::server::endpoint::Endpoint;
use crate::protocol::server::family::Family;
use crate::protocol::server::fields::Feature;
use crate::protocol::server::{Quirks, ServerKind};

impl Feature {
    /// Returns whether the request uses the feature. A value without an effect does not count.
    fn is_asked_by(self, request: &CompletionRequest) -> bool {
        let CompletionRequest { sampling, .. } = request;
        let is_not = |value: Option<f64>, neutral: f64| value.is_some_and(|value| value != neutral);
        match self {
            Self::PromptIds => matches!(request.prompt, Prompt::Ids(_)),
            Self::NoTokens => sampling.max_tokens == Some(0),
            Self::MinTokens => sampling.min_tokens.is_some_and(|n| n > 0),
            Self::MinP => sampling.min_p.is_some_and(|p| p > 0.0),
            Self::TopK => sampling.top_k.is_some_and(|k| k > 0),
            Self::PresencePenalty => is_not(sampling.presence_penalty, 0.0),
            Self::FrequencyPenalty => is_not(sampling.frequency_penalty, 0.0),
            Self::RepetitionPenalty => is_not(sampling.repetition_penalty, 1.0),
            Self::Seed => sampling.seed.is_some(),
            Self::Stop => !sampling.stop.is_empty(),
            Self::StopTokenIds => !sampling.stop_token_ids.is_empty(),
            Self::IgnoreEos => sampling.ignore_eos == Some(true),
            Self::LogitBias => !sampling.logit_bias.is_empty(),
            Self::SkipSpecialTokens => sampling.skip_special_tokens,
            Self::Priority => request.priority.is_some_and(|priority| priority != 0),
            Self::CacheSalt => request.cache_salt.is_some(),
            Self::CachePrompt => request.cache_prompt == Some(false),
            Self::StructuredOutput => request.structured_output.is_some(),
            Self::Tools => !request.tools.is_empty(),
            // Servers use `auto` by default.
            Self::ToolChoice => request.tool_choice.as_ref().is_some_and(|choice| choice != "auto"),
        }
    }
}

impl CompletionRequest {
    /// Rejects a request that the endpoint does not support or the server would partly ignore.
    pub(super) fn check_for(&self, endpoint: Endpoint, server: Option<&ServerKind>) -> Result<(), Error> {
        let has_ids = matches!(self.prompt, Prompt::Ids(_));
        let (is_chat, has_tools) =
            (endpoint == Endpoint::Chat, !self.tools.is_empty() || self.tool_choice.is_some());
        let misfit = match endpoint {
            _ if !is_chat && matches!(self.prompt, Prompt::Messages(_)) => {
                Some("only the chat endpoint takes messages")
            }
            _ if !is_chat && has_tools => {
                Some("only the chat endpoint takes tools; with ids or text, describe them in the prompt")
            }
            Endpoint::Chat if has_ids => Some("the chat endpoint takes messages, not a prompt of ids"),
            Endpoint::Tgi if has_ids => Some("TGI takes text, not a prompt of ids"),
            Endpoint::VllmGenerate if !has_ids => Some("vLLM's generate endpoint takes ids, not text"),
            _ => None,
        };
        if let Some(misfit) = misfit {
            return Err(unsupported(misfit));
        }
        let Some(server) = server else { return Ok(()) };
        let name = server.name();
        if self.structured_output.is_some() && self.structured_for(server.family()).is_none() {
            return Err(unsupported(format!("{name} does not support this kind of structured output")));
        }
        match self.unheeded_by(server) {
            Some((feature, reason)) if !self.allow_ignored_fields => Err(unsupported(format!(
                "{name} does not support {}{reason} (allow_ignored_fields sends the request anyway)",
                feature.as_str()
            ))),
            _ => Ok(()),
        }
    }

    /// Returns a feature of the request that this server would ignore or get wrong, and the reason.
    fn unheeded_by(&self, server: &ServerKind) -> Option<(Feature, String)> {
        let mut refused = server.quirks().into_iter().flat_map(Quirks::refuses);
        if let Some((feature, reason)) = refused.find(|(feature, _)| feature.is_asked_by(self)) {
            return Some((feature, format!(": {reason}")));
        }
        let ignored = server.family().map_or(&[][..], Family::ignores);
        ignored.iter().find(|feature| feature.is_asked_by(self)).map(|feature| (*feature, String::new()))
    }
}

pub(super) fn unsupported(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::request::sampling::SamplingParams;

    const FAMILIES: [Family; 6] =
        [Family::Vllm, Family::LlamaCpp, Family::SgLang, Family::Tgi, Family::Ollama, Family::LmStudio];

    /// Creates a request that uses this feature.
    fn asking(field: &str) -> CompletionRequest {
        let text = || CompletionRequest::text("Hi");
        let sampled = |sampling| text().sampling(sampling);
        let params = SamplingParams::default;
        match field {
            "prompt ids" => CompletionRequest::ids([1]),
            "max_tokens of 0" => sampled(params().max_tokens(0)),
            "min_tokens" => sampled(params().min_tokens(2)),
            "min_p" => sampled(params().min_p(0.1)),
            "top_k" => sampled(params().top_k(5)),
            "presence_penalty" => sampled(params().presence_penalty(0.5)),
            "repetition_penalty" => sampled(params().repetition_penalty(1.1)),
            "stop_token_ids" => sampled(params().stop_token_ids(vec![2])),
            "ignore_eos" => sampled(params().ignore_eos(true)),
            "logit_bias" => sampled(params().logit_bias(vec![(1, 0.5)])),
            "skip_special_tokens" => sampled(params().skip_special_tokens(true)),
            "priority" => text().priority(3),
            "cache_salt" => text().cache_salt("s"),
            "cache_prompt" => text().cache_prompt(false),
            "tool_choice" => text().tool_choice("required"),
            "frequency_penalty" => sampled(params().frequency_penalty(0.5)),
            "seed" => sampled(params().seed(1)),
            "stop" => sampled(params().stop(vec!["x".to_owned()])),
            "structured_output" => text().structured_output(json!({"regex": "a+"})),
            "tools" => {
                let mut request = text();
                request.tools = vec![json!({})];
                request
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn ignored_features_are_rejected_unless_allowed() {
        let mut features: Vec<Feature> =
            FAMILIES.iter().flat_map(|family| family.ignores()).copied().collect();
        features.sort_unstable_by_key(|feature| feature.as_str());
        features.dedup();
        for family in FAMILIES {
            let server = &ServerKind::from(family);
            for feature in &features {
                let field = feature.as_str();
                let request = asking(field);
                let endpoint = if field == "tool_choice" { Endpoint::Chat } else { Endpoint::OpenAi };
                let result = request.to_json(None, endpoint, Some(server)).map(|_| ());
                if family.ignores().contains(feature) {
                    let error = result.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Unsupported, "{server:?} {field}");
                    assert!(error.message().contains(field), "{error}");
                    request.allow_ignored_fields().to_json(None, endpoint, Some(server)).unwrap();
                } else {
                    result.unwrap_or_else(|error| panic!("{server:?} {field}: {error}"));
                }
                // An unknown server may support every feature, so no feature is rejected.
                asking(field).to_json(None, endpoint, None).unwrap();
            }
        }
        // These values have no effect.
        let nothing = SamplingParams::default().min_tokens(0).min_p(0.0).top_k(-1).repetition_penalty(1.0);
        let nothing = nothing.presence_penalty(0.0).ignore_eos(false);
        let request = CompletionRequest::text("Hi").sampling(nothing).priority(0).cache_prompt(true);
        for family in FAMILIES {
            request.to_json(None, Endpoint::OpenAi, Some(&ServerKind::from(family))).unwrap();
        }
    }

    #[test]
    fn a_record_refuses_only_the_features_that_it_lists() {
        for refused in Feature::ALL.iter().map(|feature| feature.as_str()) {
            let record =
                json!({"name": "mine", "about": "", "like": "sglang", "refuses": {refused: "so it is"}});
            let server = ServerKind::from_json(&record.to_string()).unwrap();
            for field in Feature::ALL.iter().map(|feature| feature.as_str()) {
                let endpoint = if field.starts_with("tool") { Endpoint::Chat } else { Endpoint::OpenAi };
                let asked = asking(field);
                match asked.to_json(None, endpoint, Some(&server)) {
                    Err(error) if field == refused => {
                        assert_eq!(error.kind(), ErrorKind::Unsupported);
                        let said = format!("mine does not support {field}: so it is");
                        assert!(error.message().starts_with(&said), "{error}");
                    }
                    // For the other features, the result must be the same as for the server in
                    // `like`.
                    written => {
                        let known = asked.to_json(None, endpoint, Some(&ServerKind::SgLang));
                        assert_eq!(written.is_ok(), known.is_ok() && field != refused, "{refused} {field}");
                    }
                }
                asked.allow_ignored_fields().to_json(None, endpoint, Some(&server)).unwrap();
            }
        }
    }

    #[test]
    fn a_request_that_an_endpoint_cannot_express_is_always_rejected() {
        let ids = || CompletionRequest::ids([1]).allow_ignored_fields();
        let text = || CompletionRequest::text("Hi").allow_ignored_fields();
        for (endpoint, request) in [
            (Endpoint::Chat, ids()),
            (Endpoint::Tgi, ids()),
            (Endpoint::VllmGenerate, text()),
            (Endpoint::LlamaCpp, ids().structured_output(json!({"regex": "a+"}))),
            (Endpoint::Tgi, text().structured_output(json!({"grammar": "root ::= x"}))),
            (Endpoint::SgLang, text().structured_output(json!({"choice": ["a"]}))),
        ] {
            let error = request.to_json(None, endpoint, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{endpoint}: {error}");
        }
        // This endpoint exists only on one kind of server, so the server is known.
        let request = CompletionRequest::ids([1]).priority(3);
        let error = request.to_json(None, Endpoint::LlamaCpp, None).unwrap_err();
        assert!(error.message().contains("llama.cpp") && error.message().contains("priority"), "{error}");
    }
}
