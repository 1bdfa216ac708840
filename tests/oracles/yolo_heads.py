"""Seeded raw outputs of an Ultralytics -seg network, with objects where the picture lies."""

from __future__ import annotations

import numpy as np

from tests.oracles.yolact_heads import _coefficients, _prototypes


def make_heads(
    seed, objects, frame, anchors=8400, classes=80, cells=160, depth=32, anchors_each=12
):
    """(4 + classes + depth, anchors) and (depth, cells, cells): boxes cxcywh in input pixels."""
    rng = np.random.default_rng(seed)
    side = frame.input_width
    prototypes = _prototypes(rng, cells, depth)
    boxes = rng.uniform(0, side, (anchors, 4)).astype(np.float32)
    scores = (rng.random((anchors, classes), dtype=np.float32) ** 8) * np.float32(0.02)
    coefficients = rng.uniform(-1, 1, (anchors, depth)).astype(np.float32)

    corner = np.array([frame.left, frame.top])
    size = np.array([frame.content_width, frame.content_height])
    centres = corner + rng.uniform(0.05, 0.95, (objects, 2)) * size
    # Objects of COCO are mostly small: a median side of a sixth of the picture, a long tail.
    sides = np.exp(rng.normal(np.log(1 / 6), 0.7, (objects, 1))) * rng.uniform(0.7, 1.4, 2)
    places = rng.permutation(anchors)[: objects * anchors_each].reshape(objects, anchors_each)
    for centre, extent, place in zip(centres, sides.clip(0.02, 0.9) * size, places, strict=True):
        box = np.concatenate([centre, extent])
        boxes[place] = box + rng.normal(0, 0.03, (len(place), 4)) * np.tile(extent, 2)
        boxes[place[0]] = box
        part = np.concatenate([centre - extent / 2, centre + extent / 2]) / side
        wanted = _coefficients(prototypes, part)
        coefficients[place] = wanted + rng.normal(0, 0.02, (len(place), depth))
        kind = rng.integers(classes)
        scores[place, kind] = rng.uniform(0.5, 0.98) * np.linspace(1, 0.2, len(place))
    rows = np.hstack([boxes, scores, coefficients]).astype(np.float32)
    return np.ascontiguousarray(rows.T), np.ascontiguousarray(np.moveaxis(prototypes, 2, 0))
