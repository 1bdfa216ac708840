"""Seeded synthetic scenes with COCO ground truth: textured, rotated, overlapping shapes.

Scene i of a seed is the same whatever the count or the number of processes.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from outlines import KINDS, outline
from pycocotools import mask as rle
from textures import ground, surface

SHAPES = ("disc", "square", "triangle", "star", "ring", "cross")
STRANGERS = ("heart", "crescent", "arrow")  # drawn only when asked for: the demo model knows none
MIN_SIDE, MAX_SIDE = 256, 480
MIN_RADIUS = 15
MIN_VISIBLE = 0.45  # of the whole shape, also after later shapes covered it
MIN_PIXELS = 60
OVERSAMPLING = 3


def draw_scene(
    rng: np.random.Generator, kinds: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Image (H, W, 3) BGR uint8, owner map (H, W) uint8 (0 is ground, i the i-th kind), kinds."""
    height, width = (int(v) for v in rng.integers(MIN_SIDE, MAX_SIDE + 1, 2))
    image, tone = ground(rng, height, width)
    owner = np.zeros((height, width), np.uint8)
    drawn: list[str] = []
    whole: list[int] = []  # pixels of each shape were it alone on an endless canvas
    for _ in range(int(rng.integers(3, 11))):
        for _attempt in range(8):
            kind = kinds[int(rng.integers(len(kinds)))]
            if place(rng, image, owner, whole, kind, tone):
                drawn.append(kind)
                break
    blur = rng.uniform(0.3, 1.1)
    image = cv2.GaussianBlur(image, (0, 0), blur) if rng.random() < 0.3 else image
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(2, 11))
    return np.clip(image + noise, 0, 255).astype(np.uint8), owner, drawn


def place(
    rng: np.random.Generator,
    image: np.ndarray,
    owner: np.ndarray,
    whole: list[int],
    kind: str,
    tone: np.ndarray,
) -> bool:
    """Try one shape at one spot; True if it was drawn. Refuses spots that hide a shape too much."""
    height, width = owner.shape
    largest = 0.27 * min(height, width)
    radius = float(np.exp(rng.uniform(np.log(MIN_RADIUS), np.log(largest))))
    cover = rasterise(rng, kind, radius)
    side = cover.shape[0]
    x0 = int(rng.uniform(-0.25 * side, width - 0.75 * side))
    y0 = int(rng.uniform(-0.25 * side, height - 0.75 * side))
    rows = slice(max(y0, 0), min(y0 + side, height))
    cols = slice(max(x0, 0), min(x0 + side, width))
    inside = cover[rows.start - y0 : rows.stop - y0, cols.start - x0 : cols.stop - x0]
    solid = inside >= 0.5
    total = int((cover >= 0.5).sum())
    if solid.sum() < max(MIN_VISIBLE * total, MIN_PIXELS):
        return False
    window = owner[rows, cols]
    before = np.bincount(owner.ravel(), minlength=len(whole) + 1)
    hidden = np.bincount(window[solid], minlength=len(whole) + 1)
    for number, pixels in enumerate(whole, start=1):
        left = before[number] - hidden[number]
        if hidden[number] and left < max(MIN_VISIBLE * pixels, MIN_PIXELS):
            return False
    window[solid] = len(whole) + 1
    whole.append(total)
    paint = surface(rng, side, tone)[
        rows.start - y0 : rows.stop - y0, cols.start - x0 : cols.stop - x0
    ]
    alpha = inside[..., None]
    image[rows, cols] = image[rows, cols] * (1 - alpha) + paint * alpha
    return True


def rasterise(rng: np.random.Generator, kind: str, radius: float) -> np.ndarray:
    """Coverage (S, S) float32 in 0..1 of one rotated, stretched shape."""
    side = int(2 * radius) + 4
    angle, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.65, 1.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    contours = []
    for contour in outline(kind, rng):
        points = (contour * [1.0, stretch]) @ turn.T * radius + side / 2
        contours.append(np.round(points * OVERSAMPLING * 16).astype(np.int32))
    canvas = np.zeros((side * OVERSAMPLING, side * OVERSAMPLING), np.uint8)
    cv2.fillPoly(canvas, contours, 255, shift=4)  # even-odd, so an inner contour is a hole
    small = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def scene_records(
    index: int, folder: Path, seed: int, kinds: tuple[str, ...], quality: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write scene `index` and return its COCO image and annotations (ids set by the caller)."""
    rng = np.random.default_rng([seed, index])
    image, owner, drawn = draw_scene(rng, kinds)
    name = f"{index + 1:06d}.jpg"
    cv2.imwrite(str(folder / name), image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    height, width = owner.shape
    record = {"id": index + 1, "file_name": name, "width": width, "height": height}
    annotations = []
    for number, kind in enumerate(drawn, start=1):
        encoded = rle.encode(np.asfortranarray(owner == number, dtype=np.uint8))
        annotations.append(
            {
                "image_id": index + 1,
                "category_id": KINDS.index(kind) + 1,
                "segmentation": {
                    "size": encoded["size"],
                    "counts": encoded["counts"].decode("ascii"),
                },
                "area": int(rle.area(encoded)),
                "bbox": [float(v) for v in rle.toBbox(encoded)],
                "iscrowd": 0,
            }
        )
    return record, annotations


def write_scenes(
    folder: Path,
    count: int,
    seed: int,
    kinds: tuple[str, ...] = SHAPES,
    quality: int = 85,
    jobs: int = 1,
) -> Path:
    """Draw `count` scenes into `folder` and write `folder/instances.json`; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    one = partial(scene_records, folder=folder, seed=seed, kinds=kinds, quality=quality)
    if jobs > 1:
        with ProcessPoolExecutor(jobs) as pool:
            scenes = list(pool.map(one, range(count), chunksize=32))
    else:
        scenes = [one(index) for index in range(count)]
    annotations = [annotation for _, found in scenes for annotation in found]
    document = {
        "images": [record for record, _ in scenes],
        "annotations": [{"id": i, **found} for i, found in enumerate(annotations, start=1)],
        "categories": [
            {"id": KINDS.index(kind) + 1, "name": kind, "supercategory": "shape"}
            for kind in sorted(kinds, key=KINDS.index)
        ],
    }
    truth = folder / "instances.json"
    partial_file = truth.with_suffix(".json.partial")
    partial_file.write_text(json.dumps(document, separators=(",", ":")) + "\n")
    partial_file.replace(truth)
    return truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the images and instances.json")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(SHAPES), metavar="KIND")
    parser.add_argument("--quality", type=int, default=85, help="of the JPEG files")
    parser.add_argument("--jobs", type=int, default=1, help="processes that draw")
    args = parser.parse_args()
    kinds = tuple(args.kinds)
    print(write_scenes(args.out, args.count, args.seed, kinds, args.quality, args.jobs))


if __name__ == "__main__":
    main()
