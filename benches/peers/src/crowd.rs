//! The server for many streams. One thread writes to all streams, so the server is not the
//! bottleneck.
//!
//! It works like an engine that serves a batch: in each step, some of the streams get one token
//! each, and the next step continues with the next streams. The text of each token is the time at
//! which it was written.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::{HEAD, chunk, data, last, listen, now_nanos, read_request};

#[derive(Clone, Copy)]
pub struct Crowd {
    pub streams: usize,
    /// The number of tokens in each stream.
    pub tokens: usize,
    pub tokens_per_second: u32,
}

/// The time between two steps.
const STEP: Duration = Duration::from_millis(1);

/// Starts a server that waits for all its requests, then answers them together.
pub fn start(crowd: Crowd) -> io::Result<SocketAddr> {
    let (listener, addr) = listen()?;
    thread::spawn(move || -> io::Result<()> {
        let mut streams = Vec::with_capacity(crowd.streams);
        for stream in listener.incoming().take(crowd.streams) {
            let mut stream = stream?;
            stream.set_nodelay(true)?;
            read_request(&mut stream)?;
            // Send the head now: a client may wait for it before it sends its next request.
            stream.write_all(HEAD.as_bytes())?;
            streams.push(stream);
        }
        serve(&mut streams, crowd)
    });
    Ok(addr)
}

fn serve(streams: &mut [TcpStream], crowd: Crowd) -> io::Result<()> {
    let began = Instant::now();
    let steps = 1_000 / crowd.tokens_per_second;
    let in_step = streams.len().div_ceil(steps as usize);
    let mut step = 0;
    for n in 0..crowd.tokens {
        for group in streams.chunks_mut(in_step) {
            thread::sleep((began + STEP * step).saturating_duration_since(Instant::now()));
            step += 1;
            for stream in group {
                stream.write_all(chunk(&data(n, &now_nanos().to_string())).as_bytes())?;
            }
        }
    }
    streams.iter_mut().try_for_each(|stream| stream.write_all(last().as_bytes()))
}
