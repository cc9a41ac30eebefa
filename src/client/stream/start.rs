//! Starts a stream: checks the request and builds its bytes, on the caller's thread.

use std::sync::Arc;

use super::exchange::{Exchange, RequestPlan, Requested};
use super::guard::StreamGuard;
use super::race::Race;
use super::resume_state::ResumeState;
use super::shared::{Shared, StreamContext};
use crate::client::backend::Backend;
use crate::client::channel::sender::Sink;
use crate::client::saved::request::SavedRequest;
use crate::client::threads::sync::channel::{Receiver, unbounded};
use crate::error::{Error, ErrorKind};
use crate::protocol::request::completion::CompletionRequest;
use crate::types::not_resumable::NotResumable;
use crate::types::token::StreamToken;

pub(crate) fn start(
    backend: &Arc<Backend>,
    request: CompletionRequest,
) -> Result<(Receiver<StreamToken>, StreamGuard), Error> {
    let (sender, receiver) = unbounded();
    Ok((receiver, start_into(backend, request, Sink::Own(sender))?))
}

pub(crate) fn start_into(
    backend: &Arc<Backend>,
    request: CompletionRequest,
    sink: Sink,
) -> Result<StreamGuard, Error> {
    request.validate()?;
    let (request, headers) = backend.address(request);
    let server = backend.server();
    let endpoint = request.endpoint(backend.endpoint);
    let plan = RequestPlan {
        endpoint,
        headers,
        body: backend.body(&request, server.as_ref())?,
        requested: Requested::of(&request, server, false),
    };
    if let Some(after) = backend.routes.policy().hedge_after {
        return Race::start(backend, request, sink, after, plan);
    }
    let resume_state = ResumeState::new(Ok(request), endpoint, backend.resume);
    let shared = Shared::new(backend, sink, StreamContext::default());
    Exchange::new(shared, plan)?.start(resume_state, Exchange::attempt)
}

pub(crate) fn resend(
    backend: &Arc<Backend>,
    saved: &SavedRequest,
) -> Result<(Receiver<StreamToken>, StreamGuard), Error> {
    check_saved(saved, true)?;
    let resume_state = ResumeState::new(Err(NotResumable::Resent), saved.endpoint(), backend.resume);
    let (sender, receiver) = unbounded();
    let shared = Shared::new(backend, Sink::Own(sender), StreamContext::default());
    let exchange = Exchange::new(shared, RequestPlan::of_saved(saved))?;
    Ok((receiver, exchange.start(resume_state, Exchange::attempt)?))
}

/// Returns an error unless this request can be sent again, as a stream or as a call.
pub(super) fn check_saved(saved: &SavedRequest, stream: bool) -> Result<(), Error> {
    let why = if saved.is_redacted() {
        "the saved request cannot be sent again: the API key was removed from it"
    } else if stream && saved.is_call() {
        "the saved request is a call, not a stream: send it again with resend_call"
    } else if !stream && !saved.is_call() {
        "the saved request is a stream, not a call: send it again with resend"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Unsupported, why))
}
