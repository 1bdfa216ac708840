"""Tidied masks equal what a plain walk over their pixels makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.categories import Category
from tasks.records import Settings
from tests.pixels import decode, encode_whole
from worker.detections import Detections
from worker.refinement import refine

RING = ["......", ".####.", ".#..#.", ".####.", "......", "....#."]


def asked(**sizes: int) -> Settings:
    return Settings(
        categories=(Category(1, "a"),), class_ids=(1,), max_bytes=1, max_pixels=1, **sizes
    )


def pixels(rows: list[str]) -> np.ndarray:
    return np.array([[each == "#" for each in row] for row in rows])


def detections(*masks: np.ndarray) -> Detections:
    height, width = masks[0].shape
    return Detections(
        boxes=np.tile(np.array([[0.0, 0.0, width, height]]), (len(masks), 1)),
        scores=np.linspace(0.9, 0.5, len(masks)),
        classes=np.zeros(len(masks), np.int64),
        masks=tuple(encode_whole(np.ascontiguousarray(mask)) for mask in masks),
        dropped=2,
    )


def parts(on: np.ndarray, corners: bool) -> list[set[tuple[int, int]]]:
    """Connected parts, found by walking from pixel to pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(on)}
    found = []
    while left:
        part, edge = set(), {left.pop()}
        while edge:
            y, x = edge.pop()
            part.add((y, x))
            steps = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if corners or not a or not b]
            near = {(y + a, x + b) for a, b in steps} & left
            left -= near
            edge |= near
        found.append(part)
    return found


def plain(mask: np.ndarray, holes: int, specks: int) -> np.ndarray:
    made = mask.copy()
    for part in parts(mask, corners=True):
        if len(part) < specks:
            made[tuple(np.array(sorted(part)).T)] = False
    height, width = mask.shape
    for part in parts(~made, corners=False):
        at_edge = any(y in (0, height - 1) or x in (0, width - 1) for y, x in part)
        if not at_edge and len(part) < holes:
            made[tuple(np.array(sorted(part)).T)] = True
    return made


@pytest.mark.parametrize(
    ("sizes", "area", "reason"),
    [
        ({}, 11, "off by default"),
        ({"fill_holes": 3}, 13, "the hole has two pixels"),
        ({"fill_holes": 2}, 11, "two pixels are not fewer than two"),
        ({"drop_specks": 2}, 10, "the speck has one"),
        ({"drop_specks": 1}, 11, "one pixel is not fewer than one"),
        ({"fill_holes": 99, "drop_specks": 2}, 12, "what opens to the edge is no hole"),
        ({"min_area": 11}, 11, "just enough"),
        ({"min_area": 11, "drop_specks": 2}, 0, "the area is that of the tidied mask"),
        ({"drop_specks": 99}, 0, "nothing is left"),
    ],
)
def test_what_becomes_of_a_ring_with_a_speck(sizes, area, reason) -> None:
    found = refine(detections(pixels(RING)), asked(**sizes))
    assert [mask.area for mask in found.masks] == [area] * bool(area), reason
    assert found.dropped == (2 if area else 3)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12),
    st.integers(0, 8), st.integers(0, 8),
)  # fmt: skip
def test_a_walk_over_the_pixels_agrees(seed, height, width, holes, specks) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.6
    mask[0, 0] = True
    found = refine(detections(mask), asked(fill_holes=holes, drop_specks=specks))
    wanted = plain(mask, holes, specks)
    assert len(found) == wanted.any()
    if len(found):
        assert np.array_equal(decode(found.masks[0]), wanted)


def test_the_others_stay_as_they_are() -> None:
    small, large = np.zeros((9, 9), bool), np.ones((9, 9), bool)
    small[4, 4] = True
    before = detections(large, small, large)
    found = refine(before, asked(min_area=2))
    assert found.masks == (before.masks[0], before.masks[2])
    assert found.scores.tolist() == [0.9, 0.5]
    assert len(refine(detections(small), asked(min_area=2))) == 0
