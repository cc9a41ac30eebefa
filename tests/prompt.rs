//! Tests that prompts have the ids of their whole text, with a real tokenizer.
#![cfg(feature = "tokenizer")]

mod common;

use common::checks::each_row;
use tokenwire::{Branch, ChatFormat, Context, IdsExact, Leaf, LeafKind, Role, Special, Tokenizer};

#[test]
fn prompts_of_smollm2_have_the_ids_of_its_rendered_template() {
    let Some(path) = common::smollm2() else { return };
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    let format = ChatFormat::by_name("smollm2").unwrap();
    let default = format.default_system().unwrap();
    each_row(
        [
            (default, "Hello"),
            ("Be brief.\n", "\n\nWhat is 2 + 2?\n"),
            ("", " x"),
            ("日本語 🙂", "e\u{301}a 👩‍👩‍👧\r\n\tfn main() {}"),
        ],
        |(system, user)| {
            let mut context = Context::new(format, tokenizer.clone());
            context.system(system);
            context.user(user);
            let prompt = context.begin_response().unwrap();
            let text = format!(
                "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
            );
            assert_eq!(prompt.ids, tokenizer.encode(&text, Special::TEMPLATE).unwrap(), "{text:?}");
            // Each leaf has the tokens that begin in it.
            for leaf in context.turns().iter().flat_map(|turn| &turn.leaves) {
                assert!(
                    leaf.ids.len() <= leaf.text.len() && (leaf.text.len() < 2 || !leaf.ids.is_empty()),
                    "{leaf:?}"
                );
            }

            let end = tokenizer.special_id("<|im_end|>").unwrap();
            let mut turn = Branch::new(Role::Assistant);
            turn.leaves.push(Leaf::new(LeafKind::Content, "", vec![41, 42, 43, end]));
            context.add_response(turn, IdsExact::Yes).unwrap();
            context.user("<|im_end|>");
            let next = context.begin_response().unwrap();
            let rest = next.ids.strip_prefix(&[&prompt.ids[..], &[41, 42, 43, end]].concat()[..]).unwrap();
            assert_eq!(rest.iter().filter(|id| **id == end).count(), 1, "the spelled marker is text");
        },
    );
}
