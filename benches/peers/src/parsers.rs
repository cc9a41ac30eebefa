//! The event parsers: each counts the events and the bytes of their data in a body that comes in reads of one size.

use std::convert::Infallible;

use bytes::Bytes;
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use tokenwire::SseParser;

use crate::server::{data, word};

/// Events and bytes of data.
pub type Counted = (usize, usize);
pub type Parser = fn(&[u8], usize) -> Counted;

pub const PARSERS: &[(&str, Parser)] = &[
    ("limit: one memchr pass", memchr_pass),
    ("**tokenwire**", tokenwire),
    ("sse-core", sse_core),
    ("sse-stream", sse_stream),
    ("sseer", sseer),
    ("eventsource-stream", eventsource_stream),
];

/// A body of so many events.
pub fn body(events: usize) -> Vec<u8> {
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

/// The reads, each a `Bytes` of its own, as a client hands them on; made without copying.
fn reads(body: &[u8], read: usize) -> impl Iterator<Item = Result<Bytes, Infallible>> {
    let whole = Bytes::copy_from_slice(body);
    (0..body.len()).step_by(read).map(move |at| Ok(whole.slice(at..whole.len().min(at + read))))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    // No timers, no sockets.
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
