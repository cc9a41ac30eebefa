//! Tests beyond the conformance cases: limits, memory, counters, and lines that contain errors.

use super::*;
use crate::error::ErrorKind;

/// Returns the data of the events in `reads`, and whether the limit was exceeded.
fn run(reads: &[&[u8]], max_event_bytes: usize) -> (Vec<String>, bool) {
    let mut parser = SseParser::with_max_event_bytes(max_event_bytes);
    let mut data = Vec::new();
    for read in reads {
        parser.feed(read);
        loop {
            match parser.next_event() {
                Ok(Some(event)) => data.push(event.data.to_owned()),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Limit(Limit::EventBytes));
                    return (data, true);
                }
            }
        }
    }
    (data, false)
}

/// Checks the body in one read, byte by byte, and in three reads with every pair of cuts.
fn for_every_cut(body: &[u8], mut check: impl FnMut(&[&[u8]])) {
    check(&body.chunks(1).collect::<Vec<_>>());
    for i in 0..=body.len() {
        for j in i..=body.len() {
            check(&[&body[..i], &body[i..j], &body[j..]]);
        }
    }
}

#[test]
fn the_limit_does_not_depend_on_cuts() {
    // Each case: the body, the limit, the data of the events, whether the limit is exceeded.
    let cases: &[(&str, usize, &[&str], bool)] = &[
        ("data: 1234\n\ndata: 5\n\n", 10, &["1234", "5"], false),
        ("data: 1234\n\ndata: 5\n\n", 9, &[], true),
        ("data: 1\n\ndata: 1234\n\n", 9, &["1"], true),
        ("data: 1\ndata: 2\n\n", 14, &["1\n2"], false),
        ("data: 1\ndata: 2\n\n", 13, &[], true),
        ("data: 1\r\ndata: 2\r\n\r\n", 14, &["1\n2"], false),
        ("data: 1\r\ndata: 2\r\n\r\n", 13, &[], true),
        // Ignored lines count. Blocks that consist only of ignored lines count too.
        ("datum: 1\ndata: 2\n\n", 15, &["2"], false),
        ("datum: 1\ndata: 2\n\n", 14, &[], true),
        ("id: 1\n\nid: 2\n\ndata: 3\n\n", 7, &["3"], false),
        // Comments count only while they are read.
        (": 345678\n: 345678\n: 345678\ndata: 1\n\n", 8, &["1"], false),
        (": 3456789\ndata: 1\n\n", 8, &[], true),
        ("data: 1\n:9\n:9\n\n", 9, &["1"], false),
        ("data: 1\n:90\n\n", 9, &[], true),
        // The last line never ends.
        ("data: 1\n\ndata: 123", 9, &["1"], false),
        ("data: 1\n\ndata: 1234", 9, &["1"], true),
        (":23456789", 9, &[], false),
        (":234567890", 9, &[], true),
        // The byte order mark does not belong to any line.
        ("\u{feff}data: 1\n\n", 7, &["1"], false),
        ("\n\n\n", 0, &[], false),
        ("d", 0, &[], true),
    ];
    for (body, max_event_bytes, data, over) in cases {
        for_every_cut(body.as_bytes(), |reads| {
            let expected = (data.iter().map(ToString::to_string).collect(), *over);
            assert_eq!(run(reads, *max_event_bytes), expected, "{body:?} {max_event_bytes}");
        });
    }
}

#[test]
fn after_the_limit_the_error_stays_and_no_bytes_are_kept() {
    let mut parser = SseParser::with_max_event_bytes(100);
    parser.feed(&[b'x'; 1 << 20]);
    for _ in 0..3 {
        assert!(parser.next_event().is_err());
        parser.feed(b"data: 1\n\n");
        assert_eq!(parser.held_bytes(), 0);
    }
    assert!(parser.buf.capacity() <= SSE_BUFFER_KEPT_BYTES);
    assert!(parser.finish().incomplete);
    parser.feed(b"data: 1\n\n");
    assert_eq!(parser.next_event().unwrap().unwrap().data, "1");
}

#[test]
fn stray_lines_are_kept() {
    let error = |text: &str| Some(Stray::ErrorField(text.to_owned()));
    let line = |text: &str| Some(Stray::Line(text.to_owned()));
    let cases: &[(&str, Option<Stray>)] = &[
        ("error: {\"code\":500}\n\n", error("{\"code\":500}")),
        ("error:{}\n\n", error("{}")),
        ("error\n\n", error("")),
        ("data: 1\n\n{\"error\":1}\n\n", line("{\"error\":1}")),
        ("{\"error\":1}\r\n<b>\r\n", line("{\"error\":1}")),
        ("<html>\n<body>\n", line("<html>")),
        (" \t{\"a\"\n", line("{\"a\"")),
        ("x\n{\n", line("{")),
        // The end of the body ends these lines.
        ("{\"error\":1}", line("{\"error\":1}")),
        ("error: x", error("x")),
        ("\u{feff}{}", line("{}")),
        ("data: {\n\n", None),
        ("data: {", None),
        ("errors: {\n: {\nevent: {\nx: {\nretry: {\nid: <\n\n", None),
    ];
    for (body, expected) in cases {
        for_every_cut(body.as_bytes(), |reads| {
            let mut parser = SseParser::new();
            for read in reads {
                parser.feed(read);
                while parser.next_event().unwrap().is_some() {}
            }
            parser.finish();
            assert_eq!(parser.take_stray(), *expected, "{body:?}");
            assert_eq!(parser.take_stray(), None);
        });
    }
}

#[test]
fn a_stray_line_is_cut_before_a_character() {
    let mut parser = SseParser::new();
    parser.feed(b"{");
    parser.feed("\u{20ac}".repeat(30_000).as_bytes());
    parser.feed(b"\n{2}\n");
    assert_eq!(parser.next_event().unwrap(), None);
    let Some(Stray::Line(text)) = parser.take_stray() else { panic!("no line") };
    assert_eq!(text.len(), 1 + 3 * ((MAX_SSE_STRAY_BYTES - 1) / 3));
    assert!(text.ends_with('\u{20ac}'));
    // The parser keeps another stray line only after the first one was taken.
    parser.feed(b"{3}\n");
    assert_eq!(parser.next_event().unwrap(), None);
    assert_eq!(parser.take_stray(), Some(Stray::Line("{3}".to_owned())));
}

#[test]
fn a_cr_ends_its_event_at_once() {
    let mut parser = SseParser::new();
    let mut fed = |bytes: &[u8]| {
        parser.feed(bytes);
        parser.next_event().unwrap().map(|event| event.data.to_owned())
    };
    assert_eq!(fed(b"data: 1\r"), None);
    assert_eq!(fed(b"\n"), None);
    assert_eq!(fed(b"\r"), Some("1".to_owned()));
    assert_eq!(fed(b"\n"), None);
    assert_eq!(fed(b"data: 2\r\r"), Some("2".to_owned()));
    assert_eq!(fed(b"\n\ndata: 3\n\r"), Some("3".to_owned()));
    let end = parser.finish();
    assert!(!end.incomplete);
}

#[test]
fn a_byte_order_mark_is_ignored_once_and_may_be_cut() {
    for_every_cut("\u{feff}data: 1\n\n".as_bytes(), |reads| {
        assert_eq!(run(reads, 100), (vec!["1".to_owned()], false));
    });
    for_every_cut("\u{feff}\u{feff}data: 1\n\n".as_bytes(), |reads| {
        assert_eq!(run(reads, 100), (vec![], false));
    });
    for (body, incomplete) in [(&b"\xef"[..], true), (b"\xef\xbb", true), (b"\xef\xbb\xbf", false)] {
        let mut parser = SseParser::new();
        parser.feed(body);
        assert_eq!(parser.finish().incomplete, incomplete);
    }
}

#[test]
fn a_finished_parser_works_like_a_new_one() {
    let bodies: &[&str] = &[
        "id: 1\nretry: 5\nevent: x\ndata: 1\n\ndata: 2",
        "\u{feff}data: 1\n\n: c\n",
        "data: 1\r",
        "\ndata: \u{20ac}\ndata\n\n",
        "event: y\n",
        "\u{feff}",
    ];
    let mut used = SseParser::new();
    for body in bodies {
        let mut new = SseParser::new();
        for parser in [&mut new, &mut used] {
            parser.feed(body.as_bytes());
        }
        loop {
            let (a, b) = (new.next_event().unwrap(), used.next_event().unwrap());
            assert_eq!(a, b, "{body:?}");
            if a.is_none() {
                break;
            }
        }
        assert_eq!((new.lines(), new.bytes()), (used.lines(), used.bytes()));
        assert_eq!(new.finish(), used.finish(), "{body:?}");
    }
}

#[test]
fn the_end_reports_the_remaining_data() {
    // Each case: the body, `unended_data`, `incomplete`.
    let cases: &[(&str, Option<&str>, bool)] = &[
        ("data: 1\n\ndata: [DONE]\n", Some("[DONE]"), true),
        ("data: 1\n\ndata: [DONE]", Some("[DONE]"), true),
        ("data: 1\ndata: 2\ndata: 3", Some("1\n2\n3"), true),
        ("data: 1\ndata: 2\ndata: 3\n: c\n", Some("1\n2\n3"), true),
        ("data: 1\n\n", None, false),
        ("data: 1\n\nid: 1\n", None, true),
        ("retry: x\n", None, true),
        ("id: \0\n", None, true),
        (": c\nunknown\n", None, false),
        (": c", None, true),
        ("data: 1\r", Some("1"), true),
    ];
    for (body, data, incomplete) in cases {
        for_every_cut(body.as_bytes(), |reads| {
            let mut parser = SseParser::new();
            for read in reads {
                parser.feed(read);
                while parser.next_event().unwrap().is_some() {}
            }
            let end = parser.finish();
            assert_eq!((end.unended_data.as_deref(), end.incomplete), (*data, *incomplete), "{body:?}");
        });
    }
    let mut parser = SseParser::new();
    parser.feed(b"data: not taken\n\n");
    assert!(parser.finish().incomplete);
    parser.feed(&[b"data: ", &[b'x'; MAX_SSE_STRAY_BYTES + 1][..]].concat());
    assert_eq!(parser.next_event().unwrap(), None);
    assert_eq!(parser.finish().unended_data, None);
}

#[test]
fn single_data_lines_are_not_copied() {
    let mut parser = SseParser::new();
    for reads in
        [&[&b"data: 1234\n\n"[..]][..], &[b"data: 12", b"34", b"\n", b"\n"], &[b"id: 1\ndata:1234\r", b"\r"]]
    {
        for read in reads {
            parser.feed(read);
            let buffer = parser.buf.as_ptr_range();
            if let Some(event) = parser.next_event().unwrap() {
                assert_eq!(event.data, "1234");
                assert!(buffer.contains(&event.data.as_ptr()));
            }
        }
        assert_eq!(parser.held_bytes(), 0);
    }
    assert_eq!(parser.events(), 3);
}

#[test]
fn a_data_line_survives_when_the_buffer_is_moved_before_its_blank_line() {
    // The two lines have up to 12 KB of comments between them, so that a move overwrites the
    // earlier bytes.
    let data: Vec<String> = (0..100).map(|n| format!("{n}{}", "x".repeat(n * n % 2000))).collect();
    let event = |(n, data)| format!("data: {data}\n{}\n", ": c\n".repeat(n % 7 * 500));
    let body: String = data.iter().enumerate().map(event).collect();
    for read_bytes in [1, 2, 3, 7, 64, 100, 1460, 8191, 8192] {
        let reads: Vec<&[u8]> = body.as_bytes().chunks(read_bytes).collect();
        assert_eq!(run(&reads, 1 << 20), (data.clone(), false), "reads of {read_bytes}");
    }
}

#[test]
fn reading_into_the_buffer_equals_feeding() {
    let mut parser = SseParser::new();
    let mut from = &b"data: 1\n\n: c\ndata: 2\n\nda"[..];
    while let Ok(len @ 1..) = std::io::Read::read(&mut from, &mut parser.space(1)[..1]) {
        parser.filled(len);
        while parser.next_event().unwrap().is_some() {}
    }
    assert_eq!((parser.events(), parser.comments(), parser.lines(), parser.bytes()), (2, 1, 5, 24));
    assert_eq!(parser.held_bytes(), 2);

    for at_least in [0, 1, 1 << 20] {
        assert!(parser.space(at_least).len() >= at_least.max(1));
    }
    // Without a call of `filled` nothing changes. A `len` larger than the space counts as the whole
    // space.
    let before = parser.bytes();
    let space = parser.space(1).len();
    assert_eq!(parser.held_bytes(), 2);
    parser.filled(usize::MAX);
    assert_eq!(parser.bytes() - before, space as u64);
}

#[test]
fn memory_shrinks_after_a_huge_event() {
    let huge = "x".repeat(3 << 20);
    let invalid = vec![0xff_u8; 3 << 20];
    let bodies: [Vec<u8>; 6] = [
        format!("data: {huge}\n\n").into_bytes(),
        format!("data: {huge}\ndata: {huge}\n\n").into_bytes(),
        format!("event: {huge}\ndata: 1\n\n").into_bytes(),
        format!("id: {huge}\n\nid: 2\n\n").into_bytes(),
        format!(": {huge}\n\n").into_bytes(),
        [b"data: ", &invalid[..], b"\n\n"].concat(),
    ];
    for body in bodies {
        for read_bytes in [1460, 1 << 16, body.len()] {
            let mut parser = SseParser::new();
            let mut peak = 0;
            for read in body.chunks(read_bytes).chain([&b"data: 1\n\n"[..]; 3]) {
                parser.feed(read);
                while parser.next_event().unwrap().is_some() {}
                peak = peak.max(memory(&parser));
            }
            assert!(peak > huge.len());
            assert!(memory(&parser) <= 5 * SSE_BUFFER_KEPT_BYTES, "{} bytes kept", memory(&parser));
        }
    }
}

fn memory(parser: &SseParser) -> usize {
    let SseParser { buf, joined, kind, id_next, id, mended, .. } = parser;
    let texts = kind.capacity() + id_next.capacity() + id.capacity() + mended.capacity();
    buf.capacity() + joined.capacity() + texts
}

#[test]
fn the_work_is_linear_in_the_bytes() {
    let one_mib = "x".repeat(1 << 20);
    let bodies = [
        "data: {\"choices\":[]}\n\n".repeat(50_000),
        format!("data: {one_mib}\n\n"),
        format!(": {one_mib}\n\n"),
        "data: 0123456789\n".repeat(60_000) + "\n",
        "data:\n".repeat(100_000) + "\n",
        format!("data: {one_mib}\n{}\n", ": c\n".repeat(100_000)),
        "\r\n".repeat(300_000),
    ];
    for (n, body) in bodies.iter().enumerate() {
        for read_bytes in [1, 7, 1460, 1 << 16, body.len()] {
            let mut parser = SseParser::new();
            for read in body.as_bytes().chunks(read_bytes) {
                parser.feed(read);
                while parser.next_event().unwrap().is_some() {}
            }
            assert_eq!(parser.bytes(), body.len() as u64);
            assert_linear(&parser, &format!("body {n}, reads of {read_bytes}"));
        }
    }
}

#[test]
fn a_consumer_that_takes_one_event_per_read_does_linear_work() {
    let mut parser = SseParser::new();
    parser.feed("data: 1\n\n".repeat(200_000).as_bytes());
    let mut taken = 0;
    while parser.next_event().unwrap().is_some() {
        parser.feed(b"\n");
        parser.space(1 << 16);
        taken += 1;
    }
    assert_eq!(taken, 200_000);
    assert_linear(&parser, "one by one");
}

fn assert_linear(parser: &SseParser, what: &str) {
    let (examined, bytes) = (parser.examined(), parser.bytes());
    assert!(examined >= bytes - 2, "{what}: {examined} bytes examined for {bytes} bytes");
    assert!(examined <= 4 * bytes + 4096, "{what}: {examined} bytes examined for {bytes} bytes");
}
