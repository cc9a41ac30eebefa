//! The property of headers, for any names and values. An accepted header arrives exactly once and
//! unchanged, and does not change the rest of the head. The builder of the client and the request
//! reject every other header. A fuzz target calls this function.

use arbitrary::{Arbitrary, Result, Unstructured};
use tokenwire::testing::{InMemory, Sent};
use tokenwire::{ApiClient, CompletionRequest, ErrorKind, RetryPolicy, Timeouts};

const ANSWER: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 14\r\n\r\ndata: [DONE]\n\n";
/// The headers that the client writes itself. The caller can set only the first of these headers,
/// for a scheme other than `Bearer`.
const OWNED: [&str; 6] =
    ["authorization", "host", "content-length", "transfer-encoding", "accept-encoding", "content-type"];
/// The other headers that the client may add to a head.
const OTHERS: [&str; 2] = ["accept", "user-agent"];

#[derive(Debug, Arbitrary)]
struct Given {
    by_client: Vec<(Name, Value)>,
    by_request: Vec<(Name, Value)>,
}

#[derive(Debug)]
struct Name(String);

#[derive(Debug)]
struct Value(String);

impl<'a> Arbitrary<'a> for Name {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        const SOME: [&str; 16] = [
            "x-a",
            "X-A",
            "x-b",
            "a",
            "accept",
            "user-agent",
            "connection",
            "te",
            "cookie",
            "x-request-id",
            "traceparent",
            "Authorization",
            "HOST",
            "Content-Length",
            "transfer-encoding",
            "x-session-affinity",
        ];
        text(u, &SOME).map(Self)
    }
}

impl<'a> Arbitrary<'a> for Value {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        const SOME: [&str; 12] =
            ["", "v", " v", "a b", "close", "0", "chunked", "a\r\nx-evil: 1", "a\n", "\u{e4}", "\t", "****"];
        text(u, &SOME).map(Self)
    }
}

/// Returns one of these texts, or any other text.
fn text(u: &mut Unstructured<'_>, some: &[&str]) -> Result<String> {
    Ok(match some.get(usize::from(u.arbitrary::<u8>()?) % (some.len() + 4)) {
        Some(known) => (*known).to_owned(),
        None => u.arbitrary()?,
    })
}

pub(crate) fn header(input: &[u8]) {
    let Ok(given) = Given::arbitrary_take_rest(Unstructured::new(input)) else { return };
    for (Name(name), Value(value)) in given.by_client.iter().chain(&given.by_request) {
        let request = CompletionRequest::ids([1]).header(name, value).validate();
        assert_eq!(request.is_ok(), may_stand(name, value) && !is_owned(name), "{name:?} {value:?}");
        let client = ApiClient::builder("http://127.0.0.1").header(name, value).build();
        // A client trims its values, which may come from files and variables with line ends. It
        // also accepts another scheme than Bearer.
        let own_scheme = name.eq_ignore_ascii_case(OWNED[0]);
        let good = may_stand(name, value.trim()) && (own_scheme || !is_owned(name));
        assert_eq!(client.is_ok(), good, "{name:?} {value:?}");
        for error in [request.err(), client.err()].into_iter().flatten() {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }
    arrives(&given);
}

/// Checks a header by RFC 9110, 5.1 and 5.5, without `obs-text`.
fn may_stand(name: &str, value: &str) -> bool {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !name.is_empty()
        && name.chars().all(is_token)
        && value.trim() == value
        && value.chars().all(|c| (' '..='~').contains(&c))
}

fn is_owned(name: &str) -> bool {
    OWNED.iter().any(|owned| owned.eq_ignore_ascii_case(name))
}

/// Sends the valid headers and checks what the server receives.
fn arrives(given: &Given) {
    let good = |(Name(name), Value(value)): &&(Name, Value)| may_stand(name, value) && !is_owned(name);
    // `Expect: 100-continue` has its own protocol.
    let plain = |(Name(name), _): &&(Name, Value)| !name.eq_ignore_ascii_case("expect");
    let by_client: Vec<_> = given.by_client.iter().filter(good).filter(plain).collect();
    let by_request: Vec<_> = given.by_request.iter().filter(good).filter(plain).collect();

    let server = InMemory::new([vec![Sent::bytes(ANSWER)]]);
    let mut retry = RetryPolicy::default();
    (retry.max_retries, retry.max_stale_retries) = (0, 0);
    // Without timers for writing, the client starts no thread to watch a write. Such a thread would
    // outlive the client.
    let mut timeouts = Timeouts::default();
    (timeouts.first_token, timeouts.write) = (None, None);
    let mut client =
        ApiClient::builder("http://127.0.0.1").in_memory(&server).retry(retry).timeouts(timeouts);
    client = client.api_key("key");
    client = by_client.iter().fold(client, |client, (name, value)| client.header(&name.0, &value.0));
    let request = CompletionRequest::ids([1]);
    let request = by_request.iter().fold(request, |request, (name, value)| request.header(&name.0, &value.0));
    let (tokens, guard) = client.build().unwrap().stream(request).unwrap();
    let report = guard.join();
    drop(tokens);
    assert!(report.error.is_none(), "{report:?} of {given:?}");

    let received = server.received();
    let [sent] = &received[..] else { panic!("{} requests instead of one", received.len()) };
    let end = sent.windows(4).position(|four| four == b"\r\n\r\n").expect("the head has an end");
    let head = std::str::from_utf8(&sent[..end]).expect("a head is ASCII");
    let body = &sent[end + 4..];
    assert!(!head.replace("\r\n", "").contains(['\r', '\n', '\0']), "{head:?}");
    let mut lines = head.split("\r\n");
    assert_eq!(lines.next(), Some("POST /v1/completions HTTP/1.1"));
    let lines: Vec<(String, &str)> = lines
        .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line:?} in {head:?}")))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let values = |name: &str| -> Vec<&str> {
        lines.iter().filter(|line| line.0.eq_ignore_ascii_case(name)).map(|line| line.1).collect()
    };
    assert_eq!(values("content-length"), [body.len().to_string()], "{head:?}");
    assert_eq!(values("authorization"), ["Bearer key"], "{head:?}");
    assert_eq!((values("host"), values("transfer-encoding").len()), (vec!["127.0.0.1"], 0), "{head:?}");
    assert!(serde_json::from_slice::<serde_json::Value>(body).is_ok());
    for (name, _) in &lines {
        let asked = by_client.iter().chain(&by_request).any(|given| given.0.0.eq_ignore_ascii_case(name));
        assert!(asked || is_owned(name) || OTHERS.contains(&&**name), "{name} was not given: {head:?}");
    }
    // A header of the request replaces the client's header of the same name, and occurs once. The
    // client's headers may repeat, because HTTP allows lists.
    for (Name(name), _) in by_client.iter().chain(&by_request) {
        let of = |list: &[&(Name, Value)]| -> Vec<String> {
            let same = list.iter().filter(|given| given.0.0.eq_ignore_ascii_case(name));
            same.map(|given| given.1.0.clone()).collect()
        };
        let (clients, own) = (of(&by_client), of(&by_request));
        let expected = own.last().map_or(clients, |last| vec![last.clone()]);
        assert_eq!(values(name), expected, "{name} in {head:?} of {given:?}");
    }
}
