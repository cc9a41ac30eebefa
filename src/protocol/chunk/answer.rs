//! A whole response: the single JSON body that answers a request without streaming.
//!
//! Servers use the same fields in a whole response as in their chunks. The decoder therefore reads
//! a whole response as the only event of a stream. `Chunk::message_to_delta` first moves the fields
//! that are in a different place.

use serde_json::error::Category;

use super::decoder::{ChunkDecoder, Completion};
use super::json::PromptIds;
use super::server_error::server_error_from_body;
use super::value::{Id, Ids, List, Presence, fill};
use crate::error::{Error, ErrorKind};
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;
use crate::types::ids::{FinishReason, IdsExact, TokenId, Usage};
use crate::types::token::StreamToken;
use crate::types::tree::{Malformed, PendingToolCall};

/// A completion that arrived as a whole, see [`ApiClient::complete`](crate::ApiClient::complete).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CompletionResponse {
    /// The text, without the reasoning and the tool calls that the server separated from it.
    ///
    /// Empty if the server returns only ids (vLLM's generate endpoint).
    pub text: String,
    /// The reasoning, if the server separated it from the text (on its chat endpoint).
    pub reasoning: String,
    /// The tool calls, in order, if the server separated them from the text (on its chat endpoint).
    pub tool_calls: Vec<PendingToolCall>,
    /// The tool calls that cannot be run.
    pub malformed_calls: Vec<MalformedCall>,
    /// The ids of all generated tokens, in order: reasoning, text, calls and the stop token.
    pub ids: Vec<TokenId>,
    /// The result of comparing `ids` with the server's own count.
    pub ids_exact: IdsExact,
    /// The ids of the prompt, if the server sends them.
    ///
    /// vLLM sends these ids if the request asks for ids. TGI sends these ids if the request sets
    /// `decoder_input_details`.
    pub prompt_ids: Option<Vec<TokenId>>,
    /// The reason why the model stopped, if the server reported it.
    pub finish: Option<FinishReason>,
    /// The server's own count of tokens, if it sent one.
    pub usage: Option<Usage>,
    /// The server's id of the request, exactly as received. Escape it before you print it.
    pub request_id: Option<String>,
    /// The server, if the response identifies it, see [`ChunkDecoder::server`].
    pub server: Option<ServerKind>,
}

/// A tool call of a [`CompletionResponse`] that cannot be run, see [`StreamToken::MalformedCall`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MalformedCall {
    /// The name, if the call has a name, and the arguments as the model wrote them.
    pub text: String,
    /// The reason why the call cannot be run.
    pub reason: Malformed,
}

impl CompletionResponse {
    /// Decodes the body of a successful response with one choice.
    ///
    /// The method takes time proportional to the length of the body.
    ///
    /// ```
    /// use tokenwire::{CompletionResponse, Endpoint};
    ///
    /// let body = r#"{"content":" Paris.","tokens":[12095,13],"stop":true,"stop_type":"eos","tokens_predicted":2}"#;
    /// let answer = CompletionResponse::from_json(Endpoint::LlamaCpp, body.as_bytes())?;
    /// assert_eq!((answer.text.as_str(), &answer.ids[..]), (" Paris.", &[12095, 13][..]));
    /// assert!(answer.ids_exact.is_exact());
    /// # Ok::<(), tokenwire::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Server`](ErrorKind::Server) for an error from the server, in any known form.
    /// - [`Incomplete`](ErrorKind::Incomplete) for JSON that ends too early.
    /// - [`Protocol`](ErrorKind::Protocol) for a body that is not a JSON object or that has no
    ///   choice.
    /// - The errors of [`ChunkDecoder::decode`] for invalid ids and indexes, and for exceeded
    ///   limits.
    pub fn from_json(endpoint: Endpoint, body: &[u8]) -> Result<Self, Error> {
        Self::decode(ChunkDecoder::new(endpoint), None, body)
    }

    pub(crate) fn decode(
        mut decoder: ChunkDecoder,
        content_type: Option<&str>,
        body: &[u8],
    ) -> Result<Self, Error> {
        let json = String::from_utf8_lossy(body);
        let mut prompted = PromptIds::default();
        let prompt_ids = match fill(&mut prompted, &json) {
            Ok(()) if prompted.presence == Presence::Given => prompt_ids(prompted),
            Err(error) if is_cut_off(&json, &error) => {
                let message = "the response ends inside its JSON";
                return Err(Error::new(ErrorKind::Incomplete, message).with_source(error));
            }
            _ => {
                let said = server_error_from_body(None, content_type, body);
                let message = format!("the response is not a JSON object: {}", said.message);
                return Err(Error::protocol(message).with_server(said));
            }
        };
        decoder.expect_whole();
        let mut answer = Self {
            text: String::new(),
            reasoning: String::new(),
            tool_calls: Vec::new(),
            malformed_calls: Vec::new(),
            ids: Vec::new(),
            ids_exact: IdsExact::Unknown,
            prompt_ids,
            finish: None,
            usage: None,
            request_id: None,
            server: None,
        };
        let mut sink = |_choice, token| answer.take(token);
        let _ = decoder.decode("message", &json, &mut sink)?;
        if !decoder.has_choice() {
            return Err(Error::protocol("the response has no choices"));
        }
        // The JSON was complete, so the response is complete even without a finish reason.
        let _ = decoder.decode("message", "[DONE]", &mut sink)?;
        Completion { usage: answer.usage, finish: answer.finish, ids_exact: answer.ids_exact } =
            decoder.finish()?;
        answer.request_id = decoder.request_id().map(str::to_owned);
        answer.server = decoder.server().or(decoder.endpoint().family().map(ServerKind::from));
        Ok(answer)
    }

    /// Adds an item from the decoder to the response.
    fn take(&mut self, token: StreamToken) {
        match token {
            StreamToken::Token { text, id } => {
                self.text += &text;
                self.ids.extend(id);
            }
            StreamToken::Reasoning { text, id } => {
                self.reasoning += &text;
                self.ids.extend(id);
            }
            StreamToken::ToolCall(call) => self.tool_calls.push(*call),
            StreamToken::MalformedCall { text, reason } => {
                self.malformed_calls.push(MalformedCall { text, reason });
            }
            // A decoder never produces these two items.
            StreamToken::Done { .. } | StreamToken::Error(_) => {}
        }
    }
}

/// Returns whether the JSON is an object whose end is missing.
///
/// The error alone is not enough: if the text ends inside a number, serde_json reports a different
/// category.
fn is_cut_off(json: &str, error: &serde_json::Error) -> bool {
    let json = json.trim();
    json.starts_with('{') && (error.classify() == Category::Eof || !json.ends_with('}'))
}

/// Returns the prompt ids. Ignores any other value, such as TensorRT-LLM's lists of lists.
fn prompt_ids(prompted: PromptIds<'_>) -> Option<Vec<TokenId>> {
    let prefill: Ids = prompted.details.prefill.map(|token| token.0);
    let choice = prompted.choices.into_items().next().unwrap_or_default();
    [choice.ids, prompted.ids, prefill].into_iter().find_map(good_list).filter(|ids| !ids.is_empty())
}

fn good_list<const MAX: usize>(ids: List<Id, MAX>) -> Option<Vec<TokenId>> {
    (ids.presence == Presence::Given).then(|| ids.into_items().map(Id::valid).collect())?
}
