"""Masks where a surface over a plane of cells is high, straight to run lengths, without pixels.

Down one column of image pixels a bilinear surface is straight between two rows of cells, so it
crosses a level at most once there, at a place that follows from the two ends. And only cells whose
four corners disagree can hold a crossing.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from worker.rle import Bools, Float32s, Float64s, Ints, Rle, from_flips

# From plane values to what is interpolated: positive ones go above the level, others not.
Value = Callable[[Float32s], Float32s]

# Worked on at once: keeps the planes in cache and memory flat, however many there are.
_CELLS, _PLANES = 640_000, 32
# Beyond these, differences of float32 overflow, and weighted parts of them vanish.
_LARGE, _SMALL = np.float32(1e30), np.float32(1e-30)
_BELOW_ONE: np.float32 = np.nextafter(np.float32(1), np.float32(0))


class Grid(NamedTuple):
    """Where pixels fall on a plane of P × Q cells; 0 is the centre of the first cell.

    rows: (H,) within 0 … P - 1, ascending; columns: (W,) within 0 … Q - 1, ascending.
    """

    rows: Float64s
    columns: Float64s


def half_pixel(cells: int, pixels: int) -> Float64s:
    """(pixels,) where their centres fall among cells that span the same length."""
    return np.clip((np.arange(pixels) + 0.5) * (cells / pixels) - 0.5, 0, cells - 1)


def surface_masks(planes: Sequence[Float32s] | Float32s, grid: Grid) -> list[Rle]:
    """The pixels of the grid where the bilinear surface over each plane is above zero.

    planes: n of (P, Q), of any strides. A value that is not finite counts as zero.
    """
    masks: list[Rle] = []
    for part in chunks(len(planes), planes[0].size if len(planes) else 1):
        rows, columns = planes[0].shape
        cut = np.zeros((len(planes[part]), rows + 2, columns + 1), dtype=np.float32)
        for source, target in zip(planes[part], cut, strict=True):
            target[1:-1, :-1] = source
        with np.errstate(invalid="ignore", over="ignore"):
            if not np.isfinite(cut.sum()):
                cut[~np.isfinite(cut)] = 0
        masks += level_masks(cut, grid, _near_zero, np.float32(0))
    return masks


def chunks(count: int, cells: int) -> list[slice]:
    """`count` planes of so many cells, cut into parts that are worked on at once."""
    step = min(max(_CELLS // cells, 1), _PLANES)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def level_masks(cut: Float32s, grid: Grid, value: Value, level: np.float32) -> list[Rle]:
    """Masks where the surface over `value` of the planes is above the level.

    cut: (n, P + 2, Q + 1), the planes with a row outside all masks above and below, and a column
    without weight to the right.
    """
    _, padded_rows, stride = cut.shape
    height, width = len(grid.rows), len(grid.columns)
    first, offsets = _columns(grid.columns, stride - 1)
    flat = cut.ravel()
    cells = _mixed_cells(flat > 0, stride)
    mask, cell = np.divmod(cells, padded_rows * stride)
    row, column = np.divmod(cell, stride)

    offset = offsets[column]  # (cells, most)
    upper = _between(value(flat[cells]), value(flat[cells + 1]), offset)
    lower = _between(value(flat[cells + stride]), value(flat[cells + stride + 1]), offset)
    upper_on, lower_on = upper > level, lower > level
    crossing = np.flatnonzero(upper_on != lower_on)

    at, within = np.divmod(crossing, offset.shape[1])
    x = first[column[at]] + within
    y = _first_pixel(
        row[at], upper.ravel()[crossing], lower.ravel()[crossing], level, grid.rows, padded_rows - 2
    )
    keys = mask[at] * (height * width + 1) + x * height + y
    return from_flips(keys, len(cut), height, width)


def _near_zero(values: Float32s) -> Float32s:
    """The values, none so large or small that interpolating between two loses their sign."""
    return np.clip(np.where(values > 0, np.maximum(values, _SMALL), values), -_LARGE, _LARGE)


def _columns(places: Float64s, cells: int) -> tuple[Ints, Float32s]:
    """For each column of cells the first image column in it (Q + 1,), and how far into it each one
    is (Q + 1, most): 0 to below 1, NaN past the last."""
    cell = places.astype(np.int64)
    first = np.searchsorted(cell, np.arange(cells + 1))
    offset = np.full((cells + 1, np.bincount(cell).max()), np.nan, dtype=np.float32)
    offset[cell, np.arange(len(cell)) - first[cell]] = np.minimum(places - cell, _BELOW_ONE)
    return first, offset


def _mixed_cells(on: Bools, stride: int) -> Ints:
    """Cells (by their upper left corner) whose corners are not all on or all off.

    Rows follow each other, so a row's last cell wraps: it is beyond the image, with no pixels.
    """
    across = on[1:] ^ on[:-1]
    down = on[:-stride] ^ on[stride:]
    return np.flatnonzero(across[:-stride] | across[stride:] | down[:-1])


def _between(left: Float32s, right: Float32s, offset: Float32s) -> Float32s:
    """(cells, most) values at the offsets between each left corner and the next."""
    return left[:, None] + offset * (right - left)[:, None]


def _first_pixel(
    row: Ints, upper: Float32s, lower: Float32s, level: np.float32, places: Float64s, rows: int
) -> Ints:
    """The first pixel row past the crossing, for cells of padded row `row`."""
    start = upper.astype(np.float64)
    crossed = row + (level - start) / (lower - start)
    # Turning on takes a pixel above the level, and one at the level is off already.
    past = np.where(upper <= level, np.nextafter(crossed, np.inf), crossed)
    pixel: Ints = np.searchsorted(places + 1, past)
    # Beyond the outermost rows the surface is level, so what is on there is on to the edge.
    pixel[row == 0] = 0
    pixel[row == rows] = len(places)
    return pixel
