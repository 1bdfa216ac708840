"""Mask R-CNN's post-processing, plain: a full-image plane of probabilities for each detection.

Written from the authors' descriptions of their evaluation, to be compared with the fast path.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# COCO's ids leave out these.
ABSENT = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = [number for number in range(1, 91) if number not in ABSENT]


class Plain(NamedTuple):
    boxes: np.ndarray  # (N, 4) xyxy, image pixels, clipped
    scores: np.ndarray
    classes: np.ndarray
    surfaces: list[np.ndarray]  # (H, W) float64
    at_half: bool  # whether a pixel at 0.5 is on

    @property
    def masks(self):
        return [each >= 0.5 if self.at_half else each > 0.5 for each in self.surfaces]


def at(plane, rows, columns):
    """The plane at fractional cells, (len(rows), len(columns)); 0 is the first cell's centre."""

    def taps(places, cells):
        places = np.clip(places, 0, cells - 1)
        low = np.minimum(np.floor(places).astype(int), cells - 2)
        return low, places - low

    top, down = taps(rows, plane.shape[0])
    left, along = taps(columns, plane.shape[1])
    lines = plane[top] * (1 - down)[:, None] + plane[top + 1] * down[:, None]
    return lines[:, left] * (1 - along) + lines[:, left + 1] * along


def rounded(heat, box, height, width):
    """A ring of zeros, the box grown with it and cut to whole pixels, resized into it."""
    padded = np.pad(heat.astype(np.float64), 1)
    side = len(padded)
    (x1, y1, x2, y2), grown = box, side / len(heat)
    x, y, across, down = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2 * grown, (y2 - y1) / 2 * grown
    left, right = np.trunc([x - across, x + across])
    top, bottom = np.trunc([y - down, y + down])
    columns, rows = max(right - left + 1, 1), max(bottom - top + 1, 1)
    surface = np.zeros((height, width))
    seen_x = np.arange(int(max(left, 0)), int(min(right + 1, width)))
    seen_y = np.arange(int(max(top, 0)), int(min(bottom + 1, height)))
    if len(seen_x) and len(seen_y):
        surface[seen_y[0] : seen_y[-1] + 1, seen_x[0] : seen_x[-1] + 1] = at(
            padded,
            (seen_y - top + 0.5) * side / rows - 0.5,
            (seen_x - left + 0.5) * side / columns - 0.5,
        )
    return surface


def sampled(heat, box, height, width):
    """Each pixel of the image looks its place in the box up; outside the map is zero."""
    padded = np.pad(heat.astype(np.float64), 1)
    x1, y1, x2, y2 = box
    gx = ((np.arange(width) + 0.5) - x1) / (x2 - x1) * 2 - 1
    gy = ((np.arange(height) + 0.5) - y1) / (y2 - y1) * 2 - 1
    rows, columns = (((g + 1) * len(heat) - 1) / 2 for g in (gy, gx))
    return at(padded, rows + 1, columns + 1)


def decode(
    boxes,  # (N, 4) xyxy, pixels of the input
    labels,  # (N,)
    scores,  # (N,)
    heat,  # (N, S, S), (N, C, S, S) for every class, or (N, height, width) for `paste` None
    frame,
    categories,
    numbering="zero_based",
    paste="rounded",
    real=None,  # rows that are no padding
    limit=None,
):
    """Detections whose box has an area, best first."""
    height, width = frame.image_height, frame.image_width
    ids = {
        "zero_based": list(range(categories)),
        "one_based": list(range(1, categories + 1)),
        "coco91": COCO_IDS,
    }[numbering]
    found = []
    for row in range(len(boxes)):
        if not np.isfinite([scores[row], *boxes[row]]).all() or labels[row] not in ids:
            continue
        if real is not None and not real[row]:
            continue
        box = (boxes[row].astype(np.float64) - [frame.left, frame.top] * 2) / (
            [frame.scale_x, frame.scale_y] * 2
        )
        x1, x2 = np.clip(box[[0, 2]], 0, width)
        y1, y2 = np.clip(box[[1, 3]], 0, height)
        if x2 > x1 and y2 > y1:
            found.append((-float(scores[row]), x1, y1, x2, y2, ids.index(labels[row]), row, box))
    found.sort(key=lambda each: each[:7])
    found = found[:limit]
    surfaces = []
    for *_, kind, row, box in found:
        plane = heat[row, kind + 1] if heat.ndim == 4 else heat[row]
        clipped = np.clip(box, 0, [width, height, width, height])
        if not np.isfinite(plane).all():
            surfaces.append(np.zeros((height, width)))
        elif paste is None:
            surfaces.append(plane.astype(np.float64))
        elif paste == "rounded":
            surfaces.append(rounded(plane, box, height, width))
        else:
            surfaces.append(sampled(plane, clipped, height, width))
    return Plain(
        np.array([each[1:5] for each in found]).reshape(-1, 4),
        np.array([-each[0] for each in found]),
        np.array([each[5] for each in found], dtype=int),
        surfaces,
        paste == "sampled",
    )
