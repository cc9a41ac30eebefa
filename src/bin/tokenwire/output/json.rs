//! The JSON of each kind of output line.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use serde::ser::SerializeMap as _;
use serde_json::Value;
use tokenwire::{
    Branch, Error, ErrorKind, FinishReason, IdsExact, Outcome, Percentiles, Resume, ServerKind, StreamReport,
    StreamToken, TokenId, Usage,
};

use crate::output::terminal;
use crate::output::text::causes;

/// Prints an object on one line.
pub(crate) fn json_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    out.write_all(json_text(value)?.as_bytes())
}

/// Returns an object as one line of JSON, without control characters for a terminal.
pub(crate) fn json_text(value: &impl Serialize) -> io::Result<String> {
    let mut line = terminal::escaped(serde_json::to_string(value).map_err(io::Error::other)?);
    line.push('\n');
    Ok(line)
}

/// Prints the trees of turns on one line.
pub(crate) fn turns_line(out: &mut impl Write, turns: &[Branch]) -> io::Result<()> {
    json_line(out, &BTreeMap::from([("turns", turns)]))
}

/// A token. `reasoning` is present only if the server marks it, `index` only for choices other than
/// the first, and `t_us` only if the stream is live.
#[derive(Serialize)]
struct TokenLine<'a> {
    text: &'a str,
    id: Option<TokenId>,
    #[serde(skip_serializing_if = "is_false")]
    reasoning: bool,
    #[serde(skip_serializing_if = "is_zero")]
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    t_us: Option<u64>,
}

/// A tool call of a chat endpoint, valid or malformed.
#[derive(Serialize)]
struct CallLine<'a> {
    #[serde(flatten)]
    call: CallJson<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    t_us: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum CallJson<'a> {
    ToolCall { id: &'a str, name: &'a str, arguments: &'a Value },
    MalformedCall { text: &'a str, reason: &'a str },
}

/// Prints the line of an item. Prints nothing for the end of a stream.
pub(crate) fn item_line(
    out: &mut impl Write,
    item: &StreamToken,
    index: u32,
    t_us: Option<u64>,
) -> io::Result<()> {
    let call = match item {
        StreamToken::Token { text, id } | StreamToken::Reasoning { text, id } => {
            let reasoning = matches!(item, StreamToken::Reasoning { .. });
            return json_line(out, &TokenLine { text, id: *id, reasoning, index, t_us });
        }
        StreamToken::ToolCall(call) => {
            CallJson::ToolCall { id: &call.id, name: &call.name, arguments: &call.arguments }
        }
        StreamToken::MalformedCall { text, reason } => {
            CallJson::MalformedCall { text, reason: reason.as_str() }
        }
        _ => return Ok(()),
    };
    json_line(out, &CallLine { call, index, t_us })
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_zero(index: &u32) -> bool {
    *index == 0
}

/// The usage with the total, in the form that servers send.
#[derive(Serialize)]
pub(crate) struct UsageJson {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_tokens: Option<u32>,
}

impl From<Usage> for UsageJson {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.total_tokens(),
            cached_tokens: usage.cached_tokens,
            reasoning_tokens: usage.reasoning_tokens,
        }
    }
}

/// The end of an answer: finish reason, usage, and whether its ids are exact.
#[derive(Default, Serialize)]
pub(crate) struct DoneJson {
    finish: Option<String>,
    usage: Option<UsageJson>,
    ids_exact: Option<bool>,
    /// The reason if `ids_exact` is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    ids_exact_reason: Option<String>,
}

impl DoneJson {
    pub(crate) fn new(finish: Option<&FinishReason>, usage: Option<Usage>, ids_exact: IdsExact) -> Self {
        let (ids_exact, ids_exact_reason) = match ids_exact {
            IdsExact::Yes => (Some(true), None),
            IdsExact::No(why) => (Some(false), Some(why.to_string())),
            _ => (None, None),
        };
        let finish = finish.map(|finish| finish.as_str().to_owned());
        Self { finish, usage: usage.map(UsageJson::from), ids_exact, ids_exact_reason }
    }
}

/// An error. `kind` and `message` are always present, other keys only if they are known.
pub(crate) struct ErrorJson<'a> {
    /// The library's error; `None` for an error that the program itself found.
    pub(crate) error: Option<&'a Error>,
    pub(crate) kind: &'a str,
    pub(crate) message: &'a str,
    /// The number of tokens printed before the error.
    pub(crate) tokens: Option<u64>,
    /// Whether a retry may succeed, in the lines that contain this field.
    pub(crate) retryable: Option<bool>,
}

impl<'a> ErrorJson<'a> {
    pub(crate) fn new(error: &'a Error) -> Self {
        let tokens = error.progress().map(|progress| progress.tokens);
        Self { error: Some(error), tokens, ..Self::own(error.kind().as_str(), error.message()) }
    }

    pub(crate) fn own(kind: &'a str, message: &'a str) -> Self {
        Self { error: None, kind, message, tokens: None, retryable: None }
    }
}

impl Serialize for ErrorJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let server = self.error.and_then(Error::server_error);
        let causes = self.error.map(causes).unwrap_or_default();
        let (timer, limit) = match self.error.map(Error::kind) {
            Some(ErrorKind::Timeout(timer)) => (Some(timer.as_str()), None),
            Some(ErrorKind::Limit(limit)) => (None, Some(limit.as_str())),
            _ => (None, None),
        };
        let saved = self.error.and_then(Error::saved_path).map(|path| path.to_string_lossy());
        let known = [
            ("timer", timer.map(Value::from)),
            ("limit", limit.map(Value::from)),
            ("type", server.and_then(|server| server.kind.as_deref()).map(Value::from)),
            ("code", server.and_then(|server| server.code.as_deref()).map(Value::from)),
            ("param", server.and_then(|server| server.param.as_deref()).map(Value::from)),
            ("request_id", self.error.and_then(Error::request_id).map(Value::from)),
            ("cause", (!causes.is_empty()).then(|| causes.into())),
            ("status", self.error.and_then(Error::status).map(Value::from)),
            ("tokens", self.tokens.map(Value::from)),
            ("saved", saved.map(Value::from)),
            ("retryable", self.retryable.map(Value::from)),
        ];
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", self.kind)?;
        map.serialize_entry("message", self.message)?;
        for (key, value) in known {
            if let Some(value) = value {
                map.serialize_entry(key, &value)?;
            }
        }
        map.end()
    }
}

/// Prints the last line of a stream: `{"report":{..}}`.
pub(crate) fn report_line(out: &mut impl Write, report: &StreamReport) -> io::Result<()> {
    json_line(out, &BTreeMap::from([("report", ReportJson::new(report))]))
}

#[derive(Serialize)]
struct ReportJson<'a> {
    #[serde(flatten)]
    done: DoneJson,
    error: Option<ErrorJson<'a>>,
    ending: &'static str,
    request_id: Option<&'a str>,
    server: Option<String>,
    tokens: u64,
    events: u64,
    comments: u64,
    bytes: u64,
    lines_skipped: u64,
    retries: u32,
    route: usize,
    failovers: u32,
    resumes: Vec<ResumeJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_resumed: Option<String>,
    stale_retries: u32,
    connection_reused: bool,
    head_us: Option<u64>,
    first_token_us: Option<u64>,
    last_token_us: Option<u64>,
    elapsed_us: u64,
    waited_for_consumer_us: u64,
    tokens_per_second: Option<f64>,
    inter_token_us: Option<PercentilesJson>,
}

/// A break from which the stream resumed.
#[derive(Serialize)]
struct ResumeJson {
    at_id: u64,
    after: &'static str,
    requests: u32,
    took_us: Option<u64>,
    ids_again: u64,
    text_exact: bool,
}

impl From<&Resume> for ResumeJson {
    fn from(resume: &Resume) -> Self {
        Self {
            at_id: resume.at_id,
            after: resume.after.as_str(),
            requests: resume.requests,
            took_us: resume.took.map(micros),
            ids_again: resume.ids_again,
            text_exact: resume.text_exact,
        }
    }
}

#[derive(Serialize)]
pub(crate) struct PercentilesJson {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

impl From<Percentiles> for PercentilesJson {
    fn from(times: Percentiles) -> Self {
        Self {
            p50: micros(times.p50),
            p90: micros(times.p90),
            p99: micros(times.p99),
            max: micros(times.max),
        }
    }
}

impl<'a> ReportJson<'a> {
    fn new(report: &'a StreamReport) -> Self {
        // A cancel is not an error in the library, but the output must not look like a complete
        // stream.
        let cancelled = || ErrorJson::own("cancelled", "cancelled");
        Self {
            done: DoneJson::new(report.finish.as_ref(), report.usage, report.ids_exact),
            error: match &report.error {
                Some(error) => Some(ErrorJson::new(error)),
                None => (report.ending != Outcome::Complete).then(cancelled),
            },
            ending: report.ending.as_str(),
            request_id: report.request_id.as_deref(),
            server: report.server.as_ref().map(|server| server_name(server).to_owned()),
            tokens: report.tokens,
            events: report.events,
            comments: report.comments,
            bytes: report.bytes,
            lines_skipped: report.lines_skipped,
            retries: report.retries,
            route: report.route,
            failovers: report.failovers,
            resumes: report.resumes.iter().map(ResumeJson::from).collect(),
            not_resumed: report.not_resumed.map(|why| why.to_string()),
            stale_retries: report.stale_retries,
            connection_reused: report.connection_reused,
            head_us: report.head.map(micros),
            first_token_us: report.first_token.map(micros),
            last_token_us: report.last_token.map(micros),
            elapsed_us: micros(report.elapsed),
            waited_for_consumer_us: micros(report.waited_for_consumer),
            tokens_per_second: report.tokens_per_second(),
            inter_token_us: report.inter_token.map(PercentilesJson::from),
        }
    }
}

fn server_name(server: &ServerKind) -> &str {
    match server {
        ServerKind::Vllm => "vllm",
        ServerKind::LlamaCpp => "llamacpp",
        ServerKind::Other(quirks) => quirks.name(),
        _ => "other",
    }
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
