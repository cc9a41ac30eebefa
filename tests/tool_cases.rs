//! Tests of the external cases in `cases/tool-calls`, and of this project's cases in
//! `tests/data/tool-calls` and in the dialects' files. Each case is one turn as a model of that
//! family writes it, and its expected result. The turn is parsed whole, by characters and in
//! pieces, with invented ids. The tree, the calls and the times at which calls are returned must
//! always be the same.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::Path;

use common::checks::in_sample;
use serde_json::{Value, json};
use tokenwire::{
    Branch, Dialect, FinishReason, LeafKind, Malformed, PendingToolCall, ResponseParser, Start, TokenId,
};

/// The number of random cuts of a case.
const RANDOM_CUTS: u64 = 40;

/// The maximum length of a text that is cut at every pair of places, and of a text that is cut at
/// every triple of places.
const MAX_TWO_CUTS_CHARS: usize = 80;
const MAX_THREE_CUTS_CHARS: usize = 40;

/// One case. The README of the external cases describes the format.
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

    /// Parses pieces, each with its own id, and some ids without text between them. Returns the
    /// tree, the calls, and the byte at which each call was returned.
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

    /// Returns the differences between the expected and the actual result.
    fn differences(&self, branch: &Branch, calls: &[PendingToolCall]) -> Vec<String> {
        let expect = &self.0["expect"];
        let mut found = Vec::new();
        let mut check = |what: &str, got: Value, expected: &Value| {
            if !expected.is_null() && got != *expected {
                found.push(format!("{what}: {got} instead of {expected}"));
            }
        };
        check("reasoning", branch.reasoning().into(), &expect["reasoning"]);
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
            LeafKind::Reasoning if !leaf.inner().is_empty() => Some("reasoning"),
            LeafKind::ToolCall(_) => Some("tool_call"),
            _ => None,
        });
        // Count adjacent leaves of content as one: in the cases, content on both sides of a frame
        // is one segment.
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

/// Returns the cuts that are tried on a text. Each item is a list of places, counted in characters:
/// no place, random places, or one single place. A short text is also cut at every two and three
/// places, or at a sample of them ([`in_sample`]).
fn cuttings(text: &str) -> impl Iterator<Item = Vec<usize>> {
    let chars = text.chars().count();
    let whole_and_random = (0..RANDOM_CUTS).map(move |seed| random_cuts(chars, seed)).chain([Vec::new()]);
    let one = (1..chars).map(|a| vec![a]);
    let short = |max: usize| if chars <= max { chars } else { 0 };
    let (two, three) = (short(MAX_TWO_CUTS_CHARS), short(MAX_THREE_CUTS_CHARS));
    let two = (1..two).flat_map(move |a| (a + 1..two).map(move |b| vec![a, b]));
    let three = (1..three)
        .flat_map(move |a| (a + 1..three).flat_map(move |b| (b + 1..three).map(move |c| vec![a, b, c])));
    let sampled = two.chain(three).enumerate().filter(|(n, _)| in_sample(*n, 11)).map(|(_, cuts)| cuts);
    whole_and_random.chain(one).chain(sampled)
}

/// Returns random cuts for `seed`. The mean length of a piece is 1 to 16 characters.
fn random_cuts(chars: usize, seed: u64) -> Vec<usize> {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mean = 1 + seed % 16;
    let mut drawn = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % mean == 0
    };
    (1..chars).filter(|_| drawn()).collect()
}

/// Returns the differences that a case shows, or an empty list if it passes at every cut.
fn judge(case: &Case) -> Vec<String> {
    let text = case.text();
    let chars: Vec<&str> = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]).collect();
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    let (tree, calls, at_bytes) = case.run(&chars);
    let mut wrong = case.differences(&tree, &calls);
    // A call is returned at the end of its leaf, at the end of the turn, or at the text that shows
    // that its end marker is missing.
    let mut leaf_ends = Vec::new();
    let mut end = 0;
    for leaf in &tree.leaves {
        end += leaf.text.len();
        leaf_ends.extend(leaf.tool_call().map(|_| end));
    }
    let dialect = Dialect::by_name(case.0["format"].as_str().unwrap()).unwrap();
    let markers = dialect.markers();
    for (at, end) in at_bytes.iter().zip(leaf_ends) {
        if *at != usize::MAX && *at != end && !markers.contains(&text[end..*at].trim()) {
            wrong.push(format!("a call is returned at {at} and ends at {end}"));
        }
    }
    for cuts in cuttings(text) {
        let ends: Vec<usize> = cuts.iter().map(|cut| places[*cut]).chain([text.len()]).collect();
        let mut from = 0;
        let pieces: Vec<&str> =
            ends.iter().map(|end| &text[std::mem::replace(&mut from, *end)..*end]).collect();
        let (cut_tree, cut_calls, cut_at_bytes) = case.run(&pieces);
        // A call is returned with the piece that contains the byte at which it is returned by
        // characters.
        let moment = |at: &usize| ends.iter().copied().find(|end| end >= at).unwrap_or(usize::MAX);
        let moments: Vec<usize> = at_bytes.iter().map(moment).collect();
        let same_leaves = tree.leaves.len() == cut_tree.leaves.len()
            && tree
                .leaves
                .iter()
                .zip(&cut_tree.leaves)
                .all(|(a, b)| (&a.kind, &a.text, a.inner()) == (&b.kind, &b.text, b.inner()));
        let same_calls = calls.len() == cut_calls.len()
            && calls.iter().zip(&cut_calls).all(|(a, b)| {
                (&a.id, &a.name, &a.arguments, &a.raw) == (&b.id, &b.name, &b.arguments, &b.raw)
            });
        if !same_leaves || !same_calls {
            wrong.push(format!("cut {pieces:?} gives {cut_tree:?}\ninstead of {tree:?}"));
            break;
        }
        if cut_at_bytes != moments {
            wrong.push(format!("cut {pieces:?} returns calls at {cut_at_bytes:?} instead of {moments:?}"));
            break;
        }
    }
    wrong
}

/// Returns the cases in all files of a folder, one per line.
fn cases_in(folder: &Path) -> Vec<Case> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    let texts = files.map(|path| std::fs::read_to_string(path).unwrap());
    let cases =
        |text: String| text.lines().map(|line| Case(serde_json::from_str(line).unwrap())).collect::<Vec<_>>();
    texts.flat_map(cases).collect()
}

/// Returns the cases in the dialects' files.
fn cases_of_dialects() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, mut record) in common::dialects() {
        for case in record["cases"].as_array_mut().into_iter().flatten() {
            case["format"] = name.as_str().into();
            all.push(Case(case.take()));
        }
    }
    all
}

/// Checks the cases. Returns the number of cases for each dialect.
fn judge_all(cases: &[Case]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in cases {
        let dialect = case.0["format"].as_str().unwrap().to_owned();
        let (held, all) = counts.entry(dialect).or_insert((0, 0));
        *all += 1;
        if Dialect::by_name(case.0["format"].as_str().unwrap()).is_err() {
            continue;
        }
        let differences = judge(case);
        *held += usize::from(differences.is_empty());
        if !differences.is_empty() {
            wrong.push(format!("{} {:?}\n  {}", case.name(), case.text(), differences.join("\n  ")));
        }
    }
    for (dialect, (held, all)) in &counts {
        // Do not use `println`, whose output is hidden when a test passes.
        let _ = writeln!(std::io::stderr(), "{dialect:14} {held:3} of {all:3}");
    }
    assert!(wrong.is_empty(), "{} cases fail:\n{}", wrong.len(), wrong.join("\n"));
    assert!(counts.values().all(|(held, all)| held == all), "a dialect is missing: {counts:?}");
    counts.into_iter().map(|(dialect, (_, all))| (dialect, all)).collect()
}

#[test]
fn the_external_cases_hold_at_any_cut() {
    let Some(folder) = common::shared("cases").map(|cases| cases.join("tool-calls")) else { return };
    let counts = judge_all(&cases_in(&folder));
    assert!(counts.len() >= 23, "{} dialects", counts.len());
}

#[test]
fn this_projects_cases_hold_at_any_cut() {
    let mut cases = cases_in(&common::data("tool-calls"));
    cases.extend(cases_of_dialects());
    let counts = judge_all(&cases);
    for dialect in Dialect::all().filter(|dialect| **dialect != Dialect::plain()) {
        let all = counts.get(dialect.name()).copied().unwrap_or(0);
        assert!(all >= 6, "{} has {all} cases", dialect.name());
    }
}

/// Each case has tokens as a server sends them, with the ids of markers. It lists the expected
/// leaves with their ids, and the calls with the number of the token that completed them.
#[test]
fn an_id_decides_what_is_a_marker() {
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(common::data("tool-calls/ids")).unwrap() {
        for line in std::fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            let case = Case(serde_json::from_str(line).unwrap());
            let markers: HashMap<String, TokenId> =
                serde_json::from_value(case.0["markers"].clone()).unwrap();
            let tokens: Vec<(String, Option<TokenId>)> =
                serde_json::from_value(case.0["tokens"].clone()).unwrap();
            let mut parser = case.parser().markers(markers.iter().map(|(text, id)| (text.as_str(), *id)));
            let mut calls = Vec::new();
            for (text, id) in &tokens {
                calls.extend(parser.push(text, *id));
            }
            let (branch, more) =
                if case.0["finish"] == "length" { parser.cut_off() } else { parser.finish(None) };
            calls.extend(more);
            let ids: Vec<TokenId> = tokens.iter().filter_map(|(_, id)| *id).collect();
            assert_eq!(branch.ids().collect::<Vec<_>>(), ids, "{}: {branch:?}", case.name());
            assert_eq!(branch.text(), tokens.iter().map(|(text, _)| text.as_str()).collect::<String>());
            let without = tokens.iter().filter(|(text, id)| id.is_none() && !text.is_empty()).count();
            assert_eq!(branch.ids_missing(), without as u64, "{}", case.name());
            let leaves = branch.leaves.iter().map(|leaf| json!([leaf.kind.as_str(), leaf.text, leaf.ids]));
            let calls = calls.iter().map(|call| json!([call.name, call.arguments, call.at_token]));
            let got = json!({"leaves": Vec::from_iter(leaves), "calls": Vec::from_iter(calls)});
            if got != json!({"leaves": case.0["leaves"], "calls": case.0["calls"]}) {
                wrong.push(format!("{}: {got}", case.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases fail:\n{}", wrong.len(), wrong.join("\n"));
}
