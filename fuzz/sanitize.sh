#!/usr/bin/env bash
# Runs tests of the threads under ThreadSanitizer, then under LeakSanitizer:
#
#   bash fuzz/sanitize.sh                 # streams, their ends, queue, pool, slot, alarm
#   bash fuzz/sanitize.sh thread --test stream cancel
#
# It needs a nightly compiler with rust-src. std must be built with the sanitizer too; otherwise it
# reports every `Arc` as a data race.
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')

run() {
    local sanitizer=$1
    shift
    printf '\n%s: %s\n' "$sanitizer" "$*"
    # The tests run about ten times slower. Their timers are long enough for that.
    RUSTFLAGS="-Zsanitizer=$sanitizer" CARGO_TARGET_DIR=target/sanitize CARGO_PROFILE_DEV_DEBUG=1 \
        TSAN_OPTIONS="${TSAN_OPTIONS:-history_size=4}" \
        cargo +nightly test -Zbuild-std --target "$host" --no-default-features --features testing "$@"
}

if [ $# -gt 0 ]; then
    run "$@"
    exit
fi
run thread --lib -- --test-threads 2 queue:: pool:: slot:: alarm:: stream:: retry::
run thread --test stream --test endings --test hedge --test fan_in -- --test-threads 2
run leak --test stream --test endings --test hedge --test fan_in --test leaks -- --test-threads 2
