"""Pasted masks equal the plain full-image pastes, but for pixels within 1e-6 of one half."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import mask_rcnn as oracle
from tests.pixels import decode
from worker.pasting import plane_masks, rounded_masks, sampled_masks
from worker.rle import is_canonical

BOXES = {  # as parts of the image
    "in the middle": (0.3, 0.25, 0.6, 0.75),
    "all of the image": (0.0, 0.0, 1.0, 1.0),
    "over every border": (-0.5, -0.5, 1.5, 1.5),
    "over the upper left corner": (-0.2, -0.1, 0.15, 0.2),
    "over the lower right corner": (0.9, 0.85, 1.2, 1.1),
    "along the left border": (0.0, 0.2, 0.01, 0.9),
    "smaller than a pixel": (0.5, 0.5, 0.5004, 0.5003),
    "outside on the left": (-0.9, 0.2, -0.5, 0.6),
    "far too large": (-1e6, -1e6, 1e6, 1e6),
}
SIZES = [(1, 1), (1, 50), (50, 1), (7, 5), (61, 97), (480, 640)]


def heat_maps(seed, count, side=28, levels=None):
    """Ellipses with a soft, rough border, as a mask head draws them."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
    bend = rng.uniform(0.5, 1.6, (count, 2, 1, 1))
    inside = 0.8 - (x * bend[:, 0]) ** 2 - (y * bend[:, 1]) ** 2 + rng.normal(0, 0.1, (count, 1, 1))
    rough = rng.normal(0, 0.15, (count, side, side))
    maps = 1 / (1 + np.exp(-6 * (inside + rough)))
    return (np.round(maps * levels) / levels if levels else maps).astype(np.float32)


def same(paste, maps, boxes, height, width):
    """Compares all masks with the plain ones; gives how many pixels are on."""
    if paste == "sampled":
        boxes = np.clip(boxes, 0, [width, height, width, height])
        solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        maps, boxes = maps[solid], boxes[solid]
    fast = {"rounded": rounded_masks, "sampled": sampled_masks}[paste]
    masks = fast(maps, boxes, height, width)
    assert len(masks) == len(boxes)
    for rle, heat, box in zip(masks, maps, boxes, strict=True):
        surface = getattr(oracle, paste)(heat, box, height, width)
        mask = decode(rle)
        differs = mask != (surface >= 0.5 if paste == "sampled" else surface > 0.5)
        assert (abs(surface[differs] - 0.5) < 1e-6).all(), box
        assert rle.area == mask.sum()
        assert is_canonical(rle)
    return sum(rle.area for rle in masks)


@pytest.mark.parametrize("paste", ["rounded", "sampled"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("side", [14, 28])
def test_every_place_of_a_box_at_every_size(paste, size, side):
    boxes = np.array(list(BOXES.values())) * np.tile(size[::-1], 2)
    on = same(paste, heat_maps(1, len(boxes), side), boxes, *size)
    assert on or min(size) == 1


@pytest.mark.parametrize("paste", ["rounded", "sampled"])
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    side=st.sampled_from([1, 2, 7, 14]),
    levels=st.sampled_from([None, 1, 2, 4]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    corners=st.lists(
        st.tuples(*[st.one_of(st.floats(-20, 60, width=32), st.integers(-5, 45))] * 4),
        min_size=1,
        max_size=3,
    ),
)
def test_any_box_equals_the_reference(paste, seed, side, levels, size, corners):
    """Also boxes without area, whole corners and maps whose values lie at one half."""
    boxes = np.sort(np.array(corners, dtype=np.float64).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    same(paste, heat_maps(seed, len(boxes), side, levels), boxes, *size)


@pytest.mark.parametrize("paste", ["rounded", "sampled"])
def test_more_boxes_than_fit_in_one_chunk(paste):
    rng = np.random.default_rng(4)
    corner, side = rng.uniform(0, 1900, (60, 2)), rng.uniform(5, 500, (60, 2))
    assert same(paste, heat_maps(4, 60), np.hstack([corner, corner + side]), 300, 2000)


@pytest.mark.parametrize(("paste", "expected"), [("rounded", 0), ("sampled", 6 * 4)])
def test_a_map_of_exactly_one_half(paste, expected):
    """The pastes differ in whether it is on, and each says so inside the ring of zeros too."""
    maps = np.full((1, 14, 14), 0.5, np.float32)
    box = np.array([[2.0, 1.0, 8.0, 5.0]])
    assert same(paste, maps, box, 10, 12) == pytest.approx(expected, abs=0)


@pytest.mark.parametrize("shape", [(3, 5), (40, 31), (61, 97)])
def test_the_reference_resizes_as_opencv_does(shape):
    (heat,) = heat_maps(3, 1)
    rows, columns = shape
    plain = oracle.at(
        heat,
        (np.arange(rows) + 0.5) * 28 / rows - 0.5,
        (np.arange(columns) + 0.5) * 28 / columns - 0.5,
    )
    np.testing.assert_allclose(plain, cv2.resize(heat, (columns, rows)), atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("paste", [rounded_masks, sampled_masks])
def test_a_map_that_is_not_finite_is_an_empty_mask(paste, bad):
    maps, boxes = heat_maps(5, 3), np.tile([10.0, 10, 40, 30], (3, 1))
    maps[1, 3, 4] = bad
    masks = paste(maps, boxes, 60, 80)
    assert [mask.area > 0 for mask in masks] == [True, False, True]
    assert masks[0] == paste(maps[:1], boxes[:1], 60, 80)[0]


@pytest.mark.parametrize("paste", [rounded_masks, sampled_masks])
def test_values_that_are_no_probabilities(paste):
    rng = np.random.default_rng(6)
    maps = (rng.normal(0, 1, (20, 14, 14)) * 10.0 ** rng.integers(-40, 38, (20, 14, 14))).astype(
        np.float32
    )
    boxes = np.tile([3.0, 4, 50, 40], (20, 1))
    for mask in paste(maps, boxes, 45, 60):
        assert is_canonical(mask)
        assert not decode(mask)[42:].any()


@pytest.mark.parametrize("paste", [rounded_masks, sampled_masks])
def test_no_box(paste):
    assert paste(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4)), 20, 30) == []


def pasted_planes(seed, count, height, width):
    """What torchvision's graph puts out: pasted by its authors' algorithm, not thresholded."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-0.2, 1, (count, 2)) * [width, height]
    boxes = np.hstack([corner, corner + rng.uniform(0.02, 0.8, (count, 2)) * [width, height]])
    maps = heat_maps(seed, count)
    maps[::4] = 1  # whose edge is where the box says
    planes = [oracle.rounded(*each, height, width) for each in zip(maps, boxes, strict=True)]
    return np.reshape(planes, (count, height, width)).astype(np.float32), boxes


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_planes_are_looked_at_in_their_boxes_only(size, seed):
    planes, boxes = pasted_planes(seed, 40, *size)
    rows = [7, 3, 39, 0, *range(8, 30)]
    masks = plane_masks(planes, rows, boxes[rows])
    for rle, row in zip(masks, rows, strict=True):
        assert (decode(rle) == (planes[row] > 0.5)).all()
        assert is_canonical(rle)


def test_a_value_that_is_not_a_number_is_off_in_a_plane():
    planes = np.ones((1, 20, 30), np.float32)
    planes[0, 5, 6] = np.nan
    (mask,) = plane_masks(planes, [0], np.array([[0.0, 0, 30, 20]]))
    assert (decode(mask) == (planes[0] > 0.5)).all()
    assert mask.area == 20 * 30 - 1
