"""Pixels to the network's input, and the value that undoes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.cards import InputSpec
from worker.images import Header, Pixels

Layout = Literal["nchw", "nhwc"]


@dataclass(frozen=True)
class Frame:
    """Where the network's input came from: the upright image, at the size that its file says.

    The fit is a stretch, so a point at a fraction of the input is at that fraction of the image.
    """

    image_height: int
    image_width: int
    input_height: int
    input_width: int


def to_frame(header: Header, size: tuple[int, int]) -> Frame:
    """The frame of an image for an input of (height, width), also after reduced decoding."""
    return Frame(header.height, header.width, *size)


def preprocess(
    pixels: Pixels,
    spec: InputSpec,
    layout: Layout,
    size: tuple[int, int],
    dtype: type[np.generic] = np.float32,
) -> NDArray[Any]:
    """Stretch RGB pixels (H, W, 3) to (height, width) and normalise them: a batch of one.

    Bilinear with half-pixel centres, rounded to whole levels, so that every precision of a model
    sees the same picture; OpenCV computes it in whole numbers, alike on every machine.
    """
    height, width = size
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    levels = _levels(spec, np.dtype(dtype))  # (256, 3)
    if spec.color == "bgr":
        resized = cv2.cvtColor(resized, cv2.COLOR_RGB2BGR)
    if layout == "nhwc":
        batch: NDArray[Any] = cv2.LUT(resized, levels[np.newaxis])[np.newaxis]
        return batch
    tensor: NDArray[Any] = np.empty((1, 3, height, width), dtype)
    for plane in range(3):
        cv2.LUT(cv2.extractChannel(resized, plane), levels[:, plane].copy(), dst=tensor[0, plane])
    return tensor


def _levels(spec: InputSpec, dtype: np.dtype[np.generic]) -> NDArray[Any]:
    """What each of the 256 levels becomes, by channel: a table gives the same bits everywhere."""
    values = (np.arange(256)[:, np.newaxis] - np.array(spec.mean)) / np.array(spec.std)
    levels: NDArray[Any] = values.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(levels, values):
        raise ValueError(f"mean {spec.mean} and std {spec.std} do not fit a {dtype} input")
    return levels
