//! Measures the parsing of tokens into a tree.
//!
//! ```sh
//! cargo bench --bench parser
//! ```
//!
//! - `response_parser`: a thousand tokens of content, of a JSON call or of a tagged call
//! - `naive_search`: a naive version, which searches the whole text for the end of the call after
//!   each token
//! - `limit_join`: the lower limit, which only joins the texts

mod common;

use common::words;
use divan::Bencher;
use divan::counter::ItemsCount;
use tokenwire::{Dialect, ResponseParser};

const TOKENS: usize = 1000;

/// The name of the dialect, and the text before the measured tokens.
const PLACES: [(&str, &str); 3] = [
    ("hermes", ""),
    ("hermes", "<tool_call>{\"name\":\"write\",\"arguments\":{\"text\":\""),
    ("qwen3_xml", "<tool_call>\n<function=write>\n<parameter=text>\n"),
];

fn main() {
    divan::main();
}

#[divan::bench(args = [0, 1, 2])]
fn response_parser(bencher: Bencher<'_, '_>, place: usize) {
    let (dialect, before) = PLACES[place];
    let words = words();
    bencher.counter(ItemsCount::new(TOKENS)).bench_local(|| {
        let mut parser = ResponseParser::new(Dialect::by_name(dialect).unwrap());
        parser.push(before, None);
        for (text, id) in words.iter().cycle().take(TOKENS) {
            assert!(parser.push(text, Some(*id)).is_empty());
        }
        parser.cut_off().0.ids().count()
    });
}

#[divan::bench]
fn naive_search(bencher: Bencher<'_, '_>) {
    let words = words();
    bencher.counter(ItemsCount::new(TOKENS)).bench_local(|| {
        let mut text = String::new();
        for (word, _) in words.iter().cycle().take(TOKENS) {
            text += word;
            assert!(!text.contains("</tool_call>"));
        }
        text
    });
}

#[divan::bench]
fn limit_join(bencher: Bencher<'_, '_>) {
    let words = words();
    bencher.counter(ItemsCount::new(TOKENS)).bench_local(|| {
        let (mut text, mut ids) = (String::new(), Vec::new());
        for (word, id) in words.iter().cycle().take(TOKENS) {
            text += word;
            ids.push(*id);
        }
        assert_eq!(ids.len(), TOKENS);
        text
    });
}
