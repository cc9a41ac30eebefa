//! Two requests for one stream. The second request is sent if the first request produces no token
//! in time. The first of the two to produce a token wins, and the other one is cancelled.
//!
//! Each request has its own [`Shared`], with its own thread, cancel slot, retries and resumes. A
//! request claims the consumer's channel when it has an item for the consumer. A failed request
//! cannot claim the channel while the other request is running.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::exchange::{Exchange, RequestPlan};
use super::guard::{StreamControl, StreamGuard};
use super::report::{Outcome, StreamReport};
use super::resume_state::ResumeState;
use super::shared::{Shared, StreamContext};
use crate::client::backend::Backend;
use crate::client::channel::sender::{IsError, Sink};
use crate::client::threads::alarm::Alarm;
use crate::client::threads::sync::{Condvar, Mutex, MutexGuard};
use crate::error::Error;
use crate::protocol::request::completion::CompletionRequest;
use crate::types::token::StreamToken;

pub(super) struct Race {
    backend: Arc<Backend>,
    context: StreamContext,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The consumer's channel, until a request claims it.
    sink: Option<Sink>,
    requests: Vec<Arc<Shared>>,
    /// The number of requests that have neither claimed the channel nor ended.
    running: usize,
    /// The request whose report becomes the report of the stream.
    decided: Option<usize>,
    /// The parts of the second request, until it is sent or no longer needed.
    second: Option<Second>,
    /// True if the guard has cancelled the stream.
    cancelled: bool,
}

impl State {
    /// Returns the request whose report the stream uses.
    ///
    /// The flag is true if there was another request.
    fn winner(&self) -> Option<(Arc<Shared>, bool)> {
        Some((self.requests.get(self.decided?)?.clone(), self.requests.len() > 1))
    }
}

struct Second {
    first: Arc<Exchange>,
    request: CompletionRequest,
    /// The alarm is `None` if no thread could be started for it.
    ///
    /// The second request is then not sent.
    alarm: Option<Alarm>,
}

impl Race {
    fn new(backend: &Arc<Backend>, sink: Sink) -> Arc<Self> {
        let sink = Some(sink);
        let state =
            State { sink, requests: Vec::new(), running: 0, decided: None, second: None, cancelled: false };
        Arc::new(Self {
            backend: backend.clone(),
            context: StreamContext::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    pub(super) fn start(
        backend: &Arc<Backend>,
        request: CompletionRequest,
        sink: Sink,
        after: Duration,
        plan: RequestPlan,
    ) -> Result<StreamGuard, Error> {
        let race = Self::new(backend, sink);
        let first = race.request(race.lock());
        let exchange = Exchange::new(first.clone(), plan).map(Arc::new).and_then(|exchange| {
            exchange.clone().run(race.resume_state(&request), Exchange::attempt)?;
            Ok(exchange)
        });
        let exchange = exchange.inspect_err(|_| first.never_began())?;

        let mut state = race.lock();
        if state.decided.is_none() {
            state.sink.iter_mut().for_each(Sink::begins);
            state.second = Some(Second { first: exchange, request, alarm: None });
        }
        drop(state);
        race.set_alarm(after);
        Ok(StreamGuard::new(race))
    }

    fn set_alarm(self: &Arc<Self>, after: Duration) {
        let weak = Arc::downgrade(self);
        let ring = move || {
            if let Some(race) = weak.upgrade() {
                race.begin_second();
            }
        };
        let at = self.context.started.checked_add(after);
        let alarm = at.and_then(|at| self.backend.http.alarms().set(at, ring));
        // An alarm that is no longer needed is dropped after the lock is released.
        let unwanted = match &mut self.lock().second {
            Some(second) => std::mem::replace(&mut second.alarm, alarm),
            None => alarm,
        };
        drop(unwanted);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request to the race.
    fn request(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> Arc<Shared> {
        let runner = Runner { race: self.clone(), n: state.requests.len(), runs: true };
        let sink = Sink::Pending(Box::new(move |is_error| runner.claim(is_error)));
        let shared = Shared::new(&self.backend, sink, self.context.clone());
        state.requests.push(shared.clone());
        state.running += 1;
        shared
    }

    fn resume_state(&self, request: &CompletionRequest) -> ResumeState {
        ResumeState::new(Ok(request.clone()), request.endpoint(self.backend.endpoint), self.backend.resume)
    }

    fn begin_second(self: &Arc<Self>) {
        let Some(Second { first, request, alarm: _alarm }) = self.lock().second.take() else { return };
        let state = self.lock();
        // A second request is additional load for the servers, like a retry.
        if state.decided.is_some() || state.cancelled || !self.backend.retry_budget.take() {
            return;
        }
        let shared = self.request(state);
        log::debug!(
            "no token after {:.3?}: the request is sent a second time",
            self.context.started.elapsed()
        );
        let begun = first
            .again(shared.clone())
            .and_then(|exchange| Arc::new(exchange).run(self.resume_state(&request), Exchange::attempt));
        if let Err(error) = begun {
            // The second request counts as failed. If the first one has failed in the meantime, the
            // second one must end the stream.
            let ending = if shared.settle() { Outcome::Failed } else { Outcome::Cancelled };
            let report = StreamReport { error: Some(error.clone()), ..StreamReport::new(ending) };
            if let Some(sender) = shared.take_sender() {
                sender.send_last(StreamToken::Error(error));
            }
            shared.publish(report);
        }
    }

    /// Returns the channel if request `n` is the first to claim it.
    ///
    /// The request no longer counts as running, even if its claim fails.
    fn claim(&self, n: usize, is_error: IsError) -> Option<Sink> {
        let mut state = self.lock();
        if state.decided.is_some() || is_error && state.running > 1 {
            // The count changes under the same lock. If both requests fail at once, the later
            // request must not count the earlier request as running.
            state.running -= 1;
            return None;
        }
        state.decided = Some(n);
        let mut sink = state.sink.take();
        sink.iter_mut().for_each(Sink::begins);
        // The second request is dropped, and the other request is cancelled, after the lock is
        // released. The drop and the cancel both take other locks.
        let _second = state.second.take();
        let others: Vec<_> = state
            .requests
            .iter()
            .enumerate()
            .filter(|(m, _)| *m != n)
            .map(|(_, other)| other.clone())
            .collect();
        drop(state);
        self.changed.notify_all();
        others.iter().for_each(|other| other.cancel());
        sink
    }

    /// Records that request `n` has ended without claiming the channel.
    fn leave(&self, n: usize) {
        let mut state = self.lock();
        if state.decided.is_some() {
            return;
        }
        state.running -= 1;
        if state.running == 0 {
            // All requests were cancelled, or none began. Dropping the sink ends the channel.
            state.decided = Some(n);
            let _gone = (state.sink.take(), state.second.take());
            drop(state);
            self.changed.notify_all();
        }
    }
}

impl StreamControl for Race {
    fn cancel(&self) {
        let mut state = self.lock();
        state.cancelled = true;
        let _second = state.second.take();
        let requests = state.requests.clone();
        drop(state);
        requests.iter().for_each(|request| request.cancel());
    }

    fn join(&self) -> StreamReport {
        self.context.bound_lifted.store(true, Ordering::Release);
        let mut state = self.lock();
        let (shared, hedged) = loop {
            if let Some(found) = state.winner() {
                break found;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        StreamReport { hedged, ..shared.join() }
    }

    fn report(&self) -> Option<StreamReport> {
        let (shared, hedged) = self.lock().winner()?;
        shared.report().map(|report| StreamReport { hedged, ..report })
    }
}

/// Represents a request in the race. Dropping it before a claim removes the request from the race.
struct Runner {
    race: Arc<Race>,
    n: usize,
    runs: bool,
}

impl Runner {
    fn claim(mut self, is_error: IsError) -> Option<Sink> {
        self.runs = false;
        self.race.claim(self.n, is_error)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if self.runs {
            self.race.leave(self.n);
        }
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use crossbeam_channel::{TryRecvError, unbounded};

    use super::*;
    use crate::client::ApiClient;

    #[derive(Debug, Clone, Copy)]
    enum Does {
        HasToken,
        HasFailed,
        Leaves,
    }
    use Does::{HasFailed, HasToken, Leaves};

    type Steps = &'static [(usize, Does)];

    #[test]
    fn the_channel_goes_to_one_of_two_requests_or_ends_in_every_order_of_events() {
        // (what each request does, in order; the step that gets the channel)
        let cases: [(Steps, Option<usize>); 9] = [
            (&[(0, HasToken), (1, HasToken)], Some(0)),
            (&[(1, HasToken), (0, HasToken)], Some(0)),
            (&[(1, HasToken), (0, HasFailed)], Some(0)),
            (&[(0, HasFailed), (1, HasToken)], Some(1)),
            // Both requests fail at once: neither request has left the race when the other one
            // fails.
            (&[(0, HasFailed), (1, HasFailed)], Some(1)),
            (&[(1, HasFailed), (0, HasFailed)], Some(1)),
            (&[(0, Leaves), (1, HasFailed)], Some(1)),
            (&[(0, Leaves), (1, HasToken)], Some(1)),
            (&[(0, Leaves), (1, Leaves)], None),
        ];
        for (steps, expected) in cases {
            let client = ApiClient::builder("http://model.test").build().unwrap();
            let (sender, receiver) = unbounded();
            let race = Race::new(&client.0, Sink::Own(sender));
            let requests = [(); 2].map(|()| race.request(race.lock()));
            // These values are kept until the end, as if each request were still ending.
            let mut senders = requests.each_ref().map(|request| request.take_sender());
            let mut got = Vec::new();
            for (step, (n, does)) in steps.iter().enumerate() {
                let has = match does {
                    HasToken => senders[*n].as_mut().unwrap().claim(false),
                    HasFailed => senders[*n].as_mut().unwrap().claim(true),
                    Leaves => {
                        senders[*n] = None;
                        false
                    }
                };
                got.extend(has.then_some(step));
            }
            assert_eq!(got, expected.into_iter().collect::<Vec<_>>(), "{steps:?}");
            let open = if expected.is_some() { TryRecvError::Empty } else { TryRecvError::Disconnected };
            assert_eq!(receiver.try_recv().unwrap_err(), open, "{steps:?}");
            assert_eq!(race.lock().decided, Some(steps[expected.unwrap_or(1)].0), "{steps:?}");
        }
    }
}
