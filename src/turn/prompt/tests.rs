use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use serde::Deserialize;

use super::family::Family;
use super::sheet::Sheet;
use super::*;
use crate::types::ids::Inexact;
use crate::types::tree::Malformed;

/// An encoder that makes one token of each character. Each special token of the family is also one
/// token.
#[derive(Clone)]
struct Chars(Vec<String>);

const FIRST_TOKEN: TokenId = 2_000_000;

impl Encode for Chars {
    fn encode_text(&self, text: &str) -> Result<Vec<(TokenId, usize)>, Error> {
        Ok(text.char_indices().map(|(at, c)| (TokenId::from(c), at)).collect())
    }

    fn token(&self, name: &str) -> Option<TokenId> {
        self.0.iter().zip(FIRST_TOKEN..).find(|(token, _)| *token == name).map(|(_, id)| id)
    }
}

impl Chars {
    fn ids(&self, text: &str) -> Vec<TokenId> {
        let (mut ids, mut rest) = (Vec::new(), text);
        while let Some(c) = rest.chars().next() {
            let token = self.0.iter().find(|token| rest.starts_with(*token));
            ids.push(token.map_or(c.into(), |token| self.token(token).unwrap()));
            rest = &rest[token.map_or(c.len_utf8(), |token| token.len())..];
        }
        ids
    }

    fn text(&self, ids: &[TokenId]) -> String {
        let token = |id: &TokenId| match self.0.get(id.wrapping_sub(FIRST_TOKEN) as usize) {
            Some(token) => token.clone(),
            None => char::from_u32(*id).unwrap().to_string(),
        };
        ids.iter().map(token).collect()
    }

    fn leaf(&self, kind: LeafKind, text: &str) -> Leaf {
        Leaf::new(kind, text, self.ids(text))
    }
}

fn context(name: &str) -> (Context, Chars) {
    let format = ChatFormat::by_name(name).unwrap();
    let chars = Chars(format.family().tokens.clone());
    (Context::new(format, chars.clone()), chars)
}

fn said(leaves: Vec<Leaf>) -> Branch {
    let mut branch = Branch::new(Role::Assistant);
    branch.leaves = leaves;
    branch
}

fn call(id: &str) -> LeafKind {
    let (id, name) = (id.to_owned(), "f".to_owned());
    LeafKind::ToolCall(ToolCall { id, name, arguments: serde_json::json!({}), raw: "{}".to_owned() })
}

/// The texts that one family renders. `None` means unsupported.
///
/// - `first`: the text of a system turn and a user turn.
/// - `user`: the text that follows an answer with `stop` at its end, including a user turn.
/// - `result` and `results`: the text that follows calls with `call_stop` at their end. It contains
///   one result or two results.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rendered {
    first: Option<String>,
    stop: String,
    user: String,
    call_stop: String,
    result: Option<String>,
    results: Option<String>,
}

/// The expected text, by the name of the family.
static RENDERED: LazyLock<BTreeMap<String, Rendered>> =
    LazyLock::new(|| serde_json::from_str(include_str!("rendered.json")).unwrap());

/// Checks every row, and reports every row that fails.
fn each_row<T: fmt::Debug>(rows: impl IntoIterator<Item = T>, check: impl Fn(T)) {
    let failed = rows.into_iter().filter_map(|row| {
        let shown = printable(&format!("{row:?}"), 100);
        catch_unwind(AssertUnwindSafe(|| check(row))).is_err().then_some(shown)
    });
    let failed: Vec<String> = failed.collect();
    assert!(failed.is_empty(), "these rows fail, for the reasons above:\n{}", failed.join("\n"));
}

/// Returns the text of the ids that follow `before` in `prompt`. `None` means unsupported.
///
/// The prompt must begin with `before`.
fn added(chars: &Chars, before: &[TokenId], prompt: Result<Prompt, Error>) -> Option<String> {
    let prompt = match prompt {
        Ok(prompt) => prompt,
        Err(error) if error.kind() == ErrorKind::Unsupported => return None,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(prompt.prefix, Prefix::Kept);
    let rest = prompt.ids.strip_prefix(before).expect("the prefix is not kept");
    Some(chars.text(rest))
}

#[test]
fn each_family_renders_the_same_text_as_its_template() {
    let names: BTreeSet<&str> = ChatFormat::all().map(ChatFormat::name).collect();
    assert!(RENDERED.keys().eq(names), "rendered.json and families/ differ");
    each_row(&*RENDERED, |(name, Rendered { first, stop, user, call_stop, result, results })| {
        let (mut context, chars) = context(name);
        context.system("S");
        context.user("U");
        let prompt = context.begin_response();
        assert_eq!(added(&chars, &[], prompt.clone()), *first);
        let mut ids = prompt.map(|prompt| prompt.ids).unwrap_or_default();
        if first.is_none() {
            context.turns.clear();
            context.user("U");
            ids = context.begin_response().unwrap().ids;
        }
        assert_eq!(context.turns.iter().map(Branch::text).collect::<String>(), chars.text(&ids));
        let begun = context;
        let sampled = |text: &str| [&ids[..], &chars.ids(text)].concat();

        let mut context = begun.clone();
        let mut leaves = vec![chars.leaf(LeafKind::Content, "A."), chars.leaf(LeafKind::Marker, stop)];
        context.add_response(said(leaves.clone()), IdsExact::Yes).unwrap();
        context.user("V");
        let before = sampled(&format!("A.{stop}"));
        assert_eq!(added(&chars, &before, context.begin_response()).as_ref(), Some(user));

        let of_calls = |n: usize| {
            if name.starts_with("kimi") { format!("functions.f:{n}") } else { format!("call_{n}") }
        };
        for (expected, gave) in [(result, &["R"][..]), (results, &["R", "Q"])] {
            let mut context = begun.clone();
            leaves = vec![chars.leaf(call(&of_calls(0)), "C"), chars.leaf(call(&of_calls(1)), "D")];
            leaves.push(chars.leaf(LeafKind::Marker, call_stop));
            context.add_response(said(leaves.clone()), IdsExact::Yes).unwrap();
            // The last result is added first, so the context must put the results in order.
            for (n, text) in gave.iter().enumerate().rev() {
                context.tool_result(&of_calls(n), *text).unwrap();
            }
            let before = sampled(&format!("CD{call_stop}"));
            let len = context.len_tokens();
            let prompt = context.begin_response();
            assert_eq!(len.ok(), prompt.as_ref().ok().map(|prompt| prompt.ids.len()));
            assert_eq!(added(&chars, &before, prompt), *expected, "{gave:?}");
        }
    });
}

#[test]
fn the_prefix_is_kept_over_many_turns_however_they_end() {
    each_row(&*RENDERED, |(name, Rendered { stop, call_stop, result, .. })| {
        let (mut context, chars) = context(name);
        let mut before = Vec::new();
        context.user("U");
        for n in 0..6 {
            let prompt = context.begin_response().unwrap();
            assert_eq!(prompt.prefix, Prefix::Kept);
            assert!(prompt.ids.starts_with(&before), "turn {n}");
            // No tokenizer makes these ids from this text. If the text is encoded again, the test
            // fails.
            let odd = Leaf::new(LeafKind::Content, "abc", vec![500_000 + n, 600_000]);
            let leaves = match n % 3 {
                0 => vec![odd, chars.leaf(LeafKind::Marker, stop)],
                1 => vec![odd],
                _ => vec![odd, chars.leaf(call("c"), "C"), chars.leaf(LeafKind::Marker, call_stop)],
            };
            let turn = said(leaves);
            before = [prompt.ids, turn.ids().collect()].concat();
            context.add_response(turn, if n % 2 == 0 { IdsExact::Yes } else { IdsExact::Unknown }).unwrap();
            if n % 3 == 2 && result.is_some() {
                context.tool_result("c", "R").unwrap();
            } else {
                context.user("V");
            }
        }
        assert!(context.begin_response().unwrap().ids.starts_with(&before));
    });
}

/// The text that `qwen3_xml` adds after a turn of the model, including a user turn.
const QWEN: &str = "<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n<think>\n";

/// Lists turns of the model that lack the family's end, and the text that must follow each turn.
#[test]
fn a_turn_that_was_cut_off_is_closed() {
    let unfinished = LeafKind::Malformed { reason: Malformed::Unfinished };
    let after_reasoning = format!("</think>{QWEN}");
    let rows = [
        ("qwen3_xml", vec![(LeafKind::Content, "A")], QWEN),
        ("qwen3_xml", vec![(LeafKind::Reasoning, "hm")], &after_reasoning),
        ("qwen3_xml", vec![], &after_reasoning),
        (
            "qwen3_xml",
            vec![(LeafKind::Reasoning, "hm"), (LeafKind::Marker, "<|im_end|>")],
            &QWEN["<|im_end|>".len()..],
        ),
        ("qwen3_xml", vec![(unfinished, "<tool_call>\n<fun")], QWEN),
        ("qwen3_xml", vec![(LeafKind::Content, "A"), (LeafKind::Marker, "<|endoftext|>")], QWEN),
        ("qwen2_5", vec![], "<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n"),
        ("glm_4_7", vec![(LeafKind::Reasoning, "hm")], "</think><|user|>V<|assistant|><think>"),
        (
            "glm_4_7",
            vec![(LeafKind::Content, "A"), (LeafKind::Marker, "<|observation|>")],
            "<|user|>V<|assistant|><think>",
        ),
        ("gemma4", vec![(LeafKind::Content, "A")], "<turn|>\n<|turn>user\nV<turn|>\n<|turn>model\n"),
        (
            "gemma4",
            vec![(LeafKind::Marker, "<|tool_response>")],
            "<turn|>\n<|turn>user\nV<turn|>\n<|turn>model\n",
        ),
        (
            "harmony",
            vec![(LeafKind::Content, "A"), (LeafKind::Marker, "<|end|>")],
            "<|start|>user<|message|>V<|end|><|start|>assistant",
        ),
    ];
    each_row(rows, |(name, leaves, expected)| {
        let (mut context, chars) = context(name);
        context.user("U");
        let mut before = context.begin_response().unwrap().ids;
        let turn = said(leaves.iter().map(|(kind, text)| chars.leaf(kind.clone(), text)).collect());
        before.extend(turn.ids());
        context.add_response(turn, IdsExact::Unknown).unwrap();
        context.user("V");
        assert_eq!(added(&chars, &before, context.begin_response()).as_deref(), Some(expected));
    });
}

#[test]
fn a_closer_that_came_as_an_id_without_text_is_not_repeated() {
    each_row([("</think>", QWEN), ("<|im_end|>", &QWEN["<|im_end|>".len()..])], |(last, expected)| {
        let (mut context, chars) = context("qwen3_xml");
        context.user("U");
        let before = context.begin_response().unwrap().ids;
        let sampled = vec![104, chars.token(last).unwrap()];
        let turn = said(vec![Leaf::new(LeafKind::Reasoning, "h", sampled.clone())]);
        context.add_response(turn, IdsExact::Unknown).unwrap();
        context.user("V");
        let added = added(&chars, &[before, sampled].concat(), context.begin_response());
        assert_eq!(added.as_deref(), Some(expected));
    });
}

#[test]
fn a_closer_of_several_tokens_is_not_repeated() {
    let (mut context, chars) = context("qwen3_xml");
    context.user("U");
    let before = context.begin_response().unwrap().ids;
    let mut thought = Leaf::new(LeafKind::Reasoning, "hm</think>", vec![500, 501]);
    thought.inner = 0..2;
    context.add_response(said(vec![thought]), IdsExact::Unknown).unwrap();
    context.user("V");
    let added = added(&chars, &[before, vec![500, 501]].concat(), context.begin_response());
    assert_eq!(added.as_deref(), Some(QWEN));
}

#[test]
fn markers_spelled_in_text_from_outside_stay_text() {
    each_row(&*RENDERED, |(name, Rendered { first, result, .. })| {
        let (mut context, chars) = context(name);
        let all: String = chars.0.concat();
        let count = |ids: &[TokenId]| ids.iter().filter(|id| **id >= FIRST_TOKEN).count();
        let mut counts = Vec::new();
        for text in ["x", &all] {
            let mut context = context.clone();
            if first.is_some() {
                context.system(text);
            }
            context.user(text);
            let prompt = context.begin_response().unwrap();
            assert!(chars.text(&prompt.ids).contains(text));
            if result.is_some() {
                let mut leaf = chars.leaf(call(text), "C");
                if let LeafKind::ToolCall(call) = &mut leaf.kind {
                    call.name = text.to_owned();
                }
                context.add_response(said(vec![leaf]), IdsExact::Yes).unwrap();
                context.tool_result(text, text).unwrap();
            }
            counts.push(context.begin_response().map_or(count(&prompt.ids), |prompt| count(&prompt.ids)));
        }
        assert_eq!(counts[0], counts[1]);
        context.user("");
        assert!(context.begin_response().is_ok());
    });
}

#[test]
fn reasoning_can_be_off_if_the_family_has_a_switch() {
    let rows = [
        ("qwen3_xml", Some("<|im_start|>assistant\n<think>\n\n</think>\n\n")),
        ("nemotron3", Some("<|im_start|>assistant\n<think></think>")),
        ("qwen3", Some("<|im_start|>assistant\n<think>\n\n</think>\n\n")),
        ("qwen3_coder", Some("<|im_start|>assistant\n")),
        ("glm_4_6", Some("<|user|>\nU/nothink<|assistant|>\n<think></think>")),
        ("glm_4_7", Some("<|assistant|></think>")),
        ("deepseek_v3_1", Some("<｜Assistant｜></think>")),
        ("deepseek_v4", Some("<｜Assistant｜></think>")),
        ("gemma4", Some("<bos><|turn>user\nU<turn|>\n<|turn>model\n<|channel>thought\n<channel|>")),
        ("qwen3_thinking", None),
        ("minimax_m2", None),
    ];
    each_row(rows, |(name, opener)| {
        let (context, chars) = context(name);
        let mut on = context.clone();
        on.user("U");
        let on = on.begin_response().unwrap();
        let opens = on.ids.last().is_some_and(|id| chars.text(&[*id]) == "<think>")
            || chars.text(&on.ids).ends_with("<think>\n");
        assert_eq!(on.start == Start::Reasoning, opens);
        let mut off = context.reasoning(false);
        off.user("U");
        let off = off.begin_response();
        assert!(off.as_ref().map_or(true, |prompt| prompt.start == Start::Content));
        let text = added(&chars, &[], off);
        let ends = text.as_ref().zip(opener).is_some_and(|(text, opener)| text.ends_with(opener));
        assert!(ends || text.is_none() && opener.is_none(), "{text:?}");
    });
}

/// Lists the text that replaces a turn with reasoning, from the opening on, if a user turn follows.
#[test]
fn reasoning_is_dropped_as_in_the_templates() {
    let rows = [
        ("qwen3_xml", "</think>\n\n", Some("<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV")),
        (
            "nemotron3",
            "</think>",
            Some("<|im_start|>assistant\n<think></think>A<|im_end|>\n<|im_start|>user\nV"),
        ),
        ("glm_4_6", "</think>\n", Some("<|assistant|>\n<think></think>\nA<|user|>\nV")),
        ("glm_4_7", "</think>", Some("<|assistant|></think>A<|user|>V")),
        ("deepseek_v3_1", "</think>", Some("<｜Assistant｜></think>A<｜end▁of▁sentence｜><｜User｜>V")),
        ("kimi_k2", "</think>", None),
    ];
    each_row(rows, |(name, closed, expected)| {
        let (context, chars) = context(name);
        let mut context = context.keep_reasoning(false);
        context.user("U");
        context.begin_response().unwrap();
        let think = chars.leaf(LeafKind::Reasoning, "hm</think>");
        let blank = closed.strip_prefix("</think>").unwrap();
        let content = chars.leaf(LeafKind::Content, &format!("{blank}A"));
        context.add_response(said(vec![think, content]), IdsExact::Yes).unwrap();
        context.user("V");
        match context.begin_response() {
            Err(error) => assert_eq!((error.kind(), expected), (ErrorKind::Unsupported, None), "{name}"),
            Ok(prompt) => {
                let text = chars.text(&prompt.ids);
                assert!(expected.is_some_and(|expected| text.contains(expected)), "{text:?}");
                assert_eq!(prompt.prefix, Prefix::ReasoningDropped { turn: 1 });
                assert_eq!(prompt.ids, chars.ids(&text));
                // After the reasoning was dropped, the next prompt keeps the prefix.
                context.add_response(said(vec![chars.leaf(LeafKind::Content, "B")]), IdsExact::Yes).unwrap();
                context.user("W");
                let next = context.begin_response().unwrap();
                assert_eq!((next.prefix, next.ids.starts_with(&prompt.ids)), (Prefix::Kept, true));
            }
        }
    });
}

#[test]
fn a_turn_with_missing_ids_is_encoded_again_or_refused_or_used() {
    let no_ids = IdsExact::No(Inexact::NoIds);
    let turn = || {
        let mut missing = Leaf::new(LeafKind::Content, "<|im_end|>", vec![]);
        missing.ids_missing = 1;
        let mut end = Leaf::new(LeafKind::Marker, "<|im_end|>", vec![]);
        end.ids_missing = 1;
        let call = Leaf::new(call("c"), "<tool_call>{\"<|im_end|>\"}</tool_call>", vec![]);
        said(vec![missing, call, end])
    };
    let rows = [
        (no_ids, WhenInexact::Reencode, Ok(Prefix::Reencoded { turn: 1 })),
        (IdsExact::Unknown, WhenInexact::Reencode, Ok(Prefix::Reencoded { turn: 1 })),
        (no_ids, WhenInexact::Refuse, Err(ErrorKind::InexactIds)),
        (no_ids, WhenInexact::Take, Ok(Prefix::Kept)),
    ];
    each_row(rows, |(ids, policy, expected)| {
        let (context, chars) = context("qwen2_5");
        let mut context = context.when_inexact(policy);
        context.user("U");
        let before = context.begin_response().unwrap().ids;
        context.add_response(turn(), ids).unwrap();
        context.user("V");
        let prompt = context.begin_response();
        assert_eq!(prompt.as_ref().map(|prompt| prompt.prefix).map_err(Error::kind), expected);
        let Ok(prompt) = prompt else { return };
        let rest = &prompt.ids[before.len()..];
        assert_eq!(prompt.ids[..before.len()], before);
        let close = "<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n";
        if policy == WhenInexact::Take {
            assert_eq!(chars.text(rest), close);
            return;
        }
        let call = "<tool_call>{\"<|im_end|>\"}</tool_call>";
        assert_eq!(chars.text(rest), format!("<|im_end|>{call}{close}"));
        let tokens = rest.iter().filter(|id| **id >= FIRST_TOKEN).count();
        assert_eq!(tokens, 2 + 4, "the call's tags and the turns', not what is spelled in text");
    });
}

#[test]
fn a_prompt_over_the_limit_fails_with_both_numbers_and_changes_nothing() {
    let (context, _) = context("plain");
    let mut context = context.max_context_tokens(9);
    context.user("123456789");
    assert_eq!(context.begin_response().unwrap().ids.len(), 9);
    context.discard_response();
    context.user("0");
    let before = context.clone();
    let error = context.begin_response().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit(Limit::ContextTokens));
    assert_eq!(error.to_string(), "the prompt has 10 tokens: max_context_tokens is 9");
    assert_eq!(format!("{context:?}"), format!("{before:?}"));
    assert_eq!(context.len_tokens().unwrap(), 10);
}

#[test]
fn turns_out_of_order_are_refused() {
    let (mut context, chars) = context("qwen2_5");
    let refused = |result: Result<(), Error>, why: &str| {
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidInput, why));
    };
    let begin = |context: &mut Context| context.begin_response().map(|_| ());
    refused(begin(&mut context), "there is nothing to respond to: add a turn first");
    let early = context.add_response(said(vec![]), IdsExact::Yes);
    refused(early, "no response was begun: call begin_response first");
    refused(context.tool_result("a", ""), "the last response has no call \"a\"");
    context.user("U");
    begin(&mut context).unwrap();
    context.user("meanwhile");
    refused(begin(&mut context), "the last response has not ended: add it, end it or discard it first");
    let calls = vec![chars.leaf(call("a"), "A"), chars.leaf(call("b"), "B")];
    context.add_response(said(calls), IdsExact::Yes).unwrap();
    context.tool_result("b", "").unwrap();
    refused(context.tool_result("b", ""), "there is already a result of the call \"b\"");
    refused(context.tool_result("c\u{7}", ""), "the last response has no call \"c\\\\u{7}\"");
    let roles: Vec<&str> = context.turns().iter().map(|turn| turn.role.as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "user"]);
    begin(&mut context).unwrap();
    context.discard_response();
    let late = context.tool_result("a", "");
    refused(late, "a prompt was already made without the result of the call \"a\"");
}

#[test]
fn a_call_id_that_the_model_wrote_twice_accepts_a_result_for_each_call() {
    let (mut context, chars) = context("qwen2_5");
    context.user("U");
    context.begin_response().unwrap();
    let calls = ["x", "y", "x"].map(|id| chars.leaf(call(id), id));
    context.add_response(said(calls.to_vec()), IdsExact::Yes).unwrap();
    for (id, text) in [("x", "1"), ("x", "3"), ("y", "2")] {
        context.tool_result(id, text).unwrap();
    }
    let told: Vec<&str> = context.turns()[2].leaves.iter().map(Leaf::inner).collect();
    assert_eq!(told, ["1", "2", "3"]);
    assert!(context.tool_result("x", "4").is_err());
}

#[test]
fn a_discarded_response_can_be_requested_again() {
    let (mut context, chars) = context("qwen3_xml");
    context.user("U");
    let prompt = context.begin_response().unwrap();
    context.add_response(said(vec![chars.leaf(LeafKind::Content, "no")]), IdsExact::Yes).unwrap();
    context.discard_response();
    assert_eq!(context.begin_response().unwrap(), prompt);
    context.discard_response();
    context.discard_response();
    assert_eq!(context.turns().len(), 1);
    assert_eq!(context.begin_response().unwrap(), prompt);
}

#[test]
fn a_second_system_text_is_the_developer_message_in_harmony() {
    let (mut context, chars) = context("harmony");
    context.system("S");
    context.system("D");
    context.user("U");
    let text = chars.text(&context.begin_response().unwrap().ids);
    assert!(text.contains("<|end|><|start|>developer<|message|>D<|end|><|start|>user"), "{text}");
}

#[test]
fn leaves_hold_the_ids_of_their_text_and_the_tree_shows_them() {
    let (mut context, _) = context("qwen2_5");
    context.user("Hi\n");
    context.begin_response().unwrap();
    let tree = "user\n├─ marker          6 ids  <|im_start|>user\\n\n├─ content         3 ids  Hi\n\
                └─ marker          2 ids  <|im_end|>\\n\nassistant\n\
                └─ marker         11 ids  <|im_start|>assistant\\n";
    assert_eq!(context.to_string(), tree);
    let json = serde_json::to_string(context.turns()).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Branch>>(&json).unwrap(), context.turns());
}

#[test]
fn a_marker_that_is_not_in_the_vocabulary_is_text() {
    let format = ChatFormat::by_name("qwen2_5").unwrap();
    let mut context = Context::new(format, Chars(vec!["<|im_end|>".to_owned()]));
    context.user("U");
    let ids = context.begin_response().unwrap().ids;
    assert_eq!(ids.iter().filter(|id| **id >= FIRST_TOKEN).count(), 1);
    assert!(ids.starts_with(&"<|im_start|>user\nU".chars().map(TokenId::from).collect::<Vec<_>>()));
}

#[test]
fn families_are_consistent() {
    fn crosses<T: Send + Sync + Clone + 'static>() {}
    crosses::<Context>();
    each_row(ChatFormat::all().map(ChatFormat::family), |family| {
        let Family { name: _, tokens, ends, stops, .. } = family;
        for (n, token) in tokens.iter().enumerate() {
            let mut others = tokens.iter().skip(n + 1);
            let begins = others.any(|other| other.starts_with(token) || token.starts_with(other));
            assert!(!begins, "{token} is the beginning of another token");
        }
        assert!(ends.iter().chain(stops).all(|end| tokens.contains(end)));
        let first = Sheet::new(&Chars(tokens.clone()), family).first_id(family.close(false));
        assert_eq!(first.is_none(), family.close(false).is_empty());
    });
    assert!(ChatFormat::by_name("x").unwrap_err().to_string().contains("qwen3_xml, qwen3_coder"));
}

#[test]
fn every_file_of_families_is_listed_and_can_be_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/turn/prompt/families");
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<String> = names.filter(|name| name.ends_with(".json")).collect();
    let listed: BTreeSet<String> = family::FILES.iter().map(|(name, _)| format!("{name}.json")).collect();
    assert_eq!(listed, files);
    each_row(family::FILES, |(name, text)| {
        Family::read(name, text).unwrap();
    });
}
