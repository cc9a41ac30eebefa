//! Tests of the chunk decoder with this project's vectors (tests/data/chunk), and of its property
//! on generated input.

mod common;

use common::checks::{each_row, sample_of};
use common::vectors::{mismatch, vectors};
use tokenwire::{
    ChunkDecoder, Endpoint, ErrorKind, Limit, MAX_CHOICES, MAX_NESTING, MAX_TOKEN_IDS, MAX_TOOL_CALLS,
};

#[test]
fn every_vector_decodes_as_written() {
    let mut cases = 0;
    let mut failed = String::new();
    for (_, case) in &vectors() {
        cases += 1;
        failed += &mismatch(case, case.asked_of()).unwrap_or_default();
    }
    assert!(failed.is_empty(), "{failed}");
    assert!(cases >= 60, "only {cases} cases");
}

#[test]
fn the_property_holds_on_generated_input() {
    use common::chunk_property::{chunk, generated, random_bytes};
    for seed in 0..sample_of(1_000, 6_000) {
        chunk(&generated(seed));
    }
    for seed in 0..400 {
        let mut bytes = random_bytes(seed, 61);
        bytes[0] |= 128;
        chunk(&bytes);
    }
}

/// The number of changes to each chunk in a full run. Runs with a few thousand changes passed too.
const CHANGES: usize = 16;

/// Decodes the stream of each recording with and without a learned template, unchanged and with
/// changed chunks.
#[test]
fn a_learned_template_does_not_change_the_result_for_any_recording() {
    use common::chunk_property::{changed, data_lines, learning_makes_no_difference, random_bytes};
    let (mut streams, changes) = (0, sample_of(3, CHANGES));
    for folder in ["vllm", "llama.cpp"] {
        for entry in std::fs::read_dir(common::data(folder)).unwrap() {
            let path = entry.unwrap().path();
            let body = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            let chunks: Vec<&str> = data_lines(&body).collect();
            if chunks.is_empty() {
                continue;
            }
            println!("{}", path.display());
            streams += 1;
            for wire in
                [Endpoint::Auto, Endpoint::OpenAi, Endpoint::Chat, Endpoint::LlamaCpp, Endpoint::VllmGenerate]
            {
                learning_makes_no_difference(wire, chunks.iter().copied());
            }
            // Use only one kind of chunk, so that the template reads most of the chunks. An error
            // ends a stream, so each change gets its own stream.
            for (n, chunk) in chunks.iter().enumerate().take(2) {
                let seed = (streams * 100 + n) as u64;
                for change in changed(&[chunk], &random_bytes(seed, 3 * changes)) {
                    let same = [chunk, chunk, &*change, chunk, &*change];
                    learning_makes_no_difference(Endpoint::Auto, same.into_iter());
                }
            }
        }
    }
    assert!(streams >= 100, "{streams}");
}

#[test]
fn the_property_holds_on_unusual_bytes() {
    let deep = format!("\0{}", "[".repeat(100_000));
    let deep_object = format!("\0{}", r#"{"choices":[{"delta":"#.repeat(200));
    let many = format!("\0{{\"choices\":[{}{{}}]}}", "{},".repeat(500));
    for bytes in [&b""[..], b"\0", b"\0\xff\xfe", deep.as_bytes(), deep_object.as_bytes(), many.as_bytes()] {
        common::chunk_property::chunk(bytes);
    }
}

/// Checks a value at each limit of a chunk, and a value that exceeds the limit by one.
#[test]
fn exceeding_a_limit_of_a_chunk_reports_that_limit() {
    let lists = |n: usize| format!("{{\"x\":{}{}}}", "[".repeat(n - 1), "]".repeat(n - 1));
    let in_known =
        |n: usize| format!("{{\"choices\":[{{\"logprobs\":{}{}}}]}}", "[".repeat(n - 3), "]".repeat(n - 3));
    let in_text = |n: usize| format!("{{\"x\":\"{}\\\"{}\"}}", "[".repeat(n), "{".repeat(n));
    let choices = |n: usize| format!("{{\"choices\":[{}{{}}]}}", "{},".repeat(n - 1));
    let ids = |n: usize| format!("{{\"choices\":[{{\"token_ids\":[{}7]}}]}}", "7,".repeat(n - 1));
    let native = |n: usize| format!("{{\"content\":\"\",\"tokens\":[{}7]}}", "7,".repeat(n - 1));
    let calls = |n: usize| {
        format!("{{\"choices\":[{{\"delta\":{{\"tool_calls\":[{}{{}}]}}}}]}}", "{},".repeat(n - 1))
    };
    let error = |n: usize| lists(n).replace("{\"x\"", "{\"error\":{\"message\":\"no\"},\"x\"");
    type Data<'a> = &'a dyn Fn(usize) -> String;
    let cases: [(&str, Data<'_>, usize, Result<(), ErrorKind>); 8] = [
        ("lists in an unknown field", &lists, MAX_NESTING, Err(ErrorKind::Limit(Limit::Nesting))),
        ("lists in a known field", &in_known, MAX_NESTING, Err(ErrorKind::Limit(Limit::Nesting))),
        ("brackets in text", &in_text, MAX_NESTING, Ok(())),
        ("choices", &choices, MAX_CHOICES as usize, Err(ErrorKind::Limit(Limit::Choices))),
        ("ids", &ids, MAX_TOKEN_IDS, Err(ErrorKind::Limit(Limit::TokenIds))),
        ("ids of llama.cpp", &native, MAX_TOKEN_IDS, Err(ErrorKind::Limit(Limit::TokenIds))),
        ("pieces of calls", &calls, MAX_TOOL_CALLS, Err(ErrorKind::Limit(Limit::ToolCalls))),
        // The server's error is more useful than an exceeded limit.
        ("lists beside an error", &error, MAX_NESTING, Err(ErrorKind::Server)),
    ];
    each_row(cases, |(name, data, max, over)| {
        for (n, expected) in
            [(max, if over == Err(ErrorKind::Server) { over } else { Ok(()) }), (max + 1, over)]
        {
            let mut decoder = ChunkDecoder::new(Endpoint::Auto).max_choices(MAX_CHOICES);
            let mut tokens = 0;
            let result = decoder.decode("message", &data(n), &mut |_, _| tokens += 1);
            assert_eq!(result.as_ref().map(|_| ()).map_err(|error| error.kind()), expected, "{name}: {n}");
            if let Err(ErrorKind::Limit(limit)) = expected {
                let said = result.unwrap_err().to_string();
                assert_eq!(
                    (said, tokens),
                    (format!("limit exceeded: {} is {max}", limit.as_str()), 0),
                    "{name}"
                );
            }
        }
    });
}

#[test]
fn the_first_event_that_is_not_json_is_quoted_up_to_80_characters() {
    let mut decoder = ChunkDecoder::new(Endpoint::Auto);
    let _ = decoder.decode("message", &"y".repeat(5000), &mut |_, _| {}).unwrap();
    assert_eq!(decoder.first_skipped().unwrap().chars().count(), 81, "80 characters and the truncation mark");
}
