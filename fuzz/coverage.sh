#!/usr/bin/env bash
# Prints, for each file, the share of lines that the tests reach. The tests themselves do not count.
#
#   bash fuzz/coverage.sh                                     # runs all tests first
#   bash fuzz/coverage.sh --missing src/protocol/sse/mod.rs   # prints its unreached lines
#
# It needs cargo-llvm-cov and llvm-tools. Tests that need the folder `shared` beside the checkout
# count only if the folder exists.
set -euo pipefail
cd "$(dirname "$0")/.."
lcov=target/coverage.lcov

if [ "${1:-}" != --missing ] && [ "${1:-}" != --again ]; then
    # The soak tests take minutes and reach no additional lines.
    tests=$(cd tests && ls *.rs | sed -n "s/\.rs$//p" | grep -v "^soak$" | sed "s/^/--test /")
    # Two profiles are missing: tests that end a process on purpose write none, and the shuttle
    # tests are a separate build.
    # shellcheck disable=SC2086
    cargo llvm-cov --all-features --ignore-run-fail --lib --bins $tests --lcov --output-path "$lcov" "$@"
fi
python3 - "$lcov" "$@" <<'PY'
import collections, pathlib, re, sys

lcov, *arguments = sys.argv[1:]
wanted = arguments[1:] if arguments[:1] == ["--missing"] else []
lines = collections.defaultdict(dict)
for record in open(lcov):
    if record.startswith("SF:"):
        path = pathlib.Path(record[3:].strip())
        name = str(path.relative_to(pathlib.Path.cwd())) if path.is_relative_to(pathlib.Path.cwd()) else str(path)
    elif record.startswith("DA:"):
        number, hits = record[3:].split(",")[:2]
        lines[name][int(number)] = lines[name].get(int(number), 0) + int(hits)

total = [0, 0]
stages = collections.defaultdict(lambda: [0, 0])
print(f"{'file':36} {'lines':>6} {'missed':>6} {'reached':>8}")
for name in sorted(lines):
    if not name.startswith("src/") or re.search(r"/(tests|model)\.rs$", name):
        continue
    source = pathlib.Path(name).read_text().splitlines()
    tests = [n for n, line in enumerate(source) if re.match(r"#\[cfg\((all\()?test", line) and source[n + 1].startswith(("mod tests {", "mod shuttle"))]
    end = min(tests, default=len(source))
    counted = {n: hits for n, hits in lines[name].items() if n <= end}
    missed = sorted(n for n, hits in counted.items() if not hits)
    if not counted:
        continue
    stage = name.split("/")[1].removesuffix(".rs")
    for sum_ in (total, stages[stage]):
        sum_[0] += len(counted)
        sum_[1] += len(missed)
    if not wanted:
        print(f"{name:36} {len(counted):6} {len(missed):6} {100 - 100 * len(missed) / len(counted):7.1f}%")
    elif name in wanted:
        for n in missed:
            print(f"{name}:{n}: {source[n - 1].strip()}")
for stage in ("sse", "chunk", "parse", "stream", "retry", "prompt"):
    if not wanted and stages[stage][0]:
        print(f"{'stage ' + stage:36} {stages[stage][0]:6} {stages[stage][1]:6} {100 - 100 * stages[stage][1] / stages[stage][0]:7.1f}%")
if not wanted:
    print(f"{'all':36} {total[0]:6} {total[1]:6} {100 - 100 * total[1] / total[0]:7.1f}%")
PY
