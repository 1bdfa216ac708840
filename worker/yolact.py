"""YOLACT and YOLACT-Edge: raw outputs to Detections, in every published form of the graph.

A card's `[decode]` table says what the graph leaves to us. The defaults are the authors' own
evaluation: anchors with a class over 0.05, Fast NMS per class, the best 100.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.detections import Detections, ModelMismatch
from worker.masks import prototype_masks
from worker.nms import fast_nms, greedy_nms, total_order
from worker.yolact_outputs import Outputs, Role, find_outputs

if TYPE_CHECKING:
    from worker.intake import Intake
    from worker.preprocess import Frame
    from worker.runtimes import Tensor

Float32s = NDArray[np.float32]
Indices = NDArray[np.intp]

Part = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
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
    outputs: dict[Role, str] = {}
    # For "loc" in a graph that does not put out its priors: one scale (pixels of the input) per
    # level, and the ratios at each.
    prior_scales: Positives = (24, 48, 96, 192, 384)
    prior_ratios: Positives = (1, 0.5, 2)


def bind(
    outputs: Sequence[Tensor],
    options_table: Mapping[str, object],
    category_count: int,
    intake: Intake,
) -> YolactDecoder:
    """The decoder of a graph with these outputs; raises ModelMismatch where they do not fit."""
    found = [str(tensor) for tensor in outputs]
    try:
        options = msgspec.convert(options_table, YolactOptions)
    except msgspec.ValidationError as exc:
        reason = f"its [decode] table is not valid ({exc})"
        raise ModelMismatch(reason, YolactOptions.__struct_fields__, list(options_table)) from exc
    bound = find_outputs(outputs, category_count, options.outputs, options.boxes == "loc")
    if options.scores == "logits" and not bound.scores.background:
        expected = [f"scores of {category_count + 1} classes"]
        raise ModelMismatch("logits need their background for the softmax", expected, found)
    if intake.spec.fit != "stretch" or intake.size is None:
        expected = ['input.fit = "stretch"']
        raise ModelMismatch("its boxes are parts of a stretched picture", expected, found)
    if options.boxes == "decoded" or bound.priors is not None:
        return YolactDecoder(options, bound, None)
    priors = make_priors(intake.size, options.prior_scales, options.prior_ratios)
    if bound.boxes.anchors not in (None, len(priors)):
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
        raw: Mapping[str, NDArray[np.floating]],
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
        heads = self._heads(raw)
        floor = _float32_from(threshold) if threshold is not None else None
        anchors, scores = self._candidates(heads.scores, floor)
        boxes = self._boxes(heads, anchors)
        row, classes = self._suppress(boxes, scores, floor, limit, keep_classes)
        return _restore(
            boxes[row],
            scores[row, classes],
            classes,
            heads.coefficients[anchors[row]],
            heads.prototypes,
            frame,
        )

    def _heads(self, raw: Mapping[str, NDArray[np.floating]]) -> _Heads:
        """The outputs without the batch axis, as (anchors, …) and (P, Q, K) views."""
        boxes, scores, coefficients, prototypes = (
            np.asarray(raw[reading.name][0], dtype=np.float32) for reading in self.outputs[:4]
        )
        scores = scores.T if self.outputs.scores.turned else scores
        if self.outputs.prototypes.turned:
            prototypes = np.moveaxis(prototypes, 0, 2)
        priors = self.priors
        if self.outputs.priors is not None:
            priors = np.asarray(raw[self.outputs.priors], dtype=np.float32).reshape(-1, 4)
        counts = [len(each) for each in (boxes, scores, coefficients)]
        if len({*counts, len(boxes if priors is None else priors)}) > 1:
            found = [f"{name} {raw[name].shape}" for name in raw]
            expected = ["one number of anchors in all of them"]
            raise ModelMismatch("its outputs do not belong together", expected, found)
        return _Heads(boxes, scores, coefficients, prototypes, priors)

    def _candidates(self, scores: Float32s, floor: np.float32 | None) -> tuple[Indices, Float32s]:
        """Anchors with a class over the card's threshold, and their (A, C) probabilities.

        A score that is not finite counts as none: it is minus infinity here.
        """
        least = np.float32(self.options.score_threshold)
        level = least if floor is None else max(floor, least)
        if self.options.scores == "logits":
            # A class's probability is below exp(its logit - the background's), so few anchors
            # need a softmax; the small change is for rounding.
            with np.errstate(divide="ignore", invalid="ignore"):
                over = scores[:, 1:] >= scores[:, :1] + (np.log(level) - np.float32(1e-3))
        else:
            scores = scores[:, 1:] if self.outputs.scores.background else scores
            over = scores >= level
        anchors = np.flatnonzero(over.any(axis=1))
        rows = scores[anchors]
        if self.options.scores == "logits":
            rows = _softmax(rows)[:, 1:]
        rows = np.where(np.isfinite(rows), rows, -np.inf)
        chosen = rows.max(axis=1, initial=-np.inf) > least
        return anchors[chosen], rows[chosen]

    def _boxes(self, heads: _Heads, anchors: Indices) -> Float32s:
        """(A, 4) xyxy as parts of the image, unclipped."""
        boxes = heads.boxes[anchors]
        if self.options.boxes == "decoded" or heads.priors is None:
            return boxes
        priors = heads.priors[anchors]
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
        floor: np.float32 | None,
        limit: int,
        keep_classes: frozenset[int] | None,
    ) -> tuple[Indices, Indices]:
        """Rows and classes of the (A, C) scores that are left, in total order."""
        options = self.options
        wanted = np.isin(np.arange(scores.shape[1]), list(keep_classes or ()))
        wanted |= keep_classes is None
        # A candidate's fate depends only on better ones, so the floor may come first.
        candidates = np.isfinite(scores) if floor is None else scores >= floor
        if options.nms != "fast":
            candidates &= scores > np.float32(options.score_threshold)
        if options.nms == "agnostic":
            best = scores.argmax(axis=1)
            row = np.flatnonzero(candidates[np.arange(len(scores)), best])
            column = best[row]
            left = greedy_nms(
                boxes[row],
                scores[row, column],
                column,
                iou=options.nms_iou,
                limit=limit if wanted.all() else None,
                across_classes=True,
            )
            left = left[wanted[column[left]]][:limit]
            return row[left], column[left]
        row, column = np.nonzero(candidates & wanted)
        found = boxes[row], scores[row, column], column
        if options.nms == "fast":
            left = fast_nms(*found, iou=options.nms_iou, top_k=options.top_k, limit=limit)
        else:
            left = greedy_nms(*found, iou=options.nms_iou, limit=limit)
        return row[left], column[left]


@dataclass(frozen=True, eq=False)
class _Heads:
    boxes: Float32s  # (N, 4)
    scores: Float32s  # (N, C), or with the background (N, C + 1)
    coefficients: Float32s  # (N, K)
    prototypes: Float32s  # (P, Q, K)
    priors: Float32s | None  # (N, 4)


def _restore(
    boxes: Float32s,
    scores: Float32s,
    classes: Indices,
    coefficients: Float32s,
    prototypes: Float32s,
    frame: Frame,
) -> Detections:
    """Detections in image pixels: boxes clipped, without area dropped; masks made, empty dropped.

    A detection whose coefficients are not finite has no mask, and counts among the empty ones.
    """
    height, width = frame.image_height, frame.image_width
    corners = boxes.astype(np.float64).reshape(-1, 2, 2) * [width, height]
    image_boxes = np.hstack([corners.min(axis=1), corners.max(axis=1)])
    image_boxes = np.clip(image_boxes, 0, [width, height, width, height])
    solid = (image_boxes[:, 2:] > image_boxes[:, :2]).all(axis=1)
    order = np.flatnonzero(solid)
    order = order[total_order(image_boxes[order], scores[order], classes[order])]
    finite = order[np.isfinite(coefficients[order]).all(axis=1)]
    masks = prototype_masks(prototypes, coefficients[finite], boxes[finite], height, width)
    seen = [place for place, mask in enumerate(masks) if mask.area]
    kept = finite[seen]
    return Detections(
        boxes=image_boxes[kept],
        scores=scores[kept].astype(np.float64),
        classes=classes[kept].astype(np.int64),
        masks=tuple(masks[place] for place in seen),
        height=height,
        width=width,
        dropped=len(order) - len(kept),
    )


def _softmax(logits: Float32s) -> Float32s:
    with np.errstate(invalid="ignore"):
        parts = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        total: Float32s = parts / parts.sum(axis=1, keepdims=True)
        return total


def _float32_from(threshold: float) -> np.float32:
    """The least float32 not under a float64, so that both let the same scores through."""
    near: np.float32 = np.float32(threshold)
    above: np.float32 = np.nextafter(near, np.float32(np.inf))
    return near if float(near) >= threshold else above
