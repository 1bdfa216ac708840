"""The DETR family for the bench: DETR at 800 × 1067, RF-DETR-Seg preview at 432², Mask2Former."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from tasks.cards import InputSpec
from tasks.categories import coco80
from tasks.graph_file import Tensor
from tests.bench.case import Case
from worker.detr import bind
from worker.intake import Intake

Floats = NDArray[np.float32]

SIZES = ((640, 480), (1920, 1080))
OBJECTS = (24, 83)


def heads(objects: int, queries: int, columns: int, cells: tuple[int, int]) -> list[Floats]:
    """Logits, masks and boxes: ellipses of the sizes of a photo's objects, with rough edges; the
    first of the queries are sure of their class, the others of none."""
    random = np.random.default_rng(objects)
    classes = range(80) if columns == 81 else [each.id for each in coco80()]
    logits = np.full((1, queries, columns), -20.0)
    logits[..., classes] = random.normal(-6, 1, (1, queries, 80))
    logits[0, np.arange(objects), random.choice(classes, objects)] = 5
    if columns != 91:
        logits[0, objects:, -1] = 2
    centre = random.uniform(0.1, 0.9, (queries, 2))
    sides = np.clip(random.lognormal(-1.6, 0.7, (queries, 2)), 0.03, 0.9)
    y, x = ((np.arange(n) + 0.5) / n for n in cells)
    down = (y - centre[:, 1:2]) / sides[:, 1:2] * 2
    across = (x - centre[:, :1]) / sides[:, :1] * 2
    planes = 8 * (1 - np.sqrt(down[:, :, None] ** 2 + across[:, None, :] ** 2))
    planes += random.normal(0, 0.3, planes.shape)
    boxes = np.hstack([centre, sides])[None]
    return [each.astype(np.float32) for each in (logits, np.maximum(planes, -20)[None], boxes)]


def resized(plane: Floats, height: int, width: int) -> Floats:
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)


def softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (raised / raised.sum(axis=1, keepdims=True))[:, :-1]


def encoded(masks: list[NDArray[np.bool_]]) -> list[dict]:
    return [coco.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]


def nearest(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    size = (width, height)
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0


def plain_detr(raw: list[Floats], height: int, width: int, least: float) -> list[dict]:
    """Every query at the input's size, and then at the image's."""
    logits, planes, _ = (head[0] for head in raw)
    chosen = np.flatnonzero(softmax(logits).max(axis=1) >= least)
    whole = [1 / (1 + np.exp(-resized(planes[query], 800, 1067))) > 0.5 for query in chosen]
    return encoded([nearest(mask, height, width) for mask in whole])


def plain_mask2former(raw: list[Floats], height: int, width: int, least: float) -> list[dict]:
    logits, planes, _ = (head[0] for head in raw)
    scores = softmax(logits)
    best = np.argsort(-scores, axis=None, kind="stable")[: len(scores)]
    query, column = np.divmod(best, scores.shape[1])
    surfaces = [resized(planes[each], 384, 384) for each in query]
    on = [surface > 0 for surface in surfaces]
    sure = [
        (1 / (1 + np.exp(-surface)) * mask).sum() / (mask.sum() + 1e-6)
        for surface, mask in zip(surfaces, on, strict=True)
    ]
    kept = np.flatnonzero(scores[query, column] * sure >= least)
    return encoded([nearest(on[each], height, width) for each in kept])


def plain_rf_detr(raw: list[Floats], height: int, width: int, least: float) -> list[dict]:
    logits, planes, _ = (head[0] for head in raw)
    scores = 1 / (1 + np.exp(-logits))
    best = np.argsort(-scores, axis=None, kind="stable")[: len(scores)]
    query, column = np.divmod(best, scores.shape[1])
    chosen = query[scores[query, column] > least]
    return encoded([resized(planes[each], height, width) > 0 for each in chosen])


# Names of the outputs, queries, class columns, cells, input, score threshold and plain version. The
# authors' own evaluation of DETR has no threshold.
DETR = ("pred_logits", "pred_masks", "pred_boxes"), 100, 92, (200, 267), (800, 1067)
MASK2FORMER = ("class_queries_logits", "masks_queries_logits", None), 100, 81, (96, 96), (384, 384)
RF_DETR = ("labels", "masks", "dets"), 200, 91, (108, 108), (432, 432)
FORMS = {
    "detr, threshold 0.5": (*DETR, 0.5, plain_detr),
    "detr, threshold none": (*DETR, 0.0, plain_detr),
    "mask2former, threshold 0.5": (*MASK2FORMER, 0.5, plain_mask2former),
    "rf_detr, threshold 0.3": (*RF_DETR, 0.3, plain_rf_detr),
}


def cases() -> Iterator[Case]:
    for form, (names, queries, columns, cells, size, least, plain) in FORMS.items():
        intake = Intake(InputSpec(), "image", "nchw", size, np.float32)
        for width, height in SIZES:
            for objects in OBJECTS:
                made = heads(objects, queries, columns, cells)
                raw = {name: head for name, head in zip(names, made, strict=True) if name}
                tensors = [Tensor(name, head.shape, "float") for name, head in raw.items()]
                decode = bind(tensors, {"score_threshold": least}, 80, intake)
                ours = partial(decode, raw, intake.frame(height, width))
                slow = partial(plain, made, height, width, least)
                yield Case(form, width, height, objects, ours, slow)
