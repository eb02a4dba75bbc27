"""Allocation heavy, as Python programs are: an operation is a document that is written as JSON and read again.

Answers every line MILLISECONDS on standard input, after having worked for so long, by a line OPERATIONS SECONDS P99_NANOSECONDS;
ends with its input. Small objects come from Python's own allocator, which asks malloc for nothing; texts above 512 bytes from malloc.
"""

import json
import sys
from time import perf_counter_ns

DOCUMENT = {
    "customers": [
        {"id": at, "name": f"customer {at}", "tags": ["a", "b", str(at)], "balance": at * 1.25, "notes": "n" * (40 * at)}
        for at in range(40)
    ]
}

for line in sys.stdin:
    took = []
    began = now = perf_counter_ns()
    end = began + int(line) * 1_000_000
    while now < end:
        json.loads(json.dumps(DOCUMENT))
        after = perf_counter_ns()
        took.append(after - now)
        now = after
    took.sort()
    print(len(took), (now - began) / 1e9, took[len(took) * 99 // 100], flush=True)
