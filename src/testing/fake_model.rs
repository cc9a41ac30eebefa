//! A model for tests of resumes: its next id is a hash of all earlier ids.

use serde_json::{Value, json};

use super::script::{Framing, Script};
use crate::recording::Request;

/// The id that ends an answer. It has no text.
const END: u32 = 0;
/// The ids from 1 to below `WORDS_END` are words and punctuation.
const WORDS_END: u32 = 96;
/// The id of the first half of a character. The next `HALVES` ids are second halves.
const HALF: u32 = 100;
const HALVES: u32 = 4;
/// The pieces of a tool call. A digit follows the piece `CALL_NUMBER`.
const CALL: u32 = 110;
const CALL_PIECES: [&str; 4] =
    ["<tool_call>", "\n{\"name\": \"look\",", " \"arguments\": {\"n\": ", "}}\n</tool_call>"];
const CALL_NUMBER: u32 = CALL + 2;
const DIGITS: u32 = 120;

/// A model that always gives the same answer to the same ids.
///
/// Its next id is a hash of all ids of the prompt and of the answer so far. You therefore know the
/// correct result of a resumed stream, wherever it breaks.
///
/// The path of the request selects the format of the request and of the stream:
///
/// | server | path |
/// | --- | --- |
/// | vLLM | `/v1/completions`, `/inference/v1/generate` |
/// | llama.cpp | `/completion` |
/// | SGLang | `/generate` |
///
/// The model reads these parts of the request:
///
/// - the prompt, which must be ids;
/// - the limits `max_tokens` and `min_tokens`, under the names that the server uses;
/// - the field `interval`: the number of ids in one event.
///
/// The id 0 ends an answer. The text consists of words, characters of two tokens, and tool calls in
/// the Hermes format. For llama.cpp, the text has no characters of two tokens, because llama.cpp
/// withholds their ids. It also has no such characters if `interval` is more than 1. If a prompt
/// ends inside a character, the model behaves like the real servers. vLLM begins its text with the
/// text of the whole prompt. SGLang omits the character.
///
/// ```
/// use tokenwire::testing::{FakeModel, MockServer};
/// use tokenwire::{ApiClient, SamplingParams};
///
/// let model = FakeModel::new(7);
/// let server = MockServer::start(move |request| model.answer(request))?;
/// let client = ApiClient::builder(server.url()).build()?;
/// let (tokens, guard) = client.stream_completion(&[1, 2, 3], SamplingParams::default().max_tokens(20), None)?;
/// assert_eq!(guard.join().usage.map(|usage| usage.prompt_tokens), Some(3));
/// # Ok::<(), tokenwire::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct FakeModel {
    seed: u64,
    one_of: u64,
}

/// The streaming format of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Vllm,
    VllmGenerate,
    LlamaCpp,
    SgLang,
}

impl FakeModel {
    /// Creates a model. Each seed creates a different model.
    ///
    /// An answer has about 80 ids, if its limit allows this.
    pub fn new(seed: u64) -> Self {
        Self { seed, one_of: 80 }
    }

    /// Sets the average number of ids in an answer. With 0, an answer never ends by itself.
    pub fn ends_one_of(mut self, ids: u64) -> Self {
        self.one_of = ids;
        self
    }

    /// Answers a streaming request. A request that the model cannot read gets status 400.
    pub fn answer(&self, request: &Request) -> Script {
        self.events(request).map_or_else(refusal, Script::events)
    }

    /// Answers like [`answer`](Self::answer), but the end of the connection ends the body.
    ///
    /// The body has neither a length nor chunks. With `together`, all events are in one write.
    pub fn answer_until_close(&self, request: &Request, together: bool) -> Script {
        let Some(events) = self.events(request) else { return refusal() };
        let head = Script::new().head(200, &[("Content-Type", "text/event-stream")], Framing::CloseDelimited);
        if together {
            return head.write(events.iter().map(|data| format!("data: {data}\n\n")).collect::<String>());
        }
        events.iter().fold(head, |script, data| script.event(data))
    }

    /// Returns the data of the events without HTTP, for a test that splits the data itself.
    ///
    /// Returns `None` if the request is not a streaming request.
    #[must_use]
    pub fn events(&self, request: &Request) -> Option<Vec<String>> {
        let body = request.json();
        let path = request.path.as_str();
        let style = [
            ("/inference/v1/generate", Style::VllmGenerate),
            ("/generate", Style::SgLang),
            ("/v1/completions", Style::Vllm),
            ("/completion", Style::LlamaCpp),
        ];
        let style = style.into_iter().find(|(end, _)| path.ends_with(end))?.1;
        let nested = &body["sampling_params"];
        let (prompt, max, min) = match style {
            Style::Vllm => (&body["prompt"], &body["max_tokens"], &body["min_tokens"]),
            Style::LlamaCpp => (&body["prompt"], &body["n_predict"], &Value::Null),
            Style::VllmGenerate => (&body["token_ids"], &nested["max_tokens"], &nested["min_tokens"]),
            Style::SgLang => (&body["input_ids"], &nested["max_new_tokens"], &nested["min_new_tokens"]),
        };
        let prompt: Vec<u32> = serde_json::from_value(prompt.clone()).ok()?;
        let count = |value: &Value, default| value.as_u64().map_or(default, |n| n as usize);
        let interval = count(&body["interval"], 1).max(1);
        let halves = style != Style::LlamaCpp && interval == 1;
        let ids = self.next_ids(&prompt, count(max, 16), count(min, 0), halves);
        Some(style.events(&prompt, &ids, interval))
    }

    fn next_ids(&self, prompt: &[u32], max: usize, min: usize, halves: bool) -> Vec<u32> {
        let mut state = prompt.iter().fold(self.seed, |state, id| mix(state ^ u64::from(*id)));
        let mut last = prompt.last().copied().unwrap_or(END);
        let mut ids = Vec::new();
        while ids.len() < max {
            last = self.next_id(last, state, ids.len() >= min, halves);
            ids.push(last);
            state = mix(state ^ u64::from(last));
            if last == END {
                break;
            }
        }
        ids
    }

    fn next_id(&self, last: u32, state: u64, may_end: bool, halves: bool) -> u32 {
        let draw = |one_of: u64, salt: u64| mix(state ^ salt) % one_of;
        match last {
            // Usually, the next id is the second half of the character. Sometimes, it is another
            // id, so that half a character remains.
            HALF if draw(8, 1) > 0 => HALF + 1 + draw(HALVES.into(), 2) as u32,
            CALL_NUMBER => DIGITS + draw(10, 3) as u32,
            DIGITS..130 => CALL_NUMBER + 1,
            CALL..CALL_NUMBER => last + 1,
            _ if may_end && self.one_of > 0 && draw(self.one_of, 4) == 0 => END,
            _ if draw(30, 5) == 0 => CALL,
            _ if halves && draw(6, 6) == 0 => HALF,
            _ => 1 + draw(u64::from(WORDS_END) - 1, 7) as u32,
        }
    }
}

fn refusal() -> Script {
    Script::status(400)
        .json(r#"{"error":{"message":"no prompt of ids","type":"BadRequestError","code":400}}"#)
}

/// Mixes the bits of `state`, as in the last step of SplitMix64.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns the bytes of an id.
fn bytes_of(id: u32) -> Vec<u8> {
    match id {
        END => Vec::new(),
        1..10 => ["\n", ".", ",", "{", "}", "\"", "<", ">", ": "][id as usize - 1].into(),
        10..WORDS_END => format!(" w{id}").into(),
        HALF => vec![0xf0, 0x9f],
        101..=104 => vec![0x98, 0x80 + (id - HALF) as u8],
        CALL..=113 => CALL_PIECES[(id - CALL) as usize].into(),
        DIGITS..130 => (id - DIGITS).to_string().into(),
        other => format!(" {other}").into(),
    }
}

/// Decodes ids in the same way as the servers.
///
/// While a character is incomplete, the text is empty. A character that stays incomplete becomes
/// U+FFFD before the next text.
struct Decoder {
    unfinished: Vec<u8>,
    /// The text to put before the first text of the answer.
    front: Option<String>,
    /// True if the prompt ends inside a character and this character is omitted.
    loses: bool,
}

impl Decoder {
    fn new(style: Style, prompt: &[u32]) -> Self {
        let mut decoder = Self { unfinished: Vec::new(), front: None, loses: false };
        let text: String = prompt.iter().map(|id| decoder.push(*id)).collect();
        if !decoder.unfinished.is_empty() {
            decoder.front = (style == Style::Vllm).then_some(text);
            decoder.loses = style == Style::SgLang;
        }
        decoder
    }

    fn push(&mut self, id: u32) -> String {
        self.unfinished.extend(bytes_of(id));
        if self.unfinished.ends_with(&[0xf0, 0x9f]) || self.unfinished.is_empty() || id == END {
            return String::new();
        }
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.unfinished)).into_owned();
        if std::mem::take(&mut self.loses) {
            return String::new();
        }
        self.front.take().unwrap_or_default() + &text
    }
}

impl Style {
    fn events(self, prompt: &[u32], ids: &[u32], interval: usize) -> Vec<String> {
        let mut decoder = Decoder::new(self, prompt);
        let finish = if ids.last() == Some(&END) { "stop" } else { "length" };
        let counts = |done: usize| json!({"prompt_tokens": prompt.len(), "completion_tokens": done, "total_tokens": prompt.len() + done});
        let mut text_so_far = String::new();
        let mut events = Vec::new();
        let mut done = 0;
        for group in ids.chunks(if self == Self::LlamaCpp { 1 } else { interval }) {
            let text: String = group.iter().map(|id| decoder.push(*id)).collect();
            done += group.len();
            text_so_far += &text;
            let finish = (done == ids.len()).then_some(finish);
            events.push(match self {
                Self::Vllm => {
                    json!({"id": "cmpl-model", "object": "text_completion", "model": "model", "choices": [
                    {"index": 0, "text": text, "logprobs": null, "finish_reason": finish, "stop_reason": null,
                        "token_ids": group}]})
                }
                Self::VllmGenerate => json!({"request_id": "model", "choices": [
                    {"index": 0, "logprobs": null, "finish_reason": finish, "token_ids": group}]}),
                Self::LlamaCpp => {
                    json!({"index": 0, "content": text, "tokens": group, "stop": false, "id_slot": 0,
                    "tokens_predicted": done, "tokens_evaluated": prompt.len()})
                }
                Self::SgLang => {
                    json!({"text": text_so_far, "output_ids": ids[..done], "meta_info": {"id": "model",
                    "finish_reason": finish.map(|kind| json!({"type": kind})), "prompt_tokens": prompt.len(),
                    "completion_tokens": done, "cached_tokens": 0}})
                }
            });
        }
        match self {
            Self::Vllm => events.push(json!({"id": "cmpl-model", "choices": [], "usage": counts(done)})),
            Self::VllmGenerate => {
                events.push(json!({"request_id": "model", "choices": [], "usage": counts(done)}))
            }
            Self::LlamaCpp => events.push(json!({"index": 0, "content": "", "tokens": [], "stop": true,
                "stop_type": if finish == "stop" { "eos" } else { "limit" }, "tokens_predicted": done,
                "tokens_evaluated": prompt.len(), "truncated": false})),
            Self::SgLang => {}
        }
        let end = (self != Self::LlamaCpp).then(|| "[DONE]".to_owned());
        events.iter().map(Value::to_string).chain(end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the data of all events except the terminator.
    fn events(path: &str, body: Value) -> Vec<Value> {
        let request = Request::new("POST", path).with_body(body.to_string().into_bytes());
        let events = FakeModel::new(3).events(&request).unwrap();
        events.iter().filter_map(|data| serde_json::from_str(data).ok()).collect()
    }

    fn ids(path: &str, prompt: &[u32], max: usize) -> Vec<u64> {
        let body = match path {
            "/completion" => json!({"prompt": prompt, "n_predict": max}),
            "/v1/completions" => json!({"prompt": prompt, "max_tokens": max}),
            "/generate" => json!({"input_ids": prompt, "sampling_params": {"max_new_tokens": max}}),
            _ => json!({"token_ids": prompt, "sampling_params": {"max_tokens": max}}),
        };
        let list = |event: &Value| {
            let ids =
                [&event["tokens"], &event["choices"][0]["token_ids"]].into_iter().find(|ids| ids.is_array());
            ids.and_then(Value::as_array).cloned().unwrap_or_default()
        };
        let events = events(path, body);
        let all = match path {
            "/generate" => events.last().unwrap()["output_ids"].as_array().unwrap().clone(),
            _ => events.iter().flat_map(list).collect(),
        };
        all.iter().map(|id| id.as_u64().unwrap()).collect()
    }

    #[test]
    fn a_broken_answer_continues_where_it_stopped_on_every_endpoint() {
        for path in ["/v1/completions", "/completion", "/generate", "/inference/v1/generate"] {
            let whole = ids(path, &[5, 6], 60);
            for cut in 1..whole.len() {
                let prompt: Vec<u32> =
                    [5, 6].into_iter().chain(whole[..cut].iter().map(|id| *id as u32)).collect();
                assert_eq!(ids(path, &prompt, 60 - cut), whole[cut..], "{path} from {cut}");
            }
        }
    }

    #[test]
    fn a_prompt_that_ends_inside_a_character_changes_the_first_text_as_on_real_servers() {
        let text = |path: &str, prompt: &[u32]| {
            let body = json!({"prompt": prompt, "input_ids": prompt, "max_tokens": 1, "sampling_params": {"max_new_tokens": 1}});
            let event = events(path, body).swap_remove(0);
            [&event["choices"][0]["text"], &event["text"]]
                .into_iter()
                .find_map(Value::as_str)
                .unwrap()
                .to_owned()
        };
        assert!(text("/v1/completions", &[10, HALF]).starts_with(" w10"));
        assert_eq!(text("/generate", &[10, HALF]), "");
        assert!(!text("/v1/completions", &[10, 11]).contains("w10"));
    }
}
