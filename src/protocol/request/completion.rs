//! A request for a completion.

use std::fmt;

use serde_json::{Map, Value};

use super::headers::{OWNED_HEADERS, is_traceparent, validate_header};
use super::message::Message;
use super::sampling::SamplingParams;
use crate::error::Error;
use crate::error::macros::{option_setters, setters};
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;
use crate::protocol::server::family::Family;
use crate::protocol::server::fields::validate_extras;
use crate::types::ids::TokenId;

/// The prompt: ids, text or chat messages.
#[derive(Clone, PartialEq)]
pub(crate) enum Prompt {
    Ids(Vec<TokenId>),
    Text(String),
    Messages(Vec<Message>),
}

/// A request for a completion with one choice.
///
/// `Debug` shows the length of the prompt and the names of extra fields and headers. `Debug` never
/// shows text or values, because a header or a proxy's extra field can be a credential.
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
#[must_use]
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
    /// Creates a request from token ids, which the server uses unchanged.
    pub fn ids(ids: impl Into<Vec<TokenId>>) -> Self {
        Self::new(Prompt::Ids(ids.into()))
    }

    /// Creates a request from text, which the server encodes.
    ///
    /// The stream of such a request cannot be resumed, because the ids of the prompt are unknown.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Prompt::Text(text.into()))
    }

    /// Creates a request from chat messages. Your program needs no tokenizer.
    ///
    /// The server builds the prompt with its model's template. The request is sent to
    /// [`Endpoint::Chat`], even if the client has [`Endpoint::Auto`]. The server separates
    /// reasoning and tool calls from the text. They arrive as
    /// [`StreamToken::Reasoning`](crate::StreamToken::Reasoning) and
    /// [`ToolCall`](crate::StreamToken::ToolCall).
    ///
    /// The ids of the prompt are unknown, so such a request cannot be resumed. The ids of the
    /// response arrive if the server sends them. Otherwise [`IdsExact`](crate::IdsExact) and
    /// [`Branch::ids_missing`](crate::Branch::ids_missing) report that the ids are missing.
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
    pub fn messages(messages: impl IntoIterator<Item = Message>) -> Self {
        Self::new(Prompt::Messages(messages.into_iter().collect()))
    }

    /// Sets the tools that the model may call. Default: none.
    ///
    /// [`Tools::schemas`](crate::Tools::schemas) returns schemas in this format. On a chat
    /// endpoint, the server's template adds the tools to the prompt. If your prompt is ids or text,
    /// describe the tools in the prompt.
    pub fn tools(mut self, schemas: impl IntoIterator<Item = Value>) -> Self {
        self.tools = schemas.into_iter().collect();
        self
    }

    /// Replaces the prompt of the request with these ids.
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

    setters! {
        /// Sets the sampling parameters. Default: [`SamplingParams::default`].
        sampling: SamplingParams,
        /// Sets vLLM's priority. A request with a lower value runs earlier.
        ///
        /// vLLM ignores the priority unless priority scheduling is on. llama.cpp always ignores it.
        /// Default: not sent.
        priority: i32,
        /// Sets whether llama.cpp may reuse a cached prefix of the prompt.
        ///
        /// Default: not sent, and llama.cpp then uses `true`. With `false`, greedy sampling returns
        /// the same text each time. Other servers do not support this field.
        cache_prompt: bool,
    }

    option_setters! {
        /// Sets the model for this request, which replaces the client's model.
        model: String,
        /// Sets whether the model must call a tool, in the server's format.
        ///
        /// The value is `"auto"`, `"none"`, `"required"`, or an object that names a function.
        /// Default: not sent, and the server then uses `"auto"`.
        tool_choice: Value,
        /// Sets a required format of the response. Default: any text.
        ///
        /// The value has the form of vLLM's `structured_outputs`: an object with one of `json` (a
        /// schema), `regex`, `choice` or `grammar`. llama.cpp supports only a schema or a grammar,
        /// and tokenwire writes the value in llama.cpp's format.
        structured_output: Value,
        /// Sets vLLM's salt for the prefix cache. Default: none.
        ///
        /// Requests share cached prefixes only with requests that have the same salt.
        cache_salt: String,
        /// Sets the id that the server uses for this request.
        ///
        /// The id is sent in the header `x-request-id`. On the generate endpoints of vLLM and
        /// SGLang, it is also sent in the body. If the request is sent again, the header gets a
        /// suffix, so that each attempt has its own id: `mine`, `mine-1`, `mine-2`. The body keeps
        /// the original id. Default: the client creates the id if
        /// [`request_ids`](crate::ApiClientBuilder::request_ids) is set. Otherwise the server
        /// creates it.
        request_id: String,
        /// Sets the key of the session that this request belongs to. Default: none.
        ///
        /// Routers and providers send requests with the same key to the same worker, because that
        /// worker has the prefix in its cache. The key is sent in the headers that
        /// [`session_headers`](crate::ApiClientBuilder::session_headers) sets.
        session: String,
        /// Sets the W3C trace context of your span, which is sent in the header `traceparent`.
        ///
        /// Its format is `00-`, 32 hexadecimal digits, `-`, 16 hexadecimal digits, `-`, and 2
        /// hexadecimal digits. Default: none.
        traceparent: String,
    }

    /// Allows sending the request even if the server is known to ignore a part of it.
    ///
    /// By default, such a request fails with an error, see [`to_json`](Self::to_json).
    pub fn allow_ignored_fields(mut self) -> Self {
        self.allow_ignored_fields = true;
        self
    }

    /// Allows resuming even if the result may differ from an uninterrupted stream.
    ///
    /// The result may differ if the request has structured output, penalties, fields that count the
    /// output, or stop strings that make the server hold text back.
    /// [`NotResumable`](crate::NotResumable) lists the reasons that this setting accepts. The ids
    /// still come from the server.
    ///
    /// By default, such a stream ends with an error if it breaks. The client must have a
    /// [`ResumePolicy`](crate::ResumePolicy). Without this policy, no stream is resumed.
    pub fn allow_inexact_resume(mut self) -> Self {
        self.allow_inexact_resume = true;
        self
    }

    /// Records the bytes of the request and the response, with their arrival times. Default: off.
    ///
    /// The recording is in [`StreamReport::recording`](crate::StreamReport::recording). The
    /// recording contains only the last attempt and no credentials. Its size is at most
    /// [`max_recording_bytes`](crate::Limits::max_recording_bytes).
    pub fn record(mut self) -> Self {
        self.record = true;
        self
    }

    pub(crate) fn is_recorded(&self) -> bool {
        self.record
    }

    /// Adds a field to the body.
    ///
    /// The extra field replaces a field of the same name that this request would write. If both
    /// fields are objects (`stream_options`, vLLM's `sampling_params`), the objects are merged.
    /// [`validate`](Self::validate) rejects a field that turns streaming off or requests more than
    /// one choice.
    pub fn extra(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extras.insert(key.into(), value.into());
        self
    }

    /// Adds several fields to the body, each as [`extra`](Self::extra) does.
    pub fn extras(mut self, extras: Map<String, Value>) -> Self {
        self.extras.extend(extras);
        self
    }

    /// Adds a header.
    ///
    /// You cannot set the headers that the client writes itself. [`validate`](Self::validate) lists
    /// these headers.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn session_key(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// Returns whether the body requests ids from this server.
    ///
    /// The result is false if an extra field determines whether the server sends ids.
    pub(crate) fn asks_for_ids(&self, server: Option<&ServerKind>, stream: bool) -> bool {
        let own = ["return_token_ids", "verbose", "logprobs", "include_reasoning", "return_tokens"];
        let left_to_us = own.iter().all(|key| !self.extras.contains_key(*key));
        left_to_us
            && !(stream && self.has_tools() && server.and_then(ServerKind::family) == Some(Family::LlamaCpp))
    }

    /// Returns whether the request has tools, in its own field or in an extra field.
    ///
    /// With tools, llama.cpp rejects log-probabilities in a chat stream, so the stream has no ids.
    pub(super) fn has_tools(&self) -> bool {
        let extra = self.extras.get("tools").and_then(Value::as_array);
        extra.map_or(!self.tools.is_empty(), |tools| !tools.is_empty())
    }

    /// Returns the name and the value of each header of this request.
    ///
    /// The request id and the trace context are included. The session headers are not included,
    /// because the client adds them.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let id = self.request_id.as_deref().map(|id| ("x-request-id", id));
        let trace = self.traceparent.as_deref().map(|trace| ("traceparent", trace));
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(id).chain(trace)
    }

    /// Checks that the request can be sent. [`to_json`](Self::to_json) also makes this check.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) in these cases:
    ///
    /// - The prompt is an empty list of ids or messages. If the list of ids is empty, vLLM rejects
    ///   the request and llama.cpp returns an empty response.
    /// - The traceparent is invalid.
    /// - A number is not finite, or `logit_bias` contains a token twice.
    /// - A header, the session key or the request id has characters that a header cannot contain.
    /// - A header has a name that only the client may write: `authorization`, `host`,
    ///   `content-length`, `content-type`, `transfer-encoding`, `accept-encoding`.
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if an extra field turns streaming off or asks
    /// for more than one choice. For several choices, send one request for each choice.
    pub fn validate(&self) -> Result<(), Error> {
        if matches!(&self.prompt, Prompt::Ids(ids) if ids.is_empty()) {
            return Err(Error::invalid("the prompt has no ids"));
        }
        if matches!(&self.prompt, Prompt::Messages(messages) if messages.is_empty()) {
            return Err(Error::invalid("the chat has no messages"));
        }
        self.sampling.validate()?;
        for (what, value) in [("request id", &self.request_id), ("session key", &self.session)] {
            if value
                .as_ref()
                .is_some_and(|word| word.is_empty() || !word.bytes().all(|b| b.is_ascii_graphic()))
            {
                return Err(Error::invalid(format!("invalid {what}: expected visible ASCII without spaces")));
            }
        }
        if self.traceparent.as_deref().is_some_and(|trace| !is_traceparent(trace)) {
            return Err(Error::invalid(
                "invalid traceparent: expected VERSION-TRACE_ID-PARENT_ID-FLAGS in lowercase hexadecimal",
            ));
        }
        for (name, value) in &self.headers {
            validate_header(name, value, &OWNED_HEADERS)?;
        }
        validate_extras(&self.extras)?;
        self.nested_extras().try_for_each(validate_extras)
    }

    /// Returns the extra objects that contain sampling parameters.
    pub(super) fn nested_extras(&self) -> impl Iterator<Item = &Map<String, Value>> {
        ["sampling_params", "parameters"].iter().filter_map(|key| self.extras.get(*key)?.as_object())
    }

    /// Returns the endpoint that a client with `endpoint` uses for this request.
    ///
    /// With [`Endpoint::Auto`], messages are sent to [`Endpoint::Chat`].
    pub(crate) fn endpoint(&self, endpoint: Endpoint) -> Endpoint {
        match (&self.prompt, endpoint) {
            (Prompt::Messages(_), Endpoint::Auto) => Endpoint::Chat,
            _ => endpoint,
        }
    }
}

impl fmt::Debug for CompletionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // This pattern lists every field, so that the compiler reports each new field.
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
            // The value is left out. Anyone who reads another tenant's salt could find out what is
            // in that tenant's cache.
            .field("cache_salt", &cache_salt.is_some())
            .field("cache_prompt", cache_prompt)
            .field("allow_ignored_fields", allow_ignored_fields)
            .field("allow_inexact_resume", allow_inexact_resume)
            .field("extras", &extras.keys().collect::<Vec<_>>())
            .field("headers", &headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("request_id", request_id)
            // The key is left out, because anyone who reads it could use the cache of the session.
            .field("session", &session.is_some())
            .field("traceparent", traceparent)
            .field("record", record)
            .finish()
    }
}
