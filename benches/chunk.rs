//! Measures the decoding of one event's data to tokens.
//!
//! ```sh
//! cargo bench --bench chunk
//! ```
//!
//! - `learned`: the chunk decoder with the template that it learns from the stream
//! - `plain`: the chunk decoder without a template
//! - `naive_value`: a naive version, which parses each chunk into a `serde_json::Value`
//! - `limit_copy`: the lower limit, which only copies the bytes

mod common;

use common::{STREAMS, Stream, stream};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use serde_json::Value;
use tokenwire::{ChunkDecoder, StreamToken, TokenId};

fn main() {
    divan::main();
}

/// Returns the contents of the data lines.
fn data(stream: &Stream) -> Vec<&str> {
    stream.events.iter().map(|event| event["data: ".len()..].trim_end()).collect()
}

#[divan::bench(args = STREAMS)]
fn learned(bencher: Bencher<'_, '_>, name: &str) {
    decode(bencher, name, true);
}

#[divan::bench(args = STREAMS)]
fn plain(bencher: Bencher<'_, '_>, name: &str) {
    decode(bencher, name, false);
}

fn decode(bencher: Bencher<'_, '_>, name: &str, learning: bool) {
    let stream = stream(name);
    let data = data(&stream);
    let mut decoder = ChunkDecoder::new(stream.wire).learning(learning);
    bencher.counter(ItemsCount::new(data.len())).bench_local(|| {
        let mut ids = 0;
        let mut sink = |_, token| ids += usize::from(matches!(token, StreamToken::Token { id: Some(_), .. }));
        for data in &data {
            let _ = decoder.decode("message", data, &mut sink).unwrap();
        }
        assert_eq!(ids, data.len());
    });
}

#[divan::bench(args = STREAMS)]
fn naive_value(bencher: Bencher<'_, '_>, name: &str) {
    let stream = stream(name);
    let data = data(&stream);
    bencher.counter(ItemsCount::new(data.len())).bench_local(|| {
        let mut tokens: Vec<(String, TokenId)> = Vec::new();
        for data in &data {
            let chunk: Value = serde_json::from_str(data).unwrap();
            let choice = &chunk["choices"][0];
            let text = [&choice["text"], &choice["delta"]["content"], &chunk["content"]];
            let text = text.into_iter().find_map(Value::as_str).unwrap_or_default();
            let id = [&choice["token_ids"][0], &chunk["tokens"][0]].into_iter().find_map(Value::as_u64);
            tokens.push((text.to_owned(), id.unwrap() as TokenId));
        }
        assert_eq!(tokens.len(), data.len());
    });
}

#[divan::bench(args = STREAMS)]
fn limit_copy(bencher: Bencher<'_, '_>, name: &str) {
    let stream = stream(name);
    let data = data(&stream);
    let mut copy = Vec::new();
    bencher.counter(ItemsCount::new(data.len())).bench_local(|| {
        copy.clear();
        data.iter().for_each(|data| copy.extend_from_slice(black_box(data.as_bytes())));
        assert_eq!(copy.len(), data.iter().map(|data| data.len()).sum::<usize>());
    });
}
