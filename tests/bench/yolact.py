"""YOLACT for the bench: 19,248 anchors × 80 classes, prototypes 138 × 138 × 32."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import cv2
import numpy as np
from pycocotools import mask as coco

from tasks.cards import InputSpec
from tasks.graph_file import Tensor
from tests.bench.case import Case
from tests.oracles.yolact_heads import Heads, make_heads
from worker.detections import Wanted
from worker.intake import Intake
from worker.yolact import bind

SIZES = ((640, 480), (1920, 1080))
OBJECTS = (24, 83)
# The heads hold their objects at 0.5 and more; None is the authors' evaluation, up to 100 kept.
THRESHOLDS = (0.3, None)


def plain(heads: Heads, height: int, width: int, threshold: float | None) -> list[dict]:
    """The authors' steps on whole arrays: dense Fast NMS, a full-image float plane per mask."""
    scores = heads.scores[:, 1:]
    anchors = np.flatnonzero(scores.max(axis=1) > 0.05)
    scores, boxes = scores[anchors].T, heads.boxes[anchors]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :200]
    ranked, corners = np.take_along_axis(scores, order, axis=1), boxes[order]
    low = np.maximum(corners[:, :, None, :2], corners[:, None, :, :2])
    high = np.minimum(corners[:, :, None, 2:], corners[:, None, :, 2:])
    overlap = np.maximum(high - low, 0).prod(axis=-1)
    area = (corners[..., 2:] - corners[..., :2]).prod(axis=-1)
    iou = np.triu(overlap / (area[:, :, None] + area[:, None] - overlap), k=1)
    kept = iou.max(axis=1) <= 0.5
    scores, places = ranked[kept], order[kept]
    best = np.argsort(-scores, kind="stable")[:100]
    best = best[scores[best] >= (threshold or 0)]
    boxes, chosen = boxes[places[best]], anchors[places[best]]
    planes = 1 / (1 + np.exp(-(heads.prototypes @ heads.coefficients[chosen].T)))
    masks = []
    for index, box in enumerate(boxes):
        plane = _crop(planes[:, :, index], box)
        full = cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
        masks.append(coco.encode(np.asfortranarray(full, dtype=np.uint8)))
    return masks


def _crop(plane: np.ndarray, box: np.ndarray) -> np.ndarray:
    rows, columns = (np.arange(size) for size in plane.shape)
    x1, y1, x2, y2 = box * np.float32([plane.shape[1], plane.shape[0]] * 2)
    inside_x = (columns >= max(min(x1, x2) - 1, 0)) & (columns < max(x1, x2) + 1)
    inside_y = (rows >= max(min(y1, y2) - 1, 0)) & (rows < max(y1, y2) + 1)
    return plane * (inside_y[:, None] & inside_x)


def cases() -> Iterator[Case]:
    intake = Intake(InputSpec(), "image", "nchw", (550, 550), np.float32)
    for width, height in SIZES:
        for objects in OBJECTS:
            heads = make_heads(objects, objects)
            raw = {name: array[None] for name, array in heads._asdict().items()}
            tensors = [Tensor(name, array.shape, "float") for name, array in raw.items()]
            decode = bind(tensors, {}, 80, intake)
            frame = intake.frame(height, width)
            for threshold in THRESHOLDS:
                ours = partial(decode, raw, frame, Wanted(threshold))
                yield Case(
                    f"yolact, threshold {threshold or 'none'}",
                    width,
                    height,
                    objects,
                    ours,
                    partial(plain, heads, height, width, threshold),
                )
