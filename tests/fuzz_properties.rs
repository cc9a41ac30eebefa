//! The corpus of each fuzz target, and with it every past crash, through the target's own property. Inputs
//! that the fuzzer found to fail belong into the corpus.

#[path = "../fuzz/properties.rs"]
mod properties;

use std::path::Path;

#[test]
fn the_corpus_of_sse_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/sse");
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        properties::sse(&std::fs::read(&path).unwrap());
        files += 1;
    }
    assert!(files >= 10, "{files} files in {}", folder.display());
}
