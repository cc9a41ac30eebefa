//! What a server would silently ignore or get wrong, so that a request that asks for it is not sent.

use super::{CompletionRequest, Prompt};
use crate::error::{Error, ErrorKind};
use crate::protocol::chunk::endpoint::{Endpoint, ServerKind};
use crate::protocol::server::quirks::Quirks;

/// Something that a request may ask for: its name, and whether it does. What is as if it were not asked for does not count.
type Ask = (&'static str, fn(&CompletionRequest) -> bool);

const PROMPT_IDS: Ask = ("prompt ids", |request| matches!(request.prompt, Prompt::Ids(_)));
const NO_TOKENS: Ask = ("max_tokens of 0", |request| request.sampling.max_tokens == Some(0));
const MIN_TOKENS: Ask = ("min_tokens", |request| request.sampling.min_tokens.is_some_and(|n| n > 0));
const MIN_P: Ask = ("min_p", |request| request.sampling.min_p.is_some_and(|p| p > 0.0));
const TOP_K: Ask = ("top_k", |request| request.sampling.top_k.is_some_and(|k| k > 0));
const PRESENCE_PENALTY: Ask =
    ("presence_penalty", |request| request.sampling.presence_penalty.is_some_and(|penalty| penalty != 0.0));
const REPETITION_PENALTY: Ask = ("repetition_penalty", |request| {
    request.sampling.repetition_penalty.is_some_and(|penalty| penalty != 1.0)
});
const STOP_TOKEN_IDS: Ask = ("stop_token_ids", |request| !request.sampling.stop_token_ids.is_empty());
const IGNORE_EOS: Ask = ("ignore_eos", |request| request.sampling.ignore_eos == Some(true));
const LOGIT_BIAS: Ask = ("logit_bias", |request| !request.sampling.logit_bias.is_empty());
const SKIP_SPECIAL_TOKENS: Ask = ("skip_special_tokens", |request| request.sampling.skip_special_tokens);
const PRIORITY: Ask = ("priority", |request| request.priority.is_some_and(|priority| priority != 0));
const CACHE_SALT: Ask = ("cache_salt", |request| request.cache_salt.is_some());
const CACHE_PROMPT: Ask = ("cache_prompt", |request| request.cache_prompt == Some(false));
const FREQUENCY_PENALTY: Ask =
    ("frequency_penalty", |request| request.sampling.frequency_penalty.is_some_and(|penalty| penalty != 0.0));
const SEED: Ask = ("seed", |request| request.sampling.seed.is_some());
const STOP: Ask = ("stop", |request| !request.sampling.stop.is_empty());
const STRUCTURED_OUTPUT: Ask = ("structured_output", |request| request.structured_output.is_some());
const TOOLS: Ask = ("tools", |request| !request.tools.is_empty());
// What is chosen without being told.
const TOOL_CHOICE: Ask =
    ("tool_choice", |request| request.tool_choice.as_ref().is_some_and(|choice| choice != "auto"));

/// All that a server's record may refuse.
const ASKS: [Ask; 20] = [
    PROMPT_IDS,
    NO_TOKENS,
    MIN_TOKENS,
    MIN_P,
    TOP_K,
    PRESENCE_PENALTY,
    FREQUENCY_PENALTY,
    REPETITION_PENALTY,
    SEED,
    STOP,
    STOP_TOKEN_IDS,
    IGNORE_EOS,
    LOGIT_BIAS,
    SKIP_SPECIAL_TOKENS,
    PRIORITY,
    CACHE_SALT,
    CACHE_PROMPT,
    STRUCTURED_OUTPUT,
    TOOLS,
    TOOL_CHOICE,
];

/// Whether this is the name of something that a request may ask for.
pub(crate) fn is_ask(name: &str) -> bool {
    ASKS.iter().any(|(known, _)| *known == name)
}

/// By server: what it takes without a word and does not do. A server that refuses unknown fields itself (TensorRT-LLM)
/// needs no row.
const IGNORED: &[(ServerKind, &[Ask])] = &[
    (ServerKind::Vllm, &[CACHE_PROMPT]),
    (
        ServerKind::LlamaCpp,
        // It makes one token for a limit of none.
        &[NO_TOKENS, MIN_TOKENS, STOP_TOKEN_IDS, SKIP_SPECIAL_TOKENS, PRIORITY, CACHE_SALT],
    ),
    (ServerKind::SgLang, &[CACHE_PROMPT]),
    (
        ServerKind::Tgi,
        &[
            PROMPT_IDS,
            MIN_TOKENS,
            MIN_P,
            PRESENCE_PENALTY,
            STOP_TOKEN_IDS,
            IGNORE_EOS,
            LOGIT_BIAS,
            SKIP_SPECIAL_TOKENS,
            PRIORITY,
            CACHE_SALT,
            CACHE_PROMPT,
        ],
    ),
    (
        ServerKind::Ollama,
        &[
            PROMPT_IDS,
            MIN_TOKENS,
            MIN_P,
            TOP_K,
            REPETITION_PENALTY,
            STOP_TOKEN_IDS,
            IGNORE_EOS,
            LOGIT_BIAS,
            SKIP_SPECIAL_TOKENS,
            PRIORITY,
            CACHE_SALT,
            CACHE_PROMPT,
            TOOL_CHOICE,
        ],
    ),
    (
        ServerKind::LmStudio,
        &[
            PROMPT_IDS,
            MIN_TOKENS,
            MIN_P,
            STOP_TOKEN_IDS,
            IGNORE_EOS,
            SKIP_SPECIAL_TOKENS,
            PRIORITY,
            CACHE_SALT,
            CACHE_PROMPT,
        ],
    ),
];

impl CompletionRequest {
    /// An error if the endpoint has no words for this request, or if the server would ignore a part of it.
    pub(super) fn check_for(&self, endpoint: Endpoint, server: Option<ServerKind>) -> Result<(), Error> {
        let has_ids = matches!(self.prompt, Prompt::Ids(_));
        let (is_chat, has_tools) =
            (endpoint == Endpoint::Chat, !self.tools.is_empty() || self.tool_choice.is_some());
        match endpoint {
            _ if !is_chat && matches!(self.prompt, Prompt::Messages(_)) => {
                return Err(unsupported("only the chat endpoint takes messages"));
            }
            _ if !is_chat && has_tools => {
                return Err(unsupported(
                    "only the chat endpoint takes tools: with ids or text the prompt describes them",
                ));
            }
            Endpoint::Chat if has_ids => {
                return Err(unsupported("the chat endpoint takes messages, not a prompt of ids"));
            }
            Endpoint::Tgi if has_ids => return Err(unsupported("TGI takes text, not a prompt of ids")),
            Endpoint::VllmGenerate if !has_ids => {
                return Err(unsupported("vLLM's generate endpoint takes ids, not text"));
            }
            _ => {}
        }
        let Some(server) = server else { return Ok(()) };
        if self.structured_output.is_some() && self.structured_for(server).is_none() {
            let name = server.name();
            return Err(unsupported(format!("{name} does not know this kind of structured output")));
        }
        match self.unheeded_by(server) {
            Some((field, reason)) if !self.allow_ignored_fields => Err(unsupported(format!(
                "{} would not heed this request's {field}{reason} (send_anyway sends it all the same)",
                server.name()
            ))),
            _ => Ok(()),
        }
    }

    /// What this server would ignore or get wrong, and what its record says of that.
    fn unheeded_by(&self, server: ServerKind) -> Option<(&'static str, String)> {
        let asks = |name| ASKS.iter().any(|(known, asked)| *known == name && asked(self));
        let mut refused = server.quirks().into_iter().flat_map(Quirks::refuses);
        if let Some((field, reason)) = refused.find(|(field, _)| asks(*field)) {
            return Some((field, format!(": {reason}")));
        }
        let ignored = IGNORED.iter().find(|row| row.0 == server.words()).map_or(&[][..], |row| row.1);
        ignored.iter().find(|(_, asked)| asked(self)).map(|(field, _)| (*field, String::new()))
    }
}

pub(super) fn unsupported(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::request::sampling::SamplingParams;

    /// A request that asks for this one thing.
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
    fn what_a_server_would_ignore_is_refused_and_can_be_sent_anyway() {
        let mut fields: Vec<&str> = IGNORED.iter().flat_map(|row| row.1.iter().map(|ask| ask.0)).collect();
        fields.sort_unstable();
        fields.dedup();
        for (server, ignored) in IGNORED {
            for field in &fields {
                let request = asking(field);
                let endpoint = if *field == "tool_choice" { Endpoint::Chat } else { Endpoint::OpenAi };
                let result = request.to_json(None, endpoint, Some(*server)).map(|_| ());
                if ignored.iter().any(|ask| ask.0 == *field) {
                    let error = result.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Unsupported, "{server:?} {field}");
                    assert!(error.message().contains(field), "{error}");
                    request.allow_ignored_fields().to_json(None, endpoint, Some(*server)).unwrap();
                } else {
                    result.unwrap_or_else(|error| panic!("{server:?} {field}: {error}"));
                }
                // Of a server that is not known, nothing is known.
                asking(field).to_json(None, endpoint, None).unwrap();
            }
        }
        // What is not asked for, in words.
        let nothing = SamplingParams::default().min_tokens(0).min_p(0.0).top_k(-1).repetition_penalty(1.0);
        let nothing = nothing.presence_penalty(0.0).ignore_eos(false);
        let request = CompletionRequest::text("Hi").sampling(nothing).priority(0).cache_prompt(true);
        for (server, _) in IGNORED {
            request.to_json(None, Endpoint::OpenAi, Some(*server)).unwrap();
        }
    }

    #[test]
    fn a_record_refuses_what_it_names_and_nothing_else() {
        for (refused, _) in ASKS {
            let record =
                json!({"name": "mine", "about": "", "like": "sglang", "refuses": {refused: "so it is"}});
            let server = ServerKind::from_json(&record.to_string()).unwrap();
            for (field, _) in ASKS {
                let endpoint = if field.starts_with("tool") { Endpoint::Chat } else { Endpoint::OpenAi };
                let asked = asking(field);
                match asked.to_json(None, endpoint, Some(server)) {
                    Err(error) if field == refused => {
                        assert_eq!(error.kind(), ErrorKind::Unsupported);
                        let said = format!("mine would not heed this request's {field}: so it is");
                        assert!(error.message().starts_with(&said), "{error}");
                    }
                    // As the server that it is like has it.
                    written => {
                        let known = asked.to_json(None, endpoint, Some(ServerKind::SgLang));
                        assert_eq!(written.is_ok(), known.is_ok() && field != refused, "{refused} {field}");
                    }
                }
                asked.allow_ignored_fields().to_json(None, endpoint, Some(server)).unwrap();
            }
        }
    }

    #[test]
    fn what_an_endpoint_has_no_words_for_is_refused_whatever_is_said() {
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
        // The wire tells the server.
        let request = CompletionRequest::ids([1]).priority(3);
        let error = request.to_json(None, Endpoint::LlamaCpp, None).unwrap_err();
        assert!(error.message().contains("llama.cpp") && error.message().contains("priority"), "{error}");
    }
}
