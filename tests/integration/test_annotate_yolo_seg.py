"""Ultralytics graphs through the whole `maskmill annotate`, against the oracle on ONNX Runtime's
own outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from tasks.cards import read_card
from tests.graphs_yolo_seg import NAMES, SIZE, Form, write_model
from tests.oracles import yolo_seg as oracle
from tests.pictures import picture
from tests.running import maskmill
from worker.intake import Intake, bind_input
from worker.onnx_runtime import OnnxRuntime

FORMS: list[Form] = ["raw", "raw_nhwc", "end_to_end", "end_to_end_nhwc"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PNGs, so that every reader has the same pixels: of the input's width, larger, smaller."""
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(64, 48), (96, 72), (40, 30), (61, 100), (128, 128)]):
        picture(number, *size).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("masks", ["upsampled", "logits"])
@pytest.mark.parametrize("form", FORMS)
def test_a_graph_equals_the_oracle(tmp_path: Path, photos: Path, form: Form, masks: str) -> None:
    card = write_model(tmp_path, form, decode=f'masks = "{masks}"\n')
    ran = maskmill("annotate", photos, "-m", card, "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    dataset = json.loads((tmp_path / "out" / "instances.json").read_bytes())
    assert [each["name"] for each in dataset["categories"]] == list(NAMES)
    runtime = OnnxRuntime(str(card.with_suffix(".onnx")), threads=1)
    intake = bind_input(runtime.inputs, read_card(card).input)
    total = 0
    for image in dataset["images"]:
        written = [each for each in dataset["annotations"] if each["image_id"] == image["id"]]
        with Image.open(photos / image["file_name"]) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        plain = _oracle(runtime, intake, pixels, form, masks)
        seen = [place for place, most in enumerate(plain.most) if most.any()]
        assert len(written) == len(seen)
        for each, place in zip(written, seen, strict=True):
            _assert_same(each, plain, place)
        total += len(written)
    assert total > 20
    assert maskmill("doctor", tmp_path / "out").code == 0


def _oracle(
    runtime: OnnxRuntime, intake: Intake, pixels: np.ndarray, form: Form, masks: str
) -> oracle.Plain:
    frame = intake.frame(*pixels.shape[:2])
    raw = runtime.run(intake.feeds(intake.tensor(pixels, frame), frame))
    rows, prototypes = raw["output0"][0], raw["output1"][0]
    rows = rows.copy() if form.startswith("end_to_end") else rows.T.copy()
    if form.endswith("nhwc"):
        prototypes = np.moveaxis(prototypes, 2, 0)
        rows[:, :4] *= np.float32(SIZE)
    if form.startswith("end_to_end"):
        found = oracle.listed(rows, len(NAMES))
    else:
        found = oracle.suppressed(oracle.raw_candidates(rows, len(NAMES)))
    return oracle.decode(found, prototypes, *pixels.shape[:2], (SIZE, SIZE), masks)


def _assert_same(written: dict[str, Any], plain: oracle.Plain, place: int) -> None:
    assert written["category_id"] == plain.classes[place] + 1
    assert written["score"] == pytest.approx(plain.scores[place], abs=1e-5)
    x1, y1, x2, y2 = plain.boxes[place]
    assert written["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=6e-3)
    drawn = coco.decode(written["segmentation"]).astype(bool)
    assert (plain.least[place] <= drawn).all()
    assert (drawn <= plain.most[place]).all()


def test_a_card_of_another_form_is_refused(tmp_path: Path, photos: Path) -> None:
    card = write_model(tmp_path, "raw", decode='predictions = "end_to_end"\n')
    ran = maskmill("annotate", photos, "-m", card, "-o", tmp_path / "out")
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert "output0 (1×17×64 float)" in ran.err
