//! Tests that no threads or descriptors remain after a thousand cancelled streams. The tests are in
//! a separate file because they count the threads and descriptors of the whole process.

#![cfg(all(feature = "testing", target_os = "linux"))]

use std::time::{Duration, Instant};
use std::{fs, thread};

use tokenwire::testing::{MockServer, Script};
use tokenwire::{ApiClient, Outcome, SamplingParams};

const LONG: Duration = Duration::from_secs(60);

fn entries(folder: &str) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_thousand_cancels_of_blocked_reads_leave_no_threads_or_descriptors() {
    let event = r#"{"choices":[{"index":0,"text":"a","token_ids":[1]}]}"#;
    let (threads, files) = (entries("/proc/self/task"), entries("/proc/self/fd"));
    let server = MockServer::scripted([Script::events([event]).hang(LONG)]).unwrap();
    let client = ApiClient::builder(server.url()).build().unwrap();
    let mut back = Vec::new();
    for round in 0..100 {
        let streams: Vec<_> = (0..10)
            .map(|_| client.stream_completion(&[1], SamplingParams::default(), None).unwrap())
            .collect();
        for (tokens, _) in &streams {
            tokens.recv_timeout(LONG).unwrap();
        }
        for (tokens, guard) in streams {
            let began = Instant::now();
            guard.cancel();
            assert_eq!(guard.join().ending, Outcome::Cancelled);
            back.push(began.elapsed());
            assert!(tokens.recv().is_err(), "no item follows a cancel");
        }
        assert!(
            server.wait_for_disconnects((round + 1) * 10, LONG),
            "the server did not see the disconnects"
        );
        assert!(entries("/proc/self/task") < threads + 40, "too many threads");
    }
    back.sort_unstable();
    println!("from cancel to thread back: p50 {:?}, p99 {:?}", back[500], back[990]);
    drop((client, server));
    let began = Instant::now();
    loop {
        let left = (entries("/proc/self/task"), entries("/proc/self/fd"));
        if left == (threads, files) {
            break;
        }
        assert!(began.elapsed() < LONG, "left behind: {left:?}, before it was {:?}", (threads, files));
        thread::sleep(Duration::from_millis(5));
    }
}
