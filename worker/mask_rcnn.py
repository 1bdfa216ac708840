"""Mask R-CNN: raw outputs to Detections, in every form that its exporters publish.

Their graphs hold the suppression of overlapping boxes; what is left is to undo the resizing, to
number the classes and to paste the masks. How, follows from the outputs, which tell the exporter;
the card's `[decode]` table is for graphs that do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tasks.categories import coco80
from worker.detections import Detections, ModelMismatch
from worker.mask_rcnn_outputs import Outputs, Role, find_outputs
from worker.nms import total_order
from worker.pasting import plane_masks, rounded_masks, sampled_masks

if TYPE_CHECKING:
    from worker.intake import Intake
    from worker.preprocess import Frame
    from worker.runtimes import Tensor

Float32s = NDArray[np.float32]
Indices = NDArray[np.intp]
Labels = Literal["zero_based", "one_based", "coco91"]
Paste = Literal["rounded", "sampled"]

_COCO_IDS = [category.id for category in coco80()]


class MaskRcnnOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The card's `[decode]` table; what is not in it follows from the graph's outputs.

    labels: "one_based" has the background at 0; "coco91" are COCO's sparse ids of 80 categories.
    paste: "rounded" cuts boxes to whole pixels (> 0.5), "sampled" does not (>= 0.5).
    outputs: names, needed only where the graph's names and shapes leave a doubt.
    """

    labels: Labels | None = None
    paste: Paste | None = None
    outputs: dict[Role, str] = {}


def bind(
    outputs: Sequence[Tensor],
    options_table: Mapping[str, object],
    category_count: int,
    intake: Intake,
) -> MaskRcnnDecoder:
    """The decoder of a graph with these outputs; raises ModelMismatch where they do not fit."""
    found = [str(tensor) for tensor in outputs]
    try:
        options = msgspec.convert(options_table, MaskRcnnOptions)
    except msgspec.ValidationError as exc:
        reason = f"its [decode] table is not valid ({exc})"
        raise ModelMismatch(reason, MaskRcnnOptions.__struct_fields__, list(options_table)) from exc
    bound = find_outputs(outputs, category_count, options.outputs)
    # torchvision's masks cover the image, all others their box.
    native = intake.spec.fit == "native" and None in bound.side
    planes = native and bound.channels == 1 and not bound.detectron2
    if bound.side == intake.size or (planes and options.paste is not None):
        expected = ['input.fit = "native" with a graph that leaves its size open, no decode.paste']
        raise ModelMismatch("its masks cover the whole input", expected, found)
    labels: Labels = "one_based"
    if bound.detectron2 or bound.scores is None:  # the latter is Open Model Zoo since 2020
        labels = "zero_based"
    elif planes and category_count == len(_COCO_IDS):  # as torchvision's authors trained it
        labels = "coco91"
    paste = options.paste or ("sampled" if bound.detectron2 else "rounded")
    table = _class_of_label(options.labels or labels, category_count)
    return MaskRcnnDecoder(bound, table, "planes" if planes else paste)


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

    def __call__(
        self,
        raw: Mapping[str, NDArray[np.floating]],
        frame: Frame,
        threshold: float | None = None,
        max_detections: int | None = None,
        keep_classes: frozenset[int] | None = None,
    ) -> Detections:
        """The detections of one image.

        `threshold` leaves out what scores below it, `keep_classes` every other class, before the
        best `max_detections` are taken. Rows that are no detection take no place: padding, labels
        without a category, scores or boxes that are not finite, boxes without area in the image.
        """
        height, width = frame.image_height, frame.image_width
        boxes, classes, scores, masks = self._rows(raw, frame)
        usable = (classes >= 0) & np.isfinite(scores) & np.isfinite(boxes).all(axis=1)
        if threshold is not None:
            usable &= scores.astype(np.float64) >= threshold
        if keep_classes is not None:
            usable &= np.isin(classes, list(keep_classes))
        rows = np.flatnonzero(usable)
        if self.outputs.scores is None:  # Open Model Zoo fills up with rows of zeros
            rows = rows[boxes[rows].sum(axis=1, dtype=np.float64) > 0]
        image_boxes = frame.to_image(boxes[rows])
        clipped = np.clip(image_boxes, 0, [width, height, width, height])
        solid = np.flatnonzero((clipped[:, 2:] > clipped[:, :2]).all(axis=1))
        order = total_order(clipped[solid], scores[rows[solid]], classes[rows[solid]])
        place = solid[order][:max_detections]
        rows, image_boxes, clipped = rows[place], image_boxes[place], clipped[place]

        if self.paste == "planes":
            made = plane_masks(masks[:, 0, :height, :width], rows.tolist(), image_boxes)
        else:  # only the maps that are pasted are copied: of all classes the background is first
            every_class = (self.outputs.channels or 1) > 1
            maps = masks[rows, classes[rows] + 1] if every_class else masks[rows]
            maps = maps[:, 0] if maps.ndim == 4 else maps
            if self.paste == "sampled":
                made = sampled_masks(maps, clipped, height, width)
            else:
                made = rounded_masks(maps, image_boxes, height, width)
        kept = [index for index, mask in enumerate(made) if mask.area]
        return Detections(
            boxes=clipped[kept],
            scores=scores[rows[kept]].astype(np.float64),
            classes=classes[rows[kept]].astype(np.int64),
            masks=tuple(made[index] for index in kept),
            height=height,
            width=width,
            dropped=len(made) - len(kept),
        )

    def _rows(
        self, raw: Mapping[str, NDArray[np.floating]], frame: Frame
    ) -> tuple[Float32s, Indices, Float32s, Float32s]:
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
