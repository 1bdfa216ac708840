"""Resident memory of the worker over a long run: at the end beside that after a tenth.

python -m tests.bench.memory [--images 5000] [--model shapes]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from tests.graphs import write_model
from tests.pictures import jpeg
from tests.running import MASKMILL

VARIANTS = 50  # pictures drawn; the rest of the inputs are links to them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--model", help="default: a canned network, so that nothing is waited for")
    asked = parser.parse_args()
    few, many = run(asked.images // 10, asked.model), run(asked.images, asked.model)
    early, late = many["10 %"], many["100 %"]
    print(f"RSS of the worker over {asked.images} images, flat means within 0.9 … 1.1:")
    print(f"  annotating, at 10 %  {early:7.1f} MiB")
    print(f"  annotating, at 100 % {late:7.1f} MiB, ratio {late / early:.3f}")
    print(f"  merged, of a tenth   {few['merged']:7.1f} MiB")
    print(f"  merged, of all       {many['merged']:7.1f} MiB, ratio", end="")
    print(f" {many['merged'] / few['merged']:.3f}")


def make_images(folder: Path, count: int) -> None:
    folder.mkdir()
    drawn = folder.parent / "drawn"
    drawn.mkdir()
    for number in range(VARIANTS):
        (drawn / f"{number}.jpg").write_bytes(jpeg(number, 480 + number, 360 + 2 * number))
    for number in range(count):
        (folder / f"{number:06d}.jpg").hardlink_to(drawn / f"{number % VARIANTS}.jpg")


def run(count: int, model: str | None) -> dict[str, float]:
    """MiB after a tenth of the images, after the last, and when they are merged and drawn."""
    seen: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="maskmill-bench-") as name:
        folder = Path(name)
        make_images(folder / "in", count)
        model = model or str(write_model(folder, "a"))
        command = [MASKMILL, "annotate", str(folder / "in"), "-m", model, "-o", str(folder / "out")]
        process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "merged":
                seen["merged"] = _rss_of_child(process.pid)
            elif event.get("done", 0) >= count / 10:
                seen.setdefault("10 %", _rss_of_child(process.pid))
            if event["event"] == "merging":
                seen["100 %"] = _rss_of_child(process.pid)
        if process.wait() != 0:
            raise SystemExit("the run failed")
    return seen


def _rss_of_child(parent: int) -> float:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    if not children:
        return 0
    for line in Path(f"/proc/{children[0]}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0


if __name__ == "__main__":
    main()
