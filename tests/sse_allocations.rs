//! Tests that a parser in use allocates nothing for an event, and only the text for a token. They
//! are in a separate program because `allocation_counter` replaces the allocator of the whole
//! program.

#[path = "../benches/common/mod.rs"]
mod streams;

use tokenwire::{BodyDecoder, SseParser, Step};

/// One event of each kind that takes another path through the parser.
const BODY: &str = concat!(
    "data: {\"choices\":[{\"index\":0,\"text\":\" a\",\"token_ids\":[64]}]}\n\n",
    "event: delta\r\ndata: one\r\ndata: two\r\nid: 17\r\nretry: 3\r\n\r\n",
    ": keep-alive\n\n",
    "id: 18\n\n",
    "unknown: field\n",
    "data\rdata\r\r",
    "data: \u{20ac}\u{1f600}\n\n",
);

#[test]
fn a_parser_in_use_allocates_nothing() {
    let mut body = BODY.repeat(40).into_bytes();
    body.extend_from_slice(b"data: \xff\xe2\x82\n\n"); // UTF-8 to mend.
    for read_bytes in [1, 7, 64, 1460, 16384, 65536] {
        let mut parser = SseParser::new();
        let mut events = 0;
        let mut pass = || {
            for read in body.chunks(read_bytes) {
                parser.feed(read);
                while parser.next_event().unwrap().is_some() {
                    events += 1;
                }
                parser.space(read_bytes);
            }
        };
        pass();
        pass();
        let counted = allocation_counter::measure(|| (0..10).for_each(|_| pass()));
        assert_eq!(counted.count_total, 0, "reads of {read_bytes} bytes");
        assert_eq!(events, 12 * (40 * 4 + 1));
    }
}

#[test]
fn a_token_takes_one_allocation() {
    for name in streams::STREAMS {
        let stream = streams::stream(name);
        let body = stream.body();
        // Without a template, text with escapes is first built in a buffer, and again if its event
        // was cut.
        let escaped = stream.events.iter().filter(|event| event.contains('\\')).count();
        for (learning, more) in [(true, escaped), (false, 3 * escaped)] {
            let mut decoder = BodyDecoder::new(stream.wire).learning(learning);
            let mut tokens = 0;
            let mut pass = || {
                for read in body.chunks(1460) {
                    decoder.feed(read);
                    while decoder.decode_event(&mut |_, _| tokens += 1).unwrap() == Step::Event {}
                }
            };
            (0..3).for_each(|_| pass());
            let counted = allocation_counter::measure(pass);
            assert!(more < 30, "{more}");
            let most = (stream.events.len() + more) as u64;
            assert!(counted.count_total <= most, "{name}, {learning}: {} of {most}", counted.count_total);
            assert_eq!(tokens, 4 * stream.events.len());
        }
    }
}
