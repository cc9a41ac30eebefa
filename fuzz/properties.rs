//! The properties that the fuzz targets check, as ordinary functions.
//!
//! `tests/fuzz_properties.rs` runs the corpus through them on a stable compiler.
//! `tests/sse_reference.rs` runs generated bodies through them.

// Each program that includes this module uses only a part of it.
#![allow(dead_code, unused_imports)]

#[path = "../tests/common/chunk_property.rs"]
pub(crate) mod chunk_property;
#[path = "../tests/common/header_property.rs"]
pub(crate) mod header_property;
#[path = "../tests/common/parse_property.rs"]
pub(crate) mod parse_property;
#[path = "../tests/common/prompt_property.rs"]
pub(crate) mod prompt_property;
#[path = "../tests/common/reference_sse.rs"]
pub(crate) mod reference_sse;
#[path = "../tests/common/request_property.rs"]
pub(crate) mod request_property;
#[path = "../tests/common/retry_after_property.rs"]
pub(crate) mod retry_after_property;
#[path = "../tests/common/saved_property.rs"]
pub(crate) mod saved_property;
#[path = "../tests/common/stream_property.rs"]
pub(crate) mod stream_property;

pub(crate) use chunk_property::chunk;
pub(crate) use header_property::header;
pub(crate) use parse_property::parse;
pub(crate) use prompt_property::prompt;
use reference_sse::Outcome;
pub(crate) use request_property::request;
pub(crate) use retry_after_property::retry_after;
pub(crate) use saved_property::saved;
pub(crate) use stream_property::stream;
use tokenwire::{ErrorKind, Limit, SseParser, Stray};

/// Fragments of event streams. In structured mode, each input byte selects one. The fuzzer then
/// spends little time on the spelling of `data:` and more on the order of lines, their ends and the
/// cuts.
pub(crate) const FRAGMENTS: &[&[u8]] = &[
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\r\r",
    b"\r\n\r\n",
    b":",
    b" ",
    b"  ",
    b"data",
    b"data:",
    b"data: ",
    b"data: x\n\n",
    b"data: {\"choices\":[{\"text\":\" a\",\"token_ids\":[64]}]}\n\n",
    b"data: [DONE]\n\n",
    b"data: [DONE]",
    b"datax: 1\n",
    b"data\n",
    b"event: ",
    b"event",
    b"event: error\n",
    b"event:\n",
    b"id: ",
    b"id",
    b"id: 7\n",
    b"id:\n",
    b"retry: ",
    b"retry: 15\n",
    b"retry: 18446744073709551616\n",
    b"retry: +1\n",
    b"0",
    b"12",
    b"\0",
    b": keep-alive\n\n",
    b":\n",
    b"error: {\"message\":\"m\"}\n",
    b"error",
    b"{\"error\":1}",
    b" {\"a\"\n",
    b"<html>",
    b"\xef\xbb\xbf",
    b"\xef\xbb",
    b"\xef",
    b"\xbf",
    b"\xe2\x82\xac",
    b"\xe2\x82",
    b"\xf0\x9f\x98\x80",
    b"\xf0\x9f",
    b"\xff",
    b"\x80",
    b"a",
    b"xyz",
    b"D",
    b"\t",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    // This fragment makes bodies that are larger than the parser's first buffer.
    &[b'x'; 3000],
];

/// Checks that any cuts of a body give the same events as the reference parser does for the whole
/// body. The parser also never holds more than the limit and the last read, and its work is linear.
///
/// The lowest bit of the first byte selects the mode: the body consists of raw bytes, or of
/// fragments that the bytes select. The other bits select the limit. The next two bytes select the
/// cuts.
pub(crate) fn sse(input: &[u8]) {
    let Some(([mode, seed @ ..], rest)) = input.split_first_chunk::<3>() else { return };
    let body = if mode & 1 == 0 {
        rest.to_vec()
    } else {
        rest.iter().flat_map(|b| FRAGMENTS[usize::from(*b) % FRAGMENTS.len()]).copied().collect()
    };
    let max_event_bytes = match mode >> 1 {
        0..64 => 1 << 20,
        small => usize::from(small - 64) * 2,
    };
    sse_is_right_at_any_cut(&body, u16::from_le_bytes(*seed), max_event_bytes);
}

/// Checks one body with one set of cuts. The random reads are 1 to `seed % 97 + 1` bytes long.
pub(crate) fn sse_is_right_at_any_cut(body: &[u8], seed: u16, max_event_bytes: usize) {
    let expected = reference_sse::parse(body, max_event_bytes);
    let mut random = u64::from(seed) | 1 << 32;
    let max_read_bytes = u64::from(seed % 97) + 1;
    let mut cuts = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % max_read_bytes) as usize + 1
    };
    for outcome in [
        run(body, || body.len().max(1), max_event_bytes),
        run(body, || 1, max_event_bytes),
        run(body, &mut cuts, max_event_bytes),
    ] {
        assert_eq!(outcome, expected, "limit {max_event_bytes}, cuts {seed}, body {:?}", body.escape_ascii());
    }
}

/// Parses a body with `SseParser`, in reads of the lengths that `cuts` returns.
pub(crate) fn run(body: &[u8], mut cuts: impl FnMut() -> usize, max_event_bytes: usize) -> Outcome {
    let mut parser = SseParser::with_max_event_bytes(max_event_bytes);
    let mut out = Outcome::default();
    let mut rest = body;
    let mut by_space = false;
    while !rest.is_empty() && !out.over {
        let (read, after) = rest.split_at(cuts().min(rest.len()));
        rest = after;
        // Alternate between the two ways to pass bytes.
        if by_space {
            parser.space(read.len())[..read.len()].copy_from_slice(read);
            parser.filled(read.len());
        } else {
            parser.feed(read);
        }
        by_space = !by_space;
        // The parser also holds a partial byte order mark.
        assert!(parser.held_bytes() <= max_event_bytes + read.len() + 3);
        take_events(&mut parser, &mut out);
        assert!(parser.held_bytes() <= max_event_bytes.max(2), "{} held", parser.held_bytes());
    }
    assert!(parser.examined() <= 4 * parser.bytes() + 64, "{} of {}", parser.examined(), parser.bytes());
    assert_eq!(parser.events(), out.events.len() as u64);

    let end = parser.finish();
    out.stray = parser.take_stray().map(|stray| match stray {
        Stray::ErrorField(text) => ("error", text),
        Stray::Line(text) => ("line", text),
        _ => unreachable!("add the new kind of stray line here"),
    });
    out.incomplete = end.incomplete;
    if !out.over {
        out.last_event_id = end.last_event_id;
        out.retry = end.retry;
        out.comments = end.comments;
        out.unended_data = end.unended_data;
    }
    out
}

fn take_events(parser: &mut SseParser, out: &mut Outcome) {
    loop {
        match parser.next_event() {
            Ok(Some(event)) => {
                out.events.push((event.event.into(), event.data.into(), event.id.into(), event.retry));
            }
            Ok(None) => return,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Limit(Limit::EventBytes));
                assert!(parser.next_event().is_err(), "an error is permanent");
                out.over = true;
                return;
            }
        }
    }
}
