"""Graphs of the DETR family through the whole `maskmill annotate`, beside the plain reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from pycocotools import mask as coco

from tasks.cards import read_card
from tasks.categories import coco80
from tasks.graph_file import Tensor
from tests.graphs_detr import OUTPUTS, write_model
from tests.oracles import detr as oracle
from tests.pictures import write_folder
from tests.running import maskmill
from worker.images import decode, read_header
from worker.intake import bind_input

COCO_IDS = [each.id for each in coco80()]
STEPS = {"mask2former": oracle.mask2former, "rf_detr": oracle.rf_detr}


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), 6)


@pytest.mark.parametrize("form", OUTPUTS)
def test_folder_to_dataset(tmp_path: Path, photos: Path, form: Any) -> None:
    card = write_model(tmp_path, form)
    out = tmp_path / "out"
    ran = maskmill("annotate", photos, "-m", card, "-o", out)
    assert ran.code == 0, ran.err
    dataset = json.loads((out / "instances.json").read_bytes())
    assert len(dataset["images"]) == 6
    assert len(dataset["annotations"]) > 20
    assert [each["id"] for each in dataset["categories"]] == COCO_IDS
    assert maskmill("doctor", out).code == 0
    session = onnxruntime.InferenceSession(card.with_suffix(".onnx"))
    (asked,) = session.get_inputs()
    intake = bind_input([Tensor(asked.name, tuple(asked.shape), "float")], read_card(card).input)
    for image in dataset["images"]:
        expected = plain(form, session, intake, photos / image["file_name"])
        found = [each for each in dataset["annotations"] if each["image_id"] == image["id"]]
        assert [COCO_IDS[c] for c in expected.classes] == [each["category_id"] for each in found]
        for record, box, score, surface in zip(
            found, expected.boxes, expected.scores, expected.surfaces, strict=True
        ):
            x, y, w, h = record["bbox"]
            assert [x, y, x + w, y + h] == pytest.approx(box.tolist(), abs=0.02)  # as written
            assert record["score"] == pytest.approx(score, abs=1e-4)
            differs = coco.decode(record["segmentation"]).astype(bool) != (surface > 0)
            assert (abs(surface[differs]) < 1e-5).all()


def plain(form: Any, session: Any, intake: Any, path: Path) -> oracle.Plain:
    """The reference's answer to what ONNX Runtime itself puts out for a picture."""
    data = path.read_bytes()
    decoded = decode(data, read_header(data))
    frame = intake.frame(*decoded.shape[:2])
    raw = dict(
        zip(
            (each.name for each in session.get_outputs()),
            session.run(None, {intake.name: intake.tensor(decoded, frame)}),
            strict=True,
        )
    )
    logits, masks, boxes, columns = OUTPUTS[form]
    sparse = {number: index for index, number in enumerate(COCO_IDS)}
    categories = {index: index for index in range(80)} if columns == 81 else sparse
    heads = raw[logits][0], raw[masks][0], None if boxes is None else raw[boxes][0]
    assert all(np.isfinite(head).all() for head in raw.values())
    return oracle.decode(STEPS.get(form, oracle.detr), *heads, frame, categories)
