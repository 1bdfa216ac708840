"""What two datasets have in common, against pairs that are known beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from tasks.environment import SettingError
from tasks.folder import Folder
from worker.evaluate import compare
from worker.parity import _bounds, _faults

SIDE = 40
Found = tuple[int, int, float, int]  # left, width, score, category


def rle(left: int, width: int) -> dict[str, Any]:
    bitmap = np.zeros((SIDE, SIDE), np.uint8)
    bitmap[:, left : left + width] = 1
    made = coco_mask.encode(np.asfortranarray(bitmap))
    return {"size": [SIDE, SIDE], "counts": made["counts"].decode()}


def job(folder: Path, images: dict[int, list[Found]]) -> Folder:
    folder.mkdir()
    annotations = [
        {"image_id": image, "category_id": kind, "score": score, "segmentation": rle(left, width)}
        for image, found in images.items()
        for left, width, score, kind in found
    ]
    dataset = {"images": [{"id": image} for image in images], "annotations": annotations}
    (folder / "instances.json").write_text(json.dumps(dataset))
    return Folder(str(folder), "0")


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        pytest.param([], [], {"instances": 0, "matched": 1.0, "mask_iou": 1.0}, id="nothing found"),
        pytest.param(
            [(0, 10, 0.9, 1)],
            [(0, 10, 0.8, 1)],
            {"instances": 2, "matched": 1.0, "mask_iou": 1.0, "score_drift": 0.1},
            id="the same, scored less",
        ),
        pytest.param(
            [(0, 10, 0.9, 1)],
            [(0, 8, 0.9, 2)],
            {"matched": 1.0, "mask_iou": 0.8, "class_flips": 1},
            id="smaller, and of another class",
        ),
        pytest.param(
            [(0, 10, 0.9, 1), (20, 10, 0.9, 1)],
            [(0, 10, 0.9, 1)],
            {"instances": 3, "matched": 0.6667, "mask_iou": 1.0},
            id="one is missing",
        ),
        pytest.param(
            [(0, 10, 0.9, 1)],
            [(0, 4, 0.9, 1)],
            {"instances": 2, "matched": 0.0, "class_flips": 0},
            id="an overlap under a half is no match",
        ),
        pytest.param(
            [(0, 10, 0.31, 1)],
            [(0, 10, 0.29, 1)],
            {"instances": 1, "matched": 1.0, "score_drift": 0.02},
            id="on the threshold: its partner may score less",
        ),
        pytest.param(
            [(0, 10, 0.2, 1)], [(20, 10, 0.2, 1)], {"instances": 0}, id="under it in both"
        ),
        pytest.param(
            [(0, 10, 0.9, 1), (0, 9, 0.8, 1)],
            [(0, 9, 0.9, 1)],
            {"instances": 3, "matched": 0.6667, "mask_iou": 1.0},
            id="each is matched once, by the best",
        ),
    ],
)
def test_pairs(
    tmp_path: Path, ours: list[Found], theirs: list[Found], expected: dict[str, float]
) -> None:
    report = compare(job(tmp_path / "a", {1: ours}), job(tmp_path / "b", {1: theirs}), 0.3)
    assert {key: report[key] for key in expected} == pytest.approx(expected)


def test_an_image_that_one_of_them_lacks_is_counted(tmp_path: Path) -> None:
    a = job(tmp_path / "a", {1: [(0, 10, 0.9, 1)], 2: []})
    b = job(tmp_path / "b", {2: [(0, 10, 0.9, 1)], 3: []})
    report = compare(a, b, 0.3)
    assert (report["images"], report["images_in_one_only"]) == (1, 2)
    assert (report["instances"], report["matched"]) == (1, 0.0)


FOUND = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 10), st.floats(0.1, 1), st.integers(1, 2)),
    max_size=6,
    unique_by=lambda found: found[:2],
)


@settings(deadline=None)
@given(ours=FOUND, theirs=FOUND)
def test_a_dataset_is_at_parity_with_itself(
    tmp_path_factory: pytest.TempPathFactory, ours: list[Found], theirs: list[Found]
) -> None:
    folder = tmp_path_factory.mktemp("parity")
    a, b = job(folder / "a", {1: ours}), job(folder / "b", {1: theirs})
    assert compare(a, b, 0.3)["instances"] == compare(b, a, 0.3)["instances"]
    itself = compare(a, a, 0.3)
    assert (itself["matched"], itself["mask_iou"], itself["score_drift_max"]) == (1.0, 1.0, 0.0)
    assert itself["class_flips"] == 0


@pytest.mark.parametrize(
    ("require", "reason"),
    [
        ("matched", "no NAME=NUMBER"),
        ("matched=high", "no NAME=NUMBER"),
        ("speed=3", "with one of matched, mask_iou"),
        ("ap_loss=0.1", "wants a ground truth"),
        ("matched=nan", "no NAME=NUMBER"),
    ],
)
def test_bounds_that_cannot_be(require: str, reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        _bounds(require, "")


def test_bounds_are_at_least_or_at_most() -> None:
    report = {"matched": 0.97, "score_drift": 0.02, "instances": 4, "images_in_one_only": 1}
    assert [*_faults(report, {})] == []
    faults = [*_faults(report, _bounds("matched=0.98, score_drift=0.01", ""))]
    assert faults == [
        "matched is 0.97, under the bound of 0.98",
        "score_drift is 0.02, over the bound of 0.01",
        "1 images failed in one of the two",
    ]
    assert [*_faults(report | {"images_in_one_only": 0}, _bounds("matched=0.97", ""))] == []


def test_nothing_found_is_no_parity() -> None:
    report = {"matched": 1.0, "instances": 0, "images_in_one_only": 0}
    assert [*_faults(report, _bounds("matched=0.98", ""))] == [
        "nothing was found that scores enough to count: there was nothing to compare"
    ]
