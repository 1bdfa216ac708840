"""Masks of boxes as masks of the whole image, straight to run lengths.

A heat map of S × S cells is zero in a ring of cells around it, and bilinear between their centres.
Its authors differ in where the centres lie: `rounded_masks` and `sampled_masks` are the two ways
that are published. Either way a column of image pixels crosses one half at most once between two
rows of cells, at a place that follows from the two ends, and only cells whose corners disagree
hold a crossing. So no pixel is made, however large the box is.
"""

from collections.abc import Sequence

import numpy as np

from worker.rle import Float32s, Float64s, Ints, Rle, encode, from_flips

# Crossings looked for at once at most: keeps memory flat, however many and large the boxes are.
_CROSSINGS = 1 << 20
# Far beyond probabilities; up to here float64 holds the difference of two float32 values near one
# half well enough for neighbouring cells to agree about their common edge.
_LARGEST = 1e6
# A pasted probability over one half lies at most 1.5 pixels outside its box: there the ring of
# zeros weighs more than the box, but for the cutting to whole pixels.
_MARGIN = 2


def rounded_masks(maps: Float32s, boxes: Float64s, height: int, width: int) -> list[Rle]:
    """The paste of the first Mask R-CNN, Open Model Zoo and torchvision: over one half.

    maps: (N, S, S). boxes: (N, 4) xyxy, pixels of the image, unclipped, not reversed. The box with
    the ring is cut to whole pixels towards zero, and its last pixel belongs to it.
    """
    side = maps.shape[-1]
    middle = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    reach = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * ((side + 2) / side)
    first = np.trunc(middle - reach)
    step = np.maximum(np.trunc(middle + reach) - first + 1, 1) / (side + 2)
    return _masks(maps, first + (step - 1) / 2, step, height, width, at_half=False)


def sampled_masks(maps: Float32s, boxes: Float64s, height: int, width: int) -> list[Rle]:
    """The paste of Detectron2, which rounds nothing: one half or over.

    maps: (N, S, S). boxes: (N, 4) xyxy, pixels of the image, clipped to it and not empty.
    """
    step = (boxes[:, 2:] - boxes[:, :2]) / maps.shape[-1]
    return _masks(maps, boxes[:, :2] - (step + 1) / 2, step, height, width, at_half=True)


def plane_masks(planes: Float32s, rows: Sequence[int], boxes: Float64s) -> list[Rle]:
    """Where the planes (N, height, width) of some rows are over one half, in and about their boxes.

    boxes: (len(rows), 4) xyxy. Elsewhere the network, which pasted the masks, left zeros.
    """
    height, width = planes.shape[1:]
    corners = np.hstack([np.floor(boxes[:, :2]) - _MARGIN, np.ceil(boxes[:, 2:]) + _MARGIN])
    around = np.clip(corners, 0, [width, height] * 2).astype(np.int64).tolist()
    masks: list[Rle] = []
    for row, (x1, y1, x2, y2) in zip(rows, around, strict=True):
        masks.append(encode(planes[row, y1:y2, x1:x2] > 0.5, x1, y1, height, width))
    return masks


def _masks(
    maps: Float32s, origin: Float64s, step: Float64s, height: int, width: int, *, at_half: bool
) -> list[Rle]:
    """origin: (N, 2) x, y of the centre of the ring's first cell; step: (N, 2) from cell to cell.

    A map that holds what is not finite has an empty mask.
    """
    side = maps.shape[-1]
    chunk = max(_CROSSINGS // ((side + 1) * width), 1)
    masks: list[Rle] = []
    for part in (slice(start, start + chunk) for start in range(0, len(maps), chunk)):
        cells = np.zeros((len(maps[part]), side + 2, side + 2))
        np.clip(maps[part], -_LARGEST, _LARGEST, out=cells[:, 1:-1, 1:-1])
        cells[~np.isfinite(maps[part]).all(axis=(1, 2))] = 0
        keys = _flips(cells, origin[part], step[part], height, width, at_half)
        masks += from_flips(keys, len(cells), height, width)
    return masks


def _flips(
    cells: Float64s, origin: Float64s, step: Float64s, height: int, width: int, at_half: bool
) -> Ints:
    """The keys of `from_flips` for (n, S + 2, S + 2) maps with their ring."""
    above = np.greater_equal if at_half else np.greater
    on = above(cells, 0.5)
    across, down = on[:, :, 1:] != on[:, :, :-1], on[:, 1:] != on[:, :-1]
    mask, row, column = np.nonzero(across[:, :-1] | across[:, 1:] | down[:, :, :-1])

    centres = origin[:, :1] + np.arange(cells.shape[2]) * step[:, :1]  # (n, S + 2)
    first: Ints = np.ceil(np.clip(centres, 0, width)).astype(np.int64)
    count = first[mask, column + 1] - first[mask, column]
    cell = np.repeat(np.arange(len(mask)), count)
    x = np.arange(len(cell)) + (first[mask, column] - np.cumsum(count) + count)[cell]
    offset = np.clip((x - centres[mask, column][cell]) / step[mask, 0][cell], 0, 1)

    rise = np.diff(cells, axis=2)
    start, end = (
        cells[mask, line, column][cell] + offset * rise[mask, line, column][cell]
        for line in (row, row + 1)
    )
    crossing = np.flatnonzero(above(start, 0.5) != above(end, 0.5))
    cell, start, end, x = cell[crossing], start[crossing], end[crossing], x[crossing]
    mask, row = mask[cell], row[cell]
    y = origin[mask, 1] + (row + (0.5 - start) / (end - start)) * step[mask, 1]
    # Whether a pixel at one half is on decides if the flip is at it or after it.
    y = np.where(above(start, 0.5) != at_half, np.ceil(y), np.floor(y) + 1)
    keys: Ints = mask * (height * width + 1) + x * height + np.clip(y, 0, height).astype(np.int64)
    return keys
