//! Tests of the memory that a slow consumer and endless data use.

use super::*;

/// Returns the largest growth of the resident memory while `during` runs.
fn growth_during(during: impl FnOnce()) -> u64 {
    let (before, most, done) = (resident(), AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                most.fetch_max(resident(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        let result = catch_unwind(AssertUnwindSafe(during));
        done.store(true, Ordering::Release);
        result.unwrap_or_else(|panic| resume_unwind(panic));
    });
    most.into_inner().saturating_sub(before)
}

/// Runs the steps that are measured later, so that the client's code and stack are already in
/// memory.
fn warm_up(client: &ApiClient, kind: Kind) {
    let (receiver, guard) = start(client, &prompt(kind, 0, 0));
    // An endless line gives no token. The received item is then its error.
    receiver.recv_timeout(LONG).unwrap();
    drop(receiver);
    guard.cancel();
    guard.join();
}

#[test]
fn a_slow_consumer_uses_no_more_memory_than_the_channel_limit() {
    in_own_process("bounds::a_slow_consumer_uses_no_more_memory_than_the_channel_limit", || {
        const MAX_BYTES: usize = 2 << 20;
        let servers = Elsewhere::start();
        for (name, kind, max_bytes, max_tokens, full, tls) in [
            ("tokens of 64 KiB, plain", Kind::BigTokens, MAX_BYTES, 1024, MAX_BYTES / BIG_BYTES, false),
            ("tokens of 64 KiB, TLS", Kind::BigTokens, MAX_BYTES, 1024, MAX_BYTES / BIG_BYTES, true),
            ("tokens of 2 bytes, plain", Kind::SmallTokens, 1024 * 2, 1024, 1024, false),
        ] {
            let mut limits = Limits::default();
            assert_eq!(limits.max_channel_tokens, max_tokens, "the test uses the default limit");
            // Small tokens never reach the default limit in bytes, so the limit below is lower than
            // the default.
            if kind == Kind::BigTokens {
                limits.max_channel_bytes = max_bytes;
            }
            let mut warm = limits;
            warm.max_channel_tokens = 1;
            warm_up(&servers.client(tls).limits(warm).build().unwrap(), kind);
            let client = servers.client(tls).limits(limits).build().unwrap();
            let mut waited = Duration::ZERO;
            let grown = growth_during(|| {
                let (receiver, guard) = start(&client, &prompt(kind, 0, 0));
                for _ in 0..sample_of(1, 5) {
                    thread::sleep(Duration::from_secs(1));
                    let began = Instant::now();
                    while receiver.len() < full {
                        assert!(
                            began.elapsed() < LONG,
                            "{name}: the channel does not fill up: {}",
                            receiver.len()
                        );
                        thread::sleep(Duration::from_millis(1));
                    }
                    assert_eq!(receiver.len(), full, "{name}");
                    assert!(matches!(receiver.recv_timeout(LONG), Ok(StreamToken::Token { .. })), "{name}");
                }
                guard.cancel();
                waited = guard.join().waited_for_consumer;
            });
            println!(
                "{name}: {full} tokens in the channel, {} KiB more memory, {} KiB and 1 MiB allowed; waited {waited:.1?}",
                kib(grown),
                max_bytes >> 10
            );
            assert!(grown <= max_bytes as u64 + MIB, "{name}: {} KiB", kib(grown));
        }
    });
}

#[test]
fn endless_data_uses_limited_memory() {
    in_own_process("bounds::endless_data_uses_limited_memory", || {
        const MAX_BYTES: usize = 4 << 20;
        let servers = Elsewhere::start();
        for kind in [Kind::EndlessLine, Kind::EndlessComment, Kind::EndlessEvent] {
            let mut limits = Limits::default();
            limits.max_event_bytes = 64 << 10;
            warm_up(&servers.client(false).limits(limits).build().unwrap(), kind);
            limits.max_event_bytes = MAX_BYTES;
            let client = servers.client(false).limits(limits).build().unwrap();
            let mut bytes = 0;
            let grown = growth_during(|| {
                let (receiver, guard) = start(&client, &prompt(kind, 0, 0));
                let (tokens, last) = collect(&receiver);
                bytes = guard.join().bytes;
                let Last::Error(error) = last else { panic!("{kind:?}: {last:?}") };
                assert_eq!(error.kind(), ErrorKind::Limit(Limit::EventBytes), "{kind:?}: {error}");
                assert!(tokens.is_empty());
            });
            println!(
                "{kind:?}: {} KiB read, {} KiB more memory, {} KiB allowed",
                kib(bytes),
                kib(grown),
                MAX_BYTES >> 10
            );
            assert!(grown <= MAX_BYTES as u64 + MIB, "{kind:?}: {} KiB", kib(grown));
            assert!(bytes <= MAX_BYTES as u64 + MIB, "{kind:?}: {} KiB read", kib(bytes));
        }
    });
}
