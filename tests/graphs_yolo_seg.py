"""Small Ultralytics -seg graphs, with their names, shapes and metadata, whose answers depend on
the picture. `raw` as v8 and 11 export them, `end_to_end` as 26; `nhwc` as from TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, GRID, PROTOTYPES, DEPTH, LISTED = 64, 8, 16, 8, 20
NAMES = ("ash", "birch", "cedar", "douglas fir", "elm")
Form = Literal["raw", "raw_nhwc", "end_to_end", "end_to_end_nhwc"]


def write_model(folder: Path, form: Form = "raw", name: str = "canned", decode: str = "") -> Path:
    """An ONNX file and its card, with `decode` as lines of the table; the path of the card."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(graph(form), folder / f"{name}.onnx")
    card = folder / f"{name}.toml"
    boxes = 'boxes = "normalised"\n' if form.endswith("nhwc") else ""
    card.write_text(
        f'name = "{name}"\nfamily = "yolo_seg"\nlicense = "MIT"\n'
        f"categories = {list(NAMES)!r}\n".replace("'", '"')
        + '\n[input]\nfit = "letterbox"\nstd = [255.0, 255.0, 255.0]\n'
        + f'\n[decode]\n{boxes}{decode}\n[[builds]]\nfile = "{name}.onnx"\n'
    )
    return card


def graph(form: Form) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    nodes, weights = [], []
    nhwc = form.endswith("nhwc")
    cells = GRID * GRID

    def constant(label: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value, label))
        return label

    def whole(label: str, *values: int) -> str:
        return constant(label, np.array(values, np.int64))

    def add(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def convolved(source: str, label: str, channels: int, spread: float) -> str:
        kernel = random.normal(0, spread, (channels, 3, 1, 1)).astype(np.float32)
        bias = random.normal(0, spread / 3, channels).astype(np.float32)
        parts = constant(f"{label}.w", kernel), constant(f"{label}.b", bias)
        return add("Conv", [source, *parts], f"{label}.conv")

    def columns(source: str, label: str, channels: int) -> str:
        shape = whole(f"{label}.shape", 1, channels, cells)
        return add("Reshape", [source, shape], f"{label}.columns")

    picture = add("Transpose", ["images"], "nchw", perm=[0, 3, 1, 2]) if nhwc else "images"
    middle = constant("middle", np.float32(0.5))
    centred = add("Sub", [picture, middle], "centred")
    pool = {"kernel_shape": [SIZE // GRID] * 2, "strides": [SIZE // GRID] * 2}
    add("AveragePool", [centred], "coarse", **pool)
    pool = {"kernel_shape": [SIZE // PROTOTYPES] * 2, "strides": [SIZE // PROTOTYPES] * 2}
    add("AveragePool", [centred], "fine", **pool)
    prototypes = convolved("fine", "p", DEPTH, 4.0)
    scores = columns(add("Sigmoid", [convolved("coarse", "c", len(NAMES), 6.0)], "s"), "c", 5)
    coefficients = columns(convolved("coarse", "k", DEPTH, 4.0), "k", DEPTH)
    boxes = constant("boxes", _boxes(random, form))
    if form.startswith("raw"):
        add("Concat", [boxes, scores, coefficients], "output0", axis=1)
        outputs = {"output0": [1, 4 + len(NAMES) + DEPTH, cells]}
    else:
        add("ReduceMax", [scores], "best", axes=[1])
        kind = add("Cast", [add("ArgMax", [scores], "which", axis=1)], "kind", to=TensorProto.FLOAT)
        add("Concat", [boxes, "best", kind, coefficients], "all", axis=1)
        flat = add("Reshape", ["best", whole("flat", cells)], "flattened")
        nodes.append(helper.make_node("TopK", [flat, whole("count", LISTED)], ["top", "places"]))
        add(
            "Gather",
            [add("Transpose", ["all"], "rows", perm=[0, 2, 1]), "places"],
            "output0",
            axis=1,
        )
        outputs = {"output0": [1, LISTED, 6 + DEPTH]}
    add("Transpose", [prototypes], "output1", perm=[0, 2, 3, 1] if nhwc else [0, 1, 2, 3])
    side = [PROTOTYPES, PROTOTYPES]
    outputs["output1"] = [1, *side, DEPTH] if nhwc else [1, DEPTH, *side]
    shape = [1, SIZE, SIZE, 3] if nhwc else [1, 3, SIZE, SIZE]
    made = helper.make_graph(
        nodes,
        "canned",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata(form))
    onnx.checker.check_model(model)
    return model


def metadata(form: Form) -> dict[str, str]:
    """What Ultralytics writes into a file, as strings that hold Python's own notation."""
    listed = form.startswith("end_to_end")
    return {
        "description": f"Ultralytics {'YOLO26n' if listed else 'YOLO11n'}-seg model",
        "author": "Ultralytics",
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "version": "8.4.0" if listed else "8.3.0",
        "stride": "32",
        "task": "segment",
        "batch": "1",
        "imgsz": str([SIZE, SIZE]),
        "names": str(dict(enumerate(NAMES))),
        "args": str({"batch": 1, "half": False, "dynamic": False, "nms": False}),
        "channels": "3",
        "end2end": str(listed),
    }


def _boxes(random: np.random.Generator, form: Form) -> np.ndarray:
    """(1, 4, cells) boxes around the cells of the grid, in pixels, or as parts for NHWC."""
    steps = (np.arange(GRID) + 0.5) * SIZE / GRID
    cx, cy = (axis.ravel() for axis in np.meshgrid(steps, steps))
    w, h = random.uniform(0.1, 0.6, (2, GRID * GRID)) * SIZE
    boxes = np.stack([cx, cy, w, h])
    if form.startswith("end_to_end"):
        boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    if form.endswith("nhwc"):
        boxes = boxes / SIZE
    return boxes.astype(np.float32)[np.newaxis]
