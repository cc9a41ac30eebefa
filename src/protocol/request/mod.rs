//! What is asked of a server: prompt, sampling parameters and extra fields, checked and turned to JSON
//! (body.rs).

pub(crate) mod body;
pub(crate) mod message;
pub(crate) mod refuse;
mod resume;
pub(crate) mod sampling;

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Value, json};

use self::body::Body;
pub(crate) use self::body::{FIELDS, FLAGS};
pub use self::message::Message;
pub(crate) use self::refuse::is_ask;
use self::refuse::unsupported;
pub use self::sampling::SamplingParams;
use super::chunk::endpoint::{Endpoint, ServerKind};
use crate::error::Error;
use crate::error::escape::printable;
use crate::types::ids::TokenId;

/// Headers that the client writes itself.
pub(crate) const OWNED_HEADERS: [&str; 6] =
    ["authorization", "host", "content-length", "transfer-encoding", "accept-encoding", "content-type"];

/// What the model is to go on from.
#[derive(Clone, PartialEq)]
pub(crate) enum Prompt {
    Ids(Vec<TokenId>),
    Text(String),
    Messages(Vec<Message>),
}

/// One request for a streamed completion with one choice.
///
/// `Debug` shows how long the prompt is, which extra fields there are and which headers, but neither text nor
/// values: a header or a proxy's extra field can be a credential.
///
/// ```
/// use tokenwire::{CompletionRequest, SamplingParams, Endpoint};
///
/// let request = CompletionRequest::ids([785, 6722, 315])
///     .sampling(SamplingParams::default().max_tokens(8).stop_token_ids(vec![151645]))
///     .priority(-1)
///     .extra("guided_backend", "auto");
/// let body = request.to_json(Some("my-model"), Endpoint::OpenAi, None)?;
/// assert!(body.starts_with(br#"{"model":"my-model","prompt":[785,6722,315],"max_tokens":8,"#));
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Clone)]
pub struct CompletionRequest {
    pub(crate) prompt: Prompt,
    pub(crate) sampling: SamplingParams,
    pub(crate) priority: Option<i32>,
    model: Option<String>,
    tools: Vec<Value>,
    tool_choice: Option<Value>,
    structured_output: Option<Value>,
    cache_salt: Option<String>,
    cache_prompt: Option<bool>,
    allow_ignored_fields: bool,
    allow_inexact_resume: bool,
    extras: Map<String, Value>,
    headers: Vec<(String, String)>,
    pub(crate) request_id: Option<String>,
    session: Option<String>,
    traceparent: Option<String>,
    record: bool,
}

impl CompletionRequest {
    /// From token ids, which the server takes as they are.
    #[must_use]
    pub fn ids(ids: impl Into<Vec<TokenId>>) -> Self {
        Self::new(Prompt::Ids(ids.into()))
    }

    /// From text, which the server encodes. Such a stream is not resumed: the ids of its prompt are not known.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Prompt::Text(text.into()))
    }

    /// From the messages of a chat, which the server puts together with its model's template: for programs without a
    /// tokenizer. It goes to [`Endpoint::Chat`], by [`Endpoint::Auto`] too. Thinking and calls come as the server tells them apart
    /// ([`StreamToken::Reasoning`](crate::StreamToken::Reasoning), [`ToolCall`](crate::StreamToken::ToolCall)). The prompt's ids are
    /// not known, so such a request cannot be resumed; ids of the answer come where the server gives them, and where it
    /// does not, [`IdsExact`](crate::IdsExact) and [`Branch::ids_missing`](crate::Branch::ids_missing) say so.
    ///
    /// ```
    /// use tokenwire::{CompletionRequest, Message, Endpoint};
    ///
    /// let tools = [serde_json::json!({"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}})];
    /// let request = CompletionRequest::messages([
    ///     Message::system("Be brief."),
    ///     Message::user("What time is it?"),
    ///     Message::assistant("").tool_call("c1", "now", "{}"),
    ///     Message::tool("c1", "12:30"),
    /// ])
    /// .tools(tools);
    /// assert!(request.to_json(None, Endpoint::Auto, None)?.starts_with(br#"{"messages":[{"role":"system""#));
    /// # Ok::<(), tokenwire::Error>(())
    /// ```
    #[must_use]
    pub fn messages(messages: impl IntoIterator<Item = Message>) -> Self {
        Self::new(Prompt::Messages(messages.into_iter().collect()))
    }

    /// The tools that the model may call, as [`Tools::schemas`](crate::Tools::schemas) makes them: for chat endpoints, whose
    /// template describes them to the model. With ids or text the prompt has to do that. Default none.
    #[must_use]
    pub fn tools(mut self, schemas: impl IntoIterator<Item = Value>) -> Self {
        self.tools = schemas.into_iter().collect();
        self
    }

    /// Whether the model must call a tool, in the server's words: `"auto"`, `"none"`, `"required"`, or an object that names a
    /// function. Default: not sent, which is auto.
    #[must_use]
    pub fn tool_choice(mut self, choice: impl Into<Value>) -> Self {
        self.tool_choice = Some(choice.into());
        self
    }

    /// The same request for another prompt.
    #[must_use]
    pub fn prompt_ids(mut self, ids: impl Into<Vec<TokenId>>) -> Self {
        self.prompt = Prompt::Ids(ids.into());
        self
    }

    fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            sampling: SamplingParams::default(),
            priority: None,
            model: None,
            tools: Vec::new(),
            tool_choice: None,
            structured_output: None,
            cache_salt: None,
            cache_prompt: None,
            allow_ignored_fields: false,
            allow_inexact_resume: false,
            record: false,
            extras: Map::new(),
            headers: Vec::new(),
            request_id: None,
            session: None,
            traceparent: None,
        }
    }

    /// How to sample. Default: [`SamplingParams::default`].
    #[must_use]
    pub fn sampling(mut self, sampling: SamplingParams) -> Self {
        self.sampling = sampling;
        self
    }

    /// vLLM's priority: lower is earlier. Without priority scheduling the server ignores it; llama.cpp always
    /// does. Default: not sent.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = Some(priority);
        self
    }

    /// The model, in place of the client's.
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// What the answer must look like, in vLLM's words for `structured_outputs`: an object with one of `json`
    /// (a schema), `regex`, `choice`, `grammar`. llama.cpp knows the schema and the grammar, and is told in
    /// its own words. Default: free.
    #[must_use]
    pub fn structured_output(mut self, structured_output: impl Into<Value>) -> Self {
        self.structured_output = Some(structured_output.into());
        self
    }

    /// vLLM: requests share cached prefixes only with those of the same salt. Default: none.
    #[must_use]
    pub fn cache_salt(mut self, salt: impl Into<String>) -> Self {
        self.cache_salt = Some(salt.into());
        self
    }

    /// llama.cpp: whether a prefix in the slot's cache may be used. Default: not sent, which is yes there; no
    /// makes greedy text the same each time. The others know no such thing.
    #[must_use]
    pub fn cache_prompt(mut self, cache_prompt: bool) -> Self {
        self.cache_prompt = Some(cache_prompt);
        self
    }

    /// Sends the request also to a server that is known to ignore a part of it. Default: such a request is refused, see
    /// [`to_json`](Self::to_json).
    #[must_use]
    pub fn allow_ignored_fields(mut self) -> Self {
        self.allow_ignored_fields = true;
        self
    }

    /// Lets the stream be taken up again also where the answer would not be what an unbroken one is: with structured output,
    /// penalties, held-back stop strings, and fields that count the output ([`NotResumable`](crate::NotResumable) says of
    /// which this is true). The ids stay those of the server. Default: such a stream ends where it breaks. Whether streams are
    /// taken up at all, the client's [`ResumePolicy`](crate::ResumePolicy) says.
    #[must_use]
    pub fn allow_inexact_resume(mut self) -> Self {
        self.allow_inexact_resume = true;
        self
    }

    /// Keeps the exchange, of several attempts the last, request and response bytes with their arrival times, in
    /// [`StreamReport::recording`](crate::StreamReport::recording): without credentials, and at most
    /// [`max_recording_bytes`](crate::Limits::max_recording_bytes). Default off.
    #[must_use]
    pub fn record(mut self) -> Self {
        self.record = true;
        self
    }

    pub(crate) fn is_recorded(&self) -> bool {
        self.record
    }

    /// One more field of the body. It wins over the field of the same name that this request would write;
    /// where both are objects (`stream_options`, vLLM's `sampling_params`), they are merged. What would make
    /// the answer another thing than a stream of one choice is refused by [`validate`](Self::validate).
    #[must_use]
    pub fn extra(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extras.insert(key.into(), value.into());
        self
    }

    /// Many such fields.
    #[must_use]
    pub fn extras(mut self, extras: Map<String, Value>) -> Self {
        self.extras.extend(extras);
        self
    }

    /// One more header. The client's own ([`validate`](Self::validate) lists them) cannot be set here.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The id by which the server is to know this request: sent as the header `x-request-id` and, on the generate endpoints
    /// of vLLM and SGLang, in the body. When the request is sent again, the header gets a suffix, so that no two
    /// attempts share one: `mine`, `mine-1`, `mine-2`; the body stays as it is. Default: what the client makes up
    /// ([`request_ids`](crate::ApiClientBuilder::request_ids)), else the server.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into());
        self
    }

    /// The key of the session that this request belongs to: routers and providers send what has the same key to the same
    /// worker, which has the prefix in its cache. Sent in the client's
    /// [`session_headers`](crate::ApiClientBuilder::session_headers). Default: none.
    #[must_use]
    pub fn session(mut self, key: impl Into<String>) -> Self {
        self.session = Some(key.into());
        self
    }

    /// The W3C trace context of the caller's span, sent as the header `traceparent`: `00-`, 32 hexadecimal digits, `-`, 16,
    /// `-`, 2. Default: none.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }

    pub(crate) fn session_key(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// Whether the body asks this server for ids, as far as its extra fields leave that to us.
    pub(crate) fn asks_for_ids(&self, server: Option<ServerKind>, stream: bool) -> bool {
        let own = ["return_token_ids", "verbose", "logprobs", "include_reasoning", "return_tokens"];
        let left_to_us = own.iter().all(|key| !self.extras.contains_key(*key));
        left_to_us
            && !(stream && self.has_tools() && server.map(ServerKind::words) == Some(ServerKind::LlamaCpp))
    }

    /// Tools are named, by whichever field. llama.cpp then refuses the log-probabilities in a chat's stream, and with them
    /// all ids.
    fn has_tools(&self) -> bool {
        let extra = self.extras.get("tools").and_then(Value::as_array);
        extra.map_or(!self.tools.is_empty(), |tools| !tools.is_empty())
    }

    /// The headers of this request, those of id and trace included: name and value. The session's come from the client.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let id = self.request_id.as_deref().map(|id| ("x-request-id", id));
        let trace = self.traceparent.as_deref().map(|trace| ("traceparent", trace));
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(id).chain(trace)
    }

    /// Whether this can be sent at all. [`to_json`](Self::to_json) asks it too.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): no prompt ids (vLLM refuses that, llama.cpp answers
    /// nothing) or messages; a traceparent that is none; a number that is not finite; a token twice in `logit_bias`; a header, session key or request id with
    /// characters that a header cannot carry, or a header that the client writes itself (`authorization`,
    /// `host`, `content-length`, `content-type`, `transfer-encoding`, `accept-encoding`).
    /// [`Unsupported`](crate::ErrorKind::Unsupported): an extra field that turns streaming off or asks for more than
    /// one choice (each needs a stream of its own).
    pub fn validate(&self) -> Result<(), Error> {
        if matches!(&self.prompt, Prompt::Ids(ids) if ids.is_empty()) {
            return Err(Error::invalid("the prompt has no ids"));
        }
        if matches!(&self.prompt, Prompt::Messages(messages) if messages.is_empty()) {
            return Err(Error::invalid("the chat has no messages"));
        }
        self.sampling.validate()?;
        if let Some(id) = &self.request_id {
            if id.is_empty() || !id.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(Error::invalid("the request id is not visible ASCII"));
            }
        }
        if self
            .session
            .as_deref()
            .is_some_and(|key| key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(Error::invalid("the session key is not visible ASCII"));
        }
        if self.traceparent.as_deref().is_some_and(|trace| !is_traceparent(trace)) {
            return Err(Error::invalid("the traceparent is none, as W3C writes it"));
        }
        for (name, value) in &self.headers {
            validate_header(name, value, &OWNED_HEADERS)?;
        }
        validate_extras(&self.extras)?;
        let nested =
            ["sampling_params", "parameters"].iter().filter_map(|key| self.extras.get(*key)?.as_object());
        nested.into_iter().try_for_each(validate_extras)
    }

    /// The body, which asks for a stream, for usage, and for ids in the server's own way. `model` is the
    /// client's, for requests that name none. On [`Endpoint::Chat`] a prompt of text becomes one message of the user, unless an
    /// extra field brings `messages`. `server` is what is known of it; unknown on [`Endpoint::OpenAi`],
    /// ids are asked for in the ways of all (each ignores the others' fields) and the first chunk tells
    /// ([`ChunkDecoder::server`](crate::ChunkDecoder::server)).
    ///
    /// Takes time in proportion to the prompt; ids are written as they stand.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate); [`Unsupported`] also
    ///
    /// - where the endpoint has no words for it: ids on [`Endpoint::Chat`] and [`Endpoint::Tgi`], text on [`Endpoint::VllmGenerate`],
    ///   messages and tools on any but [`Endpoint::Chat`], a kind of structured output that the server does not know;
    /// - for what the server, if it is known, would ignore without a word: ids on Ollama and LM Studio, stop ids,
    ///   `min_tokens`, a priority on llama.cpp, TGI, Ollama and LM Studio, and others, or what its record refuses. After
    ///   [`allow_ignored_fields`](Self::allow_ignored_fields) that is sent all the same. Extra fields are not looked at.
    ///
    /// [`Unsupported`]: crate::ErrorKind::Unsupported
    pub fn to_json(
        &self,
        model: Option<&str>,
        endpoint: Endpoint,
        server: Option<ServerKind>,
    ) -> Result<Vec<u8>, Error> {
        self.write_json(model, endpoint, server, true)
    }

    /// The body of a [`call`](crate::ApiClient::call), which asks for the whole answer at once; otherwise as
    /// [`to_json`](Self::to_json).
    ///
    /// # Errors
    ///
    /// As [`to_json`](Self::to_json); [`Unsupported`](crate::ErrorKind::Unsupported) also for an extra field that turns
    /// streaming on.
    pub fn to_call_json(
        &self,
        model: Option<&str>,
        endpoint: Endpoint,
        server: Option<ServerKind>,
    ) -> Result<Vec<u8>, Error> {
        if self.extras.contains_key("stream") {
            return Err(unsupported("a call is not streamed: it takes no extra field \"stream\""));
        }
        self.write_json(model, endpoint, server, false)
    }

    fn write_json(
        &self,
        model: Option<&str>,
        endpoint: Endpoint,
        server: Option<ServerKind>,
        stream: bool,
    ) -> Result<Vec<u8>, Error> {
        self.validate()?;
        let endpoint = self.endpoint(endpoint);
        let server = endpoint.server().or(server);
        self.check_for(endpoint, server)?;
        let capacity = match &self.prompt {
            Prompt::Ids(ids) => ids.len() * 7,
            Prompt::Text(text) => text.len(),
            Prompt::Messages(messages) => messages.iter().map(Message::len).sum(),
        };
        let mut json = Vec::with_capacity(capacity + 1024);
        let quirks = server.and_then(ServerKind::quirks);
        let server = server.map(ServerKind::words);
        let model = self.model.as_deref().or(model);
        let body = Body { request: self, model, endpoint, server, quirks, stream };
        serde_json::to_writer(&mut json, &body)
            .map_err(|error| Error::invalid("the request cannot be written as JSON").with_source(error))?;
        Ok(json)
    }

    /// The wire on which a client for `endpoint` sends this: messages have one of their own.
    pub(crate) fn endpoint(&self, endpoint: Endpoint) -> Endpoint {
        match (&self.prompt, endpoint) {
            (Prompt::Messages(_), Endpoint::Auto) => Endpoint::Chat,
            _ => endpoint,
        }
    }

    /// The server's field for the structured output, if it has one.
    fn structured_for(&self, server: ServerKind) -> Option<(&'static str, Cow<'_, Value>)> {
        let asked = self.structured_output.as_ref()?;
        let schema = asked.get("json").filter(|schema| schema.is_object());
        let text = |key: &str| asked.get(key).filter(|value| value.is_string());
        let own = |key, value: Value| Some((key, Cow::Owned(value)));
        match (server.words(), schema, text("regex"), text("grammar")) {
            (ServerKind::Vllm, ..) => Some(("structured_outputs", Cow::Borrowed(asked))),
            (ServerKind::LlamaCpp, Some(schema), ..) => Some(("json_schema", Cow::Borrowed(schema))),
            (ServerKind::LlamaCpp, .., Some(grammar)) => Some(("grammar", Cow::Borrowed(grammar))),
            (ServerKind::SgLang, Some(schema), ..) => own("json_schema", schema.to_string().into()),
            (ServerKind::SgLang, _, Some(regex), _) => Some(("regex", Cow::Borrowed(regex))),
            (ServerKind::SgLang, .., Some(grammar)) => Some(("ebnf", Cow::Borrowed(grammar))),
            (ServerKind::Tgi, Some(schema), ..) => own("grammar", json!({"type": "json", "value": schema})),
            (ServerKind::Tgi, _, Some(regex), _) => own("grammar", json!({"type": "regex", "value": regex})),
            (ServerKind::TensorRtLlm, Some(schema), ..) => {
                own("response_format", json!({"type": "json", "schema": schema}))
            }
            (ServerKind::TensorRtLlm, _, Some(regex), _) => {
                own("response_format", json!({"type": "regex", "regex": regex}))
            }
            (ServerKind::TensorRtLlm, .., Some(grammar)) => {
                own("response_format", json!({"type": "ebnf", "ebnf": grammar}))
            }
            _ => None,
        }
    }
}

impl fmt::Debug for CompletionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In full, so that a new field has to be decided about here.
        let Self {
            prompt,
            sampling,
            priority,
            model,
            tools,
            tool_choice,
            structured_output,
            cache_salt,
            cache_prompt,
            allow_ignored_fields,
            allow_inexact_resume,
            extras,
            headers,
            request_id,
            session,
            traceparent,
            record,
        } = self;
        let prompt = match prompt {
            Prompt::Ids(ids) => format!("{} ids", ids.len()),
            Prompt::Text(text) => format!("{} bytes of text", text.len()),
            Prompt::Messages(messages) => format!("{} messages", messages.len()),
        };
        f.debug_struct("CompletionRequest")
            .field("prompt", &format_args!("{prompt}"))
            .field("sampling", sampling)
            .field("priority", priority)
            .field("model", model)
            .field("tools", &tools.len())
            .field("tool_choice", &tool_choice.is_some())
            .field("structured_output", &structured_output.is_some())
            // The salt keeps tenants apart: knowing it opens their cache's timing.
            .field("cache_salt", &cache_salt.is_some())
            .field("cache_prompt", cache_prompt)
            .field("send_anyway", allow_ignored_fields)
            .field("resume_anyway", allow_inexact_resume)
            .field("extras", &extras.keys().collect::<Vec<_>>())
            .field("headers", &headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("request_id", request_id)
            // Whoever knows it may get at the session's cache.
            .field("session", &session.is_some())
            .field("traceparent", traceparent)
            .field("record", record)
            .finish()
    }
}

/// RFC 9110, 5.1 and 5.5: a name is a token, a value visible ASCII with blanks inside (`obs-text` is left
/// out).
pub(crate) fn validate_header(name: &str, value: &str, owned: &[&str]) -> Result<(), Error> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(Error::invalid(format!("{:?} is no header name", printable(name, 80))));
    }
    if owned.iter().any(|owned| owned.eq_ignore_ascii_case(name)) {
        return Err(Error::invalid(format!("the client writes the header {name} itself")));
    }
    // The value is not shown: it may be a credential.
    if value.trim() != value || !value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return Err(Error::invalid(format!("the value of the header {name} is not visible ASCII")));
    }
    Ok(())
}

/// W3C Trace Context, 3.2: version, trace id, parent id, flags; version ff and ids of zeros are invalid.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let sizes: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let is_zero = |part: &str| part.bytes().all(|b| b == b'0');
    sizes == [2, 32, 16, 2]
        && parts.iter().all(|part| is_hex(part))
        && parts[0] != "ff"
        && !is_zero(parts[1])
        && !is_zero(parts[2])
}

pub(crate) fn validate_extras(extras: &Map<String, Value>) -> Result<(), Error> {
    if extras.get("stream").is_some_and(|stream| *stream != Value::Bool(true)) {
        return Err(unsupported("an extra field turns streaming off"));
    }
    for key in ["n", "best_of"] {
        if extras.get(key).is_some_and(|n| !n.is_null() && n.as_u64() != Some(1)) {
            return Err(unsupported("more than one choice: each needs a stream of its own"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let ids = || CompletionRequest::ids([1]);
        let sampled = |params: SamplingParams| ids().sampling(params);
        let params = SamplingParams::default;
        let invalid = [
            CompletionRequest::ids([]),
            CompletionRequest::messages([]),
            sampled(params().temperature(f64::NAN)),
            sampled(params().top_p(f64::INFINITY)),
            sampled(params().logit_bias(vec![(1, f64::NEG_INFINITY)])),
            sampled(params().logit_bias(vec![(1, 0.5), (2, 0.5), (1, 0.5)])),
            ids().header("", "v"),
            ids().header("a b", "v"),
            ids().header("x-a\r\nx-b", "v"),
            ids().header("x-a", "v\r\nx-b: w"),
            ids().header("x-a", "v\0"),
            ids().header("x-a", " v"),
            ids().header("x-a", "ä"),
            ids().header("Authorization", "Bearer x"),
            ids().header("HOST", "h"),
            ids().header("content-length", "0"),
            ids().header("Transfer-Encoding", "chunked"),
            ids().header("accept-encoding", "gzip"),
            ids().header("Content-Type", "text/plain"),
            ids().request_id(""),
            ids().request_id("a b"),
            ids().session(""),
            ids().session("a\nb"),
            ids().traceparent(""),
            ids().traceparent(TRACE.to_uppercase()),
            ids().traceparent(TRACE.replace("00-4bf", "ff-4bf")),
            ids().traceparent(TRACE.replace("00f067aa0ba902b7", "0000000000000000")),
            ids().traceparent(format!("{TRACE}-01")),
        ];
        for request in invalid {
            let error = request.to_json(None, Endpoint::OpenAi, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{request:?}: {error}");
        }
        let unsupported = [
            (ids().extra("stream", false), Endpoint::OpenAi),
            (ids().extra("stream", "yes"), Endpoint::OpenAi),
            (ids().extra("n", 2), Endpoint::OpenAi),
            (ids().extra("best_of", 2), Endpoint::LlamaCpp),
            (ids().extra("n", 1.5), Endpoint::OpenAi),
            (ids().extra("sampling_params", json!({"n": 2})), Endpoint::VllmGenerate),
            (ids(), Endpoint::Chat),
            (CompletionRequest::messages([Message::user("a")]), Endpoint::OpenAi),
            (CompletionRequest::messages([Message::user("a")]), Endpoint::LlamaCpp),
            (ids().tools([json!({})]), Endpoint::OpenAi),
            (CompletionRequest::text("a").tool_choice("none"), Endpoint::Auto),
            (CompletionRequest::text("a"), Endpoint::VllmGenerate),
            (ids().structured_output(json!({"regex": "a+"})), Endpoint::LlamaCpp),
        ];
        for (request, endpoint) in unsupported {
            let error = request.to_json(None, endpoint, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{request:?}: {error}");
        }
        for fine in [
            ids().extra("n", 1).extra("best_of", Value::Null).extra("stream", true),
            ids().header("X-Session", "a b"),
            ids().traceparent(TRACE).session("s-1"),
            CompletionRequest::text(""),
        ] {
            fine.validate().unwrap();
        }
    }

    #[test]
    fn debug_shows_no_credential_and_no_prompt() {
        let request = CompletionRequest::text("canary-prompt")
            .header("api-key", "canary-header")
            .cache_salt("canary-salt")
            .extra("api_key", "canary-extra");
        let shown = format!("{request:?}");
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("13 bytes of text") && shown.contains("api_key"), "{shown}");
        let error = CompletionRequest::ids([1]).header("api-key", "canary\n").validate().unwrap_err();
        assert!(!format!("{error:?} {error}").contains("canary"));
    }
}
