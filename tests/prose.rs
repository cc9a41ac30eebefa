//! Prose wraps at 100 columns: Markdown files, and the comments of Rust files.
//!
//! A line may be longer if it cannot wrap: rows of tables, lines of code blocks and headings, and
//! lines without a space outside of links and code spans.

use std::fs;
use std::path::{Path, PathBuf};

const MAX_COLUMNS: usize = 100;

/// The folders whose Rust files are read. Markdown files are read everywhere.
const RUST: [&str; 5] = ["src", "tests", "examples", "benches", "fuzz"];

/// Folders without prose of this project: build output, and inputs of the tests.
const SKIPPED: [&str; 4] = ["target", ".git", "corpus", "found"];

// ---- the tests ----

#[test]
fn prose_wraps_at_100_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut long = Vec::new();
    for path in files(root) {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
        let text = fs::read_to_string(&path).unwrap();
        let lines = if name.ends_with(".md") { markdown(&text) } else { comments(&text) };
        long.extend(lines.into_iter().map(|(line, columns)| format!("{name}:{line}: {columns} columns")));
    }
    assert!(long.is_empty(), "{} lines over {MAX_COLUMNS} columns:\n{}", long.len(), long.join("\n"));
}

#[test]
fn long_prose_is_found_but_lines_that_cannot_wrap_are_not() {
    let words = "word ".repeat(30);
    let link = format!("[a link](https://example.org/{})", "x".repeat(100));
    let span = format!("`{}`", "a = b; ".repeat(20));
    let page = format!(
        "{words}\n\n- {words}\n\n| {words} |\n\n```sh\n{words}\n```\n\n# {words}\n\n{link}\n\n{span}\n\n<!-- {words} -->"
    );
    let found: Vec<usize> = markdown(&page).iter().map(|(line, _)| *line).collect();
    assert_eq!(found, [1, 3], "{page}");

    let code = format!(
        "//! {words}\nlet a = \"// {words}\"; // {words}\n/// | {words} |\n/// ```\n/// {words}\n/// ```\n    // {link}\n\
         let text = r\"\n// {words}\n\";\n#[doc = \"{words}\"]"
    );
    let found: Vec<usize> = comments(&code).iter().map(|(line, _)| *line).collect();
    assert_eq!(found, [1, 2], "{code}");
}

// ---- which lines are prose ----

fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap_or_default();
            let in_rust_folder = RUST.iter().any(|folder| path.starts_with(root.join(folder)));
            if path.is_dir() && !SKIPPED.contains(&name) {
                folders.push(path);
            } else if name.ends_with(".md") || name.ends_with(".rs") && in_rust_folder {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Returns the line numbers and the widths of the long lines in a Markdown page.
fn markdown(text: &str) -> Vec<(usize, usize)> {
    let mut in_code = false;
    let is_long = |line: &str| is_prose(line, &mut in_code) && can_wrap(line);
    long_lines(text, is_long)
}

/// Returns the line numbers and the widths of the long lines in the comments of a Rust file.
fn comments(text: &str) -> Vec<(usize, usize)> {
    let code = without_strings(text);
    let starts: Vec<Option<usize>> = code.lines().map(|line| line.find("//")).collect();
    let (mut n, mut in_code) = (0, false);
    let is_long = |line: &str| {
        let start = starts.get(n).copied().flatten();
        n += 1;
        let Some(start) = start else {
            in_code = false;
            return false;
        };
        // Only the words of the comment decide, because code before it does not wrap.
        let words = line[start..].trim_start_matches(['/', '!']);
        is_prose(words, &mut in_code) && can_wrap(words)
    };
    long_lines(text, is_long)
}

fn long_lines(text: &str, mut is_long: impl FnMut(&str) -> bool) -> Vec<(usize, usize)> {
    let widths = text.lines().enumerate().map(|(n, line)| (n + 1, line.chars().count(), is_long(line)));
    widths
        .filter(|(_, width, is_long)| *is_long && *width > MAX_COLUMNS)
        .map(|(n, width, _)| (n, width))
        .collect()
}

/// Returns whether a line is prose: not a table, a heading, an HTML comment or a code block.
fn is_prose(line: &str, in_code: &mut bool) -> bool {
    let line = line.trim_start();
    if line.starts_with("```") {
        *in_code = !*in_code;
        return false;
    }
    !*in_code && !line.starts_with(['|', '#']) && !line.starts_with("<!--")
}

/// Returns whether a line has a place to break. Links and code spans do not break.
fn can_wrap(line: &str) -> bool {
    let line = line.trim().trim_start_matches(|c: char| "-*> .".contains(c) || c.is_ascii_digit());
    let is_link_target = line.starts_with('[') && line.contains("]: ");
    let (mut in_span, mut in_link) = (false, false);
    let mut characters = line.chars().peekable();
    let mut breaks = false;
    while let Some(character) = characters.next() {
        match character {
            '`' => in_span = !in_span,
            '[' => in_link = true,
            ']' => in_link = characters.peek() == Some(&'('),
            ')' => in_link = false,
            ' ' => breaks |= !in_span && !in_link,
            _ => {}
        }
    }
    breaks && !is_link_target
}

/// Replaces each byte of a string or character literal with a space, so that `//` in it is not a
/// comment. Comments and line ends stay where they are.
fn without_strings(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let is_word = out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let literal =
            raw_string(rest).filter(|_| !is_word).or_else(|| string(rest)).or_else(|| character(rest));
        let len = match literal {
            Some(len) => len,
            None if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            None => rest.chars().next().map_or(0, char::len_utf8),
        };
        match literal {
            Some(_) => out.extend(rest[..len].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' })),
            None => out.push_str(&rest[..len]),
        }
        rest = &rest[len..];
    }
    out
}

/// Returns the length of the raw string that `text` begins with.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text.len() - body.len() + body.find(&end)? + end.len())
}

/// Returns the length of the string that `text` begins with.
fn string(text: &str) -> Option<usize> {
    let body = text.strip_prefix('"')?;
    let mut is_escaped = false;
    let end = body.find(|c: char| {
        let ends = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    });
    Some(end.map_or(text.len(), |end| end + 2))
}

/// Returns the length of the character literal that `text` begins with. A lifetime is not a
/// literal.
fn character(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let first = body.chars().next()?;
    let after = if first == '\\' { 1 + body[1..].chars().next()?.len_utf8() } else { first.len_utf8() };
    let end = body[after..].find('\'').filter(|len| *len == 0 || first == '\\')?;
    Some(1 + after + end + 1)
}
