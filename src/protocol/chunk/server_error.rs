//! Finds the server's error message in every format that servers are known to use.
//!
//! After a stream has begun, the error is an event. Otherwise the error is the body of the
//! response. The JSON is the same in an event and in a body.

use serde_json::Value;

use crate::error::escape::printable;
use crate::error::{MAX_SERVER_MESSAGE_CHARS, ServerError};

/// The maximum number of a body's characters that are shown if the body has no message.
const MAX_PREVIEW_CHARS: usize = 200;
/// The maximum length of a short field (kind, code, param), in characters. The rest is cut off.
const MAX_WORD_CHARS: usize = 200;

/// Returns the error in the body of a response. Its message is never empty.
///
/// If the body has no message, the message describes the body. `status` is the status of the
/// response. If `status` is `None`, a numeric code in the body is used instead.
pub(crate) fn server_error_from_body(
    status: Option<u16>,
    content_type: Option<&str>,
    body: &[u8],
) -> ServerError {
    let text = String::from_utf8_lossy(body);
    // Some servers send the error as an event, even in a response with an error status.
    let text = text.trim_start_matches('\u{feff}').trim();
    let json = text.strip_prefix("data:").or_else(|| text.strip_prefix("error:")).unwrap_or(text).trim();
    let parsed = serde_json::from_str::<Value>(json).ok();
    if let Some(error) = parsed.as_ref().and_then(|value| server_error_from_json(status, value)) {
        return error;
    }
    let kind = content_type.unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let preview = || printable(text, MAX_PREVIEW_CHARS);
    let message = if text.is_empty() {
        "the body is empty".to_owned()
    } else if text.starts_with('<') || (kind.contains("html") && text.contains('<')) {
        html_message(text)
    } else if parsed.is_some() || text.starts_with(['{', '[']) {
        format!("JSON without a message: {}", preview())
    } else if std::str::from_utf8(body).is_err_and(|error| error.error_len().is_some()) {
        let kind = if kind.is_empty() { "no content type".to_owned() } else { printable(&kind, 100) };
        format!("a body that is not text ({kind}): {}", preview())
    } else {
        text.to_owned()
    };
    ServerError { status, message: printable(&message, MAX_SERVER_MESSAGE_CHARS), ..Default::default() }
}

/// Returns the error in a JSON value, if it contains one.
///
/// The known forms are: an `error` that is not null (an object or a string), an `object` with the
/// value "error" (older vLLM), `detail` (FastAPI), or only `message`.
pub(super) fn server_error_from_json(status: Option<u16>, value: &Value) -> Option<ServerError> {
    let value = match value {
        Value::Array(items) => items.first()?,
        other => other,
    };
    let inner = value.get("error").filter(|error| !error.is_null());
    let message = match inner {
        Some(Value::String(message)) if !message.is_empty() => Some(message.clone()),
        Some(object) => message_of(object).or_else(|| message_of(value)).or_else(|| Some(object.to_string())),
        None => message_of(value),
    }?;
    // If `error` is a string, TGI and some routers put the kind and the code into the outer object.
    let fields = inner.filter(|error| error.is_object()).unwrap_or(value);
    let word = |key: &str| fields.get(key).and_then(Value::as_str).map(|w| printable(w, MAX_WORD_CHARS));
    let code = fields.get("code").filter(|code| !code.is_null());
    let number = code.and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok());
    // LiteLLM writes the code as text. The text counts as a status only if it is the status of an
    // error, such as 429.
    let as_text = code.and_then(Value::as_str).filter(|text| text.len() == 3);
    let as_text = as_text.and_then(|text| text.parse().ok()).filter(|c: &u16| *c >= 400);
    let status_in_code = number.or(as_text).filter(|c| (100..=599).contains(c));
    let code_word = match code {
        Some(Value::String(code)) => Some(printable(code, MAX_WORD_CHARS)),
        // A code that repeats the status is left out.
        Some(other) if status_in_code.is_none() || status_in_code != status.or(status_in_code) => {
            Some(printable(&other.to_string(), MAX_WORD_CHARS))
        }
        _ => None,
    };
    Some(ServerError {
        status: status.or(status_in_code),
        message: printable(&message, MAX_SERVER_MESSAGE_CHARS),
        kind: word("type").or_else(|| word("error_type")),
        code: code_word,
        param: word("param"),
    })
}

fn message_of(value: &Value) -> Option<String> {
    ["message", "detail", "msg"].into_iter().find_map(|key| match value.get(key)? {
        Value::String(message) if !message.is_empty() => Some(message.clone()),
        Value::Array(details) if !details.is_empty() => Some(details_message(details)),
        object @ Value::Object(_) => message_of(object).or_else(|| Some(object.to_string())),
        _ => None,
    })
}

/// Formats FastAPI's list of errors on one line.
///
/// The list is `[{"loc": ["body", "max_tokens"], "msg": "..."}]`.
fn details_message(details: &[Value]) -> String {
    let one = |detail: &Value| {
        let place = detail.get("loc").and_then(Value::as_array).map(|path| {
            let step = |part: &Value| part.as_str().map_or_else(|| part.to_string(), str::to_owned);
            path.iter().map(step).collect::<Vec<_>>().join(".")
        });
        let message = detail.get("msg").and_then(Value::as_str);
        let message = message.map_or_else(|| detail.to_string(), str::to_owned);
        place.into_iter().chain([message]).collect::<Vec<_>>().join(": ")
    };
    details.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Returns the title of an HTML page, or its text without tags if it has no title.
fn html_message(page: &str) -> String {
    let lower = page.to_ascii_lowercase();
    // A change of ASCII case does not move any byte, so positions in `lower` are positions in
    // `page`.
    let title = lower.find("<title").and_then(|open| {
        let start = open + lower[open..].find('>')? + 1;
        let end = start + lower[start..].find("</title")?;
        Some(page[start..end].split_whitespace().collect::<Vec<_>>().join(" "))
    });
    title.filter(|title| !title.is_empty()).unwrap_or_else(|| {
        let (before, tags) = page.split_once('<').unwrap_or((page, ""));
        let after_tags = tags.split('<').filter_map(|tag| Some(tag.split_once('>')?.1));
        let words: Vec<_> = [before].into_iter().chain(after_tags).flat_map(str::split_whitespace).collect();
        if words.is_empty() { "an HTML page without text".to_owned() } else { words.join(" ") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status, content type, body, and the expected status, message and [kind, code, param].
    type Case = (Option<u16>, &'static str, &'static [u8], (Option<u16>, &'static str, [&'static str; 3]));

    const CASES: &[Case] = &[
        (
            Some(400),
            "application/json",
            br#"{"error":{"message":"bad","type":"BadRequestError","param":"max_tokens","code":400}}"#,
            (Some(400), "bad", ["BadRequestError", "", "max_tokens"]),
        ),
        // The status of the response is used instead of a numeric code. A code that is a word is
        // kept.
        (
            Some(429),
            "application/json",
            br#"{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#,
            (Some(429), "slow down", ["requests", "rate_limit_exceeded", ""]),
        ),
        (
            Some(502),
            "application/json",
            br#"{"error":{"message":"from behind","code":400}}"#,
            (Some(502), "from behind", ["", "400", ""]),
        ),
        (Some(401), "application/json", br#"{"error":"Unauthorized"}"#, (Some(401), "Unauthorized", [""; 3])),
        (Some(404), "application/json", br#"{"detail":"Not Found"}"#, (Some(404), "Not Found", [""; 3])),
        (
            Some(422),
            "application/json",
            br#"{"detail":[{"loc":["body","n",0],"msg":"too small","type":"x"},{"msg":"also"}]}"#,
            (Some(422), "body.n.0: too small; also", [""; 3]),
        ),
        (
            Some(400),
            "application/json",
            br#"{"object":"error","message":"old","type":"BadRequestError","param":null,"code":40301}"#,
            (Some(400), "old", ["BadRequestError", "40301", ""]),
        ),
        (
            Some(400),
            "",
            br#"{"error":{"message":"no model"},"message":"no model"}"#,
            (Some(400), "no model", [""; 3]),
        ),
        (
            None,
            "",
            br#"{"error":"overloaded","error_type":"overloaded"}"#,
            (None, "overloaded", ["overloaded", "", ""]),
        ),
        (None, "", br#"{"error":{"message":"m","code":500}}"#, (Some(500), "m", [""; 3])),
        // A number that is not an HTTP status does not become the status.
        (None, "", br#"{"error":{"message":"m","code":99}}"#, (None, "m", ["", "99", ""])),
        // LiteLLM writes the code as text.
        (None, "", br#"{"error":{"message":"m","code":"429"}}"#, (Some(429), "m", ["", "429", ""])),
        (None, "", br#"{"error":{"message":"m","code":"200"}}"#, (None, "m", ["", "200", ""])),
        (None, "", br#"{"error":{"message":"m","code":"0429"}}"#, (None, "m", ["", "0429", ""])),
        (None, "", br#"{"error":{"message":"m","code":"600"}}"#, (None, "m", ["", "600", ""])),
        (None, "", br#"{"error":{"message":"m","code":65936}}"#, (None, "m", ["", "65936", ""])),
        (None, "", br#"{"error":{"message":"m","code":-1}}"#, (None, "m", ["", "-1", ""])),
        (None, "", br#"{"error":{"odd":1}}"#, (None, r#"{"odd":1}"#, [""; 3])),
        (None, "", br#"{"error":true,"message":"beside"}"#, (None, "beside", [""; 3])),
        (None, "", br#"[{"error":{"message":"in a list"}}]"#, (None, "in a list", [""; 3])),
        (
            Some(503),
            "text/event-stream",
            b"data: {\"error\":{\"message\":\"as an event\"}}\n\n",
            (Some(503), "as an event", [""; 3]),
        ),
        (
            Some(502),
            "text/html",
            b"<html><head><TITLE>\n502 Bad\n Gateway</title></head><body>x</body>",
            (Some(502), "502 Bad Gateway", [""; 3]),
        ),
        (Some(504), "", b"<h1>Gateway</h1>\n<p>time-out</p>", (Some(504), "Gateway time-out", [""; 3])),
        (Some(504), "text/html", b"<", (Some(504), "an HTML page without text", [""; 3])),
        (
            Some(422),
            "text/plain; charset=utf-8",
            b"Failed to\x1b[31m deserialize\n",
            (Some(422), "Failed to\\u{1b}[31m deserialize", [""; 3]),
        ),
        (Some(503), "", b" \r\n", (Some(503), "the body is empty", [""; 3])),
        (
            Some(500),
            "application/json",
            br#"{"ok":false}"#,
            (Some(500), r#"JSON without a message: {"ok":false}"#, [""; 3]),
        ),
        (Some(502), "text/html", b"upstream <b>is</b> gone", (Some(502), "upstream is gone", [""; 3])),
        (
            Some(500),
            "application/octet-stream",
            b"\x00\xff",
            (Some(500), "a body that is not text (application/octet-stream): \\u{0}\u{fffd}", [""; 3]),
        ),
    ];

    #[test]
    fn the_message_is_found_in_every_known_form() {
        for (status, content_type, body, (found_status, message, words)) in CASES {
            let error = server_error_from_body(*status, Some(*content_type), body);
            let found = [&error.kind, &error.code, &error.param].map(|w| w.as_deref().unwrap_or(""));
            assert_eq!(
                (error.status, error.message.as_str(), found),
                (*found_status, *message, *words),
                "{}",
                String::from_utf8_lossy(body)
            );
        }
    }

    /// Checks that the message does not depend on the content type, which a proxy may change.
    #[test]
    fn the_content_type_does_not_change_the_message() {
        for (status, content_type, body, (_, message, _)) in CASES {
            // Two kinds of bodies depend on the content type: bytes that are not text, and HTML
            // that only its content type identifies.
            if std::str::from_utf8(body).is_err() || message.starts_with("upstream") {
                continue;
            }
            for other in ["application/json", "text/html", "text/plain", "text/event-stream", "image/png", ""]
            {
                let error = server_error_from_body(*status, Some(other), body);
                assert_eq!(error.message, *message, "{content_type} as {other}");
            }
        }
    }

    /// Checks that no server's text is long, moves the cursor or changes the writing direction.
    #[test]
    fn messages_from_servers_are_escaped_and_short() {
        let nasty = (0..0x100)
            .filter_map(char::from_u32)
            .chain(['\u{200e}', '\u{202e}', '\u{2066}', '\u{2069}', 'ä', '…']);
        let nasty: String = nasty.collect();
        for length in [1, 79, 80, 81, 199, 200, 201, 1999, 2000, 2001, 10_000] {
            for start in 0..8 {
                let text: String = nasty.chars().cycle().skip(start * 37).take(length).collect();
                let quoted = serde_json::to_string(&text).unwrap();
                let bodies = [
                    format!(
                        r#"{{"error":{{"message":{quoted},"type":{quoted},"code":{quoted},"param":{quoted}}}}}"#
                    ),
                    format!(r#"{{"error":{quoted},"error_type":{quoted}}}"#),
                    format!(r#"{{"object":"error","message":{quoted}}}"#),
                    format!(r#"{{"error":{{{quoted}:{quoted}}}}}"#),
                    format!(r#"{{"error":1,"code":[{quoted}]}}"#),
                    format!(r#"{{"detail":[{{"loc":[{quoted}],"msg":{quoted}}}]}}"#),
                    format!(r#"{{"no":{quoted}}}"#),
                    format!(r#"{{"no":{quoted}"#),
                    format!("<title>{text}</title>"),
                    format!("<p>{text}"),
                    text,
                ];
                let cut = bodies.iter().map(|body| [body.as_bytes(), b"\xff"].concat());
                for body in bodies.iter().map(|body| body.clone().into_bytes()).chain(cut) {
                    for kind in ["", "text/html", "a\u{1b}b/json"] {
                        let error = server_error_from_body(None, Some(kind), &body);
                        assert!(error.message.chars().count() <= MAX_SERVER_MESSAGE_CHARS + 1);
                        let words =
                            [&error.kind, &error.code, &error.param].map(|w| w.as_deref().unwrap_or(""));
                        assert!(words.iter().all(|word| word.chars().count() <= MAX_WORD_CHARS + 1));
                        let shown = crate::error::Error::server(error.clone()).to_string();
                        for text in words.into_iter().chain([error.message.as_str(), &shown]) {
                            let bad =
                                |c: char| c.is_control() || "\u{200e}\u{202e}\u{2066}\u{2069}".contains(c);
                            assert!(!text.contains(bad), "{text:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_preview_is_short() {
        let long = "y".repeat(5000);
        for (body, before) in [
            (format!("{{\"no\":\"{long}\"}}").into_bytes(), "JSON without a message: "),
            (format!("[{long}").into_bytes(), "JSON without a message: "),
            ([b"\xff", long.as_bytes()].concat(), "a body that is not text (no content type): "),
        ] {
            let message = server_error_from_body(Some(500), None, &body).message;
            let preview = message.strip_prefix(before).unwrap_or_else(|| panic!("{message}"));
            assert_eq!(preview.chars().count(), MAX_PREVIEW_CHARS + 1, "with its …");
        }
    }

    #[test]
    fn a_long_message_is_cut_and_no_body_panics() {
        let long = "ä".repeat(MAX_SERVER_MESSAGE_CHARS + 9);
        let error = server_error_from_body(Some(500), None, long.as_bytes());
        assert_eq!(error.message.chars().count(), MAX_SERVER_MESSAGE_CHARS + 1);
        // The test uses every prefix of every case. The prefixes contain incomplete JSON, tags and
        // characters.
        for (_, content_type, body, _) in CASES {
            for end in 0..body.len() {
                let error = server_error_from_body(None, Some(*content_type), &body[..end]);
                assert!(!error.message.is_empty());
            }
        }
    }

    /// Decodes every error response that was recorded from a real server.
    ///
    /// The status and the message must be the same as in the file. `by_name` lists the expected
    /// message for each format.
    #[test]
    fn recorded_refusals_keep_the_message_of_the_server() {
        let by_name = [
            ("auth-401-no-key", "Unauthorized", None),
            ("error-404-path", "Not Found", None),
            ("error-404-model", "The model `no-such-model` does not exist", Some("NotFoundError")),
            ("router-no-workers", "No available workers (all circuits open or unhealthy)", None),
            ("sglrouter-completion", "Failed to deserialize the JSON body into the target type", None),
            ("break-after-engine-death-health", "the body is empty", None),
            ("loading-503", "Loading model", Some("unavailable_error")),
            ("error-prompt-too-long", "request (2500 tokens) exceeds", Some("exceed_context_size_error")),
            ("error-body-not-utf8", "[json.exception.parse_error.101]", Some("server_error")),
        ];
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let mut names = Vec::new();
        for folder in ["vllm", "llama.cpp"] {
            for file in std::fs::read_dir(fixtures.join(folder)).unwrap() {
                let path = file.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().split('.').next().unwrap().to_owned();
                let is_response =
                    path.to_str().is_some_and(|p| p.ends_with(".response.http") || p.ends_with(".raw"));
                let raw = std::fs::read(&path).unwrap();
                if !is_response || raw.starts_with(b"HTTP/1.1 200") {
                    continue;
                }
                let at = raw.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
                let head = String::from_utf8_lossy(&raw[..at]).to_lowercase();
                let kind = head.lines().find_map(|line| line.strip_prefix("content-type: "));
                let status: u16 = head[9..12].parse().unwrap();
                let body = &raw[at + 4..];
                let error = server_error_from_body(Some(status), kind, body);
                assert_eq!(error.status, Some(status), "{name}");
                if let Some(Value::String(said)) = serde_json::from_slice::<Value>(body)
                    .ok()
                    .and_then(|v| v.pointer("/error/message").cloned())
                {
                    assert_eq!(error.message, printable(&said, MAX_SERVER_MESSAGE_CHARS), "{name}");
                    // A code in the body never overrides the status of the response.
                    assert_eq!(server_error_from_body(None, kind, body).status, Some(status), "{name}");
                }
                if let Some((_, message, kind)) = by_name.iter().find(|row| row.0 == name) {
                    assert!(error.message.starts_with(message), "{name}: {}", error.message);
                    assert_eq!(error.kind.as_deref(), *kind, "{name}");
                }
                names.push(name);
            }
        }
        assert!(by_name.iter().all(|row| names.iter().any(|name| name == row.0)), "{names:?}");
        assert!(names.len() >= 45, "{}", names.len());
    }
}
