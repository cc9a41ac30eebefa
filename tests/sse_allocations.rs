//! Nothing is allocated for an event once the parser is warm. In a program of its own: `allocation_counter`
//! replaces the allocator of the whole program.

use tokenwire::SseParser;

/// One of each kind that takes another way through the parser.
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
fn a_warm_parser_allocates_nothing() {
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
