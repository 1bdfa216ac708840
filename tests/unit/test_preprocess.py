"""The network's input against the plain formula of bilinear interpolation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cards import InputSpec
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


def taken(pixels, spec, layout, size, dtype=np.float32, quantised=None):
    frame = to_frame(*pixels.shape[:2], spec, size)
    return preprocess(pixels, spec, layout, frame, dtype, quantised)


def random_pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(deadline=None, max_examples=60)
@given(*(st.integers(1, 40) for _ in range(4)), st.integers(0, 2**32 - 1))
def test_the_stretch_is_bilinear(rows: int, columns: int, height: int, width: int, seed: int):
    pixels = random_pixels(rows, columns, seed)
    tensor = taken(pixels, InputSpec(), "nhwc", (height, width))
    assert tensor.shape == (1, height, width, 3)
    # rounded to whole levels, after OpenCV's whole-number arithmetic
    assert np.abs(tensor[0] - stretched(pixels, height, width)).max() <= 1.0


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize(("mean", "std"), [((0, 0, 0), (1, 1, 1)), (MEAN, STD)])
def test_layout_colour_order_and_normalisation(layout, color, mean, std) -> None:
    pixels = random_pixels(30, 20)
    spec = InputSpec(color=color, mean=mean, std=std)
    tensor = taken(pixels, spec, layout, (30, 20))  # its own size: nothing to interpolate
    ordered = pixels if color == "rgb" else pixels[..., ::-1]
    wanted = ((ordered - np.array(mean)) / np.array(std)).astype(np.float32)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert np.array_equal(tensor, (wanted if layout == "nhwc" else wanted.transpose(2, 0, 1))[None])


def test_mean_and_std_are_in_the_order_of_the_colours() -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    spec = InputSpec(color="bgr", mean=(1.0, 2.0, 100.0), std=(1.0, 1.0, 50.0))
    assert taken(red, spec, "nchw", (2, 2))[0, :, 0, 0].tolist() == [-1.0, -2.0, 2.0]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_whole_number_inputs_take_the_levels_as_they_are(layout) -> None:
    pixels = random_pixels(30, 20)
    tensor = taken(pixels, InputSpec(), layout, (8, 6), np.uint8)
    assert tensor.dtype == np.uint8
    assert np.array_equal(tensor, taken(pixels, InputSpec(), layout, (8, 6), np.float32))


def test_whole_number_inputs_cannot_be_normalised() -> None:
    with pytest.raises(ValueError, match="do not fit a uint8 input"):
        taken(random_pixels(4, 4), InputSpec(std=STD), "nhwc", (4, 4), np.uint8)


# Scales as converters choose them; the last two cannot hold all the levels.
QUANTISED = [
    (np.int8, 1.0, -128),
    (np.int8, 0.9988, -128),
    (np.uint8, 0.0186584, 114),
    (np.int8, 0.0186584, -14),
    (np.int8, 0.01, 0),
    (np.uint8, 0.5, 7),
]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("fit", ["stretch", "pad", "letterbox"])
@pytest.mark.parametrize("spec", [InputSpec(), InputSpec(mean=MEAN, std=STD)])
@pytest.mark.parametrize(("dtype", "scale", "zero"), QUANTISED)
def test_quantised_inputs_are_rounded_and_clipped(dtype, scale, zero, spec, fit, layout) -> None:
    spec = InputSpec(fit=fit, mean=spec.mean, std=spec.std)
    pixels = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    floats = taken(pixels, spec, layout, (16, 24), np.float64)
    tensor = taken(pixels, spec, layout, (16, 24), dtype, (scale, zero))
    limits = np.iinfo(dtype)
    wanted = np.clip(np.round(floats / scale + zero), limits.min, limits.max)
    assert tensor.dtype == dtype
    assert np.array_equal(tensor, wanted)


def test_pixels_may_be_read_only_and_are_not_written_to() -> None:
    pixels = random_pixels(30, 20)
    before = pixels.copy()
    pixels.flags.writeable = False
    taken(pixels, InputSpec(mean=MEAN), "nchw", (30, 20))
    assert np.array_equal(pixels, before)


# (image height, width), fit, its numbers, (input), (content), (top, left), (scale y, x)
FRAMES = {
    "stretch": ((300, 400), {}, (48, 64), (48, 64), (48, 64), (0, 0), (0.16, 0.16)),
    "stretch, to another shape": (
        (100, 400), {}, (48, 64), (48, 64), (48, 64), (0, 0), (0.48, 0.16)
    ),
    "pad, wide": (
        (300, 600), {"fit": "pad"}, (48, 64), (48, 64), (32, 64), (0, 0), (64 / 600, 64 / 600)
    ),
    "pad, tall": ((600, 300), {"fit": "pad"}, (48, 64), (48, 64), (48, 24), (0, 0), (0.08, 0.08)),
    "letterbox, odd margin": (
        (75, 100), {"fit": "letterbox"}, (64, 64), (64, 64), (48, 64), (8, 0), (0.64, 0.64)
    ),
    "letterbox, the margin's half goes down": (
        (51, 64), {"fit": "letterbox"}, (64, 64), (64, 64), (51, 64), (6, 0), (1.0, 1.0)
    ),
    "letterbox, a line": (
        (1, 1000), {"fit": "letterbox"}, (64, 64), (64, 64), (1, 64), (31, 0), (0.064, 0.064)
    ),
    "sides, short": (
        (480, 640), {"fit": "sides", "size": (800, 1333)}, None,
        (800, 1067), (800, 1067), (0, 0), (800 / 480, 1067 / 640),
    ),
    "sides, long": (
        (480, 1600), {"fit": "sides", "size": (800, 1333), "multiple": 32}, None,
        (416, 1344), (400, 1333), (0, 0), (400 / 480, 1333 / 1600),
    ),
    "native": ((33, 65), {"fit": "native"}, None, (33, 65), (33, 65), (0, 0), (1, 1)),
    "native, padded": (
        (33, 65), {"fit": "native", "multiple": 32}, None, (64, 96), (33, 65), (0, 0), (1, 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FRAMES.values(), ids=FRAMES)
def test_where_a_picture_lies_in_the_input(case) -> None:
    image, fields, size, taken_as, content, corner, scale = case
    frame = to_frame(*image, InputSpec(**fields), size)
    assert (frame.image_height, frame.image_width) == image
    assert (frame.input_height, frame.input_width) == taken_as
    assert (frame.content_height, frame.content_width) == content
    assert (frame.top, frame.left) == corner
    assert (frame.scale_y, frame.scale_x) == pytest.approx(scale)


@settings(deadline=None)
@given(
    st.sampled_from(["stretch", "pad", "letterbox", "sides", "native"]),
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.tuples(st.integers(8, 900), st.integers(8, 900)),
)
def test_the_picture_lies_inside_the_input_and_boxes_find_back(fit, image, size) -> None:
    leaves_open = fit in ("sides", "native")
    spec = InputSpec(
        fit=fit, size=None if fit == "native" else size, multiple=32 if leaves_open else 1
    )
    frame = to_frame(*image, spec, None if leaves_open else size)
    assert frame.content_height >= 1
    assert frame.content_width >= 1
    assert frame.top + frame.content_height <= frame.input_height
    assert frame.left + frame.content_width <= frame.input_width
    box = np.array([[0.1, 0.2, 0.7, 0.9]]) * ([image[1], image[0]] * 2)
    scale, corner = [frame.scale_x, frame.scale_y] * 2, [frame.left, frame.top] * 2
    np.testing.assert_allclose(frame.to_image(box * scale + corner), box, rtol=1e-9)


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "chw"])
@pytest.mark.parametrize(("fit", "around"), [("pad", 0.0), ("letterbox", (114 - 10) / 2)])
def test_what_is_around_the_picture(layout, fit, around) -> None:
    white = np.full((20, 40, 3), 255, np.uint8)
    spec = InputSpec(fit=fit, mean=(10, 10, 10), std=(2, 2, 2))
    tensor = taken(white, spec, layout, (32, 32))
    plane = tensor[0, :, :, 1] if layout == "nhwc" else tensor.reshape(3, 32, 32)[1]
    top = 8 if fit == "letterbox" else 0
    assert (plane[top : top + 16] == (255 - 10) / 2).all()
    rest = np.delete(plane, slice(top, top + 16), axis=0)
    assert rest.shape == (16, 32)
    assert (rest == around).all()


def test_a_reduced_picture_has_the_frame_of_the_whole() -> None:
    pixels = np.full((15, 20, 3), 7, np.uint8)
    frame = to_frame(3000, 4000, InputSpec(fit="pad"), (48, 48))
    assert preprocess(pixels, InputSpec(fit="pad"), "nchw", frame)[0, 0, :36].min() == 7
    assert frame == Frame(3000, 4000, 48, 48, 36, 48, 0.012, 0.012)
