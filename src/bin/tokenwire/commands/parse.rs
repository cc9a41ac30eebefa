//! `tokenwire parse`: what the response parser makes of a turn that was kept, with no server.

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

/// The largest input, and the largest line of it, in bytes.
const MAX_INPUT_BYTES: u64 = 256 << 20;

const EXAMPLE: &str = r#"Example:
  printf '<think>hm</think>Hi!<tool_call>{"name": "now"}</tool_call>' \
    | tokenwire parse --dialect hermes --text"#;

/// Parse a turn of a model from standard input to reasoning, content and tool calls.
///
/// The input is JSON Lines of tokens {"text","id"}, as `tokens --json` and `stream --json` write them, or plain text
/// with --text. With --json the result is one object
/// {"reasoning","content","tool_calls":[{"id","name","arguments","at_token"}],"ids","leaves":[{"kind","text","ids"}]};
/// without it, a tree for people.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// How the model writes reasoning and calls, by name; a wrong name lists them. Or a dialect of your own, in a file NAME.json.
    #[arg(long, value_name = "NAME", required_unless_present = "batch")]
    dialect: Option<String>,
    /// With --text: feed the parser this many characters at a time; 0 = whole. The result is the same.
    #[arg(long, value_name = "N", default_value_t = 0)]
    cut: usize,
    /// The input is plain text, without ids.
    #[arg(long, conflicts_with = "batch")]
    text: bool,
    /// A JSON list of the tools' schemas: types for arguments that are written as raw text.
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// What the prompt had opened: content or reasoning.
    #[arg(long, value_name = "WHAT", default_value = "content")]
    start: String,
    /// Why the model stopped: stop or length.
    #[arg(long, value_name = "WHY", default_value = "stop")]
    finish: String,
    /// A JSON object of the model's added tokens, text to id: a marker that is among them counts only as that id.
    #[arg(long, value_name = "FILE")]
    markers: Option<PathBuf>,
    /// Each line of the input is a whole case {"dialect","tools","start","finish","markers","tokens"}, each line of the
    /// output its result. What a case leaves out is as the flags say.
    #[arg(long)]
    batch: bool,
    /// JSON Lines. --batch always writes them.
    #[arg(long)]
    json: bool,
}

/// One turn and how to parse it.
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
            // The last line of `tokens` and `stream` is no token.
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

/// A case a line. One that cannot be read has a line that says so, and the next goes on.
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
    let dialect = dialect.ok_or_else(|| Failure::Usage("no dialect".to_owned()))?;
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
        other => return Err(Failure::Usage(format!("start is content or reasoning, not {other:?}"))),
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

/// A dialect by its name, or out of a file.
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

/// A line's token; `None` for a blank line and for the last line of a stream, which is none.
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

/// Text in pieces of so many characters.
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
