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

from typing import Literal, NamedTuple

import msgspec
import numpy as np

from worker.binding import Count, Outputs, Part, Role, Table, Tensors, find_roles, options_of, read
from worker.detections import ALL, Candidates, Detections, Frame, Raw, Wanted, finished
from worker.intake import Intake
from worker.masks import Making, Resizing, prototype_steps, resized_masks
from worker.nms import greedy_nms, total_order
from worker.rle import Float32s, Rle

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


def bind(outputs: Tensors, table: Table, categories: int, intake: Intake) -> "YoloDecoder":
    """The decoder of a graph with these outputs; raises ModelMismatch where they do not fit."""
    options = options_of(YoloOptions, table)
    # K coefficients follow: raw cx, cy, w, h and each class's score; else x1, y1, x2, y2, score
    # and class. With two classes both have as many columns, but raw ones are rarely written so.
    wide = 4 + categories
    raw: dict[str, Form] = {f"1 N K+{wide}": "raw", f"1 K+{wide} N": "raw"}
    ends: dict[str, Form] = {"1 N K+6": "end_to_end"}
    forms = {"raw": raw, "end_to_end": ends, None: raw | ends}[options.predictions]
    # A prototype has rows and columns last, or as TensorFlow has them.
    roles = Role("predictions", list(forms)), Role("prototypes", ["1 K P Q", "1 P Q K"])
    found = find_roles(outputs, roles, {})
    cells = dict(found["prototypes"].axes)
    if intake.size:
        prototype_steps(intake.size, [cells["P"] or 1, cells["Q"] or 1])
    form = list(forms.values())[found["predictions"].way]
    return YoloDecoder(options, found, form, categories)


class YoloDecoder(NamedTuple):
    options: YoloOptions
    outputs: Outputs
    form: Form
    categories: int

    def __call__(self, raw: Raw, frame: Frame, wanted: Wanted = ALL) -> Detections:
        """The detections of one image."""
        options = self.options
        limit = options.max_detections if wanted.max_detections is None else wanted.max_detections
        raw_form = self.form == "raw"
        predictions, prototypes = read(raw, self.outputs).values()  # (N, F), (K, P, Q)
        size = (frame.input_width, frame.input_height) if options.boxes == "normalised" else (1, 1)
        unit = np.array(size * 2, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            found = (self._candidates if raw_form else self._listed)(predictions, unit, wanted)
        # What becomes of a candidate depends only on better ones, so choosing may come first.
        kept = wanted.passing(found.scores, found.classes)
        found = found.at(np.flatnonzero(kept & np.isfinite(found.boxes).all(axis=1)))
        found = found.at(total_order(*found[:3])[: options.max_candidates if raw_form else limit])
        if raw_form:
            found = found.at(greedy_nms(found[:3], iou=options.nms_iou, limit=limit))

        def masks_of(kept: Candidates) -> list[Rle]:
            chosen = predictions[kept.rows, -len(prototypes) :], kept.boxes
            return resized_masks(prototypes, *chosen, frame, options.masks, options.resize)

        return finished(found, frame.to_image(found.boxes), frame, masks_of)

    def _listed(self, predictions: Float32s, unit: Float32s, wanted: Wanted) -> Candidates:
        """The rows over the threshold of an end-to-end graph: box, score, class, coefficients."""
        least = np.float32(self.options.score_threshold)
        rows, scores = wanted.rows_over(predictions[:, 4:5], least)
        classes = predictions[rows, 5]
        known = (classes >= 0) & (classes < self.categories) & (classes == np.floor(classes))
        classes = np.where(known, classes, -1).astype(np.intp)
        return Candidates(predictions[rows, :4] * unit, scores[:, 0], classes, rows)

    def _candidates(self, predictions: Float32s, unit: Float32s, wanted: Wanted) -> Candidates:
        """The anchors and classes over the threshold."""
        least = np.float32(self.options.score_threshold)
        rows, scores = wanted.rows_over(predictions[:, 4 : 4 + self.categories], least)
        over = scores > least
        if not self.options.multi_label:
            over &= np.arange(self.categories) == scores.argmax(axis=1)[:, np.newaxis]
        place, classes = np.nonzero(over)
        boxes = predictions[rows[place], :4] * unit  # centre and size
        half = boxes[:, 2:] / 2
        boxes = np.hstack([boxes[:, :2] - half, boxes[:, :2] + half])
        return Candidates(boxes, scores[place, classes], classes, rows[place])
