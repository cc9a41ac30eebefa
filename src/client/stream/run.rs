//! A stream's life on its reader thread: attempts, then the end of the last, told to everybody.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::received::Received;
use super::report::{Outcome, StreamReport};
use super::tally::Tally;
use crate::client::channel::sender::TokenSender;
use crate::client::http::response::HttpResponse;
use crate::client::policy::resume::MAX_RESUMES;
use crate::client::policy::retry;
use crate::client::threads::pool::Seat;
use crate::client::threads::sync::channel::RecvTimeoutError;
use crate::error::Error;
use crate::error::secrets::Secrets;
use crate::protocol::chunk::decoder::Completion;
use crate::protocol::server::ServerKind;
use crate::types::not_resumable::NotResumable;
use crate::types::token::StreamToken;

/// What an exchange came to. The response is there if its body was not read to the end.
pub(super) type Attempt = Result<(Completion, Option<HttpResponse>), Broken>;

/// Why a stream stopped short of complete.
pub(super) enum Broken {
    Error(Error),
    /// The guard, or the consumer, wants no more.
    Left(Outcome),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        if error.is_cancelled() { Self::Left(Outcome::Cancelled) } else { Self::Error(error) }
    }
}

impl Shared {
    /// Has a thread of the pool make the attempts. `failed` sees the error that they ended with before the consumer does. On an error
    /// nothing has begun, and the sender is where it was.
    pub(super) fn start(
        self: Arc<Self>,
        secrets: Secrets,
        received: Received,
        attempt: impl FnMut(&mut Tally, &mut Option<TokenSender>) -> Attempt + Send + 'static,
        failed: impl FnOnce(usize, Error) -> Error + Send + 'static,
    ) -> Result<(), Error> {
        let shared = self.clone();
        let ticket =
            self.client.pool.run(move |seat| shared.run(seat, secrets, received, attempt, failed))?;
        let _ = self.ticket.set(ticket);
        Ok(())
    }

    /// A stream's life on its thread: attempts, then the end of the last, told to everybody.
    fn run(
        &self,
        seat: &Seat<'_>,
        secrets: Secrets,
        received: Received,
        attempt: impl FnMut(&mut Tally, &mut Option<TokenSender>) -> Attempt,
        failed: impl FnOnce(usize, Error) -> Error,
    ) {
        let mut tally = Tally::new((self.started, self.began), secrets, received);
        let mut sender = None;
        let result = match self.client.timeouts.before_first_token() {
            Some((timer, limit)) if seat.is_late() => Err(Error::timeout(timer, limit).into()),
            _ => catch_unwind(AssertUnwindSafe(|| self.attempts(&mut tally, &mut sender, attempt)))
                .unwrap_or_else(|_| {
                    Err(Error::protocol("the reader thread panicked: a bug in tokenwire").into())
                }),
        };
        let settled = self.settle();
        seat.ending();
        // The stream failed before its head came, or it was cancelled and the sender is gone already.
        let mut sender = sender.or_else(|| self.take_sender());
        if let Some(sender) = &sender {
            tally.report.waited_for_consumer = sender.waited();
        }
        let (ending, last, rest) = match result {
            _ if !settled => (Outcome::Cancelled, None, None),
            Ok((_, rest)) => {
                let (usage, finish) = (tally.report.usage, tally.report.finish.clone());
                (Outcome::Complete, Some(StreamToken::Done { usage, finish }), rest)
            }
            Err(Broken::Left(ending)) => (ending, None, None),
            Err(Broken::Error(error)) => {
                let error = tally.place(error);
                // Where another request of the stream goes on, the stream has not failed.
                let is_told = sender.as_mut().is_none_or(|sender| sender.claim(true));
                // Saving logs, and a log sink is the program's own: if it panics, the end is told all the same.
                let save = || if is_told { failed(tally.report.route, error.clone()) } else { error.clone() };
                let error = catch_unwind(AssertUnwindSafe(save)).unwrap_or(error);
                tally.report.error = Some(error.clone());
                (Outcome::Failed, Some(StreamToken::Error(error)), None)
            }
        };
        let report = tally.into_report(ending);
        // As above.
        let _ = catch_unwind(AssertUnwindSafe(|| log_end(&report)));
        match (sender, last) {
            (Some(sender), Some(last)) => sender.send_last(last),
            (sender, _) => drop(sender),
        }
        self.publish(report);
        // Nobody waits for this: the consumer has its `Done`.
        if let Some(response) = rest {
            response.drain(self.client.timeouts.drain);
        }
    }

    /// Makes an attempt, and another if it fails and the policies have it so: the same again before the first token, after it
    /// one that goes on.
    fn attempts(
        &self,
        tally: &mut Tally,
        sender: &mut Option<TokenSender>,
        mut attempt: impl FnMut(&mut Tally, &mut Option<TokenSender>) -> Attempt,
    ) -> Attempt {
        loop {
            let error = match attempt(tally, sender) {
                Err(Broken::Error(error)) => error,
                result => return result,
            };
            tally.failed_here();
            self.client.routes.failed(tally.report.route, &error, Instant::now());
            let began = tally.report.first_token.is_some();
            let next = if began { self.resume(tally, &error) } else { self.retry(tally, &error) };
            let wait = match next {
                Next::After(wait) => wait,
                Next::Never => return Err(error.into()),
                Next::Whole(completion) => return Ok((completion, None)),
            };
            let what = if began { "taking up again" } else { "sending again" };
            // Not what the server said: that may be the prompt, or the key.
            let status = error.status().map(|status| format!(", {status}")).unwrap_or_default();
            let at = tally.received.ids();
            log::debug!("{what} in {wait:.3?} at id {at}, after: {}{status}", error.kind().as_str());
            self.give_back(sender.take(), tally.so_far());
            if self.slot.woken().recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return Err(Broken::Left(Outcome::Cancelled));
            }
            if began { tally.next_resume(&error) } else { tally.next_attempt() }
        }
    }

    fn retry(&self, tally: &mut Tally, error: &Error) -> Next {
        let client = &self.client;
        let advice = std::mem::take(&mut tally.advice);
        let wait = client.retry.wait(error, advice, tally.report.retries, retry::random());
        let wait = wait.map(|wait| self.unless_other(tally, wait));
        match wait.filter(|wait| self.is_in_time(*wait)).filter(|_| client.retry_budget.take()) {
            Some(wait) => Next::After(wait),
            None => Next::Never,
        }
    }

    fn resume(&self, tally: &mut Tally, error: &Error) -> Next {
        let client = &self.client;
        let advice = std::mem::take(&mut tally.advice);
        // What an attempt that goes on fails with before its first token, it fails with as any other.
        let wanted = if tally.begun { error.breaks_off() } else { client.retry.wants(error, advice) };
        // An error behind the finish reason ends the stream as ever: there is nothing left to ask for.
        let has_ended = tally.report.finish.as_ref().is_some_and(|finish| finish.as_str() != "error");
        if !wanted || has_ended {
            return Next::Never;
        }
        tally.broke();
        let server = tally.report.server.as_ref().and_then(ServerKind::family);
        let refused = match tally.received.check(tally.report.ids_exact, server) {
            Err(why) => why,
            Ok(()) if tally.is_litellm => Some(NotResumable::LiteLlm),
            Ok(()) => match tally.received.complete(server) {
                Some(finish) => return Next::Whole(tally.complete(finish)),
                None if tally.resumes >= tally.received.policy().max_resumes.min(MAX_RESUMES) => {
                    Some(NotResumable::UsedUp)
                }
                None => {
                    let advice = if tally.begun { retry::Advice::default() } else { advice };
                    let wait = client.retry.pause(advice, tally.resumes_in_vain, retry::random());
                    let wait = self.unless_other(tally, wait);
                    match self.is_in_time(wait) {
                        true if client.retry_budget.take() => return Next::After(wait),
                        true => Some(NotResumable::Budget),
                        false => Some(NotResumable::Deadline),
                    }
                }
            },
        };
        if let Some(why) = refused {
            log::debug!("not taken up again at id {}: {why}", tally.received.ids());
        }
        tally.report.not_resumed = refused;
        Next::Never
    }

    /// Another server, at which the stream has not failed, need not be waited for.
    fn unless_other(&self, tally: &Tally, wait: Duration) -> Duration {
        if self.client.routes.has_other(&tally.failed_at) { Duration::ZERO } else { wait }
    }

    /// A wait beyond the deadline would only make the answer later, and worse.
    fn is_in_time(&self, wait: Duration) -> bool {
        let limit = self.client.timeouts.deadline;
        limit.is_none_or(|limit| self.started.elapsed().saturating_add(wait) < limit)
    }
}

/// What follows a failed attempt.
enum Next {
    After(Duration),
    Never,
    /// Nothing: what was received is all there is.
    Whole(Completion),
}

fn log_end(report: &StreamReport) {
    log::debug!(
        "stream ended: {:?}, {} tokens, {} bytes, {} events, {:.3?}",
        report.ending,
        report.tokens,
        report.bytes,
        report.events,
        report.elapsed
    );
}
