//! Event data to tokens, usage, finish reason, or error: one file per wire dialect.
//!
//! ```text
//!               ┌──────────── not JSON: counted, skipped ────────────┐
//! event's data ─┤ "[DONE]" ──▶ Flow::Ended                           │
//!               └ JSON ──▶ Chunk (json.rs) ──▶ wire's read() ──▶ Piece ──▶ tokens to the sink
//!                             │                                    └──▶ tally.rs: ids against counts
//!                             └──▶ error (server_error.rs) ──▶ Err: the stream is over
//! ```
//!
//! Most chunks do not come that way: they are compared with one before them, and only what differs is read (learned.rs).
//!
//! A wire's file says where in a chunk its text, ids and finish reason stand, and nothing else. To add one:
//! a variant of [`Endpoint`], a file with `read`, a line in `read_chunk` and one in `told_by`; what is learned of it is for
//! `outline` to say, and may be nothing.

pub(crate) mod answer;
pub(crate) mod body;
mod calls;
mod chat;
pub(crate) mod endpoint;
mod json;
mod learned;
mod llamacpp;
mod openai;
mod outline;
pub(crate) mod server_error;
mod sglang;
mod tally;
mod tgi;
mod vllm_generate;

use std::borrow::Cow;

pub use self::answer::{CompletionResponse, MalformedCall};
use self::calls::Calls;
pub use self::endpoint::{Endpoint, ServerKind};
use self::endpoint::{bare_wire, is_native, server_of, told_by};
use self::json::{CallDelta, Choice, Chunk, Id, Ids, List, Scalar, Shape, Verbose, fill};
use self::learned::{Learned, Said};
use self::outline::Count;
pub(crate) use self::server_error::server_error_from_body;
use self::tally::{ChoiceTally, Total};
use crate::config::Limits;
use crate::error::escape::printable;
use crate::error::{Error, ErrorKind, Limit, ServerError};
use crate::types::ids::{FinishReason, IdsExact, Inexact, Usage, is_clean};
use crate::types::token::StreamToken;

/// The most choices that one stream can be decoded for, whatever
/// [`max_choices`](ChunkDecoder::max_choices) asks for: state is kept for each.
pub const MAX_CHOICES: u32 = 128;

/// How deep lists and objects may stand inside of each other in one event; deeper is
/// [`Limit::Nesting`]. Chunks of real servers have up to eight levels.
pub const MAX_NESTING: usize = 128;

/// The most token ids in one list of a chunk; more are [`Limit::TokenIds`]. Servers send a few;
/// one that holds ids back sends its whole answer at once.
pub const MAX_TOKEN_IDS: usize = 1 << 20;

/// The most pieces of tool calls in one chunk; more are [`Limit::ToolCalls`]. Servers send one.
pub const MAX_TOOL_CALLS: usize = 128;

/// The longest request id of a server that is kept, in bytes; a longer one is not kept at all.
const MAX_REQUEST_ID_BYTES: usize = 256;
/// How much of the first line that was not JSON is shown.
const MAX_PREVIEW_CHARS: usize = 80;

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
    /// As told; `Auto` until `told` knows better.
    endpoint: Endpoint,
    /// What the chunks turned out to be, while `endpoint` is `Auto`.
    told: Option<Endpoint>,
    server: Option<ServerKind>,
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
    learned: Learned,
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

/// What one chunk says of one choice, the same for every wire.
#[derive(Default)]
struct Piece<'a> {
    index: Scalar<'a>,
    reasoning: Cow<'a, str>,
    text: Cow<'a, str>,
    calls: List<CallDelta<'a>, MAX_TOOL_CALLS>,
    /// Checked; `None` where the chunk has no place for ids.
    ids: Option<Ids>,
    finish: Scalar<'a>,
    /// The server's running count of the choice's tokens.
    counted: Option<u32>,
}

impl ChunkDecoder {
    /// A decoder for one answer with one choice.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            told: None,
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
            learned: Learned::default(),
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
        self.learned.is_on = is_on;
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
    /// [`Limit`](ErrorKind::Limit) for JSON of more than [`MAX_NESTING`] levels, more than [`MAX_CHOICES`] choices or more
    /// than [`MAX_TOKEN_IDS`] ids or [`MAX_TOOL_CALLS`] pieces of tool calls in one chunk.
    pub fn decode(
        &mut self,
        event: &str,
        data: &str,
        sink: &mut impl FnMut(u32, StreamToken),
    ) -> Result<Flow, Error> {
        if self.decode_learned(event, data.as_bytes(), sink) {
            return Ok(Flow::More);
        }
        self.decode_parsed(event, data, sink)
    }

    /// As [`decode`](Self::decode), without a look at what was learned.
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

    /// As [`decode`](Self::decode), for an event that is like one before it: there is more to come. False for any other, of
    /// which nothing was taken. The data need not have been checked to be UTF-8.
    #[inline]
    pub(crate) fn decode_learned(
        &mut self,
        event: &str,
        data: &[u8],
        sink: &mut impl FnMut(u32, StreamToken),
    ) -> bool {
        event != "error" && self.decode_if_learned(data, <[u8]>::is_empty, sink).is_some()
    }

    /// The same for bytes of a body that an event begins with, if it is but a data line and a blank one: the length of the
    /// data line. No search for its end is needed, for what was learned has no line end in it.
    #[inline]
    pub(crate) fn decode_at_front(
        &mut self,
        body: &[u8],
        sink: &mut impl FnMut(u32, StreamToken),
    ) -> Option<usize> {
        let data = body.strip_prefix(b"data: ")?;
        let data_bytes = self.decode_if_learned(data, |rest| rest.starts_with(b"\n\n"), sink)?;
        Some(b"data: ".len() + data_bytes)
    }

    #[inline]
    fn decode_if_learned(
        &mut self,
        data: &[u8],
        ends: impl Fn(&[u8]) -> bool,
        sink: &mut impl FnMut(u32, StreamToken),
    ) -> Option<usize> {
        if self.state != State::Open {
            return None;
        }
        let (said, len) = self.learned.read(data, ends)?;
        if said.count(Count::Index).is_some_and(|index| index >= self.max_choices) {
            return None;
        }
        self.say(said, sink);
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
        let llama_cpp = self.server == Some(ServerKind::LlamaCpp);
        match Total::of(&self.choices).ids_exact(counted, self.is_complete(), llama_cpp) {
            IdsExact::No(Inexact::NoIds) if self.ids_were_due() => IdsExact::No(Inexact::Dropped),
            exact => exact,
        }
    }

    /// Ids were asked for in a way that this server answers.
    fn ids_were_due(&self) -> bool {
        let endpoint = self.endpoint();
        self.ids_asked
            && match (self.asked_server, self.server) {
                (Some(server), _) => server.gives_ids(endpoint),
                // A chat of llama.cpp is asked by log-probabilities, which are asked for only if it is known to be one.
                (None, Some(ServerKind::LlamaCpp)) => endpoint != Endpoint::Chat || self.whole,
                (None, Some(server)) => server.gives_ids(endpoint),
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

    /// The wire: as told, or as learned from the chunks; `Auto` while it is not known.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        match self.endpoint {
            Endpoint::Auto => self.told.unwrap_or(Endpoint::Auto),
            told => told,
        }
    }

    /// The server, if its chunks gave it away: vLLM by `token_ids` (null is enough) or its fingerprint,
    /// llama.cpp by `__verbose`, `timings`, its native events or its fingerprint, SGLang by `matched_stop` or its native
    /// events, TensorRT-LLM by `avg_decoded_tokens_per_iter`, TGI by its events.
    #[must_use]
    pub fn server(&self) -> Option<ServerKind> {
        self.server
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
        self.choices.iter().any(|choice| choice.tokens > 0 || choice.said_without_id)
    }

    /// The terminator was seen.
    pub(crate) fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    // --- one event ---

    fn decode_open(
        &mut self,
        event: &str,
        data: &str,
        sink: &mut impl FnMut(u32, StreamToken),
    ) -> Result<Flow, Error> {
        if event == "error" {
            return Err(Error::server(server_error_from_body(None, None, data.as_bytes())));
        }
        if data.trim() == "[DONE]" {
            for index in 0..self.max_choices.min(self.choices.len() as u32) {
                self.close_call(index, sink);
            }
            return Ok(Flow::Ended);
        }
        let mut chunk = Chunk::default();
        if fill(&mut chunk, data).is_err() {
            self.skip(data);
            return Ok(Flow::More);
        }
        if self.whole {
            chunk = answer::as_chunk(chunk);
        }
        let is_error = chunk.is_error();
        if nests_too_deep(data) && !is_error {
            return Err(Error::limit(Limit::Nesting, MAX_NESTING as u64));
        }
        if chunk.shape == Shape::Odd {
            self.skip(data);
            return Ok(Flow::More);
        }
        self.learn(&chunk);
        // Tokens in the chunk of an error are tokens before it: no token is lost.
        let read = self.read_chunk(&mut chunk, sink);
        if is_error {
            return Err(Error::server(server_error_from_body(None, None, data.as_bytes())));
        }
        if let (
            Ok(Flow::More),
            Endpoint::OpenAi | Endpoint::Chat | Endpoint::LlamaCpp | Endpoint::VllmGenerate,
        ) = (&read, self.endpoint())
        {
            self.learned.learn(data, self.endpoint());
        }
        read
    }

    /// Does what `read_chunk` does, with a chunk that was compared and not parsed.
    #[inline]
    fn say(&mut self, said: Said<'_>, sink: &mut impl FnMut(u32, StreamToken)) {
        let index = said.count(Count::Index).unwrap_or(0);
        let cached_tokens = said.count(Count::Cached);
        let is_native = self.endpoint() == Endpoint::LlamaCpp;
        if let (false, Some(completion_tokens)) = (is_native, said.count(Count::Completion)) {
            let prompt_tokens = said.count(Count::Prompt).unwrap_or(0);
            let reasoning_tokens = said.count(Count::Reasoning);
            let usage = Usage { prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens };
            self.count_usage(usage, Some(index));
        }
        let (predicted, evaluated) = (said.count(Count::Predicted), said.count(Count::Evaluated));
        self.begin_choice(index);
        let ids = self.learned.ids.iter().copied();
        let tally = &mut self.choices[index as usize];
        tally.hand_out(index, said.reasoning, said.text, ids, false, sink);
        tally.count_now(predicted);
        if is_native {
            tally.usage = llamacpp::usage(evaluated, predicted, cached_tokens, tally.usage);
        }
        if tally.finish.is_some() {
            self.close_call(index, sink);
        }
    }

    /// An error was seen beside the chunks: from now on it is as if `decode` had returned it.
    pub(crate) fn fail(&mut self) {
        self.state = State::Failed;
    }

    /// `decode` has returned an error, or [`fail`](Self::fail) was called: the same as its next error.
    pub(crate) fn check_not_failed(&self) -> Result<(), Error> {
        if self.state == State::Failed { Err(failed_before()) } else { Ok(()) }
    }

    fn skip(&mut self, data: &str) {
        self.skipped += 1;
        if self.first_skipped.is_none() {
            self.first_skipped = Some(printable(data, MAX_PREVIEW_CHARS).into());
        }
    }

    fn learn(&mut self, chunk: &Chunk<'_>) {
        if self.request_id.is_none() {
            self.request_id = [&chunk.id, &chunk.request_id, &chunk.meta.id]
                .into_iter()
                .filter_map(Scalar::text)
                .find(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES)
                .map(Into::into);
        }
        if self.told.is_none() {
            self.told = told_by(chunk);
        }
        if self.server.is_none() {
            self.server = server_of(chunk);
        }
    }

    fn read_chunk(
        &mut self,
        chunk: &mut Chunk<'_>,
        sink: &mut impl FnMut(u32, StreamToken),
    ) -> Result<Flow, Error> {
        let endpoint = self.endpoint();
        if let Some(came) = bare_wire(chunk).filter(|came| *came != endpoint) {
            // Other servers' metadata may have these keys, with nothing in them.
            let says = chunk.content.text().is_some_and(|text| !text.is_empty());
            if came != Endpoint::LlamaCpp || says || chunk.tokens.first().is_some() {
                return Err(mismatch(endpoint.as_str(), came.as_str()));
            }
        }
        match endpoint {
            Endpoint::LlamaCpp | Endpoint::SgLang | Endpoint::Tgi if chunk.choices.first().is_some() => {
                Err(mismatch(endpoint.as_str(), "openai"))
            }
            Endpoint::LlamaCpp => self.read_llama_cpp(chunk, sink),
            Endpoint::SgLang => {
                // Something that has none of its fields (an error, null) does not begin a choice.
                if sglang::is_native(chunk) {
                    let usage = sglang::usage(chunk);
                    let index = self.begin_choice_of(&chunk.index)?;
                    let tally = &mut self.choices[index as usize];
                    let piece = sglang::read(chunk, &mut tally.so_far)?;
                    self.hand_out(piece, sink)?.count(usage);
                }
                Ok(Flow::More)
            }
            Endpoint::Tgi if self.whole => {
                let usage = tgi::usage(chunk);
                if chunk.generated_text.is_given() {
                    let piece = tgi::read_whole(chunk)?;
                    self.hand_out(piece, sink)?.count(usage);
                }
                Ok(Flow::More)
            }
            Endpoint::Tgi => {
                let usage = tgi::usage(chunk);
                let (piece, ended) = tgi::read(chunk)?;
                if ended || piece.ids.is_some() || !piece.text.is_empty() {
                    let tally = self.hand_out(piece, sink)?;
                    tally.count(usage);
                    tally.stopped |= ended;
                }
                Ok(if ended { Flow::Ended } else { Flow::More })
            }
            _ => self.read_choices(endpoint, chunk, sink),
        }
    }

    fn read_llama_cpp(
        &mut self,
        chunk: &mut Chunk<'_>,
        sink: &mut impl FnMut(u32, StreamToken),
    ) -> Result<Flow, Error> {
        let (piece, ended) = llamacpp::read(chunk)?;
        // Something that has none of the native fields (an error, null) does not begin a choice.
        if ended || is_native(chunk) || piece.ids.is_some() || !piece.text.is_empty() {
            let choice = self.hand_out(piece, sink)?;
            choice.usage = llamacpp::usage(
                chunk.tokens_evaluated.count(),
                chunk.tokens_predicted.count(),
                chunk.timings.cache_n.count(),
                choice.usage,
            );
            choice.stopped |= ended;
        }
        // With several choices, each has its own last event, and the bytes' end is the end.
        Ok(if ended && self.max_choices == 1 { Flow::Ended } else { Flow::More })
    }

    fn read_choices(
        &mut self,
        endpoint: Endpoint,
        chunk: &mut Chunk<'_>,
        sink: &mut impl FnMut(u32, StreamToken),
    ) -> Result<Flow, Error> {
        match chunk.choices.shape {
            Shape::Odd => return Err(Error::protocol("a chunk's choices are no list")),
            Shape::Long => return Err(Error::limit(Limit::Choices, MAX_CHOICES.into())),
            Shape::Missing | Shape::Null | Shape::Given => {}
        }
        if let Some(usage) = chunk.usage.usage() {
            let index = chunk.choices.first().map(|choice| self.index_of(&choice.index));
            self.count_usage(usage, index.transpose()?);
        }
        let mut verbose = std::mem::take(&mut chunk.verbose);
        if chunk.progress.is_given() {
            verbose.progress = std::mem::take(&mut chunk.progress);
        }
        for choice in chunk.choices.iter_mut() {
            if choice.shape != Shape::Given {
                return Err(Error::protocol("a choice is no object"));
            }
            // llama.cpp sends one choice a chunk; `__verbose` belongs to that one.
            let verbose = std::mem::take(&mut verbose);
            let piece = match endpoint {
                Endpoint::Chat => chat::read(choice, verbose)?,
                Endpoint::VllmGenerate => vllm_generate::read(choice)?,
                // Nothing told the wire yet: a finish reason and ids stand in the same place on all.
                _ => openai::read(choice, verbose)?,
            };
            self.hand_out(piece, sink)?;
        }
        Ok(Flow::More)
    }

    /// Usage beside choices is that choice's where there are several (llama.cpp with `n` of 2), and beside
    /// none that of the whole. The last one wins: a LiteLLM proxy sends zeros in every chunk before the real
    /// one.
    fn count_usage(&mut self, usage: Usage, choice: Option<u32>) {
        match choice {
            Some(index) if self.max_choices > 1 => {
                self.begin_choice(index);
                self.choices[index as usize].count(Some(usage));
            }
            _ => self.usage = Some(usage),
        }
    }

    fn hand_out(
        &mut self,
        piece: Piece<'_>,
        sink: &mut impl FnMut(u32, StreamToken),
    ) -> Result<&mut ChoiceTally, Error> {
        let Piece { index, reasoning, text, calls, ids, finish, counted } = piece;
        let index = self.begin_choice_of(&index)?;
        let begins =
            |calls: &Calls, next: Option<&CallDelta<'_>>| next.is_some_and(|next| calls.begins(next));
        if begins(&self.choices[index as usize].calls, calls.first()) {
            self.close_call(index, sink);
        }
        let ids = ids.into_iter().flat_map(Ids::into_items).filter_map(|id| match id {
            Id::Good(id) => Some(id),
            // `good_ids` let none of these through.
            Id::Nothing | Id::Bad => None,
        });
        let says_call = calls.first().is_some();
        self.choices[index as usize].hand_out(index, reasoning, text, ids, says_call, sink);
        for piece in calls.into_items() {
            if begins(&self.choices[index as usize].calls, Some(&piece)) {
                self.close_call(index, sink);
            }
            let calls = &mut self.choices[index as usize].calls;
            if let Some(token) = calls.add(piece, self.max_arguments_bytes) {
                sink(index, token);
            }
        }
        let tally = &mut self.choices[index as usize];
        tally.count_now(counted);
        if let Some(word) = finish.text().filter(|word| !word.is_empty()) {
            tally.finish = Some(FinishReason::from_wire(word));
        }
        if finish.text() == Some("error") {
            let message = "the finish reason is \"error\"".to_owned();
            return Err(Error::server(ServerError { message, ..Default::default() }));
        }
        if tally.finish.is_some() {
            self.close_call(index, sink);
        }
        Ok(&mut self.choices[index as usize])
    }

    /// Hands out the call that is open in a choice, if there is one.
    fn close_call(&mut self, index: u32, sink: &mut impl FnMut(u32, StreamToken)) {
        let tally = &mut self.choices[index as usize];
        let cut = !is_clean(tally.finish.as_ref());
        if let Some(token) = tally.calls.close(tally.tokens, cut) {
            sink(index, token);
        }
    }

    /// No index is 0.
    fn index_of(&self, index: &Scalar<'_>) -> Result<u32, Error> {
        let index = if index.is_given() { index.count() } else { Some(0) };
        index.filter(|index| *index < self.max_choices).ok_or_else(|| {
            let max = self.max_choices;
            Error::protocol(format!("the index of a choice is out of range: choices_max is {max}"))
        })
    }

    fn begin_choice_of(&mut self, index: &Scalar<'_>) -> Result<u32, Error> {
        let index = self.index_of(index)?;
        self.begin_choice(index);
        Ok(index)
    }

    /// `index` is under `max_choices`.
    #[inline]
    fn begin_choice(&mut self, index: u32) {
        let at = index as usize;
        if self.choices.len() <= at {
            self.choices.resize_with(at + 1, ChoiceTally::default);
        }
        self.choices[at].begun = true;
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

// --- helpers of the wires ---

/// The ids of a choice, from the first of their places that the chunk has.
fn ids_of(choice: &mut Choice<'_>, verbose: Verbose<'_>) -> Result<Option<Ids>, Error> {
    let by_key = std::mem::take(&mut choice.token_ids);
    if !matches!(by_key.shape, Shape::Missing | Shape::Null) {
        return good_ids(by_key);
    }
    if !matches!(choice.delta.token_id, Id::Nothing) {
        return good_ids(Ids::of([choice.delta.token_id]));
    }
    if verbose.progress.is_given() {
        return Ok(None);
    }
    if !matches!(verbose.tokens.shape, Shape::Missing | Shape::Null) {
        return good_ids(verbose.tokens);
    }
    let logprobs = std::mem::take(&mut choice.logprobs.content);
    // Other servers have log-probabilities without ids.
    if logprobs.iter().any(|logprob| matches!(logprob.0, Id::Nothing)) {
        return Ok(None);
    }
    good_ids(logprobs.map(|logprob| logprob.0))
}

/// Lets through a list in which each entry is an id.
fn good_ids(ids: Ids) -> Result<Option<Ids>, Error> {
    match ids.shape {
        Shape::Missing | Shape::Null => Ok(None),
        Shape::Odd => Err(Error::protocol("the token ids of a chunk are no list")),
        Shape::Long => Err(Error::limit(Limit::TokenIds, MAX_TOKEN_IDS as u64)),
        Shape::Given if ids.iter().all(|id| matches!(id, Id::Good(_))) => Ok(Some(ids)),
        Shape::Given => Err(Error::protocol("a token id is no whole number from 0 to 4294967295")),
    }
}

fn token_text<'a>(text: Scalar<'a>) -> Result<Cow<'a, str>, Error> {
    text.into_text().map_err(|()| Error::protocol("the text of a chunk is no string"))
}

fn mismatch(expected: &str, came: &str) -> Error {
    Error::protocol(format!("a chunk of the {came} wire came where {expected} was expected"))
}

fn failed_before() -> Error {
    Error::protocol("the stream has failed before; nothing after that is read")
}

/// Whether valid JSON has more levels than [`MAX_NESTING`].
fn nests_too_deep(json: &str) -> bool {
    // Each level has two brackets.
    if json.len() <= 2 * MAX_NESTING {
        return false;
    }
    // Almost no event has so many of them, wherever they stand. Counted in sixteen sums, which the compiler makes SIMD of.
    let mut opens = [0_u8; 16];
    let parts = json.as_bytes().chunks_exact(opens.len());
    let unseen = parts.remainder().len();
    for part in parts {
        opens.iter_mut().zip(part).for_each(|(n, byte)| *n = n.saturating_add(u8::from(byte | 0x20 == b'{')));
    }
    if opens.iter().map(|n| usize::from(*n)).sum::<usize>() + unseen <= MAX_NESTING {
        return false;
    }
    let (mut depth, mut in_string, mut bytes) = (0_usize, false, json.bytes());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            // Only a string has one; what follows may be a quote.
            b'\\' => drop(bytes.next()),
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_NESTING {
            return true;
        }
    }
    false
}

/// Whether a line is the JSON of an error.
pub(crate) fn is_error(json: &str) -> bool {
    let mut chunk = Chunk::default();
    fill(&mut chunk, json).is_ok() && chunk.is_error()
}
