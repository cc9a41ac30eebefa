//! `tokenwire parse`: runs the response parser on a saved turn, without a server.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenwire::{Branch, Dialect, FinishReason, LeafKind, PendingToolCall, ResponseParser, Start, TokenId};

use crate::exit::{Exit, ExitResult, Failure};
use crate::interrupt::exit_on_interrupt;
use crate::output::json::json_line;
use crate::output::terminal::harmless;

/// The maximum size of the input, in bytes.
const MAX_INPUT_BYTES: u64 = 256 << 20;

const EXAMPLE: &str = r#"Example:
  printf '<think>hm</think>Hi!<tool_call>{"name": "now"}</tool_call>' \
    | tokenwire parse --dialect hermes --text"#;

const DETAILS: &str = r#"Input:
  JSON Lines of tokens {"text","id"}, as printed by `tokens --json` and
  `stream --json`. With --text, the input is plain text.

Output:
  tokenwire prints a tree. With --json, it prints one object:
  {"reasoning","content",
   "tool_calls":[{"id","name","arguments","at_token"}],
   "ids",
   "leaves":[{"kind","text","ids"}]}
  A malformed leaf also has a "reason".

Batch:
  With --batch, each line of the input is a case:
  {"dialect","tools","start","finish","markers","tokens"}
  A key that is missing in a case is taken from the flags. Each line of the
  output is one result. An invalid case prints {"error":{"kind","message"}};
  the remaining cases still run."#;

/// Parse a model's turn into reasoning, content and tool calls.
#[derive(clap::Args)]
#[command(before_help = EXAMPLE, after_long_help = DETAILS)]
pub(crate) struct Args {
    /// The dialect in which the model writes reasoning and tool calls: a name, or the path of your
    /// own dialect, which must end in .json. If the name is unknown, the error lists the known
    /// names.
    #[arg(long, value_name = "NAME", required_unless_present = "batch")]
    dialect: Option<String>,
    /// With --text, feed the parser N characters at a time; 0 means all at once. N does not change
    /// the result.
    #[arg(long, value_name = "N", default_value_t = 0)]
    cut: usize,
    /// Read plain text, without ids.
    #[arg(long, conflicts_with = "batch")]
    text: bool,
    /// JSON list of the tools' schemas. They define the types of arguments that the model writes as
    /// raw text.
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// The part that the prompt has already opened: content or reasoning.
    #[arg(long, value_name = "PART", default_value = "content")]
    start: String,
    /// The finish reason: stop or length.
    #[arg(long, value_name = "REASON", default_value = "stop")]
    finish: String,
    /// JSON object of the model's added tokens, from text to id. A marker in this object counts
    /// only if it arrives as that id.
    #[arg(long, value_name = "FILE")]
    markers: Option<PathBuf>,
    /// Parse many turns: each line of the input is a case, each line of the output its result.
    #[arg(long)]
    batch: bool,
    /// Print JSON. --batch always does.
    #[arg(long)]
    json: bool,
}

/// One turn, and the settings to parse it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Case {
    dialect: Option<String>,
    tools: Option<Vec<Value>>,
    start: Option<String>,
    finish: Option<String>,
    markers: Option<HashMap<String, TokenId>>,
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    text: String,
    #[serde(default)]
    id: Option<TokenId>,
}

#[derive(Serialize)]
struct Parsed<'a> {
    reasoning: String,
    content: String,
    tool_calls: Vec<CallJson<'a>>,
    ids: Vec<TokenId>,
    leaves: Vec<LeafJson<'a>>,
}

#[derive(Serialize)]
struct CallJson<'a> {
    id: &'a str,
    name: &'a str,
    arguments: &'a Value,
    at_token: u64,
}

#[derive(Serialize)]
struct LeafJson<'a> {
    kind: &'static str,
    text: &'a str,
    ids: &'a [TokenId],
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

pub(crate) fn run(args: &Args) -> ExitResult {
    exit_on_interrupt()?;
    let flags = Case {
        dialect: args.dialect.clone(),
        tools: args.tools.as_deref().map(json_file).transpose()?,
        start: Some(args.start.clone()),
        finish: Some(args.finish.clone()),
        markers: args.markers.as_deref().map(json_file).transpose()?,
        tokens: Vec::new(),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut input = io::stdin().lock().take(MAX_INPUT_BYTES);
    if args.batch {
        return batch(&flags, input, &mut out);
    }
    let tokens = if args.text {
        let mut text = String::new();
        input.read_to_string(&mut text).map_err(|error| bad_input(&error))?;
        pieces(&text, args.cut)
    } else {
        let mut tokens = Vec::new();
        for line in input.lines() {
            let line = line.map_err(|error| bad_input(&error))?;
            // The last line of `tokens` and `stream` is not a token.
            if let Some(token) = token(&line)? {
                tokens.push(token);
            }
        }
        tokens
    };
    let (branch, calls) = parse(&Case { tokens, ..Case::default() }, &flags)?;
    if args.json {
        json_line(&mut out, &Parsed::new(&branch, &calls))?;
    } else {
        writeln!(out, "{}", harmless(&branch.to_string()))?;
    }
    out.flush()?;
    Ok(Exit::Complete)
}

/// Parses one case for each line. For an invalid case, it prints an error line and continues.
fn batch(flags: &Case, input: impl BufRead, out: &mut impl Write) -> ExitResult {
    let mut exit = Exit::Complete;
    for line in input.lines() {
        let line = line.map_err(|error| bad_input(&error))?;
        if line.trim().is_empty() {
            continue;
        }
        let case =
            serde_json::from_str(&line).map_err(|error| Failure::Usage(format!("not a case: {error}")));
        match case.and_then(|case| parse(&case, flags)) {
            Ok((branch, calls)) => json_line(out, &Parsed::new(&branch, &calls))?,
            Err(Failure::Usage(message)) => {
                exit = Exit::Failed;
                let error = serde_json::json!({"kind": "invalid_input", "message": message});
                json_line(out, &serde_json::json!({"error": error}))?;
            }
            Err(failure) => return Err(failure),
        }
        out.flush()?;
    }
    Ok(exit)
}

fn parse(case: &Case, flags: &Case) -> Result<(Branch, Vec<PendingToolCall>), Failure> {
    let dialect = case.dialect.as_ref().or(flags.dialect.as_ref());
    let dialect = dialect.ok_or_else(|| {
        Failure::Usage("missing dialect: the case has none, and --dialect is not set".to_owned())
    })?;
    let mut parser = ResponseParser::new(named_or_in_file(dialect)?);
    if let Some(tools) = case.tools.as_ref().or(flags.tools.as_ref()) {
        parser = parser.tools(tools);
    }
    if let Some(markers) = case.markers.as_ref().or(flags.markers.as_ref()) {
        parser = parser.markers(markers.iter().map(|(text, id)| (text.as_str(), *id)));
    }
    let start = case.start.as_deref().or(flags.start.as_deref()).unwrap_or("content");
    let mut parser = parser.start(match start {
        "content" => Start::Content,
        "reasoning" => Start::Reasoning,
        other => {
            return Err(Failure::Usage(format!(
                "invalid start: expected content or reasoning, got {other:?}"
            )));
        }
    });
    let mut calls = Vec::new();
    for Token { text, id } in &case.tokens {
        calls.extend(parser.push(text, *id));
    }
    let finish = case.finish.as_deref().or(flags.finish.as_deref()).unwrap_or("stop");
    let (branch, more) = parser.finish(Some(&FinishReason::from_wire(finish)));
    calls.extend(more);
    Ok((branch, calls))
}

/// Returns a dialect by its name, or from a file whose name ends in .json.
fn named_or_in_file(dialect: &str) -> Result<Dialect, Failure> {
    let path = Path::new(dialect);
    if path.extension().is_none_or(|extension| extension != "json") {
        return Ok(Dialect::by_name(dialect)?);
    }
    let unusable = |error: &dyn std::fmt::Display| Failure::Usage(format!("cannot use {dialect}: {error}"));
    let text = fs::read_to_string(path).map_err(|error| unusable(&error))?;
    Dialect::from_json(&text).map_err(|error| unusable(&error))
}

impl<'a> Parsed<'a> {
    fn new(branch: &'a Branch, calls: &'a [PendingToolCall]) -> Self {
        let call = |PendingToolCall { id, name, arguments, at_token, .. }: &'a PendingToolCall| CallJson {
            id,
            name,
            arguments,
            at_token: *at_token,
        };
        let leaves = branch.leaves.iter().map(|leaf| LeafJson {
            kind: leaf.kind.as_str(),
            text: &leaf.text,
            ids: &leaf.ids,
            reason: match leaf.kind {
                LeafKind::Malformed { reason } => Some(reason.as_str()),
                _ => None,
            },
        });
        Self {
            reasoning: branch.reasoning(),
            content: branch.content(),
            tool_calls: calls.iter().map(call).collect(),
            ids: branch.ids().collect(),
            leaves: leaves.collect(),
        }
    }
}

/// Returns the token of a line; `None` for a blank line and for the last line of a stream.
fn token(line: &str) -> Result<Option<Token>, Failure> {
    if line.trim().is_empty() {
        return Ok(None);
    }
    let value: Value =
        serde_json::from_str(line).map_err(|error| Failure::Usage(format!("not a token: {error}")))?;
    if ["done", "error", "report"].iter().any(|last| value.get(last).is_some()) {
        return Ok(None);
    }
    serde_json::from_value(value).map(Some).map_err(|error| Failure::Usage(format!("not a token: {error}")))
}

/// Splits text into pieces of `cut` characters; 0 means one piece.
fn pieces(text: &str, cut: usize) -> Vec<Token> {
    let token = |text: &str| Token { text: text.to_owned(), id: None };
    if cut == 0 {
        return vec![token(text)];
    }
    let starts: Vec<usize> = text.char_indices().step_by(cut).map(|(at, _)| at).chain([text.len()]).collect();
    starts.windows(2).map(|pair| token(&text[pair[0]..pair[1]])).collect()
}

fn json_file<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, Failure> {
    let unusable =
        |error: &dyn std::fmt::Display| Failure::Usage(format!("cannot use {}: {error}", path.display()));
    let bytes = fs::read(path).map_err(|error| unusable(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| unusable(&error))
}

fn bad_input(error: &io::Error) -> Failure {
    Failure::Usage(format!("cannot read standard input: {error}"))
}
