//! The decoder: its settings, its state and its results. The file read.rs reads the chunks.

mod read;

use super::limits::MAX_CHOICES;
use super::outline::Count;
use super::tally::{ChoiceTally, Sink, Total};
use super::template::Templates;
use crate::config::Limits;
use crate::error::{Error, ErrorKind};
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;
use crate::protocol::server::family::Family;
use crate::types::ids::{FinishReason, IdsExact, Inexact, Usage};
use crate::types::token::StreamToken;

/// The state of the stream after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// The stream continues. Decode the next event.
    More,
    /// The terminator arrived. Call [`finish`](ChunkDecoder::finish), and ignore any later events.
    Ended,
}

/// The result of a complete response.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Completion {
    /// The server's own counts, if it sent counts. Later counts replace earlier counts.
    ///
    /// Some servers count each choice separately. The number of generated tokens is then the sum
    /// over all choices. The prompt tokens are counted once if all choices report the same number.
    /// Otherwise they are added up too.
    pub usage: Option<Usage>,
    /// The reason why the first choice stopped. `None` if only the terminator arrived.
    ///
    /// For other choices, see [`finish_reason`](ChunkDecoder::finish_reason).
    pub finish: Option<FinishReason>,
    /// Whether all generated ids were delivered.
    pub ids_exact: IdsExact,
}

/// Decodes the events of one response.
///
/// Pass the type and the data of each event to [`decode`](Self::decode). When it returns
/// [`Flow::Ended`], or when the bytes have ended, call [`finish`](Self::finish) to find out whether
/// the response is complete.
///
/// Decoding a chunk takes time proportional to its length. The decoder stores only counters, so its
/// memory does not grow with the length of the response, with two exceptions:
///
/// - the open tool call of a chat stream, up to [`max_arguments_bytes`](Self::max_arguments_bytes);
/// - the text and the ids so far on SGLang's native endpoint, because each event repeats them.
///
/// An item may have an id without its text. If a chunk has several ids and one text, the text is in
/// the item of the first id. A chunk without text and ids produces no item. A chunk with an invalid
/// id produces no item and ends the stream.
///
/// ```
/// use tokenwire::{ChunkDecoder, Flow, StreamToken, Endpoint};
///
/// let mut tokens = Vec::new();
/// let mut decoder = ChunkDecoder::new(Endpoint::Auto);
/// let mut sink = |_choice, token| match token {
///     StreamToken::Token { text, id } => tokens.push((text, id)),
///     other => unreachable!("only chat has {other:?}"),
/// };
/// let chunk = r#"{"choices":[{"index":0,"text":" Paris","token_ids":[12095,13],"finish_reason":"stop"}]}"#;
/// assert_eq!(decoder.decode("message", chunk, &mut sink)?, Flow::More);
/// assert_eq!(decoder.decode("message", "[DONE]", &mut sink)?, Flow::Ended);
///
/// let completion = decoder.finish()?;
/// assert_eq!(completion.finish.unwrap().as_str(), "stop");
/// assert_eq!(tokens, [(" Paris".to_owned(), Some(12095)), (String::new(), Some(13))]);
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct ChunkDecoder {
    /// The endpoint of the request.
    endpoint: Endpoint,
    /// The endpoint detected from the chunks. It is used while `endpoint` is `Auto`.
    detected: Option<Endpoint>,
    /// The server detected from the chunks.
    server: Option<Family>,
    request_id: Option<Box<str>>,
    max_choices: u32,
    /// True if the next event is a whole response in one body (answer.rs).
    whole: bool,
    /// True if the request asked for ids.
    ids_asked: bool,
    /// The server that the request was written for, if it was known.
    asked_server: Option<ServerKind>,
    max_arguments_bytes: usize,
    /// The state of each choice, by index. The highest index is less than `max_choices`.
    choices: Vec<ChoiceTally>,
    /// The usage of the whole request.
    usage: Option<Usage>,
    skipped: u64,
    first_skipped: Option<Box<str>>,
    templates: Templates,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The terminator was seen.
    Ended,
    /// `decode` returned an error.
    Failed,
}

impl ChunkDecoder {
    /// Creates a decoder for one response with one choice.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            detected: None,
            server: None,
            request_id: None,
            max_choices: 1,
            whole: false,
            ids_asked: false,
            asked_server: None,
            max_arguments_bytes: Limits::default().max_arguments_bytes,
            choices: Vec::new(),
            usage: None,
            skipped: 0,
            first_skipped: None,
            templates: Templates::default(),
            state: State::Open,
        }
    }

    /// Sets the maximum number of choices, from 1 to [`MAX_CHOICES`]. Default: 1.
    ///
    /// A chunk with an index of `n` or more ends the stream with an error.
    pub fn max_choices(mut self, n: u32) -> Self {
        self.max_choices = n.clamp(1, MAX_CHOICES);
        self
    }

    /// States that the request asked for ids, as written for this server.
    ///
    /// [`CompletionRequest::to_json`](crate::CompletionRequest::to_json) writes such a request. If
    /// the server supports ids but the response has no ids, the result is [`Inexact::Dropped`]: the
    /// ids were lost between the server and tokenwire. By default, the decoder assumes nothing
    /// about the request.
    pub fn ids_asked(mut self, server: Option<ServerKind>) -> Self {
        (self.ids_asked, self.asked_server) = (true, server);
        self
    }

    /// Sets the largest tool call of a chat stream, in bytes. A larger call is malformed.
    ///
    /// The default is the default of [`Limits::max_arguments_bytes`].
    pub fn max_arguments_bytes(mut self, n: usize) -> Self {
        self.max_arguments_bytes = n;
        self
    }

    /// Sets whether the decoder learns the common parts of the chunks. Default: true.
    ///
    /// With learning, the decoder compares most chunks with an earlier chunk and does not parse
    /// them. Without learning, the results are the same, but decoding takes several times longer.
    pub fn learning(mut self, is_on: bool) -> Self {
        self.templates.is_on = is_on;
        self
    }

    /// Decodes one event. `event` is its type and `data` its data.
    ///
    /// The type is `message` if the event does not set a type. The decoder passes each item to
    /// `sink` with the index of its choice: [`Token`](StreamToken::Token), and for chat streams
    /// also [`Reasoning`](StreamToken::Reasoning), [`ToolCall`](StreamToken::ToolCall) and
    /// [`MalformedCall`](StreamToken::MalformedCall).
    ///
    /// Data that is not a JSON object is ignored and counted ([`skipped`](Self::skipped)). The
    /// decoder keeps the beginning of the first such event
    /// ([`first_skipped`](Self::first_skipped)). Null, unknown keys and chunks without choices are
    /// allowed. If an object repeats a key, the last value is used.
    ///
    /// # Errors
    ///
    /// After an error the stream is over. Items that were delivered stay valid.
    ///
    /// - [`Server`](ErrorKind::Server): the chunk contains an error from the server, in any known
    ///   form. A numeric code in the error becomes the status. The method returns this error even
    ///   if the chunk has other errors, or if a finish reason has already arrived.
    /// - [`Protocol`](ErrorKind::Protocol): an id or index is out of range, a field has a type that
    ///   cannot contain tokens, or the chunk is not from this decoder's endpoint.
    /// - [`Limit`](ErrorKind::Limit): the JSON has more than [`MAX_NESTING`](crate::MAX_NESTING)
    ///   levels, or the chunk has more than [`MAX_CHOICES`] choices,
    ///   [`MAX_TOKEN_IDS`](crate::MAX_TOKEN_IDS) ids or [`MAX_TOOL_CALLS`](crate::MAX_TOOL_CALLS)
    ///   pieces of tool calls.
    pub fn decode(
        &mut self,
        event: &str,
        data: &str,
        sink: &mut impl FnMut(u32, StreamToken),
    ) -> Result<Flow, Error> {
        if self.decode_by_template(event, data.as_bytes(), sink) {
            return Ok(Flow::More);
        }
        self.decode_parsed(event, data, sink)
    }

    /// Decodes an event like [`decode`](Self::decode), but never compares it with a template.
    pub(crate) fn decode_parsed(
        &mut self,
        event: &str,
        data: &str,
        sink: &mut impl Sink,
    ) -> Result<Flow, Error> {
        self.check_not_failed()?;
        if self.is_ended() {
            return Ok(Flow::Ended);
        }
        let result = self.decode_open(event, data, sink);
        self.state = match &result {
            Ok(Flow::More) => State::Open,
            Ok(Flow::Ended) => State::Ended,
            Err(_) => State::Failed,
        };
        result
    }

    /// Decodes an event if it matches a template. Returns true if it matched.
    ///
    /// Any other event changes nothing. A matching event never ends the stream. The data may be
    /// invalid UTF-8.
    #[inline]
    pub(crate) fn decode_by_template(&mut self, event: &str, data: &[u8], sink: &mut impl Sink) -> bool {
        event != "error" && self.read_by_template(data, <[u8]>::is_empty, sink).is_some()
    }

    /// Decodes the first event of `body` if it matches a template.
    ///
    /// The event must be one data line and a blank line. The method returns the length of the data
    /// line. It does not search for the line end, because no template contains a line end.
    #[inline]
    pub(crate) fn decode_at_front(&mut self, body: &[u8], sink: &mut impl Sink) -> Option<usize> {
        let data = body.strip_prefix(b"data: ")?;
        let data_bytes = self.read_by_template(data, |rest| rest.starts_with(b"\n\n"), sink)?;
        Some(b"data: ".len() + data_bytes)
    }

    #[inline]
    fn read_by_template(
        &mut self,
        data: &[u8],
        ends: impl Fn(&[u8]) -> bool,
        sink: &mut impl Sink,
    ) -> Option<usize> {
        if self.state != State::Open {
            return None;
        }
        let (chunk, len) = self.templates.read(data, ends)?;
        if chunk.count(Count::Index).is_some_and(|index| index >= self.max_choices) {
            return None;
        }
        self.hand_out_parsed(chunk, sink);
        Some(len)
    }

    /// Returns the completion if the response is complete.
    ///
    /// Call this method when the bytes have ended, or after [`Flow::Ended`].
    ///
    /// # Errors
    ///
    /// - [`Incomplete`](ErrorKind::Incomplete) if no choice has begun, or if both the terminator
    ///   and the finish reason of a choice are missing.
    /// - [`Protocol`](ErrorKind::Protocol) if [`decode`](Self::decode) already returned an error.
    ///   The earlier error is the reason why the stream ended.
    pub fn finish(&mut self) -> Result<Completion, Error> {
        self.check_not_failed()?;
        if !self.is_complete() {
            let message = if self.tokens() == 0 {
                "the stream ended before the first token, without a finish reason"
            } else {
                "the stream ended without a finish reason"
            };
            return Err(Error::new(ErrorKind::Incomplete, message));
        }
        Ok(Completion {
            usage: self.usage(),
            finish: self.finish_reason(0).cloned(),
            ids_exact: self.ids_exact(),
        })
    }

    /// Returns the reason why a choice stopped, if the reason has arrived.
    #[must_use]
    pub fn finish_reason(&self, choice: u32) -> Option<&FinishReason> {
        self.choices.get(choice as usize)?.finish.as_ref()
    }

    /// Returns the server's counts so far, see [`Completion::usage`].
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage.or_else(|| {
            let add = |a: Option<u32>, b: Option<u32>| Some(a?.saturating_add(b?));
            self.choices.iter().filter_map(|choice| choice.usage).reduce(|sum, next| {
                let completion_tokens = sum.completion_tokens.saturating_add(next.completion_tokens);
                if sum.prompt_tokens == next.prompt_tokens {
                    return Usage { completion_tokens, ..next };
                }
                // The choices have different prompts.
                Usage {
                    prompt_tokens: sum.prompt_tokens.saturating_add(next.prompt_tokens),
                    completion_tokens,
                    cached_tokens: add(sum.cached_tokens, next.cached_tokens),
                    reasoning_tokens: add(sum.reasoning_tokens, next.reasoning_tokens),
                }
            })
        })
    }

    /// Returns whether all generated ids were delivered.
    ///
    /// The result is [`No`](IdsExact::No) as soon as an id is known to be missing. Otherwise the
    /// result is [`Unknown`](IdsExact::Unknown) before the end and after an error.
    #[must_use]
    pub fn ids_exact(&self) -> IdsExact {
        let counted = self.usage.map(|usage| usage.completion_tokens.into());
        let llama_cpp = self.server == Some(Family::LlamaCpp);
        match Total::of(&self.choices).ids_exact(counted, self.is_complete(), llama_cpp) {
            IdsExact::No(Inexact::NoIds) if self.ids_were_due() => IdsExact::No(Inexact::Dropped),
            exact => exact,
        }
    }

    /// Returns whether the request asked for ids in a way that this server supports.
    fn ids_were_due(&self) -> bool {
        let endpoint = self.endpoint();
        self.ids_asked
            && match (&self.asked_server, self.server) {
                (Some(server), _) => server.gives_ids(endpoint),
                // A llama.cpp chat sends ids only in log-probabilities. The request asks for
                // log-probabilities only if it was written for llama.cpp.
                (None, Some(Family::LlamaCpp)) => endpoint != Endpoint::Chat || self.whole,
                (None, Some(family)) => family.gives_ids(endpoint),
                (None, None) => false,
            }
    }

    /// Returns the number of tokens delivered, with and without an id.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.choices.iter().map(|choice| choice.tokens).sum()
    }

    /// Returns the number of tokens delivered with an id.
    #[must_use]
    pub fn ids(&self) -> u64 {
        Total::of(&self.choices).ids
    }

    /// Returns the endpoint of the request or of the chunks. Returns `Auto` if it is unknown.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        match self.endpoint {
            Endpoint::Auto => self.detected.unwrap_or(Endpoint::Auto),
            asked => asked,
        }
    }

    /// Returns the server, if its chunks identify it.
    ///
    /// | server | identified by |
    /// | --- | --- |
    /// | vLLM | `token_ids` (null is enough), or its fingerprint |
    /// | llama.cpp | `__verbose`, `timings`, its native events, or its fingerprint |
    /// | SGLang | `matched_stop`, or its native events |
    /// | TensorRT-LLM | `avg_decoded_tokens_per_iter` |
    /// | TGI | its events |
    /// | Ollama | its fingerprint |
    #[must_use]
    pub fn server(&self) -> Option<ServerKind> {
        self.server.map(ServerKind::from)
    }

    /// Returns the id that the server gave the request, exactly as received.
    ///
    /// The id is in the field `id` of the chunks. On vLLM's generate endpoint, the field is
    /// `request_id`. On SGLang's native endpoint, the field is `meta_info.id`. Escape the id before
    /// you print it. An id of more than 256 bytes is not kept.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// Returns the number of events that were neither a JSON object nor the terminator.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Returns the beginning of the first skipped event, with control characters escaped.
    #[must_use]
    pub fn first_skipped(&self) -> Option<&str> {
        self.first_skipped.as_deref()
    }

    /// Returns whether a token or a piece of a tool call arrived.
    ///
    /// A piece of a call counts as soon as it arrives. The call is delivered only when it is
    /// complete.
    pub(crate) fn has_begun(&self) -> bool {
        self.choices.iter().any(|choice| choice.tokens > 0 || choice.has_text_without_id)
    }

    /// Treats the next event as a whole response (answer.rs).
    pub(super) fn expect_whole(&mut self) {
        self.whole = true;
    }

    /// Returns whether a choice has begun.
    pub(super) fn has_choice(&self) -> bool {
        self.choices.iter().any(|choice| choice.begun)
    }

    /// Returns whether the terminator was seen.
    pub(crate) fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Marks the stream as failed. The caller found an error outside the chunks.
    pub(crate) fn fail(&mut self) {
        self.state = State::Failed;
    }

    /// Returns an error if `decode` has returned one, or if [`fail`](Self::fail) was called.
    pub(crate) fn check_not_failed(&self) -> Result<(), Error> {
        match self.state {
            State::Failed => Err(Error::protocol("the stream has already failed; no more of it is read")),
            State::Open | State::Ended => Ok(()),
        }
    }

    /// Returns whether the terminator has arrived, or all choices that have begun have ended.
    pub(crate) fn is_complete(&self) -> bool {
        let mut begun = self.choices.iter().filter(|choice| choice.begun).peekable();
        match self.state {
            State::Ended => true,
            State::Failed => false,
            State::Open => {
                begun.peek().is_some() && begun.all(|choice| choice.finish.is_some() || choice.stopped)
            }
        }
    }
}
