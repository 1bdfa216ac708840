"""Small YOLACT graphs in each output form, whose answers depend on the picture they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, GRID, CLASSES, COEFFICIENTS, PROTOTYPES = 64, 8, 5, 8, 16
NAMES = ("ash", "birch", "cedar", "douglas fir", "elm")
Form = Literal["a", "b", "g", "g without priors"]


def write_model(
    folder: Path, form: Form = "a", name: str = "canned", *, fails_on_white: bool = False
) -> Path:
    """An ONNX file and its card; the path of the card."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_graph(form, fails_on_white), folder / f"{name}.onnx")
    extra = '\n[decode]\nboxes = "loc"\n' if form.startswith("g") else ""
    if form == "g without priors":
        extra += "prior_scales = [24]\nprior_ratios = [1]\n"
    card = folder / f"{name}.toml"
    card.write_text(
        f'name = "{name}"\nfamily = "yolact"\nlicense = "MIT"\n'
        f"categories = {list(NAMES)!r}\n".replace("'", '"')
        + "\n[input]\nmean = [128.0, 128.0, 128.0]\nstd = [64.0, 64.0, 64.0]\n"
        + extra
        + f'\n[[builds]]\nfile = "{name}.onnx"\n'
    )
    return card


def _graph(form: Form, fails_on_white: bool) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    nodes, weights = [], []

    def constant(label: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value, label))
        return label

    def add(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def convolved(source: str, label: str, channels: int, spread: float) -> str:
        kernel = random.normal(0, spread, (channels, 3, 1, 1)).astype(np.float32)
        bias = random.normal(0, spread / 3, channels).astype(np.float32)
        made = add("Conv", [source, constant(f"{label}.w", kernel), constant(f"{label}.b", bias)],
                   f"{label}.conv")  # fmt: skip
        return add("Transpose", [made], f"{label}.nhwc", perm=[0, 2, 3, 1])

    def rows(source: str, label: str, width: int) -> str:
        shape = constant(f"{label}.shape", np.array([1, GRID * GRID, width], np.int64))
        return add("Reshape", [source, shape], f"{label}.rows")

    cell = SIZE // GRID
    add("AveragePool", ["image"], "cells", kernel_shape=[cell, cell], strides=[cell, cell])
    fine = SIZE // PROTOTYPES
    add("AveragePool", ["image"], "fine", kernel_shape=[fine, fine], strides=[fine, fine])
    add("Relu", [convolved("fine", "p", COEFFICIENTS, 2.0)], "proto")
    add("Tanh", [rows(convolved("cells", "k", COEFFICIENTS, 2.0), "k", COEFFICIENTS)], "mask")
    logits = rows(convolved("cells", "c", CLASSES + 1, 1.5), "c", CLASSES + 1)
    conf = add("Softmax", [logits], "conf", axis=2)
    boxes = constant("grid", boxes_of(random, form))
    if fails_on_white:  # the brightest level is an index into a table of one entry
        add("ReduceMin", ["image"], "darkest", keepdims=0)
        add("Cast", ["darkest"], "row", to=TensorProto.INT64)
        add("Clip", ["row", constant("least", np.array(0, np.int64))], "place")
        table = constant("table", np.zeros((1, 1, 1, 1), np.float32))
        add("Gather", [table, "place"], "nothing", axis=0)
        boxes = add("Add", [boxes, add("Squeeze", ["nothing"], "zero")], "moved")
    outputs: dict[str, list[int]] = {
        "proto": [1, PROTOTYPES, PROTOTYPES, COEFFICIENTS],
        "mask": [1, GRID * GRID, COEFFICIENTS],
    }
    if form == "a":
        ends = [
            constant("one", np.array([1], np.int64)),
            constant("last", np.array([99], np.int64)),
        ]
        kept = add("Slice", [conf, *ends, constant("axis", np.array([2], np.int64))], "kept")
        add("Transpose", [kept], "scores", perm=[0, 2, 1])
        outputs["scores"] = [1, CLASSES, GRID * GRID]
    else:
        outputs["conf"] = [1, GRID * GRID, CLASSES + 1]
    if form.startswith("g"):
        spread = rows(convolved("cells", "l", 4, 0.3), "l", 4)
        add("Identity", [spread], "loc")
        outputs["loc"] = [1, GRID * GRID, 4]
    if form == "g":
        add("Identity", [boxes], "priors")
        outputs["priors"] = [GRID * GRID, 4]
    elif form != "g without priors":
        add("Identity", [boxes], "boxes")
        outputs["boxes"] = [1, GRID * GRID, 4]
    graph = helper.make_graph(
        nodes,
        "canned",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def boxes_of(random: np.random.Generator, form: Form) -> np.ndarray:
    """Boxes (or, as (cx, cy, w, h), priors) around the cells of the grid."""
    steps = (np.arange(GRID) + 0.5) / GRID
    cx, cy = (axis.ravel() for axis in np.meshgrid(steps, steps))
    w, h = random.uniform(0.1, 0.6, (2, GRID * GRID))
    if form == "g":
        return np.stack([cx, cy, w, h], 1).astype(np.float32)
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1).astype(np.float32)[None]
