"""Which output of a DETR-like graph is which, and what its class columns stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.categories import coco80
from tasks.graph_file import Tensor
from worker.binding import Named, Role, ways_to_read
from worker.detections import ModelMismatch

Form = Literal["detr", "mask2former", "rf_detr"]
Head = Literal["logits", "masks", "boxes"]
Classes = Literal["sparse", "direct"]

# What exporters call them. Optimum leaves DETR's boxes out, Mask2Former has none.
_NAMES: dict[Form, dict[Head, tuple[str, ...]]] = {
    "mask2former": {"logits": ("class_queries_logits",), "masks": ("masks_queries_logits",)},
    "rf_detr": {"logits": ("labels",), "masks": ("masks",), "boxes": ("dets",)},
    "detr": {
        "logits": ("logits", "pred_logits"),
        "masks": ("pred_masks",),
        "boxes": ("pred_boxes",),
    },
}
_PATTERNS: dict[Head, str] = {"logits": "1 Q C", "masks": "1 Q P R", "boxes": "1 Q 4"}
# Columns over COCO's sparse ids: 0 to 90, or with the 250 of the panoptic heads stuff after them.
_SPARSE = (91, 250)


class Outputs(NamedTuple):
    form: Form
    names: dict[Head, str]
    columns: int  # of the logits


def find_outputs(outputs: Sequence[Tensor], form: Form | None, named: Named) -> Outputs:
    """By the card's names, then by those of the first form that has both logits and masks here.

    Other outputs are let be: exporters add hidden states and auxiliary ones.
    """
    here = {tensor.name: tensor for tensor in outputs}
    found = [str(tensor) for tensor in outputs]
    for each in _NAMES if form is None else (form,):
        wanted: dict[Head, tuple[str, ...]] = _NAMES[each] | {r: (n,) for r, n in named.items()}
        names = {head: name for head, some in wanted.items() for name in some if name in here}
        own = form is not None or any(names[h] in _NAMES[each].get(h, ()) for h in names)
        if own and {"logits", "masks", *named} <= names.keys():
            roles = [Role(head, [_PATTERNS[head]]) for head in names]
            if not ways_to_read(outputs, roles, names):
                expected = [str(role) for role in roles]
                raise ModelMismatch("its outputs have other shapes", expected, found)
            return Outputs(each, names, here[names["logits"]].shape[2] or 0)
    known = [" and ".join(some[0] for some in names.values()) for names in _NAMES.values()]
    raise ModelMismatch("no form has outputs of these names", [*named.values(), *known], found)


def classes_of_columns(
    bound: Outputs, category_count: int, kind: Classes | None, found: Sequence[str]
) -> NDArray[np.int64]:
    """(C,) the category of each class column, -1 where there is none, as for no object.

    The last column is that of no object; of RF-DETR it is a class of the published weights, and
    beside a user's own classes one that nothing trains.
    """
    coco = [each.id for each in coco80()]
    last = bound.form != "rf_detr"
    if kind is None:
        sparse = category_count == len(coco) and bound.columns - last in _SPARSE
        kind = "sparse" if sparse else "direct"
        exact = sparse or bound.columns in (category_count + 1, category_count + last)
    else:
        exact = bound.columns - last >= (coco[-1] + 1 if kind == "sparse" else category_count)
    if not exact or (kind == "sparse" and category_count != len(coco)):
        reason = f"{bound.columns} class columns are neither its categories nor COCO's sparse ids"
        raise ModelMismatch(reason, [f"{category_count + last} columns"], found)
    classes = np.full(bound.columns, -1, dtype=np.int64)
    classes[coco if kind == "sparse" else slice(category_count)] = np.arange(category_count)
    return classes
