"""Polygons against COCO's own rasteriser: exact ones are exact, simplified ones say how near."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco
from pycocotools.coco import COCO

from tests.pixels import decode, encode_whole
from worker.polygons import LEAST_IOU, outlines, polygons
from worker.rle import Rle, encode

# pycocotools 2.0.11 hands numpy 2 an __array__ without `copy`; it works, with a warning.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12)).filter(np.any)


def mask_of(*rows: str) -> np.ndarray:
    return np.array([[each == "#" for each in row] for row in rows])


def painted(paths: list[list[float]], rle: Rle) -> np.ndarray:
    merged = coco.merge(coco.frPyObjects(paths, rle.height, rle.width))
    return coco.decode(merged).astype(bool)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def blobs(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    """Smooth shapes with parts and holes, some over the border, as networks make them."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    return cv2.GaussianBlur(noise, (0, 0), 2 + seed % 5) > 0.01


SHAPES = {
    "one pixel": mask_of("#"),
    "one pixel in a corner": mask_of("...", "...", "..#"),
    "a row": mask_of("#####"),
    "all": np.ones((5, 7), bool),
    "touching corners": mask_of("#.", ".#"),
    "touching corners, other way": mask_of(".#", "#."),
    "chessboard": np.indices((7, 7)).sum(0) % 2 == 0,
    "a hole": mask_of("####", "#..#", "####"),
    "holes that touch": mask_of("#####", "#.###", "##.##", "#####"),
    "a hole at the corner of the outside": mask_of("####", "#.##", "##.#", "###."),
    "an island in a hole": mask_of("#####", "#...#", "#.#.#", "#...#", "#####"),
    "a hole in an island in a hole": np.pad(
        np.pad(np.pad(mask_of("###", "#.#", "###"), 1), 1, constant_values=True), 1
    ),
    "parts": mask_of("##..##", "##..##", "......", "#....#"),
    "a ring and its neighbour": mask_of("###.", "#.#.", "###.", "...#"),
}


@pytest.mark.parametrize("mask", [pytest.param(mask, id=name) for name, mask in SHAPES.items()])
@pytest.mark.parametrize("offset", [(0, 0), (3, 5)])
def test_exact_outlines_paint_the_mask(mask: np.ndarray, offset: tuple[int, int]) -> None:
    x, y = offset
    rle = encode(mask, x, y, mask.shape[0] + 2 * y, mask.shape[1] + 2 * x)
    paths, kept = polygons(rle, least_iou=2)
    assert kept == 1.0
    assert np.array_equal(painted(paths, rle), decode(rle))
    assert all(len(path) >= 6 and len(path) % 2 == 0 for path in paths)


@settings(deadline=None, max_examples=300)
@given(MASKS, st.integers(0, 4), st.integers(0, 4), st.integers(0, 3))
def test_exact_outlines_paint_any_mask(mask: np.ndarray, x: int, y: int, more: int) -> None:
    rle = encode(mask, x, y, mask.shape[0] + y + more, mask.shape[1] + x + more)
    paths, kept = polygons(rle, least_iou=2)
    assert kept == 1.0
    assert np.array_equal(painted(paths, rle), decode(rle))


@settings(deadline=None, max_examples=200)
@given(MASKS, st.integers(0, 4))
def test_the_iou_told_is_the_iou_kept(mask: np.ndarray, offset: int) -> None:
    rle = encode(mask, offset, offset, mask.shape[0] + 9, mask.shape[1] + 9)
    paths, kept = polygons(rle)
    assert kept == pytest.approx(iou(painted(paths, rle), decode(rle)), abs=1e-12)
    assert kept >= LEAST_IOU
    assert all(len(path) >= 6 for path in paths)


@pytest.mark.parametrize("seed", range(8))
def test_simplified_outlines_are_near_and_short(seed: int) -> None:
    mask = cv2.resize(blobs(seed).astype(np.uint8), (480, 360)) > 0  # smooth stairs
    rle = encode_whole(mask)
    exact, _ = polygons(rle, least_iou=2)
    paths, kept = polygons(rle)
    assert LEAST_IOU <= kept <= 1
    assert kept == pytest.approx(iou(painted(paths, rle), mask), abs=1e-12)
    assert sum(map(len, paths)) < sum(map(len, exact)) / 2


@pytest.mark.parametrize("rows", [("##.", ".#."), (".#", ".#", "##"), (".###.", "#####", ".###.")])
def test_a_simplification_that_costs_too_much_is_not_taken(rows: tuple[str, ...]) -> None:
    rle = encode_whole(mask_of(*rows))
    assert polygons(rle, least_iou=0)[1] < LEAST_IOU
    assert polygons(rle) == polygons(rle, least_iou=2)


def test_a_rectangle_has_four_corners() -> None:
    paths, kept = polygons(encode_whole(np.pad(np.ones((40, 30), bool), 3)))
    assert (paths, kept) == ([[3, 3, 33, 3, 33, 43, 3, 43]], 1.0)


def test_parts_and_holes() -> None:
    """Parts hang together by edges; a hole goes the other way round than what it is in."""
    found = outlines(SHAPES["a hole in an island in a hole"])
    assert [len(part) for part in found] == [2, 2]
    areas = [[cv2.contourArea(ring, oriented=True) for ring in part] for part in found]
    assert all(outer > 0 > hole for outer, hole in areas)
    assert [len(part) for part in outlines(SHAPES["touching corners"])] == [1, 1]
    assert len(outlines(SHAPES["parts"])) == 4


def test_an_empty_mask_has_no_polygons() -> None:
    assert polygons(encode_whole(np.zeros((4, 5), bool))) == ([], 1.0)


def test_coco_loads_them(tmp_path: Path) -> None:
    masks = [np.pad(mask, 20) for mask in SHAPES.values()]
    images = [{"id": n, "height": m.shape[0], "width": m.shape[1]} for n, m in enumerate(masks)]
    made = [polygons(encode_whole(mask), least_iou=2)[0] for mask in masks]
    annotations = [
        {"id": n + 1, "image_id": n, "category_id": 1, "iscrowd": 0, "segmentation": paths}
        for n, paths in enumerate(made)
    ]
    path = tmp_path / "dataset.json"
    categories = [{"id": 1, "name": "thing"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    dataset = COCO(str(path))
    for number, mask in enumerate(masks):
        assert np.array_equal(dataset.annToMask(dataset.anns[number + 1]).astype(bool), mask)
