//! Reads one event for the decoder.

use super::{ChunkDecoder, Flow};
use crate::error::escape::printable;
use crate::error::{Error, Limit, ServerError};
use crate::protocol::chunk::calls::Calls;
use crate::protocol::chunk::delta::{ChoiceDelta, mismatch};
use crate::protocol::chunk::detect::{detect_endpoint, detect_server, endpoint_without_choices, is_native};
use crate::protocol::chunk::json::{CallDelta, Chunk};
use crate::protocol::chunk::limits::{MAX_NESTING, nests_too_deep};
use crate::protocol::chunk::outline::Count;
use crate::protocol::chunk::server_error::server_error_from_body;
use crate::protocol::chunk::tally::{ChoiceTally, Sink};
use crate::protocol::chunk::template::ParsedChunk;
use crate::protocol::chunk::value::{Id, Ids, Presence, Scalar, fill};
use crate::protocol::chunk::{chat, llamacpp, openai, sglang, tgi, vllm_generate};
use crate::protocol::server::endpoint::Endpoint;
use crate::types::ids::{FinishReason, Usage, is_clean};

/// The longest request id that is kept, in bytes. A longer id is dropped, not cut.
const MAX_REQUEST_ID_BYTES: usize = 256;
/// The maximum number of characters that are stored of the first event that was not JSON.
const MAX_PREVIEW_CHARS: usize = 80;

impl ChunkDecoder {
    pub(super) fn decode_open(
        &mut self,
        event: &str,
        data: &str,
        sink: &mut impl Sink,
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
            chunk.message_to_delta();
        }
        let is_error = chunk.is_error();
        if nests_too_deep(data) && !is_error {
            return Err(Error::limit(Limit::Nesting, MAX_NESTING as u64));
        }
        if chunk.presence == Presence::WrongType {
            self.skip(data);
            return Ok(Flow::More);
        }
        self.detect(&chunk);
        // If a chunk has both tokens and an error, the tokens come first. They are therefore
        // delivered.
        let read = self.read_chunk(&mut chunk, sink);
        if is_error {
            return Err(Error::server(server_error_from_body(None, None, data.as_bytes())));
        }
        if let (
            Ok(Flow::More),
            Endpoint::OpenAi | Endpoint::Chat | Endpoint::LlamaCpp | Endpoint::VllmGenerate,
        ) = (&read, self.endpoint())
        {
            self.templates.learn(data, self.endpoint());
        }
        read
    }

    /// Delivers a chunk that matched a template, as `read_chunk` does for a parsed chunk.
    #[inline]
    pub(super) fn hand_out_parsed(&mut self, parsed: ParsedChunk<'_>, sink: &mut impl Sink) {
        let index = parsed.count(Count::Index).unwrap_or(0);
        let cached_tokens = parsed.count(Count::Cached);
        let is_native = self.endpoint() == Endpoint::LlamaCpp;
        if let (false, Some(completion_tokens)) = (is_native, parsed.count(Count::Completion)) {
            let prompt_tokens = parsed.count(Count::Prompt).unwrap_or(0);
            let reasoning_tokens = parsed.count(Count::Reasoning);
            let usage = Usage { prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens };
            self.count_usage(usage, Some(index));
        }
        let (predicted, evaluated) = (parsed.count(Count::Predicted), parsed.count(Count::Evaluated));
        self.begin_choice(index);
        let ids = self.templates.ids.iter().copied();
        let tally = &mut self.choices[index as usize];
        tally.hand_out(index, parsed.reasoning, parsed.text, ids, false, sink);
        tally.count_now(predicted);
        if is_native {
            tally.usage = llamacpp::usage(evaluated, predicted, cached_tokens, tally.usage);
        }
        if tally.finish.is_some() {
            self.close_call(index, sink);
        }
    }

    fn skip(&mut self, data: &str) {
        self.skipped += 1;
        if self.first_skipped.is_none() {
            self.first_skipped = Some(printable(data, MAX_PREVIEW_CHARS).into());
        }
    }

    fn detect(&mut self, chunk: &Chunk<'_>) {
        if self.request_id.is_none() {
            self.request_id = [&chunk.id, &chunk.request_id, &chunk.meta.id]
                .into_iter()
                .filter_map(Scalar::text)
                .find(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES)
                .map(Into::into);
        }
        self.detected = self.detected.or_else(|| detect_endpoint(chunk));
        self.server = self.server.or_else(|| detect_server(chunk));
    }

    fn read_chunk(&mut self, chunk: &mut Chunk<'_>, sink: &mut impl Sink) -> Result<Flow, Error> {
        let endpoint = self.endpoint();
        if let Some(came) = endpoint_without_choices(chunk).filter(|came| *came != endpoint) {
            // The metadata of other servers may have the same keys, with empty values.
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
                // Only an event with native fields begins a choice. An error or `null` has no such
                // fields.
                if sglang::is_native(chunk) {
                    let usage = sglang::usage(chunk);
                    let index = self.begin_choice_of(&chunk.index)?;
                    let tally = &mut self.choices[index as usize];
                    let delta = sglang::read(chunk, &mut tally.so_far)?;
                    self.hand_out(delta, sink)?.count(usage);
                }
                Ok(Flow::More)
            }
            Endpoint::Tgi if self.whole => {
                let usage = tgi::usage(chunk);
                if chunk.generated_text.is_given() {
                    let delta = tgi::read_whole(chunk)?;
                    self.hand_out(delta, sink)?.count(usage);
                }
                Ok(Flow::More)
            }
            Endpoint::Tgi => {
                let usage = tgi::usage(chunk);
                let (delta, ended) = tgi::read(chunk)?;
                if ended || delta.ids.is_some() || !delta.text.is_empty() {
                    let tally = self.hand_out(delta, sink)?;
                    tally.count(usage);
                    tally.stopped |= ended;
                }
                Ok(if ended { Flow::Ended } else { Flow::More })
            }
            _ => self.read_choices(endpoint, chunk, sink),
        }
    }

    fn read_llama_cpp(&mut self, chunk: &mut Chunk<'_>, sink: &mut impl Sink) -> Result<Flow, Error> {
        let (delta, ended) = llamacpp::read(chunk)?;
        // Only an event with native fields begins a choice. An error or `null` has no such fields.
        if ended || is_native(chunk) || delta.ids.is_some() || !delta.text.is_empty() {
            let choice = self.hand_out(delta, sink)?;
            choice.usage = llamacpp::usage(
                chunk.tokens_evaluated.count(),
                chunk.tokens_predicted.count(),
                chunk.timings.cache_n.count(),
                choice.usage,
            );
            choice.stopped |= ended;
        }
        // With several choices, each choice has its own last event, so the stream ends only when
        // the body ends.
        Ok(if ended && self.max_choices == 1 { Flow::Ended } else { Flow::More })
    }

    fn read_choices(
        &mut self,
        endpoint: Endpoint,
        chunk: &mut Chunk<'_>,
        sink: &mut impl Sink,
    ) -> Result<Flow, Error> {
        chunk.choices.check("choices", Limit::Choices)?;
        if let Some(usage) = chunk.usage.usage() {
            let index = chunk.choices.first().map(|choice| self.index_of(&choice.index));
            self.count_usage(usage, index.transpose()?);
        }
        let mut verbose = std::mem::take(&mut chunk.verbose);
        if chunk.progress.is_given() {
            verbose.progress = std::mem::take(&mut chunk.progress);
        }
        for choice in chunk.choices.iter_mut() {
            if choice.presence != Presence::Given {
                return Err(Error::protocol("a choice of a chunk is not an object"));
            }
            // llama.cpp sends one choice in each chunk, so `__verbose` belongs to that choice.
            let verbose = std::mem::take(&mut verbose);
            let delta = match endpoint {
                Endpoint::Chat => chat::read(choice, verbose)?,
                Endpoint::VllmGenerate => vllm_generate::read(choice)?,
                // The endpoint is not known yet. All endpoints have the finish reason and the ids
                // in the same fields.
                _ => openai::read(choice, verbose)?,
            };
            self.hand_out(delta, sink)?;
        }
        Ok(Flow::More)
    }

    /// Stores the usage of one choice or of the whole request.
    ///
    /// If the stream has several choices, the usage in a chunk with a choice belongs to that choice
    /// (llama.cpp with an `n` of 2). Otherwise the usage belongs to the whole request. Later usage
    /// replaces earlier usage, because a LiteLLM proxy sends zeros in every chunk until it sends
    /// the real usage.
    fn count_usage(&mut self, usage: Usage, choice: Option<u32>) {
        match choice {
            Some(index) if self.max_choices > 1 => {
                self.begin_choice(index);
                self.choices[index as usize].count(Some(usage));
            }
            _ => self.usage = Some(usage),
        }
    }

    fn hand_out(&mut self, delta: ChoiceDelta<'_>, sink: &mut impl Sink) -> Result<&mut ChoiceTally, Error> {
        let ChoiceDelta { index, reasoning, text, calls, ids, finish, counted } = delta;
        let index = self.begin_choice_of(&index)?;
        let begins =
            |calls: &Calls, next: Option<&CallDelta<'_>>| next.is_some_and(|next| calls.begins(next));
        if begins(&self.choices[index as usize].calls, calls.first()) {
            self.close_call(index, sink);
        }
        // All ids are valid, because `good_ids` rejects lists with an invalid id.
        let ids = ids.into_iter().flat_map(Ids::into_items).filter_map(Id::valid);
        let has_call = calls.first().is_some();
        self.choices[index as usize].hand_out(index, reasoning, text, ids, has_call, sink);
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

    /// Delivers the open tool call of a choice, if the choice has an open call.
    fn close_call(&mut self, index: u32, sink: &mut impl Sink) {
        let tally = &mut self.choices[index as usize];
        let cut = !is_clean(tally.finish.as_ref());
        if let Some(token) = tally.calls.close(tally.tokens, cut) {
            sink(index, token);
        }
    }

    /// Returns the index of a choice. A missing index counts as 0.
    fn index_of(&self, index: &Scalar<'_>) -> Result<u32, Error> {
        let index = if index.is_given() { index.count() } else { Some(0) };
        index.filter(|index| *index < self.max_choices).ok_or_else(|| {
            let max = self.max_choices;
            Error::protocol(format!("the index of a choice is out of range: max_choices is {max}"))
        })
    }

    fn begin_choice_of(&mut self, index: &Scalar<'_>) -> Result<u32, Error> {
        let index = self.index_of(index)?;
        self.begin_choice(index);
        Ok(index)
    }

    /// Marks a choice as begun. `index` must be less than `max_choices`.
    #[inline]
    fn begin_choice(&mut self, index: u32) {
        let at = index as usize;
        if self.choices.len() <= at {
            self.choices.resize_with(at + 1, ChoiceTally::default);
        }
        self.choices[at].begun = true;
    }
}
