//! What is counted of a stream: the report as it grows, and the clocks.

use std::time::{Duration, Instant};

use crate::body::BodyDecoder;
use crate::chunk::Completion;
use crate::error::{Error, Progress};
use crate::http::HttpResponse;
use crate::http::slot::CancelSlot;
use crate::report::{Ending, Histogram, StreamReport};
use crate::retry::Advice;
use crate::secrets::Secrets;
use crate::token::FinishReason;

/// The report as it grows, and the clocks.
pub(super) struct Tally {
    started: Instant,
    pub(super) attempt_began: Instant,
    /// What the last answer said about sending again.
    pub(super) advice: Advice,
    pub(super) report: StreamReport,
    histogram: Histogram,
    last_token: Option<Instant>,
    /// Tokens that came in the same read as the one before them, as most of many do; not in the histogram yet.
    together: u32,
    /// When the last event came; moved on by the time in which the consumer was waited for.
    pub(super) content_since: Instant,
    /// When the finish reason came; moved on likewise.
    pub(super) finished: Option<Instant>,
    /// What the report must not show.
    pub(super) secrets: Secrets,
}

impl Tally {
    pub(super) fn new(started: Instant, secrets: Secrets) -> Self {
        Self {
            secrets,
            started,
            attempt_began: started,
            advice: Advice::default(),
            report: StreamReport::new(Ending::Failed),
            histogram: Histogram::new(),
            last_token: None,
            together: 0,
            content_since: started,
            finished: None,
        }
    }

    /// Another attempt begins: what the failed one has left in the report goes.
    pub(super) fn next_attempt(&mut self) {
        let retries = self.report.retries + 1;
        self.report = StreamReport::new(Ending::Failed);
        self.report.retries = retries;
        self.attempt_began = Instant::now();
        self.finished = None;
    }

    /// The request went out, or could not.
    pub(super) fn sent(&mut self, slot: &CancelSlot) {
        self.report.connection_reused = slot.was_reused();
        self.report.stale_retries = slot.stale_retries();
    }

    pub(super) fn head(&mut self, response: &HttpResponse) {
        self.report.head = Some(self.started.elapsed());
        self.report.request_id = response.header("x-request-id").map(|id| self.secrets.word(id));
    }

    pub(super) fn event(&mut self, now: Instant) {
        self.report.events += 1;
        self.content_since = now;
    }

    /// For so long the consumer was waited for, and not the server.
    pub(super) fn consumer_waited(&mut self, waited: Duration) {
        self.content_since += waited;
        self.finished = self.finished.map(|finished| finished + waited);
    }

    /// So many tokens, one at least, that came at `now` were handed to the consumer.
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
    }

    pub(super) fn read(&mut self, body: &BodyDecoder) {
        let chunks = body.chunks();
        self.report.comments = body.comments();
        self.report.lines_skipped = chunks.skipped();
        self.report.server = chunks.server();
        self.report.ids_exact = chunks.ids_exact();
        self.report.usage = chunks.usage();
        self.report.finish =
            chunks.finish_reason(0).map(|word| FinishReason::from_wire(&self.secrets.word(word.as_str())));
        if self.report.request_id.is_none() {
            self.report.request_id = chunks.request_id().map(|id| self.secrets.word(id));
        }
    }

    pub(super) fn completed(&mut self, completion: &Completion) {
        self.report.ids_exact = completion.ids_exact;
        self.report.usage = completion.usage;
    }

    /// `error` with the place where it happened, and without the credentials, should the server have echoed them.
    pub(super) fn place(&self, error: Error) -> Error {
        let StreamReport { bytes, events, tokens, .. } = self.report;
        let at = Progress { bytes, events, tokens, elapsed: self.started.elapsed() };
        let error = error.redacted(&self.secrets);
        let request_id = self.report.request_id.clone().or_else(|| error.request_id().map(str::to_owned));
        error.with_progress(at).with_request_id(request_id.as_deref())
    }

    pub(super) fn into_report(self, ending: Ending) -> StreamReport {
        let Self { started, mut report, mut histogram, last_token, together, .. } = self;
        histogram.add(Duration::ZERO, together);
        report.ending = ending;
        report.elapsed = started.elapsed();
        report.last_token = last_token.map(|last| last - started);
        report.inter_token = histogram.percentiles();
        report
    }
}
