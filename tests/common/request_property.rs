//! The property of request bodies, for any request. `to_json` writes JSON without duplicate keys.
//! The body contains exactly the values of the request, each under the name that the endpoint uses.
//! Only requests that no server could answer are rejected. A fuzz target calls this function.
//!
//! The names of the endpoints are written here a second time, as a table of paths.
//! `src/protocol/request/body/mod.rs` has them as code.

use std::fmt;

use arbitrary::{Arbitrary, Result, Unstructured};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, json};
use tokenwire::{CompletionRequest, Endpoint, ErrorKind, Message, SamplingParams, ServerKind, TokenId};

const WIRES: [Endpoint; 7] = [
    Endpoint::Auto,
    Endpoint::OpenAi,
    Endpoint::Chat,
    Endpoint::LlamaCpp,
    Endpoint::VllmGenerate,
    Endpoint::SgLang,
    Endpoint::Tgi,
];
static SERVERS: [ServerKind; 7] = [
    ServerKind::Vllm,
    ServerKind::LlamaCpp,
    ServerKind::SgLang,
    ServerKind::Tgi,
    ServerKind::TensorRtLlm,
    ServerKind::Ollama,
    ServerKind::LmStudio,
];

/// Everything that a request can contain.
#[derive(Debug, Arbitrary)]
struct Asked {
    prompt: Prompt,
    model: Option<String>,
    clients_model: Option<String>,
    max_tokens: Option<u32>,
    min_tokens: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    top_k: Option<i32>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    repetition_penalty: Option<f64>,
    seed: Option<i64>,
    stop: Vec<String>,
    stop_token_ids: Vec<TokenId>,
    ignore_eos: Option<bool>,
    logit_bias: Vec<(TokenId, f64)>,
    skip_special_tokens: bool,
    priority: Option<i32>,
    cache_salt: Option<String>,
    cache_prompt: Option<bool>,
    request_id: Option<String>,
    session: Option<String>,
    structured: Option<Structured>,
    tools: Vec<Json>,
    tool_choice: Option<Json>,
    extras: Vec<(Key, Json)>,
    allow_ignored_fields: bool,
}

#[derive(Debug, Arbitrary)]
enum Prompt {
    Ids(Vec<TokenId>),
    Text(String),
    Messages(Vec<Said>),
}

/// A message of a chat.
#[derive(Debug, Arbitrary)]
struct Said {
    role: u8,
    text: String,
    more: Vec<Piece>,
    calls: Vec<(String, String, String)>,
    extras: Vec<(Key, Json)>,
}

#[derive(Debug, Arbitrary)]
enum Piece {
    Text(String),
    Image(String),
    Other(Json),
}

#[derive(Debug, Arbitrary)]
enum Structured {
    Schema(Json),
    Regex(String),
    Grammar(String),
    Choice(Vec<String>),
}

/// The name of a field. Most names have a meaning, so that extra fields collide with the crate's
/// own fields.
#[derive(Debug)]
struct Key(String);

impl<'a> Arbitrary<'a> for Key {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        const KNOWN: [&str; 26] = [
            "stream_options",
            "sampling_params",
            "parameters",
            "include_usage",
            "stream",
            "n",
            "best_of",
            "model",
            "prompt",
            "messages",
            "max_tokens",
            "n_predict",
            "temperature",
            "seed",
            "logit_bias",
            "return_token_ids",
            "verbose",
            "priority",
            "details",
            "do_sample",
            "role",
            "content",
            "tool_calls",
            "tool_call_id",
            "structured_outputs",
            "json_schema",
        ];
        Ok(Self(match u.int_in_range(0..=KNOWN.len())? {
            n if n < KNOWN.len() => KNOWN[n].to_owned(),
            _ => u.arbitrary()?,
        }))
    }
}

/// Any JSON value with little nesting.
#[derive(Debug, Clone)]
struct Json(Value);

impl<'a> Arbitrary<'a> for Json {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        json_value(u, 3).map(Self)
    }
}

fn json_value(u: &mut Unstructured<'_>, depth: u32) -> Result<Value> {
    Ok(match u.int_in_range(0..=if depth > 0 { 9 } else { 6 })? {
        0 => Value::Null,
        1 => Value::Bool(u.arbitrary()?),
        2 => json!(u.arbitrary::<i64>()?),
        3 => json!(u.arbitrary::<u64>()?),
        // An infinite number or NaN becomes null.
        4 => json!(u.arbitrary::<f64>()?),
        5 => json!(u.arbitrary::<u8>()? % 3),
        6 => Value::String(u.arbitrary()?),
        7 => Value::Array(
            (0..u.int_in_range(0..=3)?).map(|_| json_value(u, depth - 1)).collect::<Result<_>>()?,
        ),
        _ => {
            let fields =
                (0..u.int_in_range(0..=3)?).map(|_| Ok((Key::arbitrary(u)?.0, json_value(u, depth - 1)?)));
            Value::Object(fields.collect::<Result<_>>()?)
        }
    })
}

/// Checks one input: the endpoint, the server, then the fields of the request.
pub(crate) fn request(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let Ok(wire) = u.choose(&WIRES).copied() else { return };
    let Ok(server) = u.int_in_range(0..=SERVERS.len()) else { return };
    let server = SERVERS.get(server);
    let Ok(asked) = Asked::arbitrary_take_rest(u) else { return };
    let request = asked.request();
    let wire = asked.wire(wire);
    let server = server_of(wire).or(server);
    let written = request.to_json(asked.clients_model.as_deref(), wire, server);
    if let Err(error) = &written {
        let refused = matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported);
        assert!(refused, "{error}: {asked:?}");
    }
    let Ok(json) = written else {
        assert!(request.validate().is_err() || asked.may_be_refused(wire, server), "{asked:?}");
        return;
    };
    assert!(asked.is_sendable(), "sent for {wire} and {server:?}: {asked:?}");
    let text = std::str::from_utf8(&json).expect("JSON is UTF-8");
    assert!(!text.bytes().any(|byte| byte < b' '), "line breaks are escaped: {text}");
    let found: Strict = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let expected = Value::Object(asked.expected(wire, server));
    assert!(
        is_same(&found.0, &expected),
        "{wire} {server:?}\nfound    {}\nexpected {expected}\nof {asked:?}",
        found.0
    );
    // A second call writes exactly the same bytes, because nothing depends on the time.
    assert_eq!(json, request.to_json(asked.clients_model.as_deref(), wire, server).unwrap());
}

fn server_of(wire: Endpoint) -> Option<&'static ServerKind> {
    match wire {
        Endpoint::LlamaCpp => Some(&ServerKind::LlamaCpp),
        Endpoint::VllmGenerate => Some(&ServerKind::Vllm),
        Endpoint::SgLang => Some(&ServerKind::SgLang),
        Endpoint::Tgi => Some(&ServerKind::Tgi),
        _ => None,
    }
}

// ---- the request ----

impl Asked {
    /// Returns the endpoint. Messages with `Auto` go to the chat endpoint.
    fn wire(&self, wire: Endpoint) -> Endpoint {
        match self.prompt {
            Prompt::Messages(_) if wire == Endpoint::Auto => Endpoint::Chat,
            _ => wire,
        }
    }

    fn request(&self) -> CompletionRequest {
        let mut params = SamplingParams::default();
        params.max_tokens = self.max_tokens;
        params.min_tokens = self.min_tokens;
        params.temperature = self.temperature;
        params.top_p = self.top_p;
        params.min_p = self.min_p;
        params.top_k = self.top_k;
        params.presence_penalty = self.presence_penalty;
        params.frequency_penalty = self.frequency_penalty;
        params.repetition_penalty = self.repetition_penalty;
        params.seed = self.seed;
        params.stop.clone_from(&self.stop);
        params.stop_token_ids.clone_from(&self.stop_token_ids);
        params.ignore_eos = self.ignore_eos;
        params.logit_bias.clone_from(&self.logit_bias);
        params.skip_special_tokens = self.skip_special_tokens;
        let mut request = match &self.prompt {
            Prompt::Ids(ids) => CompletionRequest::ids(ids.clone()),
            Prompt::Text(text) => CompletionRequest::text(text),
            Prompt::Messages(said) => CompletionRequest::messages(said.iter().map(Said::message)),
        };
        request = request.sampling(params).tools(self.tools.iter().map(|tool| tool.0.clone()));
        for (key, value) in &self.extras {
            request = request.extra(&key.0, value.0.clone());
        }
        let Self { model, priority, cache_salt, cache_prompt, request_id, session, structured, .. } = self;
        request = model.iter().fold(request, |request, model| request.model(model));
        request = priority.iter().fold(request, |request, priority| request.priority(*priority));
        request = cache_salt.iter().fold(request, |request, salt| request.cache_salt(salt));
        request = cache_prompt.iter().fold(request, |request, cache| request.cache_prompt(*cache));
        request = request_id.iter().fold(request, |request, id| request.request_id(id));
        request = session.iter().fold(request, |request, key| request.session(key));
        request =
            self.tool_choice.iter().fold(request, |request, choice| request.tool_choice(choice.0.clone()));
        request = structured.iter().fold(request, |request, kind| request.structured_output(kind.json()));
        if self.allow_ignored_fields { request.allow_ignored_fields() } else { request }
    }

    /// Returns whether any server could answer the request. The crate may reject more.
    fn is_sendable(&self) -> bool {
        let Self {
            temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty, ..
        } = self;
        let numbers = [temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty];
        let finite = numbers.into_iter().flatten().chain(self.logit_bias.iter().map(|(_, bias)| bias));
        let once = |n: usize| !self.logit_bias[..n].iter().any(|(id, _)| *id == self.logit_bias[n].0);
        let visible = |text: &String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let Self { request_id, session, .. } = self;
        finite.into_iter().all(|number| number.is_finite())
            && (0..self.logit_bias.len()).all(once)
            && [request_id, session].into_iter().flatten().all(visible)
            && match &self.prompt {
                Prompt::Ids(ids) => !ids.is_empty(),
                Prompt::Messages(said) => !said.is_empty(),
                Prompt::Text(_) => true,
            }
    }

    /// Returns whether the endpoint or the server may lack a name for a field of the request.
    fn may_be_refused(&self, wire: Endpoint, server: Option<&ServerKind>) -> bool {
        let has_tools = !self.tools.is_empty() || self.tool_choice.is_some();
        match &self.prompt {
            Prompt::Messages(_) if wire != Endpoint::Chat => return true,
            Prompt::Ids(_) if matches!(wire, Endpoint::Chat | Endpoint::Tgi) => return true,
            Prompt::Text(_) if wire == Endpoint::VllmGenerate => return true,
            _ if has_tools && wire != Endpoint::Chat => return true,
            _ => {}
        }
        server.is_some() && (!self.allow_ignored_fields || self.structured.is_some())
    }
}

impl Structured {
    fn json(&self) -> Value {
        match self {
            Self::Schema(schema) => json!({"json": schema.0}),
            Self::Regex(regex) => json!({"regex": regex}),
            Self::Grammar(grammar) => json!({"grammar": grammar}),
            Self::Choice(choice) => json!({"choice": choice}),
        }
    }

    /// Returns the field of this server. A request without such a field is rejected; if the server
    /// is unknown, the field is left out.
    fn field(&self, server: &ServerKind) -> Option<(&'static str, Value)> {
        let schema = matches!(self, Self::Schema(Json(Value::Object(_))));
        let (kind, text) = match self {
            Self::Schema(Json(value)) => ("json", value.clone()),
            Self::Regex(text) => ("regex", json!(text)),
            Self::Grammar(text) => ("grammar", json!(text)),
            Self::Choice(_) => ("choice", Value::Null),
        };
        let is_known = schema || matches!(kind, "regex" | "grammar");
        Some(match (server, kind) {
            (ServerKind::Vllm, _) => ("structured_outputs", self.json()),
            _ if !is_known => return None,
            (ServerKind::LlamaCpp, "json") => ("json_schema", text),
            (ServerKind::LlamaCpp, "grammar") => ("grammar", text),
            (ServerKind::SgLang, "json") => ("json_schema", json!(text.to_string())),
            (ServerKind::SgLang, "regex") => ("regex", text),
            (ServerKind::SgLang, "grammar") => ("ebnf", text),
            (ServerKind::Tgi, "json" | "regex") => ("grammar", json!({"type": kind, "value": text})),
            (ServerKind::TensorRtLlm, "json") => ("response_format", json!({"type": "json", "schema": text})),
            (ServerKind::TensorRtLlm, "regex") => {
                ("response_format", json!({"type": "regex", "regex": text}))
            }
            (ServerKind::TensorRtLlm, "grammar") => {
                ("response_format", json!({"type": "ebnf", "ebnf": text}))
            }
            _ => return None,
        })
    }
}

impl Said {
    fn message(&self) -> Message {
        let mut message = match self.role % 4 {
            0 => Message::system(&self.text),
            1 => Message::user(&self.text),
            2 => Message::assistant(&self.text),
            _ => Message::tool("call", &self.text),
        };
        for piece in &self.more {
            message = match piece {
                Piece::Text(text) => message.text(text),
                Piece::Image(url) => message.image_url(url),
                Piece::Other(part) => message.part(part.0.clone()),
            };
        }
        for (id, name, arguments) in &self.calls {
            message = message.tool_call(id, name, arguments);
        }
        self.extras.iter().fold(message, |message, (key, value)| message.extra(&key.0, value.0.clone()))
    }

    fn expected(&self) -> Value {
        let role = ["system", "user", "assistant", "tool"][usize::from(self.role % 4)];
        let text = |text: &str| json!({"type": "text", "text": text});
        let parts = self.more.iter().map(|piece| match piece {
            Piece::Text(more) => text(more),
            Piece::Image(url) => json!({"type": "image_url", "image_url": {"url": url}}),
            Piece::Other(part) => part.0.clone(),
        });
        let content = if self.more.is_empty() {
            json!(self.text)
        } else {
            Value::Array([text(&self.text)].into_iter().chain(parts).collect())
        };
        let mut fields = json!({"role": role, "content": content});
        if !self.calls.is_empty() {
            let calls = self.calls.iter().map(|(id, name, arguments)| {
                json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
            });
            fields["tool_calls"] = calls.collect();
        }
        if role == "tool" {
            fields["tool_call_id"] = json!("call");
        }
        for (key, value) in &self.extras {
            fields[&key.0] = value.0.clone();
        }
        fields
    }
}

// ---- the expected body ----

/// The path of each value at each endpoint. `a/b` is field `b` of the object `a`; an empty path
/// means that the endpoint does not have the field. The columns are: `/v1/completions` and chat,
/// llama.cpp, vLLM's generate, SGLang, TGI.
#[rustfmt::skip]
const WORDS: &[(&str, [&str; 5])] = &[
    ("max_tokens", ["max_tokens", "n_predict", "sampling_params/max_tokens", "sampling_params/max_new_tokens", "parameters/max_new_tokens"]),
    ("min_tokens", ["min_tokens", "", "sampling_params/min_tokens", "sampling_params/min_new_tokens", ""]),
    ("temperature", ["temperature", "temperature", "sampling_params/temperature", "sampling_params/temperature", "parameters/temperature"]),
    ("top_p", ["top_p", "top_p", "sampling_params/top_p", "sampling_params/top_p", "parameters/top_p"]),
    ("top_k", ["top_k", "top_k", "sampling_params/top_k", "sampling_params/top_k", "parameters/top_k"]),
    ("min_p", ["min_p", "min_p", "sampling_params/min_p", "sampling_params/min_p", ""]),
    ("presence_penalty", ["presence_penalty", "presence_penalty", "sampling_params/presence_penalty", "sampling_params/presence_penalty", ""]),
    ("frequency_penalty", ["frequency_penalty", "frequency_penalty", "sampling_params/frequency_penalty", "sampling_params/frequency_penalty", "parameters/frequency_penalty"]),
    ("repetition_penalty", ["repetition_penalty", "repeat_penalty", "sampling_params/repetition_penalty", "sampling_params/repetition_penalty", "parameters/repetition_penalty"]),
    ("seed", ["seed", "seed", "sampling_params/seed", "sampling_params/sampling_seed", "parameters/seed"]),
    ("ignore_eos", ["ignore_eos", "ignore_eos", "sampling_params/ignore_eos", "sampling_params/ignore_eos", ""]),
    ("stop", ["stop", "stop", "sampling_params/stop", "sampling_params/stop", "parameters/stop"]),
    ("stop_token_ids", ["stop_token_ids", "", "sampling_params/stop_token_ids", "sampling_params/stop_token_ids", ""]),
    ("logit_bias", ["logit_bias", "logit_bias", "sampling_params/logit_bias", "sampling_params/logit_bias", ""]),
    ("skip_special_tokens", ["skip_special_tokens", "", "sampling_params/skip_special_tokens", "sampling_params/skip_special_tokens", ""]),
    ("model", ["model", "model", "model", "", ""]),
    ("priority", ["priority", "", "priority", "priority", ""]),
    ("cache_salt", ["cache_salt", "", "cache_salt", "cache_salt", ""]),
    ("cache_prompt", ["cache_prompt", "cache_prompt", "", "", ""]),
    ("request_id", ["", "", "request_id", "rid", ""]),
    ("tools", ["tools", "", "", "", ""]),
    ("tool_choice", ["tool_choice", "", "", "", ""]),
    ("ids", ["prompt", "prompt", "token_ids", "input_ids", ""]),
    ("text", ["prompt", "prompt", "", "text", "inputs"]),
];

impl Asked {
    /// Returns the whole body.
    fn expected(&self, wire: Endpoint, server: Option<&ServerKind>) -> Map<String, Value> {
        let column = match wire {
            Endpoint::LlamaCpp => 1,
            Endpoint::VllmGenerate => 2,
            Endpoint::SgLang => 3,
            Endpoint::Tgi => 4,
            _ => 0,
        };
        let mut own: Vec<(String, Value)> = Vec::new();
        for (name, value) in self.values(wire, server) {
            let path = WORDS.iter().find(|row| row.0 == name).map(|row| row.1[column]).unwrap();
            if !path.is_empty() {
                own.push((path.to_owned(), value));
            }
        }
        for (path, value) in self.said_by_the_client(wire, server) {
            own.push((path.to_owned(), value));
        }
        let merged: &[&str] = match column {
            0 => &["stream_options"],
            1 => &[],
            2 => &["stream_options", "sampling_params"],
            3 => &["sampling_params"],
            _ => &["parameters"],
        };
        // Later extra fields win, as in the request.
        let extras: Map<String, Value> =
            self.extras.iter().map(|(key, value)| (key.0.clone(), value.0.clone())).collect();
        let mut body = Map::new();
        for object in merged {
            if !matches!(extras.get(*object), Some(Value::Object(_))) {
                body.insert((*object).to_owned(), json!({}));
            }
        }
        for (key, value) in &extras {
            body.insert(key.clone(), value.clone());
        }
        for (path, value) in own {
            let (place, key) = match path.split_once('/') {
                None => (&mut body, path.as_str()),
                Some((object, key)) => {
                    if let Some(extra) = extras.get(object).filter(|extra| !extra.is_object()) {
                        // The extra field replaces the whole object.
                        body.insert(object.to_owned(), extra.clone());
                        continue;
                    }
                    (body[object].as_object_mut().unwrap(), key)
                }
            };
            place.entry(key).or_insert(value);
        }
        for object in merged {
            if let Some(extra) = extras.get(*object).filter(|extra| !extra.is_object()) {
                body.insert((*object).to_owned(), extra.clone());
            }
        }
        body
    }

    /// Returns the values of the request by name, without the values that are not set.
    fn values(&self, wire: Endpoint, server: Option<&ServerKind>) -> Vec<(&'static str, Value)> {
        let is_tgi = wire == Endpoint::Tgi;
        let list = |list: Value| Some(list).filter(|list| !list.as_array().unwrap().is_empty());
        let bias = if wire == Endpoint::LlamaCpp {
            json!(self.logit_bias)
        } else {
            self.logit_bias
                .iter()
                .map(|(id, bias)| (id.to_string(), json!(bias)))
                .collect::<Map<_, _>>()
                .into()
        };
        let plain = [ServerKind::Tgi, ServerKind::Ollama, ServerKind::LmStudio];
        let is_plain = server.is_some_and(|server| plain.contains(server));
        let model = self.model.as_ref().or(self.clients_model.as_ref());
        let number = |number: Option<f64>| number.map(|number| json!(number));
        let (ids, text) = match &self.prompt {
            Prompt::Ids(ids) => (Some(json!(ids)), None),
            Prompt::Text(text) if wire != Endpoint::Chat => (None, Some(json!(text))),
            _ => (None, None),
        };
        let all = [
            ("max_tokens", self.max_tokens.map(Value::from)),
            ("min_tokens", self.min_tokens.map(Value::from)),
            ("temperature", number(self.temperature.filter(|t| !is_tgi || *t != 0.0))),
            ("top_p", number(self.top_p.filter(|p| !is_tgi || *p < 1.0))),
            ("top_k", self.top_k.filter(|k| !is_tgi || *k > 0).map(Value::from)),
            ("min_p", number(self.min_p)),
            ("presence_penalty", number(self.presence_penalty)),
            ("frequency_penalty", number(self.frequency_penalty)),
            ("repetition_penalty", number(self.repetition_penalty)),
            ("seed", self.seed.map(Value::from)),
            ("ignore_eos", self.ignore_eos.map(Value::from)),
            ("stop", list(json!(self.stop))),
            ("stop_token_ids", list(json!(self.stop_token_ids))),
            ("logit_bias", Some(bias).filter(|_| !self.logit_bias.is_empty())),
            (
                "skip_special_tokens",
                Some(self.skip_special_tokens).filter(|on| *on || !is_plain).map(Value::from),
            ),
            ("model", model.map(|model| json!(model))),
            ("priority", self.priority.map(Value::from)),
            ("cache_salt", self.cache_salt.as_ref().map(|salt| json!(salt))),
            ("cache_prompt", self.cache_prompt.map(Value::from)),
            ("request_id", self.request_id.as_ref().map(|id| json!(id))),
            ("tools", list(self.tools.iter().map(|tool| tool.0.clone()).collect())),
            ("tool_choice", self.tool_choice.as_ref().map(|choice| choice.0.clone())),
            ("ids", ids),
            ("text", text),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn has_tools(&self) -> bool {
        match self.extras.iter().rev().find(|(key, _)| key.0 == "tools") {
            Some((_, Json(Value::Array(tools)))) => !tools.is_empty(),
            _ => !self.tools.is_empty(),
        }
    }

    /// Returns the fields that the client adds. Some fields request a stream, usage and ids. Other
    /// fields depend on several values.
    fn said_by_the_client(&self, wire: Endpoint, server: Option<&ServerKind>) -> Vec<(&'static str, Value)> {
        let may_be = |one: &ServerKind| server.is_none_or(|known| known == one);
        let yes = || json!(true);
        let mut said = Vec::new();
        match wire {
            Endpoint::LlamaCpp => said.extend([("stream", yes()), ("return_tokens", yes())]),
            Endpoint::VllmGenerate => {
                said.extend([("stream", yes()), ("stream_options/include_usage", yes())])
            }
            Endpoint::SgLang => said.push(("stream", yes())),
            Endpoint::Tgi => {
                said.push(("parameters/details", yes()));
                said.extend(self.temperature.map(|t| ("parameters/do_sample", json!(t != 0.0))));
            }
            _ => {
                said.extend([("stream", yes()), ("stream_options/include_usage", yes())]);
                if may_be(&ServerKind::Vllm) || server == Some(&ServerKind::SgLang) {
                    said.push(("return_token_ids", yes()));
                }
                match (wire, server) {
                    // In a stream, llama.cpp rejects log-probabilities together with tools.
                    (Endpoint::Chat, Some(ServerKind::LlamaCpp)) if !self.has_tools() => {
                        said.extend([("logprobs", yes()), ("top_logprobs", json!(1))]);
                    }
                    (Endpoint::Chat, _) => {}
                    _ if may_be(&ServerKind::LlamaCpp) => said.push(("verbose", yes())),
                    _ => {}
                }
                if may_be(&ServerKind::LlamaCpp) || server == Some(&ServerKind::LmStudio) {
                    said.extend(self.repetition_penalty.map(|penalty| ("repeat_penalty", json!(penalty))));
                }
                match &self.prompt {
                    Prompt::Messages(all) => {
                        said.push(("messages", all.iter().map(Said::expected).collect()))
                    }
                    Prompt::Text(text) if wire == Endpoint::Chat => {
                        said.push(("messages", json!([{"role": "user", "content": text}])));
                    }
                    _ => {}
                }
            }
        }
        let both = [ServerKind::Vllm, ServerKind::LlamaCpp];
        let servers = server.map_or(&both[..], std::slice::from_ref);
        for (key, value) in servers.iter().filter_map(|server| self.structured.as_ref()?.field(server)) {
            let nested = match (wire, key) {
                (Endpoint::VllmGenerate, _) => "sampling_params/structured_outputs",
                (Endpoint::SgLang, "json_schema") => "sampling_params/json_schema",
                (Endpoint::SgLang, "regex") => "sampling_params/regex",
                (Endpoint::SgLang, _) => "sampling_params/ebnf",
                (Endpoint::Tgi, _) => "parameters/grammar",
                _ => key,
            };
            said.push((nested, value));
        }
        said
    }
}

// ---- comparing ----

/// Returns whether the values are equal, except for the last digit of a fraction, which serde_json
/// reads approximately.
fn is_same(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Number(a), Value::Number(b)) => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => a == b || (a - b).abs() <= f64::max(a.abs() * 1e-15, f64::MIN_POSITIVE),
            _ => false,
        },
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| is_same(a, b)))
        }
        _ => found == expected,
    }
}

/// A JSON value without duplicate keys.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON without duplicate keys")
            }
            fn visit_unit<E>(self) -> std::result::Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
                Ok(value.into())
            }
            fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
                Ok(value.into())
            }
            fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
                Ok(value.into())
            }
            fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
                Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
            }
            fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
                Ok(value.into())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
                let mut values = Vec::new();
                while let Some(Strict(value)) = list.next_element()? {
                    values.push(value);
                }
                Ok(values.into())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
                let mut fields = Map::new();
                while let Some((key, Strict(value))) = map.next_entry::<String, _>()? {
                    if fields.insert(key.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("duplicate key {key:?}")));
                    }
                }
                Ok(fields.into())
            }
        }
        deserializer.deserialize_any(Any).map(Self)
    }
}
