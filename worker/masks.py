"""YOLACT's masks from prototypes: sigmoid(prototypes · coefficients), cut to the box at prototype
resolution with one cell around it, bilinear to the image, > 0.5."""

import numpy as np

from worker.rle import Ints, Rle
from worker.surfaces import Float32s, Grid, chunks, half_pixel, level_masks

_HALF = np.float32(0.5)
_ABOVE_HALF: np.float32 = np.nextafter(_HALF, np.float32(1))


def prototype_masks(
    prototypes: Float32s, coefficients: Float32s, boxes: Float32s, height: int, width: int
) -> list[Rle]:
    """Masks of a height × width image, one for each row of coefficients (N, K).

    prototypes: (P, Q, K), of any strides. boxes: (N, 4) xyxy as parts of the image, unclipped.
    A prototype cell that is not a number counts as outside every mask.
    """
    rows, columns = prototypes.shape[:2]
    edges = _crop_edges(boxes, rows, columns)
    grid = Grid(half_pixel(rows, height), half_pixel(columns, width))
    flat = prototypes.reshape(-1, prototypes.shape[2]).T
    masks: list[Rle] = []
    for part in chunks(len(boxes), rows * columns):
        with np.errstate(over="ignore", invalid="ignore"):
            logits = (coefficients[part] @ flat).reshape(-1, rows, columns)
            masks += level_masks(_cut_out(logits, edges[part]), grid, _probability, _HALF)
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
    """(n, P + 2, Q + 1) padded planes; minus infinity, which the sigmoid takes to the reference's
    zero, where the box is not."""
    count, rows, columns = logits.shape
    cut = np.full((count, rows + 2, columns + 1), -np.inf, dtype=np.float32)
    for source, target, (x1, y1, x2, y2) in zip(logits, cut, edges.tolist(), strict=True):
        # fmax makes minus infinity of what is not a number.
        np.fmax(source[y1:y2, x1:x2], -np.inf, out=target[y1 + 1 : y2 + 1, x1:x2])
    return cut


def _probability(logits: Float32s) -> Float32s:
    """The sigmoid, kept on the side of one half that its sign says.

    Where rounding gives one half for a tiny positive logit, a cell taken for solid and its
    neighbour would otherwise disagree about their common edge.
    """
    value = 1 / (1 + np.exp(-logits))
    return np.where(logits > 0, np.maximum(value, _ABOVE_HALF), np.minimum(value, _HALF))
