"""`maskmill annotate` with canned Mask R-CNN graphs of each form, against the plain reference."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime as ort
import pytest
from pycocotools.coco import COCO

from tasks.cards import read_card
from tasks.categories import coco80
from tests.graphs_mask_rcnn import Form, write_model
from tests.oracles import mask_rcnn as oracle
from tests.pictures import picture
from tests.running import maskmill
from worker.intake import bind_input
from worker.onnx_runtime import OnnxRuntime

SIZES = [(97, 61), (64, 120), (200, 90), (50, 50)]
IDS = [each.id for each in coco80()]
# How the reference reads each form: names of boxes, labels, scores and masks, then its options.
READ: dict[str, tuple[tuple[str, str, str, str], dict[str, Any]]] = {
    "0033": (("boxes", "classes", "scores", "raw_masks"), {"numbering": "one_based"}),
    "0033 sides": (("boxes", "classes", "scores", "raw_masks"), {"numbering": "one_based"}),
    "0002": (("boxes", "labels", "", "masks"), {}),
    "0228": (("boxes", "labels", "", "masks"), {}),
    "torchvision": (("boxes", "labels", "scores", "masks"), {"numbering": "coco91", "paste": None}),
    "detectron2": (("pred_boxes", "pred_classes", "scores", "pred_masks"), {"paste": "sampled"}),
    "onnx_zoo": (("6568", "6570", "6572", "6887"), {"numbering": "one_based"}),
}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PNGs, which every reader reads alike."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate(SIZES):
        picture(number, *size).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("form", get_args(Form))
def test_annotations_equal_the_reference(tmp_path: Path, pictures: Path, form: Form) -> None:
    card = write_model(tmp_path, form)
    out = tmp_path / "out"
    ran = maskmill("annotate", pictures, "-m", card, "-o", out, MASKMILL_THREADS="1")
    assert ran.code == 0, ran.err
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(str(out / "instances.json"))
        results = dataset.loadRes(str(out / "results.json"))
    assert len(results.getAnnIds()) == len(dataset.getAnnIds())
    counts = []
    for number, image in enumerate(dataset.dataset["images"]):
        plain = reference(card, form, number)
        records = dataset.imgToAnns[image["id"]]
        seen = [index for index, mask in enumerate(plain.masks) if mask.any()]
        counts.append([(each["category_id"], each["area"]) for each in records])
        assert [each["category_id"] for each in records] == [IDS[plain.classes[i]] for i in seen]
        for record, index in zip(records, seen, strict=True):
            x1, y1, x2, y2 = plain.boxes[index]
            assert record["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.0051)
            assert record["score"] == pytest.approx(plain.scores[index], abs=1e-5)
            mask = dataset.annToMask(record)
            assert record["area"] == mask.sum()
            surface = plain.surfaces[index]
            differs = (mask > 0) != plain.masks[index]
            assert (abs(surface[differs] - 0.5) < 1e-6).all()
    assert min(map(len, counts)) > 5
    assert len(set(map(str, counts))) == len(SIZES)  # each picture has an answer of its own


def reference(card: Path, form: str, number: int) -> oracle.Plain:
    """The plain post-processing of the graph's own outputs for one of the pictures."""
    names, options = READ[form]
    network = OnnxRuntime(str(card.with_suffix(".onnx")), threads=1)
    intake = bind_input(network.inputs, read_card(card).input)
    pixels = np.asarray(picture(number, *SIZES[number]))
    frame = intake.frame(*pixels.shape[:2])
    session = ort.InferenceSession(card.with_suffix(".onnx"))
    feeds = intake.feeds(intake.tensor(pixels, frame), frame)
    values = session.run(None, feeds)
    raw = dict(zip((each.name for each in session.get_outputs()), values, strict=True))
    boxes, labels, scores, masks = (raw.get(name) for name in names)
    if scores is None:
        boxes, scores = boxes[:, :4], boxes[:, 4]
        options = {**options, "real": boxes.sum(axis=1) > 0}
    if masks.shape[1] == 1:
        masks = masks[:, 0]
    return oracle.decode(boxes, labels, scores, masks, frame, len(IDS), **options)


@pytest.mark.parametrize(
    ("form", "old", "new", "words"),
    [
        ("0033", 'categories = "coco80"', 'categories = ["one", "two"]', "(N, 3, S, S)"),
        ("torchvision", 'fit = "native"', 'fit = "stretch"\nsize = [64, 64]', "does not fit"),
        ("onnx_zoo", "[[builds]]", '[decode]\npaste = "soft"\n\n[[builds]]', "[decode] table"),
    ],
)
def test_a_card_that_does_not_fit_stops_the_job(
    tmp_path: Path, pictures: Path, form: Form, old: str, new: str, words: str
) -> None:
    card = write_model(tmp_path, form)
    card.write_text(card.read_text().replace(old, new))
    ran = maskmill("annotate", pictures, "-m", card, "-o", tmp_path / "out")
    assert ran.code != 0
    assert words in ran.err
    assert "Traceback" not in ran.err


def test_a_threshold_leaves_out_what_is_below(tmp_path: Path, pictures: Path) -> None:
    card = write_model(tmp_path, "detectron2")

    def records(out: str, *options: object) -> list[dict[str, Any]]:
        ran = maskmill("annotate", pictures, "-m", card, "-o", tmp_path / out, *options)
        assert ran.code == 0, ran.err
        found = json.loads((tmp_path / out / "instances.json").read_text())["annotations"]
        return [{key: each[key] for key in ("image_id", "score", "bbox")} for each in found]

    whole = records("whole")
    some = records("some", "--threshold", 0.7)
    assert 0 < len(some) < len(whole)
    assert some == [each for each in whole if each["score"] >= 0.7]
