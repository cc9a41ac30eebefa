//! The decoder: its settings, its state, and what can be asked of it. How a chunk is read is in read.rs.

mod read;

use super::limits::MAX_CHOICES;
use super::outline::Count;
use super::tally::{ChoiceTally, Total};
use super::template::Templates;
use crate::config::Limits;
use crate::error::{Error, ErrorKind};
use crate::protocol::server::ServerKind;
use crate::protocol::server::endpoint::Endpoint;
use crate::protocol::server::family::Family;
use crate::types::ids::{FinishReason, IdsExact, Inexact, Usage};
use crate::types::token::StreamToken;

/// Whether to go on reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// Decode the next event.
    More,
    /// The terminator came: call [`finish`](ChunkDecoder::finish); what follows has no meaning.
    Ended,
}

/// How a complete answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Completion {
    /// The server's own counts, if it sent any; the last it sent. Where each choice came with its own and
    /// none for all of them, the generated tokens of all choices and the prompt tokens of one.
    pub usage: Option<Usage>,
    /// Why the first choice stopped; `None` if only the terminator came. Other choices:
    /// [`finish_reason`](ChunkDecoder::finish_reason).
    pub finish: Option<FinishReason>,
    /// Whether the ids handed out are all the ids there were.
    pub ids_exact: IdsExact,
}

/// Decodes the events of one answer.
///
/// Feed it each event's type and data; when it says [`Flow::Ended`], or when the bytes have ended, ask
/// [`finish`](Self::finish) whether the answer is complete. A chunk costs time in proportion to its length. It holds
/// counters, so that memory does not grow with the length of the answer, with two exceptions: the tool call of a chat
/// stream that is being put together, up to [`max_arguments_bytes`](Self::max_arguments_bytes), and, for SGLang's native
/// endpoint, text and ids up to here, which each of its events repeats.
///
/// Ids and text do not go in step. Where a chunk has several ids and one text, the text goes with the first
/// of them; a chunk with neither hands out nothing. A chunk with a bad id hands out nothing and ends the
/// stream.
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
pub struct ChunkDecoder {
    /// The endpoint that was asked.
    endpoint: Endpoint,
    /// The endpoint detected from the chunks, which counts while `endpoint` is `Auto`.
    detected: Option<Endpoint>,
    /// The server detected from the chunks.
    server: Option<Family>,
    request_id: Option<Box<str>>,
    max_choices: u32,
    /// It is the whole answer in one body that is decoded, as if it were one event (answer.rs).
    whole: bool,
    /// Ids were asked for.
    ids_asked: bool,
    /// Of this server, if it was known then.
    asked_server: Option<ServerKind>,
    max_arguments_bytes: usize,
    /// By index; grown to the highest index seen, which is under `max_choices`.
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
    /// `decode` has returned an error.
    Failed,
}

impl ChunkDecoder {
    /// A decoder for one answer with one choice.
    #[must_use]
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

    /// How many choices there may be: a chunk with an index from `n` on ends the stream. Default 1, at most
    /// [`MAX_CHOICES`], at least 1.
    #[must_use]
    pub fn max_choices(mut self, n: u32) -> Self {
        self.max_choices = n.clamp(1, MAX_CHOICES);
        self
    }

    /// Says that the request asked for ids, as [`CompletionRequest::to_json`](crate::CompletionRequest::to_json) does for
    /// this server. Then a stream without any, of a server that gives them, has lost them on the way
    /// ([`Inexact::Dropped`]). Default: nothing is known of the request.
    #[must_use]
    pub fn ids_asked(mut self, server: Option<ServerKind>) -> Self {
        (self.ids_asked, self.asked_server) = (true, server);
        self
    }

    /// The largest tool call of a chat stream that is put together, in bytes; a larger one is malformed. Default
    /// [`Limits::max_arguments_bytes`]'s.
    #[must_use]
    pub fn max_arguments_bytes(mut self, n: usize) -> Self {
        self.max_arguments_bytes = n;
        self
    }

    /// Whether to learn what the chunks of the stream have in common, so that most are compared and not parsed. It makes no
    /// difference but to the time that it takes, several times as much without. Default true.
    #[must_use]
    pub fn learning(mut self, is_on: bool) -> Self {
        self.templates.is_on = is_on;
        self
    }

    /// Decodes one event: `event` is its type (`message` where the stream names none), `data` its data.
    /// What it holds goes to `sink`, with its choice: [`Token`](StreamToken::Token), and from chat streams also
    /// [`Reasoning`](StreamToken::Reasoning), [`ToolCall`](StreamToken::ToolCall) and
    /// [`MalformedCall`](StreamToken::MalformedCall).
    ///
    /// Data that is no JSON object is counted ([`skipped`](Self::skipped)) and otherwise ignored; the
    /// beginning of the first is kept ([`first_skipped`](Self::first_skipped)). Null, keys that are not known and chunks without choices are fine. Where a key
    /// comes twice in one object, the last one counts.
    ///
    /// # Errors
    ///
    /// The stream is over; what was handed out stays valid. [`ServerKind`](ErrorKind::Server) for an error in the
    /// stream, in any of its shapes, with the numeric code as status: it decides, whatever else came or
    /// follows. [`Protocol`](ErrorKind::Protocol) for an id or index out of range, a field of a type that
    /// cannot hold tokens, or a chunk of another wire than the one this decoder was made for.
    /// [`Limit`](ErrorKind::Limit) for JSON of more than [`MAX_NESTING`](crate::MAX_NESTING) levels, more than [`MAX_CHOICES`] choices or more
    /// than [`MAX_TOKEN_IDS`](crate::MAX_TOKEN_IDS) ids or [`MAX_TOOL_CALLS`](crate::MAX_TOOL_CALLS) pieces of tool calls in one chunk.
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

    /// As [`decode`](Self::decode), without comparing the event with a template.
    pub(crate) fn decode_parsed(
        &mut self,
        event: &str,
        data: &str,
        sink: &mut impl FnMut(u32, StreamToken),
    ) -> Result<Flow, Error> {
        match self.state {
            State::Ended => return Ok(Flow::Ended),
            State::Failed => return Err(failed_before()),
            State::Open => {}
        }
        let result = self.decode_open(event, data, sink);
        match &result {
            Ok(Flow::More) => {}
            Ok(Flow::Ended) => self.state = State::Ended,
            Err(_) => self.state = State::Failed,
        }
        result
    }

    /// Decodes an event that is like an earlier one, as [`decode`](Self::decode) does, after which more events follow. Returns
    /// false for any other event and takes nothing of it. The data need not have been checked to be UTF-8.
    #[inline]
    pub(crate) fn decode_by_template(
        &mut self,
        event: &str,
        data: &[u8],
        sink: &mut impl FnMut(u32, StreamToken),
    ) -> bool {
        event != "error" && self.read_by_template(data, <[u8]>::is_empty, sink).is_some()
    }

    /// Does the same for a body that begins with an event of one data line and a blank line. Returns the length of the data
    /// line. Its end is not searched for, because no template contains a line end.
    #[inline]
    pub(crate) fn decode_at_front(
        &mut self,
        body: &[u8],
        sink: &mut impl FnMut(u32, StreamToken),
    ) -> Option<usize> {
        let data = body.strip_prefix(b"data: ")?;
        let data_bytes = self.read_by_template(data, |rest| rest.starts_with(b"\n\n"), sink)?;
        Some(b"data: ".len() + data_bytes)
    }

    #[inline]
    fn read_by_template(
        &mut self,
        data: &[u8],
        ends: impl Fn(&[u8]) -> bool,
        sink: &mut impl FnMut(u32, StreamToken),
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

    /// Whether the answer is complete, asked when the bytes have ended or after [`Flow::Ended`].
    ///
    /// # Errors
    ///
    /// [`Incomplete`](ErrorKind::Incomplete) if neither the terminator was seen nor a finish reason for every
    /// choice that was begun. After an error of [`decode`](Self::decode), [`Protocol`](ErrorKind::Protocol):
    /// that error has told how the stream ended.
    pub fn finish(&mut self) -> Result<Completion, Error> {
        self.check_not_failed()?;
        if !self.is_complete() {
            let message = if self.tokens() == 0 {
                "the stream ended before it began: no token, no finish reason"
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

    /// Why a choice stopped, as far as that came.
    #[must_use]
    pub fn finish_reason(&self, choice: u32) -> Option<&FinishReason> {
        self.choices.get(choice as usize)?.finish.as_ref()
    }

    /// The server's counts so far, see [`Completion::usage`].
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage.or_else(|| {
            let add = |a: Option<u32>, b: Option<u32>| Some(a?.saturating_add(b?));
            self.choices.iter().filter_map(|choice| choice.usage).reduce(|sum, next| {
                let completion_tokens = sum.completion_tokens.saturating_add(next.completion_tokens);
                if sum.prompt_tokens == next.prompt_tokens {
                    return Usage { completion_tokens, ..next };
                }
                // Counts of prompts that are not the same one.
                Usage {
                    prompt_tokens: sum.prompt_tokens.saturating_add(next.prompt_tokens),
                    completion_tokens,
                    cached_tokens: add(sum.cached_tokens, next.cached_tokens),
                    reasoning_tokens: add(sum.reasoning_tokens, next.reasoning_tokens),
                }
            })
        })
    }

    /// Whether the ids handed out are all there were. Before the end, and after an error, it is never `Yes`;
    /// it is `No` as soon as a gap is seen, and [`Unknown`](IdsExact::Unknown) else.
    #[must_use]
    pub fn ids_exact(&self) -> IdsExact {
        let counted = self.usage.map(|usage| usage.completion_tokens.into());
        let llama_cpp = self.server == Some(Family::LlamaCpp);
        match Total::of(&self.choices).ids_exact(counted, self.is_complete(), llama_cpp) {
            IdsExact::No(Inexact::NoIds) if self.ids_were_due() => IdsExact::No(Inexact::Dropped),
            exact => exact,
        }
    }

    /// Ids were asked for in a way that this server answers.
    fn ids_were_due(&self) -> bool {
        let endpoint = self.endpoint();
        self.ids_asked
            && match (&self.asked_server, self.server) {
                (Some(server), _) => server.gives_ids(endpoint),
                // A chat of llama.cpp is asked by log-probabilities, which are asked for only if it is known to be one.
                (None, Some(Family::LlamaCpp)) => endpoint != Endpoint::Chat || self.whole,
                (None, Some(family)) => family.gives_ids(endpoint),
                (None, None) => false,
            }
    }

    /// Tokens handed out, those without an id included.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.choices.iter().map(|choice| choice.tokens).sum()
    }

    /// Tokens handed out that have an id.
    #[must_use]
    pub fn ids(&self) -> u64 {
        Total::of(&self.choices).ids
    }

    /// The endpoint: the one that was asked, or the one detected from the chunks; `Auto` while it is not known.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        match self.endpoint {
            Endpoint::Auto => self.detected.unwrap_or(Endpoint::Auto),
            asked => asked,
        }
    }

    /// The server, if its chunks gave it away: vLLM by `token_ids` (null is enough) or its fingerprint,
    /// llama.cpp by `__verbose`, `timings`, its native events or its fingerprint, SGLang by `matched_stop` or its native
    /// events, TensorRT-LLM by `avg_decoded_tokens_per_iter`, TGI by its events.
    #[must_use]
    pub fn server(&self) -> Option<ServerKind> {
        self.server.map(ServerKind::from)
    }

    /// The id the server gave the request: the `id` of the chunks (`request_id` on vLLM's generate endpoint,
    /// `meta_info.id` on SGLang's).
    /// As it came: escape it before printing. One of more than 256 bytes is not kept.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// How many events were no JSON object and no terminator.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The beginning of the first skipped event, control characters escaped.
    #[must_use]
    pub fn first_skipped(&self) -> Option<&str> {
        self.first_skipped.as_deref()
    }

    /// Something of an answer came: a token, or a piece of a call, which is handed out only when the call is whole.
    pub(crate) fn has_begun(&self) -> bool {
        self.choices.iter().any(|choice| choice.tokens > 0 || choice.has_text_without_id)
    }

    /// The next event is a whole answer (answer.rs).
    pub(super) fn expect_whole(&mut self) {
        self.whole = true;
    }

    /// A choice has begun.
    pub(super) fn has_choice(&self) -> bool {
        self.choices.iter().any(|choice| choice.begun)
    }

    /// The terminator was seen.
    pub(crate) fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// An error was seen beside the chunks: from now on it is as if `decode` had returned it.
    pub(crate) fn fail(&mut self) {
        self.state = State::Failed;
    }

    /// `decode` has returned an error, or [`fail`](Self::fail) was called: the same as its next error.
    pub(crate) fn check_not_failed(&self) -> Result<(), Error> {
        if self.state == State::Failed { Err(failed_before()) } else { Ok(()) }
    }

    /// The terminator was seen, or a finish reason for every choice that was begun.
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

fn failed_before() -> Error {
    Error::protocol("the stream has failed before; nothing after that is read")
}
