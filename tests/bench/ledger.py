"""A schedule's ledger: what is new among a million known objects, and settling a run of a million.

python -m tests.bench.ledger [--objects 1000000]

Each line is of a process of its own: seconds by the clock and on a core, which differ where others
are at work, and the peak of its resident memory.
The listing is made up as it goes, so that no store is measured; parts and shards lie on this disk,
each image with one annotation.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tasks.folder import Folder
from tasks.inputs import Found
from tasks.ledger import compared, ledger_uri, settle
from tasks.opening import SHARD_SIZE
from tasks.records import Annotation, Image, Item, ProducedBy, RleMask, Shard, encode, encode_lines

BY = ProducedBy("0" * 64, "onnx", "1", "fp32", "", "avx2")
MASK = RleMask((480, 640), "P1b:a0M3N1O1N2O1N101N2N2O0O2O0O101O1N2O1N2N2")
EVERY = 100  # of so many objects one is new, one has changed and one is gone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--step", choices=["settle", "compare"])
    parser.add_argument("--folder")
    asked = parser.parse_args()
    if asked.step:
        measure(asked.step, asked.folder, asked.objects)
        return
    with tempfile.TemporaryDirectory(prefix="maskmill-bench-") as name:
        make_run(folder_of(name), asked.objects)
        settled, new = (step(each, name, asked.objects) for each in ("settle", "compare"))
    assert new["taken"] == asked.objects // EVERY * 2, new
    print(f"a ledger of {asked.objects:,} objects, in processes of their own:")
    for what, each in (("a run of all is settled", settled), ("what is new is known", new)):
        times = f"{each['seconds']:6.1f} s, {each['busy']:5.1f} s of a core"
        print(f"  {what:<24}{times}, {each['mib']:4.0f} MiB")


def folder_of(place: str) -> Folder:
    return Folder(f"{place}/out", "run")


def named(number: int, version: int) -> tuple[str, str, str]:
    """URI, name and version, of the length that a store gives them."""
    name = f"cameras/{number % 97:02}/2026-11-21/{number:09}.jpg"
    return f"s3://bucket-of-cameras/{name}", name, f'"{number:026x}{version:06x}"'


def make_run(folder: Folder, count: int) -> None:
    for place in (folder.plan(""), folder.shard("")):
        Path(place).parent.mkdir(parents=True)
    for start in range(0, count, SHARD_SIZE):
        numbers = range(start, min(start + SHARD_SIZE, count))
        items = [Item(n - start + 1, *named(n, 0)) for n in numbers]
        part = f"{start:032x}"
        images = tuple(Image(each.id, each.file_name, 640, 480) for each in items)
        found = tuple(Annotation(each.id, 1, (1, 2, 30, 40), 99, MASK, 0.5) for each in items)
        Path(folder.plan(part)).write_bytes(encode_lines(items))
        Path(folder.shard(part)).write_bytes(encode(Shard(part, BY, images, found, ())))


def listed(count: int) -> Iterator[Found]:
    for number in range(count):
        case = number % EVERY
        if case != 1:
            yield Found(*named(number, int(case == 2)))
        if case == 3:
            yield Found(*named(count + number, 0))


def step(name: str, place: str, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.ledger", "--step", name, "--folder", place]
    ran = subprocess.run([*command, "--objects", str(count)], stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(ran.stdout)
    return figures


def measure(name: str, place: str, count: int) -> None:
    ledger, taken = ledger_uri(f"{place}/state", "nightly"), 0
    clocks = time.perf_counter, time.process_time
    start = [clock() for clock in clocks]
    if name == "settle":
        settle(ledger, 1, folder_of(place))
    else:
        taken = sum(each.problem is None for each in compared(listed(count), ledger, "vanished"))
    seconds, busy = (clock() - before for clock, before in zip(clocks, start, strict=True))
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM")).split()[1]
    mib = int(peak) / 1024
    print(json.dumps({"seconds": seconds, "busy": busy, "mib": mib, "taken": taken}))


if __name__ == "__main__":
    main()
