//! Recorded responses taken apart without the crate's own parser: status, headers, de-chunked body, events.
//! Slow and simple on purpose; good enough for what the recorded servers send (LF line ends, one data line).

use std::path::{Path, PathBuf};

use tokenwire::{ChunkDecoder, Completion, Error, Flow, TokenId};

/// The folder of recordings: `TOKENWIRE_FIXTURES`, else beside the folder of cases.
pub fn fixtures(server: &str) -> PathBuf {
    let folder = match (std::env::var_os("TOKENWIRE_FIXTURES"), std::env::var_os("TOKENWIRE_CASES")) {
        (Some(fixtures), _) => PathBuf::from(fixtures),
        (None, Some(cases)) => PathBuf::from(cases).join("../fixtures"),
        (None, None) => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"),
    };
    let folder = folder.join(server);
    assert!(folder.is_dir(), "no recordings at {}", folder.display());
    folder
}

/// A response as it was on the wire.
pub struct Response {
    pub status: u16,
    pub content_type: String,
    /// Without the chunked framing.
    pub body: Vec<u8>,
    /// The framing came to its end.
    pub complete: bool,
}

impl Response {
    pub fn read(path: &Path) -> Self {
        let raw = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let at = find(&raw, b"\r\n\r\n").expect("a blank line after the headers");
        let head = String::from_utf8(raw[..at].to_vec()).unwrap();
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
        };
        let rest = &raw[at + 4..];
        let (body, complete) = match header("transfer-encoding") {
            Some(_) => unchunk(rest),
            None => (rest.to_vec(), true),
        };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, content_type: header("content-type").unwrap_or_default(), body, complete }
    }

    pub fn is_event_stream(&self) -> bool {
        self.status == 200 && self.content_type.starts_with("text/event-stream")
    }
}

fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(at) = find(rest, b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        body.extend_from_slice(&rest[at + 2..at + 2 + size]);
        rest = &rest[at + 2 + size + 2..];
    }
    (body, false)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// What a body decoded to.
#[derive(Debug)]
pub struct Decoded {
    /// What stood between blank lines, comments among them.
    pub events: usize,
    pub tokens: Vec<(u32, String, Option<TokenId>)>,
    pub end: Result<Completion, Error>,
    pub decoder: ChunkDecoder,
}

impl Decoded {
    pub fn ids(&self) -> Vec<TokenId> {
        self.tokens.iter().filter_map(|(_, _, id)| *id).collect()
    }

    pub fn text(&self) -> String {
        self.tokens.iter().map(|(_, text, _)| text.as_str()).collect()
    }

    /// Everything that must not depend on the cuts.
    pub fn summary(&self) -> String {
        let end = self.end.as_ref().map_err(ToString::to_string);
        format!("{:?} {end:?} {:?} {}", self.tokens, self.decoder.ids_exact(), self.decoder.skipped())
    }
}

/// Decodes a body that comes in pieces, cut at the given offsets.
pub fn decode(body: &[u8], cuts: &[usize], mut decoder: ChunkDecoder) -> Decoded {
    let mut tokens = Vec::new();
    let mut events = 0;
    let mut result = Ok(Flow::More);
    let mut held = Vec::new();
    let mut from = 0;
    for cut in cuts.iter().copied().chain([body.len()]) {
        held.extend_from_slice(&body[from..cut]);
        from = cut;
        while let Some(at) = find(&held, b"\n\n") {
            let block: Vec<u8> = held.drain(..at + 2).collect();
            let block = String::from_utf8(block).unwrap();
            events += usize::from(!block.trim().is_empty());
            let field = |name: &str| {
                let mut lines = block.lines().filter_map(|line| line.split_once(':'));
                lines.find(|(key, _)| *key == name).map(|(_, value)| value.strip_prefix(' ').unwrap_or(value))
            };
            if let (Some(data), Ok(Flow::More)) = (field("data"), &result) {
                let mut sink = |choice, text, id| tokens.push((choice, text, id));
                result = decoder.decode(field("event").unwrap_or("message"), data, &mut sink);
            }
        }
    }
    let end = result.and_then(|_| decoder.finish());
    Decoded { events, tokens, end, decoder }
}
