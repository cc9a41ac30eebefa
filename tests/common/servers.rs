//! Collects what each server and endpoint does from the recordings and vectors of the tests, and
//! writes the tables in docs/servers.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;
use tokenwire::{
    ChunkDecoder, CompletionRequest, Endpoint, ErrorKind, IdsExact, Inexact, Message, ServerKind, StreamToken,
};

use super::fixture;
use super::vectors::{self, Case};
use super::wire::{Decoded, Response, decode};

/// The start of the first table in docs/servers.md. Everything from here on is generated.
pub const TABLE_BEGIN: &str = "| server |";

/// A row of the tables: one endpoint of a server, and the sources of its facts.
pub struct Row {
    pub server: &'static str,
    /// The server that tokenwire detects, or `None` if it does not detect this server.
    pub known: Option<&'static ServerKind>,
    pub wire: Endpoint,
    /// The folder of the recordings, and the prefixes of their names. Without prefixes, the row
    /// contains all recordings that do not belong to another row.
    pub recorded: Option<(&'static str, &'static [&'static str])>,
    /// The file of the vectors.
    pub vectors: Option<&'static str>,
    /// Tests against the real server: the file and the name of the test.
    pub live: &'static [(&'static str, &'static str)],
}

impl Row {
    fn path(&self) -> String {
        match self.wire {
            Endpoint::Auto | Endpoint::OpenAi => "/v1/completions",
            Endpoint::Chat => "/v1/chat/completions",
            Endpoint::LlamaCpp => "/completion",
            Endpoint::VllmGenerate => "/inference/v1/generate",
            Endpoint::SgLang => "/generate",
            Endpoint::Tgi => "/generate_stream",
            other => panic!("{other}"),
        }
        .to_owned()
    }
}

const fn row(server: &'static str, known: Option<&'static ServerKind>, wire: Endpoint) -> Row {
    Row { server, known, wire, recorded: None, vectors: None, live: &[] }
}

const fn of(vectors: &'static str, row: Row) -> Row {
    Row { vectors: Some(vectors), ..row }
}

const VLLM: Option<(&str, &[&str])> = Some(("vllm", &[]));
const LLAMA_CPP: Option<(&str, &[&str])> = Some(("llama.cpp", &[]));

pub const ROWS: &[Row] = &[
    Row { recorded: VLLM, ..row("vLLM", Some(&ServerKind::Vllm), Endpoint::OpenAi) },
    Row { recorded: VLLM, ..row("vLLM", Some(&ServerKind::Vllm), Endpoint::Chat) },
    Row { recorded: VLLM, ..row("vLLM", Some(&ServerKind::Vllm), Endpoint::VllmGenerate) },
    Row {
        recorded: LLAMA_CPP,
        live: &[
            ("live", "sixteen_concurrent_streams_are_complete_and_exact"),
            ("live", "ids_equal_those_of_the_same_request_without_this_crate"),
            ("live_servers", "each_endpoint_gives_the_same_ids_streamed_and_complete"),
        ],
        ..row("llama.cpp", Some(&ServerKind::LlamaCpp), Endpoint::OpenAi)
    },
    Row {
        recorded: LLAMA_CPP,
        live: &[
            ("live_servers", "each_endpoint_gives_the_same_ids_streamed_and_complete"),
            ("live_servers", "a_chat_with_a_tool_gives_the_call_streamed_and_complete"),
        ],
        ..row("llama.cpp", Some(&ServerKind::LlamaCpp), Endpoint::Chat)
    },
    Row {
        recorded: LLAMA_CPP,
        live: &[
            ("live", "ids_equal_those_of_the_same_request_without_this_crate"),
            ("live", "a_server_killed_in_mid_stream_is_one_typed_error_after_the_tokens"),
            ("live_servers", "each_endpoint_gives_the_same_ids_streamed_and_complete"),
            ("talk_live", "each_prompt_begins_with_the_previous_one_and_the_server_finds_it"),
        ],
        ..row("llama.cpp", Some(&ServerKind::LlamaCpp), Endpoint::LlamaCpp)
    },
    of("sglang", row("SGLang", Some(&ServerKind::SgLang), Endpoint::OpenAi)),
    of("sglang", row("SGLang", Some(&ServerKind::SgLang), Endpoint::Chat)),
    of("sglang", row("SGLang", Some(&ServerKind::SgLang), Endpoint::SgLang)),
    of("tensorrt_llm", row("TensorRT-LLM", Some(&ServerKind::TensorRtLlm), Endpoint::OpenAi)),
    of("tgi", row("TGI", Some(&ServerKind::Tgi), Endpoint::Tgi)),
    of("tgi", row("TGI", Some(&ServerKind::Tgi), Endpoint::Chat)),
    of("ollama", row("Ollama", Some(&ServerKind::Ollama), Endpoint::OpenAi)),
    of("ollama", row("Ollama", Some(&ServerKind::Ollama), Endpoint::Chat)),
    of("lm_studio", row("LM Studio", Some(&ServerKind::LmStudio), Endpoint::OpenAi)),
    of("lm_studio", row("LM Studio", Some(&ServerKind::LmStudio), Endpoint::Chat)),
    of("openai", row("OpenAI", None, Endpoint::Chat)),
    of("azure", row("Azure OpenAI", None, Endpoint::Chat)),
    of("openrouter", row("OpenRouter", None, Endpoint::OpenAi)),
    of("openrouter", row("OpenRouter", None, Endpoint::Chat)),
    of("together", row("Together", None, Endpoint::OpenAi)),
    of("together", row("Together", None, Endpoint::Chat)),
    of("fireworks", row("Fireworks", None, Endpoint::OpenAi)),
    of("fireworks", row("Fireworks", None, Endpoint::Chat)),
    Row {
        recorded: Some(("vllm", &["router-"])),
        live: &[
            ("router_live", "ids_usage_comments_and_headers_pass_through_the_router"),
            ("router_live", "a_worker_that_dies_in_mid_stream_is_a_typed_error_after_its_tokens"),
        ],
        ..row("vllm-router", Some(&ServerKind::Vllm), Endpoint::OpenAi)
    },
    Row { recorded: Some(("vllm", &["sglrouter-"])), ..row("sglang-router", None, Endpoint::OpenAi) },
    Row { recorded: Some(("vllm", &["sglrouter-"])), ..row("sglang-router", None, Endpoint::Chat) },
    of("litellm", row("LiteLLM proxy", None, Endpoint::OpenAi)),
    of("litellm", row("LiteLLM proxy", None, Endpoint::Chat)),
];

/// The number of times that each fact appears in recordings and in vectors.
#[derive(Default)]
struct Seen(BTreeMap<String, (usize, usize)>);

impl Seen {
    fn add(&mut self, what: impl Into<String>, recorded: bool) {
        let (r, s) = self.0.entry(what.into()).or_default();
        *(if recorded { r } else { s }) += 1;
    }

    fn cell(&self) -> String {
        let count = |n: usize, letter| if n > 0 { format!(" {n}{letter}") } else { String::new() };
        let cells = self.0.iter().map(|(what, (r, s))| format!("{what}{}{}", count(*r, 'r'), count(*s, 's')));
        cells.collect::<Vec<_>>().join(", ")
    }
}

impl Seen {
    /// Returns the code that shows how it is known that this server accepts `what`.
    fn known(&self, what: &str, row: &Row) -> String {
        match (self.0.get(what), row.known) {
            (Some((r, _)), _) => format!("{r}r"),
            (None, Some(_)) => "s".to_owned(),
            (None, None) => "u".to_owned(),
        }
    }
}

/// All facts about one row.
#[derive(Default)]
pub struct Gathered {
    /// The number of recordings. `written` is the number of vectors.
    pub recorded: usize,
    pub written: usize,
    /// The kinds of prompts and the keys that request ids, in requests with a 2xx status.
    taken: Seen,
    ids: Seen,
    usage: Seen,
    calls: Seen,
    pub ends: Ends,
    errors: Seen,
}

#[derive(Default)]
pub struct Ends {
    seen: Seen,
    /// True if a stream broke off.
    pub broken: bool,
    /// True if the server sent an error.
    pub errors: bool,
}

impl Gathered {
    fn stream(&mut self, decoded: &Decoded, asked_for_ids: bool, recorded: bool) {
        let decoder = &decoded.decoder;
        let has_text = decoded
            .items
            .iter()
            .any(|(_, item)| matches!(item, StreamToken::Token { .. } | StreamToken::Reasoning { .. }));
        if has_text && asked_for_ids {
            self.ids.add(exact(decoder.ids_exact()), recorded);
        }
        if decoder.usage().is_some() {
            self.usage.add("yes", recorded);
        }
        if decoded.items.iter().any(|(_, item)| matches!(item, StreamToken::ToolCall(_))) {
            self.calls.add("yes", recorded);
        }
        match &decoded.end {
            Ok(completion) => {
                let finish = completion.finish.as_ref().map_or("no finish reason", |finish| finish.as_str());
                self.ends.seen.add(finish, recorded);
            }
            Err(error) if error.kind() == ErrorKind::Server => {
                self.ends.errors = true;
                let status = error.status().map_or("without status".to_owned(), |status| status.to_string());
                self.errors.add(format!("in the stream: {status}"), recorded);
            }
            Err(error) => {
                self.ends.broken |= error.kind() == ErrorKind::Incomplete;
                self.errors.add(format!("`{}`", error.kind().as_str()), recorded);
            }
        }
    }
}

fn exact(ids: IdsExact) -> &'static str {
    match ids {
        IdsExact::Yes => "exact",
        IdsExact::Unknown => "not counted",
        IdsExact::No(Inexact::NoIds) => "none",
        IdsExact::No(Inexact::Dropped) => "dropped",
        IdsExact::No(Inexact::TextWithoutId) => "some missing",
        IdsExact::No(Inexact::LostInCharacter { .. }) => "lost inside characters",
        IdsExact::No(_) => "different count",
        other => panic!("{other:?}"),
    }
}

/// The keys that request ids, for all servers.
const ASKS: [&str; 4] = ["return_token_ids", "return_tokens", "verbose", "logprobs"];

/// Returns whether this request contains a key for ids that this server reads.
fn asks_for_ids(row: &Row, body: &Value) -> bool {
    let heeded: &[&str] = match row.wire {
        // These endpoints always send ids.
        Endpoint::LlamaCpp | Endpoint::VllmGenerate => return true,
        _ if row.known == Some(&ServerKind::LlamaCpp) => &["verbose", "logprobs"],
        _ => &["return_token_ids"],
    };
    heeded.iter().any(|key| is_set(body, key))
}

fn is_set(body: &Value, key: &str) -> bool {
    !matches!(body[key], Value::Null | Value::Bool(false))
}

/// Returns the kind of the prompt in a request.
fn prompt_kind(body: &Value) -> Option<&'static str> {
    let prompt = body.get("prompt").or_else(|| body.get("token_ids"));
    match prompt {
        Some(Value::String(_)) => Some("text"),
        Some(Value::Array(items)) if items.iter().all(Value::is_u64) => Some("ids"),
        _ => body.get("messages").map(|_| "messages"),
    }
}

/// Collects everything by row. A stream that belongs to no row is an error.
pub fn gather() -> Result<Vec<Gathered>, String> {
    let mut all: Vec<Gathered> = ROWS.iter().map(|_| Gathered::default()).collect();
    for folder in ["vllm", "llama.cpp"] {
        let mut files: Vec<_> =
            std::fs::read_dir(super::data(folder)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        for path in files {
            gather_recording(folder, &path, &mut all)?;
        }
    }
    for (file, case) in &vectors::vectors() {
        gather_vector(file, case, &mut all)?;
    }
    Ok(all)
}

fn gather_recording(folder: &str, path: &Path, all: &mut [Gathered]) -> Result<(), String> {
    let name = path.file_name().unwrap().to_str().unwrap();
    if !name.ends_with(".response.http") && !name.ends_with(".raw") {
        return Ok(());
    }
    let recording = fixture::load(path).map_err(|error| format!("{name}: {error}"))?;
    let endpoint = recording.request().path.split('?').next().unwrap_or_default().to_owned();
    let mine = |row: &&(usize, &Row)| {
        let named = row.1.recorded.is_some_and(|(of, names)| {
            let other = ROWS.iter().filter_map(|row| row.recorded).flat_map(|(_, names)| names);
            let is_others = names.is_empty() && other.clone().any(|start| name.starts_with(start));
            of == folder
                && !is_others
                && (names.is_empty() || names.iter().any(|start| name.starts_with(start)))
        });
        named && row.1.path() == endpoint
    };
    let rows: Vec<_> = ROWS.iter().enumerate().collect();
    let Some((n, row)) = rows.iter().find(mine) else {
        // Lists of models, health checks and token lists are not streams.
        let streams = ROWS.iter().any(|row| row.path() == endpoint);
        return if streams { Err(format!("{name} belongs to no row")) } else { Ok(()) };
    };
    let gathered = &mut all[*n];
    gathered.recorded += 1;
    let response = Response::read(path);
    let body: Value = serde_json::from_slice(recording.request_body()).unwrap_or_default();
    if response.status / 100 == 2 {
        for what in prompt_kind(&body).into_iter().chain(ASKS.into_iter().filter(|key| is_set(&body, key))) {
            gathered.taken.add(what, true);
        }
    }
    if response.is_event_stream() {
        let decoded = decode(&response.body, &[], ChunkDecoder::new(row.wire).max_choices(4));
        gathered.stream(&decoded, asks_for_ids(row, &body), true);
    } else if response.status / 100 != 2 {
        gathered.ends.errors = true;
        gathered.errors.add(format!("HTTP {}", response.status), true);
    }
    Ok(())
}

fn gather_vector(file: &str, case: &Case, all: &mut [Gathered]) -> Result<(), String> {
    let rows: Vec<usize> = (0..ROWS.len()).filter(|n| ROWS[*n].vectors == Some(file)).collect();
    if rows.is_empty() {
        // The vectors of this file do not belong to one server.
        return Ok(());
    }
    let (decoded, _) = vectors::decode(case);
    let wire = decoded.decoder.endpoint();
    let row = rows.iter().find(|n| ROWS[**n].wire == wire);
    // An error as the first event does not show the endpoint.
    let row = row.or_else(|| rows.first().filter(|_| wire == Endpoint::Auto));
    let gathered = &mut all[*row.ok_or_else(|| format!("{file}: {} is {wire}", case.id))?];
    gathered.written += 1;
    gathered.stream(&decoded, true, false);
    Ok(())
}

/// Returns the kinds of prompts that tokenwire sends to this row and does not reject.
fn prompts(row: &Row, taken: &Seen) -> String {
    let takes = [
        ("ids", CompletionRequest::ids([1])),
        ("text", CompletionRequest::text("Hi")),
        ("messages", CompletionRequest::messages([Message::user("Hi")])),
    ];
    let kept = takes.iter().filter(|(_, request)| request.to_json(None, row.wire, row.known).is_ok());
    kept.map(|(name, _)| format!("{name} {}", taken.known(name, row))).collect::<Vec<_>>().join(", ")
}

/// Returns the keys that tokenwire sends to request ids from the server of this row.
fn asks(row: &Row, taken: &Seen) -> String {
    let prompt = |request: CompletionRequest| request.to_json(None, row.wire, row.known).ok();
    let body = prompt(CompletionRequest::text("Hi")).or_else(|| prompt(CompletionRequest::ids([1])));
    let body: Value = serde_json::from_slice(&body.unwrap()).unwrap();
    let keys = ASKS.iter().filter(|key| body.get(**key).is_some());
    keys.map(|key| format!("`{key}` {}", taken.known(key, row))).collect::<Vec<_>>().join(", ")
}

/// The text between the two tables. It explains the codes of the second table.
const DETAILS: &str = "
## Details

Counts end with the code of their source:

| code | meaning |
| --- | --- |
| `12r` | seen in 12 recordings of the real server |
| `8s` | seen in 8 test cases written from the source or the documentation of the server |
| `s` | known only from the source or the documentation of the server |
| `u` | sent to every server that tokenwire cannot identify |

The columns:

| column | meaning |
| --- | --- |
| prompt | the kinds of prompts that tokenwire sends to this server once it is known. `12r` counts \
recorded requests with this prompt that succeeded. tokenwire rejects any other kind with a typed \
error, because the server would reject or misread it |
| request for ids | the fields that tokenwire sends to request ids. `12r` counts recorded requests \
with this field that succeeded |
| ids in streams | streams whose request included a field for ids, or whose endpoint always sends \
ids. Test cases have no request, and all of them count. *exact*: all ids arrived, and the count of \
the server agrees. *not counted*: ids arrived, and the stream has no count to compare with. The \
other words give the reason why ids are missing; see [`Inexact`](crate::Inexact): *none* is `NoIds`, \
*dropped* is `Dropped`, *some missing* is `TextWithoutId`, *lost inside characters* is \
`LostInCharacter`, *different count* is `CountDiffers` |
| usage, tool calls | the streams that contained them |
| finish | the finish reasons, in the words of the server. *no finish reason*: the stream was complete \
without one |
| errors | *HTTP*: the status of a rejected request. *in the stream*: the status in an error event. \
`incomplete`: the connection ended before the stream was complete. `protocol`: a protocol \
violation |
| live | the tests against a real program that `.ci/run` starts: llama.cpp's server, or vllm-router \
in front of scripted workers |

";

/// Returns the tables and the text between them, in Markdown.
pub fn table(all: &[Gathered]) -> String {
    summary(all) + DETAILS + &details(all)
}

fn summary(all: &[Gathered]) -> String {
    let mut table = format!(
        "{TABLE_BEGIN} endpoint | token ids | usage | tool calls | resume | tested with |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n"
    );
    for (row, seen) in ROWS.iter().zip(all) {
        let is_chat = row.wire == Endpoint::Chat;
        let or_not_seen = |seen: &Seen| if seen.0.is_empty() { "not seen" } else { "yes" };
        let ids = seen.id_streams();
        writeln!(
            table,
            "| {} | `{}` | {} | {} | {} | {} | {} |",
            row.server,
            row.path(),
            ids.summary(),
            or_not_seen(&seen.usage),
            if is_chat { or_not_seen(&seen.calls) } else { "-" },
            resume(row, &ids),
            sources(row, seen),
        )
        .unwrap();
    }
    table
}

/// The streams whose request contained a key for ids.
struct IdStreams {
    all: usize,
    /// The number of streams with all ids, confirmed by the server's count.
    exact: usize,
    /// The number of streams with all ids, including streams whose server does not count the ids.
    complete: usize,
    /// The number of streams without any id.
    without: usize,
}

impl Gathered {
    fn id_streams(&self) -> IdStreams {
        let count = |kinds: &[&str]| {
            let chosen = self.ids.0.iter().filter(|(kind, _)| kinds.contains(&kind.as_str()));
            chosen.map(|(_, (r, s))| r + s).sum()
        };
        let all = self.ids.0.values().map(|(r, s)| r + s).sum();
        IdStreams {
            all,
            exact: count(&["exact"]),
            complete: count(&["exact", "not counted"]),
            without: count(&["none", "dropped"]),
        }
    }
}

impl IdStreams {
    fn summary(&self) -> String {
        match self {
            Self { all: 0, .. } => "not seen".to_owned(),
            Self { all, exact, .. } if exact == all => "all".to_owned(),
            Self { all, complete, .. } if complete == all => "all, as far as the server counts".to_owned(),
            Self { all, without, .. } if without == all => "none".to_owned(),
            Self { all, complete, .. } => format!("some: all ids in {complete} of {all} streams"),
        }
    }
}

/// Returns whether a broken stream can be resumed. It needs a prompt of ids and all received ids.
fn resume(row: &Row, ids: &IdStreams) -> &'static str {
    let takes_ids = CompletionRequest::ids([1]).to_json(None, row.wire, row.known).is_ok();
    match (takes_ids && ids.complete > 0, row.known) {
        (true, Some(_)) => "yes",
        (true, None) => "not known",
        (false, _) => "no",
    }
}

fn sources(row: &Row, seen: &Gathered) -> String {
    let live = (!row.live.is_empty()).then(|| "live server".to_owned());
    let recorded = (seen.recorded > 0).then(|| counted(seen.recorded, "recording"));
    let written = (seen.written > 0).then(|| counted(seen.written, "case") + " from documentation");
    live.into_iter().chain(recorded).chain(written).collect::<Vec<_>>().join(", ")
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn details(all: &[Gathered]) -> String {
    let mut table = String::from(
        "| server | endpoint | prompt | request for ids | ids in streams | usage | tool calls | finish | errors \
         | live |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for (row, seen) in ROWS.iter().zip(all) {
        let known = [("r", seen.recorded), ("s", seen.written)];
        let known = known.iter().filter(|(_, n)| *n > 0).map(|(letter, n)| format!("{n}{letter}"));
        let live = row.live.iter().map(|(_, test)| test.replace('_', " "));
        writeln!(
            table,
            "| {} ({}) | `{}` | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.server,
            known.collect::<Vec<_>>().join(", "),
            row.path(),
            prompts(row, &seen.taken),
            asks(row, &seen.taken),
            seen.ids.cell(),
            seen.usage.cell(),
            seen.calls.cell(),
            seen.ends.seen.cell(),
            seen.errors.cell(),
            live.collect::<Vec<_>>().join("; "),
        )
        .unwrap();
    }
    table
}
