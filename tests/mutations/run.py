#!/usr/bin/env python3
"""Plants bugs, one at a time, in a copy of the tree, and sees that a named test catches each within a minute.

    python3 tests/mutations/run.py            # all of them
    python3 tests/mutations/run.py cancel id  # those whose name has one of these words in it

Prints a table; ends with 1 if a bug survives, or if a place no longer reads as it does here: then the code has changed,
and the mutation wants to be planted anew. The copy and its build stay in target/mutations, so that each costs an
incremental build. The time of the build does not count.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRATCH = ROOT / "target" / "mutations"
TREE = SCRATCH / "tree"
SECONDS = 60
# Tests of what users see want the scripted server; none of them wants a tokenizer but one.
LEAN = ["--no-default-features", "--features", "testing"]

LIB = ["--lib"]


def test(name):
    return ["--test", name]


# Name, what breaks, file, what stands there, what is put in its place, the test that sees it, a filter of names.
MUTATIONS = [
    ("lost carriage return", "a CR at the end of a read is taken for a line's end by itself: the LF behind it is another",
     "src/protocol/sse/mod.rs", "self.start += usize::from(*first == b'\\n');", "self.start += usize::from(*first == 0);",
     test("sse_reference"), ""),
    ("split character", "the beginning of a character at the end of a token is given out as U+FFFD",
     "src/turn/tokenizer/decode.rs", "bytes.drain(..at);\n            return;", "bytes.clear();\n            text.push('\\u{fffd}');\n            return;",
     LIB, "tokenizer::decode"),
    ("cut of a kept line", "a line that is kept for its error is cut inside a character",
     "src/protocol/sse/lines.rs", "bytes[len] & 0xC0 == 0x80", "bytes[len] == 0",
     test("sse_reference"), ""),
    ("space of a value", "no space is removed behind a field's colon",
     "src/protocol/sse/lines.rs", "[b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),", "[b':', value @ ..] => Some(value),",
     test("sse_reference"), ""),
    ("id of white space", "a token whose text is blank is dropped, and its id with it",
     "src/protocol/chunk/tally.rs", "        if !text.is_empty() {", "        if !text.trim().is_empty() {",
     test("chunk"), ""),
    ("skipped field", "the decoder passes over one of the places where ids stand",
     "src/protocol/chunk/delta.rs", "if !matches!(choice.delta.token_id, Id::Missing) {", "if false {",
     test("chunk"), ""),
    ("usage of the wrong choice", "usage that came with one choice is counted for the first",
     "src/protocol/chunk/decoder/read.rs", "self.choices[index as usize].count(Some(usage));", "self.choices[0].count(Some(usage));",
     test("chunk"), "every_vector"),
    ("exact by one", "ids count as all there though one is missing",
     "src/protocol/chunk/tally.rs", "Some(counted) if counted == received =>", "Some(counted) if counted <= received + 1 =>",
     test("chunk"), ""),
    ("silent end", "bytes that stop count as a complete answer",
     "src/protocol/chunk/decoder/mod.rs", "begun.peek().is_some() && begun.all(", "begun.peek().is_some() || begun.all(",
     test("fuzz_properties"), "corpus"),
    ("call closed in a string", "a brace in a string ends the call",
     "src/turn/parse/json.rs", "(Expect::String { key: false }, b'\"') => Expect::Comma,", "(Expect::String { key: false }, b'\"' | b'}') => Expect::Comma,",
     test("parse_strings"), ""),
    ("id without text", "the ids of tokens without text do not get into the tree",
     "src/turn/prompt/mod.rs", "open.leaves.extend(turn.leaves);", "open.leaves.extend(turn.leaves.into_iter().filter(|leaf| !leaf.text.is_empty()));",
     test("fuzz_properties"), "prompt"),
    ("closer twice", "the end of a turn is put behind the one that the model has sampled",
     "src/turn/prompt/sheet.rs", "if self.sampled.take() != Some(id) {", "if self.sampled.take() != Some(id) || true {",
     LIB, "prompt::"),
    ("cancel without a socket", "a cancel sets its flag and leaves the socket as it is",
     "src/client/http/slot.rs", "socket.shutdown();", "drop(socket);",
     LIB, "slot::"),
    ("budget for ever", "a retry takes nothing from the budget",
     "src/client/policy/retry.rs", "left.checked_sub(COST)", "left.checked_sub(COST).map(|_| left)",
     LIB, "retry::"),
    ("server's wait", "a server can have the client wait for as long as it likes",
     "src/client/policy/retry.rs", "after.min(self.server_wait_max)", "after",
     test("fuzz_properties"), "retry_after"),
    ("channel by one", "the bound of the channel's bytes lets one more in",
     "src/client/channel/sender.rs", "self.bytes + size <= self.bytes_max", "self.bytes + size <= self.bytes_max + 1",
     LIB, "queue::"),
    ("event by one", "an event may be one byte longer than its limit",
     "src/protocol/sse/mod.rs", "if line_bytes > self.event_bytes_max - self.block.bytes {", "if line_bytes > self.event_bytes_max - self.block.bytes + 1 {",
     test("sse_reference"), ""),
    ("silence without end", "no limit on silence between tokens",
     "src/client/stream/exchange.rs", "timeouts.chunk.map(|limit| Wait::each(limit, Timer::Chunk))", "None",
     test("stream"), "every_fault_is_one"),
    ("key twice", "an extra field does not take the place of an own one",
     "src/protocol/request/body/mod.rs", "Some(name) if !self.extras.contains_key(name) =>", "Some(name) =>",
     test("fuzz_properties"), "request"),
    ("credential in a file", "every header of a saved request is loaded",
     "src/diagnostics.rs", ".filter(|(name, _)| is_open_header(name))", ".filter(|(name, _)| !name.is_empty())",
     test("fuzz_properties"), "saved"),
    ("resume off by one", "a resumed stream asks to go on behind one id less than it has",
     "src/client/stream/received.rs", "self.in_prompt = due - again;", "self.in_prompt = (due - again).saturating_sub(1);",
     test("resume_policy"), "prompt_and_ids"),
    ("limit of a resumed stream", "the tokens received are not taken off the limit of tokens",
     "src/protocol/request/resume.rs", "limit.saturating_sub(less)", "limit.saturating_sub(less - 1)",
     test("resume_policy"), "prompt_and_ids"),
    ("all there by one", "a stream that has as many ids as it may is not taken for complete",
     "src/client/stream/received.rs", "self.ids.len() >= max as usize", "self.ids.len() > max as usize",
     test("resume_policy"), "a_stream_whose_ids_are_all_there"),
    ("header of the client's own", "a client lets a caller's content-length through",
     "src/client.rs", "validate_header(name, value.trim(), &owned)?;", "validate_header(name, value.trim(), &[])?;",
     test("fuzz_properties"), "header"),
    ("both go on", "of two requests for one stream the second is given what the first has",
     "src/client/stream/race.rs", "if state.decided.is_some() || is_error && state.running > 1 {", "if is_error && state.running > 1 {",
     test("hedge"), ""),
    ("failure of both", "of two requests for one stream that fail at once neither tells it",
     "src/client/stream/race.rs", "            state.running -= 1;\n            return None;", "            return None;",
     LIB, "race"),
    ("failure for both", "of two requests for one stream the failure of the first ends it",
     "src/client/stream/race.rs", "if state.decided.is_some() || is_error && state.running > 1 {", "if state.decided.is_some() {",
     test("hedge"), ""),
]


def copy_tree():
    """The files that git knows, with those that changed touched only: cargo builds by their times."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True)
    for name in listed.stdout.decode().split("\0"):
        source, target = ROOT / name, TREE / name
        if not name or not source.is_file():
            continue
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
    environment.pop("TOKENWIRE_CASES", None)
    return subprocess.run(["cargo", *args], cwd=TREE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def features(which):
    return [] if "tokenizer" in which else LEAN


def run(program, which):
    """Builds the test, then runs it: what came of it, and in which time."""
    # A property of the fuzz targets is chosen by its name, not by that of the test.
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
    words = sys.argv[1:]
    chosen = [m for m in MUTATIONS if not words or any(word in m[0] for word in words)]
    TREE.mkdir(parents=True, exist_ok=True)
    copy_tree()
    survivors = 0
    sound = {}
    print(f"{'planted bug':28} {'seen by':32} {'what came':16} seconds")
    for name, what, file, old, new, program, which in chosen:
        seen_by = " ".join([program[-1].removeprefix("--"), which])
        path = TREE / file
        text = path.read_text()
        key = (tuple(program), which)
        if key not in sound:
            sound[key] = run(program, which)[0]
        if text.count(old) != 1:
            came, seconds = f"place: {text.count(old)}", 0.0
        elif sound[key] != "passes":
            came, seconds = f"sound: {sound[key]}", 0.0
        else:
            path.write_text(text.replace(old, new))
            came, seconds, output = run(program, which)
            path.write_text(text)
        caught = came in ("fails", "hangs")
        survivors += not caught
        verdict = f"caught ({came})" if caught else f"NOT CAUGHT ({came})"
        print(f"{name:28} {seen_by:32} {verdict:16} {seconds:.1f}", flush=True)
        if not caught:
            print(f"    {what}")
    print(f"{len(chosen) - survivors} of {len(chosen)} caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
