use super::sheet::Sheet;
use super::*;
use crate::types::ids::Inexact;
use crate::types::tree::Malformed;

/// Each character is a token, and each token of the family one of its own.
#[derive(Clone)]
struct Chars(&'static [&'static str]);

const FIRST_TOKEN: TokenId = 2_000_000;

impl Encode for Chars {
    fn encode_text(&self, text: &str) -> Result<Vec<(TokenId, usize)>, Error> {
        Ok(text.char_indices().map(|(at, c)| (TokenId::from(c), at)).collect())
    }

    fn token(&self, name: &str) -> Option<TokenId> {
        self.0.iter().zip(FIRST_TOKEN..).find(|(token, _)| **token == name).map(|(_, id)| id)
    }
}

impl Chars {
    fn ids(&self, text: &str) -> Vec<TokenId> {
        let (mut ids, mut rest) = (Vec::new(), text);
        while let Some(c) = rest.chars().next() {
            let token = self.0.iter().find(|token| rest.starts_with(**token));
            ids.push(token.map_or(c.into(), |token| self.token(token).unwrap()));
            rest = &rest[token.map_or(c.len_utf8(), |token| token.len())..];
        }
        ids
    }

    fn text(&self, ids: &[TokenId]) -> String {
        let token = |id: &TokenId| match self.0.get(id.wrapping_sub(FIRST_TOKEN) as usize) {
            Some(token) => (*token).to_owned(),
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
    let chars = Chars(format.table().tokens);
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

/// What each family renders: a system's and a user's turn; what follows an answer that ended with `stop`, with a
/// user's turn; what follows calls that ended with `call_stop`, with one result and with two.
struct Rendered {
    name: &'static str,
    first: &'static str,
    stop: &'static str,
    user: &'static str,
    call_stop: &'static str,
    result: &'static str,
    results: &'static str,
}

const NONE: &str = "unsupported";

#[rustfmt::skip]
const RENDERED: &[Rendered] = &[
    Rendered {
        name: "qwen3_xml",
        first: "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n<think>\n",
        stop: "<|im_end|>",
        user: "\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n<think>\n",
        call_stop: "<|im_end|>",
        result: "\n<|im_start|>user\n<tool_response>\nR\n</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n",
        results: "\n<|im_start|>user\n<tool_response>\nR\n</tool_response>\n<tool_response>\nQ\n</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n",
    },
    Rendered {
        name: "qwen3_coder",
        first: "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n",
        stop: "<|im_end|>",
        user: "\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
        call_stop: "<|im_end|>",
        result: "\n<|im_start|>user\n<tool_response>\nR\n</tool_response>\n<|im_end|>\n<|im_start|>assistant\n",
        results: "\n<|im_start|>user\n<tool_response>\nR\n</tool_response>\n<tool_response>\nQ\n</tool_response>\n<|im_end|>\n<|im_start|>assistant\n",
    },
    Rendered {
        name: "nemotron3",
        first: "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n<think>\n",
        stop: "<|im_end|>",
        user: "\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n<think>\n",
        call_stop: "<|im_end|>",
        result: "\n<|im_start|>user\n<tool_response>\nR\n</tool_response>\n<|im_end|>\n<|im_start|>assistant\n<think>\n",
        results: "\n<|im_start|>user\n<tool_response>\nR\n</tool_response>\n<tool_response>\nQ\n</tool_response>\n<|im_end|>\n<|im_start|>assistant\n<think>\n",
    },
    Rendered {
        name: "qwen3",
        first: "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n",
        stop: "<|im_end|>",
        user: "\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
        call_stop: "<|im_end|>",
        result: "\n<|im_start|>user\n<tool_response>\nR\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
        results: "\n<|im_start|>user\n<tool_response>\nR\n</tool_response>\n<tool_response>\nQ\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    },
    Rendered {
        name: "qwen3_thinking",
        first: "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n<think>\n",
        stop: "<|im_end|>",
        user: "\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n<think>\n",
        call_stop: "<|im_end|>",
        result: "\n<|im_start|>user\n<tool_response>\nR\n</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n",
        results: "\n<|im_start|>user\n<tool_response>\nR\n</tool_response>\n<tool_response>\nQ\n</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n",
    },
    Rendered {
        name: "qwen2_5",
        first: "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n",
        stop: "<|im_end|>",
        user: "\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
        call_stop: "<|im_end|>",
        result: "\n<|im_start|>user\n<tool_response>\nR\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
        results: "\n<|im_start|>user\n<tool_response>\nR\n</tool_response>\n<tool_response>\nQ\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    },
    Rendered {
        name: "hermes3",
        first: "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n",
        stop: "<|im_end|>",
        user: "\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
        call_stop: "<|im_end|>",
        result: "\n<|im_start|>tool\n<tool_response>\nR\n</tool_response><|im_end|><|im_start|>assistant\n",
        results: NONE,
    },
    Rendered {
        name: "smollm2",
        first: "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n",
        stop: "<|im_end|>",
        user: "\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
        call_stop: "<|im_end|>",
        result: NONE,
        results: NONE,
    },
    Rendered {
        name: "granite4",
        first: "<|start_of_role|>system<|end_of_role|>S<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>U<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        stop: "<|end_of_text|>",
        user: "\n<|start_of_role|>user<|end_of_role|>V<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        call_stop: "<|end_of_text|>",
        result: "\n<|start_of_role|>user<|end_of_role|>\n<tool_response>\nR\n</tool_response><|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        results: NONE,
    },
    Rendered {
        name: "gemma4",
        first: "<bos><|turn>system\n<|think|>S<turn|>\n<|turn>user\nU<turn|>\n<|turn>model\n",
        stop: "<turn|>",
        user: "\n<|turn>user\nV<turn|>\n<|turn>model\n",
        call_stop: "<|tool_response>",
        result: "response:f{value:<|\"|>R<|\"|>}<tool_response|>",
        results: "response:f{value:<|\"|>R<|\"|>}<tool_response|><|tool_response>response:f{value:<|\"|>Q<|\"|>}<tool_response|>",
    },
    Rendered {
        name: "kimi_k2",
        first: "<|im_system|>system<|im_middle|>S<|im_end|><|im_user|>user<|im_middle|>U<|im_end|><|im_assistant|>assistant<|im_middle|>",
        stop: "<|im_end|>",
        user: "<|im_user|>user<|im_middle|>V<|im_end|><|im_assistant|>assistant<|im_middle|>",
        call_stop: "<|im_end|>",
        result: "<|im_system|>f<|im_middle|>## Return of functions.f:0\nR<|im_end|><|im_assistant|>assistant<|im_middle|>",
        results: "<|im_system|>f<|im_middle|>## Return of functions.f:0\nR<|im_end|><|im_system|>f<|im_middle|>## Return of functions.f:1\nQ<|im_end|><|im_assistant|>assistant<|im_middle|>",
    },
    Rendered {
        name: "kimi_k2_5",
        first: "<|im_system|>system<|im_middle|>S<|im_end|><|im_user|>user<|im_middle|>U<|im_end|><|im_assistant|>assistant<|im_middle|><think>",
        stop: "<|im_end|>",
        user: "<|im_user|>user<|im_middle|>V<|im_end|><|im_assistant|>assistant<|im_middle|><think>",
        call_stop: "<|im_end|>",
        result: "<|im_system|>f<|im_middle|>## Return of functions.f:0\nR<|im_end|><|im_assistant|>assistant<|im_middle|><think>",
        results: "<|im_system|>f<|im_middle|>## Return of functions.f:0\nR<|im_end|><|im_system|>f<|im_middle|>## Return of functions.f:1\nQ<|im_end|><|im_assistant|>assistant<|im_middle|><think>",
    },
    Rendered {
        name: "glm_4_6",
        first: "[gMASK]<sop><|system|>\nS<|user|>\nU<|assistant|>",
        stop: "<|user|>",
        user: "\nV<|assistant|>",
        call_stop: "<|observation|>",
        result: "\n<tool_response>\nR\n</tool_response><|assistant|>",
        results: "\n<tool_response>\nR\n</tool_response>\n<tool_response>\nQ\n</tool_response><|assistant|>",
    },
    Rendered {
        name: "glm_4_7",
        first: "[gMASK]<sop><|system|>S<|user|>U<|assistant|><think>",
        stop: "<|endoftext|>",
        user: "<|user|>V<|assistant|><think>",
        call_stop: "<|observation|>",
        result: "<tool_response>R</tool_response><|assistant|><think>",
        results: "<tool_response>R</tool_response><tool_response>Q</tool_response><|assistant|><think>",
    },
    Rendered {
        name: "deepseek_v3_1",
        first: "<｜begin▁of▁sentence｜>S<｜User｜>U<｜Assistant｜><think>",
        stop: "<｜end▁of▁sentence｜>",
        user: "<｜User｜>V<｜Assistant｜><think>",
        call_stop: "<｜end▁of▁sentence｜>",
        result: "<｜tool▁output▁begin｜>R<｜tool▁output▁end｜>",
        results: "<｜tool▁output▁begin｜>R<｜tool▁output▁end｜><｜tool▁output▁begin｜>Q<｜tool▁output▁end｜>",
    },
    Rendered {
        name: "deepseek_v3_2",
        first: "<｜begin▁of▁sentence｜>S<｜User｜>U<｜Assistant｜><think>",
        stop: "<｜end▁of▁sentence｜>",
        user: "<｜User｜>V<｜Assistant｜><think>",
        call_stop: "<｜end▁of▁sentence｜>",
        result: "\n\n<function_results>\n<result>R</result>\n</function_results>\n\n<think>",
        results: "\n\n<function_results>\n<result>R</result>\n<result>Q</result>\n</function_results>\n\n<think>",
    },
    Rendered {
        name: "deepseek_v4",
        first: "<｜begin▁of▁sentence｜>S<｜User｜>U<｜Assistant｜><think>",
        stop: "<｜end▁of▁sentence｜>",
        user: "<｜User｜>V<｜Assistant｜><think>",
        call_stop: "<｜end▁of▁sentence｜>",
        result: "<｜User｜><tool_result>R</tool_result><｜Assistant｜><think>",
        results: "<｜User｜><tool_result>R</tool_result>\n\n<tool_result>Q</tool_result><｜Assistant｜><think>",
    },
    Rendered {
        name: "harmony",
        first: "<|start|>system<|message|>S<|end|><|start|>user<|message|>U<|end|><|start|>assistant",
        stop: "<|return|>",
        user: "<|start|>user<|message|>V<|end|><|start|>assistant",
        call_stop: "<|call|>",
        result: "<|start|>functions.f to=assistant<|channel|>commentary<|message|>\"R\"<|end|><|start|>assistant",
        results: "<|start|>functions.f to=assistant<|channel|>commentary<|message|>\"R\"<|end|><|start|>functions.f to=assistant<|channel|>commentary<|message|>\"Q\"<|end|><|start|>assistant",
    },
    Rendered {
        name: "mistral",
        first: "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]U[/INST]",
        stop: "</s>",
        user: "[INST]V[/INST]",
        call_stop: "</s>",
        result: "[TOOL_RESULTS]R[/TOOL_RESULTS]",
        results: "[TOOL_RESULTS]R[/TOOL_RESULTS][TOOL_RESULTS]Q[/TOOL_RESULTS]",
    },
    Rendered {
        name: "mistral_small_3_2",
        first: "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]U[/INST]",
        stop: "</s>",
        user: "[INST]V[/INST]",
        call_stop: "</s>",
        result: "[TOOL_RESULTS]call_0[TOOL_CONTENT]R[/TOOL_RESULTS]",
        results: "[TOOL_RESULTS]call_0[TOOL_CONTENT]R[/TOOL_RESULTS][TOOL_RESULTS]call_1[TOOL_CONTENT]Q[/TOOL_RESULTS]",
    },
    Rendered {
        name: "mistral_nemo",
        first: NONE,
        stop: "</s>",
        user: "[INST]V[/INST]",
        call_stop: "</s>",
        result: "[TOOL_RESULTS]{\"content\": \"R\", \"call_id\": \"call_0\"}[/TOOL_RESULTS]",
        results: "[TOOL_RESULTS]{\"content\": \"R\", \"call_id\": \"call_0\"}[/TOOL_RESULTS][TOOL_RESULTS]{\"content\": \"Q\", \"call_id\": \"call_1\"}[/TOOL_RESULTS]",
    },
    Rendered {
        name: "minimax_m2",
        first: "]~!b[]~b]system\nS[e~[\n]~b]user\nU[e~[\n]~b]ai\n<think>\n",
        stop: "[e~[",
        user: "\n]~b]user\nV[e~[\n]~b]ai\n<think>\n",
        call_stop: "[e~[",
        result: "\n]~b]tool\n<response>R</response>[e~[\n]~b]ai\n<think>\n",
        results: "\n]~b]tool\n<response>R</response>\n<response>Q</response>[e~[\n]~b]ai\n<think>\n",
    },
    Rendered {
        name: "llama3",
        first: "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        stop: "<|eot_id|>",
        user: "<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        call_stop: "<|eom_id|>",
        result: "<|start_header_id|>ipython<|end_header_id|>\n\n\"R\"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        results: "<|start_header_id|>ipython<|end_header_id|>\n\n\"R\"<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n\"Q\"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    },
    Rendered {
        name: "cohere",
        first: "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>S<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>U<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        stop: "<|END_OF_TURN_TOKEN|>",
        user: "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>V<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        call_stop: "<|END_OF_TURN_TOKEN|>",
        result: "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><|START_TOOL_RESULT|>[\n    {\n        \"tool_call_id\": \"call_0\",\n        \"results\": {\n            \"0\": \"R\"\n        },\n        \"is_error\": null\n    }\n]<|END_TOOL_RESULT|><|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        results: "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><|START_TOOL_RESULT|>[\n    {\n        \"tool_call_id\": \"call_0\",\n        \"results\": {\n            \"0\": \"R\"\n        },\n        \"is_error\": null\n    },\n    {\n        \"tool_call_id\": \"call_1\",\n        \"results\": {\n            \"0\": \"Q\"\n        },\n        \"is_error\": null\n    }\n]<|END_TOOL_RESULT|><|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    },
    Rendered {
        name: "granite",
        first: "<|start_of_role|>system<|end_of_role|>S<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>U<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        stop: "<|end_of_text|>",
        user: "\n<|start_of_role|>user<|end_of_role|>V<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        call_stop: "<|end_of_text|>",
        result: "\n<|start_of_role|>tool<|end_of_role|>R<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        results: "\n<|start_of_role|>tool<|end_of_role|>R<|end_of_text|>\n<|start_of_role|>tool<|end_of_role|>Q<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    },
    Rendered {
        name: "phi4",
        first: "<|system|>S<|end|><|user|>U<|end|><|assistant|>",
        stop: "<|end|>",
        user: "<|user|>V<|end|><|assistant|>",
        call_stop: "<|end|>",
        result: "<|tool_response|>\"R\"<|end|><|assistant|>",
        results: "<|tool_response|>\"R\"<|end|><|tool_response|>\"Q\"<|end|><|assistant|>",
    },
    Rendered {
        name: "seed_oss",
        first: "<seed:bos>system\nS<seed:eos><seed:bos>user\nU<seed:eos><seed:bos>assistant\n",
        stop: "<seed:eos>",
        user: "<seed:bos>user\nV<seed:eos><seed:bos>assistant\n",
        call_stop: "<seed:eos>",
        result: "<seed:bos>tool\nR<seed:eos><seed:bos>assistant\n",
        results: "<seed:bos>tool\nR<seed:eos><seed:bos>tool\nQ<seed:eos><seed:bos>assistant\n",
    },
    Rendered { name: "plain", first: "SU", stop: "", user: "V", call_stop: "", result: NONE, results: NONE },
];

/// The ids of `prompt` after those before, as text; the ids before must be there.
fn added(chars: &Chars, before: &[TokenId], prompt: Result<Prompt, Error>) -> String {
    let prompt = match prompt {
        Ok(prompt) => prompt,
        Err(error) if error.kind() == ErrorKind::Unsupported => return NONE.to_owned(),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(prompt.prefix, Prefix::Kept);
    let rest = prompt.ids.strip_prefix(before).expect("the prefix is not kept");
    chars.text(rest)
}

#[test]
fn each_family_renders_what_its_template_does() {
    let names: Vec<&str> = RENDERED.iter().map(|case| case.name).collect();
    assert_eq!(names, ChatFormat::all().map(ChatFormat::name).collect::<Vec<_>>());
    for Rendered { name, first, stop, user, call_stop, result, results } in RENDERED {
        let (mut context, chars) = context(name);
        context.system("S");
        context.user("U");
        let prompt = context.begin_response();
        assert_eq!(added(&chars, &[], prompt.clone()), *first, "{name}");
        let mut ids = prompt.map(|prompt| prompt.ids).unwrap_or_default();
        if *first == NONE {
            context.turns.clear();
            context.user("U");
            ids = context.begin_response().unwrap().ids;
        }
        assert_eq!(context.turns.iter().map(Branch::text).collect::<String>(), chars.text(&ids), "{name}");
        let begun = context;
        let sampled = |text: &str| [&ids[..], &chars.ids(text)].concat();

        let mut context = begun.clone();
        let mut leaves = vec![chars.leaf(LeafKind::Content, "A."), chars.leaf(LeafKind::Marker, stop)];
        context.add_response(said(leaves.clone()), IdsExact::Yes).unwrap();
        context.user("V");
        let before = sampled(&format!("A.{stop}"));
        assert_eq!(added(&chars, &before, context.begin_response()), *user, "{name}: user");

        let of_calls = |n: usize| {
            if name.starts_with("kimi") { format!("functions.f:{n}") } else { format!("call_{n}") }
        };
        for (expected, gave) in [(result, &["R"][..]), (results, &["R", "Q"])] {
            let mut context = begun.clone();
            leaves = vec![chars.leaf(call(&of_calls(0)), "C"), chars.leaf(call(&of_calls(1)), "D")];
            leaves.push(chars.leaf(LeafKind::Marker, call_stop));
            context.add_response(said(leaves.clone()), IdsExact::Yes).unwrap();
            // The last first: they are put in order.
            for (n, text) in gave.iter().enumerate().rev() {
                context.tool_result(&of_calls(n), *text).unwrap();
            }
            let before = sampled(&format!("CD{call_stop}"));
            let len = context.len_tokens();
            let prompt = context.begin_response();
            assert_eq!(len.ok(), prompt.as_ref().ok().map(|prompt| prompt.ids.len()), "{name}");
            assert_eq!(added(&chars, &before, prompt), **expected, "{name}: {gave:?}");
        }
    }
}

#[test]
fn the_prefix_is_kept_over_many_turns_however_they_end() {
    for Rendered { name, stop, call_stop, result, .. } in RENDERED {
        let (mut context, chars) = context(name);
        let mut before = Vec::new();
        context.user("U");
        for n in 0..6 {
            let prompt = context.begin_response().unwrap();
            assert_eq!(prompt.prefix, Prefix::Kept);
            assert!(prompt.ids.starts_with(&before), "{name}: turn {n}");
            // Ids that no tokenizer would make of the text, so that encoding again would be seen.
            let odd = Leaf::new(LeafKind::Content, "abc", vec![500_000 + n, 600_000]);
            let leaves = match n % 3 {
                0 => vec![odd, chars.leaf(LeafKind::Marker, stop)],
                1 => vec![odd],
                _ => vec![odd, chars.leaf(call("c"), "C"), chars.leaf(LeafKind::Marker, call_stop)],
            };
            let turn = said(leaves);
            before = [prompt.ids, turn.ids().collect()].concat();
            context.add_response(turn, if n % 2 == 0 { IdsExact::Yes } else { IdsExact::Unknown }).unwrap();
            if n % 3 == 2 && *result != NONE {
                context.tool_result("c", "R").unwrap();
            } else {
                context.user("V");
            }
        }
        assert!(context.begin_response().unwrap().ids.starts_with(&before), "{name}");
    }
}

/// Turns of the model that end otherwise than with its end: what follows it.
#[test]
fn a_turn_that_was_cut_is_closed() {
    const QWEN: &str = "<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n<think>\n";
    let unfinished = LeafKind::Malformed { reason: Malformed::Unfinished };
    for (name, leaves, expected) in [
        ("qwen3_xml", vec![(LeafKind::Content, "A")], QWEN),
        ("qwen3_xml", vec![(LeafKind::Reasoning, "hm")], &format!("</think>{QWEN}")),
        ("qwen3_xml", vec![], &format!("</think>{QWEN}")),
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
    ] {
        let (mut context, chars) = context(name);
        context.user("U");
        let mut before = context.begin_response().unwrap().ids;
        let turn = said(leaves.iter().map(|(kind, text)| chars.leaf(kind.clone(), text)).collect());
        before.extend(turn.ids());
        context.add_response(turn, IdsExact::Unknown).unwrap();
        context.user("V");
        assert_eq!(added(&chars, &before, context.begin_response()), expected, "{name} {leaves:?}");
    }
    // A closer, or the end of the turn inside reasoning, that came with its id only.
    for (last, expected) in [("</think>", QWEN), ("<|im_end|>", &QWEN["<|im_end|>".len()..])] {
        let (mut context, chars) = context("qwen3_xml");
        context.user("U");
        let before = context.begin_response().unwrap().ids;
        let sampled = vec![104, chars.token(last).unwrap()];
        let turn = said(vec![Leaf::new(LeafKind::Reasoning, "h", sampled.clone())]);
        context.add_response(turn, IdsExact::Unknown).unwrap();
        context.user("V");
        assert_eq!(added(&chars, &[before, sampled].concat(), context.begin_response()), expected, "{last}");
    }
    // A closer of several tokens.
    let (mut context, chars) = context("qwen3_xml");
    context.user("U");
    let before = context.begin_response().unwrap().ids;
    let mut thought = Leaf::new(LeafKind::Reasoning, "hm</think>", vec![500, 501]);
    thought.inner = 0..2;
    context.add_response(said(vec![thought]), IdsExact::Unknown).unwrap();
    context.user("V");
    assert_eq!(added(&chars, &[before, vec![500, 501]].concat(), context.begin_response()), QWEN);
}

#[test]
fn what_is_spelled_in_text_from_outside_is_no_token() {
    for Rendered { name, first, result, .. } in RENDERED {
        let (mut context, chars) = context(name);
        let all: String = chars.0.concat();
        let count = |ids: &[TokenId]| ids.iter().filter(|id| **id >= FIRST_TOKEN).count();
        let mut counts = Vec::new();
        for text in ["x", &all] {
            let mut context = context.clone();
            if *first != NONE {
                context.system(text);
            }
            context.user(text);
            let prompt = context.begin_response().unwrap();
            assert!(chars.text(&prompt.ids).contains(text), "{name}");
            if *result != NONE {
                let mut leaf = chars.leaf(call(text), "C");
                if let LeafKind::ToolCall(call) = &mut leaf.kind {
                    call.name = text.to_owned();
                }
                context.add_response(said(vec![leaf]), IdsExact::Yes).unwrap();
                context.tool_result(text, text).unwrap();
            }
            counts.push(context.begin_response().map_or(count(&prompt.ids), |prompt| count(&prompt.ids)));
        }
        assert_eq!(counts[0], counts[1], "{name}");
        context.user("");
        assert!(context.begin_response().is_ok(), "{name}");
    }
}

#[test]
fn thinking_can_be_off_where_the_family_has_a_switch() {
    for (name, opener) in [
        ("qwen3_xml", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ("nemotron3", "<|im_start|>assistant\n<think></think>"),
        ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ("qwen3_coder", "<|im_start|>assistant\n"),
        ("glm_4_6", "<|user|>\nU/nothink<|assistant|>\n<think></think>"),
        ("glm_4_7", "<|assistant|></think>"),
        ("deepseek_v3_1", "<｜Assistant｜></think>"),
        ("deepseek_v4", "<｜Assistant｜></think>"),
        ("gemma4", "<bos><|turn>user\nU<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"),
        ("qwen3_thinking", NONE),
        ("minimax_m2", NONE),
    ] {
        let (context, chars) = context(name);
        let mut on = context.clone();
        on.user("U");
        let on = on.begin_response().unwrap();
        let opens = on.ids.last().is_some_and(|id| chars.text(&[*id]) == "<think>")
            || chars.text(&on.ids).ends_with("<think>\n");
        assert_eq!(on.start == Start::Reasoning, opens, "{name}");
        let mut off = context.reasoning(false);
        off.user("U");
        let off = off.begin_response();
        assert!(off.as_ref().map_or(true, |prompt| prompt.start == Start::Content), "{name}");
        let text = added(&chars, &[], off);
        assert!(text.ends_with(opener), "{name}: {text:?}");
    }
}

/// A turn with reasoning, then a user's: what stands for the turn in the prompt after that, from the opener on.
#[test]
fn thinking_is_dropped_as_the_templates_do() {
    for (name, closed, expected) in [
        ("qwen3_xml", "</think>\n\n", "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV"),
        ("nemotron3", "</think>", "<|im_start|>assistant\n<think></think>A<|im_end|>\n<|im_start|>user\nV"),
        ("glm_4_6", "</think>\n", "<|assistant|>\n<think></think>\nA<|user|>\nV"),
        ("glm_4_7", "</think>", "<|assistant|></think>A<|user|>V"),
        ("deepseek_v3_1", "</think>", "<｜Assistant｜></think>A<｜end▁of▁sentence｜><｜User｜>V"),
        ("kimi_k2", "</think>", NONE),
    ] {
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
            Err(error) => assert_eq!((error.kind(), expected), (ErrorKind::Unsupported, NONE), "{name}"),
            Ok(prompt) => {
                let text = chars.text(&prompt.ids);
                assert!(text.contains(expected), "{name}: {text:?}");
                assert_eq!(prompt.prefix, Prefix::ReasoningDropped { turn: 1 }, "{name}");
                assert_eq!(prompt.ids, chars.ids(&text), "{name}");
                // Once dropped, the rest is kept.
                context.add_response(said(vec![chars.leaf(LeafKind::Content, "B")]), IdsExact::Yes).unwrap();
                context.user("W");
                let next = context.begin_response().unwrap();
                assert_eq!((next.prefix, next.ids.starts_with(&prompt.ids)), (Prefix::Kept, true), "{name}");
            }
        }
    }
}

#[test]
fn a_turn_with_missing_ids_is_encoded_again_or_refused_or_taken() {
    let no_ids = IdsExact::No(Inexact::NoIds);
    let turn = || {
        let mut missing = Leaf::new(LeafKind::Content, "<|im_end|>", vec![]);
        missing.ids_missing = 1;
        let mut end = Leaf::new(LeafKind::Marker, "<|im_end|>", vec![]);
        end.ids_missing = 1;
        let call = Leaf::new(call("c"), "<tool_call>{\"<|im_end|>\"}</tool_call>", vec![]);
        said(vec![missing, call, end])
    };
    for (ids, policy, expected) in [
        (no_ids, WhenInexact::Reencode, Ok(Prefix::Reencoded { turn: 1 })),
        (IdsExact::Unknown, WhenInexact::Reencode, Ok(Prefix::Reencoded { turn: 1 })),
        (no_ids, WhenInexact::Refuse, Err(ErrorKind::InexactIds)),
        (no_ids, WhenInexact::Take, Ok(Prefix::Kept)),
    ] {
        let (context, chars) = context("qwen2_5");
        let mut context = context.when_inexact(policy);
        context.user("U");
        let before = context.begin_response().unwrap().ids;
        context.add_response(turn(), ids).unwrap();
        context.user("V");
        let prompt = context.begin_response();
        assert_eq!(prompt.as_ref().map(|prompt| prompt.prefix).map_err(Error::kind), expected);
        let Ok(prompt) = prompt else { continue };
        let rest = &prompt.ids[before.len()..];
        assert_eq!(prompt.ids[..before.len()], before);
        let close = "<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n";
        if policy == WhenInexact::Take {
            assert_eq!(chars.text(rest), close);
            continue;
        }
        let call = "<tool_call>{\"<|im_end|>\"}</tool_call>";
        assert_eq!(chars.text(rest), format!("<|im_end|>{call}{close}"));
        let tokens = rest.iter().filter(|id| **id >= FIRST_TOKEN).count();
        assert_eq!(tokens, 2 + 4, "the call's tags and the turns', not what is spelled in text");
    }
}

#[test]
fn a_prompt_over_the_limit_is_an_error_that_names_both_numbers_and_changes_nothing() {
    let (context, _) = context("plain");
    let mut context = context.max_context_tokens(9);
    context.user("123456789");
    assert_eq!(context.begin_response().unwrap().ids.len(), 9);
    context.discard_response();
    context.user("0");
    let before = context.clone();
    let error = context.begin_response().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit(Limit::ContextTokens));
    assert_eq!(error.to_string(), "the prompt has 10 tokens: context_tokens_max is 9");
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
    refused(begin(&mut context), "nothing to respond to");
    refused(context.add_response(said(vec![]), IdsExact::Yes), "no response was begun");
    refused(context.tool_result("a", ""), "the last response has no call \"a\"");
    context.user("U");
    begin(&mut context).unwrap();
    context.user("meanwhile");
    refused(begin(&mut context), "the last response has not ended");
    let calls = vec![chars.leaf(call("a"), "A"), chars.leaf(call("b"), "B")];
    context.add_response(said(calls), IdsExact::Yes).unwrap();
    context.tool_result("b", "").unwrap();
    refused(context.tool_result("b", ""), "there is already a result of \"b\"");
    refused(context.tool_result("c\u{7}", ""), "the last response has no call \"c\\\\u{7}\"");
    let roles: Vec<&str> = context.turns().iter().map(|turn| turn.role.as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "user"]);
    begin(&mut context).unwrap();
    context.discard_response();
    refused(context.tool_result("a", ""), "too late for the result of \"a\"");
}

#[test]
fn a_call_id_that_the_model_wrote_twice_takes_a_result_for_each_call() {
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
fn a_response_can_be_taken_back_and_asked_for_again() {
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
fn a_second_system_text_is_the_developers_in_harmony() {
    let (mut context, chars) = context("harmony");
    context.system("S");
    context.system("D");
    context.user("U");
    let text = chars.text(&context.begin_response().unwrap().ids);
    assert!(text.contains("<|end|><|start|>developer<|message|>D<|end|><|start|>user"), "{text}");
}

#[test]
fn leaves_own_the_ids_of_their_text_and_the_tree_shows_them() {
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
fn a_marker_that_is_no_token_of_the_vocabulary_is_text() {
    let format = ChatFormat::by_name("qwen2_5").unwrap();
    let mut context = Context::new(format, Chars(&["<|im_end|>"]));
    context.user("U");
    let ids = context.begin_response().unwrap().ids;
    assert_eq!(ids.iter().filter(|id| **id >= FIRST_TOKEN).count(), 1);
    assert!(ids.starts_with(&"<|im_start|>user\nU".chars().map(TokenId::from).collect::<Vec<_>>()));
}

#[test]
fn tables_are_sound() {
    fn crosses<T: Send + Sync + Clone + 'static>() {}
    crosses::<Context>();
    for table in ChatFormat::all().map(ChatFormat::table) {
        for (n, token) in table.tokens.iter().enumerate() {
            let begins = table
                .tokens
                .iter()
                .skip(n + 1)
                .any(|other| other.starts_with(token) || token.starts_with(other));
            assert!(!begins, "{}: {token} is the beginning of another", table.name);
        }
        let ends = table.ends.iter().chain(table.stops);
        assert!(ends.clone().all(|end| table.tokens.contains(end)), "{}", table.name);
        let first = Sheet::new(&Chars(table.tokens), table).first_id(table.close);
        assert_eq!(first.is_none(), table.close.is_empty(), "{}", table.name);
    }
    assert!(ChatFormat::by_name("x").unwrap_err().to_string().contains("qwen3_xml, qwen3_coder"));
}
