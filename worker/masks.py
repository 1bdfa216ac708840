"""Masks from prototypes, as YOLACT and Ultralytics publish them, in each box's region only."""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from worker.detections import Frame, ModelMismatch
from worker.rle import Bools, Float32s, Ints, Rle, encode
from worker.surfaces import Grid, chunks, half_pixel, level_masks, surface_masks

Making = Literal["upsampled", "logits", "probabilities"]
Resizing = Literal["rounded", "truncated"]

_HALF = np.float32(0.5)
_ABOVE_HALF: np.float32 = np.nextafter(_HALF, np.float32(1))
_FAR = np.float32(1e30)  # the most that a cell counts as; one that is no number is so far outside
# What a logit is outside of its box, where it is cut before it is resized.
_OUTSIDE: dict[Making, float] = {"logits": 0, "probabilities": -np.inf}
# Off and on, for a surface above zero where a mask is on: a hair's breadth puts one half on the
# side of "on", or all that is less than wholly on on the side of "off".
_LEVELS = {"rounded": (2**-20 - 1, 1.0), "truncated": (-1.0, 2**-20)}


def prototype_masks(
    prototypes: Float32s, coefficients: Float32s, boxes: Float32s, height: int, width: int
) -> list[Rle]:
    """YOLACT's masks of a height × width image: sigmoid(prototypes · coefficients), cut to the box
    at prototype resolution with one cell around it, bilinear to the image, > 0.5.

    prototypes: (P, Q, K), of any strides. coefficients: (N, K). boxes: (N, 4) xyxy as parts of the
    image, unclipped. A prototype cell that is not a number counts as outside every mask.
    """
    rows, columns = prototypes.shape[:2]
    edges = _crop_edges(boxes, rows, columns)
    grid = Grid(half_pixel(rows, height), half_pixel(columns, width))
    flat = prototypes.reshape(-1, prototypes.shape[2]).T
    masks: list[Rle] = []
    for part in chunks(len(boxes), rows * columns):
        with np.errstate(over="ignore", invalid="ignore"):
            logits = (_finite(coefficients[part]) @ flat).reshape(-1, rows, columns)
            masks += level_masks(_cut_out(logits, edges[part]), grid, _probability, _HALF)
    return masks


def _finite(coefficients: Float32s) -> Float32s:
    """With zeros, which make an empty mask, for those of a detection that are not all finite."""
    finite = np.isfinite(coefficients).all(axis=1, keepdims=True)
    return np.where(finite, coefficients, np.float32(0))


def _crop_edges(boxes: Float32s, rows: int, columns: int) -> Ints:
    """(N, 4) x1, y1, x2, y2 of the cells kept, in the boxes' own precision as the reference."""
    size = np.array([columns, rows], dtype=boxes.dtype)
    with np.errstate(over="ignore"):
        corners = boxes.reshape(-1, 2, 2) * size
    low = np.maximum(corners.min(axis=1) - 1, 0)
    high = np.minimum(corners.max(axis=1) + 1, size)
    # A cell is kept if low <= cell < high, so both ends round up; far outside none is.
    return np.asarray(np.ceil(np.clip(np.hstack([low, high]), 0, np.tile(size, 2))), np.int64)


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


def prototype_steps(sides: Sequence[int], cells: Sequence[int]) -> Ints:
    """Pixels of the input per cell, down and across: whole in every network of Ultralytics."""
    steps, odd = np.divmod(sides, cells)
    if odd.any():
        expected = [f"prototypes of a whole part of {sides[0]}×{sides[1]}, as a quarter"]
        found = [f"{cells[0]}×{cells[1]}"]
        raise ModelMismatch("its prototypes do not fit its input", expected, found)
    return steps


def resized_masks(
    prototypes: Float32s,
    coefficients: Float32s,
    boxes: Float32s,
    frame: Frame,
    making: Making,
    resizing: Resizing,
) -> list[Rle]:
    """Ultralytics' masks at the input's size, resized to the image without the letterbox; see
    worker/yolo_seg.py.

    prototypes: (K, P, Q), of any strides. coefficients: (N, K). boxes: (N, 4) xyxy in pixels of
    the input. One mask's float32 surface exists at a time, about as large as its box there.
    """
    content = np.array([frame.content_height, frame.content_width])
    start = np.array([frame.top, frame.left])
    grid = Grid(
        half_pixel(frame.content_height, frame.image_height),
        half_pixel(frame.content_width, frame.image_width),
    )
    cells = prototypes.shape[1:]
    sides = frame.input_height, frame.input_width
    steps = prototype_steps(sides, cells)
    corners = np.clip(boxes.reshape(-1, 2, 2)[..., ::-1], 0, np.array(sides, np.float32))
    edges = np.ceil(corners * (1 / steps).astype(np.float32)).astype(np.int64)  # (N, 2, 2) of cells
    used = np.clip(edges + np.array([[-2], [1]]), 0, cells)  # with what they are interpolated from
    pixels = np.ceil(corners).astype(np.int64) if making == "upsampled" else used * steps
    pixels = np.clip(pixels, start, start + content)
    masks = []
    for vector, use, kept, seen in zip(_finite(coefficients), used, edges, pixels, strict=True):
        rows, columns = _between(use, 0)
        surface = _logits(vector, prototypes[:, rows, columns])
        if making != "upsampled":
            surface = _cut_early(surface, _between(kept, use[0]), making)
        height, width = ((use[1] - use[0]) * steps).tolist()
        scaled = cv2.resize(surface, (width, height), interpolation=cv2.INTER_LINEAR)
        mask = scaled[_between(seen, use[0] * steps)] > 0
        masks.append(_onto_image(mask, (seen[0] - start).tolist(), grid, frame, resizing))
    return masks


def _between(corners: Ints, origin: Ints | int) -> tuple[slice, slice]:
    (top, left), (bottom, right) = (corners - origin).tolist()
    return slice(top, bottom), slice(left, right)


def _logits(coefficients: Float32s, prototypes: Float32s) -> Float32s:
    with np.errstate(over="ignore", invalid="ignore"):
        logits = np.tensordot(coefficients, prototypes, 1)
        finite: Float32s = np.clip(np.fmax(logits, -_FAR), -_FAR, _FAR)
        return finite


def _cut_early(logits: Float32s, inside: tuple[slice, slice], making: Making) -> Float32s:
    """A surface above zero where its mask is on, cut to the cells of its box."""
    cut = np.full_like(logits, _OUTSIDE[making])
    cut[inside] = logits[inside]
    with np.errstate(over="ignore"):
        return cut if making == "logits" else _probability(cut) - _HALF


def _onto_image(
    mask: Bools, corner: list[int], grid: Grid, frame: Frame, resizing: Resizing
) -> Rle:
    """A mask in the content, with its top and left there, as one of the image."""
    top, left = corner
    height, width = frame.image_height, frame.image_width
    if (height, width) == (frame.content_height, frame.content_width):
        return encode(mask, left, top, height, width)
    # Of the content's whole width, for far columns clamped to the edge would crowd in one cell.
    off, on = _LEVELS[resizing]
    plane = np.full((1, mask.shape[0] + 2, frame.content_width), off, dtype=np.float32)
    plane[0, 1:-1, left : left + mask.shape[1]][mask] = on
    rows = np.clip(grid.rows - (top - 1), 0, plane.shape[1] - 1)
    return surface_masks(plane, Grid(rows, grid.columns))[0]
