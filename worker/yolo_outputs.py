"""Which output of an Ultralytics graph is what, found by shape and never by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from worker.detections import ModelMismatch

if TYPE_CHECKING:
    from worker.runtimes import Tensor

Size = int | None  # None where the graph leaves it open
Form = Literal["raw", "end_to_end"]


class Outputs(NamedTuple):
    predictions: str
    prototypes: str
    form: Form
    turned: bool  # predictions (1, F, N), their features before the anchors
    deep: bool  # prototypes (1, P, Q, K), as TensorFlow has them
    cells: tuple[Size, ...]  # height and width of a prototype


def find_outputs(tensors: Sequence[Tensor], categories: int, form: Form | None) -> Outputs:
    """The one way to read the graph's outputs; raises ModelMismatch where there is none."""
    flat, deep = ([each for each in tensors if len(each.shape) == rank] for rank in (3, 4))
    found: list[Outputs] = []
    if len(flat) == len(deep) == 1 and len(tensors) == 2:
        (_, first, last), cells = flat[0].shape, deep[0].shape[1:]
        names = flat[0].name, deep[0].name
        batches = {flat[0].shape[0], deep[0].shape[0]} <= {1, None}
        for how, features, besides in _READINGS:
            size = last if how != ("raw", True) else first
            size = None if size is None else size - besides - features * categories
            if batches and size and form in (None, how[0]):
                found += [Outputs(*names, *how, False, cells[1:])] * (cells[0] == size)
                found += [Outputs(*names, *how, True, cells[:2])] * (cells[2] == size)
    # With two classes both forms have as many columns, but raw ones are rarely written as columns.
    ends = [each for each in found if each.form == "end_to_end"]
    if len(ends) == 1 and not any(each.turned for each in found):
        found = ends
    if len(found) == 1:
        return found[0]
    reason = "its outputs can be read in two ways" if found else "its outputs have other shapes"
    wide = 4 + categories
    expected = [
        f"predictions (1, {wide} + K, N), (1, N, {wide} + K) or (1, N, 6 + K)",
        "prototypes (1, K, P, Q) or (1, P, Q, K)",
    ]
    raise ModelMismatch(reason, expected, [str(tensor) for tensor in tensors])


# A form and whether its predictions are turned; columns per category, and those besides.
_READINGS: tuple[tuple[tuple[Form, bool], int, int], ...] = (
    (("raw", True), 1, 4),  # cx, cy, w, h, a score for each class, coefficients
    (("raw", False), 1, 4),
    (("end_to_end", False), 0, 6),  # x1, y1, x2, y2, score, class, coefficients
)
