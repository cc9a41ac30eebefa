//! The event parsers. Each counts the events and the bytes of their data in a body that arrives in
//! reads of one size.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use tokenwire::SseParser;

use crate::measure::{best, has_valgrind, instructions, per_one};
use crate::server::{data, word};
use crate::{Effort, Result};

/// The number of events, and the number of bytes of their data.
type Counted = (usize, usize);
type Parser = fn(&[u8], usize) -> Counted;

const PARSERS: &[(&str, Parser)] = &[
    ("limit: one memchr pass", memchr_pass),
    ("**tokenwire**", tokenwire),
    ("sse-core", sse_core),
    ("sse-stream", sse_stream),
    ("sseer", sseer),
    ("eventsource-stream", eventsource_stream),
];

/// The number of events in the body that the parsers read.
const EVENTS: usize = 2_000;
const READS: [usize; 4] = [1, 64, 1460, 65_536];

/// Creates a body with this number of events.
fn body(events: usize) -> Vec<u8> {
    (0..events).flat_map(|n| format!("data: {}\n\n", data(n, word(n))).into_bytes()).collect()
}

fn memchr_pass(body: &[u8], read: usize) -> Counted {
    let lines: usize = body.chunks(read).map(|read| memchr::memchr_iter(b'\n', read).count()).sum();
    (lines / 2, body.len() - lines / 2 * "data: \n\n".len())
}

fn tokenwire(body: &[u8], read: usize) -> Counted {
    let (mut parser, mut counted) = (SseParser::new(), (0, 0));
    for read in body.chunks(read) {
        parser.feed(read);
        while let Ok(Some(event)) = parser.next_event() {
            counted = (counted.0 + 1, counted.1 + event.data.len());
        }
    }
    counted
}

fn sse_core(body: &[u8], read: usize) -> Counted {
    let (mut decoder, mut counted) = (sse_core::SseDecoder::new(), (0, 0));
    for mut read in body.chunks(read) {
        while let Some(event) = decoder.next(&mut read) {
            if let Ok(sse_core::SseEvent::Message(message)) = event {
                counted = (counted.0 + 1, counted.1 + message.data.len());
            }
        }
    }
    counted
}

/// Returns the reads, each as its own `Bytes`, as a client would pass them on. They are not copied.
fn reads(body: &[u8], read: usize) -> impl Iterator<Item = std::result::Result<Bytes, Infallible>> {
    let whole = Bytes::copy_from_slice(body);
    (0..body.len()).step_by(read).map(move |at| Ok(whole.slice(at..whole.len().min(at + read))))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    // There are no timers and no sockets, so the future never waits.
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn sse_stream(body: &[u8], read: usize) -> Counted {
    block_on(async {
        let mut events = sse_stream::SseByteStream::new(futures_util::stream::iter(reads(body, read)));
        let mut counted = (0, 0);
        while let Some(Ok(event)) = events.next().await {
            counted = (counted.0 + 1, counted.1 + event.data.map_or(0, |data| data.len()));
        }
        counted
    })
}

fn sseer(body: &[u8], read: usize) -> Counted {
    block_on(async {
        let stream = futures_util::stream::iter(reads(body, read));
        let mut events = sseer::EventStream::new(stream);
        let mut counted = (0, 0);
        while let Some(Ok(event)) = events.next().await {
            counted = (counted.0 + 1, counted.1 + event.data.len());
        }
        counted
    })
}

fn eventsource_stream(body: &[u8], read: usize) -> Counted {
    block_on(async {
        let mut events = futures_util::stream::iter(reads(body, read)).eventsource();
        let mut counted = (0, 0);
        while let Some(Ok(event)) = events.next().await {
            counted = (counted.0 + 1, counted.1 + event.data.len());
        }
        counted
    })
}

/// Makes a parser read the body `rounds` times.
pub fn run(parser: usize, read: usize, rounds: usize) {
    let body = body(EVENTS);
    for _ in 0..rounds {
        black_box(PARSERS[parser].1(black_box(&body), read));
    }
}

pub const INTRO: &str = "\
The event has about 300 bytes and vLLM's shape. The goals are 350 instructions in reads of 1460
bytes and 300 in reads of 65536 bytes.
";

pub fn table(out: &mut String, effort: Effort) -> Result<()> {
    let counted = has_valgrind();
    let body = body(EVENTS);
    write!(out, "| parser |")?;
    READS.iter().try_for_each(|read| write!(out, " ns, {read} B reads |"))?;
    writeln!(out, " instructions, 1460 B | instructions, 65536 B |")?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- |")?;
    for (n, (title, parse)) in PARSERS.iter().enumerate() {
        write!(out, "| {title} |")?;
        for read in READS {
            let ns = best(3 * effort.times, || {
                let began = Instant::now();
                let counted = black_box(parse(black_box(&body), read));
                if counted.0 != EVENTS {
                    return Err(format!("{title} at {read}: {counted:?}").into());
                }
                Ok(began.elapsed().as_nanos() as u64 / EVENTS as u64)
            })?;
            write!(out, " {ns} |")?;
        }
        for read in ["1460", "65536"] {
            let count = |rounds: usize| instructions(&["parser", &n.to_string(), read, &rounds.to_string()]);
            let count =
                if counted { (per_one(1, 3, count)? / EVENTS as u64).to_string() } else { "-".to_owned() };
            write!(out, " {count} |")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
