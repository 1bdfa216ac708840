"""YOLACT and YOLACT-Edge: raw outputs to Detections, in every published form of the graph.

A card's `[decode]` table says what the graph leaves to us. The defaults are the authors' own
evaluation: anchors with a class over 0.05, Fast NMS per class, the best 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.binding import Count, Part, Table, Tensors, options_of
from worker.detections import Detections, Indices, ModelMismatch, Raw, chosen, finished
from worker.intake import Intake
from worker.masks import prototype_masks
from worker.nms import fast_nms, greedy_nms
from worker.preprocess import Frame
from worker.rle import Rle
from worker.yolact_outputs import Head, Outputs, find_outputs

Float32s = NDArray[np.float32]
Positives = Annotated[tuple[Annotated[float, msgspec.Meta(gt=0)], ...], msgspec.Meta(min_length=1)]

# The finest prediction level is at an eighth of the input, each further one at half the last.
_FINEST_STRIDE = 8
_VARIANCES = np.array([0.1, 0.1, 0.2, 0.2], dtype=np.float32)


class YolactOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The card's `[decode]` table."""

    boxes: Literal["decoded", "loc"] = "decoded"
    scores: Literal["probabilities", "logits"] = "probabilities"
    nms: Literal["fast", "per_class", "agnostic"] = "fast"
    nms_iou: Part = 0.5
    score_threshold: Part = 0.05
    top_k: Count = 200
    max_detections: Count = 100
    # Names of outputs, needed only where their shapes leave a doubt.
    outputs: dict[Head, str] = {}
    # For "loc" in a graph that does not put out its priors: one scale (pixels of the input) per
    # level, and the ratios at each.
    prior_scales: Positives = (24, 48, 96, 192, 384)
    prior_ratios: Positives = (1, 0.5, 2)


def bind(outputs: Tensors, table: Table, categories: int, intake: Intake) -> YolactDecoder:
    """The decoder of a graph with these outputs; raises ModelMismatch where they do not fit."""
    found = [str(tensor) for tensor in outputs]
    options = options_of(YolactOptions, table)
    bound = find_outputs(outputs, categories, options.outputs, options.boxes == "loc")
    if options.scores == "logits" and not bound.background:
        expected = [f"scores of {categories + 1} classes"]
        raise ModelMismatch("logits need their background for the softmax", expected, found)
    if intake.spec.fit != "stretch" or intake.size is None:
        expected = ['input.fit = "stretch"']
        raise ModelMismatch("its boxes are parts of a stretched picture", expected, found)
    if options.boxes == "decoded" or bound.priors is not None:
        return YolactDecoder(options, bound, None)
    priors = make_priors(intake.size, options.prior_scales, options.prior_ratios)
    anchors = {each.name: each.shape for each in outputs}[bound.boxes][1]
    if anchors not in (None, len(priors)):
        expected = [f"{len(priors)} anchors for an input of {intake.size[0]}×{intake.size[1]}"]
        raise ModelMismatch("its priors are others than the card's", expected, found)
    return YolactDecoder(options, bound, priors)


def make_priors(
    input_hw: tuple[int, int], scales: Sequence[float], ratios: Sequence[float]
) -> Float32s:
    """(N, 4) centre x, centre y, width, height as parts of the input; by level, row, column, ratio.

    The height is the width: YOLACT trained with that slip and kept it.
    """
    levels = []
    for level, scale in enumerate(scales):
        rows, columns = (math.ceil(side / (_FINEST_STRIDE << level)) for side in input_hw)
        y, x, ratio = np.meshgrid(
            (np.arange(rows) + 0.5) / rows,
            (np.arange(columns) + 0.5) / columns,
            np.sqrt(ratios),
            indexing="ij",
        )
        side = scale * ratio / input_hw[1]
        levels.append(np.stack([x, y, side, side], axis=-1).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


@dataclass(frozen=True, eq=False)
class YolactDecoder:
    options: YolactOptions
    outputs: Outputs
    priors: Float32s | None  # where the graph gives offsets but no priors

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
        `keep_classes` are the classes that may take one of the `max_detections` places. What
        another class suppresses (nms = "agnostic") it suppresses whether it is kept or not.
        """
        limit = self.options.max_detections if max_detections is None else max_detections
        every_box, every_score, every_coefficient, prototypes = self._heads(raw)
        anchors, scores = self._candidates(every_score, threshold)
        boxes = self._boxes(every_box[anchors], anchors, raw)
        row, classes = self._suppress(boxes, scores, threshold, limit, keep_classes)
        boxes, coefficients = boxes[row], every_coefficient[anchors[row]]
        size = frame.image_height, frame.image_width
        # Those that are not finite make an empty mask, as zeros do.
        finite = np.isfinite(coefficients).all(axis=1, keepdims=True)
        coefficients = np.where(finite, coefficients, np.float32(0))

        def masks_of(places: Indices) -> list[Rle]:
            return prototype_masks(prototypes, coefficients[places], boxes[places], *size)

        corners = boxes.astype(np.float64).reshape(-1, 2, 2) * size[::-1]
        boxes_image = np.hstack([corners.min(axis=1), corners.max(axis=1)])
        return finished(boxes_image, scores[row, classes], classes, frame, masks_of)

    def _heads(self, raw: Raw) -> tuple[Float32s, Float32s, Float32s, Float32s]:
        """Boxes, scores, coefficients (N, …) and prototypes (P, Q, K), as views."""
        boxes, scores, coefficients, prototypes = (
            np.asarray(raw[name][0], dtype=np.float32) for name in self.outputs[:4]
        )
        scores = scores.T if self.outputs.scores_turned else scores
        if self.outputs.prototypes_turned:
            prototypes = np.moveaxis(prototypes, 0, 2)
        priors = self._priors(raw)
        counts = {len(each) for each in (boxes, scores, coefficients)}
        if len(counts if priors is None else counts | {len(priors)}) > 1:
            found = [f"{name} {raw[name].shape}" for name in raw]
            expected = ["one number of anchors in all of them"]
            raise ModelMismatch("its outputs do not belong together", expected, found)
        return boxes, scores, coefficients, prototypes

    def _priors(self, raw: Raw) -> Float32s | None:
        if self.outputs.priors is None:
            return self.priors
        return np.asarray(raw[self.outputs.priors], dtype=np.float32).reshape(-1, 4)

    def _candidates(self, scores: Float32s, threshold: float | None) -> tuple[Indices, Float32s]:
        """Anchors with a class over the card's threshold, and their (A, C) probabilities.

        A score that is not finite counts as none: it is minus infinity here.
        """
        least = np.float32(self.options.score_threshold)
        level = least if threshold is None else max(np.float32(threshold), least)
        if self.options.scores == "logits":
            # A class's probability is below exp(its logit - the background's), so few anchors
            # need a softmax; the small change is for rounding.
            with np.errstate(divide="ignore", invalid="ignore"):
                over = scores[:, 1:] >= scores[:, :1] + (np.log(level) - np.float32(1e-3))
        else:
            scores = scores[:, 1:] if self.outputs.background else scores
            over = scores >= level
        anchors = np.flatnonzero(over.any(axis=1))
        rows = scores[anchors]
        if self.options.scores == "logits":
            rows = _softmax(rows)[:, 1:]
        rows = np.where(np.isfinite(rows), rows, -np.inf)
        over = rows.max(axis=1, initial=-np.inf) > least
        return anchors[over], rows[over]

    def _boxes(self, boxes: Float32s, anchors: Indices, raw: Raw) -> Float32s:
        """(A, 4) xyxy as parts of the image, unclipped."""
        priors = self._priors(raw)
        if priors is None:
            return boxes
        priors = priors[anchors]
        with np.errstate(over="ignore", invalid="ignore"):
            offsets = boxes * _VARIANCES
            centre = priors[:, :2] + offsets[:, :2] * priors[:, 2:]
            size = priors[:, 2:] * np.exp(offsets[:, 2:])
            corner = centre - size / 2
            return np.hstack([corner, corner + size])

    def _suppress(
        self,
        boxes: Float32s,
        scores: Float32s,
        threshold: float | None,
        limit: int,
        keep_classes: frozenset[int] | None,
    ) -> tuple[Indices, Indices]:
        """Rows and classes of the (A, C) scores that are left, in total order."""
        options = self.options
        across = options.nms == "agnostic"
        classes = np.arange(scores.shape[1])
        # A candidate's fate depends only on better ones, so the threshold may come first.
        candidates = chosen(scores, classes, threshold, None if across else keep_classes)
        if options.nms != "fast":
            candidates &= scores > np.float32(options.score_threshold)
        if across:
            candidates &= classes == scores.argmax(axis=1)[:, np.newaxis]
        row, column = np.nonzero(candidates)
        found = boxes[row], scores[row, column], column
        if options.nms == "fast":
            left = fast_nms(*found, iou=options.nms_iou, top_k=options.top_k, limit=limit)
        elif keep_classes is None or not across:
            left = greedy_nms(*found, iou=options.nms_iou, limit=limit, across_classes=across)
        else:
            left = greedy_nms(*found, iou=options.nms_iou, limit=None, across_classes=True)
            left = left[np.isin(column[left], list(keep_classes))][:limit]
        return row[left], column[left]


def _softmax(logits: Float32s) -> Float32s:
    with np.errstate(invalid="ignore"):
        parts = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        total: Float32s = parts / parts.sum(axis=1, keepdims=True)
        return total
