//! The reader thread's side of a stream: makes attempts and reports how the last one ended.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::report::{Outcome, StreamReport};
use super::resume_state::ResumeState;
use super::shared::Shared;
use super::tally::Tally;
use crate::client::channel::sender::TokenSender;
use crate::client::http::response::HttpResponse;
use crate::client::policy::resume::MAX_RESUMES;
use crate::client::policy::retry;
use crate::client::threads::pool::ThreadSlot;
use crate::client::threads::sync::channel::RecvTimeoutError;
use crate::error::Error;
use crate::error::secrets::Secrets;
use crate::protocol::chunk::decoder::Completion;
use crate::protocol::server::ServerKind;
use crate::types::not_resumable::NotResumable;
use crate::types::token::StreamToken;

/// The result of an exchange, with the response if its body was not read to the end.
pub(super) type Attempt = Result<(Completion, Option<HttpResponse>), Unfinished>;

/// The reason why an attempt did not complete.
pub(super) enum Unfinished {
    Failed(Error),
    /// The guard or the consumer ended the attempt.
    Stopped(Outcome),
}

impl From<Error> for Unfinished {
    fn from(error: Error) -> Self {
        if error.is_cancelled() { Self::Stopped(Outcome::Cancelled) } else { Self::Failed(error) }
    }
}

impl Shared {
    /// Makes the attempts on a thread of the pool.
    ///
    /// `failed` receives the last error before the consumer receives it. If this function returns
    /// `Err`, no attempt has begun, and `self` still has the sender.
    pub(super) fn start(
        self: Arc<Self>,
        secrets: Secrets,
        resume_state: ResumeState,
        attempt: impl FnMut(&mut Tally, &mut Option<TokenSender>) -> Attempt + Send + 'static,
        failed: impl FnOnce(usize, Error) -> Error + Send + 'static,
    ) -> Result<(), Error> {
        let shared = self.clone();
        let job = move |thread: &ThreadSlot<'_>| shared.run(thread, secrets, resume_state, attempt, failed);
        let _ = self.entry.set(self.backend.pool.run(job)?);
        Ok(())
    }

    /// Makes the attempts, then reports how the last one ended.
    ///
    /// The end is written to the log first, then to the channel, then to the report.
    fn run(
        &self,
        thread: &ThreadSlot<'_>,
        secrets: Secrets,
        resume_state: ResumeState,
        attempt: impl FnMut(&mut Tally, &mut Option<TokenSender>) -> Attempt,
        failed: impl FnOnce(usize, Error) -> Error,
    ) {
        let mut tally = Tally::new((self.started, self.began), secrets, resume_state);
        let mut sender = None;
        let result = match self.backend.timeouts.before_first_token() {
            Some((timer, limit)) if thread.is_late() => Err(Error::timeout(timer, limit).into()),
            _ => self.attempts_caught(&mut tally, &mut sender, attempt),
        };
        let settled = self.settle();
        thread.ending();
        // The stream failed before its head arrived, or it was cancelled and the sender is gone.
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
            Err(Unfinished::Stopped(ending)) => (ending, None, None),
            Err(Unfinished::Failed(error)) => {
                let error = final_error(&mut tally, error, sender.as_mut(), failed);
                (Outcome::Failed, Some(StreamToken::Error(error)), None)
            }
        };
        let report = tally.into_report(ending);
        // The program that uses tokenwire provides the log sink. If the sink panics, the end is
        // still reported.
        let _ = catch_unwind(AssertUnwindSafe(|| log_end(&report)));
        match (sender, last) {
            (Some(sender), Some(last)) => sender.send_last(last),
            (sender, _) => drop(sender),
        }
        self.publish(report);
        // The consumer has already received `Done` and does not wait while the rest of the body is
        // read.
        if let Some(response) = rest {
            response.drain(self.backend.timeouts.drain);
        }
    }

    /// Makes the attempts. A panic in them becomes an error of the stream.
    fn attempts_caught(
        &self,
        tally: &mut Tally,
        sender: &mut Option<TokenSender>,
        attempt: impl FnMut(&mut Tally, &mut Option<TokenSender>) -> Attempt,
    ) -> Attempt {
        catch_unwind(AssertUnwindSafe(|| self.attempts(tally, sender, attempt)))
            .unwrap_or_else(|_| Err(Error::protocol("the reader thread panicked: a bug in tokenwire").into()))
    }

    /// Makes attempts as long as the policies allow.
    ///
    /// Before the first token, the request is retried. After the first token, the stream is
    /// resumed.
    fn attempts(
        &self,
        tally: &mut Tally,
        sender: &mut Option<TokenSender>,
        mut attempt: impl FnMut(&mut Tally, &mut Option<TokenSender>) -> Attempt,
    ) -> Attempt {
        loop {
            let error = match attempt(tally, sender) {
                Err(Unfinished::Failed(error)) => error,
                result => return result,
            };
            tally.failed_here();
            self.backend.routes.failed(tally.report.route, &error, Instant::now());
            let began = tally.report.first_token.is_some();
            let next = if began { self.resume(tally, &error) } else { self.retry(tally, &error) };
            let wait = match next {
                Next::After(wait) => wait,
                Next::Never => return Err(error.into()),
                Next::Whole(completion) => return Ok((completion, None)),
            };
            let what = if began { "resuming" } else { "retrying" };
            // The server's message is left out, because it may contain the prompt or the key.
            let status = error.status().map(|status| format!(", {status}")).unwrap_or_default();
            let at = tally.resume_state.ids();
            log::debug!("{what} in {wait:.3?} at id {at}, after: {}{status}", error.kind().as_str());
            self.give_back(sender.take(), tally.so_far());
            if self.slot.woken().recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return Err(Unfinished::Stopped(Outcome::Cancelled));
            }
            if began { tally.next_resume(&error) } else { tally.next_attempt() }
        }
    }

    fn retry(&self, tally: &mut Tally, error: &Error) -> Next {
        let backend = &self.backend;
        let advice = std::mem::take(&mut tally.advice);
        let wait = backend.retry.wait(error, advice, tally.report.retries, retry::random());
        let wait = wait.map(|wait| self.unless_other(tally, wait));
        match wait.filter(|wait| self.is_in_time(*wait)).filter(|_| backend.retry_budget.take()) {
            Some(wait) => Next::After(wait),
            None => Next::Never,
        }
    }

    fn resume(&self, tally: &mut Tally, error: &Error) -> Next {
        let backend = &self.backend;
        let advice = std::mem::take(&mut tally.advice);
        // An attempt to resume that fails before its first token is treated like any other request.
        let wanted = if tally.begun { error.breaks_off() } else { backend.retry.wants(error, advice) };
        // After a finish reason, the answer has no more tokens to request.
        let has_ended = tally.report.finish.as_ref().is_some_and(|finish| finish.as_str() != "error");
        if !wanted || has_ended {
            return Next::Never;
        }
        tally.broke();
        let server = tally.report.server.as_ref().and_then(ServerKind::family);
        let refused = match tally.resume_state.check(tally.report.ids_exact, server) {
            Err(why) => why,
            Ok(()) if tally.is_litellm => Some(NotResumable::LiteLlm),
            Ok(()) => match tally.resume_state.complete(server) {
                Some(finish) => return Next::Whole(tally.complete(finish)),
                None if tally.resumes >= tally.resume_state.policy().max_resumes.min(MAX_RESUMES) => {
                    Some(NotResumable::UsedUp)
                }
                None => {
                    let advice = if tally.begun { retry::Advice::default() } else { advice };
                    let wait = backend.retry.pause(advice, tally.resumes_in_vain, retry::random());
                    let wait = self.unless_other(tally, wait);
                    match self.is_in_time(wait) {
                        true if backend.retry_budget.take() => return Next::After(wait),
                        true => Some(NotResumable::Budget),
                        false => Some(NotResumable::Deadline),
                    }
                }
            },
        };
        if let Some(why) = refused {
            log::debug!("not resumed at id {}: {why}", tally.resume_state.ids());
        }
        tally.report.not_resumed = refused;
        Next::Never
    }

    /// Returns zero if the stream can use a server at which it has not failed.
    ///
    /// Otherwise, returns `wait`.
    fn unless_other(&self, tally: &Tally, wait: Duration) -> Duration {
        if self.backend.routes.has_other(&tally.failed_at) { Duration::ZERO } else { wait }
    }

    /// Returns true if the wait ends before the deadline.
    fn is_in_time(&self, wait: Duration) -> bool {
        let limit = self.backend.timeouts.deadline;
        limit.is_none_or(|limit| self.started.elapsed().saturating_add(wait) < limit)
    }
}

/// Returns the error that ends the stream, with its progress and the path of a saved request.
fn final_error(
    tally: &mut Tally,
    error: Error,
    sender: Option<&mut TokenSender>,
    failed: impl FnOnce(usize, Error) -> Error,
) -> Error {
    let error = tally.place(error);
    // The stream has not failed while its other request is running.
    let has_failed = sender.is_none_or(|sender| sender.claim(true));
    // Saving writes to the log, and a log sink may panic. After a panic, the error stays as it is.
    let save = || if has_failed { failed(tally.report.route, error.clone()) } else { error.clone() };
    let error = catch_unwind(AssertUnwindSafe(save)).unwrap_or(error);
    tally.report.error = Some(error.clone());
    error
}

/// The next step after a failed attempt.
enum Next {
    After(Duration),
    Never,
    /// Make no further attempt, because the ids received are the whole answer.
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
