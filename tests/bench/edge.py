"""What a worker of one thread does to a picture of 640×480 besides the network, and its memory.

python -m tests.bench.edge [--model shapes] [--runtime tflite] [--photos FOLDER] [--images 96]

The whole of `maskmill annotate` is held to one core. The stages overlap, so their sum is more than
the wall time only where something waits.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.fleet import vga_folder
from tests.running import MASKMILL

ONE_THREAD = {"MASKMILL_THREADS": "1", "MASKMILL_DECODE_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--runtime", default="tflite")
    parser.add_argument("--photos", type=Path, help="resized to 640×480; drawn ones unless given")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--threshold", default="0.3")
    parser.add_argument("--memory", default="", help="as of maskmill annotate")
    asked = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="maskmill-bench-") as name:
        folder = Path(name)
        command = [MASKMILL, "annotate", vga_folder(asked, folder), "-o", folder / "out", "--json"]
        command += ["-m", asked.model, "--runtime", asked.runtime, "--threshold", asked.threshold]
        command += ["--memory", asked.memory] if asked.memory else []
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | ONE_THREAD)
        wall = time.perf_counter() - start
        run = json.loads((folder / "out" / "run.json").read_bytes())
    images = run["images"]
    each = {stage: 1000 * s / images for stage, s in run["seconds_by_stage"].items()}
    besides = sum(ms for stage, ms in each.items() if stage != "inference")
    print(f"{images} images, {run['annotations'] / images:.1f} instances each; ms an image:")
    for stage, ms in each.items():
        print(f"  {stage:10} {ms:7.2f}")
    print(
        f"  besides the interpreter's call {besides:.2f}, {besides / each['inference']:.1%} of it"
    )
    print(f"  wall, with start and merge     {1000 * wall / images:.2f}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak RSS of the largest process {peak:.0f} MiB")


if __name__ == "__main__":
    main()
