//! The property of a stream, for any response in any framing with any fault, over connections in
//! memory:
//!
//! - The stream ends exactly once.
//! - A slow reader finds the same tokens in the received bytes.
//! - The report, the tokens and the error agree.
//!
//! A fuzz target calls this function.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use crossbeam_channel::RecvTimeoutError;
use tokenwire::testing::{InMemory, Sent};
use tokenwire::{
    ApiClient, BodyDecoder, ChunkDecoder, CompletionRequest, Endpoint, ErrorKind, Flow, Message, Outcome,
    RetryPolicy, ServerKind, Step, StreamReport, StreamToken, Timer,
};

use super::reference_sse;

/// A limit that only a hanging test reaches. The tests here do not wait.
const LONG: Duration = Duration::from_secs(20);
const WIRES: [Endpoint; 7] = [
    Endpoint::Auto,
    Endpoint::OpenAi,
    Endpoint::Chat,
    Endpoint::LlamaCpp,
    Endpoint::VllmGenerate,
    Endpoint::SgLang,
    Endpoint::Tgi,
];

/// The parts that a body is made from.
const PIECES: &[&str] = &[
    "data: {\"choices\":[{\"index\":0,\"text\":\" a\",\"token_ids\":[64]}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"text\":\"\\u00e9\\ud83d\\ude00\",\"token_ids\":[1,2]}]}\r\n\r\n",
    "data: {\"choices\":[{\"index\":0,\"text\":\"no id\"}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"length\",\"token_ids\":[7]}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"c\"},\"token_ids\":[9]}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"r\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"x\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"a\\\": 1}\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
    "data: {\"content\":\"l\",\"tokens\":[5],\"stop\":false}\n\n",
    "data: {\"content\":\"\",\"tokens\":[],\"stop\":true,\"stop_type\":\"eos\",\"tokens_predicted\":1}\n\n",
    "data: {\"text\":\"s\",\"output_ids\":[4],\"meta_info\":{\"completion_tokens\":1,\"finish_reason\":null}}\n\n",
    "data: {\"token\":{\"id\":3,\"text\":\"t\",\"special\":false},\"generated_text\":null}\n\n",
    "data: {\"error\":{\"message\":\"m\",\"type\":\"server_error\",\"code\":500}}\n\n",
    "data: {\"choices\":[{\"index\":1,\"text\":\"another\"}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"text\":\"x\",\"token_ids\":[4294967296]}]}\n\n",
    "error: {\"message\":\"m\"}\n\n",
    "event: error\ndata: {\"message\":\"m\"}\n\n",
    "data: [DONE]\n\n",
    "data: [DONE]",
    "data: no JSON\n\n",
    "data: {\n\n",
    "data: null\n\n",
    ": keep-alive\n\n",
    "\n",
    "{\"error\":{\"message\":\"m\"}}",
    "<html>",
    "\u{feff}",
    "id: 7\nretry: 3\n",
];

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Answer(Answer<'a>),
    /// The endpoint, the cuts, and all bytes of the response.
    Raw(u8, u16, &'a [u8]),
}

#[derive(Debug, Arbitrary)]
struct Answer<'a> {
    wire: u8,
    status: u8,
    content_type: u8,
    framing: Framing,
    cuts: u16,
    fault: Fault,
    /// The consumer ends the stream after this many items.
    leaves: Option<(u8, bool)>,
    raw_body: bool,
    body: &'a [u8],
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Framing {
    /// Chunks of at most this many bytes.
    Chunked(u8),
    Length,
    /// A length that differs from the correct length by this number of bytes.
    WrongLength(i8),
    UntilClose,
}

#[derive(Debug, Clone, Copy, PartialEq, Arbitrary)]
enum Fault {
    None,
    /// The connection closes after this many bytes of the response.
    Close(u16),
    Reset(u16),
    Silence(u16),
    /// Extra bytes follow the end.
    Garbage(u8),
}

pub(crate) fn stream(input: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(input)) else { return };
    match input {
        Input::Raw(wire, cuts, bytes) => {
            let heard = hear(WIRES[usize::from(wire) % 7], reads(bytes, cuts), None);
            heard.is_consistent(bytes);
        }
        Input::Answer(answer) => answer.is_heard(),
    }
}

impl Answer<'_> {
    fn body(&self) -> Vec<u8> {
        if self.raw_body {
            return self.body.to_vec();
        }
        let pieces = self.body.iter().map(|byte| PIECES[usize::from(*byte) % PIECES.len()].as_bytes());
        pieces.collect::<Vec<_>>().concat()
    }

    fn head(&self) -> String {
        // The first entries are the most common.
        let status =
            ["200 OK", "200 OK", "201 Created", "400 Bad Request", "404 Not Found", "429 Busy", "503 No"];
        let status = status[usize::from(self.status) % status.len()];
        let kinds = [
            "content-type: text/event-stream\r\n",
            "Content-Type: text/event-stream; charset=utf-8\r\n",
            "",
            "content-type: application/json\r\n",
            "content-type: text/html\r\n",
        ];
        format!("HTTP/1.1 {status}\r\n{}", kinds[usize::from(self.content_type) % kinds.len()])
    }

    /// Returns the whole response, and the position of its body.
    fn wire(&self, body: &[u8]) -> (Vec<u8>, usize) {
        let framing = match self.framing {
            Framing::Chunked(_) => "transfer-encoding: chunked\r\n\r\n".to_owned(),
            Framing::Length => format!("content-length: {}\r\n\r\n", body.len()),
            Framing::WrongLength(by) => {
                format!("content-length: {}\r\n\r\n", body.len().saturating_add_signed(by.into()))
            }
            Framing::UntilClose => "\r\n".to_owned(),
        };
        let mut wire = (self.head() + &framing).into_bytes();
        let begin = wire.len();
        if let Framing::Chunked(size) = self.framing {
            for chunk in body.chunks(usize::from(size) + 1) {
                wire.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend(chunk);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\n");
        } else {
            wire.extend(body);
        }
        (wire, begin)
    }

    fn is_heard(&self) {
        let body = self.body();
        let (mut wire, begin) = self.wire(&body);
        let whole = wire.len();
        let at = |at: u16| usize::from(at) % (whole + 1);
        let last = match self.fault {
            Fault::None => None,
            Fault::Close(n) => {
                wire.truncate(at(n));
                None
            }
            Fault::Reset(n) => {
                wire.truncate(at(n));
                Some(Sent::Reset)
            }
            Fault::Silence(n) => {
                wire.truncate(at(n));
                Some(Sent::Silence)
            }
            Fault::Garbage(n) => {
                wire.extend(vec![b'x'; n.into()]);
                None
            }
        };
        let mut sent = reads(&wire, self.cuts);
        sent.extend(last);
        let kind = WIRES[usize::from(self.wire) % 7];
        let heard = hear(kind, sent, self.leaves);
        heard.is_consistent(&wire);
        let report = &heard.report;
        if self.leaves.is_some() || heard.items.len() as u64 > report.tokens {
            return;
        }
        let status_ok = self.status % 7 < 3;
        let type_ok = self.content_type % 5 < 3;
        if begin > wire.len() || !status_ok || !type_ok {
            // The head is incomplete, or is not the head of a stream.
            assert!(heard.items.is_empty() && report.ending == Outcome::Failed, "{report:?} of {self:?}");
            let reason = report.error.as_ref().unwrap().kind();
            if begin <= wire.len() && !status_ok {
                assert_eq!(reason, ErrorKind::Server, "{self:?}");
            } else if begin <= wire.len() {
                assert_eq!(reason, ErrorKind::NotEventStream, "{self:?}");
            }
            return;
        }
        // Garbage is part of the body if the body lasts until the close, or if its length is too
        // large.
        let came: &[u8] = match self.framing {
            Framing::UntilClose | Framing::WrongLength(_) => &wire[begin..],
            _ => &body,
        };
        let came = &came[..came.len().min(report.bytes as usize)];
        let expected = decoded(kind, came);
        let (found, wanted) = (shown(&heard.items), shown(&expected.items));
        let is_right = found == wanted || (expected.stops && wanted.starts_with(&found));
        assert!(is_right, "{found:?}, not {wanted:?}, of {self:?}");
        // Complete means that the server sent an end.
        const SAID: [&str; 5] =
            ["[DONE]", "finish_reason\":\"", "stop\":true", "stop_type\":\"", "generated_text\":\""];
        let is_said = SAID.iter().any(|word| String::from_utf8_lossy(came).contains(word));
        // A raw body may spell the end with escapes.
        assert!(report.ending != Outcome::Complete || is_said || self.raw_body, "{report:?} of {self:?}");
        let is_complete = report.ending == Outcome::Complete;
        let may_be_cut = expected.terminator_is_unended && !is_complete;
        assert!(is_complete == expected.is_complete || may_be_cut, "{report:?} of {self:?}");
        let reached_the_end =
            came.len() == body.len() && matches!(self.framing, Framing::Chunked(_) | Framing::Length);
        if let (true, Fault::None, Some(kind)) = (reached_the_end, self.fault, expected.error) {
            assert_eq!(report.error.as_ref().unwrap().kind(), kind, "{self:?}");
        }
        if let (Fault::Silence(_), Some(error)) = (self.fault, &report.error) {
            if error.kind() == ErrorKind::Timeout(Timer::Chunk) {
                // The first piece of a call, which is not delivered yet, also starts the response.
                let has_begun = String::from_utf8_lossy(came).contains("tool_calls");
                assert!(!heard.items.is_empty() || has_begun || self.raw_body, "{self:?}");
            }
        }
    }
}

/// Splits the bytes into reads of random lengths, up to `cuts % 251 + 1` bytes.
fn reads(bytes: &[u8], cuts: u16) -> Vec<Sent> {
    let mut random = u64::from(cuts) | 1 << 32;
    let longest = u64::from(cuts % 251) + 1;
    let (mut sent, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Every fourth read is long, so that a large body does not take a thousand reads.
        let len = if random & 0x300 == 0 { 4000 } else { (random % longest) as usize + 1 };
        let (read, after) = rest.split_at(len.min(rest.len()));
        sent.push(Sent::bytes(read));
        rest = after;
    }
    sent
}

// ---- the client ----

struct Heard {
    items: Vec<StreamToken>,
    last: Option<StreamToken>,
    report: StreamReport,
}

/// Streams a response with these reads and returns what the client received. With `leaves`, the
/// consumer ends the stream after this many items, through the guard or by dropping the receiver.
fn hear(wire: Endpoint, sent: Vec<Sent>, leaves: Option<(u8, bool)>) -> Heard {
    // Share one client per endpoint, because each client has threads that live for a while. The
    // server is set, so the client learns nothing from one response to the next.
    static CLIENTS: OnceLock<(InMemory, Vec<ApiClient>)> = OnceLock::new();
    // Tests of one program run at the same time.
    static IN_USE: Mutex<()> = Mutex::new(());
    let _in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    let (server, clients) = CLIENTS.get_or_init(|| {
        let server = InMemory::default();
        let mut retry = RetryPolicy::default();
        (retry.max_retries, retry.max_stale_retries, retry.budget) = (0, 0, 0);
        let builder = ApiClient::builder("http://127.0.0.1").in_memory(&server).retry(retry);
        let client = |wire| builder.clone().endpoint(wire).server(ServerKind::Vllm).build().unwrap();
        let clients = WIRES.into_iter().map(client).collect();
        (server, clients)
    });
    server.restart([sent]);
    let client = &clients[WIRES.iter().position(|known| *known == wire).unwrap()];
    let request = match wire {
        Endpoint::Chat => CompletionRequest::messages([Message::user("Hi")]),
        Endpoint::Tgi => CompletionRequest::text("Hi"),
        _ => CompletionRequest::ids([1, 2]),
    };
    let (tokens, guard) = client.stream(request).unwrap();
    let (mut items, mut last) = (Vec::new(), None);
    loop {
        if let Some((count, by_guard)) = leaves.filter(|(count, _)| items.len() == usize::from(*count)) {
            if by_guard {
                guard.cancel();
            }
            if !by_guard || count % 2 == 0 {
                break;
            }
        }
        match tokens.recv_timeout(LONG) {
            Ok(item) => {
                assert!(last.is_none(), "{item:?} follows {last:?}");
                match item {
                    StreamToken::Done { .. } | StreamToken::Error(_) => last = Some(item),
                    item => items.push(item),
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("the stream hangs after {items:?}"),
        }
        // The items that are already in the channel still arrive. The guard has ended the stream
        // only once.
        if leaves.is_some_and(|(count, _)| items.len() > usize::from(count)) && last.is_some() {
            break;
        }
    }
    let left = leaves.is_some_and(|(_, by_guard)| !by_guard);
    if left {
        drop(tokens);
    }
    Heard { items, last, report: guard.join() }
}

impl Heard {
    /// Checks the properties that every response must have.
    fn is_consistent(&self, sent: &[u8]) {
        let Self { items, last, report } = self;
        let told = || format!("{report:?} after {items:?} and {last:?} of {}", sent.escape_ascii());
        assert!(report.bytes <= sent.len() as u64, "{}", told());
        assert!(report.tokens >= items.len() as u64 || report.ending != Outcome::Complete, "{}", told());
        match last {
            Some(StreamToken::Done { usage, finish, .. }) => {
                assert_eq!(
                    (report.ending, &report.usage, &report.finish),
                    (Outcome::Complete, usage, finish)
                );
                assert!(report.error.is_none() && report.tokens == items.len() as u64, "{}", told());
            }
            Some(StreamToken::Error(error)) => {
                assert_eq!(report.ending, Outcome::Failed, "{}", told());
                assert_eq!(report.error.as_ref().map(|error| error.kind()), Some(error.kind()), "{}", told());
                assert_eq!(report.tokens, items.len() as u64, "{}", told());
                let progress = error.progress().unwrap_or_else(|| panic!("no progress: {}", told()));
                let counts = (progress.tokens, progress.bytes, progress.events);
                assert_eq!(counts, (report.tokens, report.bytes, report.events), "{}", told());
                assert!(!error.message().contains("panicked"), "{}", told());
                let odd = matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported);
                assert!(!odd && !error.is_cancelled(), "{}", told());
            }
            Some(other) => panic!("{other:?} is not the end of a stream"),
            // The consumer has left, or the guard has ended the stream.
            None => {}
        }
        if report.ids_exact.is_exact() && report.ending == Outcome::Complete && last.is_some() {
            let without = |item: &StreamToken| {
                matches!(item, StreamToken::Token { id: None, .. } | StreamToken::Reasoning { id: None, .. })
            };
            // If a chunk has several ids, its text is with the first id. No text is without an id.
            assert!(!items.iter().any(without), "{}", told());
        }
    }
}

// ---- the reference ----

fn shown(items: &[StreamToken]) -> Vec<String> {
    items.iter().map(|item| format!("{item:?}")).collect()
}

struct Decoded {
    items: Vec<StreamToken>,
    is_complete: bool,
    /// An error line that is not an event may have ended the stream earlier.
    stops: bool,
    error: Option<ErrorKind>,
    /// The terminator has no blank line after it. Such a terminator counts at the end of a body. It
    /// does not count if the connection broke after it.
    terminator_is_unended: bool,
}

/// Decodes these bytes of a body. The slow parser produces the items. A decoder that gets the whole
/// body at once produces the outcome.
fn decoded(wire: Endpoint, body: &[u8]) -> Decoded {
    let mut whole = BodyDecoder::new(wire);
    whole.feed(body);
    let result = loop {
        match whole.decode_event(&mut |_, _| {}) {
            Ok(Step::Event) => {}
            Ok(Step::More | Step::Ended) => break whole.finish().map(|_| ()),
            Err(error) => break Err(error),
        }
    };
    let events = reference_sse::parse(body, 32 << 20);
    let mut decoder = ChunkDecoder::new(wire);
    let mut items = Vec::new();
    let is_other = body.trim_ascii_start().first().is_some_and(|byte| matches!(byte, b'{' | b'<'));
    for (event, data, ..) in events.events.iter().filter(|_| !is_other) {
        match decoder.decode(event, data, &mut |_, item| items.push(item)) {
            Ok(Flow::More) => {}
            Ok(Flow::Ended) | Err(_) => break,
        }
    }
    let error = result.err().map(|error| error.kind());
    let terminator_is_unended = events.unended_data.is_some_and(|data| data.trim() == "[DONE]");
    Decoded {
        items,
        is_complete: error.is_none(),
        stops: events.stray.is_some(),
        error,
        terminator_is_unended,
    }
}
