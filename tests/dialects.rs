//! Tests of dialects as JSON records: the files in `src/turn/parse/dialects/`, and records that a
//! program reads itself. `tool_cases.rs` runs the cases in the files.

mod common;

use common::checks::each_row;
use tokenwire::{Dialect, ErrorKind, MAX_DIALECT_BYTES, ResponseParser};

#[test]
fn each_file_defines_the_dialect_of_its_name() {
    let files = common::dialects();
    assert!(files.len() > 20, "{}", files.len());
    each_row(files, |(name, record)| {
        assert_eq!(record["name"], name.as_str(), "the name of dialects/{name}.json");
        let dialect = Dialect::by_name(&name).unwrap();
        assert_eq!(dialect.name(), name);
        assert!(Dialect::all().any(|known| *known == dialect));
    });
}

/// A valid record, which the tests make invalid by a replacement.
const RECORD: &str = r#"{
  "name": "odd",
  "about": "Invented.",
  "think": {"open": "<think>", "close": "</think>"},
  "calls": [
    {"open": "<call>", "inside": {"json": {"close": "</call>"}}}
  ],
  "ends": ["<eos>"]
}"#;

const INVOKE: &str = r##"{"invoke": {"close": "</call>", "call": {"open": "(", "close": ")"}, "parameter": {"open": "p"},
  "sharp": "#", "name": "n", "values": "by_schema"}}"##;

/// The text to replace, the replacement, and a part of the error message.
const WRONG: &[(&str, &str, &str)] = &[
    ("\"name\": \"odd\",", "", "missing field `name` at line 9 column 1"),
    ("\"odd\"", "\"\"", "a marker is empty at line 2 column 12"),
    ("\"about\"", "\"abuot\"", "unknown field `abuot`, expected one of `name`, `about`"),
    ("\"ends\"", "\"end\"", "unknown field `end`"),
    ("<think>", "", "a marker is empty at line 4 column 22"),
    (
        "</think>\"",
        "</think>\", \"labels\": \"x\"",
        "unknown field `labels`, expected one of `open`, `close`, `label`",
    ),
    ("</call>", "", "a marker is empty at line 6 column 55"),
    ("</call>", "\\n</call>", "a marker begins with white space at line 6 column 64"),
    ("json", "jsn", "unknown variant `jsn`, expected one of `json`, `bare_json`, `tagged`"),
    (
        "\"close\": \"</call>\"",
        "\"close\": 1",
        "invalid type: integer `1`, expected a string at line 6 column 53",
    ),
    ("[\"<eos>\"]", "\"<eos>\"", "invalid type: string \"<eos>\", expected a sequence at line 8"),
    (
        "}}}",
        "}}}, {\"open\": \"<call>\", \"inside\": {\"json\": {}}}",
        "calls[0].open: \"<call>\" is a prefix of \"<call>\" (calls[1].open)",
    ),
    (
        "{\"json\": {\"close\": \"</call>\"}}",
        INVOKE,
        "calls[0].inside.invoke.parameter: `close` or `key` is missing",
    ),
    (
        "{\"json\": {\"close\": \"</call>\"}}",
        r#"{"headed": {"marks": ["|"], "header": {"first": {"id_mark": "/"}}}}"#,
        "calls[0].inside.headed.header.first.id_mark: \"/\" is not one of the marks",
    ),
    (
        "[\"<eos>\"]",
        r#"["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f","g","h"]"#,
        "expected at most 16 markers in a list, got 17 (the first is \"1\") at line 9",
    ),
    (
        "[\"<eos>\"]",
        r#"["001","002","003","004","005","006","007","008","009","00a","00b","00c","00d","00e","00f","00g"]"#,
        "calls and ends: expected at most 16 markers in a list, got 17 (the first is \"<call>\")",
    ),
    ("<think>", "<t", "think.open: \"<t\" has fewer than 3 characters"),
    (
        "<eos>",
        "</call>now",
        "the end of calls[0].inside: \"</call>\" is a prefix of \"</call>now\" (ends[0])",
    ),
    ("]\n}", "]\n", "EOF while parsing an object at line 9 column 0"),
];

#[test]
fn an_error_in_a_record_contains_its_reason_and_place() {
    each_row(WRONG, |(old, new, expected)| {
        assert_eq!(RECORD.matches(old).count(), 1, "{old}");
        let error = Dialect::from_json(&RECORD.replace(old, new)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(
            error.to_string().starts_with(&format!("not a dialect: {expected}")),
            "{old} to {new}: {error}"
        );
    });
}

#[test]
fn a_record_can_be_read_at_run_time() {
    let turn = "<think>Hm</think>Now: <call>{\"name\": \"now\"}</call><eos>";
    let mine = Dialect::from_json(RECORD).unwrap();
    let mut parser = ResponseParser::new(mine.clone());
    let calls: Vec<_> = turn.chars().flat_map(|c| parser.push(&c.to_string(), None)).collect();
    let (branch, more) = parser.finish(None);
    assert_eq!((calls.len(), more.len(), calls[0].name.as_str()), (1, 0, "now"));
    assert_eq!((branch.reasoning().as_str(), branch.content().as_str()), ("Hm", "Now:"));
    assert_eq!(mine.name(), "odd");
    assert!(Dialect::by_name("odd").is_err(), "the dialect is not built in");

    let too_long = format!("{RECORD}{}", " ".repeat(MAX_DIALECT_BYTES));
    let error = Dialect::from_json(&too_long).unwrap_err();
    assert!(error.to_string().contains("at most 262144"), "{error}");

    assert_eq!(Dialect::from_json(RECORD).unwrap(), mine, "equal records are equal dialects");
    assert_ne!(Dialect::from_json(&RECORD.replace("Invented.", "Another.")).unwrap(), mine);
}

/// On the command line, a dialect is a name or a file.
#[cfg(feature = "cli")]
#[test]
fn the_program_reads_a_dialect_from_a_file() {
    use common::program::run;

    let folder = std::env::temp_dir().join(format!("tokenwire-dialects-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let parse = |dialect: &str| {
        let turn = b"Now: <call>{\"name\": \"now\"}</call><eos>";
        run(&["parse", "--dialect", dialect, "--text", "--json"], turn)
    };
    let right = parse(&file("odd.json", RECORD));
    assert_eq!(right.last()["tool_calls"][0]["name"], "now", "{}", right.err);
    let wrong = parse(&file("wrong.json", &RECORD.replace("</call>", "")));
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.err.contains("wrong.json: not a dialect: a marker is empty at line 6"), "{}", wrong.err);
    let missing = parse("no-such.json");
    assert!(missing.code == Some(2) && missing.err.contains("cannot use no-such.json"), "{}", missing.err);
    std::fs::remove_dir_all(&folder).unwrap();
}
