//! Tests that every recording of a real server decodes to the contents that its README lists.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::checks::{each_row, in_sample};
use common::data;
use common::wire::{Decoded, Response, decode};
use serde_json::Value;
use tokenwire::{
    Branch, ChunkDecoder, Dialect, Endpoint, ErrorKind, IdsExact, Inexact, LeafKind, ResponseParser, Role,
    ServerKind, SseParser, TokenId,
};

fn decoder(wire: Endpoint) -> ChunkDecoder {
    ChunkDecoder::new(wire).max_choices(4)
}

/// Parses these reads and returns the events.
fn events(reads: &[&[u8]]) -> Vec<(String, String)> {
    let (mut parser, mut events) = (SseParser::new(), Vec::new());
    for read in reads {
        parser.feed(read);
        while let Some(event) = parser.next_event().unwrap() {
            events.push((event.event.to_owned(), event.data.to_owned()));
        }
    }
    events
}

/// Cuts a body once at every offset, or at a sample of offsets ([`in_sample`]). Only the events
/// around the cut are compared, because tokens are made only from events.
fn events_are_the_same_at_every_cut(name: &str, body: &[u8]) {
    let ends = (2..=body.len()).filter(|at| body[..*at].ends_with(b"\n\n"));
    let ends: Vec<usize> = [0].into_iter().chain(ends).chain([body.len()]).collect();
    for three in ends.windows(4) {
        let part = &body[three[0]..three[3]];
        let whole = events(&[part]);
        for cut in (three[0]..three[3]).filter(|cut| in_sample(*cut, 17)) {
            let (before, after) = part.split_at(cut - three[0]);
            assert!(events(&[before, after]) == whole, "{name} cut at {cut}");
        }
    }
}

/// Decodes a body as a whole and in single bytes, and parses its events with one cut at every
/// offset. All results must be equal.
fn decode_at_every_cut(name: &str, body: &[u8], wire: Endpoint) -> Decoded {
    let whole = decode(body, &[], decoder(wire));
    let check = |cuts: &[usize]| {
        let cut = decode(body, cuts, decoder(wire));
        assert_eq!(cut.summary(), whole.summary(), "{name} cut at {cuts:?}");
    };
    check(&(1..body.len()).collect::<Vec<_>>());
    if wire != Endpoint::Auto {
        events_are_the_same_at_every_cut(name, body);
    }
    whole
}

/// Returns the rows of the README's table that begins with the column `first`.
fn table(readme: &Path, first: &str) -> Vec<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(readme).unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|')
            .split(" | ")
            .map(|cell| cell.trim().trim_matches('|').trim().to_owned())
            .collect()
    };
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("| {first} |")));
    let columns = cells(lines.next().expect("the table"));
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| columns.iter().cloned().zip(cells(line)).collect())
        .collect()
}

/// Reads the ids in `data` lines with slow, simple code, in the order in which they appear.
fn ids_by_eye(body: &[u8], read: impl Fn(&Value) -> Vec<&Value>) -> Vec<TokenId> {
    let text = std::str::from_utf8(body).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let chunks: Vec<Value> = data.filter_map(|data| serde_json::from_str(data).ok()).collect();
    chunks.iter().flat_map(read).map(|id| TokenId::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

#[test]
fn every_vllm_recording_matches_its_table() {
    let folder = data("vllm");
    let rows = table(&folder.join("README.md"), "name");
    let mut streams = 0;
    each_row(&rows, |row| {
        let name = row["name"].as_str();
        let response = Response::read(&folder.join(format!("{name}.response.http")));
        assert_eq!(response.status.to_string(), row["status"], "{name}");
        assert_eq!(if response.complete { "complete" } else { "CUT" }, row["body"], "{name}");
        if !response.is_event_stream() {
            return;
        }
        streams += 1;
        let told = match row["request"].split(' ').nth(1).unwrap() {
            "/v1/completions" => Endpoint::OpenAi,
            "/v1/chat/completions" => Endpoint::Chat,
            "/inference/v1/generate" => Endpoint::VllmGenerate,
            other => panic!("{name}: {other}"),
        };
        for wire in [told, Endpoint::Auto] {
            let decoded = decode_at_every_cut(name, &response.body, wire);
            check_vllm(name, row, &decoded, &response.body);
            if !name.starts_with("error-200") && !name.starts_with("generate-error") {
                assert_eq!(decoded.decoder.endpoint(), told, "{name}");
                assert_eq!(decoded.decoder.server(), Some(ServerKind::Vllm), "{name}");
                let id = decoded.decoder.request_id().unwrap();
                assert!(
                    id.starts_with("cmpl-") || id.starts_with("chatcmpl-") || id.starts_with("generate-")
                );
            }
        }
    });
    assert!(
        rows.len() >= 90 && streams >= 65,
        "only {} rows and {streams} streams: was the table moved?",
        rows.len()
    );
}

fn check_vllm(name: &str, row: &BTreeMap<String, String>, decoded: &Decoded, body: &[u8]) {
    let count = |column: &str| row[column].parse().unwrap_or(0);
    if row["events"] != "-" {
        assert_eq!(decoded.events, count("events"), "{name}");
    }
    assert_eq!(decoded.ids().len(), count("ids"), "{name}");
    assert_eq!(decoded.decoder.ids(), decoded.ids().len() as u64, "{name}");
    let by_eye = ids_by_eye(body, |chunk| {
        let choices = chunk["choices"].as_array().into_iter().flatten();
        choices.filter_map(|choice| choice["token_ids"].as_array()).flatten().collect()
    });
    assert_eq!(decoded.ids(), by_eye, "{name}");
    assert_eq!(decoded.decoder.skipped(), 0, "{name}");
    let finish: Vec<&str> =
        (0..4).filter_map(|c| decoded.decoder.finish_reason(c)).map(|reason| reason.as_str()).collect();
    let finish = if finish.is_empty() { "-".to_owned() } else { finish.join(", ") };
    assert_eq!(finish, row["finish_reason"], "{name}");

    let has_ids = count("ids") > 0;
    match &decoded.end {
        Ok(completion) => {
            assert_ne!(finish, "-", "{name}");
            let exact = match (has_ids, completion.usage) {
                (false, _) => IdsExact::No(Inexact::NoIds),
                (true, None) => IdsExact::Unknown,
                (true, Some(_)) => IdsExact::Yes,
            };
            assert_eq!(completion.ids_exact, exact, "{name}");
        }
        Err(error) if row["body"] == "CUT" => {
            assert_eq!(error.kind(), ErrorKind::Incomplete, "{name}: {error}");
            assert_eq!(decoded.decoder.ids_exact(), IdsExact::Unknown, "{name}");
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Server, "{name}: {error}");
            let status = if name.starts_with("break-") { 500 } else { 400 };
            assert_eq!(error.status(), Some(status), "{name}: {error}");
            assert!(!error.server_error().unwrap().message.is_empty(), "{name}");
        }
    }
}

#[test]
fn usage_includes_its_details() {
    let usage_of = |server: &str, name: &str| {
        let response = Response::read(&data(server).join(name));
        decode(&response.body, &[], decoder(Endpoint::Auto)).end.unwrap().usage.unwrap()
    };
    each_row(
        [
            ("vllm", "interval3-usage-cached.response.http", 300, 2, Some(256), None),
            ("vllm", "chat-reasoning.response.http", 11, 13, None, Some(6)),
            ("vllm", "completion-usage-continuous.response.http", 5, 3, None, None),
            ("vllm", "completion-n2.response.http", 5, 12, None, None),
            ("vllm", "generate-tokens-usage-prompt-ids.response.http", 5, 4, Some(0), None),
            ("llama.cpp", "completions-ids-verbose.raw", 5, 6, Some(4), None),
            ("llama.cpp", "completions-n2.raw", 5, 8, Some(4), None),
            ("llama.cpp", "completions-two-prompts.raw", 8, 8, Some(4), None),
            ("llama.cpp", "chat-include-usage.raw", 34, 4, Some(33), None),
            // The native endpoint reports its cache hits in the timings.
            ("llama.cpp", "completion-return-tokens.raw", 5, 12, Some(4), None),
            ("llama.cpp", "completion-return-progress.raw", 721, 2, None, None),
        ],
        |(server, name, prompt, completion, cached, reasoning)| {
            let usage = usage_of(server, name);
            let found =
                (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens);
            assert_eq!(found, (prompt, completion, cached, reasoning), "{name}");
        },
    );
}

const YES: &str = "yes";
const NO_IDS: &str = "no ids";
const UNKNOWN: &str = "unknown";

/// The contents of llama.cpp's streams according to the raw files and the README. Each row has the
/// ids in order, the finish reasons (`-` for a stream that broke off), and whether the ids are
/// exact. `n of m` means that some ids were lost inside characters.
const LLAMA_CPP: &[(&str, &[TokenId], &str, &str)] = &[
    ("auth-ok", &[], "length", NO_IDS),
    ("chat-eos", &[], "stop", NO_IDS),
    ("chat-include-usage", &[], "length", NO_IDS),
    ("chat-logprobs", &[504, 768, 5452], "length", UNKNOWN),
    ("chat-plain", &[], "length", NO_IDS),
    ("chat-tools-call", &[], "tool_calls", NO_IDS),
    ("chat-tools-call-cut", &[], "length", NO_IDS),
    ("chat-tools-template-without-tools", &[], "length", NO_IDS),
    ("chat-utf8", &[], "stop", NO_IDS),
    ("chat-verbose-ids", &[], "length", NO_IDS),
    ("client-cut", &[], "-", NO_IDS),
    (
        "completion-context-full",
        &[504, 1296, 3003, 4683, 359, 504, 1296, 3003, 4683, 359, 504, 1296, 3003, 4683, 359, 504],
        "length",
        YES,
    ),
    ("completion-eos", &[10539, 28, 339, 416, 536, 357, 30, 2], "stop", YES),
    ("completion-n-probs", &[260, 3003, 4683, 282], "length", YES),
    ("completion-no-return-tokens", &[260, 3003, 4683, 282], "length", YES),
    ("completion-post-sampling-probs", &[260, 805, 4683], "length", YES),
    ("completion-return-progress", &[198, 504], "length", YES),
    ("completion-return-tokens", TWELVE, "length", YES),
    ("completion-stop-string", &[260, 3003, 4683, 282, 260, 35526, 2380, 1743, 28, 527, 359], "stop", YES),
    ("completion-string-prompt", &[260, 3003, 4683, 282], "length", YES),
    ("completion-utf8", &[250, 138, 230, 240, 230, 219, 240, 216, 95, 91, 0], "stop", "11 of 20"),
    ("completion-utf8-cut-by-n-predict", &[], "length", "0 of 2"),
    ("completion-utf8-n-probs", &[250, 138, 230, 240], "length", "4 of 8"),
    ("completions-accept-gzip", &[], "length", NO_IDS),
    ("completions-cold-no-cache", &[], "length", NO_IDS),
    ("completions-connection-close", &[], "length", NO_IDS),
    ("completions-context-full", &[], "length", NO_IDS),
    ("completions-eos", &[10539, 28, 339, 416, 536, 357, 30, 2], "stop", YES),
    ("completions-ids-library-params", &[], "length", NO_IDS),
    ("completions-ids-return-tokens", &[], "length", NO_IDS),
    ("completions-ids-verbose", &[260, 3003, 4683, 282, 260, 35526], "length", YES),
    ("completions-ids-verbose-short", TWELVE, "length", YES),
    ("completions-logprobs", &[260, 3003, 4683, 282, 260], "length", YES),
    ("completions-max-tokens-0", &[], "length", NO_IDS),
    ("completions-max-tokens-1", &[], "length", NO_IDS),
    ("completions-n2", &[], "length, length", NO_IDS),
    ("completions-ping", &[], "length", NO_IDS),
    ("completions-ping-before-first-token", &[], "length", NO_IDS),
    ("completions-queued-behind-another", &[], "length", NO_IDS),
    ("completions-stop-token-ids-ignored", TWELVE, "length", YES),
    ("completions-stream-options-usage", &[], "length", NO_IDS),
    ("completions-string", &[], "length", NO_IDS),
    ("completions-timings-per-token", &[], "length", NO_IDS),
    ("completions-two-prompts", &[], "length, length", NO_IDS),
    ("completions-utf8-cut-by-max-tokens", &[], "length", "0 of 1"),
    ("completions-utf8-logprobs", &[250, 138, 230], "length", "3 of 7"),
    ("completions-utf8-verbose", &[250, 138, 230, 240, 230, 219, 240, 216, 95, 91, 0], "stop", "11 of 20"),
    ("completions-warm-cache", &[], "length", NO_IDS),
    // The server generated no tokens, and its count is zero.
    ("error-empty-prompt", &[], "length", YES),
    ("killed-in-stream", &[], "-", NO_IDS),
    ("terminated-in-stream", &[], "-", NO_IDS),
];

const TWELVE: &[TokenId] = &[260, 3003, 4683, 282, 260, 35526, 2380, 1743, 28, 527, 359, 42];

#[test]
fn every_llama_cpp_recording_matches_its_raw_file() {
    let folder = data("llama.cpp");
    let mut left: BTreeMap<&str, _> = LLAMA_CPP.iter().map(|row| (row.0, row)).collect();
    let mut seen = BTreeSet::new();
    let rows = table(&folder.join("README.md"), "case");
    each_row(&rows, |row| {
        let name = row["case"].as_str();
        let response = Response::read(&folder.join(format!("{name}.raw")));
        assert_eq!(response.status.to_string(), row["status"].split(' ').next().unwrap(), "{name}");
        if !response.is_event_stream() {
            return;
        }
        let chat = row["request"].contains("/chat/");
        let native = row["request"].ends_with(" /completion");
        let told = if native {
            Endpoint::LlamaCpp
        } else if chat {
            Endpoint::Chat
        } else {
            Endpoint::OpenAi
        };
        for wire in [told, Endpoint::Auto] {
            let decoded = decode_at_every_cut(name, &response.body, wire);
            if name == "completion-long-100" {
                assert_eq!(decoded.ids().len(), 100);
                assert_eq!(decoded.end.unwrap().ids_exact, IdsExact::Yes);
            } else {
                let (_, ids, finish, exact) = left.get(name).unwrap_or_else(|| panic!("no row for {name}"));
                check_llama_cpp(name, &decoded, (ids, finish, exact));
            }
            assert_eq!(
                (decoded.decoder.endpoint(), decoded.decoder.server()),
                (told, Some(ServerKind::LlamaCpp)),
                "{name}"
            );
        }
        seen.insert(name);
    });
    left.retain(|name, _| !seen.contains(name));
    assert!(left.is_empty(), "rows without a recording: {:?}", left.keys());
}

fn check_llama_cpp(name: &str, decoded: &Decoded, (ids, finish, exact): (&[TokenId], &str, &str)) {
    assert_eq!(decoded.ids(), ids, "{name}");
    assert_eq!(decoded.decoder.skipped(), 0, "{name}");
    let told = match decoded.decoder.ids_exact() {
        IdsExact::Yes => YES.to_owned(),
        IdsExact::Unknown => UNKNOWN.to_owned(),
        IdsExact::No(Inexact::NoIds) => NO_IDS.to_owned(),
        IdsExact::No(Inexact::LostInCharacter { received, counted }) => format!("{received} of {counted}"),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(told, exact, "{name}");
    match &decoded.end {
        Ok(completion) => {
            let reasons = (0..4).filter_map(|c| decoded.decoder.finish_reason(c));
            assert_eq!(reasons.map(|r| r.as_str()).collect::<Vec<_>>().join(", "), finish, "{name}");
            assert_eq!(completion.ids_exact, decoded.decoder.ids_exact(), "{name}");
        }
        Err(error) => {
            assert_eq!((error.kind(), finish), (ErrorKind::Incomplete, "-"), "{name}: {error}");
            assert!(!decoded.items.is_empty(), "{name}: the tokens before the end are missing");
        }
    }
}

/// Reads the deltas of a chat's first choice with slow, simple code: reasoning, content, calls
/// (name, arguments) and ids.
type Said = (String, String, Vec<(String, Value)>, Vec<TokenId>);

fn said_by_eye(body: &[u8]) -> Said {
    let mut said = Said::default();
    let mut calls: BTreeMap<u64, (String, String)> = BTreeMap::new();
    let mut is_cut = false;
    let text = std::str::from_utf8(body).unwrap();
    for data in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let Ok(chunk) = serde_json::from_str::<Value>(data) else { continue };
        let choices = chunk["choices"].as_array().into_iter().flatten();
        for choice in choices.filter(|choice| choice["index"] == 0) {
            let delta = &choice["delta"];
            said.0 += delta["reasoning"].as_str().unwrap_or_default();
            said.1 += delta["content"].as_str().unwrap_or_default();
            for piece in delta["tool_calls"].as_array().into_iter().flatten() {
                let call = calls.entry(piece["index"].as_u64().unwrap()).or_default();
                call.0 += piece["function"]["name"].as_str().unwrap_or_default();
                call.1 += piece["function"]["arguments"].as_str().unwrap_or_default();
            }
            let ids = choice["token_ids"].as_array().into_iter().flatten();
            let logprobs = choice["logprobs"]["content"].as_array().into_iter().flatten();
            let ids = ids.chain(logprobs.map(|entry| &entry["id"])).filter_map(Value::as_u64);
            said.3.extend(ids.map(|id| id as TokenId));
            is_cut |= choice["finish_reason"] == "length";
        }
    }
    for (name, arguments) in calls.into_values() {
        match serde_json::from_str(&arguments) {
            Ok(arguments) => said.2.push((name, arguments)),
            Err(_) => assert!(is_cut, "{name}({arguments})"),
        }
    }
    said
}

#[test]
fn chats_decode_to_their_deltas_and_give_the_same_tree() {
    let (mut streams, mut with_calls, mut malformed) = (0, 0, 0);
    for (server, end) in [("vllm", ".response.http"), ("llama.cpp", ".raw")] {
        for file in std::fs::read_dir(data(server)).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let chats = ["chat", "interval3-chat", "abort-chat", "sglrouter-chat"];
            if !name.ends_with(end) || !chats.iter().any(|chat| name.starts_with(chat)) {
                continue;
            }
            let response = Response::read(&path);
            if !response.is_event_stream() {
                continue;
            }
            streams += 1;
            let said = said_by_eye(&response.body);
            let decoded = decode(&response.body, &[], decoder(Endpoint::Chat));
            let (sender, tokens) = crossbeam_channel::unbounded();
            let items = decoded.items.into_iter().filter(|(choice, _)| *choice == 0);
            items.for_each(|(_, item)| sender.send(item).unwrap());
            drop(sender);
            let tree = Arc::new(Mutex::new(Branch::new(Role::Assistant)));
            let (calls, handle) = ResponseParser::new(Dialect::chat()).run(tokens, tree.clone());
            // The channel ends without `Done`, which only a stream adds.
            assert!(handle.join().unwrap_err().is_cancelled());
            let branch = tree.lock().unwrap();
            let text = |kind: &LeafKind| -> String {
                branch
                    .leaves
                    .iter()
                    .filter(|leaf| leaf.kind == *kind)
                    .map(|leaf| leaf.text.as_str())
                    .collect()
            };
            let calls: Vec<_> = calls.iter().map(|call| (call.name, call.arguments)).collect();
            let in_tree: Vec<_> =
                branch.tool_calls().map(|call| (call.name.clone(), call.arguments.clone())).collect();
            assert_eq!(calls, in_tree, "{name}");
            let ids = branch.ids().collect();
            assert_eq!((text(&LeafKind::Reasoning), text(&LeafKind::Content), calls, ids), said, "{name}");
            if !said.3.is_empty() && !name.contains("logprobs") {
                assert_eq!(branch.ids_missing(), 0, "{name}");
                // The opening marker of a second call arrives before the decoder recognizes that
                // call.
                let first_call = branch.leaves.iter().find(|leaf| leaf.tool_call().is_some());
                first_call
                    .into_iter()
                    .for_each(|leaf| assert!(leaf.ids.contains(&151_657), "{name}: the opener is missing"));
            }
            with_calls += usize::from(!said.2.is_empty());
            malformed += branch.leaves.iter().filter(|leaf| leaf.kind.as_str() == "malformed").count();
        }
    }
    assert!(streams >= 20 && with_calls >= 4 && malformed == 1, "{streams} {with_calls} {malformed}");
}

#[test]
fn text_equals_the_models_output() {
    each_row(
        [
            ("vllm", "completion-utf8-held-back.response.http", "🦀 𓀀 é 👩\u{200d}🚀 ﷽"),
            ("vllm", "generate-text.response.http", " Paris 🦀 𓀀."),
            ("vllm", "generate-tokens.response.http", ""),
            ("vllm", "chat-reasoning.response.http", "\nThe user greets.\n\n\nHi there!"),
            ("vllm", "completion-special-hidden.response.http", "Hiuser\nOk"),
            ("llama.cpp", "completions-utf8-verbose.raw", "你好，世界！🤖 ok"),
            ("llama.cpp", "chat-utf8.raw", "你好，世界！🤖 ok"),
            ("llama.cpp", "completion-eos.raw", "Yes, I can do it."),
            ("llama.cpp", "completions-two-prompts.raw", " the \" primaryE colorsthan of\""),
        ],
        |(server, name, text)| {
            let response = Response::read(&data(server).join(name));
            assert_eq!(decode(&response.body, &[], decoder(Endpoint::Auto)).text(), text, "{name}");
        },
    );
}
