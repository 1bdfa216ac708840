"""Surface masks equal plain bilinear interpolation, but for pixels a rounding from the level."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pixels import decode
from worker.rle import is_canonical
from worker.surfaces import Grid, half_pixel, surface_masks


def bilinear(plane, grid):
    """(H, W) float64 values of a plane at the grid's rows and columns."""

    def both_ends(places, cells):
        low = np.floor(places).astype(int)
        return low, np.minimum(low + 1, cells - 1), places - low

    top, below, down = both_ends(grid.rows, plane.shape[0])
    left, right, across = both_ends(grid.columns, plane.shape[1])
    plane = np.where(np.isfinite(plane), plane, 0).astype(np.float64)
    rows = plane[top] * (1 - down)[:, None] + plane[below] * down[:, None]
    return rows[:, left] * (1 - across) + rows[:, right] * across


def same(planes, grid):
    """Compares all masks with the oracle; gives how many pixels are on."""
    masks = surface_masks(planes, grid)
    assert len(masks) == len(planes)
    for rle, plane in zip(masks, planes, strict=True):
        surface = bilinear(plane, grid)
        expected = surface > 0
        mask = decode(rle)
        # Values are float32: their rounding grows with the largest.
        largest = np.abs(plane[np.isfinite(plane)]).max(initial=1)
        assert (abs(surface[mask != expected]) < 1e-6 * largest).all()
        assert rle.area == mask.sum()
        assert is_canonical(rle)
    return sum(rle.area for rle in masks)


def random_planes(seed, count, rows, columns):
    return np.random.default_rng(seed).normal(0, 3, (count, rows, columns)).astype(np.float32)


def to_size(planes, height, width):
    return Grid(half_pixel(planes.shape[1], height), half_pixel(planes.shape[2], width))


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (9, 11), (31, 23), (240, 320)], ids=str)
@pytest.mark.parametrize("cells", [(1, 1), (1, 7), (7, 1), (9, 11), (31, 23), (90, 70)], ids=str)
def test_every_size_from_every_plane(cells, size):
    planes = random_planes(1, 3, *cells)
    same(planes, to_size(planes, *size))


@st.composite
def cases(draw):
    count, rows, columns = (draw(st.integers(1, most)) for most in (3, 9, 9))
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["normal", "steps", "specials", "extremes"]))
    planes = rng.normal(0, 3, (count, rows, columns)).astype(np.float32)
    if kind != "normal":
        values = {
            "steps": [-2, -1, 0, 0, 1, 2],
            "specials": [np.nan, np.inf, -np.inf, 0, -0.0, 1, -1],
            "extremes": [3e38, -3e38, 1, -1, 1e-45, -1e-45, 1e-30, 6e-8],
        }[kind]
        planes = rng.choice(np.array(values, dtype=np.float32), planes.shape)
    grid = to_size(planes, height, width)
    if draw(st.booleans()):  # any ascending places, shared ones and whole cells among them
        steps = draw(st.sampled_from([1, 2, 3, 1000]))
        places = (
            np.sort(rng.integers(0, steps * (n - 1) + 1, m)) / steps
            for n, m in ((rows, height), (columns, width))
        )
        grid = Grid(*places)
    return planes, grid


@settings(max_examples=400, deadline=None)
@given(cases())
def test_any_surface_on_any_grid(case):
    same(*case)


@pytest.mark.parametrize("value", [1, 1e-45, 3e38], ids=str)
def test_a_level_plane_is_on_to_every_edge(value):
    plane = np.full((1, 4, 6), value, dtype=np.float32)
    assert same(plane, to_size(plane, 31, 47)) == 31 * 47
    assert same(-plane, to_size(plane, 31, 47)) == 0


@pytest.mark.parametrize("value", [0, np.nan, np.inf, -np.inf], ids=str)
def test_zero_and_what_is_not_finite_are_off(value):
    plane = np.full((1, 4, 6), value, dtype=np.float32)
    assert same(plane, to_size(plane, 31, 47)) == 0
    plane[0, 1:3, 2:5] = 5
    assert same(plane, to_size(plane, 31, 47)) > 0


def test_pixels_at_the_level_itself_are_off():
    """Between 1 and -1 every second pixel lies midway, at zero exactly."""
    plane = np.array([[[1], [-1], [1], [-1]]], dtype=np.float32)
    rows = np.array([0, 0.5, 1, 1.5, 2, 2.5, 3])
    (mask,) = surface_masks(plane, Grid(rows, np.zeros(1)))
    assert decode(mask).ravel().tolist() == [True, False, False, False, True, False, False]


def test_rows_and_columns_may_skip_cells():
    planes = random_planes(3, 2, 40, 50)
    grid = Grid(np.array([0, 0, 13.25, 13.25, 39]), np.array([2.5, 30, 30, 49]))
    assert same(planes, grid) > 0


def test_many_planes_are_worked_on_in_parts():
    planes = random_planes(4, 9, 300, 400)
    turned = np.asfortranarray(planes)
    grid = to_size(planes, 100, 90)
    masks = surface_masks(planes, grid)
    assert masks == [surface_masks(one[None], grid)[0] for one in planes]
    assert surface_masks(turned, grid) == masks


def test_no_planes_no_masks():
    planes = np.zeros((0, 5, 5), dtype=np.float32)
    assert surface_masks(planes, to_size(planes, 9, 9)) == []
