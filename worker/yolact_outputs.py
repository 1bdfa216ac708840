"""Which output of a YOLACT graph is what, found by name or by shape and never by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from tasks.graph_file import Tensor
from worker.binding import Named, Role, find_roles
from worker.detections import ModelMismatch

Head = Literal["boxes", "scores", "coefficients", "prototypes"]


class Outputs(NamedTuple):
    boxes: str
    scores: str
    coefficients: str
    prototypes: str
    priors: str | None
    scores_turned: bool  # classes before anchors
    prototypes_turned: bool  # coefficients before rows and columns
    background: bool  # scores whose class 0 is "nothing"


def find_outputs(
    tensors: Sequence[Tensor], categories: int, named: Named, raw_boxes: bool
) -> Outputs:
    """The one way to read the graph's outputs that its card allows; raises ModelMismatch."""
    classes = f"{categories}|{categories + 1}"
    roles = (
        Role("boxes", ["1 N 4"]),
        Role("scores", [f"1 N {classes}", f"1 {classes} N"]),
        Role("coefficients", ["1 N K"]),
        Role("prototypes", ["1 P Q K", "1 K P Q"]),
    )
    priors = [each for each in tensors if _is_priors(each) and each.name not in named.values()]
    boxes, scores, coefficients, prototypes = find_roles(tensors, roles, named, priors)
    if len(priors) > raw_boxes and len(named) < len(roles):
        name = priors[raw_boxes].name
        reason = f'output {name!r} is surplus (it looks like priors, which go with boxes = "loc")'
        raise ModelMismatch(reason, [str(role) for role in roles], [str(each) for each in tensors])
    return Outputs(
        boxes=boxes.tensor.name,
        scores=scores.tensor.name,
        coefficients=coefficients.tensor.name,
        prototypes=prototypes.tensor.name,
        priors=priors[0].name if raw_boxes and priors else None,
        scores_turned=scores.way == 1,
        prototypes_turned=prototypes.way == 1,
        background=scores.tensor.shape[2 - scores.way] == categories + 1,
    )


def _is_priors(tensor: Tensor) -> bool:
    shape = tensor.shape
    return "prior" in tensor.name.lower() and len(shape) in (2, 3) and shape[-1] == 4
