"""Non-maximum suppression: YOLACT's Fast NMS, and greedy within or across classes.

Every function takes flat candidates (boxes (M, 4) xyxy, scores (M,), classes (M,)) and returns the
indices kept, in total order. Candidates with a score or box that is not finite are dropped.

What becomes of a candidate depends only on those before it in the total order. So a `limit` lets
each function look at a growing prefix of the order, and stop as soon as that yields enough.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from worker.rle import Indices

Floats = NDArray[np.floating]
Found = tuple[Floats, Floats, NDArray[np.integer]]  # boxes, scores and classes of candidates

# Four times the limit is mostly enough at once; each further look is four times as long.
_GROWTH = 4


def total_order(boxes: Floats, scores: Floats, classes: NDArray[np.integer]) -> Indices:
    """Indices by score (highest first), then x1, y1, x2, y2, class and index."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    if (ranked[1:] == ranked[:-1]).any():
        return np.lexsort((classes, *boxes.T[::-1], -scores))
    return order


def fast_nms(found: Found, *, iou: float, top_k: int, limit: int) -> Indices:
    """Of the best `top_k` of each class, those overlapping no better one of it by over `iou`.

    A suppressed candidate still suppresses: that makes it fast, and is what YOLACT published.
    """
    boxes, _, classes = found

    def keep(order: Indices) -> Indices:
        by_class = np.argsort(classes[order], kind="stable")
        rank = _rank_in_run(classes[order][by_class])
        by_class = by_class[rank < top_k]
        rank = rank[rank < top_k]
        grouped = boxes[order[by_class]]
        # All pairs of a class: the one of rank k against each of the k places before it.
        later = np.repeat(np.arange(len(rank)), rank)
        before = later - 1 - _rank_in_run(later)
        overlaps = ~(_iou(grouped[before], grouped[later]) <= iou)
        alive = np.ones(len(rank), dtype=np.bool_)
        alive[later[overlaps]] = False
        return order[np.sort(by_class[alive])]

    return _of_prefixes(keep, found, limit)


def greedy_nms(found: Found, *, iou: float, limit: int | None, across: bool = False) -> Indices:
    """Best first, each kept candidate removes those of its class (or all) over `iou` with it."""
    boxes, _, classes = found

    def keep(order: Indices) -> Indices:
        kept: list[int] = []
        rest = order
        while rest.size and (limit is None or len(kept) < limit):
            best, rest = rest[0], rest[1:]
            kept.append(int(best))
            overlaps = ~(_iou(boxes[best], boxes[rest]) <= iou)
            rest = rest[~(overlaps & (across | (classes[rest] == classes[best])))]
        return np.array(kept, dtype=np.intp)

    return _of_prefixes(keep, found, limit)


def _of_prefixes(keep: Callable[[Indices], Indices], found: Found, limit: int | None) -> Indices:
    """What `keep` leaves of the shortest prefix that leaves `limit`, or of all candidates."""
    boxes, scores, classes = found
    usable = np.flatnonzero(np.isfinite(scores))
    size = len(usable) if limit is None else _GROWTH * limit
    while True:
        best = usable
        if size < len(usable):
            floor = np.partition(scores[usable], -size)[-size]
            best = usable[scores[usable] >= floor]
        # Ties at the floor can be many more than asked for; the order then cuts among them.
        order = best[total_order(boxes[best], scores[best], classes[best])][:size]
        kept = keep(order[np.isfinite(boxes[order]).all(axis=1)])[:limit]
        if size >= len(usable) or len(kept) == limit:
            return kept
        size *= _GROWTH


def _rank_in_run(values: NDArray[np.integer]) -> Indices:
    """For each of a list of grouped values, how many equal ones are before it."""
    position = np.arange(len(values))
    starts = np.r_[True, values[1:] != values[:-1]][: len(values)]
    return position - np.maximum.accumulate(np.where(starts, position, 0))


def _iou(a: Floats, b: Floats) -> Floats:
    """Overlaps of boxes, by place. 0/0, of two boxes without area, is NaN: those drop later."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
        height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        parts: Floats = overlap / (_area(a) + _area(b) - overlap)
        return parts


def _area(boxes: Floats) -> Floats:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
