//! A call: a stream's exchange, its threads, its retries, whose answer comes whole.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::exchange::{Exchange, Till};
use super::received::Received;
use super::report::{Outcome, StreamReport};
use super::run::Broken;
use super::tally::Tally;
use super::{Asked, Canceller, Common, Shared, StreamGuard, check_saved};
use crate::client::Inner;
use crate::client::channel::sender::Sink;
use crate::client::http::response::HttpResponse;
use crate::client::policy::resume::ResumePolicy;
use crate::client::saved::SavedRequest;
use crate::client::threads::sync::Mutex;
use crate::client::threads::sync::channel::{Receiver, unbounded};
use crate::error::Error;
use crate::protocol::chunk::answer::CompletionResponse;
use crate::protocol::chunk::decoder::{ChunkDecoder, Completion};
use crate::protocol::request::completion::CompletionRequest;
use crate::protocol::server::endpoint::Endpoint;
use crate::types::ids::FinishReason;
use crate::types::not_resumable::NotResumable;
use crate::types::token::StreamToken;

/// A request whose answer comes whole: [`ApiClient::call`](crate::ApiClient::call).
///
/// Dropping it cancels it, now, without waiting for anything.
#[must_use = "dropping the call cancels it"]
pub struct PendingCompletion {
    guard: StreamGuard,
    answer: Arc<Mutex<Option<CompletionResponse>>>,
    /// Gets nothing but the end; a consumer that is gone would be an end of its own.
    _end: Receiver<StreamToken>,
}

impl PendingCompletion {
    /// Blocks until the call has ended: its answer, or why there is none, and the report, as of a stream. What bounds the wait are
    /// the call's own timers.
    ///
    /// # Errors
    ///
    /// What a stream can fail with before its first token, with the same kinds: `ServerKind`, `Timeout`
    /// ([`FirstToken`](crate::Timer::FirstToken): the answer was not there in time), `Connect` and so on; `Incomplete` for a body
    /// that was cut off; `Protocol` for a good status with a body that is no answer;
    /// [`Limit::BodyBytes`](crate::Limit::BodyBytes); `Cancelled`.
    pub fn join(self) -> (Result<CompletionResponse, Error>, StreamReport) {
        let Self { guard, answer, _end } = self;
        let report = guard.join();
        let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let result = match (report.ending, answer, &report.error) {
            (Outcome::Complete, Some(answer), _) => Ok(answer),
            (_, _, Some(error)) => Err(error.clone()),
            _ => Err(Error::cancelled()),
        };
        (result, report)
    }

    /// Ends the call now and does not wait, as [`StreamGuard::cancel`] does.
    pub fn cancel(&self) {
        self.guard.cancel();
    }

    /// A handle that can cancel the call from elsewhere while this thread is in [`join`](Self::join).
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.guard.canceller()
    }
}

impl fmt::Debug for PendingCompletion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// What a call's answer is asked for as.
const ACCEPT_CALL: &str = "application/json";

pub(crate) fn start(client: &Arc<Inner>, request: CompletionRequest) -> Result<PendingCompletion, Error> {
    request.validate()?;
    let (request, headers) = client.address(request);
    let server = client.server();
    let body = client.call_body(&request, server.as_ref())?;
    let asked = Asked::of(&request, server, true);
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    launch(client, request.endpoint(client.endpoint), headers, body, asked)
}

pub(crate) fn resend(client: &Arc<Inner>, saved: &SavedRequest) -> Result<PendingCompletion, Error> {
    check_saved(saved, false)?;
    launch(
        client,
        saved.endpoint(),
        saved.headers(),
        saved.body().to_vec(),
        Asked { call: true, ..Asked::default() },
    )
}

fn launch<'a>(
    client: &Arc<Inner>,
    endpoint: Endpoint,
    own_headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: Vec<u8>,
    asked: Asked,
) -> Result<PendingCompletion, Error> {
    let (sender, end) = unbounded();
    let path = (endpoint.call_path(), ACCEPT_CALL);
    let shared = Shared::new(client, Sink::Own(sender), Common::default());
    let exchange = Exchange::new(shared, endpoint, path, own_headers, body, asked)?;
    let answer = Arc::new(Mutex::new(None));
    let place = answer.clone();
    // Nothing of it comes before the whole.
    let received = Received::new(Err(NotResumable::Endpoint), endpoint, ResumePolicy::never());
    let guard = exchange.start(received, move |exchange, tally, _sender| {
        exchange.exchange(tally, |response, tally| {
            let answer = exchange.whole(response, tally)?;
            let CompletionResponse { usage, finish, ids_exact, .. } = &answer;
            let completion = Completion { usage: *usage, finish: finish.clone(), ids_exact: *ids_exact };
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
            Ok((completion, Till::End))
        })
    })?;
    Ok(PendingCompletion { guard, answer, _end: end })
}

impl Exchange {
    /// The answer from its head on, whole.
    fn whole(&self, response: &mut HttpResponse, tally: &mut Tally) -> Result<CompletionResponse, Broken> {
        let client = &self.shared.client;
        if response.status() / 100 != 2 {
            return Err(client.status_error(response, &tally.secrets).into());
        }
        let body = response.whole_within(self.wait(tally, Instant::now()))?;
        let mut decoder =
            ChunkDecoder::new(self.endpoint).max_arguments_bytes(client.limits.max_arguments_bytes);
        if self.asked.ids {
            decoder = decoder.ids_asked(self.asked.server.clone());
        }
        let mut answer = CompletionResponse::decode(decoder, response.header("content-type"), &body)?;
        answer.request_id = answer.request_id.map(|id| tally.secrets.word(&id));
        answer.finish = answer.finish.map(|word| FinishReason::from_wire(&tally.secrets.word(word.as_str())));
        if let Some(server) = answer.server.clone() {
            client.learn(server);
        }
        client.retry_budget.refund();
        client.routes.worked(tally.report.route);
        tally.answered(&answer);
        answer.request_id.clone_from(&tally.report.request_id);
        Ok(answer)
    }
}
