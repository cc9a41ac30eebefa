//! One prompt's answer: taken from its stream, and written as a line.

use serde::Serialize;
use serde_json::{Value, json};
use tokenwire::{Error, ErrorKind, IdsExact, Outcome, StreamReport, StreamToken, TokenId};

use crate::exit::Failure;
use crate::output::json::{DoneJson, ErrorJson, json_text};

/// The most text of one answer that is kept, in bytes: a server that does not stop must not fill the memory.
pub(crate) const MAX_TEXT_BYTES: usize = 64 << 20;

/// What came of one prompt.
#[derive(Default)]
pub(crate) struct PromptAnswer {
    text: String,
    reasoning: String,
    ids: Vec<TokenId>,
    tool_calls: Vec<Value>,
    bytes: usize,
}

/// How it ended.
pub(crate) enum End {
    Report(Box<StreamReport>),
    /// There was no stream.
    Refused(Error),
    /// The line is no prompt.
    Unusable {
        line: u64,
        why: String,
    },
}

/// A result line. What is not there where nothing came stands there as nothing: a reader has the same fields of
/// every line.
#[derive(Serialize)]
struct ResultLine<'a> {
    id: &'a Value,
    text: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning: &'a str,
    ids: &'a [TokenId],
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    tool_calls: &'a [Value],
    #[serde(flatten)]
    done: DoneJson,
    error: Option<Failed<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Failed<'a> {
    Stream {
        #[serde(flatten)]
        error: ErrorJson<'a>,
        retryable: bool,
    },
    /// What this program finds out by itself.
    Own { kind: &'static str, message: &'a str, retryable: bool },
}

impl PromptAnswer {
    /// Takes an item of the stream; whether there is room for more.
    pub(crate) fn take(&mut self, item: StreamToken) -> bool {
        match item {
            StreamToken::Token { text, id } => {
                self.bytes += text.len();
                self.text += &text;
                self.ids.extend(id);
            }
            StreamToken::Reasoning { text, id } => {
                self.bytes += text.len();
                self.reasoning += &text;
                self.ids.extend(id);
            }
            StreamToken::ToolCall(call) => {
                self.bytes += call.raw.len();
                self.tool_calls.push(json!({"id": call.id, "name": call.name, "arguments": call.arguments}));
            }
            StreamToken::MalformedCall { text, reason } => {
                self.bytes += text.len();
                self.tool_calls.push(json!({"malformed": text, "reason": reason.as_str()}));
            }
            // The report has all of it.
            _ => {}
        }
        self.bytes <= MAX_TEXT_BYTES
    }

    /// The result line of the prompt called `id`. A stream that was cancelled was so for being too long: what Ctrl-C
    /// ends has no line.
    pub(crate) fn line(&self, id: &Value, end: &End) -> Result<Vec<u8>, Failure> {
        let why_unusable = match end {
            End::Unusable { line, why } => format!("line {line}: {why}"),
            End::Report(_) | End::Refused(_) => {
                format!("the answer has over {MAX_TEXT_BYTES} bytes; --max-tokens bounds it")
            }
        };
        let failed = |error| Failed::Stream { error: ErrorJson::new(error), retryable: error.is_retryable() };
        let own = |kind| Failed::Own { kind, message: &why_unusable, retryable: false };
        let nothing = || DoneJson::new(None, None, IdsExact::Unknown);
        let (done, error) = match end {
            End::Report(report) => {
                let error = match (report.ending, &report.error) {
                    (Outcome::Complete, _) => None,
                    (_, Some(error)) => Some(failed(error)),
                    (_, None) => Some(own("limit")),
                };
                (DoneJson::new(report.finish.as_ref(), report.usage, report.ids_exact), error)
            }
            End::Refused(error) => (nothing(), Some(failed(error))),
            End::Unusable { .. } => (nothing(), Some(own(ErrorKind::InvalidInput.as_str()))),
        };
        let Self { text, reasoning, ids, tool_calls, bytes: _ } = self;
        let line = ResultLine { id, text, reasoning, ids, tool_calls, done, error };
        Ok(json_text(&line).map_err(|error| Failure::Machine(error.to_string()))?.into_bytes())
    }
}

impl End {
    /// It was ended from here.
    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(self, Self::Report(report) if report.ending == Outcome::Cancelled)
    }

    /// What failed, in words; `None` if nothing did.
    pub(crate) fn failure(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Report(report) if report.ending == Outcome::Complete => None,
            Self::Report(report) => Some(match &report.error {
                Some(error) => (error.kind().as_str(), error.message().to_owned()),
                None => ("limit", "the answer is too long".to_owned()),
            }),
            Self::Refused(error) => Some((error.kind().as_str(), error.message().to_owned())),
            Self::Unusable { line, why } => {
                Some((ErrorKind::InvalidInput.as_str(), format!("line {line}: {why}")))
            }
        }
    }
}
