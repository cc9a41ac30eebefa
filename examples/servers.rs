//! Prints what each server and endpoint does, from the recordings and vectors of the tests:
//! `cargo run --example servers`.
//!
//! With `--write`, it replaces the tables in `docs/servers.md`.

#[path = "../tests/common/fixture.rs"]
#[allow(dead_code, unreachable_pub)]
mod fixture;
#[path = "../tests/common/servers.rs"]
#[allow(dead_code, unreachable_pub)] // Only the tests use the whole module.
mod servers;
#[path = "../tests/common/vectors.rs"]
#[allow(dead_code, unreachable_pub)]
mod vectors;
#[path = "../tests/common/wire.rs"]
#[allow(dead_code, unreachable_pub)]
mod wire;

use std::path::{Path, PathBuf};
use std::{env, fs};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let table = servers::table(&servers::gather()?);
    print!("{table}");
    if env::args().any(|arg| arg == "--write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/servers.md");
        let page = fs::read_to_string(path)?;
        let text = page.split(servers::TABLE_BEGIN).next().unwrap_or_default();
        fs::write(path, format!("{text}{table}"))?;
    }
    Ok(())
}
