"""YOLACT's post-processing, plain: every class, every box, every pixel of every mask.

Written from the authors' description of their evaluation, to be compared with the fast path.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Plain(NamedTuple):
    boxes: np.ndarray  # (N, 4) xyxy, image pixels
    scores: np.ndarray
    classes: np.ndarray
    surfaces: list[np.ndarray]  # (H, W) float64; the mask is where it is over 0.5


def iou(a, b):
    """One pair of boxes, in their own precision."""
    with np.errstate(all="ignore"):
        width = max(min(a[2], b[2]) - max(a[0], b[0]), a[0] * 0)
        height = max(min(a[3], b[3]) - max(a[1], b[1]), a[0] * 0)
        overlap = width * height
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
        return overlap / union


def in_order(boxes, scores, classes):
    """Usable indices by score (highest first), then coordinates, class, index.

    What is not finite is left out first: a sort over NaN has no meaning.
    """
    return sorted(
        usable(boxes, scores), key=lambda i: (-scores[i], *boxes[i].tolist(), classes[i], i)
    )


def usable(boxes, scores):
    return {i for i in range(len(scores)) if np.isfinite([scores[i], *boxes[i]]).all()}


def fast_nms(boxes, scores, classes, threshold, top_k, limit):
    seen: dict[int, list[int]] = {}
    kept = []
    for i in in_order(boxes, scores, classes):
        before = seen.setdefault(int(classes[i]), [])
        if len(before) < top_k:
            if all(iou(boxes[j], boxes[i]) <= threshold for j in before):
                kept.append(i)
            before.append(i)
    return kept[:limit]


def greedy_nms(boxes, scores, classes, threshold, limit, across_classes=False):
    kept: list[int] = []
    for i in in_order(boxes, scores, classes):
        rivals = [j for j in kept if across_classes or classes[j] == classes[i]]
        if all(iou(boxes[j], boxes[i]) <= threshold for j in rivals):
            kept.append(i)
    return kept[:limit]


def crop(plane, box):
    """A (P, Q) plane, zero outside the box and one cell around it."""
    rows, columns = plane.shape
    one = box.dtype.type(1)
    left, right = sorted([box[0] * box.dtype.type(columns), box[2] * box.dtype.type(columns)])
    top, bottom = sorted([box[1] * box.dtype.type(rows), box[3] * box.dtype.type(rows)])
    row, column = np.arange(rows), np.arange(columns)
    row_in = (row >= max(top - one, 0)) & (row < min(bottom + one, rows))
    column_in = (column >= max(left - one, 0)) & (column < min(right + one, columns))
    return np.where(row_in[:, None] & column_in, plane, 0)


def bilinear(plane, height, width):
    """Half-pixel centres, clamped at the edges."""

    def taps(cells, pixels):
        centre = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
        low = np.floor(centre).astype(int)
        return low, np.minimum(low + 1, cells - 1), centre - low

    top, bottom, down = taps(plane.shape[0], height)
    left, right, along = taps(plane.shape[1], width)
    rows = plane[top] * (1 - down)[:, None] + plane[bottom] * down[:, None]
    return rows[:, left] * (1 - along) + rows[:, right] * along


def surface(prototypes, coefficients, box, height, width):
    """(H, W): the mask is where this is over 0.5. A cell that is not a number is outside."""
    with np.errstate(over="ignore", invalid="ignore"):
        logits = prototypes.astype(np.float64) @ coefficients.astype(np.float64)
        plane = np.nan_to_num(1 / (1 + np.exp(-logits)), nan=0.0)
        cut = crop(plane, box)
    return bilinear(cut, height, width)


def decode_offsets(offsets, priors):
    centre = priors[:, :2] + offsets[:, :2] * np.float32(0.1) * priors[:, 2:]
    size = priors[:, 2:] * np.exp(offsets[:, 2:] * np.float32(0.2))
    return np.concatenate([centre - size / 2, centre - size / 2 + size], axis=1)


def detect(boxes, scores, nms="fast", limit=100, top_k=200, threshold=0.5, least=0.05):
    """(anchor, class) pairs, best first, from probabilities without background (N, C)."""
    scores = np.where(np.isfinite(scores), scores, np.float32(-np.inf))
    anchors = [i for i in range(len(scores)) if scores[i].max() > np.float32(least)]
    pairs = [(i, c) for i in anchors for c in range(scores.shape[1]) if scores[i, c] >= 0]
    if nms == "agnostic":
        pairs = [(i, int(scores[i].argmax())) for i in anchors]
    if nms == "per_class":
        pairs = [(i, c) for i, c in pairs if scores[i, c] > np.float32(least)]
    flat = (
        np.array([boxes[i] for i, _ in pairs]).reshape(-1, 4),
        np.array([scores[i, c] for i, c in pairs]),
        np.array([c for _, c in pairs]),
    )
    if nms == "fast":
        kept = fast_nms(*flat, threshold, top_k, limit)
    else:
        kept = greedy_nms(*flat, threshold, limit, across_classes=nms == "agnostic")
    return [pairs[k] for k in kept]


def decode(boxes, scores, coefficients, prototypes, height, width, **options) -> Plain:
    """Detections whose box has an area, best first, with the surface of each mask."""
    found = []
    for anchor, kind in detect(boxes, scores, **options):
        x1, y1, x2, y2 = boxes[anchor].astype(np.float64) * [width, height, width, height]
        x1, x2 = np.clip(sorted([x1, x2]), 0, width)
        y1, y2 = np.clip(sorted([y1, y2]), 0, height)
        if x2 > x1 and y2 > y1:
            found.append((-scores[anchor, kind], x1, y1, x2, y2, kind, anchor))
    found.sort(key=lambda row: row[:6])  # a tie is left in the order of the suppression
    rows = np.array([f[1:5] for f in found]).reshape(-1, 4)
    surfaces = [surface(prototypes, coefficients[f[6]], boxes[f[6]], height, width) for f in found]
    return Plain(rows, np.array([-f[0] for f in found]), np.array([f[5] for f in found]), surfaces)
