"""How a decoder is bound to a graph: the card's options, and which output plays which role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from tasks.graph_file import Tensor
from worker.detections import ModelMismatch
from worker.intake import Intake

Part = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Tensors = Sequence[Tensor]
Table = Mapping[str, object]  # a card's `[decode]`
Named = Mapping[Any, str]  # outputs by role, as a card says
Options = TypeVar("Options", bound=msgspec.Struct)

# Sizes that a graph has to give, for they tell its axes apart; all other letters may be open.
_GIVEN = "CK"


class Role(NamedTuple):
    """What a decoder needs an output for.

    patterns: the shapes that it may have, as "1 N K+4" or "1 N 80|81". A letter stands for the
    same size wherever it is; 1 is the batch or another axis of one, which may be open.
    known: names that exporters give it, which come before all others.
    whole: whether it holds whole numbers, where that tells which output it is.
    """

    name: str
    patterns: Sequence[str]
    known: Sequence[str] = ()
    whole: bool | None = None

    def __str__(self) -> str:
        shapes = [f"({', '.join(each.split())})".replace("|", " or ") for each in self.patterns]
        return f"{self.name} {' or '.join(shapes)}"


class Reading(NamedTuple):
    """An output in a role."""

    tensor: Tensor
    way: int  # which of the role's patterns it has
    axes: tuple[tuple[str, int | None], ...]  # of the pattern, with their sizes


Readings = tuple[Reading, ...]  # one for each role


def options_of(kind: type[Options], table: Table) -> Options:
    """What a card's table says; raises ModelMismatch where it is not valid."""
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as exc:
        reason = f"its [decode] table is not valid ({exc})"
        raise ModelMismatch(reason, kind.__struct_fields__, list(table)) from exc


def find_roles(
    tensors: Tensors, roles: Sequence[Role], named: Named, beside: Tensors = ()
) -> Readings:
    """The one way to give each role an output; raises ModelMismatch where there is none.

    Only where the card names all of them may outputs be left over, but for those that are beside.
    """
    others = [each for each in tensors if each not in beside]
    candidates = _candidates(others, roles, named)
    ways = [each for each in product(*candidates) if _agree(each)]
    ways = [each for each in ways if len({one.tensor.name for one in each}) == len(each)]
    problem = _problem(roles, candidates, ways, named)
    if problem is None:
        used = [reading.tensor for reading in ways[0]]
        surplus = [each.name for each in others if each not in used]
        if not surplus or named.keys() >= {role.name for role in roles}:
            return ways[0]
        problem = f"output {surplus[0]!r} is surplus"
    raise ModelMismatch(problem, roles, tensors)


def need_stretch(intake: Intake, tensors: Tensors) -> None:
    if intake.spec.fit != "stretch":
        reason = "its boxes are parts of a stretched picture"
        raise ModelMismatch(reason, ['input.fit = "stretch"'], tensors)


def _candidates(tensors: Tensors, roles: Sequence[Role], named: Named) -> list[list[Reading]]:
    """For each role the output of the name that it has, or else all of its shape and type."""
    familiar = {*named.values(), *(name for role in roles for name in role.known)}
    candidates = []
    for role in roles:
        fitting = [reading for tensor in tensors for reading in _readings(tensor, role)]
        names = [named[role.name]] if role.name in named else role.known
        own = [reading for reading in fitting if reading.tensor.name in names]
        if not own and role.name not in named:
            own = [each for each in fitting if each.tensor.name not in familiar]
            own = [each for each in own if role.whole in (None, is_whole(each.tensor))]
        candidates.append(own)
    return candidates


def _readings(tensor: Tensor, role: Role) -> Iterator[Reading]:
    for way, pattern in enumerate(role.patterns):
        axes = pattern.split()
        if len(axes) == len(tensor.shape):
            reading = Reading(tensor, way, tuple(zip(axes, tensor.shape, strict=True)))
            if all(_fits(*each) for each in reading.axes) and _agree([reading]):
                yield reading


def _fits(axis: str, size: int | None) -> bool:
    if axis[0].isalpha():
        return size is not None or axis[0] not in _GIVEN
    return ("1" if size is None else str(size)) in axis.split("|")


def _agree(readings: Sequence[Reading]) -> bool:
    sizes: dict[str, int] = {}
    for axis, size in (each for reading in readings for each in reading.axes):
        letter, _, more = axis.partition("+")
        if letter.isalpha() and size is not None:
            size -= int(more or 0)
            if sizes.setdefault(letter, size) != size:
                return False
    return True


def _problem(
    roles: Sequence[Role], candidates: list[list[Reading]], ways: list[Readings], named: Named
) -> str | None:
    absent = [role for role, some in zip(roles, candidates, strict=True) if not some]
    for role in sorted(absent, key=lambda role: role.name not in named):
        nothing = f"no output {named[role.name]!r}" if role.name in named else "nothing"
        what = "shape" if role.whole is None else "shape or type"
        return f"{nothing} has the {what} of {role.name}"
    if not ways:
        return f"no {len(roles)} outputs agree on the sizes that these share"
    for role, readings in zip(roles, zip(*ways, strict=True), strict=True):
        names = sorted({each.tensor.name for each in readings})
        if len(names) > 1:
            return f"{' and '.join(names)} could each be {role.name} (say which in decode.outputs)"
        if len({each.way for each in readings}) > 1:
            return f"the sizes of {names[0]} do not tell the order of its axes"
    return None


def is_whole(tensor: Tensor) -> bool:
    return tensor.quantised is None and tensor.dtype.startswith(("i", "u"))
