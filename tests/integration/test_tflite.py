"""TFLite builds through the whole command, with every interpreter of this environment."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.graphs_tflite import write_yolact
from tests.pictures import write_folder
from tests.running import maskmill
from worker.tflite_runtime import PACKAGES

INTERPRETERS = [name for name, package in PACKAGES.items() if find_spec(package)]
QUANTUM = 1 / 256  # of the canned scores


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), 9)


def annotated(photos: Path, card: Path, out: Path, *words: object, **variables: str) -> Any:
    ran = maskmill("annotate", photos, "-m", card, "-o", out, *words, **variables)
    assert ran.code == 0, ran.err
    return json.loads((out / "instances.json").read_bytes())


@pytest.mark.parametrize("interpreter", INTERPRETERS)
@pytest.mark.parametrize("kind", ["float", "dynamic", "int8", "uint8"])
def test_every_kind_of_build_is_run_and_named(
    tmp_path: Path, photos: Path, kind: Any, interpreter: str
) -> None:
    card = write_yolact(tmp_path / "model", kind)
    found = annotated(photos, card, tmp_path / "out", MASKMILL_TFLITE=interpreter)
    assert len(found["images"]) == 9
    assert len(found["annotations"]) > 300
    (shard,) = (tmp_path / "out" / "shards").rglob("*.json")
    produced = json.loads(shard.read_bytes())["produced_by"]
    distribution = PACKAGES[interpreter].replace("_", "-")
    assert produced["engine"] == "tflite"
    assert produced["engine_version"] == f"{interpreter} {version(distribution)}"
    assert produced["precision"] == ("fp32" if kind == "float" else kind)
    assert produced["delegate"] == ""


@pytest.mark.parametrize("kind", ["dynamic", "int8", "uint8"])
def test_quantised_builds_find_what_the_float_one_finds(
    tmp_path: Path, photos: Path, kind: Any
) -> None:
    cards = [write_yolact(tmp_path / each, each) for each in ("float", kind)]
    first, second = (annotated(photos, card, card.parent / "out") for card in cards)
    ious, drifts = matched(first, second)
    sure = np.array([each["score"] > 0.2 for each in first["annotations"]])
    assert sure.sum() > 100
    assert np.mean(ious[sure] > 0.5) > 0.95
    assert np.median(drifts[sure]) < 2 * QUANTUM


@pytest.mark.skipif(len(INTERPRETERS) < 2, reason="the other environment has both interpreters")
def test_both_interpreters_find_the_same(tmp_path: Path, photos: Path) -> None:
    card = write_yolact(tmp_path / "model", "int8")
    first, second = (
        annotated(photos, card, tmp_path / each, MASKMILL_TFLITE=each) for each in INTERPRETERS
    )
    for ious, drifts in (matched(first, second), matched(second, first)):
        assert ious.min() > 0.9
        assert drifts.max() < 0.03  # what one quantum of the canned logits, 0.12, makes of a score
        assert drifts.mean() < QUANTUM


def test_same_bytes_for_any_shard_size_and_threads(tmp_path: Path, photos: Path) -> None:
    card = write_yolact(tmp_path / "model", "int8")
    asked = {"1": ("--shard-size", 1), "2": ("--shard-size", 4), "0": ()}
    for threads, words in asked.items():
        annotated(photos, card, tmp_path / threads, *words, MASKMILL_THREADS=threads)
    assert len({(tmp_path / each / "instances.json").read_bytes() for each in asked}) == 1


def matched(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    """For each instance of the first the best mask IoU in its class, and how far the score is."""
    ious, drifts = [], []
    for one in first["annotations"]:
        rivals = [
            each
            for each in second["annotations"]
            if (each["image_id"], each["category_id"]) == (one["image_id"], one["category_id"])
        ]
        overlaps = coco_mask.iou(
            [one["segmentation"]], [each["segmentation"] for each in rivals], [0] * len(rivals)
        )
        best = overlaps.argmax() if rivals else 0
        ious.append(overlaps[0, best] if rivals else 0.0)
        drifts.append(abs(one["score"] - rivals[best]["score"]) if rivals else 1.0)
    return np.array(ious), np.array(drifts)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"MASKMILL_TFLITE": "tensorflow"}, "auto, tflite-runtime, litert"),
        pytest.param(
            {"MASKMILL_TFLITE": "tflite-runtime"},
            "not installed",
            marks=pytest.mark.skipif("tflite-runtime" in INTERPRETERS, reason="it is here"),
        ),
    ],
)
def test_an_interpreter_that_cannot_be_had_is_refused(
    tmp_path: Path, photos: Path, variables: dict[str, str], said: str
) -> None:
    card = write_yolact(tmp_path / "model", "int8")
    ran = maskmill("annotate", photos, "-m", card, "-o", tmp_path / "out", **variables)
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "out").exists()
