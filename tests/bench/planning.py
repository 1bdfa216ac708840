"""Plan one input in a process that holds nothing else; for tests.bench.fleet.

python -m tests.bench.planning INPUT OUTPUT
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tasks.inputs import find
from tasks.opening import SHARD_SIZE
from tasks.plan import write_plan
from tasks.records import Selection


def main(word: str, out: str) -> None:
    start = time.perf_counter()
    _, counts = write_plan(out, b"", find([word]), Selection(), SHARD_SIZE)
    seconds = time.perf_counter() - start
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM")).split()[1]
    print(json.dumps({"seconds": seconds, "mib": int(peak) / 1024, "items": counts.items}))


if __name__ == "__main__":
    main(*sys.argv[1:])
