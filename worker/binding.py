"""How a decoder is bound to a graph: the card's options, and which output plays which role."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from tasks.graph_file import Tensor
from worker.detections import ModelMismatch, Raw
from worker.rle import Float32s

Part = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Tensors = Sequence[Tensor]
Table = Mapping[str, object]  # a card's `[decode]`
Named = Mapping[Any, str]  # outputs by role, as a card says
Axis = tuple[str, int | None]
Options = TypeVar("Options", bound=msgspec.Struct)

# Sizes that a graph has to give, for they tell its axes apart; all other letters may be open.
_GIVEN = "CK"


class Role(NamedTuple):
    """What a decoder needs an output for.

    patterns: the shapes that it may have, as "1 N K+4" or "1 N 80|81". A letter stands for the
    same size wherever it is; 1 is the batch or another axis of one, which may be open. Of those
    with the same axes the first has the order that `read` gives.
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
    axes: tuple[Axis, ...]  # of the pattern, with their sizes
    order: tuple[int, ...]  # of its axes but those of one, for `read`


Outputs = dict[str, Reading]  # by role


def options_of(kind: type[Options], table: Table) -> Options:
    """What a card's table says; raises ModelMismatch where it is not valid."""
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as exc:
        reason = f"its [decode] table is not valid ({exc})"
        raise ModelMismatch(reason, kind.__struct_fields__, list(table)) from exc


def find_roles(
    tensors: Tensors, roles: Sequence[Role], named: Named, beside: Tensors = ()
) -> Outputs:
    """The one way to give each role an output; raises ModelMismatch where there is none.

    Only where the card names all of them may outputs be left over, but for those that are beside.
    """
    others = [each for each in tensors if each not in beside]
    candidates = _candidates(others, roles, named)
    ways = [
        each for each in product(*candidates) if _agree(axis for one in each for axis in one.axes)
    ]
    ways = [each for each in ways if len({one.tensor.name for one in each}) == len(each)]
    problem = _problem(roles, candidates, ways)
    if problem is None:
        used = [reading.tensor for reading in ways[0]]
        surplus = [each.name for each in others if each not in used]
        if not surplus or named.keys() >= {role.name for role in roles}:
            return {role.name: one for role, one in zip(roles, ways[0], strict=True)}
        problem = f"output {surplus[0]!r} is surplus"
    raise ModelMismatch(problem, roles, tensors)


def read(raw: Raw, outputs: Outputs) -> dict[str, Float32s]:
    """What a graph put out, by role: views without axes of one, in the order of the patterns.

    Raises ModelMismatch where the sizes are not those of their roles.
    """
    arrays = {role: np.asarray(raw[one.tensor.name], np.float32) for role, one in outputs.items()}
    letters = {role: [axis for axis, _ in one.axes] for role, one in outputs.items()}
    shapes = {role: array.shape for role, array in arrays.items()}
    axes = [axis for one in outputs.values() for axis in one.axes if axis[0][0] in _GIVEN]
    for role in outputs:
        axes += zip(letters[role], shapes[role], strict=False)
    ranks = all(len(letters[role]) == len(shapes[role]) for role in outputs)
    if not (ranks and all(_fits(*each) for each in axes) and _agree(axes)):
        expected = [f"{role} ({', '.join(some)})" for role, some in letters.items()]
        found = [f"{role} {shape}" for role, shape in shapes.items()]
        raise ModelMismatch("its outputs do not belong together", expected, found)
    return {role: _ordered(arrays[role], one.order) for role, one in outputs.items()}


def _ordered(array: Float32s, order: tuple[int, ...]) -> Float32s:
    ones = [axis for axis in range(array.ndim) if axis not in order]
    return np.squeeze(np.transpose(array, (*ones, *order)), tuple(range(len(ones))))


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
        letters = pattern.split()
        if len(letters) == len(tensor.shape):
            axes = tuple(zip(letters, tensor.shape, strict=True))
            orders = [each.split() for each in role.patterns]
            first = next(each for each in orders if sorted(each) == sorted(letters))
            several = [axis for axis, letter in enumerate(letters) if letter != "1"]
            order = tuple(sorted(several, key=lambda axis: first.index(letters[axis])))
            if all(_fits(*each) for each in axes) and _agree(axes):
                yield Reading(tensor, way, axes, order)


def _fits(axis: str, size: int | None) -> bool:
    if axis[0].isalpha():
        return size is not None or axis[0] not in _GIVEN
    return ("1" if size is None else str(size)) in axis.split("|")


def _agree(axes: Iterable[Axis]) -> bool:
    sizes: dict[str, int] = {}
    for axis, size in axes:
        letter, _, more = axis.partition("+")
        if letter.isalpha() and size is not None:
            size -= int(more or 0)
            if sizes.setdefault(letter, size) != size:
                return False
    return True


def _problem(
    roles: Sequence[Role], candidates: list[list[Reading]], ways: list[tuple[Reading, ...]]
) -> str | None:
    for role, some in zip(roles, candidates, strict=True):
        if not some:
            return f"no output has the name, shape and type of {role.name}"
    if not ways:
        return f"no {len(roles)} outputs agree on the sizes that these share"
    for role, readings in zip(roles, zip(*ways, strict=True), strict=True):
        if len(set(readings)) > 1:
            names = " and ".join(sorted({each.tensor.name for each in readings}))
            reason = "name it in decode.outputs, or its sizes do not tell the order of its axes"
            return f"{names} could be {role.name} in more than one way: {reason}"
    return None


def is_whole(tensor: Tensor) -> bool:
    return tensor.quantised is None and tensor.dtype.startswith(("i", "u"))
