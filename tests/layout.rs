//! Tests of the layout of `src`. They check which folder may import which other folder, which
//! folder names a foreign crate, and the sizes of files and functions. CONTRIBUTING.md explains the
//! rules.
//!
//! `cargo test --test layout -- --nocapture` also prints the sizes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The order of imports. A file imports from folders of a lower rank or from its own folder.
/// Folders of the same rank do not import each other.
const RANKS: [(&str, u32); 9] = [
    ("error", 0),
    ("config", 1),
    ("types", 1),
    ("recording", 2),
    ("protocol", 2),
    ("client", 3),
    ("turn", 4),
    ("testing", 5),
    ("guide", 5),
];

/// The same order inside three folders. A part that is not listed is above all listed parts.
const INNER_RANKS: [(&str, &[(&str, u32)]); 3] = [
    ("protocol", &[("server", 0), ("request", 1), ("sse", 1), ("chunk", 2)]),
    (
        "client",
        &[
            ("threads", 0),
            ("channel", 1),
            ("policy", 1),
            ("http", 2),
            ("saved", 3),
            ("backend", 4),
            ("stream", 5),
        ],
    ),
    ("turn", &[("parse", 0), ("prompt", 1), ("tokenizer", 2), ("respond", 2), ("tools", 2)]),
];

/// A foreign crate, and the only folder that names it.
const HOMES: [(&str, &str); 2] = [("ureq", "client/http"), ("tokenizers", "turn/tokenizer")];

/// The folders with pure code, and the names that pure code does not use.
const PURE: [&str; 4] = ["types", "protocol", "turn/parse", "turn/prompt"];
const IMPURE: [&str; 7] =
    ["std::net", "std::thread", "std::fs", "std::process", "std::env", "Instant::now", "SystemTime::now"];

const MAX_FILE_LINES: usize = 700;
const MAX_FUNCTION_LINES: usize = 60;
/// The largest number of lines in `src`, without tests, comments and blank lines.
const MAX_CODE_LINES: usize = 26_000;

/// Functions that are tables: one row after another, without logic.
const TABLES: [&str; 3] = [
    "every_field_is_sent_under_the_name_of_each_server",
    "each_server_gets_only_the_fields_that_it_supports",
    "invalid_and_unsupported_requests_are_rejected",
];

// ---- reading ----

struct File {
    /// The path relative to `src`, with slashes.
    path: String,
    /// The module path, such as `client::http::slot`.
    module: Vec<String>,
    /// The text with blanks in place of comments and the insides of strings. Lines keep their
    /// numbers.
    code: String,
    /// For each line, whether it is in a `#[cfg(test)]` item.
    is_test: Vec<bool>,
    lines: usize,
    doc_lines: usize,
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files() -> Vec<File> {
    let mut paths = Vec::new();
    collect(&source(), &mut paths);
    paths.sort();
    paths.iter().map(|path| File::read(path)).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

impl File {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let relative = path.strip_prefix(source()).unwrap().to_str().unwrap().replace('\\', "/");
        let module = relative.trim_end_matches(".rs").trim_end_matches("/mod");
        let module =
            if module == "lib" { Vec::new() } else { module.split('/').map(str::to_owned).collect() };
        let doc_lines = text.lines().filter(|line| line.trim_start().starts_with("//")).count();
        let code = blanked(&text);
        let is_test = test_lines(&code, &relative);
        Self { path: relative, module, lines: text.lines().count(), doc_lines, code, is_test }
    }

    fn is_bin(&self) -> bool {
        self.path.starts_with("bin/")
    }

    /// Counts the lines of code outside of tests.
    fn code_lines(&self) -> usize {
        self.code.lines().zip(&self.is_test).filter(|(line, test)| !line.trim().is_empty() && !**test).count()
    }
}

/// Replaces comments and the insides of string and character literals with blanks.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    let mut blank = |from: usize, to: usize| {
        out[from..to].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    };
    while at < bytes.len() {
        let rest = &text[at..];
        let before = at.checked_sub(1).map(|at| bytes[at]);
        let is_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let end = if rest.starts_with("//") {
            let end = at + rest.find('\n').unwrap_or(rest.len());
            blank(at, end);
            end
        } else if let Some(hashes) = raw_string(rest).filter(|_| !is_word || before == Some(b'b')) {
            let close = format!("\"{}", "#".repeat(hashes));
            let begin = at + 2 + hashes;
            let end = begin + text[begin..].find(&close).unwrap();
            blank(begin, end);
            end + close.len()
        } else if rest.starts_with('"') {
            let mut end = at + 1;
            while bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            blank(at + 1, end);
            end + 1
        } else if let Some(len) = character(rest) {
            blank(at + 1, at + len - 1);
            at + len
        } else {
            at + rest.chars().next().map_or(1, char::len_utf8)
        };
        at = end;
    }
    String::from_utf8(out.iter().map(|byte| if byte.is_ascii() { *byte } else { b'?' }).collect()).unwrap()
}

/// Returns the number of hashes of a raw string that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('r')?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..].starts_with('"').then_some(hashes)
}

/// Returns the length of a character literal that begins here. A lifetime is not a literal.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    if let Some(escape) = inner.strip_prefix('\\') {
        return escape[1..].find('\'').map(|at| at + 4);
    }
    let first = inner.chars().next()?;
    inner[first.len_utf8()..].starts_with('\'').then(|| first.len_utf8() + 2)
}

/// Returns the end of the braces that open at or after `from`. If the item has no braces, returns
/// the end of its `;`.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth -= 1;
                if depth == 0 && byte == b'}' {
                    return at + 1;
                }
            }
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].bytes().filter(|byte| *byte == b'\n').count()
}

fn test_lines(code: &str, path: &str) -> Vec<bool> {
    let whole = path.ends_with("/tests.rs") || path.ends_with("/shuttle.rs");
    let mut lines = vec![whole; code.lines().count()];
    for (at, attribute) in code.match_indices("#[cfg(").filter(|(at, _)| {
        let inner = code[at + 6..].split(")]").next().unwrap_or_default();
        inner == "test" || inner.starts_with("all(test")
    }) {
        let begin = at + attribute.len() + code[at + attribute.len()..].find(']').unwrap();
        // Skip the other attributes of the same item.
        let mut from = begin + 1;
        while let Some(rest) = code[from..].trim_start().strip_prefix("#[") {
            from = code.len() - rest.len() + rest.find(']').unwrap() + 1;
        }
        let (first, last) = (line_of(code, at), line_of(code, item_end(code, from)));
        let last = last.min(lines.len() - 1);
        lines[first..=last].fill(true);
    }
    lines
}

// ---- imports ----

/// A path in the code: its position and its segments.
struct Named {
    line: usize,
    segments: Vec<String>,
}

/// Returns every path that begins with `crate`, `super` or `self`, and every name in `use` trees.
fn paths(file: &File) -> Vec<Named> {
    let code = &file.code;
    let mut found = Vec::new();
    for keyword in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(keyword) {
            let before = code[..at].bytes().next_back();
            if before.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"_:$".contains(&byte)) {
                continue;
            }
            let line = line_of(code, at) + 1;
            let mut leaves = Vec::new();
            tree(&code[at..], &[], &mut leaves);
            found.extend(leaves.into_iter().map(|segments| Named { line, segments }));
        }
    }
    found
}

/// Reads a path, or a tree of paths in braces. Returns its length in bytes.
fn tree(text: &str, prefix: &[String], leaves: &mut Vec<Vec<String>>) -> usize {
    let mut segments = prefix.to_vec();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let word =
            text[at..].bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        if word > 0 {
            segments.push(text[at..at + word].to_owned());
            at += word;
        } else if text[at..].starts_with('{') {
            at += 1;
            while !text[at..].trim_start().starts_with('}') && at < text.len() {
                at += tree(&text[at..], &segments, leaves);
                at +=
                    text[at..].bytes().take_while(|byte| byte.is_ascii_whitespace() || *byte == b',').count();
                // Skip an alias.
                if text[at..].starts_with("as ") {
                    at += text[at..].find([',', '}']).unwrap_or(0);
                }
            }
            return at + 1;
        } else {
            at += usize::from(text[at..].starts_with('*'));
            leaves.push(segments);
            return at;
        }
        if text[at..].starts_with("::") {
            at += 2;
        } else {
            leaves.push(segments);
            return at;
        }
    }
}

/// Returns the module in a path: the longest beginning of the path that is a module.
fn target(named: &Named, file: &File, modules: &BTreeSet<Vec<String>>) -> Result<Option<Vec<String>>, ()> {
    let mut absolute: Vec<String> = Vec::new();
    let mut rest = &named.segments[..];
    match rest[0].as_str() {
        "crate" => rest = &rest[1..],
        // In a module inside a file, `super` is the file itself. For this test, it is sufficient
        // that the path stays inside the file.
        _ => {
            absolute.clone_from(&file.module);
            while let Some(first) = rest.first().filter(|first| ["self", "super"].contains(&first.as_str())) {
                if first == "super" {
                    absolute.pop();
                }
                rest = &rest[1..];
            }
            let inside = |at: &Vec<String>| modules.contains(at) && !at.is_empty();
            let first = rest.first().map(|first| [&absolute[..], std::slice::from_ref(first)].concat());
            if !first.as_ref().is_some_and(inside) {
                return Ok(None);
            }
        }
    }
    let from_root = absolute.is_empty();
    for segment in rest {
        absolute.push(segment.clone());
        if !modules.contains(&absolute) {
            absolute.pop();
            break;
        }
    }
    if absolute.is_empty() && from_root { Err(()) } else { Ok(Some(absolute)) }
}

fn rank(ranks: &[(&str, u32)], name: Option<&String>) -> u32 {
    let found = name.and_then(|name| ranks.iter().find(|(folder, _)| folder == name));
    found.map_or(u32::MAX, |(_, rank)| *rank)
}

fn import_faults(files: &[File]) -> Vec<String> {
    let library: Vec<&File> = files.iter().filter(|file| !file.is_bin()).collect();
    let modules: BTreeSet<Vec<String>> = library.iter().map(|file| file.module.clone()).collect();
    let mut faults = Vec::new();
    // For each folder, list which of its parts imports which other part, and the place of the
    // import.
    let mut siblings: BTreeMap<Vec<String>, BTreeMap<(String, String), String>> = BTreeMap::new();
    for file in &library {
        for named in paths(file) {
            let place = format!("src/{}:{}", file.path, named.line);
            let written = named.segments.join("::");
            let Ok(to) = target(&named, file, &modules) else {
                if !file.module.is_empty() {
                    faults.push(format!("{place}: `{written}` goes through the crate root"));
                }
                continue;
            };
            let Some(to) = to else { continue };
            let from = &file.module;
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            let (a, b) = (from.get(common), to.get(common));
            let allowed = match common {
                0 if from.is_empty() => true,
                0 => rank(&RANKS, b) < rank(&RANKS, a),
                1 => INNER_RANKS.iter().find(|(folder, _)| *folder == from[0]).is_none_or(|(_, ranks)| {
                    b.is_none()
                        || a.is_none()
                        || a == b
                        || rank(ranks, b) < rank(ranks, a)
                        || rank(ranks, a) == u32::MAX
                }),
                _ => true,
            };
            if !allowed {
                faults.push(format!("{place}: `{written}` imports against the order"));
            }
            if let (Some(a), Some(b)) = (a, b) {
                let pair = (a.clone(), b.clone());
                siblings.entry(from[..common].to_vec()).or_default().entry(pair).or_insert(place);
            }
        }
    }
    let ranked = |folder: &[String]| {
        folder.is_empty() || INNER_RANKS.iter().any(|(name, _)| *name == folder.join("/"))
    };
    for (folder, edges) in siblings.iter().filter(|(folder, _)| !ranked(folder)) {
        faults.extend(circles(folder, edges));
    }
    faults
}

/// Returns each import that completes a cycle of modules in one folder.
fn circles(folder: &[String], edges: &BTreeMap<(String, String), String>) -> Vec<String> {
    let reaches = |from: &str, to: &str| {
        let mut seen = BTreeSet::from([from]);
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            for (_, next) in edges.keys().filter(|(a, _)| a == at) {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        seen.contains(to)
    };
    let closing = edges.iter().filter(|((a, b), _)| reaches(b, a));
    closing
        .map(|((a, b), place)| format!("{place}: {a} -> {b} closes a circle in {}", folder.join("/")))
        .collect()
}

fn foreign_faults(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files {
        for (n, line) in file.code.lines().enumerate() {
            let mut fault = |what: &str| faults.push(format!("src/{}:{}: {what}", file.path, n + 1));
            for (name, home) in HOMES {
                let word = |at: usize| {
                    let around =
                        |byte: Option<u8>| byte.is_none_or(|b| !(b.is_ascii_alphanumeric() || b == b'_'));
                    around(line[..at].bytes().next_back()) && around(line[at + name.len()..].bytes().next())
                };
                let is_home = file.path.starts_with(home);
                if !is_home && line.match_indices(name).any(|(at, _)| word(at)) {
                    fault(&format!("only {home} names {name}"));
                }
            }
            let pure = PURE.iter().any(|folder| file.path.starts_with(folder));
            for name in IMPURE.iter().filter(|name| pure && !file.is_test[n] && line.contains(**name)) {
                fault(&format!("pure code names {name}"));
            }
        }
    }
    faults
}

// ---- sizes ----

/// Returns the name, the first line and the number of code lines of each function.
fn functions(file: &File) -> Vec<(String, usize, usize)> {
    let code = &file.code;
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code[..at].bytes().next_back();
        let name: String =
            code[at + 3..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if name.is_empty() || before.is_some_and(|byte| !byte.is_ascii_whitespace()) {
            continue;
        }
        let end = item_end(code, at);
        let lines = code[at..end].lines().filter(|line| !line.trim().is_empty()).count();
        found.push((name, line_of(code, at) + 1, lines));
    }
    found
}

fn middle(mut sizes: Vec<usize>) -> usize {
    sizes.sort_unstable();
    sizes.get(sizes.len() / 2).copied().unwrap_or(0)
}

fn report(name: &str, faults: &[String]) {
    let mut text = String::new();
    for fault in faults {
        let _ = writeln!(text, "  {fault}");
    }
    assert!(faults.is_empty(), "{name}:\n{text}");
}

// ---- the tests ----

#[test]
fn every_import_follows_the_direction_of_the_pipeline() {
    report("imports", &import_faults(&files()));
}

#[test]
fn foreign_crates_have_one_home_and_pure_folders_use_no_outside_names() {
    report("names", &foreign_faults(&files()));
}

#[test]
fn a_forbidden_import_is_reported_with_file_and_line() {
    let mut files = files();
    let file = files.iter_mut().find(|file| file.path == "protocol/sse/mod.rs").unwrap();
    file.code += "\nuse crate::client::stream::StreamGuard;\nuse crate::ApiClient;\nuse ureq::Agent;\nuse std::net::TcpStream;\n";
    let line = file.code.lines().count() - 3;
    file.is_test.resize(file.code.lines().count(), false);
    let found = [import_faults(&files), foreign_faults(&files)].concat();
    let expected = [
        "imports against the order",
        "goes through the crate root",
        "only client/http names ureq",
        "pure code names std::net",
    ];
    for (n, what) in expected.iter().enumerate() {
        let place = format!("src/protocol/sse/mod.rs:{}", line + n);
        assert!(
            found.iter().any(|fault| fault.starts_with(&place) && fault.contains(what)),
            "{what}: {found:?}"
        );
    }
}

#[test]
fn files_and_functions_are_small() {
    let files = files();
    let mut faults = Vec::new();
    let mut sizes = Vec::new();
    for file in &files {
        if file.lines > MAX_FILE_LINES {
            faults.push(format!("src/{}: {} lines, at most {MAX_FILE_LINES}", file.path, file.lines));
        }
        for (name, line, lines) in functions(file) {
            if lines > MAX_FUNCTION_LINES && !TABLES.contains(&name.as_str()) {
                faults.push(format!(
                    "src/{}:{line}: `{name}` has {lines} lines, at most {MAX_FUNCTION_LINES}",
                    file.path
                ));
            }
            if !file.is_test[line - 1] {
                sizes.push(lines);
            }
        }
    }
    let code: usize = files.iter().map(File::code_lines).sum();
    if code > MAX_CODE_LINES {
        faults.push(format!("src has {code} lines of code, at most {MAX_CODE_LINES}"));
    }
    let lines = || files.iter().map(|file| file.lines);
    println!(
        "files {}, lines of code {code}, lines of comments {}",
        files.len(),
        files.iter().map(|file| file.doc_lines).sum::<usize>()
    );
    println!("file: median {} lines, largest {}", middle(lines().collect()), lines().max().unwrap());
    println!("function: median {} lines, largest {}", middle(sizes.clone()), sizes.iter().max().unwrap());
    report("sizes", &faults);
}
