"""The DETR family's post-processing, plain: every query, every pixel, one step after the other.

Scores are computed in float32, as the networks' own code does, so that the order is the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tests.oracles.yolact import bilinear


class Plain(NamedTuple):
    boxes: np.ndarray  # (N, 4) xyxy, image pixels; of the mask where the graph gives none
    scores: np.ndarray
    classes: np.ndarray
    surfaces: list[np.ndarray]  # (H, W) float64 logits; the mask is where it is over 0
    dropped: int


def softmax(logits):
    with np.errstate(invalid="ignore"):
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)


def sigmoid(logits):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))


def nearest(surface, height, width):
    """PyTorch's nearest: the floor of a float32 product."""

    def places(cells, pixels):
        step = np.float32(cells) / np.float32(pixels)
        return [min(int(np.float32(i) * step), cells - 1) for i in range(pixels)]

    rows, columns = places(surface.shape[0], height), places(surface.shape[1], width)
    return surface[np.ix_(rows, columns)]


def best_of_all(scores):
    """(query, class, score) of the best Q of a (Q, C) table; of equal ones the first."""
    table = [(-scores[q, c], q, c) for q in range(len(scores)) for c in range(scores.shape[1])]
    table = sorted(row for row in table if np.isfinite(row[0]))
    return [(q, c, -score) for score, q, c in table[: len(scores)]]


def finite(plane):
    return np.where(np.isfinite(plane), plane, 0).astype(np.float64)


def detr(logits, planes, frame):
    """Of each query its best class, with the logits that its mask is made of."""
    table = softmax(logits)[:, :-1]
    for query, scores in enumerate(table):
        if np.isfinite(scores).all():
            best = int(scores.argmax())
            surface = bilinear(finite(planes[query]), frame.input_height, frame.input_width)
            bottom, right = frame.top + frame.content_height, frame.left + frame.content_width
            surface = surface[frame.top : bottom, frame.left : right]
            yield query, best, scores[best], nearest(surface, frame.image_height, frame.image_width)


def mask2former(logits, planes, frame, least=0.5):
    for query, column, score in best_of_all(softmax(logits)[:, :-1]):
        surface = bilinear(finite(planes[query]), 384, 384)
        on = surface > 0
        score *= np.float32((sigmoid(surface) * on).sum() / (on.sum() + 1e-6))
        if score >= np.float32(least):
            bottom = round(384 * frame.content_height / frame.input_height)
            right = round(384 * frame.content_width / frame.input_width)
            surface = surface[:bottom, :right]
            yield query, column, score, nearest(surface, frame.image_height, frame.image_width)


def rf_detr(logits, planes, frame, least=0.3):
    scores = np.where(np.isfinite(logits), sigmoid(logits), np.float32(-np.inf))
    for query, column, score in best_of_all(scores):
        if score > np.float32(least):
            surface = bilinear(finite(planes[query]), frame.image_height, frame.image_width)
            yield query, column, score, surface


def decode(form, logits, planes, boxes, frame, categories, **options) -> Plain:
    """categories: from class column to category; those that are missing are none."""
    height, width = frame.image_height, frame.image_width
    found, dropped = [], 0
    for query, column, score, surface in form(logits, planes, frame, **options):
        if column not in categories:
            continue
        on_rows, on_columns = np.nonzero(surface > 0)
        if boxes is not None:
            cx, cy, w, h = boxes[query].astype(np.float64) * [width, height, width, height]
            box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
            if not np.isfinite(boxes[query]).all():
                continue
            box = np.clip(box, 0, [width, height, width, height]).tolist()
            if box[0] >= box[2] or box[1] >= box[3]:
                continue
        if not len(on_rows):
            dropped += 1
            continue
        if boxes is None:
            box = [on_columns.min(), on_rows.min(), on_columns.max() + 1, on_rows.max() + 1]
        found.append((-score, *map(float, box), categories[column], query, surface))
    found.sort(key=lambda row: row[:7])
    return Plain(
        np.array([row[1:5] for row in found]).reshape(-1, 4),
        np.array([-row[0] for row in found]),
        np.array([row[5] for row in found], dtype=int),
        [row[7] for row in found],
        dropped,
    )
