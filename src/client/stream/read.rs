//! Reads the body of an answer into the stream's channel while the body arrives.

use std::time::{Duration, Instant};

use super::exchange::{Exchange, ReadUntil};
use super::report::Outcome;
use super::run::Unfinished;
use super::tally::Tally;
use crate::client::backend::head::check_head;
use crate::client::channel::sender::{CannotSend, TokenSender};
use crate::client::http::response::HttpResponse;
use crate::error::{Error, Timer};
use crate::protocol::chunk::body::{BodyDecoder, Step};
use crate::protocol::chunk::decoder::{ChunkDecoder, Completion};
use crate::types::ids::{FinishReason, IdsExact};
use crate::types::token::StreamToken;

/// The size of the space for the first read of a body, in bytes.
///
/// The space is small, because a server usually sends one token at a time and there may be a
/// thousand streams.
const MIN_READ_BYTES: usize = 2 << 10;
/// The maximum size of the space for a read of a body, in bytes.
///
/// A read that fills its space doubles the space for the next read, up to this size.
const MAX_READ_BYTES: usize = 16 << 10;

impl Exchange {
    /// Reads the answer after its head. Returns the position in the body where reading ended.
    pub(super) fn answer(
        &self,
        response: &mut HttpResponse,
        tally: &mut Tally,
        sender: &mut Option<TokenSender>,
    ) -> Result<(Completion, ReadUntil), Unfinished> {
        check_head(response, &tally.secrets)?;
        // The sender is missing if the stream was cancelled during a connect that succeeded
        // afterwards.
        let taken = self.shared.take_sender().ok_or(Unfinished::Stopped(Outcome::Cancelled))?;
        let mut body = BodyDecoder::new(self.endpoint).limits(&self.shared.backend.limits);
        if self.requested.ids {
            body = body.ids_asked(self.requested.server.clone());
        }
        let mut reader = AnswerReader {
            exchange: self,
            response,
            body,
            tally,
            sender: sender.insert(taken),
            tokens: Vec::new(),
            now: Instant::now(),
            room: MIN_READ_BYTES,
        };
        let result = reader.read().and_then(|until| Ok((reader.complete(until)?, until)));
        reader.note(&result);
        result
    }
}

/// A body that is read from the socket into the channel.
struct AnswerReader<'a> {
    exchange: &'a Exchange,
    response: &'a mut HttpResponse,
    body: BodyDecoder,
    tally: &'a mut Tally,
    sender: &'a mut TokenSender,
    /// The tokens of one event.
    tokens: Vec<StreamToken>,
    /// The time at which the last read returned.
    now: Instant,
    /// The size of the space for the next read, in bytes.
    room: usize,
}

impl AnswerReader<'_> {
    /// Reads to the end of the answer.
    fn read(&mut self) -> Result<ReadUntil, Unfinished> {
        loop {
            if let Some(until) = self.read_socket()? {
                return Ok(until);
            }
            self.now = Instant::now();
            let waited = self.sender.waited();
            if let Some(until) = self.decode()? {
                return Ok(until);
            }
            let waited = self.sender.waited() - waited;
            if !waited.is_zero() {
                self.tally.consumer_waited(waited);
                self.now = Instant::now();
            }
            if self.body.is_complete() {
                self.tally.finished.get_or_insert(self.now);
            }
        }
    }

    /// Reads from the socket once.
    ///
    /// Returns the position where reading ended, or `None` if there are bytes to decode.
    fn read_socket(&mut self) -> Result<Option<ReadUntil>, Unfinished> {
        let wait = self.exchange.wait(self.tally, self.now);
        let space = self.body.zeroed_space(self.room);
        let offered = space.len();
        let len = match self.response.read(space, wait) {
            Ok(len) => len,
            // The answer is complete. Only the usage, the terminator or the framing was lost or
            // late.
            Err(error) if !error.is_cancelled() && self.body.is_complete() => {
                return Ok(Some(ReadUntil::End));
            }
            Err(error) => return Err(error.into()),
        };
        if len == 0 {
            return Ok(Some(ReadUntil::End));
        }
        self.body.filled(len);
        if len == offered {
            self.room = MAX_READ_BYTES.min(self.room * 2);
        }
        if self.body.is_other() {
            self.body.feed(&self.response.error_body());
            return Ok(Some(ReadUntil::End));
        }
        Ok(None)
    }

    /// Decodes the events of one read and sends their tokens.
    ///
    /// Returns the position where reading ended, or `None` if none of the events was the end.
    fn decode(&mut self) -> Result<Option<ReadUntil>, Unfinished> {
        loop {
            let step = self.body.decode_event(&mut |_, token| self.tokens.push(token));
            if !self.tally.begun && self.body.chunks().has_begun() {
                self.tally.begun = true;
                self.exchange.shared.backend.routes.worked(self.tally.report.route);
            }
            let is_stopped = self.tally.resume_state.event(&mut self.tokens)?;
            if !self.tokens.is_empty() {
                self.send()?;
            }
            let until = match step? {
                _ if is_stopped => Some(ReadUntil::StopString),
                Step::More => return Ok(None),
                Step::Event => None,
                Step::Ended => Some(ReadUntil::Terminator),
            };
            self.tally.event(self.now);
            if until.is_some() {
                return Ok(until);
            }
        }
    }

    /// Sends the tokens of one event.
    fn send(&mut self) -> Result<(), Unfinished> {
        let shared = &self.exchange.shared;
        let limit = shared.backend.timeouts.deadline;
        let deadline = limit.and_then(|limit| shared.started.checked_add(limit));
        let mut sent = Ok(());
        let mut count = 0;
        for token in self.tokens.drain(..) {
            let size = token.text_bytes();
            sent = self.sender.send(token, size, shared.slot.woken(), deadline);
            // Tokens that arrived before the deadline are still delivered.
            if matches!(sent, Err(CannotSend::ConsumerGone | CannotSend::Cancelled)) {
                break;
            }
            count += 1;
        }
        if count > 0 {
            // In an outage, all streams end together. The refund is therefore made now, not at the
            // end of the stream.
            if self.tally.report.first_token.is_none() {
                shared.backend.retry_budget.refund();
            }
            self.tally.tokens(self.now, count);
        }
        sent.map_err(|why| unfinished(why, limit))
    }

    /// Checks that the answer is complete, and sends the text that was held back at a break.
    fn complete(&mut self, until: ReadUntil) -> Result<Completion, Unfinished> {
        if until == ReadUntil::StopString {
            return Ok(stopped_short(self.body.chunks()));
        }
        let completion = self.body.finish().map_err(|error| match self.response.header("content-type") {
            // If the body is not an event stream, the error message contains its content type.
            kind @ Some(_) if self.body.is_other() => self.body.not_an_event_stream(kind),
            _ => error,
        })?;
        if let Some(rest) = self.tally.resume_state.rest()? {
            self.tokens.push(rest);
            self.now = Instant::now();
            self.send()?;
        }
        Ok(completion)
    }

    /// Copies the information from the body into the report, the log and the client.
    ///
    /// The body may be incomplete.
    fn note(&mut self, result: &Result<(Completion, ReadUntil), Unfinished>) {
        let Self { exchange, body, tally, .. } = self;
        tally.read(body);
        if let Ok((completion, ReadUntil::StopString)) = result {
            tally.report.finish.clone_from(&completion.finish);
        }
        let chunks = body.chunks();
        if let Some(first) = chunks.first_skipped() {
            log::debug!("skipped {} events that are not JSON objects", chunks.skipped());
            log::trace!("first skipped event: {}", tally.secrets.redact(first));
        }
        if let Some(server) = chunks.server() {
            exchange.shared.backend.learn(server);
        }
    }
}

/// Returns the completion of an answer that the client ends in place of the server.
fn stopped_short(chunks: &ChunkDecoder) -> Completion {
    Completion {
        usage: chunks.usage(),
        finish: Some(FinishReason::Stop),
        // The server's count does not include the end of the answer.
        ids_exact: match chunks.ids_exact() {
            IdsExact::Yes => IdsExact::Unknown,
            exact => exact,
        },
    }
}

pub(super) fn unfinished(why: CannotSend, deadline: Option<Duration>) -> Unfinished {
    match why {
        CannotSend::ConsumerGone => Unfinished::Stopped(Outcome::ConsumerGone),
        CannotSend::Cancelled => Unfinished::Stopped(Outcome::Cancelled),
        CannotSend::Deadline => {
            Unfinished::Failed(Error::timeout(Timer::Deadline, deadline.unwrap_or_default()))
        }
    }
}
