//! The answer to one prompt: collected from its stream and written as a result line.

use serde::Serialize;
use serde_json::{Value, json};
use tokenwire::{Error, ErrorKind, IdsExact, Outcome, StreamReport, StreamToken, TokenId};

use crate::exit::Failure;
use crate::output::json::{DoneJson, ErrorJson, json_text};

/// The maximum size of one answer's text, in bytes. A server that never stops must not fill the
/// memory.
pub(crate) const MAX_TEXT_BYTES: usize = 64 << 20;

/// The tokens and tool calls received for one prompt.
#[derive(Default)]
pub(crate) struct PromptAnswer {
    text: String,
    reasoning: String,
    ids: Vec<TokenId>,
    tool_calls: Vec<Value>,
    bytes: usize,
}

/// How the request for a prompt ended.
pub(crate) enum End {
    Report(Box<StreamReport>),
    /// The stream did not start.
    Refused(Error),
    /// The line is not a valid prompt.
    Unusable {
        line: u64,
        why: String,
    },
}

/// A result line. Missing values are null or empty, so that every line has the same fields.
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
    /// An error that tokenwire itself found.
    Own { kind: &'static str, message: &'a str, retryable: bool },
}

impl PromptAnswer {
    /// Adds an item of the stream. Returns whether the answer is still within its maximum size.
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
            // The report contains the rest.
            _ => {}
        }
        self.bytes <= MAX_TEXT_BYTES
    }

    /// Returns the result line of the prompt with this `id`.
    ///
    /// A cancelled stream with a line was too long: a stream that Ctrl-C cancels has no line.
    pub(crate) fn line(&self, id: &Value, end: &End) -> Result<Vec<u8>, Failure> {
        let why_unusable = match end {
            End::Unusable { line, why } => format!("line {line}: {why}"),
            End::Report(_) | End::Refused(_) => {
                format!("the answer has more than {MAX_TEXT_BYTES} bytes: set a lower --max-tokens")
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
    /// Returns whether tokenwire cancelled the stream.
    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(self, Self::Report(report) if report.ending == Outcome::Cancelled)
    }

    /// Returns the kind and the message of the error; `None` if the answer is complete.
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
