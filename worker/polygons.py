"""Masks as COCO polygons: every part, every hole, and the IoU that they keep.

Outlines run along the pixels' edges, clockwise on the screen, with the mask on their right; so
those of holes run the other way. COCO paints the union of a list of polygons, and each by the
even-odd rule. A hole is therefore cut by a path that goes from the part's outline to the hole,
around it, and back the way it came: what encloses no area paints none.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from worker.rle import Bools, Rle, cropped

Ring = NDArray[np.int32]  # (N, 2) corners x, y, not closed

TOLERANCE = 1.0  # pixels that a simplified outline may stray from the exact one
LEAST_IOU = 0.95  # below this the exact outline is kept, as for masks of a few pixels


def polygons(mask: Rle, least_iou: float = LEAST_IOU) -> tuple[list[list[float]], float]:
    """COCO's `segmentation` of a mask, one [x, y, x, y, …] a part, and the IoU that it keeps.

    An empty mask has no polygon. With a `least_iou` over 1 the polygons paint exactly the mask.
    """
    if mask.area == 0:
        return [], 1.0
    crop, x0, y0 = cropped(mask)
    parts = outlines(crop)
    truth = coco.encode(np.asfortranarray(crop, dtype=np.uint8))
    drawn = [_keyhole([_simplified(ring) for ring in part]) for part in parts]
    kept = _iou(drawn, truth)
    if kept < least_iou:
        drawn = [_keyhole(part) for part in parts]
        kept = _iou(drawn, truth)
    offset = np.array([x0, y0])
    return [(path + offset).ravel().astype(float).tolist() for path in drawn], kept


def outlines(mask: Bools) -> list[list[Ring]]:
    """The exact outlines of each part of a mask: the outer ring, then the holes'.

    A part is what hangs together by edges; parts come in the order of their topmost pixels.
    """
    _, labels, facts, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    parts = []
    for number, (x, y, width, height, _) in enumerate(facts[1:].tolist(), 1):
        part = labels[y : y + height, x : x + width] == number
        size = (2 * width, 2 * height)
        doubled = cv2.resize(part.view(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        rings, _ = cv2.findContours(
            doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(2 * x, 2 * y)
        )
        parts.append([_corners(ring[:, 0]) for ring in rings])
    return parts


def _corners(contour: NDArray[np.int32]) -> Ring:
    """The corners between pixels that OpenCV's contour, of a doubled mask, runs along.

    It visits the pixels at a part's edge and cuts across the corners that turn inwards. With all
    pixels doubled, the ends of such a cut halve to the corner itself, as other pixels to theirs.
    """
    halved = (np.roll(contour[::-1], 1, axis=0) + 1) // 2  # clockwise, from the same pixel on
    return np.compress((halved != np.roll(halved, 1, axis=0)).any(axis=1), halved, axis=0)


def _simplified(ring: Ring) -> Ring:
    simpler = cv2.approxPolyDP(ring[:, np.newaxis], TOLERANCE, True)[:, 0].astype(np.int32)
    return simpler if len(simpler) >= 3 else ring


def _keyhole(part: list[Ring]) -> Ring:
    """One path around a part and its holes, each hole entered from the nearest corner so far."""
    path, *holes = part
    for hole in sorted(holes, key=lambda ring: (int(ring[0, 1]), int(ring[0, 0]))):
        gaps = ((path - hole[0]).astype(np.int64) ** 2).sum(axis=1)
        at = int(gaps.argmin())
        path = np.concatenate([path[: at + 1], hole, hole[:1], path[at:]])
    return path


def _iou(paths: list[Ring], truth: dict[str, Any]) -> float:
    rows, columns = truth["size"]
    drawn = coco.frPyObjects([path.ravel().tolist() for path in paths], rows, columns)
    return float(coco.iou([coco.merge(drawn)], [truth], [0])[0, 0])
