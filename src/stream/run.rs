//! A stream's life on its reader thread: attempts, then the end of the last, told to everybody.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::tally::Tally;
use super::{OnDrop, Shared, StreamGuard};
use crate::chunk::Completion;
use crate::error::Error;
use crate::http::HttpResponse;
use crate::pool::Seat;
use crate::queue::TokenSender;
use crate::report::{Ending, StreamReport};
use crate::retry;
use crate::secrets::Secrets;
use crate::sync::channel::{RecvTimeoutError, Sender};
use crate::token::StreamToken;

/// What an exchange came to. The response is there if its body was not read to the end.
pub(super) type Attempt = Result<(Completion, Option<HttpResponse>), Broken>;

/// Why a stream stopped short of complete.
pub(super) enum Broken {
    Error(Error),
    /// The guard, or the consumer, wants no more.
    Left(Ending),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        if error.is_cancelled() { Self::Left(Ending::Cancelled) } else { Self::Error(error) }
    }
}

impl Shared {
    /// Has a thread of the pool make the attempts. `failed` sees the error that they ended with before the consumer does.
    pub(super) fn start(
        self: Arc<Self>,
        secrets: Secrets,
        attempt: impl FnMut(&mut Tally, &mut Option<TokenSender>) -> Attempt + Send + 'static,
        failed: impl FnOnce(Error) -> Error + Send + 'static,
    ) -> Result<StreamGuard, Error> {
        let shared = self.clone();
        let ticket = self.client.pool.run(move |seat| shared.run(seat, secrets, attempt, failed))?;
        let _ = self.ticket.set(ticket);
        Ok(StreamGuard { shared: self, on_drop: OnDrop::default() })
    }

    /// A stream's life on its thread: attempts, then the end of the last, told to everybody.
    fn run(
        &self,
        seat: &Seat<'_>,
        secrets: Secrets,
        attempt: impl FnMut(&mut Tally, &mut Option<TokenSender>) -> Attempt,
        failed: impl FnOnce(Error) -> Error,
    ) {
        let mut tally = Tally::new(self.started, secrets);
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
        let sender = sender.or_else(|| self.take_sender().map(|sender| token_sender(self, sender)));
        if let Some(sender) = &sender {
            tally.report.waited_for_consumer = sender.waited();
        }
        let (ending, last, rest) = match result {
            _ if !settled => (Ending::Cancelled, None, None),
            Ok((Completion { usage, .. }, rest)) => {
                let finish = tally.report.finish.clone();
                (Ending::Complete, Some(StreamToken::Done { usage, finish }), rest)
            }
            Err(Broken::Left(ending)) => (ending, None, None),
            Err(Broken::Error(error)) => {
                let error = tally.place(error);
                // Saving logs, and a log sink is the program's own: if it panics, the end is told all the same.
                let saved = catch_unwind(AssertUnwindSafe(|| failed(error.clone())));
                let error = saved.unwrap_or(error);
                tally.report.error = Some(error.clone());
                (Ending::Failed, Some(StreamToken::Error(error)), None)
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

    /// Makes an attempt, and another if it fails before its first token and the policy has it so.
    fn attempts(
        &self,
        tally: &mut Tally,
        sender: &mut Option<TokenSender>,
        mut attempt: impl FnMut(&mut Tally, &mut Option<TokenSender>) -> Attempt,
    ) -> Attempt {
        let Self { client, slot, started, .. } = self;
        loop {
            let result = attempt(tally, sender);
            if tally.report.first_token.is_some() {
                client.retry_budget.refund();
            }
            let error = match result {
                Err(Broken::Error(error)) if tally.report.first_token.is_none() => error,
                result => return result,
            };
            let advice = std::mem::take(&mut tally.advice);
            let wait = client.retry.wait(&error, advice, tally.report.retries, retry::random());
            // A wait beyond the deadline would only make the answer later, and worse.
            let in_time = |wait: &Duration| {
                client.timeouts.deadline.is_none_or(|limit| started.elapsed().saturating_add(*wait) < limit)
            };
            let Some(wait) = wait.filter(in_time).filter(|_| client.retry_budget.take()) else {
                return Err(error.into());
            };
            // Not what the server said: that may be the prompt, or the key.
            let status = error.status().map(|status| format!(", {status}")).unwrap_or_default();
            log::debug!("sending again in {wait:.3?}, after: {}{status}", error.kind().as_str());
            self.give_back(sender.take());
            if slot.woken().recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return Err(Broken::Left(Ending::Cancelled));
            }
            tally.next_attempt();
        }
    }
}

pub(super) fn token_sender(shared: &Shared, sender: Sender<StreamToken>) -> TokenSender {
    let limits = &shared.client.limits;
    TokenSender::new(sender, limits.channel_tokens_max, limits.channel_bytes_max, shared.lifted.clone())
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
