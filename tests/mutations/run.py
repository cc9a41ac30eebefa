#!/usr/bin/env python3
"""Plants bugs, one at a time, in a copy of the tree. A test must catch each within a minute.

    python3 tests/mutations/run.py            # all bugs
    python3 tests/mutations/run.py cancel id  # the bugs whose names contain one of these words
    python3 tests/mutations/run.py --some 3   # three bugs, chosen by the hash of the commit
    python3 tests/mutations/run.py --check    # only checks that each bug has one place

Prints a table. Fails if a bug survives. Also fails if the text of a bug in bugs.json does not occur
exactly once in its file: the code has changed, so update the entry. The copy and its build stay in
target/mutations, so that each bug costs an incremental build. The time of the build does not count.
"""

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRATCH = ROOT / "target" / "mutations"
TREE = SCRATCH / "tree"
SECONDS = 60
# All tests use the mock server. Only one needs a tokenizer.
LEAN = ["--no-default-features", "--features", "testing"]

# Each bug has a name, the behavior that it breaks, a file, the old and the new text, the test that
# catches it ("--lib" or the name of a file in tests), and a filter of test names.
BUGS = json.loads((pathlib.Path(__file__).parent / "bugs.json").read_text())


def misplaced():
    """Returns the bugs whose text does not occur exactly once, with the number of occurrences."""
    found = []
    for bug in BUGS:
        path = ROOT / bug["file"]
        count = path.read_text().count(bug["old"]) if path.is_file() else 0
        if count != 1:
            found.append((bug, count))
    return found


def chosen_by_commit(number):
    """Returns this many bugs. The selection depends only on the hash of the commit."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    return random.Random(head.stdout.strip()).sample(BUGS, number)


def copy_tree():
    """Copies the files that git lists. Writes only changed files, because cargo compares times."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True)
    names = {name for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()}
    for old in [path for path in TREE.rglob("*") if path.is_file() and str(path.relative_to(TREE)) not in names]:
        old.unlink()
    for name in names:
        source, target = ROOT / name, TREE / name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def cargo(*args, **more):
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(SCRATCH / "target"),
        "CARGO_INCREMENTAL": "1",
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "TMPDIR": str(SCRATCH),
        "RUST_BACKTRACE": "0",
    }
    for name in ("TOKENWIRE_CASES", "TOKENWIRE_FULL"):
        environment.pop(name, None)
    return subprocess.run(["cargo", *args], cwd=TREE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def features(which):
    return [] if "tokenizer" in which else LEAN


def run(program, which):
    """Builds the test and runs it. Returns the result, the seconds of the run, and the output."""
    # These filters are names of fuzz targets, whose properties are run by one test.
    targets = {"prompt", "request", "saved", "header", "retry_after"}
    environment = {"TOKENWIRE_TARGET": which, "TOKENWIRE_INPUTS": "4000"} if which in targets else {}
    filters = "each_target" if which in targets else which
    os.environ.update(environment)
    try:
        built = cargo("test", *features(which), *program, "--no-run")
        if built.returncode != 0:
            return "does not build", 0.0, built.stdout
        began = time.monotonic()
        try:
            result = cargo("test", *features(which), *program, filters, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return "hangs", time.monotonic() - began, ""
        if " 0 passed" in result.stdout and result.returncode == 0:
            return "runs no test", 0.0, result.stdout
        return "passes" if result.returncode == 0 else "fails", time.monotonic() - began, result.stdout
    finally:
        for name in environment:
            del os.environ[name]


def main():
    for bug, count in misplaced():
        print(f"{bug['name']}: its text occurs {count} times instead of once in {bug['file']}: {bug['old']!r}")
    match sys.argv[1:]:
        case ["--check"]:
            print(f"{len(BUGS)} planted bugs, {len(misplaced())} of them without exactly one place")
            return 1 if misplaced() else 0
        case ["--some", number]:
            chosen = chosen_by_commit(int(number))
        case words:
            chosen = [bug for bug in BUGS if not words or any(word in bug["name"] for word in words)]
    TREE.mkdir(parents=True, exist_ok=True)
    copy_tree()
    survivors = 0
    sound = {}
    print(f"{'planted bug':28} {'test':32} {'result':16} seconds")
    for bug in chosen:
        name, old, which = bug["name"], bug["old"], bug["filter"]
        program = ["--lib"] if bug["test"] == "--lib" else ["--test", bug["test"]]
        seen_by = " ".join([bug["test"].removeprefix("--"), which])
        path = TREE / bug["file"]
        text = path.read_text() if path.is_file() else ""
        key = (tuple(program), which)
        if key not in sound:
            sound[key] = run(program, which)[0]
        if text.count(old) != 1:
            came, seconds = f"place: {text.count(old)}", 0.0
        elif sound[key] != "passes":
            came, seconds = f"sound: {sound[key]}", 0.0
        else:
            path.write_text(text.replace(old, bug["new"]))
            came, seconds, output = run(program, which)
            path.write_text(text)
        caught = came in ("fails", "hangs")
        survivors += not caught
        verdict = f"caught ({came})" if caught else f"NOT CAUGHT ({came})"
        print(f"{name:28} {seen_by:32} {verdict:16} {seconds:.1f}", flush=True)
        if not caught:
            print(f"    {bug['breaks']}")
    print(f"{len(chosen) - survivors} of {len(chosen)} caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
