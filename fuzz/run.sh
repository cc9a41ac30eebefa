#!/usr/bin/env bash
# Runs each fuzz target for 30 seconds, starting from the committed corpus:
#
#   bash fuzz/run.sh 30 [TARGET..]
#
# New inputs are written to fuzz/found/TARGET (ignored by git), from which the next run continues.
# Failing inputs are written to fuzz/artifacts/TARGET. With FUZZ_SEED=1, each run uses the same
# inputs; without it, each run uses new ones.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET..]}
shift
targets=${*:-$(cd fuzz && cargo +nightly fuzz list)}
found=${FUZZ_FOUND:-fuzz/found}

cargo +nightly fuzz build
for target in $targets; do
    kept=fuzz/corpus/$target
    # This target reads the same inputs as `sse`.
    [ "$target" = sse_peer ] && kept=fuzz/corpus/sse
    mkdir -p "$found/$target"
    options=(-seed="${FUZZ_SEED:-0}" -max_total_time="$seconds" -timeout=25 -verbosity=0 -print_final_stats=1)
    [ -f "fuzz/dict/$target.dict" ] && options+=(-dict="fuzz/dict/$target.dict")
    # A thread that ends between two inputs has not yet freed its memory, which looks like a leak.
    case $target in header | stream) options+=(-detect_leaks=0) ;; esac
    printf '\n%s, %s s\n' "$target" "$seconds"
    cargo +nightly fuzz run "$target" "$found/$target" "$kept" -- "${options[@]}"
done
