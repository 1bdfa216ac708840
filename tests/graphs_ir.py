"""OpenVINO IRs with the tensors of Open Model Zoo's security models, which find plain colours.

They take BGR levels. Each colour that a picture shows becomes one detection: the box around its
pixels, a mask sampled from them, and a label by colour, so that wrong channels, a wrong fit or a
wrong way back show in the answer. `instance-segmentation-security-0033` and 0050 also report the
picture as their `im_info` describes it: its box, and its scale in the score.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worker.openvino_runtime import ov

from openvino import opset13 as ops  # isort: skip  # behind the import that keeps it quiet

# What a pure colour is, in RGB, and which of COCO's eighty classes stands for it.
COLOURS = {
    "red": ((255, 0, 0), 0),
    "green": ((0, 255, 0), 14),
    "blue": ((0, 0, 255), 26),
    "yellow": ((255, 255, 0), 46),
    "magenta": ((255, 0, 255), 61),
    "cyan": ((0, 255, 255), 78),
}
WHOLE_PICTURE = 79  # the class of the box that `im_info` gives
ROWS, CLASSES = 100, 81  # of the two old models


@dataclass(frozen=True)
class Form:
    size: tuple[int, int] | None  # (height, width), None where the graph leaves it open
    side: int  # of a mask
    old: bool = False  # 0033 and 0050, with im_info and a heat map per class
    surplus: str = ""  # an output that some of the published files have besides


FORMS = {
    "0033": Form((480, 640), 28, old=True),
    "0033-open": Form(None, 28, old=True),
    "0050": Form((480, 480), 28, old=True),
    "0002": Form((768, 1024), 28),
    "0091": Form((800, 1344), 28),
    "0228": Form((608, 608), 14, surplus="TopK_2371"),
    "1039": Form((480, 480), 14),
    "1040": Form((608, 608), 28),
}


def write_ir(folder: Path, form: str, name: str) -> Path:
    """NAME.xml and NAME.bin; the path of the .xml."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.xml"
    spec = FORMS[form]
    ov.save_model(_old(spec) if spec.old else _new(spec), str(path), compress_to_fp16=False)
    return path


def write_model(folder: Path, form: str, name: str, input_table: str, decode_table: str) -> Path:
    """An IR and its card; the path of the card."""
    file = write_ir(folder, form, name)
    card = folder / f"{name}.toml"
    card.write_text(
        f'name = "{name}"\nfamily = "mask_rcnn"\nlicense = "MIT"\ncategories = "coco80"\n'
        f"\n[input]\n{input_table}\n\n[decode]\n{decode_table}\n"
        f'\n[[builds]]\nfile = "{file.name}"\n'
    )
    return card


def _new(form: Form) -> Any:
    """labels (N), boxes (N, 5) with the score last, masks (N, S, S): N is known at run time."""
    image = ops.parameter(ov.PartialShape([1, 3, *form.size]), name="image")
    scores, boxes, masks = _found(image, form.side)
    seen = ops.greater(scores, np.float32(0.05))
    rows = ops.squeeze(ops.non_zero(seen, output_type="i64"), np.array([0]))

    def of_rows(values: Any) -> Any:
        return ops.gather(values, rows, np.array(0))

    with_score = ops.concat([boxes, ops.unsqueeze(scores, np.array([1]))], 1)
    labels = ops.constant(np.array([label for _, label in COLOURS.values()], np.int32))
    made = {"labels": of_rows(labels), "boxes": of_rows(with_score), "masks": of_rows(masks)}
    if form.surplus:
        made[form.surplus] = rows
    return _model(made, [image])


def _old(form: Form) -> Any:
    """A hundred rows, of which those behind the detections are zero; class 0 is the background."""
    sides = form.size or (-1, -1)
    data = ops.parameter(ov.PartialShape([1, 3, *sides]), name="im_data")
    info = ops.parameter(ov.PartialShape([1, 3]), name="im_info")
    scores, boxes, masks = _found(data, form.side)
    height, width, scale = (ops.gather(info, np.array([n]), np.array(1)) for n in range(3))
    corner = ops.constant(np.zeros((1, 2), np.float32))
    boxes = ops.concat([boxes, ops.concat([corner, width, height], 1)], 0)
    whole_score = ops.add(ops.multiply(scale, np.float32(0.01)), np.float32(0.5))
    scores = ops.concat([scores, ops.squeeze(whole_score, np.array([0]))], 0)
    whole = ops.constant(np.ones((1, form.side, form.side), np.float32))
    masks = ops.unsqueeze(ops.concat([masks, whole], 0), np.array([1]))
    labels = np.array([*(label for _, label in COLOURS.values()), WHOLE_PICTURE]) + 1
    of_class = np.eye(CLASSES, dtype=np.float32)[labels][:, :, None, None]
    more = ROWS - len(labels)

    def filled(values: Any, rank: int) -> Any:
        behind = np.array([more] + [0] * (rank - 1))
        return ops.pad(values, np.zeros(rank, np.int64), behind, "constant", np.float32(0))

    made = {
        "boxes": filled(boxes, 2),
        "scores": filled(scores, 1),
        "classes": filled(ops.constant(labels.astype(np.float32)), 1),
        "raw_masks": filled(ops.multiply(masks, of_class), 4),
    }
    return _model(made, [data, info])


def _model(outputs: dict[str, Any], inputs: list[Any]) -> Any:
    results = []
    for name, node in outputs.items():
        result = ops.result(node)
        node.output(0).get_tensor().set_names({name})
        node.set_friendly_name(name)
        result.set_friendly_name(f"{name}/sink_port_0")
        results.append(result)
    for each in inputs:
        each.output(0).get_tensor().set_names({each.get_friendly_name()})
    return ov.Model(results, inputs, "canned")


def _found(image: Any, side: int) -> tuple[Any, Any, Any]:
    """Of each colour: its score (C), zero where it is not seen, box (C, 4) and mask (C, S, S)."""
    count = len(COLOURS)
    towards = np.array([rgb for rgb, _ in COLOURS.values()], np.float32)[:, ::-1] / 127.5 - 1
    levels = ops.subtract(ops.divide(image, np.float32(255)), np.float32(0.5))
    likeness = ops.convolution(
        levels, np.ascontiguousarray(towards)[:, :, None, None], [1, 1], [0, 0], [0, 0], [1, 1]
    )  # 1.5 at the colour itself, at most 0.5 at the others, at black, grey and white
    soft = ops.sigmoid(ops.multiply(ops.subtract(likeness, np.float32(1)), np.float32(12)))
    is_there = ops.greater(soft, np.float32(0.5))
    x1, x2 = _extent(is_there, along=3)
    y1, y2 = _extent(is_there, along=2)
    boxes = ops.concat([x1, y1, x2, y2], 1)
    regions = ops.roi_align(
        soft, boxes, np.zeros(count, np.int32), side, side, 2, 1.0, "avg", "half_pixel"
    )  # (C, C, S, S): every colour in every box
    own = np.eye(count, dtype=np.float32)[:, :, None, None]
    masks = ops.reduce_sum(ops.multiply(regions, own), np.array([1]), False)
    share = ops.reduce_mean(soft, np.array([0, 2, 3]), False)
    seen = ops.convert(ops.reduce_logical_or(is_there, np.array([0, 2, 3]), False), "f32")
    rated = ops.multiply(seen, ops.add(ops.multiply(share, np.float32(0.3)), np.float32(0.6)))
    return rated, boxes, masks


def _extent(is_there: Any, along: int) -> tuple[Any, Any]:
    """Where each colour begins and ends (C, 1) along an axis of (1, C, H, W)."""
    across = 5 - along
    profile = ops.squeeze(ops.reduce_logical_or(is_there, np.array([across]), False), np.array([0]))
    length = ops.gather(ops.shape_of(is_there, "i64"), np.array(along), np.array(0))
    place = ops.convert(ops.range(np.int64(0), length, np.int64(1), "i64"), "f32")
    first = ops.select(profile, place, np.float32(1e6))
    last = ops.select(profile, ops.add(place, np.float32(1)), np.float32(0))
    return (ops.reduce_min(first, np.array([1]), True), ops.reduce_max(last, np.array([1]), True))
