#!/usr/bin/env bash
# Runs fuzz targets from the committed corpus, each for so many seconds: bash fuzz/run.sh 30 [TARGET..]
#
# What is found on the way goes to fuzz/found/TARGET (ignored by git), where a second run goes on; what fails to
# fuzz/artifacts/TARGET. FUZZ_SEED=1 gives the same inputs in each run; without it they are new ones.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:?how many seconds a target?}
shift
targets=${*:-$(cd fuzz && cargo +nightly fuzz list)}
found=${FUZZ_FOUND:-fuzz/found}

cargo +nightly fuzz build
for target in $targets; do
    kept=fuzz/corpus/$target
    # It takes the same inputs as `sse`, and compares the events with another crate's.
    [ "$target" = sse_peer ] && kept=fuzz/corpus/sse
    mkdir -p "$found/$target"
    options=(-seed="${FUZZ_SEED:-0}" -max_total_time="$seconds" -timeout=25 -verbosity=0 -print_final_stats=1)
    [ -f "fuzz/dict/$target.dict" ] && options+=(-dict="fuzz/dict/$target.dict")
    # Between two inputs a thread may just be ending, and what it has not freed yet looks like a leak.
    case $target in header | stream) options+=(-detect_leaks=0) ;; esac
    printf '\n%s, %s s\n' "$target" "$seconds"
    cargo +nightly fuzz run "$target" "$found/$target" "$kept" -- "${options[@]}"
done
