//! Measures how fast tokens are sent from one thread to another.
//!
//! ```sh
//! cargo bench --bench channel
//! ```
//!
//! - `token_by_token`: the channel that a stream uses (an unbounded crossbeam channel)
//! - `recv_many`: the same channel, read with `recv_many`
//! - `bounded_1024`: a bounded channel
//! - `in_batches`: the same channel with 32 tokens in each item
//! - `limit_one_thread`: the lower limit, where one thread both sends and receives the tokens

mod common;

use std::thread;

use common::words;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use divan::Bencher;
use divan::counter::ItemsCount;
use tokenwire::StreamToken;

const TOKENS: usize = 10_000;
const BATCH: usize = 32;

fn main() {
    divan::main();
}

fn tokens() -> impl Iterator<Item = StreamToken> {
    let words = words();
    let token = move |n: usize| {
        let (text, id) = &words[n % words.len()];
        StreamToken::Token { text: text.clone(), id: Some(*id) }
    };
    (0..TOKENS).map(token)
}

fn send_all(bencher: Bencher<'_, '_>, open: fn() -> (Sender<StreamToken>, Receiver<StreamToken>)) {
    bencher.counter(ItemsCount::new(TOKENS)).bench_local(|| {
        let (sender, receiver) = open();
        let sending = thread::spawn(move || tokens().for_each(|token| sender.send(token).unwrap()));
        assert_eq!(receiver.iter().count(), TOKENS);
        sending.join().unwrap();
    });
}

#[divan::bench]
fn token_by_token(bencher: Bencher<'_, '_>) {
    send_all(bencher, unbounded);
}

#[divan::bench]
fn recv_many(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(TOKENS)).bench_local(|| {
        let (sender, receiver) = unbounded();
        let sending = thread::spawn(move || tokens().for_each(|token| sender.send(token).unwrap()));
        let (mut batch, mut count) = (Vec::new(), 0);
        while tokenwire::recv_many(&receiver, &mut batch, BATCH) {
            count += batch.len();
            batch.clear();
        }
        assert_eq!(count, TOKENS);
        sending.join().unwrap();
    });
}

#[divan::bench]
fn bounded_1024(bencher: Bencher<'_, '_>) {
    send_all(bencher, || bounded(1024));
}

#[divan::bench]
fn in_batches(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(TOKENS)).bench_local(|| {
        let (sender, receiver) = unbounded();
        let sending = thread::spawn(move || {
            let mut tokens = tokens();
            loop {
                let batch: Vec<_> = tokens.by_ref().take(BATCH).collect();
                if batch.is_empty() {
                    return;
                }
                sender.send(batch).unwrap();
            }
        });
        assert_eq!(receiver.iter().flatten().count(), TOKENS);
        sending.join().unwrap();
    });
}

#[divan::bench]
fn limit_one_thread(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(TOKENS)).bench_local(|| {
        let made: Vec<_> = tokens().collect();
        assert_eq!(made.len(), TOKENS);
        made
    });
}
