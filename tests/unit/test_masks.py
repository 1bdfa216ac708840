"""Masks equal the full-image reference, but for pixels within 1e-6 of the threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import yolact as oracle
from tests.oracles.yolact_heads import make_heads
from tests.pixels import decode
from worker.masks import prototype_masks
from worker.rle import is_canonical

BOXES = {
    "in the middle": (0.3, 0.25, 0.6, 0.75),
    "all of the image": (0.0, 0.0, 1.0, 1.0),
    "over every border": (-0.5, -0.5, 1.5, 1.5),
    "over the upper left corner": (-0.2, -0.1, 0.15, 0.2),
    "over the lower right corner": (0.9, 0.85, 1.2, 1.1),
    "along the left border": (0.0, 0.2, 0.01, 0.9),
    "along the lower border": (0.1, 0.99, 0.9, 1.0),
    "smaller than a cell": (0.5, 0.5, 0.5004, 0.5003),
    "a point": (0.4, 0.4, 0.4, 0.4),
    "outside on the left": (-0.9, 0.2, -0.5, 0.6),
    "outside below": (0.2, 1.5, 0.6, 1.9),
    "far outside": (1e30, 1e30, 3e38, 3e38),
    "reversed": (0.7, 0.8, 0.2, 0.3),
    "edges on cell borders": (5 / 23, 7 / 23, 11 / 23, 19 / 23),
}
SIZES = [(1, 1), (1, 50), (50, 1), (7, 5), (23, 23), (22, 24), (46, 69), (61, 97), (480, 640)]


def same(prototypes, coefficients, boxes, height, width):
    """Compares all masks with the reference; gives how many pixels are on."""
    masks = prototype_masks(prototypes, coefficients, boxes, height, width)
    assert len(masks) == len(boxes)
    for rle, row, box in zip(masks, coefficients, boxes, strict=True):
        surface = oracle.surface(prototypes, row, box, height, width)
        mask = decode(rle)
        differs = mask != (surface > 0.5)
        assert (abs(surface[differs] - 0.5) < 1e-6).all(), box
        assert rle.area == mask.sum()
        assert is_canonical(rle)
    return sum(rle.area for rle in masks)


def random_planes(seed, rows=23, columns=23, depth=8, smooth=True):
    rng = np.random.default_rng(seed)
    planes = rng.normal(0, 2, (rows, columns, depth)).astype(np.float32)
    if smooth:
        planes = (planes + np.roll(planes, 1, 0) + np.roll(planes, 1, 1)) / np.float32(1.7)
    return planes, rng.uniform(-1, 1, (len(BOXES), depth)).astype(np.float32)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "rough"])
def test_every_place_of_a_box_at_every_size(size, smooth):
    boxes = np.array(list(BOXES.values()), dtype=np.float32)
    on = same(*random_planes(1, smooth=smooth), boxes, *size)
    assert on or size == (1, 1)


def test_a_photo_of_twelve_megapixels():
    boxes = np.array([BOXES["in the middle"], BOXES["over every border"]], dtype=np.float32)
    prototypes, coefficients = random_planes(2)
    assert same(prototypes, coefficients[:2], boxes, 3000, 4000)


def test_heads_like_those_of_a_picture():
    heads = make_heads(5, 12)
    best = np.argsort(-heads.scores[:, 1:].max(axis=1))[:40]  # more than fit in one chunk
    assert same(heads.prototypes, heads.coefficients[best], heads.boxes[best], 480, 640) > 10_000


@st.composite
def cases(draw):
    seed = draw(st.integers(0, 2**32))
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    edge = st.one_of(st.floats(-0.5, 1.5, width=32), st.sampled_from([0, 0.25, 0.5, 1]))
    boxes = draw(st.lists(st.tuples(edge, edge, edge, edge), min_size=1, max_size=4))
    return seed, rows, columns, np.array(boxes, dtype=np.float32), size


@settings(max_examples=300, deadline=None)
@given(cases())
def test_any_box_on_any_grid(case):
    seed, rows, columns, boxes, size = case
    prototypes, coefficients = random_planes(seed, rows, columns, depth=4, smooth=False)
    same(prototypes, coefficients[: len(boxes)], boxes, *size)


@pytest.mark.parametrize(
    ("why", "logit", "on"),
    [
        ("one half exactly is off", 0.0, 0),
        ("a hair below", -1e-3, 0),
        ("a hair above, still on the edge's right side", 1e-3, 60 * 80),
        ("too little above for the sigmoid to show it", 1e-9, None),
        ("as sure as can be", 1e4, 60 * 80),
        ("surely not", -1e4, 0),
        ("infinitely sure", np.inf, 60 * 80),
        ("infinitely not", -np.inf, 0),
        ("not a number", np.nan, 0),
    ],
)
def test_a_level_surface(why, logit, on):
    prototypes = np.full((6, 8, 1), logit, dtype=np.float32)
    (mask,) = prototype_masks(
        prototypes, np.ones((1, 1), np.float32), np.array([[0, 0, 1, 1]], np.float32), 60, 80
    )
    assert is_canonical(mask)
    # Within 1e-6 of the threshold either answer is right, if it is one for all pixels.
    assert mask.area in ((0, 60 * 80) if on is None else (on,))


@pytest.mark.parametrize("rows", [[1, -1, 1, -1], [-1, 1, -1, 1]], ids=["off", "on"])
def test_a_pixel_midway_between_sure_cells_is_off(rows):
    """At half the grid's size each pixel lies midway between two cells: at one half, exactly."""
    planes = np.array(rows, dtype=np.float32).reshape(4, 1, 1) * np.float32(1e4)
    boxes = np.array([[0, 0, 1, 1]], dtype=np.float32)
    (mask,) = prototype_masks(planes, np.ones((1, 1), np.float32), boxes, 2, 1)
    assert mask.area == 0


@pytest.mark.parametrize("hair", [1e-9, 1e-8, 6e-8, 1.2e-7, 1e-6])
def test_cells_a_hair_from_one_half_do_not_tear_the_mask(hair):
    """Values that round to the threshold, beside values that do not: edges must still meet."""
    rng = np.random.default_rng(3)
    planes = rng.choice(np.array([-1, -hair, 0, hair, 1], dtype=np.float32), (9, 9, 1))
    boxes = np.array([[-1, -1, 2, 2]], dtype=np.float32)
    same(planes, np.ones((1, 1), np.float32), boxes, 90, 120)


@pytest.mark.parametrize("hair", [1e-30, 1e-9, 1e-8, 6e-8, 1.2e-7])
@pytest.mark.parametrize("rows", [[-1, 0, 1, 1, -1], [-1, 1, 0, 0, 1, -1], [1, 0, 0, 1]], ids=str)
def test_rows_a_hair_over_one_half_join_what_is_around_them(rows, hair):
    planes = np.array(rows, dtype=np.float32)
    planes = np.where(planes == 0, np.float32(hair), planes).reshape(-1, 1, 1).repeat(4, axis=1)
    boxes = np.array([[-1, -1, 2, 2]], dtype=np.float32)
    assert same(planes, np.ones((1, 1), np.float32), boxes, 90, 120)


def test_cells_that_are_not_numbers_are_outside():
    prototypes, coefficients = random_planes(4, depth=1)
    prototypes[3:9, 4:12] = np.nan
    boxes = np.array(list(BOXES.values()), dtype=np.float32)
    assert same(prototypes, coefficients, boxes, 60, 80)


def test_infinite_cells_are_sure():
    prototypes, coefficients = random_planes(5, depth=1)
    prototypes[3:9, 4:12] = np.inf
    prototypes[12:15] = -np.inf
    boxes = np.array(list(BOXES.values()), dtype=np.float32)
    assert same(prototypes, coefficients, boxes, 60, 80)


def test_the_layout_of_the_prototypes_makes_no_difference():
    prototypes, coefficients = random_planes(6)
    boxes = np.array(list(BOXES.values()), dtype=np.float32)
    first = np.ascontiguousarray(np.moveaxis(prototypes, 2, 0))
    turned = np.moveaxis(first, 0, 2)
    assert not turned.flags.c_contiguous
    expected = prototype_masks(prototypes, coefficients, boxes, 60, 80)
    assert prototype_masks(turned, coefficients, boxes, 60, 80) == expected


def test_no_instances_no_masks():
    prototypes, coefficients = random_planes(7)
    none = np.zeros((0, 4), dtype=np.float32)
    assert prototype_masks(prototypes, coefficients[:0], none, 60, 80) == []
