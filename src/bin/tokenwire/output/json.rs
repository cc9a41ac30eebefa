//! The JSON of each kind of output line.

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
    #[derive(Serialize)]
    struct TurnsLine<'a> {
        turns: &'a [Branch],
    }
    json_line(out, &TurnsLine { turns })
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

/// Prints the line of an item. The end of a stream has no line here.
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

/// `ids_exact`, and `ids_exact_reason` if it is false.
#[derive(Serialize)]
struct ExactJson {
    ids_exact: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids_exact_reason: Option<String>,
}

impl From<IdsExact> for ExactJson {
    fn from(exact: IdsExact) -> Self {
        match exact {
            IdsExact::Yes => Self { ids_exact: Some(true), ids_exact_reason: None },
            IdsExact::No(why) => Self { ids_exact: Some(false), ids_exact_reason: Some(why.to_string()) },
            _ => Self { ids_exact: None, ids_exact_reason: None },
        }
    }
}

/// The end of an answer: finish reason, usage, and whether its ids are exact.
#[derive(Serialize)]
pub(crate) struct DoneJson {
    finish: Option<String>,
    usage: Option<UsageJson>,
    #[serde(flatten)]
    exact: ExactJson,
}

impl DoneJson {
    pub(crate) fn new(finish: Option<&FinishReason>, usage: Option<Usage>, ids_exact: IdsExact) -> Self {
        Self {
            finish: finish.map(|finish| finish.as_str().to_owned()),
            usage: usage.map(UsageJson::from),
            exact: ids_exact.into(),
        }
    }
}

/// An error. `kind` and `message` are always present, other keys only if they are known.
pub(crate) struct ErrorJson<'a> {
    pub(crate) error: &'a Error,
    /// The kind and the message of `error`.
    pub(crate) kind: &'a str,
    pub(crate) message: &'a str,
    /// The number of tokens printed before the error.
    pub(crate) tokens: Option<u64>,
}

impl<'a> ErrorJson<'a> {
    pub(crate) fn new(error: &'a Error) -> Self {
        let tokens = error.progress().map(|progress| progress.tokens);
        Self { error, kind: error.kind().as_str(), message: error.message(), tokens }
    }
}

impl Serialize for ErrorJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { error, kind, message, tokens } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", kind)?;
        map.serialize_entry("message", message)?;
        let mut known = |key: &str, value: Option<&str>| match value {
            Some(value) => map.serialize_entry(key, value),
            None => Ok(()),
        };
        match error.kind() {
            ErrorKind::Timeout(timer) => known("timer", Some(timer.as_str()))?,
            ErrorKind::Limit(limit) => known("limit", Some(limit.as_str()))?,
            _ => {}
        }
        if let Some(server) = error.server_error() {
            known("type", server.kind.as_deref())?;
            known("code", server.code.as_deref())?;
            known("param", server.param.as_deref())?;
        }
        known("request_id", error.request_id())?;
        let causes = causes(error);
        known("cause", (!causes.is_empty()).then_some(&causes))?;
        if let Some(status) = error.status() {
            map.serialize_entry("status", &status)?;
        }
        if let Some(tokens) = tokens {
            map.serialize_entry("tokens", tokens)?;
        }
        if let Some(path) = error.saved_path() {
            map.serialize_entry("saved", &path.to_string_lossy())?;
        }
        map.end()
    }
}

/// Prints the last line of a stream: `{"report":{..}}`.
pub(crate) fn report_line(out: &mut impl Write, report: &StreamReport) -> io::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        report: ReportJson<'a>,
    }
    json_line(out, &Line { report: ReportJson::new(report) })
}

#[derive(Serialize)]
struct ReportJson<'a> {
    #[serde(flatten)]
    done: DoneJson,
    error: Option<ReportedError<'a>>,
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

#[derive(Serialize)]
#[serde(untagged)]
enum ReportedError<'a> {
    Error(ErrorJson<'a>),
    /// A cancel. It is not an error in the library, but the output must not look like a complete
    /// stream.
    Cancelled {
        kind: &'static str,
        message: &'static str,
    },
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
        let cancelled = || ReportedError::Cancelled { kind: "cancelled", message: "cancelled" };
        Self {
            done: DoneJson::new(report.finish.as_ref(), report.usage, report.ids_exact),
            error: match &report.error {
                Some(error) => Some(ReportedError::Error(ErrorJson::new(error))),
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
