"""YOLACT and YOLACT-Edge: raw outputs to Detections, in every published form of the graph.

A card's `[decode]` table says what the graph leaves to us. The defaults are the authors' own
evaluation: anchors with a class over 0.05, Fast NMS per class, the best 100.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np

from tasks.graph_file import Tensor
from worker.binding import Count, Outputs, Part, Role, Table, Tensors, find_roles, options_of, read
from worker.detections import ALL, Candidates, Detections, Frame, Raw, Wanted, finished
from worker.intake import Intake
from worker.masks import prototype_masks
from worker.nms import fast_nms, greedy_nms
from worker.rle import Float32s, Indices, Rle

Head = Literal["boxes", "scores", "coefficients", "prototypes", "priors"]
Positives = Annotated[tuple[Annotated[float, msgspec.Meta(gt=0)], ...], msgspec.Meta(min_length=1)]

# The finest prediction level is at an eighth of the input, each further one at half the last.
_FINEST_STRIDE = 8
_MADE = "priors made of prior_scales and prior_ratios"
_VARIANCES = np.array([0.1, 0.1, 0.2, 0.2], dtype=np.float32)


class YolactOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The card's `[decode]` table."""

    boxes: Literal["decoded", "loc"] = "decoded"  # "loc" are offsets from priors
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


def bind(outputs: Tensors, table: Table, categories: int, intake: Intake) -> "YolactDecoder":
    """The decoder of a graph with these outputs; raises ModelMismatch where they do not fit."""
    options = options_of(YolactOptions, table)
    intake.check_stretched(outputs)
    named, made, raw_boxes = options.outputs, {}, options.boxes == "loc"
    fours = [each for each in outputs if each.shape[-1:] == (4,)]
    priors = [each.name for each in fours if len(each.shape) == 2 or "prior" in each.name.lower()]
    if raw_boxes and intake.size and not (priors or "priors" in named):
        made = {_MADE: make_priors(intake.size, options.prior_scales, options.prior_ratios)}
        outputs = [*outputs, Tensor(_MADE, made[_MADE].shape, "float32")]
        named = {**named, "priors": _MADE}
    classes = f"{categories}|{categories + 1}"  # with the background, which is first
    roles = (
        Role("boxes", ["1 N 4"]),
        Role("scores", [f"1 N {classes}", f"1 {classes} N"]),
        Role("coefficients", ["1 N K"]),
        Role("prototypes", ["1 P Q K", "1 K P Q"]),
        Role("priors", ["N 4", "1 N 4"], priors),
    )
    found = find_roles(outputs, roles if raw_boxes else roles[:4], named)
    return YolactDecoder(options, found, categories, made)


def make_priors(
    input_hw: tuple[int, int], scales: Sequence[float], ratios: Sequence[float]
) -> Float32s:
    """(N, 4) centre x, centre y, width, height as parts of the input; by level, row, column, ratio.

    The height is the width: YOLACT trained with that slip and kept it.
    """
    levels = []
    for level, scale in enumerate(scales):
        rows, columns = (math.ceil(side / (_FINEST_STRIDE << level)) for side in input_hw)
        centres = (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns
        y, x, ratio = np.meshgrid(*centres, np.sqrt(ratios), indexing="ij")
        side = scale * ratio / input_hw[1]
        levels.append(np.stack([x, y, side, side], axis=-1).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


class YolactDecoder(NamedTuple):
    options: YolactOptions
    outputs: Outputs
    categories: int
    made: Raw  # beside what the graph puts out

    def __call__(self, raw: Raw, frame: Frame, wanted: Wanted = ALL) -> Detections:
        """The detections of one image. What a class that is not kept suppresses across classes
        (nms = "agnostic") it suppresses all the same."""
        heads = read({**raw, **self.made}, self.outputs)
        every_score = heads["scores"][:, -self.categories :]
        least = np.float32(self.options.score_threshold)
        anchors, scores = wanted.rows_over(every_score, least)
        boxes = heads["boxes"][anchors]
        if "priors" in heads:
            boxes = _decoded(boxes, heads["priors"][anchors])
        found = self._suppress(boxes, scores, anchors, wanted)
        size = frame.image_height, frame.image_width

        def masks_of(kept: Candidates) -> list[Rle]:
            chosen = heads["coefficients"][kept.rows], kept.boxes
            return prototype_masks(heads["prototypes"], *chosen, *size)

        corners = found.boxes.astype(np.float64).reshape(-1, 2, 2) * size[::-1]
        boxes_image = np.hstack([corners.min(axis=1), corners.max(axis=1)])
        return finished(found, boxes_image, frame, masks_of)

    def _suppress(
        self, boxes: Float32s, scores: Float32s, anchors: Indices, wanted: Wanted
    ) -> Candidates:
        """What of the (A, C) scores of some anchors is left, in total order."""
        options, classes = self.options, np.arange(scores.shape[1])
        across = options.nms == "agnostic"
        # A candidate's fate depends only on better ones, so the threshold may come first.
        rivals = wanted._replace(keep_classes=None) if across else wanted
        candidates = rivals.passing(scores, classes)
        if options.nms != "fast":
            candidates &= scores > np.float32(options.score_threshold)
        if across:
            candidates &= classes == scores.argmax(axis=1)[:, np.newaxis]
        row, column = np.nonzero(candidates)
        found = Candidates(boxes[row], scores[row, column], column, anchors[row])
        limit = options.max_detections if wanted.max_detections is None else wanted.max_detections
        most = limit if rivals == wanted else None
        if options.nms == "fast":
            kept = fast_nms(found[:3], iou=options.nms_iou, top_k=options.top_k, limit=limit)
        else:
            kept = greedy_nms(found[:3], iou=options.nms_iou, limit=most, across=across)
        found = found.at(kept)
        return found.at(np.flatnonzero(wanted.passing(found.scores, found.classes))[:limit])


def _decoded(offsets: Float32s, priors: Float32s) -> Float32s:
    """(A, 4) xyxy as parts of the image, unclipped; priors: centre x, centre y, width, height."""
    with np.errstate(over="ignore", invalid="ignore"):
        offsets = offsets * _VARIANCES
        centre = priors[:, :2] + offsets[:, :2] * priors[:, 2:]
        size = priors[:, 2:] * np.exp(offsets[:, 2:])
        corner = centre - size / 2
        return np.hstack([corner, corner + size])
