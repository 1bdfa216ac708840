"""One sample to network input: window, flips and colour, with masks and boxes in step."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from data import CROWD, Dataset, Sample
from pycocotools import mask as rle

FILL = (124, 117, 104)  # RGB beside the image where the window is larger
MAX_INSTANCES = 64
LEAST_SHARE = 0.25  # of an instance that must remain in the window
LEAST_SIDE = 3.0  # pixels of the network's input


@dataclass(frozen=True)
class Augmentation:
    zoom_chance: float = 0.6
    smallest_window: float = 0.6  # of the image's sides
    largest_window: float = 1.25
    flip: float = 0.5
    flip_vertical: float = 0.0
    colour: float = 0.25  # strength


NONE = Augmentation(zoom_chance=0.0, flip=0.0, colour=0.0)


@dataclass(frozen=True)
class Window:
    """A rectangle of the image, in pixels; it may reach over the image's edges."""

    x: int
    y: int
    width: int
    height: int

    def warp(self, picture: np.ndarray, size: int, fill: tuple[int, ...]) -> np.ndarray:
        """The window stretched to (size, size), sampled as cv2.resize does."""
        sx, sy = self.width / size, self.height / size
        back = np.array(
            [[sx, 0, self.x + sx / 2 - 0.5], [0, sy, self.y + sy / 2 - 0.5]], np.float64
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        if (self.x, self.y) == (0, 0) and picture.shape[:2] == (self.height, self.width):
            return cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)
        return cv2.warpAffine(picture, back, (size, size), flags=flags, borderValue=fill)


@dataclass
class Example:
    image: np.ndarray  # (S, S, 3) RGB uint8
    boxes: np.ndarray  # (n, 4) float32 normalised xyxy
    labels: np.ndarray  # (n,) int64, CROWD for crowds
    masks: np.ndarray  # (n, P, P) uint8


def make_example(
    dataset: Dataset,
    sample: Sample,
    rng: np.random.Generator,
    how: Augmentation,
    size: int,
    proto_size: int,
) -> Example:
    window = choose_window(rng, sample, how)
    image = window.warp(dataset.image(sample), size, FILL)
    boxes, labels, masks = [], [], []
    largest = sorted(sample.instances, key=lambda i: -int(rle.area(i.mask)))[:MAX_INSTANCES]
    decoded = rle.decode([i.mask for i in largest]) if largest else None  # (H, W, n), F order
    for index, instance in enumerate(largest):
        mask = decoded[..., index]
        box = box_in_window(mask, instance.box, window)
        if box is None or (np.asarray(box[2:]) - box[:2]).min() * size < LEAST_SIDE:
            continue
        boxes.append(box)
        labels.append(CROWD if instance.crowd else instance.category)
        turned = Window(window.y, window.x, window.height, window.width)
        fine = turned.warp(mask.T * np.uint8(255), 2 * proto_size, (0,))  # mask.T is contiguous
        masks.append(cv2.resize(fine, (proto_size, proto_size), interpolation=cv2.INTER_AREA).T)
    example = Example(
        image,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(masks, np.uint8).reshape(-1, proto_size, proto_size),
    )
    if rng.random() < how.flip:
        example = flip(example, horizontal=True)
    if rng.random() < how.flip_vertical:
        example = flip(example, horizontal=False)
    if how.colour:
        example.image = recolour(example.image, rng, how.colour)
    return example


def choose_window(rng: np.random.Generator, sample: Sample, how: Augmentation) -> Window:
    if rng.random() >= how.zoom_chance:
        return Window(0, 0, sample.width, sample.height)
    zoom = rng.uniform(how.smallest_window, how.largest_window)
    zoom_x, zoom_y = np.clip(
        zoom * rng.uniform(0.85, 1.15, 2), how.smallest_window, how.largest_window
    )
    width, height = round(sample.width * zoom_x), round(sample.height * zoom_y)
    x, y = (
        int(rng.integers(min(0, room), max(0, room) + 1))
        for room in (sample.width - width, sample.height - height)
    )
    return Window(x, y, width, height)


def box_in_window(
    mask: np.ndarray, box: tuple[float, float, float, float], window: Window
) -> tuple[float, float, float, float] | None:
    """Normalised box of what the window shows; None where too little of the instance remains."""
    x1, y1, x2, y2 = box
    right, bottom = window.x + window.width, window.y + window.height
    if x1 < window.x or y1 < window.y or x2 > right or y2 > bottom:
        left, top = max(window.x, 0), max(window.y, 0)
        shown = mask[top : max(bottom, 0), left : max(right, 0)]
        if shown.sum(dtype=np.int64) < max(1, LEAST_SHARE * mask.sum(dtype=np.int64)):
            return None
        rows, cols = shown.any(1).nonzero()[0], shown.any(0).nonzero()[0]
        x1, x2 = left + cols[0], left + cols[-1] + 1
        y1, y2 = top + rows[0], top + rows[-1] + 1
    return (
        (x1 - window.x) / window.width,
        (y1 - window.y) / window.height,
        (x2 - window.x) / window.width,
        (y2 - window.y) / window.height,
    )


def flip(example: Example, *, horizontal: bool) -> Example:
    axis = 0 if horizontal else 1
    boxes = example.boxes.copy()
    boxes[:, axis] = 1 - example.boxes[:, axis + 2]
    boxes[:, axis + 2] = 1 - example.boxes[:, axis]
    across = 1 if horizontal else 0
    image = np.ascontiguousarray(np.flip(example.image, across))
    masks = np.ascontiguousarray(np.flip(example.masks, across + 1))
    return Example(image, boxes, example.labels, masks)


def recolour(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Random contrast, brightness and cast, as one table per channel."""
    levels = np.arange(256, dtype=np.float32)[:, None] / 255 - 0.5
    contrast = 1 + strength * rng.uniform(-1, 1)
    cast = 1 + 0.5 * strength * rng.uniform(-1, 1, 3)
    shift = 0.4 * strength * (rng.uniform(-1, 1) + 0.5 * rng.uniform(-1, 1, 3))
    table = np.clip((levels * contrast * cast + shift + 0.5) * 255, 0, 255).astype(np.uint8)
    return cv2.LUT(image, table[None])
