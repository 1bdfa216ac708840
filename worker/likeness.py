"""How far two datasets of the same images are apart, instance by instance."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from tasks.folder import Folder
from worker.evaluate import Record, read_dataset

MATCH_IOU = 0.5


def compare(reference: Folder, other: Folder, threshold: float) -> Record:
    """What of one dataset the other has too, and how alike the pairs are.

    Instances that score at least `threshold` in either are counted; the partner of one may score
    less, so that what lies on the threshold is no difference.
    """
    ours, theirs = _by_image(reference), _by_image(other)
    counted = matched = flips = 0
    overlaps: list[float] = []
    drifts: list[float] = []
    for image in ours.keys() & theirs.keys():
        a, b = ours[image], theirs[image]
        counted += sum(found["score"] >= threshold for found in (*a, *b))
        overlap = _overlap(a, b)
        for i, j in _pairs(overlap):
            scores = a[i]["score"], b[j]["score"]
            matched += sum(score >= threshold for score in scores)
            if max(scores) >= threshold:
                overlaps.append(float(overlap[i, j]))
                drifts.append(abs(scores[0] - scores[1]))
                flips += a[i]["category_id"] != b[j]["category_id"]
    return {
        "images": len(ours.keys() & theirs.keys()),
        "images_in_one_only": len(ours.keys() ^ theirs.keys()),
        "instances": counted,
        "matched": round(matched / counted, 4) if counted else 1.0,
        "mask_iou": round(float(np.mean(overlaps)), 4) if overlaps else 1.0,
        "score_drift": round(float(np.mean(drifts)), 5) if drifts else 0.0,
        "score_drift_max": round(max(drifts, default=0.0), 5),
        "class_flips": flips,
    }


def _by_image(folder: Folder) -> dict[int, list[Record]]:
    dataset = read_dataset(folder)
    found: dict[int, list[Record]] = defaultdict(list)
    for each in dataset["annotations"]:
        found[each["image_id"]].append(each)
    return {each["id"]: found[each["id"]] for each in dataset["images"]}


def _overlap(a: list[Record], b: list[Record]) -> NDArray[np.float64]:
    """Mask IoU of each with each: (len(a), len(b)), empty where either is."""
    rles: Any = [[each["segmentation"] for each in side] for side in (a, b)]
    return np.asarray(coco_mask.iou(*rles, [0] * len(b)))


def _pairs(overlap: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """The best match first, each instance once, whatever its class."""
    free = np.ones(overlap.shape, bool)
    for place in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = (int(n) for n in np.unravel_index(place, overlap.shape))
        if overlap[i, j] < MATCH_IOU:
            return
        if free[i, j]:
            free[i, :] = free[:, j] = False
            yield i, j
