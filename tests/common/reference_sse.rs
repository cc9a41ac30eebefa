//! A slow parser of `text/event-stream` that is right at a glance: it has the whole body, splits it into
//! lines, and does with each what the standard says (WHATWG HTML 9.2.6). `SseParser` must agree with it.

/// Everything that a body comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Type, data, id and reconnection time of each event.
    pub(crate) events: Vec<(String, String, String, Option<u64>)>,
    /// The limit was passed; the fields below are then as new.
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
pub(crate) fn parse(body: &[u8], event_bytes_max: usize) -> Outcome {
    let bom = "\u{feff}".as_bytes();
    // As long as only a part of a byte order mark came, there is no line yet, so no limit holds for it.
    let part_of_bom = body.len() < bom.len() && bom.starts_with(body);
    let body = body.strip_prefix(bom).unwrap_or(body);
    let (lines, unended) = split_into_lines(body);

    let mut out = Outcome::default();
    let (mut data, mut event_type, mut last_event_id) = (String::new(), String::new(), String::new());
    let (mut bytes, mut open) = (0, false);
    for line in lines {
        if bytes + line.len() > event_bytes_max {
            return Outcome {
                over: true,
                incomplete: true,
                events: out.events,
                stray: out.stray,
                ..Outcome::default()
            };
        }
        let text = String::from_utf8_lossy(line);
        if text.is_empty() {
            out.last_event_id = last_event_id.clone();
            if let Some(data) = data.strip_suffix('\n') {
                let event = if event_type.is_empty() { "message" } else { &event_type };
                out.events.push((event.to_owned(), data.to_owned(), out.last_event_id.clone(), out.retry));
            }
            (data, event_type, bytes, open) = (String::new(), String::new(), 0, false);
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
            "data" => data = data + value + "\n",
            "id" if value.contains('\0') => {}
            "id" => last_event_id = value.to_owned(),
            "retry" if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) => {}
            "retry" => out.retry = Some(value.parse().unwrap_or(u64::MAX)),
            _ => note_stray(&mut out, &text),
        }
        open |= matches!(name, "event" | "data" | "id" | "retry");
    }

    if bytes + unended.len() > event_bytes_max && !part_of_bom {
        return Outcome {
            over: true,
            incomplete: true,
            events: out.events,
            stray: out.stray,
            ..Outcome::default()
        };
    }
    out.incomplete = open || !unended.is_empty();
    let text = String::from_utf8_lossy(unended);
    let (name, value) = text.split_once(':').unwrap_or((&text, ""));
    if name == "data" {
        data = data + value.strip_prefix(' ').unwrap_or(value) + "\n";
    } else if !text.is_empty() {
        note_stray(&mut out, &text);
    }
    out.unended_data = data.strip_suffix('\n').map(str::to_owned);
    out
}

/// The lines that have ended, without their ends, and what comes after the last of them.
fn split_into_lines(body: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let (mut lines, mut rest) = (Vec::new(), body);
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        lines.push(&rest[..at]);
        rest = if rest[at..].starts_with(b"\r\n") { &rest[at + 2..] } else { &rest[at + 1..] };
    }
    (lines, rest)
}

fn note_stray(out: &mut Outcome, line: &str) {
    if out.stray.is_some() {
        return;
    }
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    if name == "error" {
        out.stray = Some(("error", value.strip_prefix(' ').unwrap_or(value).to_owned()));
    }
    let trimmed = line.trim_start_matches([' ', '\t', '\x0c']);
    if trimmed.starts_with(['{', '<']) {
        out.stray = Some(("line", trimmed.to_owned()));
    }
}
