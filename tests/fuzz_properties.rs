//! The corpus of each fuzz target, and with it every past crash, through the target's own property. Inputs
//! that the fuzzer found to fail belong into the corpus.

#[path = "../fuzz/properties.rs"]
mod properties;

use std::path::Path;

type Property = fn(&[u8]);

#[test]
fn the_corpus_of_each_target_holds() {
    let targets: [(&str, Property); 3] =
        [("chunk", properties::chunk), ("parse", properties::parse), ("sse", properties::sse)];
    for (target, property) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut files = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // Printed if the test fails: the file that did it.
            println!("{}", path.display());
            property(&std::fs::read(&path).unwrap());
            files += 1;
        }
        assert!(files >= 10, "{files} files in {}", folder.display());
    }
}
