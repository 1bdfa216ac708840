"""Ultralytics' post-processing of -seg outputs, plain: every anchor, every pixel of every mask.

Masks come as the least and the most that they may be: float32 may decide a logit of about zero
either way. Interpolation between ones and zeros is done in whole numbers, so its ties are exact.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np

from tests.oracles.yolact import bilinear, greedy_nms, in_order

HAIR = 1e-6


class Plain(NamedTuple):
    boxes: np.ndarray  # (N, 4) xyxy, image pixels
    scores: np.ndarray
    classes: np.ndarray
    least: list[np.ndarray]  # (H, W) masks
    most: list[np.ndarray]


class Letterbox(NamedTuple):
    """Where an image of height × width lies in an input, as the authors' LetterBox puts it."""

    gain: float
    rows: slice
    columns: slice


def letterbox(height, width, input_height, input_width):
    gain = min(input_height / height, input_width / width)
    inside = max(round(height * gain), 1), max(round(width * gain), 1)
    margins = (input_height - inside[0]) / 2, (input_width - inside[1]) / 2
    top, left = (round(margin - 0.1) for margin in margins)
    bottom, right = (round(margin + 0.1) for margin in margins)
    return Letterbox(gain, slice(top, input_height - bottom), slice(left, input_width - right))


def raw_candidates(predictions, classes, threshold=0.25, multi_label=False):
    """[(box, score, class, coefficients, place)] of (N, 4 + classes + K) predictions."""
    found = []
    for place, row in enumerate(predictions):
        (cx, cy, w, h), scores = row[:4], row[4 : 4 + classes]
        scores = np.where(np.isfinite(scores), scores, np.float32(-np.inf))
        with np.errstate(all="ignore"):
            two = np.float32(2)
            box = np.array([cx - w / two, cy - h / two, cx + w / two, cy + h / two])
        for kind in range(classes) if multi_label else [int(scores.argmax())]:
            if scores[kind] > np.float32(threshold):
                found.append((box, scores[kind], kind, row[4 + classes :], place))
    return found


def listed(predictions, classes, threshold=0.25):
    """The same of an end-to-end graph's (N, 6 + K) rows."""
    return [
        (row[:4], row[4], int(row[5]), row[6:], place)
        for place, row in enumerate(predictions)
        if np.isfinite(row[4]) and row[4] > np.float32(threshold)
        if row[5] in range(classes)
    ]


def columns(found):
    boxes = np.array([each[0] for each in found], dtype=np.float32).reshape(-1, 4)
    return boxes, np.array([each[1] for each in found]), np.array([each[2] for each in found])


def suppressed(found, iou=0.7, candidates=30_000, limit=300):
    boxes, scores, classes = columns(found)
    ranked = [found[i] for i in in_order(boxes, scores, classes)][:candidates]
    return [ranked[i] for i in greedy_nms(*columns(ranked), iou, limit)]


def decode(found, prototypes, height, width, size, masks="upsampled", resize="rounded") -> Plain:
    """Detections whose box has an area in the image, best first."""
    place = letterbox(height, width, *size)
    rows = []
    for box, score, kind, coefficients, index in found:
        left, top = place.columns.start, place.rows.start
        corners = (box.astype(np.float64) - [left, top, left, top]) / place.gain
        x1, y1, x2, y2 = np.clip(corners, 0, [width, height, width, height])
        if x2 > x1 and y2 > y1:
            rows.append((-score, x1, y1, x2, y2, kind, index, box, coefficients))
    rows.sort(key=lambda row: row[:7])
    boxes = np.array([row[1:5] for row in rows]).reshape(-1, 4)
    least, most = [], []
    for row in rows:
        plane, spread = _logits(prototypes, row[8])
        if not np.isfinite(row[8]).all():
            pair = [np.zeros((height, width), bool)] * 2
        else:
            pair = [
                resized(mask[place.rows, place.columns], height, width, resize, hair)
                for mask, hair in zip(
                    at_input(plane, spread, row[7], size, masks), (-HAIR, HAIR), strict=True
                )
            ]
        least.append(pair[0])
        most.append(pair[1])
    scores = np.array([-row[0] for row in rows])
    return Plain(boxes, scores, np.array([row[5] for row in rows]), least, most)


def _logits(prototypes, coefficients):
    """(P, Q) in float64, and by how much float32 may be off. No number is far outside."""
    with np.errstate(all="ignore"):
        parts = coefficients.astype(np.float64)[:, None, None] * prototypes.astype(np.float64)
        plane = np.clip(np.nan_to_num(parts.sum(axis=0), nan=-1e30), -1e30, 1e30)
        spread = np.nan_to_num(HAIR * abs(parts).sum(axis=0), nan=0, posinf=0)
    return plane, spread


def at_input(plane, spread, box, size, masks):
    """The least and the most mask of the input's size."""
    if masks == "upsampled":
        surface = bilinear(plane, *size)
        near = bilinear(spread, *size)
        inside = _inside(box, *size)
        return (surface > near) & inside, (surface > -near) & inside
    part = [size[1] / plane.shape[1], size[0] / plane.shape[0]]
    inside = _inside(box * np.float32([1 / part[0], 1 / part[1]] * 2), *plane.shape)
    if masks == "probabilities":
        with np.errstate(over="ignore"):
            plane = 1 / (1 + np.exp(-plane)) - 0.5
    outside = -0.5 if masks == "probabilities" else 0
    surface = bilinear(np.where(inside, plane, outside), *size)
    near = bilinear(np.where(inside, spread, 0), *size)
    return surface > near, surface > -near if masks == "probabilities" else _above(surface, near)


def _above(surface, near):
    """Outside of the box a surface is zero to the bit, and no rounding lifts it."""
    return (surface > -near) & ((surface != 0) | (near > 0))


def _inside(box, height, width):
    x1, y1, x2, y2 = box
    row, column = np.arange(height)[:, None], np.arange(width)
    return (column >= x1) & (column < x2) & (row >= y1) & (row < y2)


@cache
def _weights(cells, pixels):
    """(pixels, cells), whole and 2 · pixels in sum: half-pixel centres, clamped."""
    weights = np.zeros((pixels, cells))
    for pixel in range(pixels):
        centre = Fraction((2 * pixel + 1) * cells - pixels, 2 * pixels)
        centre = min(max(centre, Fraction(0)), Fraction(cells - 1))
        low = int(centre)
        weights[pixel, low] += int((1 - (centre - low)) * 2 * pixels)
        if centre > low:
            weights[pixel, low + 1] += int((centre - low) * 2 * pixels)
    return weights


def resized(mask, height, width, resize, hair):
    """A mask of the content as the image's; values closer than a hair to the level, save those
    that are on it, are taken to the side of the hair."""
    rows, columns = _weights(mask.shape[0], height), _weights(mask.shape[1], width)
    value = rows @ mask.astype(np.float64) @ columns.T  # of whole numbers, and so exact
    whole = 4 * height * width
    if resize == "truncated":
        return value == whole if hair < 0 else value > whole * (1 - hair)
    return (2 * value == whole) | (value > whole * (0.5 - hair))
