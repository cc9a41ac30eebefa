//! Tests of the conformance cases in `sse/conformance.jsonl`, at every cut that their README
//! requires.

mod common;

use common::checks::{each_row, in_sample};
use serde_json::{Value, json};
use tokenwire::SseParser;

/// The maximum length of a body that is tested at every single cut, and of a body that is tested at
/// every pair of cuts.
const MAX_ONE_CUT_BYTES: usize = 4 << 10;
const MAX_TWO_CUTS_BYTES: usize = 64;

#[test]
fn every_case_gives_the_same_result_at_every_cut() {
    let Some(path) = common::shared("cases/sse/conformance.jsonl") else { return };
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    each_row(text.lines(), |line| check(&serde_json::from_str(line).unwrap()));
    let cases = text.lines().count();
    assert!(cases >= 128, "only {cases} cases in {}", path.display());
}

fn check(case: &Value) {
    let body = body(case);
    let keys = ["events", "last_event_id", "retry", "comments", "incomplete"];
    let expected = Value::Object(keys.iter().map(|key| ((*key).to_owned(), case[*key].clone())).collect());
    let same = |reads: &[&[u8]]| {
        let lengths: Vec<usize> = reads.iter().map(|read| read.len()).collect();
        assert_eq!(run(reads), expected, "case {}, reads of {lengths:?}", case["name"]);
    };

    same(&[&body]);
    same(&body.chunks(1).collect::<Vec<_>>());
    if body.len() <= MAX_ONE_CUT_BYTES {
        for (i, _) in body.iter().enumerate() {
            same(&[&body[..i], &body[i..]]);
        }
    }
    if body.len() <= MAX_TWO_CUTS_BYTES {
        for i in 0..=body.len() {
            for j in (i..=body.len()).filter(|j| in_sample(i * 31 + j, 5)) {
                same(&[&body[..i], &body[i..j], &body[j..]]);
            }
        }
    }
}

/// Returns the result in the format of the cases.
fn run(reads: &[&[u8]]) -> Value {
    let mut parser = SseParser::new();
    let mut events = Vec::new();
    for read in reads {
        parser.feed(read);
        while let Some(event) = parser.next_event().unwrap() {
            events.push(json!({
                "event": event.event, "data": event.data, "id": event.id, "retry": event.retry
            }));
        }
    }
    let end = parser.finish();
    json!({
        "events": events, "last_event_id": end.last_event_id, "retry": end.retry, "comments": end.comments,
        "incomplete": end.incomplete
    })
}

fn body(case: &Value) -> Vec<u8> {
    match (&case["input"], &case["input_base64"]) {
        (Value::String(text), _) => text.clone().into_bytes(),
        (_, Value::String(text)) => decode_base64(text),
        _ => panic!("case {} has no input", case["name"]),
    }
}

/// Decodes the base64 that the cases contain, with the standard alphabet.
fn decode_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for c in text.bytes().filter(|c| *c != b'=') {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => panic!("not base64: {text}"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
