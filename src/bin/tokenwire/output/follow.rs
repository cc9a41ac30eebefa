//! Prints one stream as it arrives, from the request to the last line.

use std::collections::BTreeMap;
use std::io::{self, StdoutLock, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use tokenwire::{
    ApiClient, Branch, CompletionRequest, CompletionResponse, Error, Outcome, PendingCompletion,
    ResponseParser, SavedRequest, StreamGuard, StreamReport, StreamToken,
};

use crate::exit::{Exit, ExitResult, Failure};
use crate::interrupt::Interrupt;
use crate::output::json::{DoneJson, ErrorJson, item_line, json_line, micros, report_line, turns_line};
use crate::output::plot::Target;
use crate::output::status::Status;
use crate::output::terminal::harmless;
use crate::output::text::{
    item_text, note_dim, note_error, note_tree, stdout_has_colours, stdout_is_terminal, summary, with_causes,
};
use crate::output::trace::{Lane, Traces};

/// Additional outputs of a stream.
#[derive(Default)]
pub(crate) struct Aside<'a> {
    /// The file for the recording.
    pub(crate) record: Option<&'a Path>,
    /// The file for the picture.
    pub(crate) trace: Option<Target>,
    /// The parser of the model's turn. The tree of the turn is printed at the end.
    pub(crate) parser: Option<ResponseParser>,
}

/// Streams `request` to standard output.
pub(crate) fn stream(
    client: &ApiClient,
    request: CompletionRequest,
    interrupt: &Interrupt,
    json: bool,
    aside: Aside<'_>,
) -> ExitResult {
    follow(Instant::now(), || client.stream(request), interrupt, json, aside)
}

/// Streams a saved request to standard output.
pub(crate) fn resend(
    client: &ApiClient,
    saved: &SavedRequest,
    interrupt: &Interrupt,
    json: bool,
) -> ExitResult {
    follow(Instant::now(), || client.resend(saved), interrupt, json, Aside::default())
}

/// Waits for a whole answer and prints it like a stream with all text in one item.
pub(crate) fn whole(
    call: Result<PendingCompletion, Error>,
    interrupt: &Interrupt,
    json: bool,
    record: Option<&Path>,
) -> ExitResult {
    let call = match call {
        Ok(call) => call,
        Err(error) if error.kind() == tokenwire::ErrorKind::InvalidInput => return Err(error.into()),
        Err(error) => return refused(&error, json),
    };
    let canceller = call.canceller();
    interrupt.running(move || canceller.cancel());
    let (answer, report) = (call.join(), call.join_report());
    let interrupted = interrupt.ended();
    let saved = save_recording(record, &report);
    let mut print = Print::new(Instant::now(), json);
    for item in answer.into_iter().flat_map(items) {
        print.item(&item, report.elapsed)?;
    }
    print.end(&report, None)?;
    let exit = tell(&report, interrupted, json);
    saved?;
    Ok(exit)
}

/// Returns the items of an equivalent stream. All text is in one item, with the first id.
pub(crate) fn items(answer: CompletionResponse) -> Vec<StreamToken> {
    let mut ids = answer.ids.into_iter();
    let mut items = Vec::new();
    if !answer.reasoning.is_empty() {
        items.push(StreamToken::Reasoning { text: answer.reasoning, id: ids.next() });
    }
    if !answer.text.is_empty() {
        items.push(StreamToken::Token { text: answer.text, id: ids.next() });
    }
    items.extend(ids.map(|id| StreamToken::Token { text: String::new(), id: Some(id) }));
    items.extend(answer.tool_calls.into_iter().map(|call| StreamToken::ToolCall(Box::new(call))));
    let malformed = answer.malformed_calls.into_iter();
    items.extend(malformed.map(|call| StreamToken::MalformedCall { text: call.text, reason: call.reason }));
    items
}

fn follow(
    started: Instant,
    ask: impl FnOnce() -> Result<(Receiver<StreamToken>, StreamGuard), Error>,
    interrupt: &Interrupt,
    json: bool,
    aside: Aside<'_>,
) -> ExitResult {
    let Aside { record, trace, mut parser } = aside;
    let traces = Traces::new(trace);
    let mut lane = traces.begin(0, String::new);
    let (tokens, guard) = match ask() {
        Ok(stream) => stream,
        Err(error) if error.kind() == tokenwire::ErrorKind::InvalidInput => return Err(error.into()),
        Err(error) => return refused(&error, json),
    };
    let canceller = guard.canceller();
    interrupt.running(move || canceller.cancel());
    let mut print = Print::new(started, json);
    let printed = print.all(&tokens, parser.as_mut(), lane.as_mut());
    // After a broken pipe, nothing reads the rest of the stream. Without a cancel, `join` would
    // wait for the rest.
    if printed.is_err() {
        guard.cancel();
    }
    let report = guard.join();
    let interrupted = interrupt.ended();
    // The recording is saved first, before anything else can fail.
    let saved = save_recording(record, &report);
    traces.keep(lane, Ok(&report));
    let drawn = traces.draw(1);
    printed?;
    let branch = parser.map(|parser| match report.ending {
        Outcome::Complete => parser.finish(report.finish.as_ref()).0,
        _ => parser.cut_off().0,
    });
    print.end(&report, branch.as_ref())?;
    let exit = tell(&report, interrupted, json);
    saved?;
    drawn?;
    Ok(exit)
}

fn save_recording(file: Option<&Path>, report: &StreamReport) -> Result<(), Error> {
    match (file, &report.recording) {
        (Some(file), Some(recording)) => recording.save(file),
        _ => Ok(()),
    }
}

/// Prints the items of a stream as they arrive, and its end.
struct Print {
    out: StdoutLock<'static>,
    status: Status,
    started: Instant,
    json: bool,
    has_colours: bool,
    /// Whether the text so far ends in the middle of a line.
    in_line: bool,
}

impl Print {
    fn new(started: Instant, json: bool) -> Self {
        let (out, status, has_colours) = (io::stdout().lock(), Status::new(started), stdout_has_colours());
        Self { out, status, started, json, has_colours, in_line: false }
    }

    /// Prints all items, until the channel disconnects.
    fn all(
        &mut self,
        tokens: &Receiver<StreamToken>,
        mut parser: Option<&mut ResponseParser>,
        mut lane: Option<&mut Lane>,
    ) -> io::Result<()> {
        loop {
            let next = match self.status.next_draw() {
                Some(at) => tokens.recv_deadline(at),
                None => tokens.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                // The report contains the end of the stream.
                Ok(StreamToken::Done { .. } | StreamToken::Error(_)) => continue,
                Ok(item) => {
                    let now = Instant::now();
                    self.status.token();
                    // The calls are not run here. The tree and the picture show them.
                    let calls = parser.as_mut().map_or(0, |parser| parser.push_item(&item).len());
                    if let Some(lane) = &mut lane {
                        lane.item(now, &item);
                        lane.calls(now, calls);
                    }
                    self.item(&item, self.started.elapsed())?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.status.draw();
        }
        self.status.clear();
        Ok(())
    }

    /// Prints an item that arrived `after` this time.
    fn item(&mut self, item: &StreamToken, after: Duration) -> io::Result<()> {
        let text = item_text(item);
        if self.json {
            self.status.clear();
            item_line(&mut self.out, item, 0, Some(micros(after)))?;
        } else if let Some(last) = text.chars().last() {
            self.in_line = last != '\n';
            self.status.clear();
            // Reasoning is dimmer than the answer.
            let dim = self.has_colours && matches!(item, StreamToken::Reasoning { .. });
            let (on, off) = if dim { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
            write!(self.out, "{on}{}{off}", harmless(&text))?;
        }
        self.out.flush()
    }

    /// Prints what follows the last item: the tree and the report.
    fn end(&mut self, report: &StreamReport, branch: Option<&Branch>) -> io::Result<()> {
        if self.json {
            branch.map_or(Ok(()), |branch| turns_line(&mut self.out, std::slice::from_ref(branch)))?;
            report_line(&mut self.out, report)?;
        } else if self.in_line && stdout_is_terminal() {
            self.out.write_all(b"\n")?;
        }
        self.out.flush()?;
        branch.filter(|_| !self.json).into_iter().for_each(note_tree);
        Ok(())
    }
}

/// Reports on standard error how the stream ended, and returns the exit code.
fn tell(report: &StreamReport, interrupted: bool, json: bool) -> Exit {
    if let Some(error) = &report.error {
        note_error(&with_causes(error));
    }
    if !json {
        note_dim(&summary(report));
    }
    match report.ending {
        Outcome::Complete => Exit::Complete,
        _ if interrupted => Exit::Cancelled,
        _ => Exit::Failed,
    }
}

/// Reports a request that was not sent, because the server or this version does not support it.
fn refused(error: &Error, json: bool) -> Result<Exit, Failure> {
    #[derive(serde::Serialize)]
    struct Report<'a> {
        #[serde(flatten)]
        done: DoneJson,
        error: ErrorJson<'a>,
        ending: &'static str,
        tokens: u64,
    }
    if json {
        let (done, error) = (DoneJson::default(), ErrorJson::new(error));
        let report = Report { done, error, ending: Outcome::Failed.as_str(), tokens: 0 };
        json_line(&mut io::stdout().lock(), &BTreeMap::from([("report", report)]))?;
    }
    note_error(&with_causes(error));
    Ok(Exit::Failed)
}
