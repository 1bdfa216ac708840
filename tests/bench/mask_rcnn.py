"""Mask R-CNN for the bench: 28 × 28 heat maps in each way of pasting, and torchvision's planes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco

from tasks.cards import Fit, InputSpec
from tasks.graph_file import Tensor
from tests.bench.case import Case
from worker.intake import Intake
from worker.mask_rcnn import bind
from worker.preprocess import Frame

SIZES = ((640, 480), (1920, 1080))
OBJECTS = (24, 83)
Raw = dict[str, np.ndarray]


class Objects(NamedTuple):
    boxes: np.ndarray  # (N, 4) xyxy as parts of the image
    classes: np.ndarray  # (N,) of 80
    scores: np.ndarray  # (N,)
    maps: np.ndarray  # (N, 28, 28)


def make_objects(seed: int, count: int) -> Objects:
    """Boxes of the sizes that COCO's have, with soft, somewhat rough ellipses in them."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.normal(np.log(1 / 6), 0.7, (count, 1))) * rng.uniform(0.7, 1.4, (count, 2))
    sides = sides.clip(0.02, 0.9)
    corners = rng.uniform(0, 1, (count, 2)) * (1 - sides)
    y, x = (np.mgrid[:28, :28] + 0.5) / 14 - 1
    coarse = rng.normal(0, 1.5, (count, 7, 7)).astype(np.float32)
    rough = np.stack([cv2.resize(each, (28, 28)) for each in coarse])
    maps = 1 / (1 + np.exp(-(8 * (0.85 - x**2 - y**2) + rough)))
    scores = rng.uniform(0.5, 1, count).astype(np.float32)
    boxes = np.hstack([corners, corners + sides]).astype(np.float32)
    return Objects(boxes, rng.integers(0, 80, count), scores, maps.astype(np.float32))


def rounded_plane(heat: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width): the ring of zeros, the box grown and cut to whole pixels, a resize."""
    reach = (box[2:] - box[:2]) * (15 / 28)
    middle = (box[:2] + box[2:]) / 2
    x1, y1, x2, y2 = np.trunc(np.concatenate([middle - reach, middle + reach])).astype(int)
    size = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    pasted = cv2.resize(np.pad(heat, 1), size, interpolation=cv2.INTER_LINEAR)
    plane = np.zeros((height, width), np.float32)
    left, top = max(x1, 0), max(y1, 0)
    right, bottom = min(x2 + 1, width), min(y2 + 1, height)
    plane[top:bottom, left:right] = pasted[top - y1 : bottom - y1, left - x1 : right - x1]
    return plane


def sampled_plane(heat: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width): each pixel looks its place in the box up, zero outside."""
    x1, y1, x2, y2 = box
    columns = (np.arange(width) + 0.5 - x1) / (x2 - x1) * 28 - 0.5
    rows = (np.arange(height) + 0.5 - y1) / (y2 - y1) * 28 - 0.5
    x, y = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    return cv2.remap(heat, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def plain(
    paste: Callable[..., np.ndarray], maps: np.ndarray, boxes: np.ndarray, height: int, width: int
) -> list[dict]:
    """A full-image plane for each detection, then its mask, then COCO's encoder."""
    masks = []
    for heat, box in zip(maps, boxes, strict=True):
        mask = paste(heat, box, height, width) > 0.5
        masks.append(coco.encode(np.asfortranarray(mask, dtype=np.uint8)))
    return masks


def cases() -> Iterator[Case]:
    forms = {"0033": security_0033, "Detectron2": detectron2, "torchvision": torchvision}
    for form, make in forms.items():
        for width, height in SIZES:
            for count in OBJECTS:
                objects = make_objects(count, count)
                yield Case(
                    f"mask_rcnn, {form}", width, height, count, *make(objects, height, width)
                )


def security_0033(
    objects: Objects, height: int, width: int
) -> tuple[Callable[..., object], Callable[..., list[dict]]]:
    """100 rows with a map for each of 81 classes, most of them of the background."""
    count = len(objects.boxes)
    frame, intake = _frame("pad", (480, 640), height, width)
    raw = {
        "classes": np.zeros(100, np.float32),
        "scores": np.zeros(100, np.float32),
        "boxes": np.zeros((100, 4), np.float32),
        "raw_masks": np.full((100, 81, 28, 28), 0.1, np.float32),
    }
    raw["classes"][:count] = objects.classes + 1
    raw["scores"][:count] = objects.scores
    content = [frame.content_width, frame.content_height]
    raw["boxes"][:count] = objects.boxes * np.float32(content * 2)
    raw["raw_masks"][np.arange(count), objects.classes + 1] = objects.maps
    boxes = frame.to_image(raw["boxes"][:count])
    return _ours(raw, frame, intake), partial(
        plain, rounded_plane, objects.maps, boxes, height, width
    )


def detectron2(
    objects: Objects, height: int, width: int
) -> tuple[Callable[..., object], Callable[..., list[dict]]]:
    frame, intake = _frame("sides", (800, 1333), height, width)
    content = [frame.content_width, frame.content_height]
    raw = {
        "pred_boxes": objects.boxes * np.float32(content * 2),
        "pred_classes": objects.classes.astype(np.float32),
        "pred_masks": objects.maps[:, None],
        "scores": objects.scores,
    }
    boxes = frame.to_image(raw["pred_boxes"])
    return _ours(raw, frame, intake), partial(
        plain, sampled_plane, objects.maps, boxes, height, width
    )


def torchvision(
    objects: Objects, height: int, width: int
) -> tuple[Callable[..., object], Callable[..., list[dict]]]:
    """The graph made the planes already; what is left is to find the masks in them."""
    frame, intake = _frame("native", None, height, width)
    boxes = objects.boxes * np.float32([width, height] * 2)
    planes = np.stack(
        [rounded_plane(*each, height, width) for each in zip(objects.maps, boxes, strict=True)]
    )
    raw = {
        "boxes": boxes,
        "labels": objects.classes + np.float32(1),
        "scores": objects.scores,
        "masks": planes[:, None],
    }
    ours = _ours(raw, frame, intake, {"masks": (None, 1, None, None)}, labels="one_based")
    return ours, partial(plain, lambda plane, *_: plane, planes, boxes, height, width)


def _frame(fit: Fit, size: tuple[int, int] | None, height: int, width: int) -> tuple[Frame, Intake]:
    fixed = size if fit == "pad" else None
    intake = Intake(InputSpec(fit=fit, size=size), "image", "nchw", fixed, np.float32)
    return intake.frame(height, width), intake


def _ours(
    raw: Raw, frame: Frame, intake: Intake, shapes: dict | None = None, **table: object
) -> Callable[..., object]:
    shapes = {name: array.shape for name, array in raw.items()} | (shapes or {})
    tensors = [Tensor(name, shape, "float") for name, shape in shapes.items()]
    return partial(bind(tensors, table, 80, intake), raw, frame)
