//! A call: a request with one whole answer. It uses the exchange, threads and retries of a stream.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::exchange::{Exchange, ReadUntil, RequestPlan, Requested};
use super::guard::{Canceller, StreamGuard};
use super::report::{Outcome, StreamReport};
use super::resume_state::ResumeState;
use super::run::Unfinished;
use super::shared::{Shared, StreamContext};
use super::start::check_saved;
use super::tally::Tally;
use crate::client::backend::Backend;
use crate::client::backend::head::status_error;
use crate::client::channel::sender::Sink;
use crate::client::http::response::HttpResponse;
use crate::client::policy::resume::ResumePolicy;
use crate::client::saved::request::SavedRequest;
use crate::client::threads::sync::Mutex;
use crate::client::threads::sync::channel::{Receiver, unbounded};
use crate::error::Error;
use crate::error::macros::debug_fields;
use crate::protocol::chunk::answer::CompletionResponse;
use crate::protocol::chunk::decoder::{ChunkDecoder, Completion};
use crate::protocol::request::completion::CompletionRequest;
use crate::types::ids::FinishReason;
use crate::types::not_resumable::NotResumable;
use crate::types::token::StreamToken;

/// A request with one whole answer, made by [`ApiClient::call`](crate::ApiClient::call).
///
/// Dropping the call cancels the request at once and does not wait.
///
/// ```
/// # #[cfg(feature = "testing")] {
/// use tokenwire::{ApiClient, CompletionRequest};
/// # use tokenwire::testing::{Script, MockServer};
/// # let body = r#"{"choices":[{"index":0,"text":"Hi","finish_reason":"stop"}]}"#;
/// # let server = MockServer::scripted([Script::status(200).json(body)])?;
/// # let url = server.url();
/// let client = ApiClient::builder(url).build()?;
/// let call = client.call(CompletionRequest::text("Say hi."))?;
/// let answer = call.join()?;
/// let report = call.join_report();
/// println!("{:?} after {:?}, {} retries", answer.text, report.elapsed, report.retries);
/// # }
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[must_use = "dropping the call cancels it"]
pub struct PendingCompletion {
    guard: StreamGuard,
    answer: Arc<Mutex<Option<CompletionResponse>>>,
    /// Receives only the end. Without a receiver, the call would end as `ConsumerGone`.
    _end: Receiver<StreamToken>,
}

impl PendingCompletion {
    /// Blocks until the call has ended. Returns its answer or its error.
    ///
    /// The timers of the call limit the wait. [`join_report`](Self::join_report) returns the
    /// report, whether the call failed or not. Joining again returns the same result.
    ///
    /// # Errors
    ///
    /// This method returns the kinds of errors that a stream has before its first token. For
    /// example:
    ///
    /// - `Server` for an error that the server reports;
    /// - `Connect` if there is no connection;
    /// - `Timeout` with [`FirstToken`](crate::Timer::FirstToken) if the answer does not arrive in
    ///   time;
    /// - `Incomplete` for a body that was cut off;
    /// - `Protocol` for a good status with a body that is not an answer;
    /// - [`Limit::BodyBytes`](crate::Limit::BodyBytes) for a body that is too large;
    /// - `Cancelled` after a cancel.
    pub fn join(&self) -> Result<CompletionResponse, Error> {
        let report = self.join_report();
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (report.ending, answer, report.error) {
            (Outcome::Complete, Some(answer), _) => Ok(answer),
            (_, _, Some(error)) => Err(error),
            _ => Err(Error::cancelled()),
        }
    }

    /// Blocks until the call has ended. Returns its report, like [`StreamGuard::join`].
    #[must_use]
    pub fn join_report(&self) -> StreamReport {
        self.guard.wait()
    }

    /// Ends the call at once and does not wait, like [`StreamGuard::cancel`].
    pub fn cancel(&self) {
        self.guard.cancel();
    }

    /// Returns a handle that can cancel the call while this thread is in [`join`](Self::join).
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.guard.canceller()
    }
}

debug_fields! { PendingCompletion { guard } }

pub(crate) fn start(backend: &Arc<Backend>, request: CompletionRequest) -> Result<PendingCompletion, Error> {
    request.validate()?;
    let (request, headers) = backend.address(request);
    let server = backend.server();
    let body = request.to_call_json(backend.model.as_deref(), backend.endpoint, server.as_ref())?;
    let requested = Requested::of(&request, server, true);
    launch(backend, RequestPlan { endpoint: request.endpoint(backend.endpoint), headers, body, requested })
}

pub(crate) fn resend(backend: &Arc<Backend>, saved: &SavedRequest) -> Result<PendingCompletion, Error> {
    check_saved(saved, false)?;
    launch(backend, RequestPlan::of_saved(saved))
}

fn launch(backend: &Arc<Backend>, plan: RequestPlan) -> Result<PendingCompletion, Error> {
    let (sender, end) = unbounded();
    // Nothing arrives before the whole answer, so a call is never resumed.
    let resume_state = ResumeState::new(Err(NotResumable::Endpoint), plan.endpoint, ResumePolicy::never());
    let exchange = Exchange::new(Shared::new(backend, Sink::Own(sender), StreamContext::default()), plan)?;
    let answer = Arc::new(Mutex::new(None));
    let place = answer.clone();
    let guard = exchange.start(resume_state, move |exchange, tally, _sender| {
        exchange.exchange(tally, |response, tally| {
            let answer = exchange.read_whole(response, tally)?;
            let CompletionResponse { usage, finish, ids_exact, .. } = &answer;
            let completion = Completion { usage: *usage, finish: finish.clone(), ids_exact: *ids_exact };
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
            Ok((completion, ReadUntil::End))
        })
    })?;
    Ok(PendingCompletion { guard, answer, _end: end })
}

impl Exchange {
    /// Reads the whole answer, after its head has arrived.
    fn read_whole(
        &self,
        response: &mut HttpResponse,
        tally: &mut Tally,
    ) -> Result<CompletionResponse, Unfinished> {
        let backend = &self.shared.backend;
        if response.status() / 100 != 2 {
            return Err(status_error(response, &tally.secrets).into());
        }
        let body = response.whole_within(self.wait(tally, Instant::now()))?;
        let mut decoder =
            ChunkDecoder::new(self.endpoint).max_arguments_bytes(backend.limits.max_arguments_bytes);
        if self.requested.ids {
            decoder = decoder.ids_asked(self.requested.server.clone());
        }
        let mut answer = CompletionResponse::decode(decoder, response.header("content-type"), &body)?;
        answer.request_id = answer.request_id.map(|id| tally.secrets.word(&id));
        answer.finish = answer.finish.map(|word| FinishReason::from_wire(&tally.secrets.word(word.as_str())));
        if let Some(server) = answer.server.clone() {
            backend.learn(server);
        }
        backend.retry_budget.refund();
        backend.routes.worked(tally.report.route);
        tally.answered(&answer);
        answer.request_id.clone_from(&tally.report.request_id);
        Ok(answer)
    }
}
