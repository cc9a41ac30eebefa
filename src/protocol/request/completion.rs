//! A request: what a program asks for, and whether it can be sent at all.

use std::fmt;

use serde_json::{Map, Value};

use super::headers::{OWNED_HEADERS, is_traceparent, validate_header};
use super::message::Message;
use super::sampling::SamplingParams;
use crate::error::Error;
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;
use crate::protocol::server::family::Family;
use crate::protocol::server::fields::validate_extras;
use crate::types::ids::TokenId;

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
    pub(super) model: Option<String>,
    pub(super) tools: Vec<Value>,
    pub(super) tool_choice: Option<Value>,
    pub(super) structured_output: Option<Value>,
    pub(super) cache_salt: Option<String>,
    pub(super) cache_prompt: Option<bool>,
    pub(super) allow_ignored_fields: bool,
    pub(super) allow_inexact_resume: bool,
    pub(super) extras: Map<String, Value>,
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
    pub(crate) fn asks_for_ids(&self, server: Option<&ServerKind>, stream: bool) -> bool {
        let own = ["return_token_ids", "verbose", "logprobs", "include_reasoning", "return_tokens"];
        let left_to_us = own.iter().all(|key| !self.extras.contains_key(*key));
        left_to_us
            && !(stream && self.has_tools() && server.and_then(ServerKind::family) == Some(Family::LlamaCpp))
    }

    /// Tools are named, by whichever field. llama.cpp then refuses the log-probabilities in a chat's stream, and with them
    /// all ids.
    pub(super) fn has_tools(&self) -> bool {
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

    /// The wire on which a client for `endpoint` sends this: messages have one of their own.
    pub(crate) fn endpoint(&self, endpoint: Endpoint) -> Endpoint {
        match (&self.prompt, endpoint) {
            (Prompt::Messages(_), Endpoint::Auto) => Endpoint::Chat,
            _ => endpoint,
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
