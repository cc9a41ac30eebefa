//! The rows of the fault matrix, and the responses in which a server echoes a key.

use std::time::Duration;

use serde_json::json;
use tokenwire::testing::{Cut, Framing, OnAccept, Script};
use tokenwire::{ErrorKind, Limit, MAX_RESPONSE_HEAD_BYTES, MAX_RESPONSE_HEADERS, Timer};

use super::{
    CHUNKED, Does, Fault, LONG, MAX_ERROR_BODY_BYTES, MAX_EVENT_BYTES, Over, REQUEST_ID, TICK, TOKENS,
    Tokens, answer, begun, chunk, end_of, fault, finished, good, http_chunk, last_token, raw, status, token,
    with_id,
};

/// Returns all rows, ordered by the stage of the stream at which the fault occurs.
pub fn faults() -> Vec<Fault> {
    let mut rows = connections();
    rows.extend(heads());
    rows.extend(statuses());
    rows.extend(error_bodies());
    rows.extend(not_streams());
    rows.extend(framings());
    rows.extend(silences());
    rows.extend(cuts());
    rows.extend(error_frames());
    rows.extend(endings());
    rows.extend(numbers());
    rows.extend(limits());
    rows
}

fn connections() -> Vec<Fault> {
    use ErrorKind::{Connect, Incomplete, Protocol, Refused};
    let accept =
        |name: &str, how, over, kind| fault(name, Does::Accept(how)).over(over).headless().ends(kind);
    let big = |name: &str, server, timer| {
        let mut row = fault(name, server).headless().times_out(timer);
        row.prompt_bytes = 8 << 20;
        row
    };
    let hangs = || Does::Read(64, LONG);
    let trickles = || Does::Read(1, TICK);
    let reads = || Does::Read(4 << 10, TICK);
    vec![
        fault("no server listens", Does::Refuse).headless().ends(Refused),
        fault("accepts the connection, then sends nothing", Does::Accept(OnAccept::Hang))
            .over(Over::Plain)
            .headless()
            .times_out(Timer::FirstToken),
        fault("accepts the connection, then sends no TLS handshake", Does::Accept(OnAccept::Hang))
            .over(Over::Tls)
            .headless()
            .times_out(Timer::Connect),
        accept("accepts and closes the connection", OnAccept::Close, Over::Plain, Incomplete),
        accept("closes the connection before the TLS handshake", OnAccept::Close, Over::Tls, Connect),
        // On a plain port, an accepted and reset connection ends with Connect or Incomplete,
        // because the reset can arrive before or after the system's `connect` returns.
        accept("resets the connection before the TLS handshake", OnAccept::Reset, Over::Tls, Connect),
        fault("speaks TLS on a plain port", Does::OtherScheme).over(Over::Plain).headless().ends(Protocol),
        fault("speaks plain HTTP on a TLS port", Does::OtherScheme)
            .over(Over::Tls)
            .headless()
            .times_out(Timer::Connect),
        fault("certificate of an unknown authority", Does::Untrusted)
            .over(Over::Tls)
            .headless()
            .ends(Connect),
        big("reads nothing of a large request", Does::Accept(OnAccept::Hang), Timer::Write).over(Over::Plain),
        big("reads only the beginning of a large request", hangs(), Timer::Write),
        big("the same, with a short first-token timer", hangs(), Timer::FirstToken),
        big("the same, with a short deadline", hangs(), Timer::Deadline),
        big("reads a large request, one byte every 50 ms", trickles(), Timer::Write),
        big("reads a large request, 4 KiB every 50 ms", reads(), Timer::FirstToken),
        big("the same, until the deadline", reads(), Timer::Deadline),
        answer("reads the request, then sends nothing", Script::new().hang(LONG))
            .headless()
            .times_out(Timer::FirstToken),
        answer("reads the request and closes the connection", Script::new()).headless().ends(Incomplete),
        answer("reads the request and resets the connection", Script::new().reset())
            .headless()
            .ends(Incomplete),
        fault("kept connection that the server has closed", Does::SecondAnswer(Script::new())).tokens(4),
        fault("kept connection that the server has reset", Does::SecondAnswer(Script::new().reset()))
            .tokens(4),
    ]
}

fn heads() -> Vec<Fault> {
    use ErrorKind::{Incomplete, Protocol};
    let in_a_header = end_of(&good(), b"Content-Ty");
    let no_http = |name: &str, bytes: &str| answer(name, Script::raw(bytes)).headless().ends(Protocol);
    let one = http_chunk(&format!("data: {}\n\ndata: [DONE]\n\n", token(0))) + "0\r\n\r\n";
    // The response already has three headers, and `head` adds its headers to those three.
    let head = |more: &str| raw(&format!("{more}{CHUNKED}"), &one);
    let headers = |count: usize| head(&"X: y\r\n".repeat(count - 3));
    let head_bytes = |bytes: usize| {
        let rest = head("X: \r\n").wire().len() - one.len();
        head(&format!("X: {}\r\n", "y".repeat(bytes - rest)))
    };
    let over = |name: &str, script, limit: Limit| {
        answer(name, script).headless().ends(ErrorKind::Limit(limit)).says(limit.as_str())
    };
    vec![
        answer("head, one byte every 50 ms", good().slowly(1, TICK)).headless().times_out(Timer::FirstToken),
        answer("close inside a header", good().cut_at(in_a_header, Cut::Fin)).headless().ends(Incomplete),
        answer("reset inside a header", good().cut_at(in_a_header, Cut::Reset)).headless().ends(Incomplete),
        answer("silence inside a header", good().cut_at(in_a_header, Cut::Hang))
            .headless()
            .times_out(Timer::FirstToken),
        answer("head of 15 KiB", head_bytes(MAX_RESPONSE_HEAD_BYTES)).tokens(1),
        over(
            "head of 15 KiB and one byte",
            head_bytes(MAX_RESPONSE_HEAD_BYTES + 1),
            Limit::ResponseHeadBytes,
        ),
        over("head of 40 KB", head_bytes(40_000), Limit::ResponseHeadBytes),
        answer("128 headers", headers(MAX_RESPONSE_HEADERS)).tokens(1),
        over("129 headers", headers(MAX_RESPONSE_HEADERS + 1), Limit::ResponseHeaders),
        over("300 headers", headers(300), Limit::ResponseHeaders),
        no_http("response that is not HTTP", "SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        no_http("status that is not a number", "HTTP/1.1 OK 200\r\n\r\n"),
        answer(
            "103 before the final head",
            Script::new()
                .head(103, &[], Framing::Raw)
                .head(
                    200,
                    &[("Content-Type", "text/event-stream"), ("X-Request-Id", REQUEST_ID)],
                    Framing::Chunked,
                )
                .event(&token(0))
                .event("[DONE]"),
        )
        .tokens(1),
        answer(
            "HTTP/1.0",
            Script::raw(format!(
                "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\ndata: [DONE]\n\n",
                token(0)
            )),
        )
        .tokens(1),
    ]
}

fn statuses() -> Vec<Fault> {
    let busy = || status(429).json(r#"{"error":{"message":"slow down"}}"#);
    let busy_with = |name: &str, header: &str, value: &str| {
        answer(name, busy().header(header, value)).refused(Some(429), "slow down")
    };
    let mut rows = vec![
        answer("429", busy()).refused(Some(429), "slow down"),
        busy_with("429 with Retry-After in seconds", "Retry-After", "1"),
        busy_with("429 with Retry-After as a date", "Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT"),
        busy_with("429 with an invalid Retry-After", "Retry-After", "soon"),
        busy_with("429 with a very long Retry-After", "Retry-After", "99999999999999999999"),
        busy_with("429 with retry-after-ms", "retry-after-ms", "10"),
        busy_with("429 with x-should-retry", "x-should-retry", "true"),
        answer("400 with FastAPI details", status(400).json(r#"{"detail":[{"loc":["n"],"msg":"bad"}]}"#))
            .refused(Some(400), "n: bad"),
        answer("401 with the error as a string", status(401).json(r#"{"error":"Unauthorized"}"#))
            .refused(Some(401), "Unauthorized"),
        answer("422 in plain text", status(422).body("text/plain", "no ids, please"))
            .refused(Some(422), "no ids, please"),
        answer("500 without a body", status(500)).refused(Some(500), "empty"),
        answer("502 in HTML", status(502).body("text/html", "<html><title>502 Bad Gateway</title></html>"))
            .refused(Some(502), "502 Bad Gateway"),
        answer(
            "503 in JSON with the type text/event-stream",
            status(503).body("text/event-stream", r#"{"error":"no"}"#),
        )
        .refused(Some(503), "answered 503: no"),
        answer("503 with Retry-After", status(503).header("Retry-After", "1").body("text/plain", "loading"))
            .refused(Some(503), "loading"),
        answer("500 with an endless body", {
            let head = Script::new().head(500, &[("Content-Type", "text/plain")], Framing::Chunked);
            with_id(head).repeat(vec![b'x'; 1000], u64::MAX, Duration::ZERO)
        })
        .refused(Some(500), "xxx"),
        answer("500, cut off in its body", status(500).json(r#"{"error":{"message":"half a"#).reset())
            .refused(Some(500), "half a"),
        answer("307 to another host", status(307).header("Location", "http://other.test/v1"))
            .refused(Some(307), "other.test"),
        answer("302 to another host", status(302).header("Location", "http://other.test/v1"))
            .refused(Some(302), "other.test"),
    ];
    let mut slow = answer("503, then silence in its body", {
        with_id(Script::new().head(503, &[("Content-Type", "text/plain")], Framing::Chunked)).hang(LONG)
    })
    .refused(Some(503), "empty");
    slow.timer = Some(Timer::Deadline);
    rows.push(slow);
    rows
}

fn not_streams() -> Vec<Fault> {
    let not = |name: &str, kind: &str, body: &str| {
        answer(name, status(200).body(kind, body)).ends(ErrorKind::NotEventStream)
    };
    let encoded = |name: &str, encoding: &str| {
        answer(name, begun(1).header("Content-Encoding", encoding)).headless().ends(ErrorKind::Protocol)
    };
    let stream =
        (0..3).map(token).chain([last_token()]).map(|t| format!("data: {t}\n\n")).collect::<String>();
    let mut slow = answer("200 in JSON, then silence", {
        let head =
            with_id(Script::new().head(200, &[("Content-Type", "application/json")], Framing::Chunked));
        head.write(r#"{"error":"half"#).hang(LONG)
    })
    .ends(ErrorKind::NotEventStream)
    .says("half");
    slow.timer = Some(Timer::Deadline);
    vec![
        not("200 with an error in JSON", "application/json", r#"{"error":{"message":"no"}}"#).says(": no"),
        not("200 with an error in JSON, type text/event-stream", "text/event-stream", r#"{"error":"no"}"#)
            .says(": no"),
        not(
            "200 in HTML with the type text/event-stream",
            "text/event-stream",
            "\n<html><title>Login</title>",
        )
        .says("Login"),
        not("events with the type text/plain", "text/plain", &stream).says("text/plain"),
        answer("events without a content type", {
            with_id(Script::new().head(200, &[], Framing::Chunked)).write(stream.clone()).event("[DONE]")
        })
        .tokens(4),
        slow,
        encoded("gzip encoding", "gzip"),
        encoded("deflate encoding", "deflate"),
        answer("204", status(204)).ends(ErrorKind::Incomplete),
        answer("200 without a body", begun(0)).ends(ErrorKind::Incomplete).says("before the first token"),
    ]
}

fn framings() -> Vec<Fault> {
    use ErrorKind::{Incomplete, Protocol};
    let one = http_chunk(&format!("data: {}\n\n", token(0)));
    // ureq discards the whole read in which the framing breaks, so the token is sent in its own
    // read.
    let after_one = |bytes: &str| raw(CHUNKED, &one).pause(TICK).write(bytes);
    let body_bytes = |script: Script| {
        let whole = script.framing(Framing::ContentLength);
        (whole.wire().len() - end_of(&whole, b"\r\n\r\n")) as u64
    };
    let good_of_length = |bytes| good().framing(Framing::GivenLength(bytes));
    vec![
        answer("one byte at a time", good().slowly(1, Duration::ZERO)).tokens(4),
        answer("chunk size that is not a number", after_one("zz\r\n")).tokens(1).ends(Protocol),
        answer("chunk size beyond 64 bits", after_one("fffffffffffffffff\r\nx")).tokens(1).ends(Protocol),
        answer("chunk without a line end", after_one("3\r\n: hello\r\n"))
            .tokens(1)
            .ends(Protocol)
            .says("no line end"),
        answer("chunk with an extension", after_one("e;name=value\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"))
            .tokens(1),
        answer(
            "chunk with an extension, size line over 20 characters",
            after_one("e;name=a-longer-value\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"),
        )
        .tokens(1)
        .ends(Protocol)
        .says("over 20 characters"),
        answer(
            "chunk size, one digit every 50 ms",
            raw(CHUNKED, &one).write_slowly("0".repeat(15), 1, TICK).hang(LONG),
        )
        .tokens(1)
        .times_out(Timer::Chunk),
        answer("TLS record, one byte every 50 ms", begun(1).dribble(long_event(), 1, TICK))
            .over(Over::Tls)
            .tokens(1)
            .times_out(Timer::Chunk),
        answer("content-length too long", good_of_length(body_bytes(good()) + 10)).tokens(4),
        answer("content-length too long, no finish reason", {
            begun(2).framing(Framing::GivenLength(100_000)).close()
        })
        .tokens(2)
        .ends(Incomplete),
        answer("content-length too short", good_of_length(body_bytes(begun(2)) + 20))
            .tokens(2)
            .ends(Incomplete),
        answer("last chunk of the framing never arrives", good().hang(LONG)).tokens(4),
    ]
}

/// Returns an event that takes a minute at one byte every 50 ms. Even if the machine stalls for
/// some seconds, the event does not end before the timer.
fn long_event() -> String {
    format!("data: {}{}\n\n", token(1), " ".repeat(1_000))
}

fn silences() -> Vec<Fault> {
    let ping = ": ping\n\n";
    let slow_event = |script: Script| script.write_slowly(long_event(), 1, TICK);
    vec![
        answer("silence after the head", begun(0).hang(LONG)).times_out(Timer::FirstToken),
        answer("only keep-alive comments", begun(0).repeat(ping, u64::MAX, TICK))
            .times_out(Timer::FirstToken),
        answer("silence after a token", begun(1).hang(LONG)).tokens(1).times_out(Timer::Chunk),
        answer("keep-alive comments after two tokens", begun(2).repeat(ping, u64::MAX, TICK))
            .tokens(2)
            .times_out(Timer::Content),
        answer("event, one byte every 50 ms", slow_event(begun(1).framing(Framing::CloseDelimited)))
            .tokens(1)
            .times_out(Timer::Content),
        answer("line, one byte every 50 ms, before the first token", slow_event(begun(0)))
            .times_out(Timer::FirstToken),
        answer("events without tokens", begun(0).repeat("data: {\"choices\":[]}\n\n", u64::MAX, TICK))
            .times_out(Timer::FirstToken),
        Fault {
            tokens: Tokens::Many,
            ..answer("endless tokens, four every 50 ms", endless(TICK)).times_out(Timer::Deadline)
        },
        Fault {
            tokens: Tokens::Many,
            ..answer("endless tokens, as fast as possible", endless(Duration::ZERO))
                .times_out(Timer::Deadline)
        },
    ]
}

fn endless(pause: Duration) -> Script {
    let all: String = (0..TOKENS.len()).map(|n| format!("data: {}\n\n", token(n))).collect();
    begun(0).repeat(all, u64::MAX, pause)
}

fn cuts() -> Vec<Fault> {
    let mut rows = Vec::new();
    for (name, text, tokens) in [
        // The second byte of the character is missing.
        ("a character", &b" w\xc3"[..], 1),
        ("a line", &b"\"token_ids\":[18"[..], 1),
        ("an event, between its lines", &b"\"token_ids\":[1879]}],\"id\":\"cmpl-1\"}\n"[..], 1),
        ("the framing, between two events", &b"\"token_ids\":[1879]}],\"id\":\"cmpl-1\"}\n\n\r\n"[..], 2),
    ] {
        let script = begun(3);
        let at = end_of(&script, text);
        for (how, cut) in [("close", Cut::Fin), ("reset", Cut::Reset)] {
            rows.push(
                answer(format!("{how} inside {name}"), script.clone().cut_at(at, cut))
                    .tokens(tokens)
                    .ends(ErrorKind::Incomplete),
            );
        }
        rows.push(
            answer(format!("silence inside {name}"), script.clone().cut_at(at, Cut::Hang))
                .tokens(tokens)
                .times_out(Timer::Chunk),
        );
    }
    rows
}

/// Every JSON error that servers are known to send, and the status that it has inside a stream.
const SAID_NO: [(&str, &str, Option<u16>); 10] = [
    (
        "vLLM error",
        r#"{"error":{"message":"said no","type":"BadRequestError","param":null,"code":400}}"#,
        Some(400),
    ),
    ("vLLM engine death", r#"{"error":{"message":"said no","type":"Internal","code":500}}"#, Some(500)),
    ("older vLLM error", r#"{"object":"error","message":"said no","type":"x","code":40301}"#, None),
    ("error as a string", r#"{"error":"said no"}"#, None),
    (
        "llama.cpp error",
        r#"{"error":{"code":400,"message":"said no","type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":8}}"#,
        Some(400),
    ),
    ("SGLang error", r#"{"error":{"object":"error","message":"said no","code":"503"}}"#, None),
    ("native SGLang error", r#"{"error":{"message":"said no"}}"#, None),
    ("TGI error", r#"{"error":"said no","error_type":"overloaded"}"#, None),
    ("LM Studio error", r#"{"error":{"message":"said no"},"message":"said no"}"#, None),
    (
        "OpenRouter error",
        r#"{"error":{"code":502,"message":"said no"},"choices":[{"delta":{},"finish_reason":"error"}]}"#,
        Some(502),
    ),
];

/// The content types of the error bodies. Some are correct and some are wrong.
const BODY_TYPES: [&str; 5] =
    ["application/json", "text/event-stream", "text/html", "text/plain; charset=utf-8", "image/png"];

/// Returns every error body that servers and proxies are known to send, with an error status and
/// with 200. The content types are used in turn.
fn error_bodies() -> Vec<Fault> {
    let others = [
        ("FastAPI error", r#"{"detail":"said no"}"#),
        ("FastAPI list of errors", r#"{"detail":[{"loc":["body","n"],"msg":"said no"}]}"#),
        ("error event", "data: {\"error\":{\"message\":\"said no\"}}\n\ndata: [DONE]\n\n"),
        ("HTML", "<!DOCTYPE html><html><head><title>said no</title></head></html>"),
        ("plain text", "said no\n"),
    ];
    let bodies = SAID_NO.iter().map(|(name, body, _)| (*name, *body)).chain(others);
    let mut rows = Vec::new();
    for (n, (name, body)) in bodies.enumerate() {
        // Shift the types after each round, so that a body does not always get the same type.
        let kind = |n: usize| BODY_TYPES[(n + n / BODY_TYPES.len()) % BODY_TYPES.len()];
        let named =
            |at: u16, kind: &str| format!("{at}: {name}, type {}", kind.split(';').next().unwrap_or(kind));
        for (at, kind) in [(400, kind(n)), (503, kind(n + 2))] {
            rows.push(answer(named(at, kind), status(at).body(kind, body)).refused(Some(at), "said no"));
        }
        let kind = kind(n + 1);
        let mut row = answer(named(200, kind), status(200).body(kind, body)).says("said no");
        row.ends = Some(match (kind, name) {
            // Only this body contains a valid event.
            ("text/event-stream", "error event") => ErrorKind::Server,
            // The line is a field with an unknown name, and the stream has no events.
            ("text/event-stream", "plain text") => ErrorKind::Incomplete,
            _ => ErrorKind::NotEventStream,
        });
        if row.ends == Some(ErrorKind::Incomplete) {
            row.says = "before the first token";
        }
        rows.push(row);
    }
    rows
}

/// Returns every form of an error inside a stream: as the first event, after one token, and after
/// two tokens.
fn error_frames() -> Vec<Fault> {
    let data = |json: &str| format!("data: {json}\n\n");
    let in_json = SAID_NO.iter().map(|(name, json, status)| (*name, data(json), *status));
    let others = [
        ("event named `error`", format!("event: error\n{}", data(r#"{"message":"said no"}"#)), None),
        ("field named `error`", "error: {\"message\":\"said no\"}\n\n".to_owned(), None),
        ("line of bare JSON", "{\"error\":{\"message\":\"said no\"}}\n\n".to_owned(), None),
    ];
    let mut rows = Vec::new();
    for (name, frame, status) in in_json.chain(others) {
        for (place, tokens, after) in [
            ("as the first event", 0, "[DONE]"),
            ("after two tokens", 2, "[DONE]"),
            ("after one token, without `[DONE]`", 1, ""),
        ] {
            let mut script = begun(tokens).write(frame.clone());
            if !after.is_empty() {
                // The text after the error does not matter.
                script = script.event(after);
            }
            let mut row = answer(format!("error in the stream: {name}, {place}"), script);
            row = row.tokens(tokens).refused(status, "said no");
            if name == "line of bare JSON" && tokens == 0 {
                row.ends = Some(ErrorKind::NotEventStream);
            }
            rows.push(row);
        }
    }
    let by_reason = chunk(&json!({"index": 0, "text": "", "token_ids": [], "finish_reason": "error"}));
    rows.push(
        answer("finish reason `error` without a message", begun(2).event(&by_reason).event("[DONE]"))
            .tokens(2)
            .ends(ErrorKind::Server),
    );
    rows
}

fn endings() -> Vec<Fault> {
    let no_end = "without a finish reason";
    // The stream is complete. The timer only ends the wait.
    let withheld = |name: &str, script: Script| {
        let mut row = answer(name, script).tokens(4);
        row.timer = Some(Timer::AfterFinish);
        row
    };
    let ping = ": ping\n\n";
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
    vec![
        answer("closed properly, no finish reason", begun(3))
            .tokens(3)
            .ends(ErrorKind::Incomplete)
            .says(no_end),
        answer("the same, without a length", begun(3).framing(Framing::CloseDelimited))
            .tokens(3)
            .ends(ErrorKind::Incomplete)
            .says(no_end),
        answer("chunk with the finish reason never arrives", begun(3).hang(LONG))
            .tokens(3)
            .times_out(Timer::Chunk),
        answer("`[DONE]` as the first event", begun(0).event("[DONE]")),
        answer("`[DONE]` after two tokens", begun(2).event("[DONE]")).tokens(2),
        answer("`[DONE]` without its empty line", begun(2).write("data: [DONE]")).tokens(2),
        answer("finish reason, then close", finished()).tokens(4),
        answer("finish reason, then reset", finished().reset()).tokens(4),
        withheld("finish reason, then silence", finished().hang(LONG)),
        withheld("finish reason, then endless keep-alive comments", finished().repeat(ping, u64::MAX, TICK)),
        withheld("the same, as fast as possible", finished().repeat(ping, u64::MAX, Duration::ZERO)),
        withheld("usage, then silence", finished().event(usage).hang(LONG)),
        withheld("half of `[DONE]`, then silence", finished().write("data: [DO").hang(LONG)),
        answer("garbage after `[DONE]`", good().write(vec![0xff; 300]).event("{\"error\":\"late\"}"))
            .tokens(4),
        answer("tokens after `[DONE]`", good().event(&token(0))).tokens(4),
        answer("endless garbage after `[DONE]`", good().repeat("x", u64::MAX, Duration::ZERO)).tokens(4),
        answer("reset after `[DONE]`", good().reset()).tokens(4),
        answer("events that are not JSON between tokens", {
            begun(1).event("oops").event("[1,").event(&token(1)).event(&token(2)).event(&last_token())
        })
        .tokens(4),
        answer("JSON of 128 levels between tokens", {
            begun(2).event(&nested(128)).event(&token(2)).event(&last_token())
        })
        .tokens(4),
    ]
}

fn numbers() -> Vec<Fault> {
    let odd = |name: String, field: &str, value: &str| {
        // The event is written by hand, because a JSON value cannot contain such numbers.
        let (index, ids) = if field == "index" { (value, "[7]") } else { ("0", value) };
        let event = format!(r#"{{"choices":[{{"index":{index},"text":"x","token_ids":{ids}}}]}}"#);
        answer(name, begun(1).event(&event).event(&last_token())).tokens(1).ends(ErrorKind::Protocol)
    };
    let mut rows = Vec::new();
    for index in ["1", "-1", "0.5", "4294967296", "1e99"] {
        rows.push(odd(format!("choice index {index}"), "index", index).says("index"));
    }
    for id in ["-1", "4294967296", "99999999999999999999", "1.5", "1e99", "\"7\""] {
        rows.push(odd(format!("token id {id}"), "token_ids", &format!("[{id}]")).says("token id"));
    }
    rows.push(odd("token ids that are not a list".to_owned(), "token_ids", "7").says("token ids"));
    rows
}

fn nested(levels: usize) -> String {
    "[".repeat(levels) + &"]".repeat(levels)
}

fn limits() -> Vec<Fault> {
    let of_chunk = |name: &str, event: String, limit: Limit| {
        let script = begun(1).event(&event).event(&last_token());
        answer(name, script).tokens(1).ends(ErrorKind::Limit(limit)).says("limit exceeded")
    };
    let over = |name: &str, script| {
        answer(name, script).tokens(1).ends(ErrorKind::Limit(Limit::EventBytes)).says("max_event_bytes")
    };
    let x = vec![b'x'; 1000];
    let endless = |begin: &str, bytes: Vec<u8>| begun(1).write(begin).repeat(bytes, u64::MAX, Duration::ZERO);
    vec![
        over("line over the limit", begun(1).event(&"x".repeat(MAX_EVENT_BYTES + 10)).event("[DONE]")),
        over("event of many lines over the limit", {
            begun(1).event(&"y\n".repeat(MAX_EVENT_BYTES / 2 + 10)).event("[DONE]")
        }),
        over("endless line", endless("data: ", x.clone())),
        over("endless event", endless("", b"data: x\n".repeat(100))),
        over("endless comment", endless(": ", x.clone())),
        over("endless field with an unknown name", endless("", x)),
        of_chunk("JSON of 129 levels", nested(129), Limit::Nesting),
        of_chunk(
            "JSON of 30,000 levels in a chunk",
            token(1).replacen('{', &format!("{{\"x\":{},", nested(30_000)), 1),
            Limit::Nesting,
        ),
        of_chunk("129 choices", format!("{{\"choices\":[{}{{}}]}}", "{},".repeat(128)), Limit::Choices),
        answer("usage with numbers out of range", {
            let usage = r#"{"choices":[],"usage":{"prompt_tokens":-1,"completion_tokens":1e99}}"#;
            begun(3).event(&last_token()).event(usage).event("[DONE]")
        })
        .tokens(4),
    ]
}

/// Returns responses in which the server echoes the key that it received: whole, cut by a limit,
/// and in two reads.
pub fn echoes(key: &str) -> Vec<Fault> {
    let x = |n: usize| "x".repeat(n);
    let error =
        |text: &str| json!({"error": {"message": text, "type": key, "code": key, "param": key}}).to_string();
    let json_400 = |text: String| status(400).json(text);
    let head = |name: &str, value: String| begun(1).header(name, &value);
    let kind =
        |kind: String| Script::new().head(200, &[("Content-Type", &kind)], Framing::Chunked).write("x");
    let rows: Vec<(&str, Script)> = vec![
        ("JSON, every field", status(401).json(error(&format!("bad key {key}!")))),
        ("JSON, sent slowly", with_id(Script::status(401)).json(error(key)).slowly(7, Duration::ZERO)),
        ("JSON without a message", json_400(format!(r#"{{"ok":"{key}"}}"#))),
        ("JSON without a message, escaped", json_400(json!({"ok": key}).to_string())),
        (
            "JSON without a message, with numeric escapes",
            json_400(format!(
                r#"{{"ok":"{}"}}"#,
                key.bytes().map(|byte| format!("\\u{byte:04x}")).collect::<String>()
            )),
        ),
        ("JSON without a message, cut inside an escape", json_400(json!({"ok": x(180) + key}).to_string())),
        ("JSON without a message, cut", json_400(format!(r#"{{"ok":"{}{key}"}}"#, x(175)))),
        (
            "JSON, cut by the limit on the body",
            json_400(format!(r#"{{"ok":1,"error":"{}{key}"}}"#, x(MAX_ERROR_BODY_BYTES - 40))),
        ),
        (
            "plain text, cut by the limit on the body",
            status(400).body("text/plain", x(MAX_ERROR_BODY_BYTES - 15) + key),
        ),
        (
            "a body that is not text",
            status(400).body("application/octet-stream", [b"\xff", key.as_bytes()].concat()),
        ),
        ("HTML", status(403).body("text/html", format!("<title>Key {key} is bad</title>"))),
        ("200, HTML", status(200).body("text/html", format!("<b>Key {key} is bad</b>"))),
        (
            "200, HTML with the type text/event-stream",
            status(200).body("text/event-stream", format!("<b>Key {key} is bad</b>")),
        ),
        ("200, JSON with the type text/event-stream, cut", {
            status(200).body("text/event-stream", format!(r#"{{"ok":"{}{key}"}}"#, x(180)))
        }),
        ("content type", kind(format!("text/{key}"))),
        ("content type, cut", kind(format!("text/{}{key}", x(44)))),
        ("content encoding", head("Content-Encoding", key.to_owned())),
        ("content encoding, cut", head("Content-Encoding", x(49) + key)),
        ("request id", head("X-Request-ID", key.to_owned())),
        ("the only request id", {
            Script::events([token(0)]).header("x-request-id", &format!("id-{key}-{}", x(300)))
        }),
        ("rate limit", head("X-RateLimit-Key", key.to_owned())),
        ("rate limit, cut", head("X-RateLimit-Key", x(241) + key)),
        ("location", status(307).header("Location", &format!("/{key}"))),
        ("cookie and server", head("Set-Cookie", key.to_owned()).header("Server", key).header("X-Any", key)),
        ("reason phrase", Script::raw(format!("HTTP/1.1 401 {key}\r\n\r\n"))),
        ("header without a colon", Script::raw(format!("HTTP/1.1 200 OK\r\n{key}\r\n\r\n"))),
        ("a response that is not HTTP", Script::raw(format!("{key}\r\n\r\n"))),
        ("chunk size", raw(CHUNKED, format!("{key}\r\n{key}"))),
        ("id of the chunks", Script::events([json!({"id": key, "choices": [{"text": "a"}]}).to_string()])),
        ("event that is not JSON", begun(1).event(&format!("oops {key}")).event(&format!("oops {key}"))),
        ("event that is not JSON, escaped", begun(1).event(&format!("oops {}", json!(key)))),
        ("event that is not JSON, cut", begun(1).event(&format!("oops {}{key}", x(60)))),
        ("error event", begun(1).event(&error(&format!("bad key {key}!")))),
        ("error event, cut", begun(1).event(&error(&(x(1985) + key)))),
        (
            "error event, one byte at a time",
            begun(1).write_slowly(format!("data: {}\n\n", error(key)), 1, Duration::ZERO),
        ),
        ("error event of another shape", begun(1).event(&json!({"error": {"odd": key}}).to_string())),
        ("event named `error`", begun(1).write(format!("event: error\ndata: bad key {key}\n\n"))),
        ("field named `error`", begun(1).write(format!("error: bad key {key}\n\n"))),
        ("line of bare JSON", begun(1).write(format!("{}\n\n", error(key)))),
        ("index", begun(1).event(&json!({"choices": [{"index": key, "text": "a"}]}).to_string())),
        ("reply, in two reads", {
            let (front, back) = key.split_at(key.len() / 2);
            begun(1).write(format!("data: {{\"id\":\"{front}")).pause(TICK).write(format!("{back}\"}}\n\n"))
        }),
        ("reply, not UTF-8", begun(1).write([b"data: \xff ", key.as_bytes(), b"\n\n"].concat())),
        ("reply, cut", begun(1).write(format!("data: {}", &key[..key.len() - 3])).reset()),
    ];
    rows.into_iter().map(|(name, script)| answer(format!("key in {name}"), script)).collect()
}
