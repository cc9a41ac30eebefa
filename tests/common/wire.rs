//! Reads recorded responses, and decodes bodies as a stream does: reads to events to tokens.

use std::path::Path;

use tokenwire::recording::BodyState;
use tokenwire::{ChunkDecoder, Completion, Error, Flow, SseParser, StreamToken, TokenId};

use super::fixture;

/// The parts of a recorded response that the tests use.
pub struct Response {
    pub status: u16,
    pub content_type: String,
    /// The body without the framing.
    pub body: Vec<u8>,
    /// True if the framing reached its end.
    pub complete: bool,
}

impl Response {
    pub fn read(path: &Path) -> Self {
        let recording = fixture::load(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let headers = recording.response_headers();
        let kind = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let body = recording.response_body();
        Self {
            status: recording.status().unwrap(),
            content_type: kind.map(|(_, value)| value.clone()).unwrap_or_default(),
            complete: body.state == BodyState::Complete,
            body: body.bytes,
        }
    }

    pub fn is_event_stream(&self) -> bool {
        self.status == 200 && self.content_type.starts_with("text/event-stream")
    }
}

/// The result of decoding a body.
#[derive(Debug)]
pub struct Decoded {
    /// The number of events and comments.
    pub events: usize,
    /// The decoded items, each with its choice.
    pub items: Vec<(u32, StreamToken)>,
    pub end: Result<Completion, Error>,
    pub decoder: ChunkDecoder,
}

impl Decoded {
    pub fn ids(&self) -> Vec<TokenId> {
        self.tokens().filter_map(|(_, id)| id).collect()
    }

    pub fn text(&self) -> String {
        self.tokens().map(|(text, _)| text).collect()
    }

    /// Returns the tokens of reasoning and of content.
    fn tokens(&self) -> impl Iterator<Item = (&str, Option<TokenId>)> {
        self.items.iter().filter_map(|(_, item)| match item {
            StreamToken::Token { text, id } | StreamToken::Reasoning { text, id } => {
                Some((text.as_str(), *id))
            }
            _ => None,
        })
    }

    /// Returns everything that must not depend on the cuts.
    pub fn summary(&self) -> String {
        let end = self.end.as_ref().map_err(ToString::to_string);
        format!("{:?} {end:?} {:?} {}", self.items, self.decoder.ids_exact(), self.decoder.skipped())
    }
}

/// Decodes a body that arrives in reads, cut at the given offsets.
pub fn decode(body: &[u8], cuts: &[usize], mut decoder: ChunkDecoder) -> Decoded {
    let mut items = Vec::new();
    let mut parser = SseParser::new();
    let mut result = Ok(Flow::More);
    let mut from = 0;
    for cut in cuts.iter().copied().chain([body.len()]) {
        parser.feed(&body[from..cut]);
        from = cut;
        while let Some(event) = parser.next_event().unwrap() {
            if let Ok(Flow::More) = &result {
                let mut sink = |choice, item| items.push((choice, item));
                result = decoder.decode(event.event, event.data, &mut sink);
            }
        }
    }
    let events = parser.events() + parser.finish().comments;
    let end = result.and_then(|_| decoder.finish());
    Decoded { events: events as usize, items, end, decoder }
}
