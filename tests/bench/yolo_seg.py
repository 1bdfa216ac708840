"""Ultralytics -seg for the bench: an input of 640 × 640, 8,400 anchors × 80 classes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import cv2
import numpy as np
from pycocotools import mask as coco

from tasks.cards import InputSpec
from tasks.graph_file import Tensor
from tests.bench.case import Case
from tests.oracles.yolo_heads import make_heads
from worker.intake import Intake
from worker.preprocess import Frame
from worker.yolo_seg import bind

SIZES = ((640, 480), (1920, 1080))
OBJECTS = (24, 83)
SIDE = 640


def plain(rows: np.ndarray, prototypes: np.ndarray, frame: Frame) -> list[dict]:
    """The authors' steps on whole arrays: boxes shifted by class, dense IoU, full-size planes."""
    kinds, scores = rows[4:84].argmax(axis=0), rows[4:84].max(axis=0)
    chosen = np.flatnonzero(scores > 0.25)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    centre, size = rows[:2, chosen].T, rows[2:4, chosen].T
    boxes = np.hstack([centre - size / 2, centre + size / 2])
    kept = _greedy(boxes + kinds[chosen, None].astype(np.float32) * 7680)[:300]
    boxes, coefficients = boxes[kept], rows[84:, chosen[kept]].T
    planes = (coefficients @ prototypes.reshape(len(prototypes), -1)).reshape(
        -1, *prototypes.shape[1:]
    )
    top, left = frame.top, frame.left
    inside = slice(top, top + frame.content_height), slice(left, left + frame.content_width)
    whole = frame.image_width, frame.image_height
    masks = []
    for plane, box in zip(planes, boxes, strict=True):
        full = cv2.resize(plane, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) > 0
        full &= _inside(box, SIDE, SIDE)
        full = cv2.resize(full[inside].astype(np.uint8), whole)
        masks.append(coco.encode(np.asfortranarray(full, dtype=np.uint8)))
    return masks


def _greedy(boxes: np.ndarray) -> list[int]:
    low = np.maximum(boxes[:, None, :2], boxes[:, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    overlap = np.maximum(high - low, 0).prod(axis=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    over = overlap / (area[:, None] + area - overlap) > 0.7
    kept: list[int] = []
    for place in range(len(boxes)):
        if not over[place, kept].any():
            kept.append(place)
    return kept


def _inside(box: np.ndarray, height: int, width: int) -> np.ndarray:
    x1, y1, x2, y2 = box
    row, column = np.arange(height)[:, None], np.arange(width)
    return (column >= x1) & (column < x2) & (row >= y1) & (row < y2)


def cases() -> Iterator[Case]:
    spec = InputSpec(fit="letterbox", std=(255.0, 255.0, 255.0))
    intake = Intake(spec, "images", "nchw", (SIDE, SIDE), np.float32)
    for width, height in SIZES:
        frame = intake.frame(height, width)
        for objects in OBJECTS:
            rows, prototypes = make_heads(objects, objects, frame)
            raw = {"output0": rows[None], "output1": prototypes[None]}
            tensors = [Tensor(name, array.shape, "float") for name, array in raw.items()]
            yield Case(
                "yolo_seg",
                width,
                height,
                objects,
                partial(bind(tensors, {}, 80, intake), raw, frame),
                partial(plain, rows, prototypes, frame),
            )
