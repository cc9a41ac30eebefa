//! The property of the chunk decoder, for arbitrary bytes:
//!
//! - It does not panic.
//! - It does not lose or invent tokens.
//! - Its ids are the ids in the JSON, as an independent reader (a `Value` tree) finds them.
//! - A learned template does not change the result.
//!
//! A fuzz target calls this function.

use std::collections::HashMap;

use serde::de::IgnoredAny;
use serde_json::Value;
use tokenwire::{
    BodyDecoder, ChunkDecoder, CompletionResponse, Endpoint, ErrorKind, Flow, Step, StreamToken, TokenId,
};

const WIRES: [Endpoint; 7] = [
    Endpoint::OpenAi,
    Endpoint::Chat,
    Endpoint::LlamaCpp,
    Endpoint::VllmGenerate,
    Endpoint::SgLang,
    Endpoint::Tgi,
    Endpoint::Auto,
];

/// Checks one input. The first byte selects the endpoint, and how the rest is read:
///
/// - below 128: as lines, which are the data of events
/// - below 224: as changes to recorded chunks
/// - otherwise: as random choices, one byte each. The choices build lines from parts of real
///   chunks, as in [`generated`].
pub(crate) fn chunk(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let wire = WIRES[usize::from(*first) % WIRES.len()];
    let lines_hold = |text: &str| {
        learning_makes_no_difference(wire, text.split('\n'));
        is_read_right(wire, text);
    };
    match first {
        0..128 => lines_hold(&String::from_utf8_lossy(rest)),
        128..224 => {
            let bases: Vec<&str> = RECORDED.iter().flat_map(|body| data_lines(body)).collect();
            let chunks = changed(&bases, rest);
            learning_makes_no_difference(wire, chunks.iter().map(String::as_str));
        }
        _ => {
            let (mut choices, mut lines) = (Random::Bytes(rest), Vec::new());
            while !matches!(choices, Random::Bytes([])) {
                line(&mut choices, &mut lines);
            }
            lines_hold(&String::from_utf8_lossy(&lines));
        }
    }
}

fn is_read_right(wire: Endpoint, text: &str) {
    let mut decoder = ChunkDecoder::new(wire).max_choices(3);
    let mut total = 0;
    // The ids that each choice has so far. Only SGLang needs them.
    let mut so_far: HashMap<u32, Vec<TokenId>> = HashMap::new();
    for data in text.split('\n') {
        whole(wire, data);
    }
    for data in text.split('\n') {
        let before = decoder.skipped();
        let mut ids = Vec::new();
        let mut said = String::new();
        let mut count = 0;
        let result = decoder.decode("message", data, &mut |choice, item| {
            assert!(choice < 3);
            let (text, id) = match item {
                StreamToken::Token { text, id } => (text, id),
                StreamToken::Reasoning { text, id } if matches!(wire, Endpoint::Chat | Endpoint::Auto) => {
                    (text, id)
                }
                StreamToken::ToolCall(call) if matches!(wire, Endpoint::Chat | Endpoint::Auto) => {
                    return assert!(call.arguments.is_object() && !call.name.is_empty());
                }
                StreamToken::MalformedCall { .. } if matches!(wire, Endpoint::Chat | Endpoint::Auto) => {
                    return;
                }
                other => panic!("{wire} {other:?}"),
            };
            assert!(id.is_some() || !text.is_empty(), "a token has a text or an id");
            count += 1;
            ids.extend(id);
            said.push_str(&text);
        });
        total += count;
        assert_eq!(decoder.tokens(), total);
        match &result {
            Ok(flow) => {
                let not_json = !matches!(serde_json::from_str(data), Ok(Value::Object(_) | Value::Null));
                if let Ok(value) = serde_json::from_str::<Value>(data) {
                    let skipped = decoder.skipped() > before;
                    assert_eq!(skipped, not_json, "{data}");
                    // With `Auto`, the position of the fields depends on the earlier chunks.
                    if wire == Endpoint::SgLang {
                        let had = so_far.entry(index_of(&value)).or_default();
                        assert_eq!(ids, new_ids_in(&value, had), "{data}");
                        had.extend(&ids);
                    } else if wire != Endpoint::Auto {
                        assert_eq!(ids, ids_in(&value, wire), "{wire} {data}");
                        assert_eq!(said, text_in(&value, wire), "{wire} {data}");
                    }
                } else if serde_json::from_str::<IgnoredAny>(data).is_err() {
                    // Invalid JSON is skipped. In a value that it ignores, serde_json accepts half
                    // of a surrogate pair. The decoder accepts it too.
                    match flow {
                        Flow::Ended => assert_eq!(data.trim(), "[DONE]"),
                        Flow::More => assert_eq!((decoder.skipped(), count), (before + 1, 0), "{data}"),
                    }
                }
            }
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::Server | ErrorKind::Protocol | ErrorKind::Limit(_)),
                    "{error}"
                )
            }
        }
        match result {
            Ok(Flow::More) => {}
            Ok(Flow::Ended) => break,
            Err(_) => {
                // After an error, every call fails and returns no tokens.
                let again = decoder.decode("message", data, &mut |_, _| panic!("a token after the error"));
                assert!(again.is_err() && decoder.finish().is_err());
                return;
            }
        }
    }
    let counted = decoder.usage().map(|usage| u64::from(usage.completion_tokens));
    if decoder.finish().is_ok_and(|completion| completion.ids_exact.is_exact()) {
        if let Some(counted) = counted {
            assert_eq!(counted, decoder.ids(), "exact ids have the count that the server sent");
        }
    }
}

/// Checks a complete response. Its ids are the ids in the JSON. If the ids are exact, their number
/// is the count that the server sent.
fn whole(wire: Endpoint, data: &str) {
    let Ok(answer) = CompletionResponse::from_json(wire, data.as_bytes()) else { return };
    // Half of a surrogate pair is invalid for a reader that parses every value.
    let Ok(mut value) = serde_json::from_str::<Value>(data) else {
        return assert!(serde_json::from_str::<IgnoredAny>(data).is_ok(), "{data}");
    };
    for choice in value["choices"].as_array_mut().into_iter().flatten() {
        if let Some(message) = choice.get("message").cloned() {
            choice["delta"] = message;
        }
    }
    let numbers = |list: &Value| -> Vec<TokenId> {
        list.as_array().into_iter().flatten().map(|id| id.as_f64().unwrap() as TokenId).collect()
    };
    let expected = match wire {
        // The position of the fields depends on the form of the response.
        Endpoint::Auto => answer.ids.clone(),
        Endpoint::SgLang => numbers(&value["output_ids"]),
        Endpoint::Tgi => {
            let tokens = value["details"]["tokens"].as_array().into_iter().flatten();
            tokens.map(|token| token["id"].as_f64().unwrap() as TokenId).collect()
        }
        _ => ids_in(&value, wire),
    };
    assert_eq!(answer.ids, expected, "{wire} {data}");
    if let (true, Some(usage)) = (answer.ids_exact.is_exact(), answer.usage) {
        assert_eq!(u64::from(usage.completion_tokens), answer.ids.len() as u64, "{wire} {data}");
    }
    assert!(answer.tool_calls.iter().all(|call| call.arguments.is_object() && !call.name.is_empty()));
}

// The learned template

/// The recorded streams of each endpoint, whose chunks are changed.
const RECORDED: [&str; 11] = [
    include_str!("../data/vllm/completion-usage-continuous.response.http"),
    include_str!("../data/vllm/completion-n2.response.http"),
    include_str!("../data/vllm/completion-logprobs.response.http"),
    include_str!("../data/vllm/chat-reasoning.response.http"),
    include_str!("../data/vllm/chat-logprobs.response.http"),
    include_str!("../data/vllm/generate-tokens.response.http"),
    include_str!("../data/llama.cpp/completion-return-tokens.raw"),
    include_str!("../data/llama.cpp/completion-n-probs.raw"),
    include_str!("../data/llama.cpp/completions-ids-verbose-short.raw"),
    include_str!("../data/llama.cpp/completions-logprobs.raw"),
    include_str!("../data/llama.cpp/chat-logprobs.raw"),
];

/// Returns the contents of the `data` lines in a recorded body.
pub(crate) fn data_lines(body: &str) -> impl Iterator<Item = &str> {
    body.lines().filter_map(|line| line.strip_prefix("data: {").map(|_| &line["data: ".len()..]))
}

/// Checks that decoders with and without a learned template return the same results for all events.
/// The decoders also read the events as parts of a body.
pub(crate) fn learning_makes_no_difference<'a>(
    wire: Endpoint,
    events: impl Iterator<Item = &'a str> + Clone,
) {
    for max_choices in [1, 3] {
        let decoder = |learning| ChunkDecoder::new(wire).max_choices(max_choices).learning(learning);
        let (mut learning, mut plain) = (decoder(true), decoder(false));
        let mut body = BodyDecoder::new(wire).max_choices(max_choices);
        let mut in_body = true;
        for data in events.clone() {
            let say = |decoder: &mut ChunkDecoder| {
                let mut items = Vec::new();
                let flow = decoder.decode("message", data, &mut |choice, item| items.push((choice, item)));
                let said = format!("{items:?} {flow:?}");
                (said, flow)
            };
            let (expected, flow) = say(&mut plain);
            assert_eq!(say(&mut learning).0, expected, "{wire} {data}");
            assert_eq!(state(&learning), state(&plain), "{wire} {data}");
            // Data that contains a line break is not a single line of a body.
            in_body &= !data.contains(['\r', '\n']);
            if in_body {
                body.feed(format!("data: {data}\n\n").as_bytes());
                let mut items = Vec::new();
                let step = body.decode_event(&mut |choice, item| items.push((choice, item)));
                let as_flow = match &step {
                    Ok(Step::Event) => Ok(Flow::More),
                    Ok(Step::Ended) => Ok(Flow::Ended),
                    Ok(Step::More) => panic!("no event in {data}"),
                    Err(error) => Err(error),
                };
                assert_eq!(format!("{items:?} {as_flow:?}"), expected, "{wire} in a body: {data}");
                assert_eq!(state(body.chunks()), state(&plain), "{wire} in a body: {data}");
            }
            if !matches!(flow, Ok(Flow::More)) {
                break;
            }
        }
        assert_eq!(format!("{:?}", learning.finish()), format!("{:?}", plain.finish()));
    }
}

/// Returns the whole visible state of a decoder.
fn state(decoder: &ChunkDecoder) -> String {
    let finish: Vec<_> = (0..3).map(|choice| decoder.finish_reason(choice)).collect();
    let counts = (decoder.tokens(), decoder.ids(), decoder.skipped(), decoder.usage(), decoder.ids_exact());
    let told = (decoder.endpoint(), decoder.server(), decoder.request_id(), decoder.first_skipped());
    format!("{finish:?} {counts:?} {told:?}")
}

/// The texts that replace a value, a key, a bracket or a comma.
const CHANGES: [&str; 64] = [
    "0",
    "1",
    "7",
    "42",
    "00",
    "-1",
    "-0",
    "1.0",
    "0.5",
    "1e5",
    "1e999",
    "1E+2",
    "12.",
    "4294967295",
    "4294967296",
    "99999999999999999999",
    "-1.1920928955078125e-07",
    "null",
    "nul",
    "true",
    "false",
    "\"\"",
    "\"a\"",
    "\" b\"",
    "\"\\n\"",
    "\"\\u00e9\"",
    "\"\\ud800\"",
    "\"\\ud83d\\ude00\"",
    "\"\\x\"",
    "\"\u{1}\"",
    "\"\t\"",
    "\"é\"",
    "\"\u{1f600}\"",
    "\"\\\"\\\\\\/\"",
    "\"stop\"",
    "\"none\"",
    "\"error\"",
    "\"[DONE]\"",
    "[]",
    "[1]",
    "[1,2]",
    "[1, 2]",
    "[ 1]",
    "[1,]",
    "[null]",
    "[-1]",
    "[1.0]",
    "[[1]]",
    "{}",
    "{\"id\":5}",
    "{\"content\":\"c\"}",
    "{\"completion_tokens\":3}",
    "",
    " ",
    ",",
    ":",
    "}",
    "]",
    "\"",
    "\"text\":\"x\",",
    "\"error\":1,",
    "\"index\":1,",
    "\"finish_reason\":\"stop\",",
    "\"prompt_progress\":{},",
];

/// Returns a stream that repeats `bases` in order, with changes. Three bytes describe one change:
/// the position in the chunk, the replacement, and whether it replaces the part or is inserted
/// before it. If the first byte is 200 or more, up to 6 chunks stay unchanged before the change.
pub(crate) fn changed(bases: &[&str], bytes: &[u8]) -> Vec<String> {
    const MAX_CHUNKS: usize = 400;
    let mut bases = bases.iter().cycle();
    let mut out = Vec::new();
    for change in bytes.chunks_exact(3).take(MAX_CHUNKS) {
        let [place, what, how] = [change[0], change[1], change[2]].map(usize::from);
        let same = if place >= 200 { (place - 199) % 7 } else { 0 };
        out.extend(bases.by_ref().take(same).map(|base| (*base).to_owned()));
        let Some(base) = bases.next() else { break };
        let parts = parts(base);
        let (from, to) = parts[(place + 256 * (how / 2)) % parts.len()];
        let to = if how % 2 == 0 { to } else { from };
        out.push(format!("{}{}{}", &base[..from], CHANGES[what % CHANGES.len()], &base[to..]));
    }
    out
}

/// Returns the positions of all strings, words, numbers and punctuation of a JSON text.
fn parts(json: &str) -> Vec<(usize, usize)> {
    let (bytes, mut parts, mut at) = (json.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let from = at;
        at += 1;
        if bytes[from] == b'"' {
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at = (at + 1).min(bytes.len());
        } else if bytes[from].is_ascii_alphanumeric() || bytes[from] == b'-' {
            let is_more = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
            at += bytes[at..].iter().take_while(|byte| is_more(byte)).count();
        }
        parts.push((from, at));
    }
    parts
}

/// Returns random bytes for [`changed`].
pub(crate) fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::Seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..len).map(|_| random.below(256) as u8).collect()
}

/// Reads the ids of one chunk with slow, simple code. Works only for chunks that decode without an
/// error.
fn ids_in(chunk: &Value, wire: Endpoint) -> Vec<TokenId> {
    let numbers = |list: &Value| -> Option<Vec<TokenId>> {
        Some(list.as_array()?.iter().map(|id| id.as_f64().unwrap() as TokenId).collect())
    };
    let is_progress =
        |value: &Value| value.get("prompt_progress").is_some_and(|progress| !progress.is_null());
    if wire == Endpoint::Tgi {
        return chunk["token"]["id"].as_f64().map(|id| id as TokenId).into_iter().collect();
    }
    if wire == Endpoint::LlamaCpp {
        return if is_progress(chunk) { Vec::new() } else { numbers(&chunk["tokens"]).unwrap_or_default() };
    }
    let mut ids = Vec::new();
    for (i, choice) in chunk["choices"].as_array().into_iter().flatten().enumerate() {
        let verbose = &chunk["__verbose"];
        let has_verbose = i == 0 && wire != Endpoint::VllmGenerate;
        let in_logprobs = || {
            let entries = choice["logprobs"]["content"].as_array()?;
            let all = entries.iter().all(|entry| !entry["id"].is_null());
            all.then(|| entries.iter().map(|entry| entry["id"].as_f64().unwrap() as TokenId).collect())
        };
        let in_delta = choice["delta"]["token_id"].as_f64().map(|id| vec![id as TokenId]);
        ids.extend(match numbers(&choice["token_ids"]).or(in_delta) {
            Some(ids) => ids,
            None if has_verbose && (is_progress(chunk) || is_progress(verbose)) => Vec::new(),
            None => match numbers(&verbose["tokens"]) {
                Some(ids) if has_verbose => ids,
                _ => in_logprobs().unwrap_or_default(),
            },
        });
    }
    ids
}

/// Reads the text of one chunk with slow, simple code. serde_json decodes the escapes.
fn text_in(chunk: &Value, wire: Endpoint) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let choices = || chunk["choices"].as_array().into_iter().flatten();
    match wire {
        Endpoint::LlamaCpp => text(&chunk["content"]),
        Endpoint::Tgi => {
            let is_end =
                chunk["details"]["finish_reason"] == "eos_token" && chunk["token"]["special"] == true;
            if is_end { String::new() } else { text(&chunk["token"]["text"]) }
        }
        Endpoint::Chat => choices()
            .map(|choice| {
                let delta = &choice["delta"];
                let reasoning = [&delta["reasoning"], &delta["reasoning_content"]].map(text);
                let reasoning = reasoning.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
                reasoning + &text(&delta["content"])
            })
            .collect(),
        _ => choices().map(|choice| text(&choice["text"])).collect(),
    }
}

/// Returns the choice of an event that has no list of choices.
fn index_of(chunk: &Value) -> u32 {
    chunk["index"].as_f64().unwrap_or(0.0) as u32
}

/// Returns the ids that an SGLang event adds to the ids of the earlier events.
fn new_ids_in(chunk: &Value, had: &[TokenId]) -> Vec<TokenId> {
    let Some(list) = chunk["output_ids"].as_array() else { return Vec::new() };
    let ids: Vec<_> = list.iter().map(|id| id.as_f64().unwrap() as TokenId).collect();
    let counted = chunk["meta_info"]["completion_tokens"].as_f64().map(|count| count as usize);
    if counted == Some(had.len() + ids.len()) && counted != Some(ids.len()) {
        return ids;
    }
    assert!(ids.starts_with(had), "the ids changed, but the decoder accepted them: {chunk}");
    ids[had.len()..].to_vec()
}

/// Returns bytes that pass the first checks: parts of real chunks, combined at random.
pub(crate) fn generated(seed: u64) -> Vec<u8> {
    let mut random = Random::Seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut out = vec![random.below(128) as u8];
    for _ in 0..1 + random.below(8) {
        line(&mut random, &mut out);
    }
    if random.below(4) == 0 {
        let at = random.below(out.len());
        out[at] = random.below(128) as u8;
    }
    out
}

/// Appends the data of one event.
fn line(random: &mut Random<'_>, out: &mut Vec<u8>) {
    if random.below(12) == 0 {
        const ODD: [&str; 8] =
            ["[DONE]", "null", "{", "7", "[1]", "", r#"{"error":{"message":"m","code":500}}"#, "{}"];
        out.extend(ODD[random.below(ODD.len())].as_bytes());
    } else {
        out.extend(object(random, 0).as_bytes());
    }
    out.push(b'\n');
}

/// Makes the random choices of a test.
enum Random<'a> {
    /// An xorshift generator, which returns the same numbers for the same seed on every machine.
    Seed(u64),
    /// The bytes of a fuzzer. Each choice uses one byte. After the last byte, the choices are
    /// zeros.
    Bytes(&'a [u8]),
}

impl Random<'_> {
    fn below(&mut self, n: usize) -> usize {
        match self {
            Self::Seed(seed) => {
                *seed ^= *seed << 13;
                *seed ^= *seed >> 7;
                *seed ^= *seed << 17;
                (*seed >> 33) as usize % n
            }
            Self::Bytes([]) => 0,
            Self::Bytes([byte, rest @ ..]) => {
                let byte = usize::from(*byte);
                *self = Self::Bytes(rest);
                byte % n
            }
        }
    }
}

fn object(random: &mut Random<'_>, depth: usize) -> String {
    const KEYS: [&str; 40] = [
        "choices",
        "choices",
        "choices",
        "text",
        "delta",
        "content",
        "token_ids",
        "token_ids",
        "tokens",
        "tokens",
        "index",
        "finish_reason",
        "logprobs",
        "__verbose",
        "tokens_predicted",
        "tokens_evaluated",
        "stop",
        "stop_type",
        "prompt_progress",
        "usage",
        "completion_tokens",
        "reasoning",
        "tool_calls",
        "id",
        "request_id",
        "timings",
        "\\u0069ndex",
        "output_ids",
        "output_ids",
        "meta_info",
        "meta_info",
        "token",
        "generated_text",
        "details",
        "generated_tokens",
        "function",
        "name",
        "arguments",
        "token_id",
        "message",
    ];
    let fields: Vec<String> = (0..random.below(6))
        .map(|_| {
            let key = KEYS[random.below(KEYS.len())];
            format!("\"{key}\":{}", value_for(key, random, depth))
        })
        .collect();
    format!("{{{}}}", fields.join(","))
}

fn value_for(key: &str, random: &mut Random<'_>, depth: usize) -> String {
    const IDS: [&str; 9] = ["0", "1", "151645", "4294967295", "5.0", "1e2", "-1", "4294967296", "1.5"];
    const ANY: [&str; 10] =
        ["null", "true", "\"a\"", "\"\"", "\"\\n\\u00e9\"", "3", "-2", "{}", "[]", "\"stop\""];
    // Mostly use a value of the right type, so that most chunks pass the first check.
    if random.below(16) == 0 || depth > 3 {
        return ANY[random.below(ANY.len())].to_owned();
    }
    let list = |random: &mut Random<'_>, item: &dyn Fn(&mut Random<'_>) -> String| {
        let items: Vec<String> = (0..random.below(4)).map(|_| item(random)).collect();
        format!("[{}]", items.join(","))
    };
    match key {
        "choices" => list(random, &|random: &mut Random<'_>| object(random, depth + 1)),
        "token_ids" | "tokens" | "output_ids" => list(random, &|random: &mut Random<'_>| {
            let most = if random.below(8) == 0 { IDS.len() } else { 6 };
            IDS[random.below(most)].to_owned()
        }),
        "token_id" => IDS[random.below(IDS.len())].to_owned(),
        "logprobs" => {
            let content =
                list(random, &|random: &mut Random<'_>| format!("{{\"id\":{}}}", IDS[random.below(6)]));
            format!("{{\"content\":{content}}}")
        }
        "tool_calls" => list(random, &|random: &mut Random<'_>| object(random, depth + 1)),
        "delta" | "message" | "__verbose" | "usage" | "timings" | "meta_info" | "token" | "details"
        | "function" => object(random, depth + 1),
        "text" | "content" | "reasoning" | "id" | "request_id" => {
            const TEXTS: [&str; 8] = [
                "\"a\"",
                "\"\"",
                "\"\\n\\u00e9\"",
                "\" \"",
                "\"\\ud83d\\ude00\\/\\b\"",
                "\"é😀\\\"\"",
                "\"\\ud83d\"",
                "\"\\u0000\"",
            ];
            let most = if random.below(8) == 0 { TEXTS.len() } else { 6 };
            TEXTS[random.below(most)].to_owned()
        }
        "index" | "\\u0069ndex" => ["0", "1", "2", "2.0", "3"][random.below(5)].to_owned(),
        "finish_reason" | "stop_type" => {
            ["null", "\"stop\"", "\"limit\"", "\"error\"", "\"\""][random.below(5)].to_owned()
        }
        "stop" => ["true", "false", "null"][random.below(3)].to_owned(),
        "tokens_predicted" | "tokens_evaluated" | "completion_tokens" | "generated_tokens" => {
            random.below(6).to_string()
        }
        _ => ANY[random.below(ANY.len())].to_owned(),
    }
}
