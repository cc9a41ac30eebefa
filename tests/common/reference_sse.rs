//! A slow, obviously correct parser of `text/event-stream`. `SseParser` must return the same
//! results. The parser gets the whole body, splits it into lines, and processes each line as the
//! standard requires (WHATWG HTML 9.2.6).

use tokenwire::MAX_SSE_STRAY_BYTES;

/// The result of parsing a body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The type, data, id and reconnection time of each event.
    pub(crate) events: Vec<(String, String, String, Option<u64>)>,
    /// The limit was exceeded. The fields below then have their initial values.
    pub(crate) over: bool,
    pub(crate) last_event_id: String,
    pub(crate) retry: Option<u64>,
    pub(crate) comments: u64,
    pub(crate) incomplete: bool,
    pub(crate) unended_data: Option<String>,
    /// The first ignored line that looks like an error: `error` or `line`, and its text.
    pub(crate) stray: Option<(&'static str, String)>,
}

/// Parses a whole body.
pub(crate) fn parse(body: &[u8], max_event_bytes: usize) -> Outcome {
    let bom = "\u{feff}".as_bytes();
    // A partial byte order mark is not yet a line, so no limit applies to it.
    let part_of_bom = body.len() < bom.len() && bom.starts_with(body);
    let body = body.strip_prefix(bom).unwrap_or(body);
    let (lines, unended) = split_into_lines(body);

    let mut out = Outcome::default();
    // Keep the bytes of the data, because a limit counts the bytes of the body, before U+FFFD
    // replaces any.
    let mut data = Vec::new();
    let (mut event_type, mut last_event_id) = (String::new(), String::new());
    let (mut bytes, mut open) = (0, false);
    for line in lines {
        if bytes + line.len() > max_event_bytes {
            return passed(out);
        }
        let text = String::from_utf8_lossy(line);
        if text.is_empty() {
            out.last_event_id = last_event_id.clone();
            if let Some(data) = data.strip_suffix(b"\n") {
                let event = if event_type.is_empty() { "message" } else { &event_type };
                let data = String::from_utf8_lossy(data).into_owned();
                out.events.push((event.to_owned(), data, out.last_event_id.clone(), out.retry));
            }
            (data, event_type, bytes, open) = (Vec::new(), String::new(), 0, false);
            continue;
        }
        if text.starts_with(':') {
            out.comments += 1;
            continue;
        }
        bytes += line.len();
        let (name, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => event_type = value.to_owned(),
            "data" => data.extend([data_value(line), b"\n"].concat()),
            "id" if value.contains('\0') => {}
            "id" => last_event_id = value.to_owned(),
            "retry" if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) => {}
            "retry" => out.retry = Some(value.parse().unwrap_or(u64::MAX)),
            _ => note_stray(&mut out, line),
        }
        open |= matches!(name, "event" | "data" | "id" | "retry");
    }

    if bytes + unended.len() > max_event_bytes && !part_of_bom {
        return passed(out);
    }
    out.incomplete = open || !unended.is_empty();
    let text = String::from_utf8_lossy(unended);
    if text.split(':').next() == Some("data") {
        data.extend([data_value(unended), b"\n"].concat());
    } else if !text.is_empty() {
        note_stray(&mut out, unended);
    }
    out.unended_data = data
        .strip_suffix(b"\n")
        .filter(|data| data.len() <= MAX_SSE_STRAY_BYTES)
        .map(|data| String::from_utf8_lossy(data).into_owned());
    out
}

/// Resets the fields that no longer apply after the limit was exceeded.
fn passed(out: Outcome) -> Outcome {
    Outcome { over: true, incomplete: true, events: out.events, stray: out.stray, ..Outcome::default() }
}

/// Returns the lines that have ended, without their ends, and the rest after the last line.
fn split_into_lines(body: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let (mut lines, mut rest) = (Vec::new(), body);
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        lines.push(&rest[..at]);
        rest = if rest[at..].starts_with(b"\r\n") { &rest[at + 2..] } else { &rest[at + 1..] };
    }
    (lines, rest)
}

/// Returns the value after the colon of a data line.
fn data_value(line: &[u8]) -> &[u8] {
    let value = line.strip_prefix(b"data:").unwrap_or_default();
    value.strip_prefix(b" ").unwrap_or(value)
}

fn note_stray(out: &mut Outcome, line: &[u8]) {
    if out.stray.is_some() {
        return;
    }
    let trimmed = line.trim_ascii_start();
    if line == b"error" {
        out.stray = Some(("error", String::new()));
    } else if let Some(value) = line.strip_prefix(b"error:") {
        out.stray = Some(("error", start_of(value.strip_prefix(b" ").unwrap_or(value))));
    } else if trimmed.starts_with(b"{") || trimmed.starts_with(b"<") {
        out.stray = Some(("line", start_of(trimmed)));
    }
}

/// Returns the part of the text that the parser keeps, without cutting a character.
fn start_of(text: &[u8]) -> String {
    let at_boundary = |len: &usize| *len == text.len() || text[*len] & 0xC0 != 0x80;
    let len = (0..=text.len().min(MAX_SSE_STRAY_BYTES)).rev().find(at_boundary).unwrap_or(0);
    String::from_utf8_lossy(&text[..len]).into_owned()
}
