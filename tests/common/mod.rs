//! Helpers that several test programs share.
#![allow(dead_code, unreachable_pub)] // Each test is its own crate and uses only a part.

use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};

#[cfg(feature = "testing")]
pub mod certificates;
pub mod checks;
pub mod chunk_property;
pub mod fixture;
pub mod live;
#[cfg(feature = "cli")]
pub mod program;
#[cfg(feature = "testing")]
pub mod router;
pub mod servers;
#[cfg(feature = "testing")]
pub mod sockets;
pub mod streams;
pub mod vectors;
pub mod wire;

/// Returns the path of a file in this crate's test data.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Returns the name and the contents of each file in `src/turn/parse/dialects/`.
pub fn dialects() -> Vec<(String, serde_json::Value)> {
    let read = |(name, text): (String, String)| {
        let record = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}.json: {error}"));
        (name, record)
    };
    records("src/turn/parse/dialects").into_iter().map(read).collect()
}

/// Returns the name and the text of each JSON file in this folder of the crate.
pub fn records(folder: &str) -> Vec<(String, String)> {
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    files.map(read).collect()
}

/// Returns the tokenizer of SmolLM2, the model of the live tests.
pub fn smollm2() -> Option<PathBuf> {
    shared("tokenizers/smollm2/tokenizer.json")
}

/// Returns a path in the folder `shared` beside the checkout, such as `cases/sse` or
/// `tokenizers/smollm2`. `TOKENWIRE_CASES` sets the path of its folder `cases`.
///
/// A test that uses this runs wherever the folder exists, so it cannot be `#[ignore]`. If
/// `TOKENWIRE_CASES` is set, as in `.ci/run`, a missing path fails the test. Otherwise the test
/// checks nothing and prints its name in a line that cargo does not capture.
pub fn shared(path: &str) -> Option<PathBuf> {
    let cases = env::var_os("TOKENWIRE_CASES").map(PathBuf::from);
    let insists = cases.is_some();
    let cases = cases.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases"));
    let wanted = cases.with_file_name(path);
    if wanted.exists() {
        return Some(wanted);
    }
    assert!(!insists, "TOKENWIRE_CASES is set, but {path} is missing");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // cargo would capture `eprintln!`, because the test passes.
    let _ =
        writeln!(std::io::stderr(), "NOT RUN: {test} needs {path} in a folder `shared` beside the checkout");
    None
}
