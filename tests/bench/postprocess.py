"""Heads to run-length masks, ours beside a plain full-image baseline, in one process.

`python -m tests.bench.postprocess [FAMILY…]`: one thread, seeded heads, best of several.
"""

from __future__ import annotations

import os
import sys
import timeit
from importlib import import_module

# Before numpy is loaded: one thread is what is measured.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import cv2

FAMILIES = ("yolact", "mask_rcnn", "detr", "yolo_seg")


def main() -> None:
    cv2.setNumThreads(1)
    print("| form | image | objects | detections | ours, ms | plain, ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for family in sys.argv[1:] or FAMILIES:
        for case in import_module(f"tests.bench.{family}").cases():
            found = case.ours()
            if len(found) + found.dropped != len(case.plain()):
                raise SystemExit(f"{case.form}: the two do not find the same, nothing to compare")
            fast = min(timeit.repeat(case.ours, number=1, repeat=30)) * 1000
            slow = min(timeit.repeat(case.plain, number=1, repeat=3)) * 1000
            print(
                f"| {case.form} | {case.width}×{case.height} | {case.objects} | {len(found)} "
                f"| {fast:.1f} | {slow:.0f} | {slow / fast:.0f}× |"
            )


if __name__ == "__main__":
    main()
