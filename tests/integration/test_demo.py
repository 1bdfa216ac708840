"""The bundled model on the bundled images, and on scenes drawn anew: its card says the truth."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tasks import annotate
from tasks.cards import read_card
from tasks.exits import Said
from tasks.shelf import ZOO
from tests.running import maskmill
from worker.tflite_runtime import PACKAGES

ROOT = Path(__file__).parents[2]
SCENES = ROOT / "deploy" / "recipes" / "yolact" / "scenes.py"
INTERPRETERS = [name for name, package in PACKAGES.items() if find_spec(package)]
LOGIT_QUANTUM = 0.169  # of the int8 build's class logits


def test_demo_annotates_judges_and_says_what_is_next(tmp_path: Path) -> None:
    ran = maskmill("demo", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "20 of 20 inputs" in ran.out
    assert "contact-sheet.jpg" in ran.out
    assert "maskmill annotate" in ran.out
    assert (tmp_path / "out" / "contact-sheet.jpg").stat().st_size > 20_000
    again = maskmill("demo", "-o", tmp_path / "out", "--json")
    assert again.code == 0, again.err
    report = again.events[-1]
    # A golden of this model; the last digits belong to the CPU that runs it.
    assert report["box"]["ap"] == pytest.approx(0.795, abs=0.01)
    assert report["mask"]["ap"] == pytest.approx(0.844, abs=0.01)
    assert report["mean_ap"] == pytest.approx((0.795 + 0.844) / 2, abs=0.01)
    assert maskmill("doctor", tmp_path / "out").code == 0


def test_the_demo_of_a_board_that_has_no_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(annotate, "is_here", lambda engine: engine == "tflite")
    stopped = Said({"event": "summary"}, [], code=3)
    ran = lambda *given: asked.append(given[2].runtime) or stopped  # noqa: E731
    monkeypatch.setattr(annotate, "annotate", ran)
    assert annotate.demo("out", as_json=False) == 3
    assert asked == ["tflite"]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held")
    command = [sys.executable, str(SCENES), str(folder), "--count", "100", "--seed", "2"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "instances.json"


@pytest.mark.parametrize(("runtime", "number"), [("onnx", 0), ("tflite", 1)])
def test_a_build_s_ap_is_what_eval_finds(
    tmp_path: Path, held_out: Path, runtime: str, number: int
) -> None:
    """On a hundred of the held-out scenes; the card's own figure is of all 500."""
    words = ("-m", "shapes", "--runtime", runtime, "-o", tmp_path / "out")
    ran = maskmill("annotate", held_out, *words, MASKMILL_TFLITE="litert")
    assert ran.code == 0, ran.err
    ran = maskmill("eval", tmp_path / "out", "--gt", held_out, "--json")
    report = json.loads(ran.out)
    (said,) = read_card(ZOO / "shapes.toml").builds[number].ap
    assert report["box"]["ap"] == pytest.approx(said.box, abs=0.03)
    assert report["mask"]["ap"] == pytest.approx(said.mask, abs=0.03)
    rings = report["mask"]["by_class"]["ring"]
    assert rings > 0.6, "a hole that is filled would cost most of this"


def test_the_int8_build_costs_at_most_a_hundredth() -> None:
    full, small = (build.ap[0] for build in read_card(ZOO / "shapes.toml").builds)
    assert (full.box or 0) - (small.box or 0) < 0.01
    assert (full.mask or 0) - (small.mask or 0) < 0.01
    assert (ZOO / "shapes-int8.tflite").stat().st_size <= 1_000_000


@pytest.mark.skipif(len(INTERPRETERS) < 2, reason="the other environment has both interpreters")
def test_both_interpreters_find_the_same_with_the_int8_build(tmp_path: Path) -> None:
    """They round differently in some sixty layers: scores move by a quantum of the logits, 0.17."""
    truth = ROOT / "worker" / "demo" / "instances.json"
    found = []
    for interpreter in INTERPRETERS:
        out = tmp_path / interpreter
        words = ("-m", "shapes", "--runtime", "tflite", "-o", out)
        ran = maskmill("annotate", truth, *words, MASKMILL_TFLITE=interpreter)
        assert ran.code == 0, ran.err
        found.append(json.loads((out / "instances.json").read_bytes()))
        ran = maskmill("eval", out, "--gt", truth, "--json")
        # On these 20 images, where fp32 has 0.795 and 0.844.
        assert json.loads(ran.out)["box"]["ap"] == pytest.approx(0.796, abs=0.01)
        assert json.loads(ran.out)["mask"]["ap"] == pytest.approx(0.843, abs=0.01)
    for one, other in (found, found[::-1]):
        ious, drifts, quanta = np.array(list(pairs(one, other, least=0.3))).T
        assert len(ious) > 120
        assert np.mean(ious >= 0.9) > 0.98
        assert np.median(drifts) <= 2 / 256
        assert np.mean(quanta <= 2) > 0.9
        assert quanta.max() < 5


def pairs(one: Any, other: Any, least: float) -> Iterator[tuple[float, float, float]]:
    """Mask IoU, drift of the score, and that in quanta of the logits, of each instance's match."""
    for each in one["annotations"]:
        if each["score"] < least:
            continue
        alike = [
            its
            for its in other["annotations"]
            if (its["image_id"], its["category_id"]) == (each["image_id"], each["category_id"])
        ]
        masks = [its["segmentation"] for its in alike]
        overlaps = coco_mask.iou([each["segmentation"]], masks, [0] * len(alike))
        if not alike or overlaps.max() < 0.5:
            yield 0.0, 0.0, 0.0
            continue
        score, its_score = each["score"], alike[overlaps.argmax()]["score"]
        far = abs(np.log(odds(score)) - np.log(odds(its_score)))
        yield overlaps.max(), abs(score - its_score), far / LOGIT_QUANTUM


def odds(score: float) -> float:
    """Of a score that stands for all that rounds to it."""
    return (score + 1 / 512) / (1 + 1 / 512 - score)
