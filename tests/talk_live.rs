//! Tests a conversation of ten turns with a real llama.cpp server at temperature 1. Each prompt
//! begins with the previous prompt and the ids received (`talk` asserts this), and the server finds
//! that part in its cache. `examples/drift.rs` prints the same numbers, also for a client that
//! encodes text again.
#![cfg(feature = "tokenizer")]

mod common;
#[path = "common/talk.rs"]
#[allow(dead_code, unreachable_pub)]
mod talk;

use talk::{Way, talk};
use tokenwire::Tokenizer;

#[test]
#[ignore = "needs a llama.cpp server: TOKENWIRE_LIVE_URL"]
fn each_prompt_begins_with_the_previous_one_and_the_server_finds_it() {
    let url = common::live::live_url();
    let Some(file) = common::smollm2() else { return };
    let rows = talk(&url, &Tokenizer::from_file(file).unwrap(), 7, Way::Ids).unwrap();
    assert_eq!(rows.len(), 10);
    let mut hits = 0;
    for pair in rows.windows(2) {
        let [before, row] = pair else { unreachable!() };
        if !before.exact {
            assert!(
                !row.kept,
                "a turn without all its ids is encoded again, and the prompt reports that: {row:?}"
            );
            continue;
        }
        assert!(row.kept, "{row:?}");
        // The last sampled token is not evaluated yet. A server may evaluate a few more again.
        assert!(row.cached + 8 >= before.prompt_tokens + before.received, "{before:?} {row:?}");
        hits += 1;
    }
    assert!(hits >= 5, "too few exact turns: {rows:?}");
}
