"""The network's input against the plain formula of bilinear interpolation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cards import InputSpec
from worker.images import Header
from worker.preprocess import Frame, preprocess, to_frame

MEAN, STD = (123.68, 116.78, 103.94), (58.40, 57.12, 57.38)


def stretched(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with half-pixel centres, edges repeated: the textbook formula, pixel by pixel."""
    rows, columns = pixels.shape[:2]
    result = np.zeros((height, width, 3))
    for y in range(height):
        for x in range(width):
            at_y = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            at_x = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            y0, x0 = int(at_y), int(at_x)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            down, right = at_y - y0, at_x - x0
            top = pixels[y0, x0] * (1 - right) + pixels[y0, x1] * right
            bottom = pixels[y1, x0] * (1 - right) + pixels[y1, x1] * right
            result[y, x] = top * (1 - down) + bottom * down
    return result


def random_pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(deadline=None, max_examples=60)
@given(*(st.integers(1, 40) for _ in range(4)), st.integers(0, 2**32 - 1))
def test_the_stretch_is_bilinear(rows: int, columns: int, height: int, width: int, seed: int):
    pixels = random_pixels(rows, columns, seed)
    tensor = preprocess(pixels, InputSpec(), "nhwc", (height, width))
    assert tensor.shape == (1, height, width, 3)
    # rounded to whole levels, after OpenCV's whole-number arithmetic
    assert np.abs(tensor[0] - stretched(pixels, height, width)).max() <= 1.0


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize(("mean", "std"), [((0, 0, 0), (1, 1, 1)), (MEAN, STD)])
def test_layout_colour_order_and_normalisation(layout, color, mean, std) -> None:
    pixels = random_pixels(30, 20)
    spec = InputSpec(color=color, mean=mean, std=std)
    tensor = preprocess(pixels, spec, layout, (30, 20))  # its own size: nothing to interpolate
    ordered = pixels if color == "rgb" else pixels[..., ::-1]
    wanted = ((ordered - np.array(mean)) / np.array(std)).astype(np.float32)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert np.array_equal(tensor, (wanted if layout == "nhwc" else wanted.transpose(2, 0, 1))[None])


def test_mean_and_std_are_in_the_order_of_the_colours() -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    spec = InputSpec(color="bgr", mean=(1.0, 2.0, 100.0), std=(1.0, 1.0, 50.0))
    assert preprocess(red, spec, "nchw", (2, 2))[0, :, 0, 0].tolist() == [-1.0, -2.0, 2.0]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_whole_number_inputs_take_the_levels_as_they_are(layout) -> None:
    pixels = random_pixels(30, 20)
    tensor = preprocess(pixels, InputSpec(), layout, (8, 6), np.uint8)
    assert tensor.dtype == np.uint8
    assert np.array_equal(tensor, preprocess(pixels, InputSpec(), layout, (8, 6), np.float32))


def test_whole_number_inputs_cannot_be_normalised() -> None:
    with pytest.raises(ValueError, match="do not fit a uint8 input"):
        preprocess(random_pixels(4, 4), InputSpec(std=STD), "nhwc", (4, 4), np.uint8)


def test_pixels_may_be_read_only_and_are_not_written_to() -> None:
    pixels = random_pixels(30, 20)
    before = pixels.copy()
    pixels.flags.writeable = False
    preprocess(pixels, InputSpec(mean=MEAN), "nchw", (30, 20))
    assert np.array_equal(pixels, before)


def test_the_frame_is_of_the_image_as_its_file_says() -> None:
    header = Header("JPEG", width=4000, height=3000, orientation=1, mode="RGB", bits=8)
    assert to_frame(header, (480, 640)) == Frame(3000, 4000, 480, 640)
