//! The JSON body of a request, in each server's words. Own fields first, extra ones last; no key is written
//! twice.

use std::borrow::Cow;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::message::Message;
use super::sampling::SamplingParams;
use super::{CompletionRequest, Prompt};
use crate::protocol::chunk::endpoint::{Endpoint, ServerKind};
use crate::protocol::server::quirks::Quirks;
use crate::types::ids::TokenId;

/// The fields by which a request on an OpenAI endpoint says what its caller asks for.
pub(crate) const FIELDS: &[&str] = &[
    "model",
    "prompt",
    "messages",
    "tools",
    "tool_choice",
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "ignore_eos",
    "stop",
    "stop_token_ids",
    "logit_bias",
    "skip_special_tokens",
    "stream",
    "priority",
    "cache_salt",
    "cache_prompt",
    "structured_outputs",
    "json_schema",
    "regex",
    "grammar",
    "ebnf",
    "response_format",
];

/// The fields there by which this crate asks for ids and counts.
pub(crate) const FLAGS: &[&str] =
    &["stream_options", "return_token_ids", "return_tokens", "verbose", "logprobs", "top_logprobs"];

/// Serialized straight from the request: a long prompt never becomes a tree of JSON values.
pub(super) struct Body<'a> {
    pub(super) request: &'a CompletionRequest,
    pub(super) model: Option<&'a str>,
    pub(super) endpoint: Endpoint,
    /// The known server whose words are to be used.
    pub(super) server: Option<ServerKind>,
    /// How the one that is meant differs from it.
    pub(super) quirks: Option<Quirks>,
    /// Whether the answer is to come in events, or whole.
    pub(super) stream: bool,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let extras = self.extras();
        let mut out = Fields::new(serializer.serialize_map(None)?, &extras);
        out.quirks = self.quirks;
        match self.endpoint {
            Endpoint::LlamaCpp => self.native_llama_cpp(&mut out)?,
            Endpoint::VllmGenerate => self.vllm_generate(&mut out)?,
            Endpoint::SgLang => self.native_sglang(&mut out)?,
            Endpoint::Tgi => self.native_tgi(&mut out)?,
            Endpoint::Auto | Endpoint::OpenAi | Endpoint::Chat => self.openai(&mut out)?,
        }
        out.end()
    }
}

impl Body<'_> {
    /// The request's extra fields, and those that every request to this server has, unless this one says otherwise.
    fn extras(&self) -> Cow<'_, Map<String, Value>> {
        let own = &self.request.extras;
        let Some(sets) = self.quirks.map(Quirks::sets).filter(|sets| !sets.is_empty()) else {
            return Cow::Borrowed(own);
        };
        let mut all = sets.clone();
        all.extend(own.clone());
        Cow::Owned(all)
    }

    /// Whether it is, or may be, this server.
    fn may_be(&self, server: ServerKind) -> bool {
        self.server.is_none_or(|known| known == server)
    }

    /// Whole answers have their usage without being asked, and vLLM refuses the options for them.
    fn stream<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        out.put("stream", &self.stream)?;
        if self.stream { out.merge("stream_options", IncludeUsage) } else { Ok(()) }
    }

    fn structured<M: SerializeMap>(
        &self,
        server: ServerKind,
        out: &mut Fields<'_, M>,
    ) -> Result<(), M::Error> {
        match self.request.structured_for(server) {
            Some((key, value)) => out.put(key, &*value),
            None => Ok(()),
        }
    }

    fn prompt<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        match &self.request.prompt {
            Prompt::Text(text) if self.endpoint == Endpoint::Chat => {
                out.put("messages", &[Message::user(text.as_str())])
            }
            Prompt::Messages(messages) => out.put("messages", messages),
            Prompt::Ids(ids) => out.put("prompt", ids),
            Prompt::Text(text) => out.put("prompt", text),
        }
    }

    fn openai<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        let request = self.request;
        out.some("model", self.model)?;
        self.prompt(out)?;
        if !request.tools.is_empty() {
            out.put("tools", &request.tools)?;
        }
        out.some("tool_choice", request.tool_choice.as_ref())?;
        request.sampling.openai(out)?;
        // Servers of plain OpenAI fields have no such thing; for the others it is a default to be told otherwise.
        let is_plain = |server| {
            matches!(
                server,
                ServerKind::Tgi | ServerKind::Ollama | ServerKind::LmStudio | ServerKind::Other(_)
            )
        };
        if request.sampling.skip_special_tokens || !self.server.is_some_and(is_plain) {
            out.put("skip_special_tokens", &request.sampling.skip_special_tokens)?;
        }
        self.stream(out)?;
        out.some("priority", request.priority)?;
        out.some("cache_salt", request.cache_salt.as_ref())?;
        out.some("cache_prompt", request.cache_prompt)?;
        // TensorRT-LLM refuses fields that it does not know: nothing is asked of a server that has no word for it.
        if self.may_be(ServerKind::Vllm) || self.server == Some(ServerKind::SgLang) {
            out.put("return_token_ids", &true)?;
        }
        if self.may_be(ServerKind::LlamaCpp) {
            match self.endpoint {
                // In whole answers all ids stand there, in chat too.
                _ if !self.stream => {
                    out.put("verbose", &true)?;
                    out.put("return_tokens", &true)?;
                }
                // In chat, its log-probabilities alone have ids, and they are 2 KB an event without the second field.
                Endpoint::Chat if self.server.is_some() && !request.has_tools() => {
                    out.put("logprobs", &true)?;
                    out.put("top_logprobs", &1)?;
                }
                Endpoint::Chat => {}
                _ => out.put("verbose", &true)?,
            }
        }
        if self.may_be(ServerKind::LlamaCpp) || self.server == Some(ServerKind::LmStudio) {
            out.some("repeat_penalty", request.sampling.repetition_penalty)?;
        }
        match self.server {
            Some(server) => self.structured(server, out),
            None => {
                self.structured(ServerKind::Vllm, out)?;
                self.structured(ServerKind::LlamaCpp, out)
            }
        }
    }

    fn native_llama_cpp<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        let request = self.request;
        let sampling = &request.sampling;
        out.some("model", self.model)?;
        self.prompt(out)?;
        out.some("n_predict", sampling.max_tokens)?;
        sampling.shared(out)?;
        out.some("repeat_penalty", sampling.repetition_penalty)?;
        if !sampling.logit_bias.is_empty() {
            out.put("logit_bias", &sampling.logit_bias)?;
        }
        out.put("stream", &self.stream)?;
        out.put("return_tokens", &true)?;
        out.some("cache_prompt", request.cache_prompt)?;
        self.structured(ServerKind::LlamaCpp, out)
    }

    fn vllm_generate<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        let request = self.request;
        out.some("model", self.model)?;
        if let Prompt::Ids(ids) = &request.prompt {
            out.put("token_ids", ids)?;
        }
        self.stream(out)?;
        out.some("priority", request.priority)?;
        out.some("cache_salt", request.cache_salt.as_ref())?;
        out.some("request_id", request.request_id.as_ref())?;
        out.merge("sampling_params", NestedSampling(request))
    }

    /// It serves one model, and has no field to name it.
    fn native_sglang<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        let request = self.request;
        match &request.prompt {
            Prompt::Ids(ids) => out.put("input_ids", ids)?,
            Prompt::Text(text) => out.put("text", text)?,
            // Refused before.
            Prompt::Messages(_) => {}
        }
        out.put("stream", &self.stream)?;
        out.some("rid", request.request_id.as_ref())?;
        out.some("priority", request.priority)?;
        out.some("cache_salt", request.cache_salt.as_ref())?;
        out.merge("sampling_params", SgLangSampling(self))
    }

    /// It serves one model, and streams because of its path.
    fn native_tgi<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        if let Prompt::Text(text) = &self.request.prompt {
            out.put("inputs", text)?;
        }
        out.merge("parameters", TgiParameters(self))
    }
}

impl SamplingParams {
    /// The fields that every server calls the same.
    fn shared<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        out.some("temperature", self.temperature)?;
        out.some("top_p", self.top_p)?;
        out.some("top_k", self.top_k)?;
        out.some("min_p", self.min_p)?;
        out.some("presence_penalty", self.presence_penalty)?;
        out.some("frequency_penalty", self.frequency_penalty)?;
        out.some("seed", self.seed)?;
        out.some("ignore_eos", self.ignore_eos)?;
        if self.stop.is_empty() { Ok(()) } else { out.put("stop", &self.stop) }
    }

    fn bias_by_id<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        if self.logit_bias.is_empty() { Ok(()) } else { out.put("logit_bias", &BiasById(&self.logit_bias)) }
    }

    /// All fields but `skip_special_tokens` in OpenAI's and vLLM's words.
    fn openai<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        out.some("max_tokens", self.max_tokens)?;
        out.some("min_tokens", self.min_tokens)?;
        self.shared(out)?;
        out.some("repetition_penalty", self.repetition_penalty)?;
        if !self.stop_token_ids.is_empty() {
            out.put("stop_token_ids", &self.stop_token_ids)?;
        }
        self.bias_by_id(out)
    }
}

/// A JSON object being written, into which extra fields go last.
struct Fields<'a, M> {
    map: M,
    extras: &'a Map<String, Value>,
    /// The extra fields that are written already, as part of an own one.
    merged: Vec<&'static str>,
    /// What this object's own fields are called by the server.
    quirks: Option<Quirks>,
}

impl<'a, M: SerializeMap> Fields<'a, M> {
    fn new(map: M, extras: &'a Map<String, Value>) -> Self {
        Self { map, extras, merged: Vec::new(), quirks: None }
    }

    /// What the server calls this field, if it is to have it.
    fn name(&self, key: &'static str) -> Option<&'static str> {
        self.quirks.map_or(Some(key), |quirks| quirks.field(key))
    }

    /// An own field, unless an extra one of that name will come.
    fn put<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), M::Error> {
        match self.name(key) {
            Some(name) if !self.extras.contains_key(name) => self.map.serialize_entry(name, value),
            _ => Ok(()),
        }
    }

    fn some<T: Serialize>(&mut self, key: &'static str, value: Option<T>) -> Result<(), M::Error> {
        value.map_or(Ok(()), |value| self.put(key, &value))
    }

    /// An own field that is an object; an extra object of that name goes into it, anything else takes its
    /// place.
    fn merge<T: OwnFields>(&mut self, key: &'static str, own: T) -> Result<(), M::Error> {
        let Some(key) = self.name(key) else { return Ok(()) };
        let none = Map::new();
        let extras = match self.extras.get(key) {
            None => &none,
            Some(Value::Object(extras)) => extras,
            Some(_) => return Ok(()),
        };
        self.merged.push(key);
        self.map.serialize_entry(key, &Object { own, extras })
    }

    fn end(mut self) -> Result<M::Ok, M::Error> {
        for (key, value) in self.extras {
            if !self.merged.contains(&key.as_str()) {
                self.map.serialize_entry(key, value)?;
            }
        }
        self.map.end()
    }
}

/// Something that writes fields of its own into an object.
trait OwnFields {
    fn write<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error>;
}

/// Own fields and extra ones.
struct Object<'a, T> {
    own: T,
    extras: &'a Map<String, Value>,
}

impl<T: OwnFields> Serialize for Object<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = Fields::new(serializer.serialize_map(None)?, self.extras);
        self.own.write(&mut out)?;
        out.end()
    }
}

/// `stream_options`.
struct IncludeUsage;

impl OwnFields for IncludeUsage {
    fn write<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        out.put("include_usage", &true)
    }
}

/// `sampling_params` of vLLM's generate endpoint.
struct NestedSampling<'a>(&'a CompletionRequest);

impl OwnFields for NestedSampling<'_> {
    fn write<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        self.0.sampling.openai(out)?;
        out.put("skip_special_tokens", &self.0.sampling.skip_special_tokens)?;
        out.some("structured_outputs", self.0.structured_output.as_ref())
    }
}

/// `sampling_params` of SGLang's generate endpoint.
struct SgLangSampling<'a>(&'a Body<'a>);

impl OwnFields for SgLangSampling<'_> {
    fn write<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        let sampling = &self.0.request.sampling;
        out.some("max_new_tokens", sampling.max_tokens)?;
        out.some("min_new_tokens", sampling.min_tokens)?;
        out.some("temperature", sampling.temperature)?;
        out.some("top_p", sampling.top_p)?;
        out.some("top_k", sampling.top_k)?;
        out.some("min_p", sampling.min_p)?;
        out.some("presence_penalty", sampling.presence_penalty)?;
        out.some("frequency_penalty", sampling.frequency_penalty)?;
        out.some("repetition_penalty", sampling.repetition_penalty)?;
        out.some("sampling_seed", sampling.seed)?;
        out.some("ignore_eos", sampling.ignore_eos)?;
        if !sampling.stop.is_empty() {
            out.put("stop", &sampling.stop)?;
        }
        if !sampling.stop_token_ids.is_empty() {
            out.put("stop_token_ids", &sampling.stop_token_ids)?;
        }
        sampling.bias_by_id(out)?;
        out.put("skip_special_tokens", &sampling.skip_special_tokens)?;
        self.0.structured(ServerKind::SgLang, out)
    }
}

/// `parameters` of TGI. What asks for nothing there is refused by it, and is left out.
struct TgiParameters<'a>(&'a Body<'a>);

impl OwnFields for TgiParameters<'_> {
    fn write<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        let sampling = &self.0.request.sampling;
        out.some("max_new_tokens", sampling.max_tokens)?;
        match sampling.temperature {
            Some(0.0) => out.put("do_sample", &false)?,
            Some(temperature) => {
                out.put("do_sample", &true)?;
                out.put("temperature", &temperature)?;
            }
            None => {}
        }
        out.some("top_p", sampling.top_p.filter(|top_p| *top_p < 1.0))?;
        out.some("top_k", sampling.top_k.filter(|top_k| *top_k > 0))?;
        out.some("repetition_penalty", sampling.repetition_penalty)?;
        out.some("frequency_penalty", sampling.frequency_penalty)?;
        out.some("seed", sampling.seed)?;
        if !sampling.stop.is_empty() {
            out.put("stop", &sampling.stop)?;
        }
        // Finish reason and counts come only with these.
        out.put("details", &true)?;
        self.0.structured(ServerKind::Tgi, out)
    }
}

/// A logit bias as an object, `{"id": bias}`.
struct BiasById<'a>(&'a [(TokenId, f64)]);

impl Serialize for BiasById<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(id, bias)| (id, bias)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn full() -> CompletionRequest {
        let sampling = SamplingParams::default()
            .max_tokens(9)
            .min_tokens(1)
            .temperature(0.7)
            .top_p(0.9)
            .min_p(0.05)
            .top_k(-1)
            .presence_penalty(0.1)
            .frequency_penalty(-0.1)
            .repetition_penalty(1.1)
            .seed(i64::MIN)
            .stop(vec!["\n\n".to_owned()])
            .stop_token_ids(vec![2])
            .ignore_eos(true)
            .logit_bias(vec![(7, -1.5), (8, 2.0)]);
        CompletionRequest::ids([504, 1296])
            .sampling(sampling)
            .priority(-3)
            .structured_output(json!({"json": {"type": "object"}}))
            .cache_salt("s")
            .cache_prompt(false)
            .request_id("mine-9")
            .allow_ignored_fields()
            .extra("custom", json!({"a": [1, null]}))
    }

    fn body(request: &CompletionRequest, endpoint: Endpoint, server: Option<ServerKind>) -> Value {
        let json = request.to_json(Some("m"), endpoint, server).unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    /// What a record can rename: all that a body has on the OpenAI endpoints.
    #[test]
    fn each_field_that_is_written_is_listed_and_each_listed_one_is_written() {
        let names = ["vllm", "llamacpp", "sglang", "tgi", "tensorrt_llm", "ollama", "lmstudio"];
        let servers = names.map(|name| Some(ServerKind::by_name(name).unwrap()));
        let kinds = [json!({"json": {}}), json!({"regex": "a+"}), json!({"grammar": "g"})];
        let mut written = std::collections::BTreeSet::new();
        for (server, kind) in
            servers.into_iter().chain([None]).flat_map(|s| kinds.iter().map(move |k| (s, k)))
        {
            for endpoint in [Endpoint::OpenAi, Endpoint::Chat] {
                let mut request = full().structured_output(kind.clone());
                if endpoint == Endpoint::Chat {
                    request.prompt = Prompt::Messages(vec![Message::user("Hi")]);
                    request = request.tool_choice("auto");
                    // With tools, llama.cpp is asked for no log-probabilities.
                    request.tools = if server.is_none() { vec![json!({})] } else { Vec::new() };
                }
                for body in [
                    request.to_json(Some("m"), endpoint, server),
                    request.to_call_json(None, endpoint, server),
                ] {
                    // A kind of output that the server does not know.
                    let Ok(body) = body else { continue };
                    let body: Map<String, Value> = serde_json::from_slice(&body).unwrap();
                    written.extend(body.into_iter().map(|(key, _)| key));
                }
            }
        }
        let listed = FIELDS.iter().chain(FLAGS).map(|field| (*field).to_owned());
        // llama.cpp's name for another field, and an extra one.
        let listed = listed.chain(["repeat_penalty".to_owned(), "custom".to_owned()]);
        assert_eq!(written, listed.collect());
    }

    #[test]
    fn the_short_form_is_what_the_original_sends() {
        let sampling =
            SamplingParams::default().temperature(0.0).top_p(1.0).top_k(-1).stop_token_ids(vec![2]);
        let request = CompletionRequest::ids([1, 2]).sampling(sampling).priority(0).allow_ignored_fields();
        let sent = json!({
            "model": "m", "prompt": [1, 2], "max_tokens": 16384, "temperature": 0.0, "top_p": 1.0,
            "top_k": -1, "stop_token_ids": [2], "skip_special_tokens": false, "stream": true,
            "stream_options": {"include_usage": true}, "priority": 0, "return_token_ids": true,
        });
        assert_eq!(body(&request, Endpoint::OpenAi, Some(ServerKind::Vllm)), sent);
        // Not known which server it is: ids are asked for in both ways.
        let mut both = sent;
        both["verbose"] = true.into();
        assert_eq!(body(&request, Endpoint::Auto, None), both);
        assert_eq!(body(&request, Endpoint::OpenAi, None), both);
        both.as_object_mut().unwrap().remove("return_token_ids");
        assert_eq!(body(&request, Endpoint::OpenAi, Some(ServerKind::LlamaCpp)), both);
    }

    #[test]
    fn every_field_goes_out_in_each_server_s_words() {
        let vllm_sampling = json!({
            "max_tokens": 9, "min_tokens": 1, "temperature": 0.7, "top_p": 0.9, "min_p": 0.05, "top_k": -1,
            "presence_penalty": 0.1, "frequency_penalty": -0.1, "repetition_penalty": 1.1, "seed": i64::MIN,
            "stop": ["\n\n"], "stop_token_ids": [2], "ignore_eos": true, "logit_bias": {"7": -1.5, "8": 2.0},
            "skip_special_tokens": false, "structured_outputs": {"json": {"type": "object"}},
        });
        let with = |mut base: Value, more: Value| {
            base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            base
        };
        let vllm = json!({
            "model": "m", "prompt": [504, 1296], "stream": true, "stream_options": {"include_usage": true},
            "priority": -3, "cache_salt": "s", "cache_prompt": false, "return_token_ids": true,
            "custom": {"a": [1, null]},
        });
        assert_eq!(
            body(&full(), Endpoint::OpenAi, Some(ServerKind::Vllm)),
            with(vllm, vllm_sampling.clone())
        );
        let generate = json!({
            "model": "m", "token_ids": [504, 1296], "stream": true, "stream_options": {"include_usage": true},
            "priority": -3, "cache_salt": "s", "request_id": "mine-9", "sampling_params": vllm_sampling,
            "custom": {"a": [1, null]},
        });
        assert_eq!(body(&full(), Endpoint::VllmGenerate, None), generate);
        let native = json!({
            "model": "m", "prompt": [504, 1296], "n_predict": 9, "temperature": 0.7, "top_p": 0.9,
            "top_k": -1, "min_p": 0.05, "presence_penalty": 0.1, "frequency_penalty": -0.1,
            "repeat_penalty": 1.1, "seed": i64::MIN, "ignore_eos": true, "stop": ["\n\n"],
            "logit_bias": [[7, -1.5], [8, 2.0]],
            "stream": true, "return_tokens": true, "cache_prompt": false, "json_schema": {"type": "object"},
            "custom": {"a": [1, null]},
        });
        assert_eq!(body(&full(), Endpoint::LlamaCpp, None), native);
        let sglang = json!({
            "input_ids": [504, 1296], "stream": true, "rid": "mine-9", "priority": -3, "cache_salt": "s",
            "sampling_params": {
                "max_new_tokens": 9, "min_new_tokens": 1, "temperature": 0.7, "top_p": 0.9, "top_k": -1,
                "min_p": 0.05, "presence_penalty": 0.1, "frequency_penalty": -0.1, "repetition_penalty": 1.1,
                "sampling_seed": i64::MIN, "ignore_eos": true, "stop": ["\n\n"], "stop_token_ids": [2],
                "logit_bias": {"7": -1.5, "8": 2.0}, "skip_special_tokens": false,
                "json_schema": "{\"type\":\"object\"}",
            },
            "custom": {"a": [1, null]},
        });
        assert_eq!(body(&full(), Endpoint::SgLang, None), sglang);
        let text = CompletionRequest { prompt: Prompt::Text("Hi".to_owned()), ..full() };
        let tgi = json!({
            "inputs": "Hi",
            "parameters": {
                "max_new_tokens": 9, "do_sample": true, "temperature": 0.7, "top_p": 0.9,
                "repetition_penalty": 1.1, "frequency_penalty": -0.1, "seed": i64::MIN, "stop": ["\n\n"],
                "details": true, "grammar": {"type": "json", "value": {"type": "object"}},
            },
            "custom": {"a": [1, null]},
        });
        assert_eq!(body(&text, Endpoint::Tgi, None), tgi);
        let greedy = SamplingParams::default().temperature(0.0).top_p(1.0);
        let greedy = body(&CompletionRequest::text("Hi").sampling(greedy), Endpoint::Tgi, None);
        let parameters = json!({"max_new_tokens": 16384, "do_sample": false, "details": true});
        assert_eq!(greedy["parameters"], parameters);
        let unknown = body(&full(), Endpoint::OpenAi, None);
        for (key, value) in [
            ("structured_outputs", json!({"json": {"type": "object"}})),
            ("json_schema", json!({"type": "object"})),
            ("repetition_penalty", json!(1.1)),
            ("repeat_penalty", json!(1.1)),
        ] {
            assert_eq!(unknown[key], value, "{key}");
        }
    }

    #[test]
    fn chat_and_completions_say_to_each_server_what_it_knows() {
        let request = CompletionRequest::text("Hi").sampling(SamplingParams::default().max_tokens(4));
        let base = json!({"stream": true, "stream_options": {"include_usage": true}, "max_tokens": 4});
        // Server, whether it is a chat, what is sent beside the prompt.
        let cases = [
            (None, true, json!({"skip_special_tokens": false, "return_token_ids": true})),
            (Some(ServerKind::Vllm), true, json!({"skip_special_tokens": false, "return_token_ids": true})),
            (
                Some(ServerKind::LlamaCpp),
                true,
                json!({"skip_special_tokens": false, "logprobs": true, "top_logprobs": 1}),
            ),
            (
                Some(ServerKind::SgLang),
                false,
                json!({"skip_special_tokens": false, "return_token_ids": true}),
            ),
            (Some(ServerKind::TensorRtLlm), false, json!({"skip_special_tokens": false})),
            (Some(ServerKind::Ollama), false, json!({})),
            (Some(ServerKind::Ollama), true, json!({})),
            (Some(ServerKind::LmStudio), true, json!({})),
            (Some(ServerKind::Tgi), true, json!({})),
        ];
        for (server, chat, more) in cases {
            let (endpoint, prompt) = match chat {
                true => (Endpoint::Chat, json!({"messages": [{"role": "user", "content": "Hi"}]})),
                false => (Endpoint::OpenAi, json!({"prompt": "Hi"})),
            };
            let mut expected = base.clone();
            for part in [json!({"model": "m"}), prompt, more] {
                expected.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            }
            assert_eq!(body(&request, endpoint, server), expected, "{server:?} {endpoint}");
        }
        let messages = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]);
        let extra = request.extra("messages", messages.clone());
        assert_eq!(body(&extra, Endpoint::Chat, None)["messages"], messages);
        let tools = [json!({"type": "function", "function": {"name": "now"}})];
        let asked = CompletionRequest::messages([Message::system("s"), Message::user("u")])
            .tools(tools.clone())
            .tool_choice("required");
        for (endpoint, server) in [
            (Endpoint::Chat, None),
            (Endpoint::Auto, Some(ServerKind::Vllm)),
            (Endpoint::Auto, Some(ServerKind::LlamaCpp)),
        ] {
            let body = body(&asked, endpoint, server);
            assert_eq!((&body["messages"], &body["tool_choice"]), (&messages, &json!("required")));
            assert_eq!(body["tools"], json!(tools));
            let asks_as_chat = body.get("verbose").is_none();
            assert!(asks_as_chat, "{body}");
            // llama.cpp refuses them beside tools, in a stream.
            assert!(body.get("logprobs").is_none(), "{body}");
        }
        for (server, kind, field) in [
            (ServerKind::SgLang, json!({"regex": "a+"}), json!({"regex": "a+"})),
            (ServerKind::SgLang, json!({"grammar": "g"}), json!({"ebnf": "g"})),
            (ServerKind::LlamaCpp, json!({"grammar": "g"}), json!({"grammar": "g"})),
            (
                ServerKind::TensorRtLlm,
                json!({"regex": "a+"}),
                json!({"response_format": {"type": "regex", "regex": "a+"}}),
            ),
        ] {
            let request = CompletionRequest::text("Hi").structured_output(kind);
            let body = body(&request, Endpoint::OpenAi, Some(server));
            let (key, value) = field.as_object().unwrap().iter().next().unwrap();
            assert_eq!(body[key], *value, "{server:?}");
        }
    }

    /// By wire and server, what is another than in a stream.
    #[test]
    fn a_call_asks_for_no_stream_and_for_ids_where_whole_answers_have_them() {
        let text = CompletionRequest::text("Hi");
        let ids = CompletionRequest::ids([1]);
        let llama = json!({"verbose": true, "return_tokens": true});
        for (endpoint, server, request, gone, new) in [
            (Endpoint::Auto, None, &ids, &[][..], json!({"return_tokens": true})),
            (Endpoint::OpenAi, Some(ServerKind::Vllm), &ids, &[], json!({})),
            (Endpoint::OpenAi, Some(ServerKind::LlamaCpp), &ids, &[], json!({"return_tokens": true})),
            (Endpoint::Chat, None, &text, &[], llama.clone()),
            (Endpoint::Chat, Some(ServerKind::LlamaCpp), &text, &["logprobs", "top_logprobs"], llama),
            (Endpoint::Chat, Some(ServerKind::Ollama), &text, &[], json!({})),
            (Endpoint::LlamaCpp, None, &ids, &[], json!({})),
            (Endpoint::VllmGenerate, None, &ids, &[], json!({})),
            (Endpoint::SgLang, None, &ids, &[], json!({})),
            (Endpoint::Tgi, None, &text, &[], json!({})),
        ] {
            let mut expected = body(request, endpoint, server);
            let fields = expected.as_object_mut().unwrap();
            for key in gone.iter().chain(&["stream_options"]) {
                fields.remove(*key);
            }
            if endpoint != Endpoint::Tgi {
                fields.insert("stream".to_owned(), json!(false));
            }
            fields.extend(new.as_object().unwrap().clone());
            let json = request.to_call_json(Some("m"), endpoint, server).unwrap();
            let found: Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(found, expected, "{endpoint} {server:?}");
        }
        let error = ids.extra("stream", false).to_call_json(None, Endpoint::Auto, None).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Unsupported);
    }

    #[test]
    fn no_key_is_written_twice_and_extras_win() {
        let options = json!({"continuous_usage_stats": true, "include_usage": false});
        let request = full()
            .extra("max_tokens", 3)
            .extra("model", "other")
            .extra("stream", true)
            .extra("n", 1)
            .extra("stream_options", options.clone())
            .extra("sampling_params", json!({"seed": 4, "allowed_token_ids": [1]}));
        for (endpoint, server) in [
            (Endpoint::OpenAi, None),
            (Endpoint::OpenAi, Some(ServerKind::Vllm)),
            (Endpoint::OpenAi, Some(ServerKind::LlamaCpp)),
            (Endpoint::LlamaCpp, None),
            (Endpoint::VllmGenerate, None),
            (Endpoint::SgLang, None),
        ] {
            let json = request.to_json(Some("m"), endpoint, server).unwrap();
            // A tree written again would be shorter if a key had come twice.
            let value: Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(value.to_string().len(), json.len(), "{}", String::from_utf8_lossy(&json));
            assert_eq!((&value["max_tokens"], &value["model"]), (&json!(3), &json!("other")));
            assert_eq!(value["stream_options"], options);
            if endpoint.path().0.ends_with("/generate") {
                let nested = &value["sampling_params"];
                let three = (&nested["seed"], &nested["allowed_token_ids"], &nested["top_p"]);
                assert_eq!(three, (&json!(4), &json!([1]), &json!(0.9)));
            }
        }
    }

    #[test]
    fn a_long_prompt_of_ids_comes_back_as_it_was() {
        let ids: Vec<TokenId> = (0..100_000).map(|i| u32::MAX / 100_000 * i).chain([0, u32::MAX]).collect();
        for (endpoint, key) in [
            (Endpoint::OpenAi, "prompt"),
            (Endpoint::LlamaCpp, "prompt"),
            (Endpoint::VllmGenerate, "token_ids"),
            (Endpoint::SgLang, "input_ids"),
        ] {
            let mut value = body(&CompletionRequest::ids(ids.clone()), endpoint, None);
            let back: Vec<TokenId> = serde_json::from_value(value[key].take()).unwrap();
            assert_eq!(back, ids);
        }
        let text = "a \"quoted\"\u{0}\u{2028} 🦀";
        assert_eq!(body(&CompletionRequest::text(text), Endpoint::OpenAi, None)["prompt"], text);
    }
}
