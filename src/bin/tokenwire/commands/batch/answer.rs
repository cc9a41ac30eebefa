//! The answer to one prompt: collected from its stream and written as a result line.

use serde::Serialize;
use serde_json::{Value, json};
use tokenwire::{Error, ErrorKind, Outcome, StreamReport, StreamToken, TokenId};

use crate::exit::Failure;
use crate::output::json::{DoneJson, ErrorJson, json_text};

/// The maximum size of one answer's text, in bytes. A server that never stops must not fill the
/// memory.
const MAX_TEXT_BYTES: usize = 64 << 20;
const TOO_LONG: &str = "the answer has more than 64 MiB: set a lower --max-tokens";

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
    /// The line is not a valid prompt. The text has the number of the line and the reason.
    Unusable(String),
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
    error: Option<ErrorJson<'a>>,
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
            // The report contains the data of the other items.
            _ => {}
        }
        self.bytes <= MAX_TEXT_BYTES
    }

    /// Returns the result line of the prompt with this `id`.
    pub(crate) fn line(&self, id: &Value, end: &End) -> Result<Vec<u8>, Failure> {
        let done = match end {
            End::Report(report) => DoneJson::new(report.finish.as_ref(), report.usage, report.ids_exact),
            End::Refused(_) | End::Unusable(_) => DoneJson::default(),
        };
        let Self { text, reasoning, ids, tool_calls, bytes: _ } = self;
        let line = ResultLine { id, text, reasoning, ids, tool_calls, done, error: end.failure() };
        Ok(json_text(&line).map_err(|error| Failure::Machine(error.to_string()))?.into_bytes())
    }
}

impl End {
    /// Returns whether tokenwire cancelled the stream.
    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(self, Self::Report(report) if report.ending == Outcome::Cancelled)
    }

    /// Returns the error; `None` if the answer is complete.
    ///
    /// A cancelled stream that has a result was too long. A stream that Ctrl-C cancels has no
    /// result.
    pub(crate) fn failure(&self) -> Option<ErrorJson<'_>> {
        let (error, retryable) = match self {
            Self::Report(report) if report.ending == Outcome::Complete => return None,
            Self::Report(report) => match &report.error {
                Some(error) => (ErrorJson::new(error), error.is_retryable()),
                None => (ErrorJson::own("limit", TOO_LONG), false),
            },
            Self::Refused(error) => (ErrorJson::new(error), error.is_retryable()),
            Self::Unusable(why) => (ErrorJson::own(ErrorKind::InvalidInput.as_str(), why), false),
        };
        Some(ErrorJson { retryable: Some(retryable), ..error })
    }
}
