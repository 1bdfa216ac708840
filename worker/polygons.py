"""Masks as COCO polygons: every part, every hole, and the IoU that they keep.

Outlines run along the pixels' edges, clockwise on the screen, with the mask on their right; so
those of holes run the other way. COCO paints the union of a list of polygons, and each by the
even-odd rule. A hole is therefore cut by a path that goes from the part's outline to the hole,
around it, and back the way it came: what encloses no area paints none.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from worker.rle import Rle, runs_of

Ring = NDArray[np.int32]  # (N, 2) corners x, y, not closed
Bools = NDArray[np.bool_]

TOLERANCE = 1.0  # pixels that a simplified outline may stray from the exact one
LEAST_IOU = 0.95  # below this the exact outline is kept, as for masks of a few pixels

_UP, _RIGHT, _DOWN, _LEFT = range(4)
# An outline turns where one or three of four meeting pixels are in the mask. By which they are
# (top left 1, top right 2, bottom left 4, bottom right 8): the outline's way in, its way out, and
# the row and column of one pixel of the mask among the four.
_TURNS = {
    1: (_DOWN, _LEFT, 0, 0),
    2: (_LEFT, _UP, 0, 1),
    4: (_RIGHT, _DOWN, 1, 0),
    8: (_UP, _RIGHT, 1, 1),
    14: (_RIGHT, _UP, 1, 1),
    13: (_DOWN, _RIGHT, 0, 0),
    11: (_UP, _LEFT, 0, 0),
    7: (_LEFT, _DOWN, 0, 0),
}
# Two pixels that touch only by a corner are two turns there: outlines never cross or join.
_SADDLES = {9: (1, 8), 6: (2, 4)}


def polygons(
    mask: Rle, tolerance: float = TOLERANCE, least_iou: float = LEAST_IOU
) -> tuple[list[list[float]], float]:
    """COCO's `segmentation` of a mask, one [x, y, x, y, …] a part, and the IoU that it keeps.

    An empty mask has no polygon. With `tolerance` 0 the polygons paint exactly the mask.
    """
    if mask.area == 0:
        return [], 1.0
    x0, y0, width, height = mask.box
    crop = _crop(mask, x0, y0, width, height)
    parts = outlines(crop)
    truth = coco.encode(np.asfortranarray(crop, dtype=np.uint8))
    drawn = [_keyhole([_simplified(ring, tolerance) for ring in part]) for part in parts]
    kept = _iou(drawn, truth)
    if kept < least_iou:
        drawn = [_keyhole(part) for part in parts]
        kept = _iou(drawn, truth)
    offset = np.array([x0, y0])
    return [(path + offset).ravel().astype(float).tolist() for path in drawn], kept


def outlines(mask: Bools) -> list[list[Ring]]:
    """The exact outlines of each part of a mask: the outer ring, then the holes'.

    A part is what hangs together by edges; parts come in the order of their topmost corners.
    """
    corners, following, pixels = _corners(np.pad(mask, 1))
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    outer: dict[int, list[Ring]] = {}
    holes: list[tuple[int, Ring]] = []
    for cycle in _cycles(following.tolist()):
        ring = corners[cycle]
        row, column = pixels[cycle[0]]
        label = int(labels[row, column])
        if _clockwise(ring):
            outer[label] = [ring]
        else:
            holes.append((label, ring))
    for label, ring in holes:
        outer[label].append(ring)
    return list(outer.values())


def _corners(padded: Bools) -> tuple[Ring, NDArray[np.int64], NDArray[np.int64]]:
    """Every turn of every outline: its x, y; which turn follows it; a mask pixel (row, column)."""
    p = padded.view(np.uint8)
    codes = p[:-1, :-1] | p[:-1, 1:] << 1 | p[1:, :-1] << 2 | p[1:, 1:] << 3
    y, x = np.nonzero(np.isin(np.arange(16), [*_TURNS, *_SADDLES])[codes])
    places = zip(y.tolist(), x.tolist(), codes[y, x].tolist(), strict=True)
    turns = np.array(
        [(y, x, *_TURNS[each]) for y, x, code in places for each in _SADDLES.get(code, (code,))]
    ).T  # by y, then x
    y, x, way_in, way_out, row, column = turns
    pixels = np.stack([row + y - 1, column + x - 1], axis=1)
    return np.stack([x, y], axis=1).astype(np.int32), _links(y, x, way_in, way_out), pixels


def _links(
    y: NDArray[Any], x: NDArray[Any], way_in: NDArray[Any], way_out: NDArray[Any]
) -> NDArray[np.int64]:
    """Which turn follows each. Edges of one direction in one row or column are disjoint, so their
    starts and their ends, both sorted, belong together one by one."""
    following = np.empty(len(y), dtype=np.int64)
    for way in range(4):
        starts, ends = np.flatnonzero(way_out == way), np.flatnonzero(way_in == way)
        if way in (_UP, _DOWN):  # along columns; along rows they are sorted already
            starts = starts[np.lexsort((y[starts], x[starts]))]
            ends = ends[np.lexsort((y[ends], x[ends]))]
        following[starts] = ends
    return following


def _cycles(following: list[int]) -> list[list[int]]:
    cycles = []
    seen = bytearray(len(following))
    for start in range(len(following)):
        cycle = []
        at = start
        while not seen[at]:
            seen[at] = 1
            cycle.append(at)
            at = following[at]
        if cycle:
            cycles.append(cycle)
    return cycles


def _clockwise(ring: Ring) -> bool:
    x, y = ring.T.astype(np.int64)
    return bool(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)) > 0)


def _simplified(ring: Ring, tolerance: float) -> Ring:
    if tolerance <= 0:
        return ring
    simpler = cv2.approxPolyDP(ring[:, np.newaxis], tolerance, True)[:, 0].astype(np.int32)
    return simpler if len(simpler) >= 3 else ring


def _keyhole(part: list[Ring]) -> Ring:
    """One path around a part and its holes, each hole entered from the nearest corner so far."""
    path, *holes = part
    for hole in sorted(holes, key=lambda ring: (int(ring[0, 1]), int(ring[0, 0]))):
        gaps = ((path - hole[0]).astype(np.int64) ** 2).sum(axis=1)
        at = int(gaps.argmin())
        path = np.concatenate([path[: at + 1], hole, hole[:1], path[at:]])
    return path


def _crop(mask: Rle, x0: int, y0: int, width: int, height: int) -> Bools:
    """The mask's pixels within a box, without decoding the columns beside it."""
    first, last = x0 * mask.height, (x0 + width) * mask.height
    ends = np.clip(np.cumsum(runs_of(mask.counts)), first, last)
    pixels = np.repeat(np.arange(len(ends)) % 2 == 1, np.diff(ends, prepend=first))
    crop: Bools = pixels.reshape(width, mask.height).T[y0 : y0 + height]
    return crop


def _iou(paths: list[Ring], truth: dict[str, Any]) -> float:
    rows, columns = truth["size"]
    drawn = coco.frPyObjects([path.ravel().tolist() for path in paths], rows, columns)
    return float(coco.iou([coco.merge(drawn)], [truth], [0])[0, 0])
