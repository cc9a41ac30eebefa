//! The property of the response parser, for turns made from markers and parts of calls:
//!
//! - It does not panic.
//! - All cuts of the text give the same leaves and the same calls.
//! - The joined ids and the joined text equal the input.
//! - Each call is returned once, in the order of the tree.
//!
//! A fuzz target calls this function.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokenwire::{
    Branch, Dialect, FinishReason, LeafKind, Limits, PendingToolCall, ResponseParser, Start, TokenId,
};

/// The texts between markers. One byte of input selects one of these texts, or a marker of the
/// dialect.
pub(crate) const PIECES: &[&str] = &[
    "{\"name\": \"f\", \"arguments\": {\"a\": 1}}",
    "{\"name\": \"g\", \"parameters\": {\"b\": \"x\"}}",
    "{\"name\": ",
    "\"arguments\": ",
    "\"f\"",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "\"",
    "'",
    "\"\"\"",
    "\\",
    "\\\"",
    ",",
    ":",
    ";",
    "=",
    "1",
    "-1.5e3",
    "null",
    "True",
    " ",
    "\n",
    "\n\n",
    "<",
    "</",
    "<|",
    ">",
    "|>",
    "Hi",
    "f",
    "é",
    "😀",
    "<function=f>\n<parameter=a>\n1\n</parameter>\n</function>",
    "<function=f>",
    "<parameter=a>",
    "<parameter=a>\n",
    "\n</parameter>",
    "</parameter>",
    "</function>",
    "call:f{a:1}",
    "call:f{",
    "a:",
    "<|\"|>",
    "[f(a=1)]",
    "f(a='x')",
    "f(",
    "a=",
    "f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n",
    "<arg_key>",
    "<arg_value>",
    "</arg_value>",
    "functions.f:0",
    "function",
    "```json\n{\"a\": 1}\n```",
    "<｜DSML｜invoke name=\"f\">",
    "<｜DSML｜parameter name=\"a\" string=\"false\">1</｜DSML｜parameter>",
    "</｜DSML｜parameter>",
    "</｜DSML｜invoke>",
    "<invoke name=\"f\">",
    "<parameter name=\"a\">1</parameter>",
    "</invoke>",
    "call tool=\"f\" index=\"1\"",
    "argument key=\"a\" type=\"number\"",
    "commentary to=functions.f ",
    "analysis",
    "thought\n",
    "json",
    "<think>",
    "</think>",
    "<|im_end|>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// Unusual dialects that no model uses but a program could read at run time. Their markers overlap,
/// or contain each other or the content of calls.
const ODD: &[&str] = &[
    r#"{"name": "o1", "about": "", "think": {"open": "<<a", "close": "a<<"}, "ends": ["a<a"],
        "calls": [{"open": "<|<", "inside": {"json": {"close": "<<|"}}}, {"open": "[", "inside": {"python": {"close": "]<]"}}}]}"#,
    r#"{"name": "o2", "about": "", "think": {"open": "ééé", "close": "ff ", "label": "f"}, "ends": ["\": ", "}}}"],
        "calls": [{"open": "{{{", "inside": {"json": {}}}, {"open": "é😀a", "inside": {"reasoning": {"close": "f f"}}}]}"#,
    r#"{"name": "o3", "about": "", "ends": ["aaaa"], "frames": ["aab"], "bare": {"json": {"close": "aaa"}},
        "calls": [{"open": "f:f", "inside": {"headed": {"marks": ["f", ":", "fu"], "header": "id", "fence": ":", "json": {}}}},
        {"open": "function", "inside": {"section": {"followed_by": ["f", "a"]}}}]}"#,
    r#"{"name": "o4", "about": "", "ends": ["</f"], "bare": {"python": {"close": ")))", "json": {}}},
        "calls": [{"open": "<<<", "inside": {"tagged": {"close": "</p", "alone": true, "json": {}}}},
        {"open": "aaa", "inside": {"tagged": {"close": ">>>", "framed": true, "stops": []}}}]}"#,
    r#"{"name": "o5", "about": "", "think": {"open": "<a>", "close": ">>>"}, "ends": [],
        "calls": [{"open": "<<<", "inside": {"invoke": {"close": "><>", "call": {"open": "<", "close": ">"},
        "parameter": {"open": "<", "close": ">", "key": "a"}, "sharp": ">", "name": "f", "values": "by_type", "alone": true,
        "json": {"open": "<", "close": ">"}, "lead": ["f"], "tail": "é"}}}]}"#,
    r#"{"name": "o6", "about": "", "ends": ["fff"], "bare": {"bare_json": {}},
        "calls": [{"open": "[[[", "inside": {"invoke": {"close": "]]]", "call": {"open": "[f", "close": "]]"},
        "parameter": {"open": "[<"}, "sharp": ">", "name": "f", "values": "elements", "alone": true}}}]}"#,
    r#"{"name": "o7", "about": "", "ends": ["fff"],
        "calls": [{"open": "é:é", "inside": {"pairs": {"close": "\"\"\"", "key": {"open": ":", "close": ":"},
        "value": {"open": ":", "close": "::"}}}}, {"open": "(((", "inside": {"pairs": {"close": ")))", "stops": [],
        "key": {"open": "<arg_key>", "close": "<"}, "value": {"open": "<arg_value>", "close": "</"}}}}]}"#,
];

/// A part of the turn, and the form in which it arrives.
#[derive(Debug, Clone, PartialEq)]
enum Part<'a> {
    /// Tokens with ordinary ids, which are not ids of markers.
    Plain(String),
    /// Tokens without ids.
    WithoutIds(String),
    /// The token of a marker. If `shown` is true, the token has its text.
    Marker { text: &'a str, id: TokenId, shown: bool },
    /// A token without text that is not a marker.
    Silent,
}

impl Part<'_> {
    fn is_hidden(&self) -> bool {
        matches!(self, Self::Marker { shown: false, .. })
    }
}

/// A turn, and the settings of the parser.
#[derive(Debug)]
struct Turn<'a> {
    dialect: &'a Dialect,
    parts: Vec<Part<'a>>,
    markers: HashMap<String, TokenId>,
    start: Start,
    finish: FinishReason,
    tools: Vec<Value>,
    limits: Limits,
}

/// Checks one input. The first byte selects the dialect: 254 selects all unusual ones, 255 all
/// built-in ones. The second byte selects how the turn begins and ends, and which ids are sent. The
/// next two bytes are the seed for the choices and the cuts. Each of the other bytes selects a
/// part.
pub(crate) fn parse(bytes: &[u8]) {
    let Some(([dialect, mode, seed @ ..], rest)) = bytes.split_first_chunk::<4>() else { return };
    let seed = u64::from(u16::from_le_bytes(*seed));
    let dialects: Vec<Dialect> = match *dialect {
        254 => ODD.iter().map(|record| Dialect::from_json(record).unwrap()).collect(),
        _ => Dialect::all().cloned().collect(),
    };
    let chosen = match *dialect {
        254 | 255 => &dialects[..],
        n => std::slice::from_ref(&dialects[usize::from(n) % dialects.len()]),
    };
    for dialect in chosen {
        holds_at_any_cut(&Turn::new(dialect, *mode, seed, rest), seed);
    }
}

fn holds_at_any_cut(turn: &Turn<'_>, seed: u64) {
    let reference = turn.run(&turn.tokens(|| 1));
    // With ids, a text that looks like a marker waits for the ids that may follow.
    let moments_matter = turn.markers.is_empty();
    let mut random = Random::new(seed);
    let whole = turn.tokens(|| usize::MAX);
    for tokens in [&whole, &turn.tokens(|| random.below(7) + 1), &turn.tokens(|| random.below(31) + 1)] {
        let cut = turn.run(tokens);
        assert_eq!(cut.leaves, reference.leaves, "cut {tokens:?} of {turn:?}");
        assert_eq!(cut.calls, reference.calls, "cut {tokens:?} of {turn:?}");
        if moments_matter {
            let mut end = 0;
            let ends: Vec<usize> = tokens
                .iter()
                .map(|(text, _)| {
                    end += text.len();
                    end
                })
                .collect();
            let expected = reference.moments.iter().map(|at| ends.iter().copied().find(|end| end >= at));
            let got = cut.moments.iter().map(|at| Some(*at).filter(|at| *at != usize::MAX));
            assert!(got.eq(expected), "cut {tokens:?} of {turn:?}");
        }
    }
    // In chunks of several ids, a marker cannot always be recognized, but nothing is lost.
    turn.run(&in_chunks(&whole, || random.below(4) + 1));
}

/// The result of a turn.
#[derive(Debug)]
struct Outcome {
    leaves: Vec<(LeafKind, String, String)>,
    calls: Vec<(String, String, Value, String)>,
    /// The byte at which each call was returned; `usize::MAX` for the end of the turn.
    moments: Vec<usize>,
}

impl<'a> Turn<'a> {
    fn new(dialect: &'a Dialect, mode: u8, seed: u64, rest: &[u8]) -> Self {
        let known = dialect.markers();
        let mut random = Random::new(seed ^ 0xA5A5);
        let with_ids = mode & 1 == 1;
        let mut markers = HashMap::new();
        for (n, marker) in known.iter().enumerate().filter(|_| with_ids) {
            // Most markers are added tokens.
            if random.below(8) > 0 {
                markers.insert((*marker).to_owned(), 1_000_000 + n as TokenId);
            }
        }
        let mut limits = Limits::default();
        if mode & 2 == 2 {
            limits.max_nesting = 3;
            limits.max_arguments_bytes = usize::from(mode >> 4) * 12;
        }
        let mut parts: Vec<Part<'_>> = Vec::new();
        let mut bytes = rest.iter().map(|byte| usize::from(*byte));
        while let Some(byte) = bytes.next() {
            let part = match byte {
                0..96 => Self::marker(known[byte % known.len()], &markers, &mut random),
                96..240 => Part::Plain(PIECES[(byte - 96) % PIECES.len()].to_owned()),
                240..248 => {
                    let marker = known[bytes.next().unwrap_or(0) % known.len()];
                    let half = marker.char_indices().nth(byte - 239).map_or(marker.len(), |(at, _)| at);
                    Part::Plain(marker[..half].to_owned())
                }
                248..252 if with_ids => Part::Silent,
                252.. if with_ids => Part::WithoutIds(PIECES[byte % PIECES.len()].to_owned()),
                _ => continue,
            };
            // A text that looks like a marker may belong to a later id, in a chunk of several ids.
            let is_ambiguous = |text: &str| {
                let spelled = parts.iter().rev().find(|part| **part != Part::Silent && !part.is_hidden());
                matches!(spelled, Some(Part::Plain(before)) if before.contains(text))
            };
            let part = match part {
                Part::Marker { text, id, .. } if is_ambiguous(text) => Part::Marker { text, id, shown: true },
                part => part,
            };
            match (parts.last_mut(), part) {
                (Some(Part::Plain(text)), Part::Plain(more))
                | (Some(Part::WithoutIds(text)), Part::WithoutIds(more)) => text.push_str(&more),
                (_, part) => parts.push(part),
            }
        }
        let start = if mode & 4 == 4 { Start::Reasoning } else { Start::Content };
        let finish = if mode & 8 == 8 { FinishReason::Length } else { FinishReason::Stop };
        let schema = json!({"properties": {"a": {"type": ["integer", "string"]}}});
        let tools = vec![json!({"name": "f", "parameters": schema})];
        Self { dialect, parts, markers, start, finish, tools, limits }
    }

    /// Returns a marker as its token, with or without text, or spelled with other tokens.
    fn marker(text: &'a str, markers: &HashMap<String, TokenId>, random: &mut Random) -> Part<'a> {
        match (markers.get(text), random.below(6)) {
            (Some(id), 0) => Part::Marker { text, id: *id, shown: false },
            (Some(id), 1..5) => Part::Marker { text, id: *id, shown: true },
            _ => Part::Plain(text.to_owned()),
        }
    }

    /// Returns the tokens of the turn. `cut` returns the number of characters in each token of
    /// plain text.
    fn tokens(&self, mut cut: impl FnMut() -> usize) -> Vec<(&str, Option<TokenId>)> {
        let mut tokens = Vec::new();
        let mut next_id = 0..;
        for part in &self.parts {
            match part {
                Part::Plain(text) | Part::WithoutIds(text) => {
                    let mut rest = text.as_str();
                    while !rest.is_empty() {
                        let len = rest.char_indices().nth(cut()).map_or(rest.len(), |(at, _)| at);
                        let (token, after) = rest.split_at(len);
                        rest = after;
                        tokens.push((token, next_id.next().filter(|_| matches!(part, Part::Plain(_)))));
                    }
                }
                Part::Marker { text, id, shown } => tokens.push((if *shown { text } else { "" }, Some(*id))),
                Part::Silent => tokens.push(("", next_id.next())),
            }
        }
        tokens
    }

    fn run(&self, tokens: &[(impl AsRef<str>, Option<TokenId>)]) -> Outcome {
        let mut parser = ResponseParser::new(self.dialect.clone()).tools(&self.tools).limits(&self.limits);
        parser = parser.markers(self.markers.iter().map(|(text, id)| (text.as_str(), *id))).start(self.start);
        let (mut calls, mut moments, mut bytes): (Vec<PendingToolCall>, _, _) = (Vec::new(), Vec::new(), 0);
        for (n, (text, id)) in tokens.iter().enumerate() {
            let done = parser.push(text.as_ref(), *id);
            assert!(done.iter().all(|call| call.at_token == n as u64), "{self:?}");
            bytes += text.as_ref().len();
            moments.extend(done.iter().map(|_| bytes));
            calls.extend(done);
        }
        let (branch, more) = parser.finish(Some(&self.finish));
        assert!(more.iter().all(|call| call.at_token == tokens.len() as u64), "{self:?}");
        moments.extend(more.iter().map(|_| usize::MAX));
        calls.extend(more);
        self.check_nothing_is_lost(tokens, &branch, &calls);
        let leaves = branch.leaves.iter();
        let leaves = leaves.map(|leaf| (leaf.kind.clone(), leaf.text.clone(), leaf.inner().to_owned()));
        let calls = calls.into_iter().map(|call| (call.id, call.name, call.arguments, call.raw));
        Outcome { leaves: leaves.collect(), calls: calls.collect(), moments }
    }

    fn check_nothing_is_lost(
        &self,
        tokens: &[(impl AsRef<str>, Option<TokenId>)],
        branch: &Branch,
        calls: &[PendingToolCall],
    ) {
        let ids: Vec<TokenId> = tokens.iter().filter_map(|(_, id)| *id).collect();
        assert_eq!(branch.ids().collect::<Vec<_>>(), ids, "{branch:?} of {self:?}");
        let text: String = tokens.iter().map(|(text, _)| text.as_ref()).collect();
        assert_eq!(branch.text(), text, "{branch:?} of {self:?}");
        let without_id = tokens.iter().filter(|(text, id)| id.is_none() && !text.as_ref().is_empty());
        assert_eq!(branch.ids_missing(), without_id.count() as u64, "{branch:?} of {self:?}");
        let in_tree = branch.tool_calls().map(|call| (&call.id, &call.name, &call.arguments, &call.raw));
        let handed_out = calls.iter().map(|call| (&call.id, &call.name, &call.arguments, &call.raw));
        assert!(in_tree.eq(handed_out), "{branch:?} and {calls:?} of {self:?}");
        // A leaf without text has at least one id.
        assert!(branch.leaves.iter().all(|leaf| !leaf.text.is_empty() || !leaf.ids.is_empty()), "{branch:?}");
    }
}

/// Joins several tokens into one chunk. The first id gets the whole text.
fn in_chunks(
    tokens: &[(&str, Option<TokenId>)],
    mut count: impl FnMut() -> usize,
) -> Vec<(String, Option<TokenId>)> {
    let mut chunks = Vec::new();
    let mut rest = tokens;
    while !rest.is_empty() {
        // A token without an id is its own chunk.
        let with_ids = rest.iter().take_while(|(_, id)| id.is_some()).count();
        let (chunk, after) = rest.split_at(count().min(with_ids).max(1));
        rest = after;
        chunks.push((chunk.iter().map(|(text, _)| *text).collect(), chunk[0].1));
        chunks.extend(chunk[1..].iter().map(|(_, id)| (String::new(), *id)));
    }
    chunks
}

#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, max: u64) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % max) as usize
    }
}
