"""The colours of a frame, by the matrix and the range that its video names, or the usual ones."""

from __future__ import annotations

import av
import numpy as np
import pytest

from tasks.records import Video
from worker.frames import Shot

VIDEO = Video("", 0, 0, 0.0, 0.0, "")
# Kr and Kb of ITU-R BT.601, BT.709 and BT.2020.
BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)


def frame_of(y: int, u: int, v: int, form: str, width: int, height: int) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, form)
    for plane, value in zip(frame.planes, (y, u, v), strict=True):
        kind = np.uint16 if "10le" in form else np.uint8
        plane.update(np.full(plane.buffer_size // kind().itemsize, value, kind).tobytes())
    return frame


def rgb_of(y: float, u: float, v: float, matrix: tuple[float, float], full: bool) -> list[float]:
    """The textbook's formula; samples of 8 bits."""
    kr, kb = matrix
    y = y / 255 if full else (y - 16) / 219
    u, v = ((each - 128) / (255 if full else 224) for each in (u, v))
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return [min(max(255 * each, 0), 255) for each in (red, green, blue)]


@pytest.mark.parametrize(
    ("form", "height", "colorspace", "color_range", "matrix", "full"),
    [
        ("yuv420p", 480, 2, 0, BT601, False),
        ("yuv420p", 720, 2, 0, BT709, False),
        ("yuv420p", 480, 1, 1, BT709, False),
        ("yuv420p", 720, 6, 1, BT601, False),
        ("yuv420p", 1080, 5, 1, BT601, False),
        ("yuv420p", 720, 9, 1, BT2020, False),
        ("yuv420p", 480, 2, 2, BT601, True),
        ("yuvj420p", 480, 2, 2, BT601, True),
        ("yuvj422p", 720, 1, 2, BT709, True),
        ("yuv444p", 720, 2, 0, BT709, False),
        ("yuv420p10le", 480, 2, 0, BT601, False),
        ("yuv420p10le", 1080, 1, 1, BT709, False),
    ],
)
def test_colours(
    form: str,
    height: int,
    colorspace: int,
    color_range: int,
    matrix: tuple[float, float],
    full: bool,
) -> None:
    for y, u, v in ((16, 128, 128), (235, 128, 128), (120, 90, 200), (60, 180, 100), (200, 60, 90)):
        times = 4 if "10le" in form else 1
        frame = frame_of(y * times, u * times, v * times, form, 64, height)
        frame.colorspace, frame.color_range = colorspace, color_range
        pixels = Shot(frame, VIDEO, 0).pixels()
        assert (pixels.shape, pixels.dtype) == ((height, 64, 3), np.uint8)
        assert np.abs(pixels[height // 2, 32] - np.array(rgb_of(y, u, v, matrix, full))).max() < 4


@pytest.mark.parametrize("rotation", [0, 90, 180, -90, -180, 270])
def test_a_turned_frame_is_upright(rotation: int) -> None:
    grid = np.arange(48 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(48, 64, 3)
    frame = av.VideoFrame.from_ndarray(grid, format="rgb24")
    pixels = Shot(frame, VIDEO, rotation).pixels()
    assert np.array_equal(pixels, np.rot90(grid, rotation // 90))
    assert pixels.flags.c_contiguous
