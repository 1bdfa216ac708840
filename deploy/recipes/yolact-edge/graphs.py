"""A YOLACT graph made ready for int8: normalisation inside, and cut where eight bits cease to do.

A decoded corner has 256 places across the whole picture, an offset has them across its anchor. So
the boxes' offsets are quantised and their decoding is not: it follows in float (tails.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import onnxsim
from onnx import helper, numpy_helper
from onnx.utils import Extractor

from tasks.cards import Card, InputSpec

VARIANCE_CENTRE, VARIANCE_SIZE = 0.1, 0.2
SAME_BOX = 1e-4  # of the picture

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


class RecipeError(Exception):
    """What is wrong with the arguments or with what they name, in one sentence."""


class Cut(NamedTuple):
    """The part that is quantised: loc (1,N,4), conf (1,N,1+C), mask (1,N,k), proto (1,P,P,k)."""

    model: onnx.ModelProto
    priors: np.ndarray  # (N, 4): centre x and y, width, height, as parts of the picture
    logits: bool  # conf is what goes into the softmax, not what comes out


class Heads(NamedTuple):
    """The names of the outputs."""

    boxes: str
    scores: str
    masks: str
    proto: str


def read(path: Path) -> tuple[onnx.ModelProto, tuple[int, int]]:
    """The graph with all its shapes settled, and the height and width that it takes.

    Shapes that the graph computes as it runs leave onnx2tf to guess which axis holds the channels.
    """
    try:
        model, _ = onnxsim.simplify(onnx.load(path))
        model = onnx.shape_inference.infer_shapes(model)
    except Exception as exc:
        raise RecipeError(f"{path} cannot be read as ONNX: {str(exc).splitlines()[0]}") from exc
    _, sides = next(_shapes(model.graph.input))
    if len(model.graph.input) > 1 or len(sides) != 4 or sides[:2] != (1, 3) or 0 in sides:
        raise RecipeError(f"{path} takes {sides}, not one picture (1, 3, height, width)")
    return model, (sides[2], sides[3])


def normalise_inside(model: onnx.ModelProto, spec: InputSpec) -> None:
    """Put the card's mean and std in front of the graph: then a level is one step of its input."""
    if (spec.mean, spec.std) == (InputSpec().mean, InputSpec().std):
        return
    name = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = [f"{name}/normalised" if each == name else each for each in node.input]
    for part, values in (("mean", spec.mean), ("std", spec.std)):
        constant = np.array(values, np.float32).reshape(1, 3, 1, 1)
        model.graph.initializer.append(numpy_helper.from_array(constant, f"{name}/{part}"))
    centre = helper.make_node("Sub", [name, f"{name}/mean"], [f"{name}/centred"])
    scale = helper.make_node("Div", [f"{name}/centred", f"{name}/std"], [f"{name}/normalised"])
    for place, node in enumerate((centre, scale)):
        model.graph.node.insert(place, node)


def cut(
    model: onnx.ModelProto, card: Card, logits: bool, first: np.ndarray, second: np.ndarray
) -> Cut:
    """The graph without its decoding, nor its softmax if `logits`; the priors from two pictures."""
    shapes = dict(_shapes((*model.graph.value_info, *model.graph.output)))
    found = find_heads(dict(_shapes(model.graph.output)), len(card.category_list()))
    loc = _offsets(model, found.boxes, shapes)
    conf = _softmax(model, found.scores, logits)
    if shapes[conf][-1] != len(card.category_list()) + 1:
        raise RecipeError(f"the softmax behind {found.scores!r} has no background")
    decoding = runner(extract(model, {found.boxes: "boxes", loc: "loc"}))
    priors = priors_of(**decoding(first))
    if not np.allclose(priors, priors_of(**decoding(second)), atol=SAME_BOX, rtol=0):
        raise RecipeError("its boxes are not decoded as YOLACT's are: convert it with --whole")
    names = {loc: "loc", conf: "conf", found.masks: "mask", found.proto: "proto"}
    return Cut(extract(model, names), priors, logits)


def find_heads(shapes: dict[str, tuple[int, ...]], categories: int) -> Heads:
    """Which output is what, by the one way in which all their shapes fit together."""
    fitting = [
        Heads(*names)
        for names in permutations(shapes, 4)
        if len(shapes) == 4 and _fit(*(shapes[name] for name in names), categories)
    ]
    if len(fitting) != 1:
        raise RecipeError(f"outputs of {list(shapes.values())} are not YOLACT's four")
    return fitting[0]


def _fit(boxes: tuple, scores: tuple, masks: tuple, proto: tuple, categories: int) -> bool:
    ranks = [len(each) for each in (boxes, scores, masks, proto)]
    if ranks != [3, 3, 3, 4] or boxes[2] != 4 or masks[1] != boxes[1]:
        return False
    by_class = {(boxes[1], count) for count in (categories, categories + 1)}
    return masks[2] in (proto[1], proto[3]) and bool(by_class & {scores[1:], scores[:0:-1]})


def extract(model: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    """The graph up to these tensors, which get these names."""
    part = Extractor(model).extract_model([model.graph.input[0].name], list(names))
    for node in part.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for each in part.graph.output:
        each.name = names[each.name]
    del part.graph.value_info[:]
    onnx.checker.check_model(part)
    return part


def runner(model: onnx.ModelProto) -> Run:
    """The outputs by name of one picture (H, W, 3) of levels."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (image,) = session.get_inputs()
    names = [each.name for each in session.get_outputs()]

    def run(picture: np.ndarray) -> dict[str, np.ndarray]:
        tensor = np.ascontiguousarray(picture.transpose(2, 0, 1)[np.newaxis], np.float32)
        return dict(zip(names, session.run(names, {image.name: tensor}), strict=True))

    return run


def priors_of(boxes: np.ndarray, loc: np.ndarray) -> np.ndarray:
    """(N, 4), from offsets (1, N, 4) and the boxes xyxy that the graph decodes them to."""
    boxes, loc = boxes[0].astype(np.float64), loc[0].astype(np.float64)
    size = (boxes[:, 2:] - boxes[:, :2]) / np.exp(VARIANCE_SIZE * loc[:, 2:])
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 - VARIANCE_CENTRE * loc[:, :2] * size
    return np.hstack([centre, size]).astype(np.float32)


def _shapes(values: Iterable[onnx.ValueInfoProto]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for each in values:
        yield each.name, tuple(side.dim_value for side in each.type.tensor_type.shape.dim)


def _offsets(model: onnx.ModelProto, boxes: str, shapes: dict[str, tuple[int, ...]]) -> str:
    """Where the levels' box heads come together, which is before they are decoded."""
    makers = {name: node for node in model.graph.node for name in node.output}
    waiting, seen = [boxes], set()
    while waiting:
        name = waiting.pop(0)
        if name not in makers or name in seen:
            continue
        seen.add(name)
        node = makers[name]
        axis = next((each.i for each in node.attribute if each.name == "axis"), None)
        if node.op_type == "Concat" and axis in (1, -2) and shapes.get(name) == shapes[boxes]:
            return name
        waiting += node.input
    raise RecipeError(f"no offsets are found behind {boxes!r}: convert it with --whole")


def _softmax(model: onnx.ModelProto, scores: str, before: bool) -> str:
    """What comes out of the softmax behind the scores, or what goes into it."""
    makers = {name: node for node in model.graph.node for name in node.output}
    name = scores
    while name in makers and makers[name].op_type in ("Slice", "Transpose", "Gather", "Identity"):
        name = makers[name].input[0]
    if name not in makers or makers[name].op_type != "Softmax":
        raise RecipeError(f"no softmax is found behind {scores!r}: convert it with --whole")
    return makers[name].input[0] if before else name
