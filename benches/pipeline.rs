//! Measures the decoding of a body to tokens, at typical read sizes.
//!
//! ```sh
//! cargo bench --bench pipeline
//! ```
//!
//! - `body_decoder`: the event parser and the chunk decoder together
//! - `naive_lines_and_value`: a naive version with `BufRead::lines` and `serde_json::Value`
//! - `limit_memchr`: the lower limit, one search for line ends

mod common;

use std::io::BufRead;

use common::vllm;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use serde_json::Value;
use tokenwire::{BodyDecoder, Step, StreamToken};

const READ_BYTES: [usize; 4] = [1, 64, 1460, 16384];

fn main() {
    divan::main();
}

#[divan::bench(args = READ_BYTES)]
fn body_decoder(bencher: Bencher<'_, '_>, read_bytes: usize) {
    let stream = vllm();
    let body = stream.body();
    let mut decoder = BodyDecoder::new(stream.wire);
    let bencher = bencher.counter(BytesCount::of_slice(&body)).counter(ItemsCount::new(stream.events.len()));
    bencher.bench_local(|| {
        let mut ids = 0;
        let mut sink = |_, token| ids += usize::from(matches!(token, StreamToken::Token { id: Some(_), .. }));
        for read in body.chunks(read_bytes) {
            decoder.feed(read);
            while decoder.decode_event(&mut sink).unwrap() == Step::Event {}
        }
        assert_eq!(ids, stream.events.len());
    });
}

#[divan::bench]
fn naive_lines_and_value(bencher: Bencher<'_, '_>) {
    let stream = vllm();
    let body = stream.body();
    let bencher = bencher.counter(BytesCount::of_slice(&body)).counter(ItemsCount::new(stream.events.len()));
    bencher.bench_local(|| {
        let mut ids = 0;
        for line in body.lines() {
            if let Some(data) = line.unwrap().strip_prefix("data: ") {
                let chunk: Value = serde_json::from_str(data).unwrap();
                ids += usize::from(chunk["choices"][0]["token_ids"][0].is_u64());
            }
        }
        assert_eq!(ids, stream.events.len());
    });
}

#[divan::bench]
fn limit_memchr(bencher: Bencher<'_, '_>) {
    let stream = vllm();
    let body = stream.body();
    let bencher = bencher.counter(BytesCount::of_slice(&body)).counter(ItemsCount::new(stream.events.len()));
    bencher.bench_local(|| {
        assert_eq!(memchr::memchr_iter(b'\n', &body).count(), 2 * stream.events.len());
    });
}
