//! What several test programs use.
#![allow(dead_code, unreachable_pub)] // Each of them uses a part, and is a crate of its own.

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

/// A file of this crate's own test data.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The files of `src/turn/parse/dialects/`: each its name and what it holds.
pub fn dialects() -> Vec<(String, serde_json::Value)> {
    let read = |(name, text): (String, String)| {
        let record = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}.json: {error}"));
        (name, record)
    };
    records("src/turn/parse/dialects").into_iter().map(read).collect()
}

/// The JSON files of this folder of the crate: each its name and its text.
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

/// The tokenizer of SmolLM2, the model of the live tests.
pub fn smollm2() -> Option<PathBuf> {
    shared("tokenizers/smollm2/tokenizer.json")
}

/// Something in the folder `shared` beside the checkout: `cases/sse`, `tokenizers/smollm2`. `TOKENWIRE_CASES` is the path of
/// its folder `cases` if that is elsewhere.
///
/// A test that uses this runs wherever the folder exists, so it cannot be `#[ignore]`. Where `TOKENWIRE_CASES` is set, as in
/// `.ci/run`, a missing path fails the test. Otherwise the test checks nothing, and a line that cargo does not capture
/// reports it by name.
pub fn shared(path: &str) -> Option<PathBuf> {
    let cases = env::var_os("TOKENWIRE_CASES").map(PathBuf::from);
    let insists = cases.is_some();
    let cases = cases.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases"));
    let wanted = cases.with_file_name(path);
    if wanted.exists() {
        return Some(wanted);
    }
    assert!(!insists, "TOKENWIRE_CASES is set, but there is no {path} beside it");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // `eprintln!` would be hidden, because the test passes.
    let _ =
        writeln!(std::io::stderr(), "NOT RUN: {test} needs {path} in a folder `shared` beside the checkout");
    None
}
