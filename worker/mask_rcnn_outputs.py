"""Which output of a Mask R-CNN graph is what, found by name, shape or type, never by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from worker.detections import ModelMismatch

if TYPE_CHECKING:
    from worker.runtimes import Tensor

Role = Literal["boxes", "labels", "scores", "masks"]
_NAMES: dict[Role, tuple[str, ...]] = {
    "boxes": ("boxes", "pred_boxes"),
    "labels": ("labels", "classes", "pred_classes"),
    "scores": ("scores",),
    "masks": ("masks", "raw_masks", "pred_masks"),
}


class Outputs(NamedTuple):
    boxes: str
    labels: str
    scores: str | None  # None where they are the fifth column of the boxes
    masks: str
    channels: int | None  # maps of a box: one, or of the background and every class; None: no axis
    side: tuple[int | None, int | None]  # height and width of a mask
    detectron2: bool


def find_outputs(tensors: Sequence[Tensor], categories: int, named: Mapping[Role, str]) -> Outputs:
    """The graph's outputs by role; raises ModelMismatch where they leave a doubt."""
    maps = f"masks (N, S, S), (N, 1, S, S) or (N, {categories + 1}, S, S)"
    expected = ["boxes (N, 4), or (N, 5) with scores", "labels (N)", "scores (N)", maps]
    shown = [str(each) for each in tensors]
    taken = {*named.values(), *sum(_NAMES.values(), ())}
    # Open Model Zoo's graphs put out a TopK besides, for no use that is said; Detectron2's also
    # say how large their input was, which the frame knows.
    unknown = [t for t in tensors if t.name not in taken and not t.name.startswith("TopK")]
    sizes = [each for each in unknown if each.shape == (2,) and _is_whole(each)]
    unknown = [each for each in unknown if each not in sizes]
    found: dict[Role, Tensor] = {}
    for role, names in _NAMES.items():
        if role == "scores" and found["boxes"].shape[1] == 5:
            continue
        names = (named[role],) if role in named else names
        fitting = [each for each in tensors if _fits(role, each.shape, categories)]
        ways = [each for each in fitting if each.name in names]
        if not ways and role not in named:
            whole = role == "labels"
            ways = [each for each in fitting if each in unknown and _is_whole(each) == whole]
        if len(ways) != 1:
            either = " and ".join(sorted(each.name for each in ways))
            problem = f"{either} could each be {role} (say which in decode.outputs)"
            nothing = f"no output {named[role]!r}" if role in named else "nothing"
            problem = problem if ways else f"{nothing} has the shape or type of {role}"
            raise ModelMismatch(problem, expected, shown)
        found[role] = ways[0]
    surplus = [t for t in tensors if (t in unknown or t.name in taken) and t not in found.values()]
    if surplus and not named.keys() >= found.keys():
        raise ModelMismatch(f"output {surplus[0].name!r} is surplus", expected, shown)
    masks = found["masks"]
    return Outputs(
        boxes=found["boxes"].name,
        labels=found["labels"].name,
        scores=found["scores"].name if "scores" in found else None,
        masks=masks.name,
        channels=(masks.shape[1] or 1) if len(masks.shape) == 4 else None,
        side=(masks.shape[-2], masks.shape[-1]),
        detectron2=bool(sizes) or masks.name == "pred_masks",
    )


def _fits(role: Role, shape: tuple[int | None, ...], categories: int) -> bool:
    if role == "boxes":
        return len(shape) == 2 and shape[1] in (4, 5)
    if role == "masks":
        one = len(shape) == 3 or (len(shape) == 4 and shape[1] in (1, categories + 1, None))
        return one and (shape[-1] == shape[-2] or None in shape[-2:])
    return len(shape) == 1


def _is_whole(tensor: Tensor) -> bool:
    return tensor.dtype.startswith(("i", "u"))
