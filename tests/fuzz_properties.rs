//! Runs the corpus of each fuzz target, which includes every past crash, through the property of
//! the target. Add new failing inputs of the fuzzer to the corpus.
#![cfg(feature = "testing")]

#[path = "../fuzz/properties.rs"]
mod properties;

use std::path::Path;

type Property = fn(&[u8]);

const TARGETS: [(&str, Property); 9] = [
    ("chunk", properties::chunk),
    ("header", properties::header),
    ("parse", properties::parse),
    ("prompt", properties::prompt),
    ("request", properties::request),
    ("retry_after", properties::retry_after),
    ("saved", properties::saved),
    ("sse", properties::sse),
    ("stream", properties::stream),
];

#[test]
fn the_corpus_of_each_target_holds() {
    for (target, property) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut files = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // This line is printed only if the test fails. It names the file that caused the
            // failure.
            println!("{}", path.display());
            property(&std::fs::read(&path).unwrap());
            files += 1;
        }
        assert!(files >= 10, "{files} files in {}", folder.display());
    }
}

/// The test uses the same inputs every time. `TOKENWIRE_INPUTS=100000` sets the number of inputs,
/// and `TOKENWIRE_TARGET=stream` selects one target. A failing input is written to a file. Add that
/// file to the corpus.
#[test]
fn each_target_holds_for_random_inputs() {
    let count = std::env::var("TOKENWIRE_INPUTS").map_or(400, |count| count.parse().unwrap());
    let only = std::env::var("TOKENWIRE_TARGET").ok();
    for (target, property) in
        TARGETS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name))
    {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        for number in 0..count {
            let mut next = || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random >> 32
            };
            let len = 1 + next() % if number % 8 == 0 { 2000 } else { 200 };
            // Small numbers lead to more different choices than large ones.
            let small = number % 3 == 0;
            let input: Vec<u8> =
                (0..len).map(|_| if small && next() % 2 == 0 { next() % 8 } else { next() } as u8).collect();
            let path = std::env::temp_dir().join(format!("tokenwire-{target}-{}", std::process::id()));
            if let Err(panic) = std::panic::catch_unwind(|| property(&input)) {
                std::fs::write(&path, &input).unwrap();
                println!("the input is in {}", path.display());
                std::panic::resume_unwind(panic);
            }
        }
    }
}
