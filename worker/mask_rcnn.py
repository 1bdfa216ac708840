"""Mask R-CNN: raw outputs to Detections, in every form that its exporters publish.

Their graphs hold the suppression of overlapping boxes; what is left is to undo the resizing, to
number the classes and to paste the masks. How, follows from the outputs, which tell the exporter;
the card's `[decode]` table is for graphs that do not.
"""

from functools import partial
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from tasks.categories import coco80
from worker.binding import Outputs, Role, Table, Tensors, find_roles, is_whole, options_of, read
from worker.detections import ALL, Candidates, Detections, ModelMismatch, Raw, Wanted, finished
from worker.intake import Intake
from worker.pasting import plane_masks, rounded_masks, sampled_masks
from worker.preprocess import Frame
from worker.rle import Float32s, Indices, Rle

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


def bind(outputs: Tensors, table: Table, categories: int, intake: Intake) -> "MaskRcnnDecoder":
    """The decoder of a graph with these outputs; raises ModelMismatch where they do not fit."""
    options = options_of(MaskRcnnOptions, table)
    # Only Detectron2's say how large their input was, and it calls its masks so.
    sizes = [each for each in outputs if each.shape == (2,) and is_whole(each)]
    sizes = [each for each in sizes if each.name not in options.outputs.values()]
    detectron2 = bool(sizes) or any(each.name == "pred_masks" for each in outputs)
    # torchvision's masks cover the image, all others their box.
    open_maps = any(len(each.shape) == 4 and None in each.shape[2:] for each in outputs)
    planes = intake.spec.fit == "native" and open_maps and not detectron2
    found = _find_outputs(outputs, categories, options, planes, sizes)
    side = found["masks"].tensor.shape[-2:]
    if side == intake.size or (planes and options.paste is not None):
        expected = ['input.fit = "native" with a graph that leaves its size open, no decode.paste']
        raise ModelMismatch("its masks cover the whole input", expected, outputs)
    labels: Labels = "one_based"
    if detectron2 or "scores" not in found:  # the latter is Open Model Zoo since 2020
        labels = "zero_based"
    elif planes and categories == len(_COCO_IDS):  # as torchvision's authors trained it
        labels = "coco91"
    paste = options.paste or ("sampled" if detectron2 else "rounded")
    classes = _class_of_label(options.labels or labels, categories)
    return MaskRcnnDecoder(found, classes, "planes" if planes else paste)


def _find_outputs(
    tensors: Tensors, categories: int, options: MaskRcnnOptions, planes: bool, sizes: Tensors
) -> Outputs:
    """The graph's outputs by role; raises ModelMismatch where they leave a doubt."""
    maps = ["N 1 H W"] if planes else ["N S S", "N 1 S S", f"N {categories + 1} S S"]
    roles = [
        Role("boxes", ["N 4|5"], ("boxes", "pred_boxes"), whole=False),
        Role("labels", ["N"], ("labels", "classes", "pred_classes"), whole=True),
        Role("masks", maps, ("masks", "raw_masks", "pred_masks"), whole=False),
    ]
    # Without them they are the fifth column of the boxes.
    own = options.outputs.get("boxes")
    if not any(each.shape[1:] == (5,) and own in (None, each.name) for each in tensors):
        roles.append(Role("scores", ["N"], ("scores",), whole=False))
    # Open Model Zoo's graphs put out a TopK besides, for no use that is said.
    beside = [*sizes, *(each for each in tensors if each.name.startswith("TopK"))]
    return find_roles(tensors, roles, options.outputs, beside)


def _class_of_label(labels: Labels, count: int) -> Indices:
    """By label, the index of its category; -1 where it has none."""
    if labels != "coco91":
        return np.arange(-1 if labels == "one_based" else 0, count)
    if count != len(_COCO_IDS):
        raise ModelMismatch("its labels are COCO's ids", ["80 categories"], [f"{count} of them"])
    table = np.full(max(_COCO_IDS) + 1, -1)
    table[_COCO_IDS] = np.arange(count)
    return table


class MaskRcnnDecoder(NamedTuple):
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
        if "scores" not in self.outputs:  # Open Model Zoo fills up with rows of zeros
            rows = rows[boxes[rows].sum(axis=1, dtype=np.float64) > 0]
        boxes_image = frame.to_image(boxes[rows])
        found = Candidates(boxes_image, scores[rows], classes[rows], rows)
        masks_of = partial(self._pasted, masks, frame)
        return finished(found, boxes_image, frame, masks_of, wanted.max_detections)

    def _pasted(self, masks: Float32s, frame: Frame, found: Candidates) -> list[Rle]:
        """The masks of some rows; only the maps that are pasted are copied."""
        height, width = frame.image_height, frame.image_width
        boxes, _, classes, rows = found
        if self.paste == "planes":
            return plane_masks(masks[:, :height, :width], rows.tolist(), boxes)
        # Of the maps of every class the background's is first.
        maps = masks[rows, classes + 1] if masks.ndim == 4 else masks[rows]
        if self.paste == "rounded":
            return rounded_masks(maps, boxes, height, width)
        return sampled_masks(maps, np.clip(boxes, 0, [width, height] * 2), height, width)

    def _rows(self, raw: Raw, frame: Frame) -> tuple[Float32s, Indices, Float32s, Float32s]:
        """The boxes (N, 4) in pixels of the input, classes (N,) or -1, scores (N,) and masks."""
        heads = read(raw, self.outputs)
        boxes, labels, masks = heads["boxes"], heads["labels"], heads["masks"]
        whole = frame.input_height, frame.input_width
        if (masks.shape[-2:] == whole) != (self.paste == "planes"):
            size = f"{whole[0]}×{whole[1]}"
            covers = f"masks {'' if self.paste == 'planes' else 'other than '}of {size}"
            raise ModelMismatch("its masks have another size", [covers], [f"masks {masks.shape}"])
        count = len(self.class_of_label)
        known = (labels >= 0) & (labels < count) & (labels == np.floor(labels))
        classes = self.class_of_label[np.where(known, labels, 0).astype(np.intp)]
        return boxes[:, :4], np.where(known, classes, -1), heads.get("scores", boxes[:, -1]), masks
