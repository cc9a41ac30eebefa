//! Reads and writes recordings in the format of this crate.
//!
//! A file has a head line, a line for each piece, and an end line.
//!
//! The documentation of the parent module shows an example.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{BodyEnd, Piece, Recording, Request, ResponseHead, micros};
use crate::error::Error;

/// The version of the format, as in the head line. The reader rejects any other version.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct HeadLine {
    tokenwire_recording: u32,
    request: RequestPart,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    response: Option<ResponseHead>,
}

#[derive(Serialize, Deserialize)]
struct RequestPart {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// A line after the head line: a piece or the end.
///
/// The line of a piece has a time and bytes. The end line has a name, and may have a time.
#[derive(Default, Serialize, Deserialize)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    t_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<String>,
}

pub(super) fn write(recording: &Recording) -> String {
    let Recording { request, head, pieces, end, ended_at } = recording;
    let Request { method, path, headers, body } = request;
    let (text, base64) = as_text(body);
    let request =
        RequestPart { method: method.clone(), path: path.clone(), headers: headers.clone(), text, base64 };
    let mut out = String::new();
    write_line(&mut out, &HeadLine { tokenwire_recording: VERSION, request, response: head.clone() });
    for Piece { at, bytes } in pieces {
        let (text, base64) = as_text(bytes);
        write_line(&mut out, &Line { t_us: Some(micros(*at)), text, base64, end: None });
    }
    let end = Some(end.as_str().to_owned());
    write_line(&mut out, &Line { t_us: ended_at.map(micros), end, ..Line::default() });
    out
}

fn write_line(out: &mut String, line: &impl Serialize) {
    // Serialization cannot fail, because a line contains only strings and numbers. If it did fail,
    // the reader would reject the empty line.
    out.push_str(&serde_json::to_string(line).unwrap_or_default());
    out.push('\n');
}

fn as_text(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

pub(super) fn read(input: &[u8]) -> Result<Recording, Error> {
    let mut lines = input.split_inclusive(|byte| *byte == b'\n').enumerate();
    let (_, first) = lines.next().ok_or_else(|| wrong(0, "is missing"))?;
    let mut recording = read_head(first)?;
    let mut ended = false;
    for (number, line) in lines {
        let parsed: Line = match serde_json::from_slice(line) {
            Ok(parsed) => parsed,
            // The writer was stopped while it wrote its last line.
            Err(_) if !line.ends_with(b"\n") => break,
            Err(error) => return Err(wrong(number, "is not a line of a recording").with_source(error)),
        };
        if ended {
            return Err(wrong(number, "comes after the end line"));
        }
        ended = add_line(&mut recording, parsed).map_err(|problem| wrong(number, problem))?;
    }
    Ok(recording)
}

fn read_head(line: &[u8]) -> Result<Recording, Error> {
    let head: HeadLine = serde_json::from_slice(line)
        .map_err(|error| wrong(0, "is not the head of a recording").with_source(error))?;
    if head.tokenwire_recording != VERSION {
        return Err(wrong(0, "has a format number that this version does not support"));
    }
    let RequestPart { method, path, headers, text, base64 } = head.request;
    let body = from_text(text, base64)
        .ok_or_else(|| wrong(0, "has an invalid body: expected `text` or valid `base64`"))?;
    let request = Request { method, path, headers, body };
    Ok(match head.response {
        Some(ResponseHead { status, headers }) => Recording::of_body(request, status, headers),
        None => Recording::of_wire(request),
    })
}

/// Adds a line to the recording. Returns `true` if the line is the end line.
fn add_line(recording: &mut Recording, line: Line) -> Result<bool, &'static str> {
    let Line { t_us, text, base64, end } = line;
    let at = t_us.map(Duration::from_micros);
    if let Some(name) = end {
        recording.finish(BodyEnd::from_name(&name).ok_or("has an unknown `end`")?, at);
        return Ok(true);
    }
    if text.is_none() && base64.is_none() {
        return Err("has no `text` and no `base64`");
    }
    let bytes = from_text(text, base64).ok_or("has invalid bytes: expected `text` or valid `base64`")?;
    recording.push(at.ok_or("has no `t_us`")?, bytes);
    Ok(false)
}

fn from_text(text: Option<String>, base64: Option<String>) -> Option<Vec<u8>> {
    match (text, base64) {
        (Some(text), None) => Some(text.into_bytes()),
        (None, Some(coded)) => STANDARD.decode(coded).ok(),
        (None, None) => Some(Vec::new()),
        (Some(_), Some(_)) => None,
    }
}

fn wrong(line: usize, problem: &str) -> Error {
    Error::invalid(format!("line {} {problem}", line + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn base64_that_the_writer_does_not_write_is_refused() {
        for bad in
            ["Z", "Zg", "Zg=", "Zh==", "Zm9=", "====", "Z===", "Zm=v", "Zg==Zg==", "Zm9v\n", "Zm9*", "Zmöv"]
        {
            assert_eq!(from_text(None, Some(bad.to_owned())), None, "{bad:?}");
        }
    }

    fn samples() -> [Recording; 3] {
        let request = Request::new("POST", "/v1/completions")
            .with_header("Content-Type", "application/json")
            .with_body("{\"prompt\":\"Grüße\"}");
        let mut body = Recording::of_body(request.clone(), 200, [("content-type", "text/event-stream")]);
        body.push(Duration::from_nanos(1_234_567), "data: \"\u{1f600}\u{2028}\\\"\n\n");
        body.push(Duration::from_micros(1235), &b"\xf0\x9f"[..]);
        body.push(Duration::from_micros(u64::MAX), &b"\x98\x80"[..]);
        body.finish(BodyEnd::Complete, Some(Duration::from_secs(1)));
        let mut wire = Recording::of_wire(request.with_body(&b"\xff\x00"[..]));
        wire.push(Duration::ZERO, "HTTP/1.1 200 OK\r\n\r\nabc");
        wire.finish(BodyEnd::Silent, None);
        [body, wire, Recording::of_wire(Request::new("GET", "/"))]
    }

    #[test]
    fn a_written_recording_loads_as_an_equal_one() {
        for recording in samples() {
            assert_eq!(read(write(&recording).as_bytes()).unwrap(), recording);
        }
    }

    #[test]
    fn a_truncated_file_is_an_error_or_loads_as_a_prefix() {
        for recording in samples() {
            let text = write(&recording);
            let head_end = text.find('\n').unwrap();
            for cut in 0..text.len() {
                let loaded = read(&text.as_bytes()[..cut]);
                if cut < head_end {
                    assert_eq!(loaded.unwrap_err().kind(), ErrorKind::InvalidInput, "cut at {cut}");
                    continue;
                }
                let loaded = loaded.unwrap();
                assert_eq!(loaded.request, recording.request);
                assert!(recording.pieces.starts_with(&loaded.pieces), "cut at {cut}");
                let whole_lines = text.as_bytes()[..cut + 1].iter().filter(|byte| **byte == b'\n').count();
                let complete = whole_lines > recording.pieces.len() + 1;
                assert_eq!(
                    loaded.pieces.len(),
                    (whole_lines - 1).min(recording.pieces.len()),
                    "cut at {cut}"
                );
                assert_eq!(
                    loaded.end,
                    if complete { recording.end } else { BodyEnd::Unknown },
                    "cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn an_error_contains_the_number_of_the_wrong_line() {
        let head = r#"{"tokenwire_recording":1,"request":{"method":"GET","path":"/","headers":[]}}"#;
        let cases = [
            ("", "line 1 "),
            ("{}\n", "line 1 "),
            ("not JSON", "line 1 "),
            (&head.replace(":1,", ":2,"), "line 1 has a format number"),
            (&format!("{head}\nnot JSON\n"), "line 2 is not a line of a recording"),
            (&format!("{head}\n{{\"t_us\":1}}\n"), "line 2 has no `text` and no `base64`"),
            (&format!("{head}\n{{\"text\":\"a\"}}\n"), "line 2 has no `t_us`"),
            (&format!("{head}\n{{\"t_us\":-1,\"text\":\"a\"}}\n"), "line 2 is not a line of a recording"),
            (&format!("{head}\n{{\"t_us\":1,\"base64\":\"*\"}}\n"), "line 2 has invalid bytes"),
            (&format!("{head}\n{{\"end\":\"bang\"}}\n"), "line 2 has an unknown `end`"),
            (
                &format!("{head}\n{{\"end\":\"closed\"}}\n{{\"t_us\":1,\"text\":\"a\"}}\n"),
                "line 3 comes after the end line",
            ),
        ];
        for (text, message) in cases {
            let error = read(text.as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with(message), "{text:?}: {error}");
        }
    }

    #[test]
    fn credentials_are_removed_from_every_source() {
        let text = concat!(
            r#"{"tokenwire_recording":1,"request":{"method":"GET","path":"/","#,
            r#""headers":[["API-Key","canary"],["a","b"]]},"#,
            r#""response":{"status":200,"headers":[["Set-Cookie","canary"],["c","d"]]}}"#
        );
        let loaded = read(text.as_bytes()).unwrap();
        assert!(!write(&loaded).contains("canary"));
        assert_eq!(loaded.request().header("A"), Some("b"));
        assert_eq!(loaded.response_headers().len(), 1);
        let request = Request::new("GET", "/").with_header("Authorization", "Bearer canary");
        assert!(!format!("{request:?}").contains("canary"));
        assert!(!write(&Recording::of_wire(request)).contains("canary"));
    }
}
