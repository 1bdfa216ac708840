"""Small graphs of the DETR family by their exporters' names; answers depend on the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, QUERIES, CELLS = 64, 12, 16
Form = Literal["detr", "panoptic", "optimum", "mask2former", "rf_detr"]
# Names of logits, masks and boxes, and class columns with what says that there is no object.
OUTPUTS: dict[Form, tuple[str, str, str | None, int]] = {
    "detr": ("pred_logits", "pred_masks", "pred_boxes", 92),
    "panoptic": ("pred_logits", "pred_masks", "pred_boxes", 251),
    "optimum": ("logits", "pred_masks", None, 92),
    "mask2former": ("class_queries_logits", "masks_queries_logits", None, 81),
    "rf_detr": ("labels", "masks", "dets", 91),
}


def write_model(folder: Path, form: Form = "detr", name: str = "canned") -> Path:
    """An ONNX file and its card, of COCO's categories; the path of the card."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_graph(form), folder / f"{name}.onnx")
    fit = "stretch" if form == "rf_detr" else "pad"
    card = folder / f"{name}.toml"
    card.write_text(
        f'name = "{name}"\nfamily = "detr"\nlicense = "MIT"\ncategories = "coco80"\n'
        f'\n[input]\nfit = "{fit}"\nmean = [128.0, 128.0, 128.0]\nstd = [64.0, 64.0, 64.0]\n'
        f'\n[[builds]]\nfile = "{name}.onnx"\n'
    )
    return card


def _graph(form: Form) -> onnx.ModelProto:
    random = np.random.default_rng(7)
    logits, masks, boxes, columns = OUTPUTS[form]
    nodes, weights = [], []

    def constant(label: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value, label))
        return label

    def add(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def linear(source: str, label: str, wide: int, spread: float, bias: np.ndarray) -> str:
        """(1, Q, wide) from the mean colour under each query's patch."""
        weight = random.normal(0, spread, (QUERIES, 3, wide)).astype(np.float32)
        made = add("MatMul", [source, constant(f"{label}.w", weight)], f"{label}.product")
        moved = add("Add", [made, constant(f"{label}.b", bias.astype(np.float32))], f"{label}.sum")
        shape = constant(f"{label}.shape", np.array([1, QUERIES, wide], np.int64))
        return add("Reshape", [moved, shape], f"{label}.rows")

    # Each query looks at a cell of a 3 × 4 grid and answers by the colour there.
    add("AveragePool", ["image"], "pooled", kernel_shape=[16, 16], strides=[16, 16])
    last = constant("first12", np.array([QUERIES], np.int64))
    flat = add("Reshape", ["pooled", constant("flat", np.array([3, 16], np.int64))], "colours")
    zero, one = constant("zero", np.array([0], np.int64)), constant("one", np.array([1], np.int64))
    few = add("Slice", [flat, zero, last, one], "few")
    seen = add("Transpose", [few], "turned", perm=[1, 0])
    seen = add("Unsqueeze", [seen, one], "seen")  # (Q, 1, 3)

    real = [1, 17, 3, 44, 62, 90]
    bias = np.full((QUERIES, 1, columns), -2.0)
    bias[np.arange(QUERIES), 0, random.choice(real, QUERIES) % columns] = 4.0
    if form == "panoptic":
        bias[0, 0, 200] = 8.0  # grass: stuff, no category of the card
    add("Identity", [linear(seen, "c", columns, 0.3, bias)], logits)

    kernel = random.normal(0, 2, (QUERIES, 3, 1, 1)).astype(np.float32)
    fine = SIZE // CELLS
    add("AveragePool", ["image"], "fine", kernel_shape=[fine, fine], strides=[fine, fine])
    shift = random.normal(0, 1, QUERIES).astype(np.float32)
    add("Conv", ["fine", constant("m.w", kernel), constant("m.b", shift)], masks)

    outputs = {logits: [1, QUERIES, columns], masks: [1, QUERIES, CELLS, CELLS]}
    if boxes is not None:
        add("Sigmoid", [linear(seen, "b", 4, 0.5, random.normal(0, 0.5, (QUERIES, 1, 4)))], boxes)
        outputs[boxes] = [1, QUERIES, 4]
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
