//! Tests that the table in docs/servers.md contains exactly what the recordings and vectors show.

mod common;

use std::collections::BTreeMap;

use common::servers::{ROWS, TABLE_BEGIN, gather, table};

#[test]
fn the_page_of_servers_matches_the_recordings_and_vectors() {
    let page = include_str!("../docs/servers.md");
    let written = &page[page.find(TABLE_BEGIN).expect("the table")..];
    let found = table(&gather().unwrap());
    assert!(
        written == found,
        "docs/servers.md is outdated: run cargo run --example servers -- --write\n{found}"
    );
}

#[test]
fn each_row_has_a_source_and_each_live_test_exists() {
    let all = gather().unwrap();
    // For each server: recordings, vectors, and whether they include an error and a broken stream.
    let mut servers: BTreeMap<&str, (usize, usize, bool, bool)> = BTreeMap::new();
    for (row, seen) in ROWS.iter().zip(&all) {
        let name = (row.server, row.wire);
        assert!(seen.recorded + seen.written > 0, "{name:?}");
        let (recorded, written, errors, broken) = servers.entry(row.server).or_default();
        *recorded += seen.recorded;
        *written += seen.written;
        *errors |= seen.ends.errors;
        *broken |= seen.ends.broken;
        for (file, test) in row.live {
            let path = format!("{}/tests/{file}.rs", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).unwrap();
            assert!(text.contains(&format!("fn {test}()")), "{file}: {test}");
        }
    }
    for (server, (recorded, written, errors, broken)) in servers {
        assert!(recorded > 0 || (written >= 6 && errors && broken), "{server}: {recorded} {written}");
    }
}
