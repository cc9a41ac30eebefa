//! Searches all output for API keys. The output consists of texts and of every log line, including
//! the trace level.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

/// The search looks for this number of characters at the beginning and at the end of a key.
const PART_CHARS: usize = 10;
/// The number of bytes of a hex dump that are kept for the search. No key is longer than this.
const DUMP_BYTES: usize = 128;

/// Returns every form in which `key` could be recognized: plain, its beginning, its end, in base64,
/// percent-encoded, and escaped in JSON.
pub fn forms(key: &str) -> Vec<String> {
    let (front, back) = (&key[..PART_CHARS], &key[key.len() - PART_CHARS..]);
    let escaped = key.replace('/', "%2F").replace('+', "%2B");
    let mut forms =
        vec![front.to_owned(), back.to_owned(), escaped.to_lowercase(), escaped, key.replace('/', "\\/")];
    let by_serde = serde_json::Value::from(front).to_string();
    forms.extend([by_serde[1..by_serde.len() - 1].to_owned(), in_numbers(front), in_numbers(back)]);
    // Inside a longer base64 text, a key can start at three positions in a group. Leave out the
    // characters that also depend on the text around the key.
    for before in 0..3 {
        let text = base64(&["x".repeat(before).as_bytes(), key.as_bytes()].concat());
        forms.push(text[4..text.len() - 4].to_owned());
        forms.push(forms[forms.len() - 1].replace('/', "_").replace('+', "-"));
    }
    forms
}

/// Escapes every character with a JSON number escape.
pub fn in_numbers(text: &str) -> String {
    text.bytes().map(|byte| format!("\\u{byte:04x}")).collect()
}

/// Returns the places of `text` that contain a form of one of `keys`.
pub fn found(text: &str, keys: &[&str]) -> Vec<String> {
    let places = keys.iter().flat_map(|key| forms(key)).filter_map(|form| text.find(&form));
    let around = |at: usize| {
        text[..at]
            .chars()
            .rev()
            .take(60)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .chain(text[at..].chars().take(50))
    };
    places.map(|at| around(at).collect()).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for i in 0..=group.len() {
            out.push(char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63]));
        }
    }
    out
}

/// A logger that keeps the lines that contain a key, and counts the lines of each target.
pub struct Watch {
    forms: Vec<String>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
pub struct Seen {
    /// The target and the line.
    pub leaks: Vec<(String, String)>,
    pub lines: BTreeMap<String, usize>,
}

/// Installs a logger that searches for `keys` in this process, at trace level.
pub fn watch(keys: &[&str]) -> &'static Watch {
    static WATCH: OnceLock<Watch> = OnceLock::new();
    let watch = WATCH.get_or_init(|| Watch {
        forms: keys.iter().flat_map(|key| forms(key)).collect(),
        seen: Mutex::default(),
    });
    if log::set_logger(watch).is_ok() {
        log::set_max_level(log::LevelFilter::Trace);
    }
    watch
}

impl Watch {
    /// Returns and removes all lines that were found so far.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

thread_local! {
    static DUMP: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Decodes a line of ureq-proto's trace log, which shows the traffic as in `48 45 4c 4c 4f --`.
///
/// The result contains the bytes of earlier lines from this thread, followed by the new bytes.
fn dumped(line: &str) -> Option<String> {
    // After the digits, the line contains the same bytes as text.
    let digits: String = line.chars().take(40).filter(|c| !matches!(c, ' ' | '-')).collect();
    let bytes = (0..digits.len() / 2).map(|i| u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok());
    let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
    DUMP.with_borrow_mut(|dump| {
        dump.extend(bytes.iter().map(|byte| char::from(*byte)));
        let from = dump.char_indices().rev().nth(DUMP_BYTES).map_or(0, |(at, _)| at);
        dump.drain(..from);
        Some(dump.clone())
    })
}

impl log::Log for Watch {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        let dump = if record.target().starts_with("ureq_proto") { dumped(&line) } else { None };
        let leaks = |text: &String| self.forms.iter().any(|form| text.contains(form.as_str()));
        let leak = [Some(line), dump].into_iter().flatten().find(leaks);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.lines.entry(record.target().to_owned()).or_default() += 1;
        if let Some(line) = leak {
            seen.leaks.push((record.target().to_owned(), line));
        }
    }

    fn flush(&self) {}
}
