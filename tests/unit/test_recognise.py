"""What a network is, told by its tensors: every published form, and what must be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.cards import ModelError, read_card
from tasks.graph_file import GraphFile, Tensor, read_graph
from tasks.recognise import Draft, derived_card, recognise
from tests import graphs_detr, graphs_mask_rcnn, graphs_yolo_seg
from tests.graphs import write_model
from worker.intake import bind_input
from worker.yolact import bind

Shape = tuple[Any, ...]
OPEN = (1, 3, None, None)
YOLO = {"output0": (1, 116, 8400), "output1": (1, 32, 160, 160)}
YOLACT = {
    "conf": (1, 19248, 81),
    "mask": (1, 19248, 32),
    "proto": (1, 138, 138, 32),
    "boxes": (1, 19248, 4),
}
IMAGENET = (123.675, 116.28, 103.53)
ALL = ("categories", "color", "mean", "std")


def graph(
    outputs: dict[str, Shape], picture: Shape = OPEN, beside: str = "", **metadata: str
) -> GraphFile:
    whole = ("labels", "classes", "6570")
    tensors = tuple(
        Tensor(name, shape, "int64" if name in whole else "float")
        for name, shape in outputs.items()
    )
    inputs = [Tensor("x", picture, "float")]
    inputs += [Tensor(beside, (1, 3), "float")] if beside else []
    return GraphFile(tuple(inputs), tensors, metadata)


OLD = {"boxes": (100, 4), "classes": (100,), "scores": (100,), "raw_masks": (100, 81, 28, 28)}
NEW = {"labels": (None,), "boxes": (None, 5), "masks": (None, 28, 28)}
DETECTRON = {
    "pred_boxes": (None, 4),
    "pred_classes": (None,),
    "pred_masks": (None, 1, 28, 28),
    "scores": (None,),
    "image_size": (2,),
}
TORCHVISION = {"1": (None, 4), "2": (None,), "3": (None,), "4": (None, 1, None, None)}
ZOO = {"6568": (None, 4), "6570": (None,), "6572": (None,), "6887": (None, 1, 28, 28)}
DETR = {"logits": (1, 100, 92), "pred_boxes": (1, 100, 4), "pred_masks": (1, 100, None, None)}
MASK2FORMER = {"class_queries_logits": (1, 100, 81), "masks_queries_logits": (1, 100, 96, 96)}
RF_DETR = {"dets": (1, 200, 4), "labels": (1, 200, 91), "masks": (1, 200, 108, 108)}


@pytest.mark.parametrize(
    ("made", "family", "fit", "color", "mean", "unknown"),
    [
        (graph(OLD, (1, 3, 480, 640), "im_info"), "mask_rcnn", "pad", "bgr", 0, ALL[:1]),
        (graph(NEW, (1, 3, 768, 1024)), "mask_rcnn", "pad", "bgr", 0, ALL[:1]),
        (graph(NEW, (1, 3, 480, 480)), "mask_rcnn", "stretch", "bgr", 0, ALL[:1]),
        (graph(NEW, (1, 3, 512, 512)), "mask_rcnn", "stretch", "bgr", 0, ("categories", "fit")),
        (graph(DETECTRON), "mask_rcnn", "sides", "bgr", 0, ("categories", "mean", "std")),
        (graph(TORCHVISION, (3, None, None)), "mask_rcnn", "native", "rgb", 0, ALL[:1]),
        (graph(ZOO, (3, None, None)), "mask_rcnn", "sides", "bgr", 102.9801, ALL[:1]),
        (graph(DETR), "detr", "sides", "rgb", IMAGENET[0], ALL[:1]),
        (
            graph(DETR, (1, 3, 800, 1066)),
            *("detr", "stretch", "rgb", IMAGENET[0], ("categories", "fit")),
        ),
        (graph(MASK2FORMER, (1, 3, 384, 384)), "detr", "stretch", "rgb", IMAGENET[0], ALL[:1]),
        (graph(RF_DETR, (1, 3, 432, 432)), "detr", "stretch", "rgb", IMAGENET[0], ALL[:1]),
        (graph(YOLACT, (1, 3, 550, 550)), "yolact", "stretch", "rgb", 0, ALL),
        (graph(YOLO, (1, 3, 640, 640)), "yolo_seg", "letterbox", "rgb", 0, ALL[:1]),
    ],
    ids=[
        *("OMZ until 2019", "OMZ padded", "OMZ stretched", "as OMZ, size unheard of"),
        *("Detectron2", "torchvision", "ONNX zoo", "DETR", "DETR of one size", "Mask2Former"),
        *("RF-DETR", "YOLACT", "YOLO without metadata"),
    ],
)
def test_every_form(
    made: GraphFile, family: str, fit: str, color: str, mean: float, unknown: tuple[str, ...]
) -> None:
    draft = recognise(made)
    spec = draft.input
    said = (draft.family, spec.fit, spec.color, spec.mean[0], draft.unknown)
    assert said == (family, fit, color, mean, unknown)
    fixed = None not in made.inputs[0].shape
    assert (spec.size is None) is (fixed or fit == "native")


def test_offsets_are_seen_by_their_name_or_their_priors() -> None:
    named = dict(YOLACT)
    named["loc"] = named.pop("boxes")
    for outputs in (named, {**YOLACT, "priors": (19248, 4)}):
        raw = graph(outputs, (1, 3, 550, 550))
        draft = recognise(raw)
        assert draft.decode == {"boxes": "loc"}
        bound = bind(raw.outputs, draft.decode, 80, bind_input(raw.inputs, draft.input))
        assert bound.outputs["priors"].tensor.shape == (19248, 4)
    assert recognise(graph(YOLACT)).input.size == (550, 550)


NAMES = "{0: 'cat', 1: 'traffic light'}"


@pytest.mark.parametrize(
    ("metadata", "categories", "size"),
    [
        ({"names": NAMES, "task": "segment", "imgsz": "[480, 640]"}, 2, (480, 640)),
        ({"names": NAMES, "imgsz": "320"}, 2, (320, 320)),
        ({"names": NAMES, "imgsz": "[0, 'x']"}, 2, (640, 640)),
        ({"labels": "cat traffic_light"}, 2, (640, 640)),
        ({"names": "{1: 'a', 2: 'b'}"}, 0, (640, 640)),
        ({"names": "{0: 'a', 'b': 'c'}"}, 0, (640, 640)),
        ({"names": "__import__('os').abort()"}, 0, (640, 640)),
        ({"names": "[" * 100_000}, 0, (640, 640)),
        ({"names": "{[]: 1}"}, 0, (640, 640)),
        ({"names": "7"}, 0, (640, 640)),
        ({"names": r"{0: '\ud800'}"}, 0, (640, 640)),
        ({"names": " " * (1 << 20) + NAMES}, 0, (640, 640)),
    ],
    ids=[
        *("as Ultralytics writes it", "one side", "odd size", "of an IR", "not from 0", "mixed"),
        *("a call", "deep", "no literal", "a number", "half a character", "endless"),
    ],
)
def test_ultralytics_metadata(
    metadata: dict[str, str], categories: int, size: tuple[int, int]
) -> None:
    draft = recognise(graph(YOLO, **metadata))
    assert len(draft.categories) == categories
    assert draft.unknown == (() if categories else ("categories",))
    assert draft.input.size == size


def test_coco_is_seen_by_its_names() -> None:
    from tasks.categories import coco80

    names = str(dict(enumerate(each.name for each in coco80())))
    labels = " ".join(each.name.replace(" ", "_") for each in coco80())
    for said in ({"names": names}, {"labels": labels}):
        assert recognise(graph(YOLO, **said)).categories == "coco80"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (graph({"output0": (1, 84, 8400)}, names=NAMES, task="detect"), "the task detect"),
        (graph({"output0": (1, 1000)}), r"no family.*output0 \(1×1000 float\)"),
    ],
    ids=["a detector", "a classifier"],
)
def test_what_is_no_segmentation_is_refused(made: GraphFile, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        recognise(made)


def test_a_network_that_does_not_tell_all_names_what_and_how(tmp_path: Path) -> None:
    path = write_model(tmp_path, "a").with_suffix(".onnx")
    (tmp_path / "canned.toml").unlink()
    with pytest.raises(ModelError, match=r"no card canned\.toml.*--categories.*--mean.*models add"):
        derived_card(path)


@pytest.mark.parametrize(
    "form", ["0033", "0033 sides", "0002", "0228", "torchvision", "detectron2", "onnx_zoo"]
)
def test_canned_mask_rcnn_graphs_get_the_input_of_their_cards(tmp_path: Path, form: Any) -> None:
    card = read_card(graphs_mask_rcnn.write_model(tmp_path, form))
    draft = recognise(read_graph(tmp_path / "canned.onnx"))
    assert draft.family == card.family
    assert (draft.input.color, draft.input.std) == (card.input.color, card.input.std)
    if form != "0033 sides":  # of the two published protocols the other is the usual one
        assert draft.input.fit == card.input.fit
    assert draft.input.mean == card.input.mean or "mean" in draft.unknown


@pytest.mark.parametrize("form", ["detr", "panoptic", "optimum", "mask2former", "rf_detr"])
def test_canned_graphs_like_detr_are_seen(tmp_path: Path, form: Any) -> None:
    graphs_detr.write_model(tmp_path, form)
    draft = recognise(read_graph(tmp_path / "canned.onnx"))
    assert (draft.family, draft.unknown[:1]) == ("detr", ("categories",))
    assert draft.form == {"mask2former": "Mask2Former", "rf_detr": "RF-DETR-Seg"}.get(form, "DETR")


@pytest.mark.parametrize("form", ["raw", "raw_nhwc", "end_to_end", "end_to_end_nhwc"])
def test_canned_yolos_get_the_cards_of_their_makers(tmp_path: Path, form: Any) -> None:
    card = read_card(graphs_yolo_seg.write_model(tmp_path, form))
    (tmp_path / "canned.toml").unlink()
    derived = derived_card(tmp_path / "canned.onnx")
    assert derived == derived_card(tmp_path / "canned.onnx")
    assert derived.category_list() == card.category_list()
    assert derived.input == card.input
    assert derived.decode == card.decode


def test_drafts_are_values() -> None:
    assert recognise(graph(YOLO)) == recognise(graph(YOLO))
    assert Draft("a", "b").decode is not Draft("a", "b").decode
