"""`maskmill eval` against pycocotools called by hand, and against answers known beforehand."""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.graphs import write_model
from tests.pictures import write_folder
from tests.running import maskmill


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    photos = write_folder(folder / "photos", 6)
    model = write_model(folder, "a")
    ran = maskmill("annotate", photos, "-m", model, "-o", folder / "out", "--max-detections", 12)
    assert ran.code == 0, ran.err
    return folder / "out"


def dataset(out: Path) -> dict[str, Any]:
    return json.loads((out / "instances.json").read_text())


def evaluated(out: Path, truth: dict[str, Any], path: Path) -> dict[str, Any]:
    path.write_text(json.dumps(truth))
    ran = maskmill("eval", out, "--gt", path, "--json")
    assert ran.code == 0, ran.err or ran.out
    return ran.events[-1]


def shuffled(truth: dict[str, Any]) -> dict[str, Any]:
    """Other ids for images and categories, and other folders: only names tell."""
    numbers = list(range(50, 50 + len(truth["images"])))
    random.Random(0).shuffle(numbers)
    new = {each["id"]: number for each, number in zip(truth["images"], numbers, strict=True)}
    kinds = {each["id"]: 90 - each["id"] for each in truth["categories"]}
    for each in truth["images"]:
        each.update(id=new[each["id"]], file_name="elsewhere/" + each["file_name"])
    for each in truth["categories"]:
        each["id"] = kinds[each["id"]]
    for number, each in enumerate(truth["annotations"]):
        each.update(
            id=number, image_id=new[each["image_id"]], category_id=kinds[each["category_id"]]
        )
    return truth


@pytest.mark.parametrize("change", [lambda same: same, shuffled], ids=["same ids", "by name"])
def test_perfect_predictions_score_one(out: Path, tmp_path: Path, change: Any) -> None:
    report = evaluated(out, change(dataset(out)), tmp_path / "truth.json")
    assert report["box"]["ap"] == report["mask"]["ap"] == report["mean_ap"] == 1.0
    assert report["mask"]["mean_iou"] == 1.0
    assert report["truth_images_not_in_job"] == report["results_left_out"] == 0


def test_equals_pycocotools_by_hand(out: Path, tmp_path: Path) -> None:
    """A truth that differs: some instances gone, some boxes and masks of others."""
    truth = dataset(out)
    truth["annotations"] = truth["annotations"][::2]
    for one, other in zip(truth["annotations"][::5], truth["annotations"][1::5], strict=False):
        one["category_id"] = other["category_id"]
    report = evaluated(out, truth, tmp_path / "truth.json")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "truth.json"))
        found = coco.loadRes(str(out / "results.json"))
        for kind, name in (("bbox", "box"), ("segm", "mask")):
            judge = COCOeval(coco, found, kind)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
            keys = ("ap", "ap50", "ap75")
            assert [report[name][key] for key in keys] == pytest.approx(judge.stats[:3], abs=1e-4)
            assert 0.05 < judge.stats[0] < 0.95


def test_an_image_that_was_not_annotated_counts(out: Path, tmp_path: Path) -> None:
    """A truth with more images than the job says so; a job with none in common is refused."""
    truth = dataset(out)
    truth["images"].append({"id": 99, "file_name": "other.jpg", "width": 9, "height": 9})
    report = evaluated(out, truth, tmp_path / "truth.json")
    assert report["truth_images_not_in_job"] == 1
    assert report["images"] == 6
    alien = {"images": [{"id": 1, "file_name": "x"}], "annotations": [], "categories": []}
    (tmp_path / "alien.json").write_text(json.dumps(alien))
    ran = maskmill("eval", out, "--gt", tmp_path / "alien.json")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "no image" in ran.err


@pytest.mark.parametrize("text", ["", "[]", '{"images": []}', "not json"])
def test_no_ground_truth(out: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "truth.json").write_text(text)
    ran = maskmill("eval", out, "--gt", tmp_path / "truth.json")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "truth.json" in ran.err


def test_nothing_to_compare_with(out: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text(json.dumps({**dataset(out), "annotations": []}))
    ran = maskmill("eval", out, "--gt", tmp_path / "empty.json")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "has nothing of the job's classes in the job's images" in ran.err
