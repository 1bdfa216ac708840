"""Ultralytics' masks from prototypes, made in each box's region only: see worker/yolo_seg.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.detections import ModelMismatch
from worker.preprocess import Frame
from worker.rle import Rle, encode
from worker.surfaces import Float32s, Grid, half_pixel, surface_masks

Making = Literal["upsampled", "logits", "probabilities"]
Resizing = Literal["rounded", "truncated"]

_FAR = np.float32(1e30)  # the most that a cell counts as; one that is no number is so far outside
# Off and on, for a surface above zero where a mask is on: a hair's breadth puts one half on the
# side of "on", or all that is less than wholly on on the side of "off".
_LEVELS = {"rounded": (2**-20 - 1, 1.0), "truncated": (-1.0, 2**-20)}


def prototype_steps(sides: Sequence[int], cells: Sequence[int]) -> NDArray[np.int64]:
    """Pixels of the input per cell, down and across: whole in every network of this family."""
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
    """Masks at the input's size, resized to the image without the letterbox.

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
    for vector, use, kept, seen in zip(coefficients, used, edges, pixels, strict=True):
        rows, columns = _between(use, 0)
        surface = _logits(vector, prototypes[:, rows, columns])
        if making == "probabilities":
            with np.errstate(over="ignore"):
                surface = 1 / (1 + np.exp(-surface)) - np.float32(0.5)
        if making != "upsampled":
            inside, whole = _between(kept, use[0]), surface
            surface = np.full_like(whole, -0.5 if making == "probabilities" else 0)
            surface[inside] = whole[inside]
        height, width = ((use[1] - use[0]) * steps).tolist()
        scaled = cv2.resize(surface, (width, height), interpolation=cv2.INTER_LINEAR)
        mask = scaled[_between(seen, use[0] * steps)] > 0
        masks.append(_onto_image(mask, (seen[0] - start).tolist(), grid, frame, resizing))
    return masks


def _between(corners: NDArray[np.int64], origin: NDArray[np.int64] | int) -> tuple[slice, slice]:
    (top, left), (bottom, right) = (corners - origin).tolist()
    return slice(top, bottom), slice(left, right)


def _logits(coefficients: Float32s, prototypes: Float32s) -> Float32s:
    with np.errstate(over="ignore", invalid="ignore"):
        logits = np.tensordot(coefficients, prototypes, 1)
        finite: Float32s = np.clip(np.fmax(logits, -_FAR), -_FAR, _FAR)
        return finite


def _onto_image(
    mask: NDArray[np.bool_], corner: list[int], grid: Grid, frame: Frame, resizing: Resizing
) -> Rle:
    """A mask in the content, with its top and left there, as one of the image."""
    top, left = corner
    height, width = frame.image_height, frame.image_width
    if not mask.any():
        return encode(mask[:0, :0], 0, 0, height, width)
    if (height, width) == (frame.content_height, frame.content_width):
        return encode(mask, left, top, height, width)
    # Of the content's whole width, for far columns clamped to the edge would crowd in one cell.
    off, on = _LEVELS[resizing]
    plane = np.full((1, mask.shape[0] + 2, frame.content_width), off, dtype=np.float32)
    plane[0, 1:-1, left : left + mask.shape[1]][mask] = on
    rows = np.clip(grid.rows - (top - 1), 0, plane.shape[1] - 1)
    return surface_masks(plane, Grid(rows, grid.columns))[0]
