//! Measures the parsing of bytes to events, at typical read sizes.
//!
//! ```sh
//! cargo bench --bench sse
//! ```
//!
//! The events come from vLLM's `/v1/completions` stream (see `common`). The naive version
//! (`BufRead::lines`) and the lower limit (only a search for line ends) read the same bytes.
//! Compare the ratios, because they stay the same on another machine.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::sync::LazyLock;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use tokenwire::SseParser;

const READ_BYTES: [usize; 5] = [1, 64, 1460, 16384, 65536];
static STREAM: LazyLock<common::Stream> = LazyLock::new(common::vllm);
static BODY: LazyLock<Vec<u8>> = LazyLock::new(|| STREAM.body().repeat(20));

/// The result of every version except the limit: the number of events and the bytes of their data.
static ANSWER: LazyLock<(usize, usize)> = LazyLock::new(|| {
    let events = 20 * STREAM.events.len();
    (events, BODY.len() - events * "data: \n\n".len())
});

fn main() {
    divan::main();
}

#[divan::bench(args = READ_BYTES)]
fn feed(bencher: Bencher<'_, '_>, read_bytes: usize) {
    let mut parser = SseParser::new();
    bencher.counter(BytesCount::of_slice(&**BODY)).bench_local(|| {
        let mut answer = (0, 0);
        for read in BODY.chunks(read_bytes) {
            parser.feed(read);
            while let Some(event) = parser.next_event().unwrap() {
                answer = (answer.0 + 1, answer.1 + black_box(event.data).len());
            }
        }
        assert_eq!(answer, *ANSWER);
    });
}

#[divan::bench(args = READ_BYTES)]
fn space_and_filled(bencher: Bencher<'_, '_>, read_bytes: usize) {
    let mut parser = SseParser::new();
    bencher.counter(BytesCount::of_slice(&**BODY)).bench_local(|| {
        let mut answer = (0, 0);
        let mut reads = Reads { rest: &BODY, read_bytes };
        loop {
            let len = reads.read(parser.space(read_bytes)).unwrap();
            if len == 0 {
                break;
            }
            parser.filled(len);
            while let Some(event) = parser.next_event().unwrap() {
                answer = (answer.0 + 1, answer.1 + black_box(event.data).len());
            }
        }
        assert_eq!(answer, *ANSWER);
    });
}

#[divan::bench(args = READ_BYTES)]
fn naive_lines(bencher: Bencher<'_, '_>, read_bytes: usize) {
    bencher.counter(BytesCount::of_slice(&**BODY)).bench_local(|| {
        let mut answer = (0, 0);
        for line in BufReader::with_capacity(read_bytes, Reads { rest: &BODY, read_bytes }).lines() {
            if let Some(data) = line.unwrap().strip_prefix("data: ") {
                answer = (answer.0 + 1, answer.1 + black_box(data).len());
            }
        }
        assert_eq!(answer, *ANSWER);
    });
}

#[divan::bench(args = READ_BYTES)]
fn limit_memchr(bencher: Bencher<'_, '_>, read_bytes: usize) {
    bencher.counter(BytesCount::of_slice(&**BODY)).bench_local(|| {
        let lines: usize = BODY.chunks(read_bytes).map(|read| memchr::memchr_iter(b'\n', read).count()).sum();
        assert_eq!(lines, 2 * ANSWER.0);
    });
}

/// A body that arrives in reads of one size.
struct Reads<'a> {
    rest: &'a [u8],
    read_bytes: usize,
}

impl Read for Reads<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = self.read_bytes.min(buf.len()).min(self.rest.len());
        let (read, rest) = self.rest.split_at(len);
        buf[..len].copy_from_slice(read);
        self.rest = rest;
        Ok(len)
    }
}
