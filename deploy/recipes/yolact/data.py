"""Any COCO instance file as training samples, checked before training starts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

CACHE_BYTES = 6 * 2**30
LEAST_IMAGES = 8
CROWD = -2  # label of crowd regions in a batch


class DataError(Exception):
    """What is wrong with the data, in one sentence."""


@dataclass(frozen=True)
class Instance:
    category: int  # index into the dataset's categories
    mask: dict[str, Any]  # pycocotools RLE over the whole image
    box: tuple[float, float, float, float]  # xyxy, pixels
    crowd: bool


@dataclass(frozen=True)
class Sample:
    id: int
    path: Path
    height: int
    width: int
    instances: tuple[Instance, ...]


@dataclass
class Dataset:
    document: dict[str, Any]
    categories: tuple[dict[str, Any], ...]  # in the order of the class index
    samples: tuple[Sample, ...]
    skipped: int = 0  # annotations that cover no pixel
    cache: dict[int, np.ndarray] = field(default_factory=dict)

    def image(self, sample: Sample) -> np.ndarray:
        """RGB (H, W, 3) uint8, kept decoded while the cache has room."""
        kept = self.cache.get(sample.id)
        if kept is None:
            kept = read_image(sample)
            if kept.nbytes * (len(self.cache) + 1) < CACHE_BYTES:
                self.cache[sample.id] = kept
        return kept


def read_image(sample: Sample) -> np.ndarray:
    image = cv2.imread(str(sample.path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{sample.path} cannot be read as an image.")
    if image.shape[:2] != (sample.height, sample.width):
        raise DataError(
            f"{sample.path} is {image.shape[1]}x{image.shape[0]}, but the annotation file says "
            f"{sample.width}x{sample.height}."
        )
    return np.ascontiguousarray(image[..., ::-1])


def load_dataset(annotations: Path, images: Path | None = None) -> Dataset:
    """Read a COCO instance file; its images lie beside it unless `images` names a folder."""
    document = _read_document(annotations)
    root = images or annotations.parent
    categories = tuple(sorted(document["categories"], key=lambda category: category["id"]))
    index_of = {category["id"]: index for index, category in enumerate(categories)}
    if not index_of:
        raise DataError(f"{annotations} names no categories.")
    records = {image["id"]: image for image in document["images"]}
    if len(records) < len(document["images"]):
        raise DataError(f"{annotations} uses an image id twice.")
    found: dict[int, list[Instance]] = {id_: [] for id_ in records}
    skipped = 0
    for annotation in document["annotations"]:
        where = f"Annotation {annotation.get('id')} of {annotations}"
        if annotation["image_id"] not in records:
            raise DataError(f"{where} belongs to image {annotation['image_id']}, which is unknown.")
        if annotation["category_id"] not in index_of:
            raise DataError(f"{where} has category {annotation['category_id']}, which is unknown.")
        instance = _instance(
            annotation, records[annotation["image_id"]], index_of[annotation["category_id"]], where
        )
        if instance is None:
            skipped += 1
        else:
            found[annotation["image_id"]].append(instance)
    samples = tuple(
        Sample(
            record["id"],
            root / record["file_name"],
            record["height"],
            record["width"],
            tuple(found[record["id"]]),
        )
        for record in document["images"]
    )
    _check(annotations, root, samples, skipped)
    return Dataset(document, categories, samples, skipped)


def split(dataset: Dataset, share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Training and validation samples; the same for the same seed and file."""
    order = np.random.default_rng(seed).permutation(len(dataset.samples))
    held_out = min(max(1, round(share * len(order))), len(order) - 1)
    chosen = {int(index) for index in order[:held_out]}
    train = [s for i, s in enumerate(dataset.samples) if i not in chosen]
    validation = [s for i, s in enumerate(dataset.samples) if i in chosen]
    if not any(not i.crowd for s in train for i in s.instances):
        raise DataError("No image of the training split has an annotation: give more data.")
    return train, validation


def _read_document(annotations: Path) -> dict[str, Any]:
    try:
        document = json.loads(annotations.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{annotations} does not exist.") from None
    except ValueError as exc:
        raise DataError(f"{annotations} is not JSON: {exc}.") from exc
    parts = ("images", "annotations", "categories")
    missing = [p for p in parts if not isinstance(document, dict) or p not in document]
    if missing:
        raise DataError(f"{annotations} is not a COCO instance file: it has no {missing[0]}.")
    return document


def _instance(
    annotation: dict[str, Any], image: dict[str, Any], category: int, where: str
) -> Instance | None:
    """None where the annotation covers no pixel of its image."""
    height, width = image["height"], image["width"]
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, list):
            inside = [p for p in segmentation if _touches(p, height, width)]
            if not inside:
                return None
            mask = rle.merge(rle.frPyObjects(inside, height, width))
        elif isinstance(segmentation["counts"], list):
            mask = rle.frPyObjects(segmentation, height, width)
        else:
            mask = {"size": segmentation["size"], "counts": segmentation["counts"].encode("ascii")}
        if tuple(mask["size"]) != (height, width):
            raise DataError(f"{where} has a mask of {mask['size']} on a {height}x{width} image.")
        if rle.area(mask) == 0:
            return None
        x, y, w, h = (float(v) for v in rle.toBbox(mask))
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise DataError(f"{where} has a segmentation that cannot be read.") from exc
    return Instance(category, mask, (x, y, x + w, y + h), bool(annotation.get("iscrowd", 0)))


def _touches(polygon: list[float], height: int, width: int) -> bool:
    xs, ys = polygon[0::2], polygon[1::2]
    return (
        len(xs) >= 3
        and len(xs) == len(ys)
        and max(xs) > 0
        and max(ys) > 0
        and min(xs) < width
        and min(ys) < height
    )


def _check(annotations: Path, root: Path, samples: tuple[Sample, ...], skipped: int) -> None:
    missing = [s.path for s in samples if not s.path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(samples)} images of {annotations} are not below {root}, "
            f"{missing[0].name} for one; say where they are with --images."
        )
    usable = sum(any(not i.crowd for i in s.instances) for s in samples)
    if usable == 0:
        hint = f" ({skipped} cover no pixel of their image)" if skipped else ""
        raise DataError(f"{annotations} has no annotation to learn from{hint}.")
    if usable < LEAST_IMAGES:
        raise DataError(
            f"{annotations} has {usable} images with annotations, "
            f"and at least {LEAST_IMAGES} are needed to train and to validate."
        )
