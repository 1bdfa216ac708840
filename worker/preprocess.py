"""Pixels to the network's input, and the value that undoes it."""

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.cards import InputSpec
from worker.detections import Frame as Frame
from worker.images import Pixels

Layout = Literal["nchw", "nhwc", "chw"]

_GREY = 114  # what a letterbox leaves around the picture, in levels
_ZERO = 256  # where a table of levels has what the others leave


def to_frame(height: int, width: int, spec: InputSpec, size: tuple[int, int] | None) -> Frame:
    """The frame of an image of height × width for an input of `size`, if the graph fixes one."""
    if spec.fit in ("sides", "native"):
        return _open_frame(height, width, spec)
    assert size is not None
    if spec.fit == "stretch":
        return Frame(height, width, *size, *size, size[0] / height, size[1] / width)
    scale = min(size[0] / height, size[1] / width)
    inside = min(max(round(height * scale), 1), size[0]), min(max(round(width * scale), 1), size[1])
    margins = (size[0] - inside[0], size[1] - inside[1]) if spec.fit == "letterbox" else (0, 0)
    top, left = (round(margin / 2 - 0.1) for margin in margins)
    return Frame(height, width, *size, *inside, scale, scale, top, left)


def _open_frame(height: int, width: int, spec: InputSpec) -> Frame:
    # Only "sides" has a size here; as the picture is, it has its own.
    short, long = spec.size or sorted((height, width))
    scale = min(short / min(height, width), long / max(height, width))
    inside = max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)
    step = spec.multiple
    padded = -(-inside[0] // step) * step, -(-inside[1] // step) * step
    return Frame(height, width, *padded, *inside, inside[0] / height, inside[1] / width)


def preprocess(
    pixels: Pixels,
    spec: InputSpec,
    layout: Layout,
    frame: Frame,
    dtype: type[np.generic] = np.float32,
    quantised: tuple[float, int] | None = None,
) -> NDArray[Any]:
    """RGB pixels (H, W, 3), of any reduced size, as the network's input: a batch of one.

    Bilinear with half-pixel centres, rounded to whole levels, so that every precision of a model
    sees the same picture; OpenCV computes it in whole numbers, alike on every machine.
    quantised: the input's scale and zero point, where its numbers only stand for values.
    """
    content = (frame.content_width, frame.content_height)
    resized = cv2.resize(pixels, content, interpolation=cv2.INTER_LINEAR)
    table = _table(spec, np.dtype(dtype), quantised)
    levels, ground = table[:256], table[_GREY if spec.fit == "letterbox" else _ZERO]
    if spec.color == "bgr":
        resized = cv2.cvtColor(resized, cv2.COLOR_RGB2BGR)
    rows = slice(frame.top, frame.top + frame.content_height)
    columns = slice(frame.left, frame.left + frame.content_width)
    sides = frame.input_height, frame.input_width
    batch: NDArray[Any] = np.empty((1, *sides, 3) if layout == "nhwc" else (1, 3, *sides), dtype)
    planes = batch[0].transpose(2, 0, 1) if layout == "nhwc" else batch[0]
    for plane in range(3):
        planes[plane] = ground[plane]
        channel = cv2.extractChannel(resized, plane)
        planes[plane, rows, columns] = cv2.LUT(channel, levels[:, plane].copy())
    return planes if layout == "chw" else batch


def _table(
    spec: InputSpec, dtype: np.dtype[np.generic], quantised: tuple[float, int] | None
) -> NDArray[Any]:
    """(257, 3) what each of the 256 levels becomes, by channel, and last what stands for zero.

    A table gives the same bits everywhere. Quantised values are rounded, and clipped to what the
    input holds.
    """
    levels = (np.arange(256)[:, np.newaxis] - np.array(spec.mean)) / np.array(spec.std)
    values = np.vstack([levels, np.zeros(3)])
    if quantised is not None:
        scale, zero = quantised
        held = np.iinfo(dtype.name)
        values = np.clip(np.rint(values / scale + zero), held.min, held.max)
    table = values.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(table, values):
        raise ValueError(f"mean {spec.mean} and std {spec.std} do not fit a {dtype} input")
    return table
