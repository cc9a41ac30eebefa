//! The outside cases of `cases/tool-calls`: one turn each, as a model of that family writes it, and what a right
//! parser makes of it. Each is fed whole, by characters and in random pieces, with ids made up; the tree, the
//! calls and the moments at which they are handed out must be the same.

mod common;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokenwire::{Branch, Dialect, FinishReason, LeafKind, Malformed, PendingToolCall, ResponseParser, Start};

/// Random ways of cutting a case, besides whole and by characters.
const RANDOM_CUTS: u64 = 40;

/// One case, from the outside or of our own: see the README beside the outside ones.
struct Case(Value);

impl Case {
    fn name(&self) -> &str {
        self.0["id"].as_str().unwrap_or_default()
    }

    fn text(&self) -> &str {
        self.0["text"].as_str().unwrap()
    }

    fn parser(&self) -> ResponseParser {
        let dialect = Dialect::by_name(self.0["format"].as_str().unwrap()).unwrap();
        let start = if self.0["start"] == "reasoning" { Start::Reasoning } else { Start::Content };
        let tools = self.0["tools"].as_array().cloned().unwrap_or_default();
        ResponseParser::new(dialect).tools(&tools).start(start)
    }

    /// Feeds pieces, each with an id of its own, and some ids without text between them. Returns the tree, the
    /// calls, and the byte at which each call was handed out.
    fn run(&self, pieces: &[&str]) -> (Branch, Vec<PendingToolCall>, Vec<usize>) {
        let mut parser = self.parser();
        let (mut ids, mut calls, mut at_bytes, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (n, piece) in pieces.iter().enumerate() {
            for text in [*piece, ""].iter().take(1 + usize::from(n % 3 == 0)) {
                bytes += text.len();
                ids.push(1_000 + ids.len() as u32);
                let done = parser.push(text, ids.last().copied());
                at_bytes.extend(done.iter().map(|_| bytes));
                assert!(done.iter().all(|call| call.at_token + 1 == ids.len() as u64), "{}", self.name());
                calls.extend(done);
            }
        }
        let finish = match self.0["finish"].as_str() {
            Some("length") => FinishReason::Length,
            _ => FinishReason::Stop,
        };
        let (branch, more) = parser.finish(Some(&finish));
        at_bytes.extend(more.iter().map(|_| usize::MAX));
        calls.extend(more);
        assert_eq!(branch.ids().collect::<Vec<_>>(), ids, "{}: ids of {branch:?}", self.name());
        assert_eq!(branch.text(), self.text(), "{}: text of {branch:?}", self.name());
        (branch, calls, at_bytes)
    }

    /// What of the expected does not hold.
    fn differences(&self, branch: &Branch, calls: &[PendingToolCall]) -> Vec<String> {
        let expect = &self.0["expect"];
        let mut found = Vec::new();
        let mut check = |what: &str, got: Value, expected: &Value| {
            if !expected.is_null() && got != *expected {
                found.push(format!("{what}: {got} instead of {expected}"));
            }
        };
        check("reasoning", branch.thinking().into(), &expect["reasoning"]);
        check("content", branch.content().into(), &expect["content"]);
        let got: Vec<Value> = calls
            .iter()
            .zip(expect["tool_calls"].as_array().unwrap().iter().map(Some).chain(std::iter::repeat(None)))
            .map(|(call, expected)| {
                let mut got = json!({"name": call.name, "arguments": call.arguments});
                if expected.is_some_and(|expected| expected.get("id").is_some()) {
                    got["id"] = json!(call.id);
                }
                got
            })
            .collect();
        check("calls", got.into(), &expect["tool_calls"]);
        let in_tree: Vec<&str> = branch.tool_calls().map(|call| call.id.as_str()).collect();
        let handed_out: Vec<&str> = calls.iter().map(|call| call.id.as_str()).collect();
        check("calls in the tree", json!(in_tree), &json!(handed_out));
        let order = branch.leaves.iter().filter_map(|leaf| match &leaf.kind {
            LeafKind::Content if !leaf.inner().is_empty() => Some("content"),
            LeafKind::Thinking if !leaf.inner().is_empty() => Some("reasoning"),
            LeafKind::ToolCall(_) => Some("tool_call"),
            _ => None,
        });
        // The first of each kind in a row: content on both sides of a frame is one segment there.
        let mut order: Vec<&str> = order.collect();
        order.dedup_by(|a, b| a == b && *a == "content");
        check("order", json!(order), &self.0["order"]);
        let malformed = |unfinished: bool| {
            let of_kind = branch.leaves.iter().filter(|leaf| match leaf.kind {
                LeafKind::Malformed { reason } => (reason == Malformed::Unfinished) == unfinished,
                _ => false,
            });
            of_kind.count()
        };
        let expected = self.0["malformed"].as_u64().unwrap_or(0);
        check("malformed", json!(malformed(false)), &json!(expected));
        if self.0["incomplete"] == true {
            check("incomplete", json!(malformed(true)), &json!(1));
        }
        found
    }
}

/// Pieces of `text` with cuts drawn from `seed`; mean length from 1 to 16 characters.
fn random_pieces(text: &str, seed: u64) -> Vec<&str> {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut pieces = Vec::new();
    let (mut from, mean) = (0, 1 + seed % 16);
    for (at, _) in text.char_indices().skip(1) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if random % mean == 0 {
            pieces.push(&text[from..at]);
            from = at;
        }
    }
    pieces.push(&text[from..]);
    pieces
}

fn by_characters(text: &str) -> Vec<&str> {
    text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]).collect()
}

/// What is wrong with a case, and nothing if it holds at every cut tried.
fn judge(case: &Case) -> Vec<String> {
    let text = case.text();
    let (tree, calls, at_bytes) = case.run(&by_characters(text));
    let mut wrong = case.differences(&tree, &calls);
    let cuts = (0..RANDOM_CUTS).map(|seed| random_pieces(text, seed)).chain([vec![text]]);
    for pieces in cuts {
        let (cut_tree, cut_calls, cut_at_bytes) = case.run(&pieces);
        let mut ends = pieces.iter().scan(0, |end, piece| {
            *end += piece.len();
            Some(*end)
        });
        // A call comes with the very piece that has the byte at which it came by characters.
        let moments: Vec<usize> = at_bytes
            .iter()
            .map(|at| if *at == usize::MAX { *at } else { ends.clone().find(|end| end >= at).unwrap() })
            .collect();
        let _ = ends.next();
        let same = |branch: &Branch| -> Vec<(LeafKind, String)> {
            branch.leaves.iter().map(|leaf| (leaf.kind.clone(), leaf.text.clone())).collect()
        };
        let plain = |calls: &[PendingToolCall]| -> Vec<(String, String, Value)> {
            calls.iter().map(|call| (call.id.clone(), call.name.clone(), call.arguments.clone())).collect()
        };
        if same(&tree) != same(&cut_tree) || plain(&calls) != plain(&cut_calls) {
            wrong.push(format!("cut {pieces:?} gives {cut_tree:?}\ninstead of {tree:?}"));
            break;
        }
        if cut_at_bytes != moments {
            wrong.push(format!("cut {pieces:?} hands out at {cut_at_bytes:?} instead of {moments:?}"));
            break;
        }
    }
    wrong
}

#[test]
fn the_outside_cases_hold_at_any_cut() {
    let Some(folder) = common::shared("cases").map(|cases| cases.join("tool-calls")) else { return };
    let mut counts = BTreeMap::new();
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let case = Case(serde_json::from_str(line).unwrap());
            let dialect = case.0["format"].as_str().unwrap().to_owned();
            if Dialect::by_name(&dialect).is_err() {
                counts.entry(dialect).or_insert((0, 0)).1 += 1;
                continue;
            }
            let differences = judge(&case);
            let (held, all) = counts.entry(dialect).or_insert((0, 0));
            *all += 1;
            *held += usize::from(differences.is_empty());
            if !differences.is_empty() {
                wrong.push(format!("{} {:?}\n  {}", case.name(), case.text(), differences.join("\n  ")));
            }
        }
    }
    for (dialect, (held, all)) in &counts {
        println!("{dialect:14} {held:3} of {all:3}");
    }
    assert!(wrong.is_empty(), "{} cases fail:\n{}", wrong.len(), wrong.join("\n"));
    assert!(counts.len() >= 23, "{} dialects", counts.len());
    assert!(counts.values().all(|(held, all)| held == all), "a dialect is missing: {counts:?}");
}

#[test]
fn our_own_cases_hold_at_any_cut() {
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tool-calls")).unwrap() {
        for line in std::fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            let case = Case(serde_json::from_str(line).unwrap());
            let differences = judge(&case);
            if !differences.is_empty() {
                wrong.push(format!("{} {:?}\n  {}", case.name(), case.text(), differences.join("\n  ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases fail:\n{}", wrong.len(), wrong.join("\n"));
}
