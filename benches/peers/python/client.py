"""Streams one chat with the plain client of openai-python and prints its costs, as the Rust clients do."""

import json
import resource
import sys
import time

from openai import OpenAI

base, started = sys.argv[1:]
tokens, first, latencies = 0, 0, []
began = time.monotonic_ns()
client = OpenAI(base_url=base + "/v1", api_key="none")
messages = [{"role": "user", "content": "Hi"}]
for chunk in client.chat.completions.create(model="m", messages=messages, stream=True):
    for choice in chunk.choices:
        text = choice.delta.content
        if not text:
            continue
        tokens += 1
        if tokens == 1:
            first = time.time_ns()
        if text.startswith(("17", "18")):
            latencies.append(max(0, time.time_ns() - int(text)))
cost = {
    "tokens": tokens,
    "cpu_ns": time.process_time_ns(),
    "wall_ns": time.monotonic_ns() - began,
    "first_token_ns": max(0, first - int(started)),
    "rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    "latencies_ns": sorted(latencies),
}
print(json.dumps(cost))
