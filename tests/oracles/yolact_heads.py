"""Seeded YOLACT heads like those of a real picture: objects, anchors around each, a noise floor."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


class Heads(NamedTuple):
    """What the graph of form B gives for one picture, without the batch axis."""

    boxes: np.ndarray  # (N, 4) xyxy as parts of the image
    scores: np.ndarray  # (N, 1 + classes), class 0 is the background
    coefficients: np.ndarray  # (N, K)
    prototypes: np.ndarray  # (P, Q, K)


def make_heads(
    seed: int,
    objects: int,
    anchors: int = 19248,
    classes: int = 80,
    cells: int = 138,
    depth: int = 32,
    anchors_each: int = 15,
) -> Heads:
    rng = np.random.default_rng(seed)
    prototypes = _prototypes(rng, cells, depth)
    boxes = rng.uniform(-0.1, 1.1, (anchors, 4)).astype(np.float32)
    coefficients = rng.uniform(-1, 1, (anchors, depth)).astype(np.float32)
    scores = (rng.random((anchors, 1 + classes), dtype=np.float32) ** 8) * np.float32(0.02)

    centres = rng.uniform(0.05, 0.95, (objects, 2))
    # Objects of COCO are mostly small: a median side of a sixth of the picture, a long tail.
    sides = np.exp(rng.normal(np.log(1 / 6), 0.7, (objects, 1))) * rng.uniform(0.7, 1.4, 2)
    places = rng.permutation(anchors)[: objects * anchors_each].reshape(objects, anchors_each)
    for centre, side, place in zip(centres, sides.clip(0.02, 0.9), places, strict=True):
        box = np.concatenate([centre - side / 2, centre + side / 2])
        jitter = rng.normal(0, 0.05, (len(place), 4)) * np.tile(side, 2)
        jitter[0] = 0
        boxes[place] = box + jitter
        wanted = _coefficients(prototypes, box)
        coefficients[place] = wanted + rng.normal(0, 0.02, (len(place), depth))
        first, second = rng.permutation(classes)[:2] + 1
        peak = rng.uniform(0.5, 0.98)
        scores[place, first] = peak * np.linspace(1, 0.06, len(place)) ** 1.5
        scores[place, second] = scores[place, first] * rng.uniform(0, 0.2)
    scores[:, 0] = np.maximum(1 - scores[:, 1:].sum(axis=1), 0)
    return Heads(boxes, scores, coefficients, prototypes)


def _prototypes(rng: np.random.Generator, cells: int, depth: int) -> np.ndarray:
    """Smooth fields of several scales, cut at zero as the network's ReLU does."""
    planes = []
    for index in range(depth):
        coarse = rng.normal(0.3, 1, (4 + index, 4 + index)).astype(np.float32)
        planes.append(cv2.resize(coarse, (cells, cells), interpolation=cv2.INTER_CUBIC))
    return np.maximum(np.stack(planes, axis=-1), 0).astype(np.float32)


def _coefficients(prototypes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The best fit to an ellipse that fills the box, +6 inside and -6 around it."""
    rows, columns, depth = prototypes.shape
    x1, y1, x2, y2 = box * [columns, rows, columns, rows]
    around = np.s_[
        max(int(y1) - 2, 0) : max(int(y2) + 3, 1), max(int(x1) - 2, 0) : max(int(x2) + 3, 1)
    ]
    y, x = np.mgrid[:rows, :columns][(slice(None), *around)] + 0.5
    inside = ((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) / (y2 - y1)) ** 2 < 0.25
    features = prototypes[around].reshape(-1, depth)
    target = np.where(inside, 6.0, -6.0).ravel()
    penalty = 0.005 * len(target) * np.eye(depth)
    return np.linalg.solve(features.T @ features + penalty, features.T @ target)
