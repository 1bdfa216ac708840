"""Ultralytics' -seg networks (YOLOv8, 11, 26): raw outputs to Detections.

The reference is the authors' own evaluation. It makes a mask at the size of the input, cuts the
letterbox off, and resizes that mask of zeros and ones to the image, bilinearly. `masks` says how
the first is made:

    upsampled      logits to the input's size, > 0, cut to the box there: the evaluation since
                   8.2.60, and since 2026 (#24463, #25298) what prediction does as well
    logits         logits cut to the box among the prototypes, to the input's size, > 0: what
                   prediction did before; masks bleed out of their boxes
    probabilities  the same with sigmoids, > 0.5: what it did up to 2024 (#13939)

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

from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.binding import Count, Part, Role, Table, Tensors, options_of, ways_to_read
from worker.detections import Detections, Indices, ModelMismatch, Raw, chosen, finished
from worker.intake import Intake
from worker.nms import greedy_nms, total_order
from worker.preprocess import Frame
from worker.rle import Rle
from worker.yolo_masks import Making, Resizing, prototype_steps, resized_masks

Float32s = NDArray[np.float32]
Form = Literal["raw", "end_to_end"]


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


class Outputs(NamedTuple):
    predictions: str
    prototypes: str
    form: Form
    turned: bool  # predictions (1, F, N), their features before the anchors
    deep: bool  # prototypes (1, P, Q, K), as TensorFlow has them
    cells: tuple[int | None, ...]  # height and width of a prototype


def bind(outputs: Tensors, table: Table, categories: int, intake: Intake) -> YoloDecoder:
    """The decoder of a graph with these outputs; raises ModelMismatch where they do not fit."""
    options = options_of(YoloOptions, table)
    bound = _find_outputs(outputs, categories, options.predictions)
    if intake.size:
        prototype_steps(intake.size, [cells or 1 for cells in bound.cells])
    return YoloDecoder(options, bound, categories)


def _find_outputs(tensors: Tensors, categories: int, form: Form | None) -> Outputs:
    """The one way to read the graph's outputs; raises ModelMismatch where there is none."""
    # K coefficients follow: raw cx, cy, w, h and each class's score; else x1, y1, x2, y2, score
    # and class.
    wide = 4 + categories
    patterns = [f"1 K+{wide} N", f"1 N K+{wide}", "1 N K+6"]
    roles = Role("predictions", patterns), Role("prototypes", ["1 K P Q", "1 P Q K"])
    found: list[Outputs] = []
    for flat, planes in ways_to_read(tensors, roles, {}) if len(tensors) == 2 else ():
        kind: Form = "end_to_end" if flat.way == 2 else "raw"
        shape, deep = planes.tensor.shape, planes.way == 1
        cells = shape[1:3] if deep else shape[2:]
        if form in (None, kind):
            names = flat.tensor.name, planes.tensor.name
            found.append(Outputs(*names, kind, flat.way == 0, deep, cells))
    # With two classes both forms have as many columns, but raw ones are rarely written as columns.
    ends = [each for each in found if each.form == "end_to_end"]
    if len(ends) == 1 and not any(each.turned for each in found):
        found = ends
    if len(found) == 1:
        return found[0]
    reason = "its outputs can be read in two ways" if found else "its outputs have other shapes"
    raise ModelMismatch(reason, [str(role) for role in roles], [str(each) for each in tensors])


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
        raw: Raw,
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
        # What becomes of a candidate depends only on better ones, so choosing may come first.
        kept = chosen(found.scores, found.classes, threshold, keep_classes)
        found = found.at(np.flatnonzero(kept & np.isfinite(found.boxes).all(axis=1)))
        most = self.options.max_candidates if raw_form else limit
        found = found.at(total_order(*found[:3])[:most])
        if raw_form:
            found = found.at(greedy_nms(*found[:3], iou=self.options.nms_iou, limit=limit))
        coefficients = predictions[found.rows, -len(prototypes) :]
        # Those that are not finite make an empty mask, as zeros do.
        finite = np.isfinite(coefficients).all(axis=1, keepdims=True)
        coefficients = np.where(finite, coefficients, np.float32(0))
        way = self.options.masks, self.options.resize

        def masks_of(places: Indices) -> list[Rle]:
            boxes = found.boxes[places]
            return resized_masks(prototypes, coefficients[places], boxes, frame, *way)

        boxes_image = frame.to_image(found.boxes)
        return finished(boxes_image, found.scores, found.classes, frame, masks_of)

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
