//! The fault matrix as data: each fault of a server, and how the stream has to end.
//!
//! `fault_run` runs the rows over plain HTTP and over TLS. `tests/faults.rs` checks the results.
//! `examples/faults.rs` prints them as the table in `docs/faults.md`.
//!
//! All rows answer with the [`TOKENS`], repeated if the stream never ends. Therefore, one check can
//! test in all rows that the tokens are an exact prefix.

pub mod rows;

use std::time::Duration;

use serde_json::{Value, json};
use tokenwire::testing::{Framing, OnAccept, Script};
use tokenwire::{ErrorKind, Timer, TokenId};

/// The tokens of the model. One has a character of two bytes, and one has an id without text.
pub const TOKENS: [(TokenId, &str); 4] = [(9707, "Hello"), (1879, " wörld"), (0, ""), (13, ".")];
/// The request id in the head of every response that has a head.
pub const REQUEST_ID: &str = "req-7";
/// The duration of the timer that ends a row.
pub const SHORT: Duration = Duration::from_millis(600);
/// The limit on one event. It is small, so a test exceeds it quickly.
pub const MAX_EVENT_BYTES: usize = 64 << 10;

/// The limit on the body of an error. It is small, so it can cut a key.
pub const MAX_ERROR_BODY_BYTES: usize = 1000;

/// A time that is longer than any timer.
const LONG: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(50);

/// One row.
pub struct Fault {
    pub name: String,
    pub server: Does,
    pub over: Over,
    /// The kind of the error. `None`: the stream is complete despite the fault.
    pub ends: Option<ErrorKind>,
    pub tokens: Tokens,
    /// The timer that is set to [`SHORT`]. All other timers are too long to expire.
    pub timer: Option<Timer>,
    /// True if the head arrives. The request id is then known.
    pub head: bool,
    pub status: Option<u16>,
    /// A part of the error message.
    pub says: &'static str,
    /// The size of the request's prompt.
    pub prompt_bytes: usize,
}

/// The behavior of the server.
pub enum Does {
    Answer(Script),
    /// Sends a good response to the first request, then this response to the second request on the
    /// same connection.
    SecondAnswer(Script),
    Accept(OnAccept),
    /// Reads this number of bytes of the request at a time, and pauses for this time after each
    /// read.
    Read(usize, Duration),
    /// The server does not listen.
    Refuse,
    /// Uses TLS if the client expects plain HTTP, and plain HTTP if the client expects TLS.
    OtherScheme,
    /// Uses a certificate that an unknown authority has signed.
    Untrusted,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Over {
    Both,
    Plain,
    Tls,
}

/// The number of tokens that the consumer receives.
#[derive(Clone, Copy)]
pub enum Tokens {
    Exactly(usize),
    Many,
}

// ---- building rows ----

fn fault(name: impl Into<String>, server: Does) -> Fault {
    Fault {
        name: name.into(),
        server,
        over: Over::Both,
        ends: None,
        tokens: Tokens::Exactly(0),
        timer: None,
        head: true,
        status: None,
        says: "",
        prompt_bytes: 10,
    }
}

fn answer(name: impl Into<String>, script: Script) -> Fault {
    fault(name, Does::Answer(script))
}

impl Fault {
    fn ends(mut self, kind: ErrorKind) -> Self {
        self.ends = Some(kind);
        self
    }

    fn times_out(mut self, timer: Timer) -> Self {
        self.timer = Some(timer);
        self.ends(ErrorKind::Timeout(timer))
    }

    /// The stream ends with the server's own error.
    fn refused(mut self, status: Option<u16>, says: &'static str) -> Self {
        self.status = status;
        self.says = says;
        self.ends(ErrorKind::Server)
    }

    fn tokens(mut self, n: usize) -> Self {
        self.tokens = Tokens::Exactly(n);
        self
    }

    fn says(mut self, says: &'static str) -> Self {
        self.says = says;
        self
    }

    fn over(mut self, over: Over) -> Self {
        self.over = over;
        self
    }

    fn headless(mut self) -> Self {
        self.head = false;
        self
    }
}

fn chunk(choice: &Value) -> String {
    json!({"id": "cmpl-1", "choices": [choice]}).to_string()
}

/// Returns the event of the n-th token.
fn token(n: usize) -> String {
    let (id, text) = TOKENS[n % TOKENS.len()];
    chunk(&json!({"index": 0, "text": text, "token_ids": [id]}))
}

fn last_token() -> String {
    let (id, text) = TOKENS[TOKENS.len() - 1];
    chunk(&json!({"index": 0, "text": text, "token_ids": [id], "finish_reason": "stop"}))
}

fn with_id(script: Script) -> Script {
    script.header("X-Request-Id", REQUEST_ID)
}

/// Returns the head of a stream and its first `n` tokens, without an end.
fn begun(n: usize) -> Script {
    let head = Script::new().head(200, &[("Content-Type", "text/event-stream")], Framing::Chunked);
    (0..n).fold(with_id(head), |script, n| script.event(&token(n)))
}

/// Returns all tokens, the last one with its finish reason.
fn finished() -> Script {
    begun(3).event(&last_token())
}

/// Returns a complete response without a fault.
pub fn good() -> Script {
    finished().event("[DONE]")
}

/// Returns the shortest good response in this framing. Tests break it off at every byte.
pub fn short(framing: Framing) -> Script {
    let event = |n: usize, finish: Value| {
        let (id, text) = TOKENS[n];
        json!({"choices": [{"text": text, "token_ids": [id], "finish_reason": finish}]}).to_string()
    };
    let head = Script::new().head(200, &[("Content-Type", "text/event-stream")], framing);
    head.event(&event(0, Value::Null)).event(&event(1, json!("stop"))).event("[DONE]")
}

fn status(status: u16) -> Script {
    with_id(Script::status(status))
}

/// Returns a response of raw bytes. `head` has no empty line at its end.
fn raw(head: &str, body: impl AsRef<[u8]>) -> Script {
    let mut bytes = format!("HTTP/1.1 200 OK\r\nX-Request-Id: {REQUEST_ID}\r\n{head}\r\n\r\n").into_bytes();
    bytes.extend_from_slice(body.as_ref());
    Script::raw(bytes)
}

const CHUNKED: &str = "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked";

fn http_chunk(bytes: &str) -> String {
    format!("{:x}\r\n{bytes}\r\n", bytes.len())
}

/// Returns the position after `text` in the bytes of `script`.
fn end_of(script: &Script, text: &[u8]) -> usize {
    let wire = script.wire();
    let at = wire.windows(text.len()).position(|window| window == text).expect("the text is in the script");
    at + text.len()
}
