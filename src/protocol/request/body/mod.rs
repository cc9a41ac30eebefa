//! Writes the JSON body of a request with the field names of each server.
//!
//! The body contains the request's own fields first and the extra fields last. No key is written
//! twice.

use std::borrow::Cow;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::completion::{CompletionRequest, Prompt};
use super::message::Message;
use super::refuse::unsupported;
use super::sampling::SamplingParams;
use crate::error::Error;
use crate::protocol::server::endpoint::Endpoint;
use crate::protocol::server::family::Family;
use crate::protocol::server::{Quirks, ServerKind};
use crate::types::ids::TokenId;

/// Writes the fields that have a value. The names in the code are also the names of the fields.
macro_rules! some {
    ($out:ident, $of:ident: $($field:ident),*) => {
        $($out.some(stringify!($field), $of.$field.as_ref())?;)*
    };
}

impl CompletionRequest {
    /// Returns the JSON body, which asks for a stream, for usage and for ids.
    ///
    /// `model` is the client's model. It is used if the request has no model of its own. On
    /// [`Endpoint::Chat`], a text prompt becomes one message of the user, unless an extra field
    /// contains `messages`.
    ///
    /// `server` is the server, if you know it. Each server has its own fields to ask for ids. If
    /// you pass `None` on [`Endpoint::OpenAi`], the body contains the fields of all servers,
    /// because each server ignores the fields of the others. The first chunk then identifies the
    /// server ([`ChunkDecoder::server`](crate::ChunkDecoder::server)).
    ///
    /// The method takes time proportional to the length of the prompt. Ids are written unchanged.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`validate`](Self::validate), and [`Unsupported`] in these cases:
    ///
    /// - The endpoint does not support the request's prompt or tools. [`Endpoint::Chat`] and
    ///   [`Endpoint::Tgi`] do not accept ids. [`Endpoint::VllmGenerate`] does not accept text. Only
    ///   [`Endpoint::Chat`] accepts messages and tools.
    /// - The server does not support this kind of structured output.
    /// - The server that you pass would silently ignore a part of the request. For example, Ollama
    ///   and LM Studio ignore ids in the prompt. llama.cpp, TGI, Ollama and LM Studio ignore stop
    ///   ids, `min_tokens` and a priority. The features that a server record refuses count too.
    ///   Extra fields are not checked. To send such a request, call
    ///   [`allow_ignored_fields`](Self::allow_ignored_fields).
    ///
    /// [`Unsupported`]: crate::ErrorKind::Unsupported
    pub fn to_json(
        &self,
        model: Option<&str>,
        endpoint: Endpoint,
        server: Option<&ServerKind>,
    ) -> Result<Vec<u8>, Error> {
        self.write_json(model, endpoint, server, true)
    }

    /// Returns the JSON body of a [`call`](crate::ApiClient::call).
    ///
    /// The body asks for a whole response. In all other ways the method works like
    /// [`to_json`](Self::to_json).
    ///
    /// # Errors
    ///
    /// Returns the errors of [`to_json`](Self::to_json), and
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for the extra field `stream`.
    pub fn to_call_json(
        &self,
        model: Option<&str>,
        endpoint: Endpoint,
        server: Option<&ServerKind>,
    ) -> Result<Vec<u8>, Error> {
        if self.extras.contains_key("stream") {
            return Err(unsupported("a request for a whole response takes no extra field \"stream\""));
        }
        self.write_json(model, endpoint, server, false)
    }

    fn write_json(
        &self,
        model: Option<&str>,
        endpoint: Endpoint,
        server: Option<&ServerKind>,
        stream: bool,
    ) -> Result<Vec<u8>, Error> {
        self.validate()?;
        let endpoint = self.endpoint(endpoint);
        let own = endpoint.family().map(ServerKind::from);
        let server = own.as_ref().or(server);
        self.check_for(endpoint, server)?;
        let capacity = match &self.prompt {
            Prompt::Ids(ids) => ids.len() * 7,
            Prompt::Text(text) => text.len(),
            Prompt::Messages(messages) => messages.iter().map(Message::len).sum(),
        };
        let mut json = Vec::with_capacity(capacity + 1024);
        let model = self.model.as_deref().or(model);
        let body = Body { request: self, model, endpoint, server, stream };
        serde_json::to_writer(&mut json, &body)
            .map_err(|error| Error::invalid("cannot write the request as JSON").with_source(error))?;
        Ok(json)
    }
}

/// A body that is serialized directly from the request.
///
/// A long prompt is never copied into a tree of JSON values.
struct Body<'a> {
    request: &'a CompletionRequest,
    model: Option<&'a str>,
    endpoint: Endpoint,
    /// The server, or `None` if it is unknown.
    server: Option<&'a ServerKind>,
    /// True if the response is a stream of events. Otherwise it is one JSON body.
    stream: bool,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let extras = self.extras();
        let mut out = Fields::new(serializer.serialize_map(None)?, &extras, self.endpoint);
        out.quirks = self.quirks();
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

impl<'a> Body<'a> {
    fn quirks(&self) -> Option<&'a Quirks> {
        self.server.and_then(ServerKind::quirks)
    }

    fn family(&self) -> Option<Family> {
        self.server.and_then(ServerKind::family)
    }

    /// Returns the extra fields of the request and of the server's record.
    ///
    /// If both have a field, the value of the request is used.
    fn extras(&self) -> Cow<'_, Map<String, Value>> {
        let own = &self.request.extras;
        let Some(sets) = self.quirks().map(Quirks::sets).filter(|sets| !sets.is_empty()) else {
            return Cow::Borrowed(own);
        };
        let mut all = sets.clone();
        all.extend(own.clone());
        Cow::Owned(all)
    }

    /// Returns whether the server is unknown or belongs to this family.
    fn may_be(&self, family: Family) -> bool {
        self.server.is_none_or(|known| known.family() == Some(family))
    }

    /// Writes the fields that turn streaming on or off.
    ///
    /// The method does not ask for the usage of a whole response: the response always contains it.
    /// vLLM rejects `stream_options` in a request for a whole response.
    fn stream<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        out.put("stream", &self.stream)?;
        if self.stream { out.merge("stream_options", IncludeUsage) } else { Ok(()) }
    }

    fn structured<M: SerializeMap>(
        &self,
        family: Option<Family>,
        out: &mut Fields<'_, M>,
    ) -> Result<(), M::Error> {
        match self.request.structured_for(family) {
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
        request.sampling.write(out)?;
        // Servers with only the OpenAI fields do not have `skip_special_tokens`. Other servers have
        // a different default.
        let is_plain = matches!(self.family(), None | Some(Family::Tgi | Family::Ollama | Family::LmStudio));
        if request.sampling.skip_special_tokens || self.server.is_none() || !is_plain {
            out.put("skip_special_tokens", &request.sampling.skip_special_tokens)?;
        }
        self.stream(out)?;
        some!(out, request: priority, cache_salt, cache_prompt);
        self.ids(out)?;
        if self.may_be(Family::LlamaCpp) || self.family() == Some(Family::LmStudio) {
            out.some("repeat_penalty", request.sampling.repetition_penalty)?;
        }
        match self.server {
            Some(server) => self.structured(server.family(), out),
            None => {
                self.structured(Some(Family::Vllm), out)?;
                self.structured(Some(Family::LlamaCpp), out)
            }
        }
    }

    /// Writes the fields that ask for ids.
    ///
    /// If a server has no field for ids, the body contains none: TensorRT-LLM rejects unknown
    /// fields.
    fn ids<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        if self.may_be(Family::Vllm) || self.family() == Some(Family::SgLang) {
            out.put("return_token_ids", &true)?;
        }
        if !self.may_be(Family::LlamaCpp) {
            return Ok(());
        }
        match self.endpoint {
            // A whole response has all ids in `__verbose`, on the chat endpoint too.
            _ if !self.stream => {
                out.put("verbose", &true)?;
                out.put("return_tokens", &true)
            }
            // In a chat stream, only the log-probabilities contain ids. Without `top_logprobs`, the
            // log-probabilities take 2 KB per event.
            Endpoint::Chat if self.server.is_some() && !self.request.has_tools() => {
                out.put("logprobs", &true)?;
                out.put("top_logprobs", &1)
            }
            Endpoint::Chat => Ok(()),
            _ => out.put("verbose", &true),
        }
    }

    fn native_llama_cpp<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        out.some("model", self.model)?;
        self.prompt(out)?;
        self.request.sampling.write(out)?;
        out.put("stream", &self.stream)?;
        out.put("return_tokens", &true)?;
        out.some("cache_prompt", self.request.cache_prompt)?;
        self.structured(Some(Family::LlamaCpp), out)
    }

    fn vllm_generate<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        let request = self.request;
        out.some("model", self.model)?;
        if let Prompt::Ids(ids) = &request.prompt {
            out.put("token_ids", ids)?;
        }
        self.stream(out)?;
        some!(out, request: priority, cache_salt, request_id);
        out.merge("sampling_params", NestedSampling(self))
    }

    /// Writes SGLang's native body. The server has only one model, so no field names the model.
    fn native_sglang<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        let request = self.request;
        match &request.prompt {
            Prompt::Ids(ids) => out.put("input_ids", ids)?,
            Prompt::Text(text) => out.put("text", text)?,
            // `check_for` has already rejected a prompt of messages.
            Prompt::Messages(_) => {}
        }
        out.put("stream", &self.stream)?;
        out.some("rid", request.request_id.as_ref())?;
        some!(out, request: priority, cache_salt);
        out.merge("sampling_params", NestedSampling(self))
    }

    /// Writes TGI's native body, without a model or `stream`.
    ///
    /// The server has only one model, and the path turns streaming on.
    fn native_tgi<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        if let Prompt::Text(text) = &self.request.prompt {
            out.put("inputs", text)?;
        }
        out.merge("parameters", TgiParameters(self))
    }
}

impl SamplingParams {
    /// Writes the fields under the endpoint's names, except `skip_special_tokens`.
    fn write<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        some!(out, self: max_tokens, min_tokens, temperature, top_p, top_k, min_p);
        some!(out, self: presence_penalty, frequency_penalty, seed, ignore_eos);
        out.list("stop", &self.stop)?;
        out.some("repetition_penalty", self.repetition_penalty)?;
        out.list("stop_token_ids", &self.stop_token_ids)?;
        match self.logit_bias.as_slice() {
            [] => Ok(()),
            pairs if out.endpoint == Endpoint::LlamaCpp => out.put("logit_bias", pairs),
            pairs => out.put("logit_bias", &BiasById(pairs)),
        }
    }
}

/// The writer of a JSON object, which writes the extra fields last.
struct Fields<'a, M> {
    map: M,
    extras: &'a Map<String, Value>,
    /// The extra fields that were already merged into a field of the request.
    merged: Vec<&'a str>,
    /// The endpoint that decides the names of the fields.
    endpoint: Endpoint,
    /// The server's own names for the fields of this object.
    quirks: Option<&'a Quirks>,
}

impl<'a, M: SerializeMap> Fields<'a, M> {
    fn new(map: M, extras: &'a Map<String, Value>, endpoint: Endpoint) -> Self {
        Self { map, extras, merged: Vec::new(), endpoint, quirks: None }
    }

    /// Returns the server's name for this field, or `None` if the field is not sent.
    fn name(&self, key: &'static str) -> Option<&'a str> {
        let key = self.endpoint.field(key)?;
        self.quirks.map_or(Some(key), |quirks| quirks.field(key))
    }

    /// Writes a field of the request, unless an extra field has the same name.
    fn put<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), M::Error> {
        match self.name(key) {
            Some(name) if !self.extras.contains_key(name) => self.map.serialize_entry(name, value),
            _ => Ok(()),
        }
    }

    fn some<T: Serialize>(&mut self, key: &'static str, value: Option<T>) -> Result<(), M::Error> {
        value.map_or(Ok(()), |value| self.put(key, &value))
    }

    /// Writes a field of the request that is a list, unless the list is empty.
    fn list<T: Serialize>(&mut self, key: &'static str, value: &[T]) -> Result<(), M::Error> {
        if value.is_empty() { Ok(()) } else { self.put(key, value) }
    }

    /// Writes a field of the request that is an object.
    ///
    /// An extra object of the same name is merged into it. Any other extra value replaces it.
    fn merge<T: OwnFields>(&mut self, key: &'static str, own: T) -> Result<(), M::Error> {
        let Some(key) = self.name(key) else { return Ok(()) };
        let none = Map::new();
        let extras = match self.extras.get(key) {
            None => &none,
            Some(Value::Object(extras)) => extras,
            Some(_) => return Ok(()),
        };
        self.merged.push(key);
        self.map.serialize_entry(key, &Object { own, extras, endpoint: self.endpoint })
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

/// Writes the fields of the request into an object.
trait OwnFields {
    fn write<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error>;
}

/// The fields of the request and the extra fields of one object.
struct Object<'a, T> {
    own: T,
    extras: &'a Map<String, Value>,
    endpoint: Endpoint,
}

impl<T: OwnFields> Serialize for Object<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = Fields::new(serializer.serialize_map(None)?, self.extras, self.endpoint);
        self.own.write(&mut out)?;
        out.end()
    }
}

/// The object `stream_options`.
struct IncludeUsage;

impl OwnFields for IncludeUsage {
    fn write<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        out.put("include_usage", &true)
    }
}

/// The object `sampling_params` of the generate endpoints of vLLM and SGLang.
struct NestedSampling<'a>(&'a Body<'a>);

impl OwnFields for NestedSampling<'_> {
    fn write<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        let sampling = &self.0.request.sampling;
        sampling.write(out)?;
        out.put("skip_special_tokens", &sampling.skip_special_tokens)?;
        self.0.structured(self.0.family(), out)
    }
}

/// The object `parameters` of TGI, which rejects values that have no effect.
struct TgiParameters<'a>(&'a Body<'a>);

impl OwnFields for TgiParameters<'_> {
    fn write<M: SerializeMap>(&self, out: &mut Fields<'_, M>) -> Result<(), M::Error> {
        let mut sampling = self.0.request.sampling.clone();
        out.some("do_sample", sampling.temperature.map(|temperature| temperature != 0.0))?;
        sampling.temperature = sampling.temperature.filter(|temperature| *temperature != 0.0);
        sampling.top_p = sampling.top_p.filter(|top_p| *top_p < 1.0);
        sampling.top_k = sampling.top_k.filter(|top_k| *top_k > 0);
        sampling.write(out)?;
        // The server sends the finish reason and the counts only if the request sets this field.
        out.put("details", &true)?;
        self.0.structured(Some(Family::Tgi), out)
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
mod tests;
