"""Small Mask R-CNN graphs in each form, whose answers depend on the picture they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tasks.categories import coco80

Form = Literal["0033", "0033 sides", "0002", "0228", "torchvision", "detectron2", "onnx_zoo"]
CLASSES = 80
CELLS = 7  # a side of what the heads see of the picture
INT64 = TensorProto.INT64
# What the cards leave of the middle and the spread of the pixels.
_LEVELS = {"torchvision": (0.5, 0.25), "detectron2": (0.0, 64.0), "onnx_zoo": (0.0, 64.0)}


class Shape(NamedTuple):
    """A form's tensors as its graphs declare them, and the card that goes with it."""

    picture: tuple[str, list[int | str]]
    rows: int
    side: int
    names: tuple[str, ...]  # of boxes, labels, scores and masks
    card: str


_OPEN = ["height", "width"]
_BGR = '[input]\nsize = [{}, {}]\nfit = "{}"\ncolor = "bgr"\n'
_SHAPES: dict[str, Shape] = {
    "0033": Shape(
        ("im_data", [1, 3, 480, 640]), 100, 28, ("boxes", "classes", "scores", "raw_masks"),
        _BGR.format(480, 640, "pad"),
    ),
    "0033 sides": Shape(
        ("im_data", [1, 3, *_OPEN]), 100, 28, ("boxes", "classes", "scores", "raw_masks"),
        _BGR.format(480, 640, "sides"),
    ),
    "0002": Shape(
        ("image", [1, 3, 768, 1024]), 40, 28, ("boxes", "labels", "", "masks"),
        _BGR.format(768, 1024, "pad"),
    ),
    "0228": Shape(
        ("image", [1, 3, 608, 608]), 40, 14, ("boxes", "labels", "", "masks"),
        _BGR.format(608, 608, "stretch"),
    ),
    "torchvision": Shape(
        ("images", [3, *_OPEN]), 40, 28, ("boxes", "labels", "scores", "masks"),
        '[input]\nfit = "native"\nstd = [255.0, 255.0, 255.0]\n',
    ),
    "detectron2": Shape(
        ("x", [3, *_OPEN]), 40, 28, ("pred_boxes", "pred_classes", "scores", "pred_masks"),
        _BGR.format(160, 266, "sides")
        + "mean = [103.53, 116.28, 123.675]\n",
    ),
    "onnx_zoo": Shape(
        ("image", [3, *_OPEN]), 40, 28, ("6568", "6570", "6572", "6887"),
        _BGR.format(160, 266, "sides")
        + "multiple = 32\nmean = [102.9801, 115.9465, 122.7717]\n",
    ),
}  # fmt: skip


def write_model(folder: Path, form: Form, name: str = "canned") -> Path:
    """An ONNX file and its card; the path of the card."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_graph(form), folder / f"{name}.onnx")
    card = folder / f"{name}.toml"
    card.write_text(
        f'name = "{name}"\nfamily = "mask_rcnn"\nlicense = "MIT"\ncategories = "coco80"\n\n'
        f'{_SHAPES[form].card}\n[[builds]]\nfile = "{name}.onnx"\n'
    )
    return card


class _Net:
    """Nodes and weights, as they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(1)

    def add(self, kind: str, *inputs: object, second: str = "", **attributes: object) -> str:
        """The name of the first output; arrays among the inputs become weights."""
        names = [self.weight(each) if isinstance(each, np.ndarray) else each for each in inputs]
        outputs = [f"{kind}.{len(self.nodes)}", *([second] if second else [])]
        self.nodes.append(helper.make_node(kind, names, outputs, **attributes))
        return outputs[0]

    def weight(self, value: np.ndarray) -> str:
        kept = value.astype(np.float32) if value.dtype == np.float64 else value
        self.weights.append(numpy_helper.from_array(kept, f"w.{len(self.weights)}"))
        return self.weights[-1].name

    def head(self, cells: str, *shape: int, spread: float) -> str:
        """A linear answer to the whole picture, of this shape."""
        width = int(np.prod(shape))
        weights = self.random.normal(0, spread, (3 * CELLS**2, width))
        return self.add("Reshape", self.add("MatMul", cells, weights), np.array(shape))


def _graph(form: Form) -> onnx.ModelProto:
    made, shape = _Net(), _SHAPES[form]
    name, dims = shape.picture
    picture = name if len(dims) == 4 else made.add("Unsqueeze", name, np.array([0]))
    size = made.add("Slice", made.add("Shape", picture), np.array([2]), np.array([4]))
    small = np.array([1, 3, shape.side, shape.side])
    seen = made.add("Resize", picture, "", "", small, mode="linear")
    level, spread = _LEVELS.get(form, (128.0, 64.0))
    seen = made.add("Div", made.add("Sub", seen, np.array(level)), np.array(spread))
    step = shape.side // CELLS
    pooled = made.add("AveragePool", seen, kernel_shape=[step] * 2, strides=[step] * 2)
    cells = made.add("Reshape", pooled, np.array([1, 3 * CELLS**2]))

    inside = made.add("Cast", size, to=TensorProto.FLOAT)
    if form.startswith("0033"):
        inside = made.add("Slice", "im_info", *(np.array([n]) for n in (0, 2, 1)))
    boxes = _boxes(made, cells, shape.rows, inside)
    scores = made.add("Sigmoid", made.head(cells, shape.rows, spread=0.3))
    labels = _labels(made, cells, form, shape.rows)
    channels = CLASSES + 1 if form.startswith("0033") else 1
    masks = _heat_maps(made, seen, shape.rows, channels, shape.side)
    if form == "torchvision":
        masks = _planes(made, masks, boxes, size, shape)
    outputs = _finish(made, form, boxes, labels, scores, masks)
    ends = dict(zip(shape.names, outputs, strict=True))
    if form == "detectron2":
        ends["image_size"] = size
    if form == "0228":
        ends["TopK_77.0"] = made.add("TopK", scores, np.array([7]), second="indices")
    return _model(made, shape, {end: source for end, source in ends.items() if end})


def _boxes(made: _Net, cells: str, rows: int, size: str) -> str:
    """(rows, 4) xyxy in pixels of the input: a place of its own for each, moved by the picture."""
    corner = made.random.uniform(-0.05, 0.8, (rows, 2))
    grid = np.hstack([corner, corner + made.random.uniform(0.05, 0.5, (rows, 2))])
    moved = made.add("Tanh", made.head(cells, rows, 4, spread=0.1))
    parts = made.add("Add", made.add("Mul", moved, np.array(0.02)), grid)
    flat = made.add("Reshape", size, np.array([2]))
    return made.add("Mul", parts, made.add("Gather", flat, np.array([1, 0, 1, 0])))


def _labels(made: _Net, cells: str, form: Form, rows: int) -> str:
    classes = CLASSES + form.startswith("0033")
    best = made.add("ArgMax", made.head(cells, rows, classes, spread=1.0), axis=1, keepdims=0)
    if form == "torchvision":
        return made.add("Gather", np.array([each.id for each in coco80()]), best)
    return made.add("Add", best, np.array(1)) if form == "onnx_zoo" else best


def _heat_maps(made: _Net, seen: str, rows: int, channels: int, side: int) -> str:
    """(rows, channels, side, side) probabilities."""
    kernel = made.random.normal(0, 2, (rows * channels, 3, 1, 1))
    logits = made.add("Conv", seen, kernel, made.random.normal(1, 1, rows * channels))
    shaped = made.add("Reshape", logits, np.array([rows, channels, side, side]))
    return made.add("Sigmoid", shaped)


def _planes(made: _Net, maps: str, boxes: str, size: str, shape: Shape) -> str:
    """(rows, 1, height, width): the maps over the whole image, zero outside their boxes."""
    sizes = made.add("Concat", np.array([shape.rows, 1]), size, axis=0)
    planes = made.add("Resize", maps, "", "", sizes, mode="linear")
    for axis, (low, high, across) in enumerate(((1, 3, 2), (0, 2, 3))):
        length = made.add("Gather", size, np.array(axis))
        pixels = made.add("Range", np.array(0), length, np.array(1))
        pixels = made.add("Cast", pixels, to=TensorProto.FLOAT)
        edges = (made.add("Gather", boxes, np.array([n]), axis=1) for n in (low, high))
        after = made.add("GreaterOrEqual", pixels, next(edges))
        inside = made.add("And", after, made.add("Less", pixels, next(edges)))
        others = np.array([1, 5 - across])  # the axes that are not this one
        inside = made.add("Unsqueeze", made.add("Cast", inside, to=TensorProto.FLOAT), others)
        planes = made.add("Mul", planes, inside)
    return planes


def _finish(
    made: _Net, form: Form, boxes: str, labels: str, scores: str, masks: str
) -> tuple[str, str, str, str]:
    """What the picture leaves of the rows, as the form says: fewer of them, or rows of zeros."""
    good = made.add("Greater", scores, np.array(0.3))
    if form.startswith("0033"):
        return boxes, made.add("Mul", labels, made.add("Cast", good, to=INT64)), scores, masks
    if form in ("0002", "0228"):
        ends = made.add("Unsqueeze", scores, np.array([1]))
        whole = made.add("Concat", boxes, ends, axis=1)
        real = made.add("Unsqueeze", made.add("Cast", good, to=TensorProto.FLOAT), np.array([1]))
        chosen = made.add("Squeeze", masks, np.array([1]))
        return made.add("Mul", whole, real), labels, "", chosen
    first, second, third, fourth = (
        made.add("Compress", each, good, axis=0) for each in (boxes, labels, scores, masks)
    )
    return first, second, third, fourth


def _model(made: _Net, shape: Shape, ends: dict[str, str]) -> onnx.ModelProto:
    name, dims = shape.picture
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)]
    if name == "im_data":
        inputs.append(helper.make_tensor_value_info("im_info", TensorProto.FLOAT, [1, 3]))
    outputs = []
    for end, source in ends.items():
        made.nodes.append(helper.make_node("Identity", [source], [end]))
        whole = end == shape.names[1] or end == "image_size"
        dims = _declared(end, shape)
        kind = INT64 if whole else TensorProto.FLOAT
        outputs.append(helper.make_tensor_value_info(end, kind, dims))
    graph = helper.make_graph(made.nodes, "canned", inputs, outputs, made.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def _declared(end: str, shape: Shape) -> list[int | str]:
    """The shape that graphs of this form give an output."""
    boxes, labels, scores, masks = shape.names
    rows: int | str = 100 if masks == "raw_masks" else "rows"
    if end == masks:
        if masks == "raw_masks":
            return [rows, CLASSES + 1, shape.side, shape.side]
        if shape.picture[0] == "images":
            return [rows, 1, *_OPEN]
        return [rows, *([1] if scores else []), shape.side, shape.side]
    sizes = {boxes: [rows, 4 if scores else 5], labels: [rows], scores: [rows]}
    return sizes.get(end) or [{"image_size": 2}.get(end, 7)]
