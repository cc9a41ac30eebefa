//! A whole answer: what a request that is not streamed gets, one JSON body.
//!
//! Servers write it with the fields of their chunks, so it is decoded as the one event of a stream, by the same files. What
//! stands elsewhere is moved to its place first (`Chunk::message_to_delta`).

use serde_json::error::Category;

use super::decoder::ChunkDecoder;
use super::json::PromptIds;
use super::server_error::server_error_from_body;
use super::value::{Id, Ids, List, Presence, fill};
use crate::error::{Error, ErrorKind};
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;
use crate::types::ids::{FinishReason, IdsExact, TokenId, Usage};
use crate::types::token::StreamToken;
use crate::types::tree::{Malformed, PendingToolCall};

/// A completion that came whole, see [`ApiClient::complete`](crate::ApiClient::complete).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CompletionResponse {
    /// The text, without reasoning and calls that the server told apart. Empty where a server gives ids alone (vLLM's generate
    /// endpoint).
    pub text: String,
    /// Reasoning that the server told apart, on its chat endpoint.
    pub reasoning: String,
    /// Tool calls that the server told apart, on its chat endpoint, in order.
    pub tool_calls: Vec<PendingToolCall>,
    /// Tool calls that cannot be run.
    pub malformed_calls: Vec<MalformedCall>,
    /// The ids of all that was generated, in order: reasoning, text, calls and the stop token.
    pub ids: Vec<TokenId>,
    /// Whether those are all there were, counted against the server's own count.
    pub ids_exact: IdsExact,
    /// The prompt's ids, where the server sends them: vLLM if it is asked for ids, TGI if the request has its
    /// `decoder_input_details`.
    pub prompt_ids: Option<Vec<TokenId>>,
    /// Why the model stopped, if the server said so.
    pub finish: Option<FinishReason>,
    /// The server's own count of tokens, if it sent one.
    pub usage: Option<Usage>,
    /// The id under which the server knows the request. As it came: escape it before printing.
    pub request_id: Option<String>,
    /// What the server showed itself to be, as [`ChunkDecoder::server`] says.
    pub server: Option<ServerKind>,
}

/// A tool call of an [`CompletionResponse`] that cannot be run; see [`StreamToken::MalformedCall`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MalformedCall {
    /// The name, if there is one, and the arguments as they were written.
    pub text: String,
    /// Why it cannot be run.
    pub reason: Malformed,
}

impl CompletionResponse {
    /// Decodes the body of an answer with one choice that came with a good status. Takes time in proportion to its length.
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
    /// [`ServerKind`](ErrorKind::Server) for an error in any of its shapes, [`Incomplete`](ErrorKind::Incomplete) for JSON that ends
    /// too early, [`Protocol`](ErrorKind::Protocol) for what is no JSON object or has no choice, and what
    /// [`ChunkDecoder::decode`] says of ids, indexes and limits.
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
                let message = "the answer ends inside its JSON";
                return Err(Error::new(ErrorKind::Incomplete, message).with_source(error));
            }
            _ => {
                let said = server_error_from_body(None, content_type, body);
                let message = format!("the answer is no JSON object: {}", said.message);
                return Err(Error::protocol(message).with_server(said));
            }
        };
        decoder.expect_whole();
        let mut parts = Parts::default();
        let mut sink = |_choice, token| parts.take(token);
        let _ = decoder.decode("message", &json, &mut sink)?;
        if !decoder.has_choice() {
            return Err(Error::protocol("the answer has no choice"));
        }
        // The JSON was whole, and so is the answer, with a finish reason or without.
        let _ = decoder.decode("message", "[DONE]", &mut sink)?;
        let completion = decoder.finish()?;
        let Parts { text, reasoning, tool_calls, malformed_calls, ids } = parts;
        Ok(Self {
            text,
            reasoning,
            tool_calls,
            malformed_calls,
            ids,
            ids_exact: completion.ids_exact,
            prompt_ids,
            finish: completion.finish,
            usage: completion.usage,
            request_id: decoder.request_id().map(str::to_owned),
            server: decoder.server().or(decoder.endpoint().family().map(ServerKind::from)),
        })
    }
}

/// An object began and did not end. Inside a number, serde_json does not say that the end was the trouble.
fn is_cut_off(json: &str, error: &serde_json::Error) -> bool {
    let json = json.trim();
    json.starts_with('{') && (error.classify() == Category::Eof || !json.ends_with('}'))
}

/// What the decoder hands out.
#[derive(Default)]
struct Parts {
    text: String,
    reasoning: String,
    tool_calls: Vec<PendingToolCall>,
    malformed_calls: Vec<MalformedCall>,
    ids: Vec<TokenId>,
}

impl Parts {
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
            // A decoder makes neither.
            StreamToken::Done { .. } | StreamToken::Error(_) => {}
        }
    }
}

/// Something else than a list of ids (TensorRT-LLM has lists of lists) is as if it were not there.
fn prompt_ids(prompted: PromptIds<'_>) -> Option<Vec<TokenId>> {
    let prefill: Ids = prompted.details.prefill.map(|token| token.0);
    let choice = prompted.choices.into_items().next().unwrap_or_default();
    [choice.ids, prompted.ids, prefill].into_iter().find_map(good_list).filter(|ids| !ids.is_empty())
}

fn good_list<const MAX: usize>(ids: List<Id, MAX>) -> Option<Vec<TokenId>> {
    if ids.presence != Presence::Given {
        return None;
    }
    ids.into_items().map(|id| if let Id::Valid(id) = id { Some(id) } else { None }).collect()
}
