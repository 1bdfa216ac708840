"""Mask R-CNN: raw outputs to Detections, in every form that its exporters publish.

Their graphs hold the suppression of overlapping boxes; what is left is to undo the resizing, to
number the classes and to paste the masks. How, follows from the outputs, which tell the exporter;
the card's `[decode]` table is for graphs that do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from tasks.categories import coco80
from worker.binding import Named, Role, Table, Tensors, find_roles, is_whole, options_of
from worker.detections import ALL, Detections, Indices, ModelMismatch, Raw, Wanted, finished
from worker.intake import Intake
from worker.pasting import plane_masks, rounded_masks, sampled_masks
from worker.preprocess import Frame
from worker.rle import Float32s, Float64s, Rle

Labels = Literal["zero_based", "one_based", "coco91"]
Paste = Literal["rounded", "sampled"]
Head = Literal["boxes", "labels", "scores", "masks"]

_COCO_IDS = [category.id for category in coco80()]


class MaskRcnnOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The card's `[decode]` table; what is not in it follows from the graph's outputs.

    labels: "one_based" has the background at 0; "coco91" are COCO's sparse ids of 80 categories.
    paste: "rounded" cuts boxes to whole pixels (> 0.5), "sampled" does not (>= 0.5).
    outputs: names, needed only where the graph's names and shapes leave a doubt.
    """

    labels: Labels | None = None
    paste: Paste | None = None
    outputs: dict[Head, str] = {}


class Outputs(NamedTuple):
    boxes: str
    labels: str
    scores: str | None  # None where they are the fifth column of the boxes
    masks: str
    channels: int | None  # maps of a box: one, or of the background and every class; None: no axis
    side: tuple[int | None, int | None]  # height and width of a mask
    detectron2: bool


def bind(outputs: Tensors, table: Table, categories: int, intake: Intake) -> MaskRcnnDecoder:
    """The decoder of a graph with these outputs; raises ModelMismatch where they do not fit."""
    options = options_of(MaskRcnnOptions, table)
    bound = _find_outputs(outputs, categories, options.outputs)
    # torchvision's masks cover the image, all others their box.
    native = intake.spec.fit == "native" and None in bound.side
    planes = native and bound.channels == 1 and not bound.detectron2
    if bound.side == intake.size or (planes and options.paste is not None):
        expected = ['input.fit = "native" with a graph that leaves its size open, no decode.paste']
        raise ModelMismatch("its masks cover the whole input", expected, outputs)
    labels: Labels = "one_based"
    if bound.detectron2 or bound.scores is None:  # the latter is Open Model Zoo since 2020
        labels = "zero_based"
    elif planes and categories == len(_COCO_IDS):  # as torchvision's authors trained it
        labels = "coco91"
    paste = options.paste or ("sampled" if bound.detectron2 else "rounded")
    classes = _class_of_label(options.labels or labels, categories)
    return MaskRcnnDecoder(bound, classes, "planes" if planes else paste)


def _find_outputs(tensors: Tensors, categories: int, named: Named) -> Outputs:
    """The graph's outputs by role; raises ModelMismatch where they leave a doubt."""
    boxes = Role("boxes", ["N 4|5"], ("boxes", "pred_boxes"), whole=False)
    labels = Role("labels", ["N"], ("labels", "classes", "pred_classes"), whole=True)
    scores = Role("scores", ["N"], ("scores",), whole=False)
    maps = ["N S S", "N 1 S S", f"N {categories + 1} S S"]
    masks = Role("masks", maps, ("masks", "raw_masks", "pred_masks"), whole=False)
    own = named.get("boxes")
    scored = any(each.shape[1:] == (5,) and own in (None, each.name) for each in tensors)
    roles = (boxes, labels, masks) if scored else (boxes, labels, masks, scores)
    # Detectron2's say how large their input was, which the frame knows. Open Model Zoo's graphs
    # put out a TopK besides, for no use that is said.
    familiar = {*named.values(), *(name for role in roles for name in role.known)}
    strange = [each for each in tensors if each.name not in familiar]
    sizes = [each for each in strange if each.shape == (2,) and is_whole(each)]
    beside = [*sizes, *(each for each in strange if each.name.startswith("TopK"))]
    found = find_roles(tensors, roles, named, beside)
    names = [each.tensor.name for each in found]
    shape = found[2].tensor.shape
    return Outputs(
        boxes=names[0],
        labels=names[1],
        scores=None if scored else names[3],
        masks=names[2],
        channels=(shape[1] or 1) if len(shape) == 4 else None,
        side=(shape[-2], shape[-1]),
        detectron2=bool(sizes) or names[2] == "pred_masks",
    )


def _class_of_label(labels: Labels, count: int) -> Indices:
    """By label, the index of its category; -1 where it has none."""
    if labels != "coco91":
        return np.arange(-1 if labels == "one_based" else 0, count)
    if count != len(_COCO_IDS):
        raise ModelMismatch("its labels are COCO's ids", ["80 categories"], [f"{count} of them"])
    table = np.full(max(_COCO_IDS) + 1, -1)
    table[_COCO_IDS] = np.arange(count)
    return table


@dataclass(frozen=True, eq=False)
class MaskRcnnDecoder:
    outputs: Outputs
    class_of_label: Indices
    paste: Paste | Literal["planes"]

    def __call__(self, raw: Raw, frame: Frame, wanted: Wanted = ALL) -> Detections:
        """The detections of one image. Rows that are no detection take no place: padding, labels
        without a category, scores or boxes that are not finite, boxes without area in the image.
        """
        boxes, classes, scores, masks = self._rows(raw, frame)
        usable = wanted.passing(scores, classes) & np.isfinite(boxes).all(axis=1)
        rows = np.flatnonzero(usable)
        if self.outputs.scores is None:  # Open Model Zoo fills up with rows of zeros
            rows = rows[boxes[rows].sum(axis=1, dtype=np.float64) > 0]
        boxes_image, classes = frame.to_image(boxes[rows]), classes[rows]

        def masks_of(places: Indices) -> list[Rle]:
            return self._pasted(masks, rows[places], classes[places], boxes_image[places], frame)

        limit = wanted.max_detections
        return finished(boxes_image, scores[rows], classes, frame, masks_of, limit)

    def _pasted(
        self, masks: Float32s, rows: Indices, classes: Indices, boxes: Float64s, frame: Frame
    ) -> list[Rle]:
        """The masks of some rows; only the maps that are pasted are copied."""
        height, width = frame.image_height, frame.image_width
        if self.paste == "planes":
            return plane_masks(masks[:, 0, :height, :width], rows.tolist(), boxes)
        every_class = (self.outputs.channels or 1) > 1  # the background's is first
        maps = masks[rows, classes + 1] if every_class else masks[rows]
        maps = maps[:, 0] if maps.ndim == 4 else maps
        if self.paste == "rounded":
            return rounded_masks(maps, boxes, height, width)
        return sampled_masks(maps, np.clip(boxes, 0, [width, height] * 2), height, width)

    def _rows(self, raw: Raw, frame: Frame) -> tuple[Float32s, Indices, Float32s, Float32s]:
        """The boxes (N, 4) in pixels of the input, classes (N,) or -1, scores (N,) and masks."""
        bound = self.outputs
        boxes, labels, masks = (
            np.asarray(raw[name], dtype=np.float32)
            for name in (bound.boxes, bound.labels, bound.masks)
        )
        scores = boxes[..., 4:].reshape(-1) if bound.scores is None else raw[bound.scores]
        side, whole = masks.shape[-2:], (frame.input_height, frame.input_width)
        channels = () if bound.channels is None else (bound.channels,)
        if (
            boxes.shape[1:] != (5 if bound.scores is None else 4,)
            or not labels.shape == scores.shape == boxes.shape[:1]
            or masks.shape != (*boxes.shape[:1], *channels, *side)
            or (side != whole if self.paste == "planes" else side == whole or side[0] != side[1])
        ):
            size = f"{whole[0]}×{whole[1]}"
            covers = f"of {size}" if self.paste == "planes" else f"that are square and not {size}"
            expected = ["as many boxes, labels, scores and masks", f"masks {covers}"]
            found = [f"{name} {array.shape}" for name, array in raw.items()]
            raise ModelMismatch("its outputs do not belong together", expected, found)
        count = len(self.class_of_label)
        known = (labels >= 0) & (labels < count) & (labels == np.floor(labels))
        classes = self.class_of_label[np.where(known, labels, 0).astype(np.intp)]
        return boxes[:, :4], np.where(known, classes, -1), scores, masks
