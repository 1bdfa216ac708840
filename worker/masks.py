"""YOLACT's masks from prototypes, straight to run lengths, without ever making their pixels.

The reference is sigmoid(prototypes · coefficients), cut to the box at prototype resolution with one
cell around it, bilinear to the image, > 0.5. Down one column of image pixels a bilinear surface is
straight between two rows of prototypes, so it crosses the threshold at most once there, at a place
that follows from the two ends. And only cells whose four corners disagree can hold a crossing.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.rle import Rle, from_flips

Float32s = NDArray[np.float32]
Ints = NDArray[np.int64]

# Instances worked on at once: keeps the planes in cache and memory flat, however many there are.
_CHUNK = 32
_HALF = np.float32(0.5)
_ABOVE_HALF: np.float32 = np.nextafter(_HALF, np.float32(1))


def prototype_masks(
    prototypes: Float32s, coefficients: Float32s, boxes: Float32s, height: int, width: int
) -> list[Rle]:
    """Masks of a height × width image, one for each row of coefficients (N, K).

    prototypes: (P, Q, K), of any strides. boxes: (N, 4) xyxy as parts of the image, unclipped.
    A prototype cell that is not a number counts as outside every mask.
    """
    edges = _crop_edges(boxes, *prototypes.shape[:2])
    columns = _columns(prototypes.shape[1], width)
    flat = prototypes.reshape(-1, prototypes.shape[2]).T
    masks: list[Rle] = []
    for start in range(0, len(boxes), _CHUNK):
        part = slice(start, start + _CHUNK)
        with np.errstate(over="ignore", invalid="ignore"):
            logits = (coefficients[part] @ flat).reshape(-1, *prototypes.shape[:2])
            cut = _cut_out(logits, edges[part])
            masks += from_flips(_flips(cut, columns, height, width), len(logits), height, width)
    return masks


def _crop_edges(boxes: Float32s, rows: int, columns: int) -> Ints:
    """(N, 4) x1, y1, x2, y2 of the cells kept, in the boxes' own precision as the reference."""
    size = np.array([columns, rows], dtype=boxes.dtype)
    with np.errstate(over="ignore"):
        corners = boxes.reshape(-1, 2, 2) * size
    low = np.maximum(corners.min(axis=1) - 1, 0)
    high = np.minimum(corners.max(axis=1) + 1, size)
    # A cell is kept if low <= cell < high, so both ends round up; far outside none is.
    edges: Ints = np.ceil(np.clip(np.hstack([low, high]), 0, np.tile(size, 2))).astype(np.int64)
    return edges


def _cut_out(logits: Float32s, edges: Ints) -> Float32s:
    """(n, P + 2, Q + 1): a row of outside above and below, and a column that has no weight.

    Outside is minus infinity, which the sigmoid takes to the reference's zero.
    """
    count, rows, columns = logits.shape
    cut = np.full((count, rows + 2, columns + 1), -np.inf, dtype=np.float32)
    for source, target, (x1, y1, x2, y2) in zip(logits, cut, edges.tolist(), strict=True):
        # fmax makes minus infinity of what is not a number.
        np.fmax(source[y1:y2, x1:x2], -np.inf, out=target[y1 + 1 : y2 + 1, x1:x2])
    return cut


class _Columns(NamedTuple):
    """For each column of cells, the image columns whose centres lie in it."""

    first: Ints  # (Q + 1,)
    offset: Float32s  # (Q + 1, most) how far into the cell, 0 to 1; NaN past the cell's last


def _columns(cells: int, width: int) -> _Columns:
    centres = np.clip((np.arange(width) + 0.5) * (cells / width) - 0.5, 0, cells - 1)
    cell = centres.astype(np.int64)
    first = np.searchsorted(cell, np.arange(cells + 1))
    offset = np.full((cells + 1, np.bincount(cell).max()), np.nan, dtype=np.float32)
    offset[cell, np.arange(width) - first[cell]] = centres - cell
    return _Columns(first, offset)


def _flips(cut: Float32s, columns: _Columns, height: int, width: int) -> Ints:
    """The keys of `from_flips` for the masks of (n, P + 2, Q + 1) logits."""
    _, padded_rows, stride = cut.shape
    flat = cut.ravel()
    cells = _mixed_cells(flat > 0, stride)
    mask, cell = np.divmod(cells, padded_rows * stride)
    row, column = np.divmod(cell, stride)

    offset = columns.offset[column]  # (cells, most)
    upper = _between(flat, cells, offset)
    lower = _between(flat, cells + stride, offset)
    upper_on, lower_on = upper > _HALF, lower > _HALF
    crossing = np.flatnonzero(upper_on != lower_on)

    at, within = np.divmod(crossing, offset.shape[1])
    y = _first_pixel(
        row[at], upper.ravel()[crossing], lower.ravel()[crossing], padded_rows - 2, height
    )
    x = columns.first[column[at]] + within
    return mask[at] * (height * width + 1) + x * height + y


def _mixed_cells(on: NDArray[np.bool_], stride: int) -> Ints:
    """Cells (by their upper left corner) whose corners are not all on or all off.

    Rows follow each other, so a row's last cell wraps: it is beyond the image, with no pixels.
    """
    across = on[1:] ^ on[:-1]
    down = on[:-stride] ^ on[stride:]
    return np.flatnonzero(across[:-stride] | across[stride:] | down[:-1])


def _between(flat: Float32s, left: Ints, offset: Float32s) -> Float32s:
    """(cells, most) probabilities at the offsets between each left corner and the next."""
    start = _probability(flat[left])
    step = _probability(flat[left + 1]) - start
    between: Float32s = start[:, None] + offset * step[:, None]
    return between


def _probability(logits: Float32s) -> Float32s:
    """The sigmoid, kept on the side of one half that its sign says.

    Where rounding gives one half for a tiny positive logit, a cell taken for solid and its
    neighbour would otherwise disagree about their common edge.
    """
    value = 1 / (1 + np.exp(-logits))
    return np.where(logits > 0, np.maximum(value, _ABOVE_HALF), np.minimum(value, _HALF))


def _first_pixel(row: Ints, upper: Float32s, lower: Float32s, rows: int, height: int) -> Ints:
    """The first pixel row past the crossing, for cells of padded row `row`."""
    start = upper.astype(np.float64)
    part = (0.5 - start) / (lower - start)
    y = (row - 1 + part + 0.5) * (height / rows) - 0.5
    # Turning on takes a pixel above one half; a pixel at one half is off already.
    pixel = np.where(upper > _HALF, np.ceil(y), np.floor(y) + 1).astype(np.int64)
    # Beyond the outermost rows the surface is level, so what is on there is on to the edge.
    pixel[row == 0] = 0
    pixel[row == rows] = height
    return pixel
