"""Which output of a YOLACT graph is what, found by name or by shape and never by position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from worker.detections import ModelMismatch

if TYPE_CHECKING:
    from worker.runtimes import Tensor

Size = int | None  # None where the graph leaves it open

Role = Literal["boxes", "scores", "coefficients", "prototypes"]
ROLES: tuple[Role, ...] = get_args(Role)


class Reading(NamedTuple):
    """One way to read one tensor in a role."""

    name: str
    anchors: Size = None
    coefficients: Size = None
    turned: bool = False  # scores with classes, or prototypes with coefficients, before the rest
    background: bool = False  # scores whose class 0 is "nothing"


class Outputs(NamedTuple):
    boxes: Reading
    scores: Reading
    coefficients: Reading
    prototypes: Reading
    priors: str | None


def find_outputs(
    tensors: Sequence[Tensor], categories: int, named: Mapping[Role, str], raw_boxes: bool
) -> Outputs:
    """The one way to read the graph's outputs that its card allows; raises ModelMismatch."""
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    priors = [n for n in shapes if _is_priors(n, shapes[n]) and n not in named.values()]
    candidates = {
        role: [
            reading
            for name in ([named[role]] if role in named else shapes)
            if name not in priors
            for reading in _readings(role, name, shapes.get(name, ()), categories)
        ]
        for role in ROLES
    }
    found = [one for one in product(*candidates.values()) if _agree_on_all(one)]
    problem = _problem(shapes, named, candidates, found)
    if problem is None:
        boxes, scores, coefficients, prototypes = found[0]
        used = {reading.name for reading in found[0]} | set(priors if raw_boxes else [])
        surplus = [name for name in shapes if name not in used]
        if not surplus or len(named) == len(ROLES):
            prior = priors[0] if raw_boxes and priors else None
            return Outputs(boxes, scores, coefficients, prototypes, prior)
        problem = f"output {surplus[0]!r} is surplus"
        if surplus[0] in priors:
            problem += ' (it looks like priors, which go with boxes = "loc")'
    raise ModelMismatch(problem, _expected(categories), [str(tensor) for tensor in tensors])


def _readings(role: str, name: str, shape: tuple[Size, ...], categories: int) -> Iterator[Reading]:
    rank = 4 if role == "prototypes" else 3
    if len(shape) != rank or shape[0] not in (1, None):
        return
    if role == "boxes" and shape[2] == 4:
        yield Reading(name, anchors=shape[1])
    if role == "coefficients":
        yield Reading(name, anchors=shape[1], coefficients=shape[2])
    if role == "prototypes":
        yield Reading(name, coefficients=shape[3])
        yield Reading(name, coefficients=shape[1], turned=True)
    if role == "scores":
        for turned, background in product((False, True), repeat=2):
            classes, anchors = shape[1:] if turned else shape[:0:-1]
            if classes == categories + background:
                yield Reading(name, anchors=anchors, turned=turned, background=background)


def _problem(
    shapes: Mapping[str, tuple[Size, ...]],
    named: Mapping[Role, str],
    candidates: Mapping[Role, list[Reading]],
    found: Sequence[tuple[Reading, ...]],
) -> str | None:
    for role, name in named.items():
        if name not in shapes:
            return f"there is no output {name!r}, which the card names for {role}"
    for role, readings in candidates.items():
        if not readings:
            return f"nothing has the shape of {role}"
    if not found:
        return "no four outputs agree on the number of anchors and of coefficients"
    for role, ways in zip(ROLES, zip(*found, strict=True), strict=True):
        names = sorted({reading.name for reading in ways})
        if len(names) > 1:
            return f"{' and '.join(names)} could each be {role} (say which in decode.outputs)"
        if len(set(ways)) > 1:
            return f"the sizes of {names[0]} do not tell the order of its axes or its background"
    return None


def _agree_on_all(readings: tuple[Reading, ...]) -> bool:
    return (
        len({reading.name for reading in readings}) == len(ROLES)
        # A graph may leave the number of anchors open, but not what tells its axes apart.
        and len({each.anchors for each in readings if each.anchors is not None}) <= 1
        and readings[2].coefficients == readings[3].coefficients is not None
    )


def _is_priors(name: str, shape: tuple[Size, ...]) -> bool:
    return "prior" in name.lower() and len(shape) in (2, 3) and shape[-1] == 4


def _expected(categories: int) -> list[str]:
    classes = f"{categories} or {categories + 1}"
    return [
        "boxes (1, N, 4)",
        f"scores (1, N, {classes}) or (1, {classes}, N)",
        "coefficients (1, N, K)",
        "prototypes (1, P, Q, K) or (1, K, P, Q)",
    ]
