//! Builds the report of a stream while the stream runs, and keeps the times for its timers.

use std::time::{Duration, Instant};

use super::report::{Histogram, Outcome, StreamReport};
use super::resume_state::ResumeState;
use crate::client::http::response::HttpResponse;
use crate::client::http::slot::CancelSlot;
use crate::client::policy::resume::Resume;
use crate::client::policy::retry::Advice;
use crate::error::secrets::Secrets;
use crate::error::{Error, Progress};
use crate::protocol::chunk::answer::CompletionResponse;
use crate::protocol::chunk::body::BodyDecoder;
use crate::protocol::chunk::decoder::Completion;
use crate::protocol::server::ServerKind;
use crate::types::ids::{FinishReason, IdsExact, Usage};

/// The report of a running stream, and the times for its timers.
pub(super) struct Tally {
    started: Instant,
    pub(super) attempt_began: Instant,
    /// The advice on retries in the last answer.
    pub(super) advice: Advice,
    pub(super) report: StreamReport,
    pub(super) resume_state: ResumeState,
    /// The servers at which the stream failed, the latest last.
    pub(super) failed_at: Vec<usize>,
    /// The number of requests that resume the stream.
    pub(super) resumes: u32,
    /// The number of resuming requests since the last new token.
    pub(super) resumes_in_vain: u32,
    broken: Option<Instant>,
    /// The numbers of body bytes, comments and skipped lines in all earlier attempts.
    before: [u64; 3],
    first_usage: Option<Usage>,
    /// True if an answer passed through a LiteLLM proxy.
    pub(super) is_litellm: bool,
    histogram: Histogram,
    last_token: Option<Instant>,
    /// True if a part of this attempt's answer has arrived, even if the consumer already had it.
    ///
    /// A piece of a tool call is enough, although a tool call is only delivered when it is
    /// complete.
    pub(super) begun: bool,
    /// The number of tokens that arrived in the same read as the token before them.
    ///
    /// In a fast stream, most tokens arrive like this. These tokens are not in the histogram yet.
    together: u32,
    /// The time at which the last event arrived, plus the time spent waiting for the consumer.
    pub(super) content_since: Instant,
    /// The time at which the finish reason arrived, plus the time spent waiting for the consumer.
    pub(super) finished: Option<Instant>,
    /// The secrets that the report must not contain.
    pub(super) secrets: Secrets,
}

impl Tally {
    /// Creates the tally of a request that began at `began`, for a stream requested at `started`.
    pub(super) fn new(
        (started, began): (Instant, Instant),
        secrets: Secrets,
        resume_state: ResumeState,
    ) -> Self {
        Self {
            secrets,
            started,
            resume_state,
            failed_at: Vec::new(),
            resumes: 0,
            resumes_in_vain: 0,
            broken: None,
            before: [0; 3],
            first_usage: None,
            is_litellm: false,
            attempt_began: began,
            advice: Advice::default(),
            report: StreamReport::new(Outcome::Failed),
            histogram: Histogram::default(),
            last_token: None,
            begun: false,
            together: 0,
            content_since: began,
            finished: None,
        }
    }

    /// Begins another attempt. Removes the failed attempt's data from the report.
    pub(super) fn next_attempt(&mut self) {
        let StreamReport { retries, route, failovers, .. } = self.report;
        self.report =
            StreamReport { retries: retries + 1, route, failovers, ..StreamReport::new(Outcome::Failed) };
        self.begin();
    }

    /// Records the server that receives the next attempt.
    pub(super) fn goes_to(&mut self, route: usize) {
        let is_other = self.requests_before() > 0 && route != self.report.route;
        self.report.failovers += u32::from(is_other);
        self.report.route = route;
    }

    /// Records that the attempt failed at its server.
    pub(super) fn failed_here(&mut self) {
        let route = self.report.route;
        self.failed_at.retain(|failed| *failed != route);
        self.failed_at.push(route);
    }

    fn begin(&mut self) {
        self.attempt_began = Instant::now();
        self.content_since = self.attempt_began;
        (self.begun, self.finished) = (false, None);
    }

    /// Begins an attempt that resumes the stream after `error`. The report keeps its contents.
    pub(super) fn next_resume(&mut self, error: &Error) {
        if self.resumes == 0 {
            self.first_usage = self.report.usage;
        }
        let start = self.resume_state.start_resume(self.report.server.as_ref().and_then(ServerKind::family));
        self.before = [self.report.bytes, self.report.comments, self.report.lines_skipped];
        self.resumes += 1;
        match self.report.resumes.last_mut().filter(|_| self.resumes_in_vain > 0) {
            // No new token has arrived since the last resume, so this is the same break. The last
            // attempt may have shown that the ids do not arrive again.
            Some(resume) => {
                resume.requests += 1;
                (resume.ids_again, resume.text_exact) = (start.ids_again as u64, start.text_exact);
            }
            None => self.report.resumes.push(Resume {
                at_id: self.resume_state.ids() as u64,
                after: error.kind(),
                requests: 1,
                took: None,
                ids_again: start.ids_again as u64,
                text_exact: start.text_exact,
            }),
        }
        self.resumes_in_vain += 1;
        self.begin();
    }

    /// Records that the stream broke. [`Resume::took`] is measured from this time.
    pub(super) fn broke(&mut self) {
        self.broken.get_or_insert_with(Instant::now);
    }

    /// Returns the number of earlier requests, which makes each request id unique.
    pub(super) fn requests_before(&self) -> u32 {
        self.report.retries.saturating_add(self.resumes)
    }

    /// Records that the request was sent, or could not be sent.
    pub(super) fn sent(&mut self, slot: &CancelSlot) {
        self.report.connection_reused = slot.was_reused();
        self.report.stale_retries = slot.stale_retries();
    }

    pub(super) fn head(&mut self, response: &HttpResponse) {
        self.report.head.get_or_insert(self.started.elapsed());
        self.is_litellm |= response.headers_with(&["x-litellm-"]).next().is_some();
        self.report.request_id = response.header("x-request-id").map(|id| self.secrets.word(id));
    }

    pub(super) fn event(&mut self, now: Instant) {
        self.report.events += 1;
        self.content_since = now;
    }

    /// Excludes the time spent waiting for the consumer from the timers.
    pub(super) fn consumer_waited(&mut self, waited: Duration) {
        self.content_since += waited;
        self.finished = self.finished.map(|finished| finished + waited);
    }

    /// Records the delivery of `count` tokens (at least one) that arrived at `now`.
    pub(super) fn tokens(&mut self, now: Instant, count: usize) {
        self.report.tokens += count as u64;
        let mut together = u32::try_from(count).unwrap_or(u32::MAX);
        match self.last_token {
            Some(last) if last == now => {}
            Some(last) => {
                self.histogram.add(now - last, 1);
                together -= 1;
            }
            None => {
                self.report.first_token = Some(now - self.started);
                together -= 1;
            }
        }
        self.together = self.together.saturating_add(together);
        self.last_token = Some(now);
        self.resumes_in_vain = 0;
        self.went_on(now);
    }

    fn went_on(&mut self, now: Instant) {
        let broken = self.broken.take();
        if let (Some(resume), Some(broken)) = (self.report.resumes.last_mut(), broken) {
            resume.took = Some(now.saturating_duration_since(broken));
        }
    }

    pub(super) fn bytes(&mut self, bytes: u64) {
        self.report.bytes = self.before[0] + bytes;
    }

    pub(super) fn read(&mut self, body: &BodyDecoder) {
        let chunks = body.chunks();
        self.report.comments = self.before[1] + body.comments();
        self.report.lines_skipped = self.before[2] + chunks.skipped();
        self.report.server = chunks.server().or(self.report.server.take());
        // The end and the counts of a different answer are not used.
        if self.resume_state.is_missed() {
            return;
        }
        if self.begun || chunks.usage().is_some() || self.resumes == 0 {
            self.report.ids_exact = self.resume_state.whole_exact(chunks.ids_exact());
            self.report.usage =
                chunks.usage().map(|usage| self.resume_state.whole_usage(usage, self.first_usage));
        }
        self.report.finish =
            chunks.finish_reason(0).map(|word| FinishReason::from_wire(&self.secrets.word(word.as_str())));
        if self.report.request_id.is_none() {
            self.report.request_id = chunks.request_id().map(|id| self.secrets.word(id));
        }
    }

    /// Completes a stream whose ids are the whole answer, although its end did not arrive.
    pub(super) fn complete(&mut self, finish: FinishReason) -> Completion {
        let usage = self.report.usage;
        let counted = usage.map(|usage| u64::from(usage.completion_tokens));
        let is_exact = counted == Some(self.resume_state.ids() as u64);
        self.report.ids_exact = if is_exact { IdsExact::Yes } else { IdsExact::Unknown };
        self.report.finish = Some(finish.clone());
        Completion { usage, finish: Some(finish), ids_exact: self.report.ids_exact }
    }

    /// Records an answer that arrived as a whole.
    pub(super) fn answered(&mut self, answer: &CompletionResponse) {
        self.tokens(Instant::now(), answer.ids.len().max(1));
        self.report.server.clone_from(&answer.server);
        self.report.finish.clone_from(&answer.finish);
        if self.report.request_id.is_none() {
            self.report.request_id.clone_from(&answer.request_id);
        }
    }

    pub(super) fn completed(&mut self, completion: &Completion) {
        self.went_on(Instant::now());
        self.report.ids_exact = self.resume_state.whole_exact(completion.ids_exact);
        self.report.usage =
            completion.usage.map(|usage| self.resume_state.whole_usage(usage, self.first_usage));
    }

    /// Adds progress and request id to `error`. Removes credentials that the server has echoed.
    pub(super) fn place(&self, error: Error) -> Error {
        let StreamReport { bytes, events, tokens, .. } = self.report;
        let at = Progress { bytes, events, tokens, elapsed: self.started.elapsed() };
        let error = error.redacted(&self.secrets);
        let request_id = self.report.request_id.clone().or_else(|| error.request_id().map(str::to_owned));
        error.with_progress(at).with_request_id(request_id.as_deref())
    }

    pub(super) fn into_report(mut self, ending: Outcome) -> StreamReport {
        let mut report = self.so_far();
        report.ending = ending;
        report
    }

    /// Returns the report as if the stream ended now.
    pub(super) fn so_far(&mut self) -> StreamReport {
        self.histogram.add(Duration::ZERO, std::mem::take(&mut self.together));
        let mut report = self.report.clone();
        report.elapsed = self.started.elapsed();
        report.last_token = self.last_token.map(|last| last - self.started);
        report.inter_token = self.histogram.percentiles();
        report
    }
}
