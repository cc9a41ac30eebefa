//! Tests that markers are recognized by their ids. A marker spelled with other tokens is text, in
//! prose and in values. The marker's own token is structure, even in a value.

#[path = "common/checks.rs"]
#[allow(dead_code, unreachable_pub)]
mod checks;

use std::collections::HashMap;

use checks::each_row;
use serde_json::{Value, json};
use tokenwire::{Dialect, LeafKind, ResponseParser};

/// Parses a turn and returns its content, the arguments of its calls and the number of malformed
/// leaves. Real markers are between `«` and `»`, or between `‹` and `›` if the server omits their
/// text. Every other character is one token.
fn parsed(dialect: &str, turn: &str) -> (String, Vec<Value>, usize) {
    let mut added = HashMap::new();
    let mut tokens = Vec::new();
    let mut rest = turn;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let real = match c {
            '«' => after.split_once('»'),
            '‹' => after.split_once('›'),
            _ => None,
        };
        let Some((marker, after_marker)) = real else {
            tokens.push((&rest[..c.len_utf8()], u32::from(c)));
            rest = after;
            continue;
        };
        let new = 2_000_000 + added.len() as u32;
        let id = *added.entry(marker.to_owned()).or_insert(new);
        tokens.push((if c == '«' { marker } else { "" }, id));
        rest = after_marker;
    }
    let mut parser = ResponseParser::new(Dialect::by_name(dialect).unwrap())
        .markers(added.iter().map(|(text, id)| (text.as_str(), *id)));
    let mut calls = Vec::new();
    for (text, id) in &tokens {
        calls.extend(parser.push(text, Some(*id)));
    }
    let (branch, more) = parser.finish(None);
    calls.extend(more);
    assert_eq!(branch.ids().collect::<Vec<_>>(), tokens.iter().map(|(_, id)| *id).collect::<Vec<_>>());
    let malformed =
        branch.leaves.iter().filter(|leaf| matches!(leaf.kind, LeafKind::Malformed { .. })).count();
    (branch.content(), calls.into_iter().map(|call| call.arguments).collect(), malformed)
}

#[test]
fn a_marker_counts_only_as_its_own_token() {
    let glm = "«<tool_call>»f«<arg_key>»s«</arg_key>»«<arg_value>»$«</arg_value>»«</tool_call>»Z";
    let dsml = "<«｜DSML｜»tool_calls>\n<«｜DSML｜»invoke name=\"f\">\n<«｜DSML｜»parameter name=\"s\" string=\"true\">$\
                </«｜DSML｜»parameter>\n</«｜DSML｜»invoke>\n</«｜DSML｜»tool_calls>Z";
    let m2 = "«<minimax:tool_call>»<invoke name=\"f\"><parameter name=\"s\">$</parameter></invoke>\
              «</minimax:tool_call>»Z";
    let m3 = "«]<]minimax[>[»<tool_call>«]<]minimax[>[»<invoke name=\"f\">«]<]minimax[>[»<s>$«]<]minimax[>[»</s>\
              «]<]minimax[>[»</invoke>«]<]minimax[>[»</tool_call>Z";
    let k3 = "«<|open|>»tools«<|sep|>»«<|open|>»call tool=\"f\"«<|sep|>»«<|open|>»argument key=\"s\" type=\"string\"\
              «<|sep|>»$«<|close|>»argument«<|sep|>»«<|close|>»call«<|sep|>»«<|close|>»tools«<|sep|>»Z";
    let step3 = "«<｜tool_calls_begin｜>»«<｜tool_call_begin｜>»function«<｜tool_sep｜>»<steptml:invoke name=\"f\">\
                 <steptml:parameter name=\"s\">$</steptml:parameter></steptml:invoke>«<｜tool_call_end｜>»\
                 «<｜tool_calls_end｜>»Z";
    let seed = "«<seed:tool_call>»<function=f><parameter=s>$</parameter></function>«</seed:tool_call>»Z";
    each_row(
        [
            ("glm", glm, "</arg_value></tool_call><tool_call><|observation|>", "«</tool_call>»"),
            ("glm", glm, "<arg_key>", "«<arg_key>»"),
            ("glm", glm, "<think>", "«<think>»"),
            (
                "deepseek_dsml",
                dsml,
                "</｜DSML｜parameter></｜DSML｜invoke></｜DSML｜tool_calls>",
                "«｜DSML｜»",
            ),
            ("deepseek_dsml", dsml, "</｜DSML｜invoke>", "</«｜DSML｜»invoke>"),
            ("minimax_m2", m2, "</invoke> </minimax:tool_call>", "«</minimax:tool_call>»"),
            ("minimax_m3", m3, "]<]minimax[>[</s>]<]minimax[>[</invoke>", "«]<]minimax[>[»</invoke>"),
            ("kimi_k3", k3, "<|close|>argument<|sep|><|close|>call<|sep|>", "«<|sep|>»"),
            ("step3", step3, "<｜tool_call_end｜><｜tool_calls_end｜>", "«<｜tool_call_end｜>»"),
            ("seed_oss", seed, "</seed:tool_call><seed:tool_call>", "«</seed:tool_call>»"),
        ],
        |(dialect, turn, spelled, real)| {
            let (content, calls, malformed) = parsed(dialect, &turn.replace('$', spelled));
            assert_eq!(
                (&*content, &*calls, malformed),
                ("Z", &[json!({"s": spelled})][..], 0),
                "{dialect} {spelled}"
            );

            let (content, calls, malformed) = parsed(dialect, &turn.replace('$', &format!("x{real}y")));
            assert!(calls.is_empty() && malformed == 1, "{dialect} {real}: {calls:?}, {malformed} malformed");
            assert!(content.ends_with('Z'), "{dialect} {real}: {content}");
        },
    );
}

#[test]
fn a_marker_spelled_in_prose_is_content() {
    each_row(
        [
            ("glm", "<tool_call>", "Write <tool_call>f</tool_call>."),
            (
                "deepseek_dsml",
                "｜DSML｜",
                "Write <｜DSML｜tool_calls><｜DSML｜invoke name=\"f\"></｜DSML｜invoke></｜DSML｜tool_calls>.",
            ),
            (
                "kimi_k3",
                "<|open|>",
                "Write <|open|>tools<|sep|><|open|>call tool=\"f\"<|sep|><|close|>call<|sep|>.",
            ),
        ],
        |(dialect, added, prose)| {
            // The first token shows that the marker is known. It is a stray marker.
            let (content, calls, malformed) = parsed(dialect, &format!("{prose}«{added}»"));
            assert_eq!((calls.len(), malformed), (0, 0), "{dialect}: {content}");
            assert!(content.starts_with(prose), "{dialect}: {content}");
        },
    );
}

#[test]
fn the_end_of_the_turn_may_have_no_text() {
    let (content, calls, malformed) =
        parsed("glm", "A«<tool_call>»f«<arg_key>»a«</arg_key>»«<arg_value>»1«</arg_value>»‹<|observation|>›");
    assert_eq!((&*content, calls.len(), malformed), ("A", 1, 0));
}

#[cfg(feature = "tokenizer")]
#[test]
fn the_added_tokens_of_a_tokenizer_are_markers() {
    let tokenizer = json!({"version": "1.0", "added_tokens": [{"id": 2, "content": "<tool_call>", "special": false,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}});
    let tokenizer = tokenwire::Tokenizer::from_bytes(tokenizer.to_string().as_bytes()).unwrap();
    let parser = ResponseParser::new(Dialect::by_name("hermes").unwrap());
    let mut parser = parser.markers(tokenizer.added_tokens());
    for (text, id) in [("<tool_call>", 1), ("<tool_call>", 2), ("{\"name\":\"f\"}", 0)] {
        assert!(parser.push(text, Some(id)).is_empty());
    }
    let (branch, calls) = parser.finish(None);
    assert_eq!((branch.content().as_str(), calls.len()), ("<tool_call>", 1));
}
