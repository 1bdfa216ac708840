"""Ultralytics' -seg networks (YOLOv8, 11, 26): raw outputs to Detections.

The reference is the authors' own evaluation. It makes a mask at the size of the input, cuts the
letterbox off, and resizes that mask of zeros and ones to the image, bilinearly. `masks` says how
the first is made:

    upsampled      logits to the input's size, > 0, cut to the box there: the evaluation since
                   8.2.60, and since 2026 (#24463, #25298) what prediction does as well
    logits         logits cut to the box among the prototypes, to the input's size, > 0: what
                   prediction did before; masks bleed out of their boxes
    probabilities  the same with sigmoids, > 0.5: what it did up to 2024 (#13939)
    native         no mask at the input's size: logits without the letterbox straight to the image,
                   > 0, cut to the box there (`retina_masks`)

and `resize` how the second: "rounded", on from one half, as in 8.0 to 8.3.228, which the AP of
YOLOv8 and 11 comes from, or "truncated", on only where all that a pixel is interpolated from is,
as since 8.3.229 (#22651). The two are one where the content has the image's size.

The evaluation takes every class over 0.001 (multi_label, score_threshold), prediction the best one
over 0.25. Suppression is exact within each class; the authors shift boxes by 7680 pixels a class in
float32, which rounds them (to 1/16 at class 79), so pairs that overlap by about `nms_iou` may fare
otherwise there. A box cuts from x1 to before x2 (CPU code before #24988 rounded few masks' edges).

Exact means: where a logit in the input is within float32 rounding of 0 (1e-6 of the sum of its
parts' sizes), its pixel and those of the image made from it may differ, and no others do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.detections import Detections, ModelMismatch
from worker.nms import greedy_nms, total_order
from worker.yolo_masks import Making, Resizing, native_masks, prototype_steps, resized_masks
from worker.yolo_outputs import Form, Outputs, find_outputs

if TYPE_CHECKING:
    from worker.intake import Intake
    from worker.preprocess import Frame
    from worker.runtimes import Tensor

Float32s = NDArray[np.float32]
Indices = NDArray[np.intp]

Part = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class YoloOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The card's `[decode]` table."""

    predictions: Form | None = None  # needed only where their shape leaves a doubt
    boxes: Literal["pixels", "normalised"] = "pixels"  # of the input, or as parts of it
    score_threshold: Part = 0.25
    multi_label: bool = False  # every class over the threshold, as in the evaluation, not the best
    nms_iou: Part = 0.7
    max_candidates: Count = 30_000
    max_detections: Count = 300
    masks: Making = "upsampled"
    resize: Resizing = "rounded"


def bind(
    outputs: Sequence[Tensor],
    options_table: Mapping[str, object],
    category_count: int,
    intake: Intake,
) -> YoloDecoder:
    """The decoder of a graph with these outputs; raises ModelMismatch where they do not fit."""
    try:
        options = msgspec.convert(options_table, YoloOptions)
    except msgspec.ValidationError as exc:
        reason = f"its [decode] table is not valid ({exc})"
        raise ModelMismatch(reason, YoloOptions.__struct_fields__, list(options_table)) from exc
    bound = find_outputs(outputs, category_count, options.predictions)
    if options.masks == "native" and intake.spec.fit != "letterbox":
        reason = 'masks = "native" undoes a letterbox'
        raise ModelMismatch(reason, ['input.fit = "letterbox"'], [f'"{intake.spec.fit}"'])
    if intake.size:
        prototype_steps(intake.size, [cells or 1 for cells in bound.cells])
    return YoloDecoder(options, bound, category_count)


class _Found(NamedTuple):
    """N candidates, in parallel."""

    boxes: Float32s  # (N, 4) xyxy, pixels of the input
    scores: Float32s
    classes: Indices
    rows: Indices  # of the predictions

    def at(self, places: Indices) -> _Found:
        boxes, scores, classes, rows = self
        return _Found(boxes[places], scores[places], classes[places], rows[places])


@dataclass(frozen=True, eq=False)
class YoloDecoder:
    options: YoloOptions
    outputs: Outputs
    categories: int

    def __call__(
        self,
        raw: Mapping[str, NDArray[np.floating]],
        frame: Frame,
        threshold: float | None = None,
        max_detections: int | None = None,
        keep_classes: frozenset[int] | None = None,
    ) -> Detections:
        """The detections of one image.

        `threshold` leaves out what scores below it, as if filtered from the answer.
        `keep_classes` are the classes that may take one of the `max_detections` places.
        """
        limit = self.options.max_detections if max_detections is None else max_detections
        raw_form = self.outputs.form == "raw"
        predictions = np.asarray(raw[self.outputs.predictions][0], dtype=np.float32)
        predictions = predictions.T if self.outputs.turned else predictions  # (N, F)
        prototypes = np.asarray(raw[self.outputs.prototypes][0], dtype=np.float32)
        prototypes = np.moveaxis(prototypes, 2, 0) if self.outputs.deep else prototypes
        found = (self._candidates if raw_form else self._listed)(predictions, frame)
        kept = np.isfinite(found.scores) & np.isfinite(found.boxes).all(axis=1)
        if threshold is not None:  # what becomes of a candidate depends only on better ones
            kept &= found.scores.astype(np.float64) >= threshold
        if keep_classes is not None:
            kept &= np.isin(found.classes, list(keep_classes))
        found = found.at(np.flatnonzero(kept))
        most = self.options.max_candidates if raw_form else limit
        found = found.at(total_order(*found[:3])[:most])
        if raw_form:
            found = found.at(greedy_nms(*found[:3], iou=self.options.nms_iou, limit=limit))
        return self._restore(found, predictions, prototypes, frame)

    def _listed(self, predictions: Float32s, frame: Frame) -> _Found:
        """The rows over the threshold of an end-to-end graph: box, score, class, coefficients."""
        scores, classes = predictions[:, 4], predictions[:, 5]
        good = scores > np.float32(self.options.score_threshold)
        good &= (classes >= 0) & (classes < self.categories) & (classes == np.floor(classes))
        rows = np.flatnonzero(good)
        with np.errstate(over="ignore"):
            boxes = predictions[rows, :4] * self._unit(frame)
        return _Found(boxes, scores[rows], classes[rows].astype(np.intp), rows)

    def _candidates(self, predictions: Float32s, frame: Frame) -> _Found:
        """The anchors and classes over the threshold; a score that is not finite is none."""
        least = np.float32(self.options.score_threshold)
        scores = predictions[:, 4 : 4 + self.categories]
        rows = np.flatnonzero((scores > least).any(axis=1))
        scores = np.where(np.isfinite(scores[rows]), scores[rows], -np.inf)
        over = scores > least
        if not self.options.multi_label:
            over &= np.arange(self.categories) == scores.argmax(axis=1)[:, np.newaxis]
        place, classes = np.nonzero(over)
        with np.errstate(over="ignore", invalid="ignore"):
            boxes = predictions[rows[place], :4] * self._unit(frame)  # centre and size
            half = boxes[:, 2:] / 2
            boxes = np.hstack([boxes[:, :2] - half, boxes[:, :2] + half])
        return _Found(boxes, scores[place, classes], classes, rows[place])

    def _unit(self, frame: Frame) -> Float32s:
        size = (frame.input_width, frame.input_height)
        return np.array((size if self.options.boxes == "normalised" else (1, 1)) * 2, np.float32)

    def _restore(
        self, found: _Found, predictions: Float32s, prototypes: Float32s, frame: Frame
    ) -> Detections:
        """Detections in image pixels: boxes clipped, without area dropped; masks made, empty
        dropped. Coefficients that are not finite make an empty one."""
        height, width = frame.image_height, frame.image_width
        boxes = np.clip(frame.to_image(found.boxes), 0, [width, height, width, height])
        order = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        order = order[total_order(boxes[order], found.scores[order], found.classes[order])]
        coefficients = predictions[found.rows[order], -len(prototypes) :]
        finite = np.isfinite(coefficients).all(axis=1)
        coefficients, shown = coefficients[finite], order[finite]
        if self.options.masks == "native":
            masks = native_masks(prototypes, coefficients, boxes[shown], frame)
        else:
            way = self.options.masks, self.options.resize
            masks = resized_masks(prototypes, coefficients, found.boxes[shown], frame, *way)
        seen = [place for place, mask in enumerate(masks) if mask.area]
        kept = shown[seen]
        return Detections(
            boxes=boxes[kept],
            scores=found.scores[kept].astype(np.float64),
            classes=found.classes[kept].astype(np.int64),
            masks=tuple(masks[place] for place in seen),
            height=height,
            width=width,
            dropped=len(order) - len(kept),
        )
