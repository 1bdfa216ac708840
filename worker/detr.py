"""The DETR family: one mask per query, without suppression. Raw outputs to Detections.

DETR answers as its authors' PostProcessSegm does: of each query its best class, masks bilinear to
the padded input, over one half, cut to the picture, then nearest to the image. Mask2Former and
RF-DETR take the best of all queries and classes, as many as there are queries; Mask2Former weighs
a class with how sure its mask is on a plane of fixed size, and gets to the image by nearest, too.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import msgspec
import numpy as np

from tasks.categories import coco80
from worker.binding import Named, Outputs, Part, Role, Table, Tensors, find_roles, options_of, read
from worker.detections import ALL, Candidates, Detections, ModelMismatch, Raw, Wanted, finished
from worker.intake import Intake
from worker.nms import total_order
from worker.preprocess import Frame
from worker.rle import Bools, Float32s, Float64s, Indices, Ints, Rle
from worker.surfaces import Grid, half_pixel, surface_masks

Form = Literal["detr", "mask2former", "rf_detr"]
Head = Literal["logits", "masks", "boxes"]
Classes = Literal["sparse", "direct"]

# What exporters call them. Optimum leaves DETR's boxes out, Mask2Former has none.
_NAMES: dict[Form, dict[Head, tuple[str, ...]]] = {
    "mask2former": {"logits": ("class_queries_logits",), "masks": ("masks_queries_logits",)},
    "rf_detr": {"logits": ("labels",), "masks": ("masks",), "boxes": ("dets",)},
    "detr": {
        "logits": ("logits", "pred_logits"),
        "masks": ("pred_masks",),
        "boxes": ("pred_boxes",),
    },
}
_PATTERNS: dict[Head, str] = {"logits": "1 Q C", "masks": "1 Q P R", "boxes": "1 Q 4"}
# Columns over COCO's sparse ids: 0 to 90, or with the 250 of the panoptic heads stuff after them.
_SPARSE = (91, 250)
# Where a card says nothing: what each form's published post-processing keeps.
_SCORE_THRESHOLDS: dict[Form, float] = {"detr": 0, "mask2former": 0.5, "rf_detr": 0.3}
_MASK2FORMER_SIDE = 384  # fixed in its post-processing, whatever the input


class DetrOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The card's `[decode]` table: what names and sizes of the outputs do not tell."""

    form: Form | None = None
    classes: Classes | None = None
    score_threshold: Part | None = None
    outputs: dict[Head, str] = {}


def bind(outputs: Tensors, table: Table, categories: int, intake: Intake) -> "DetrDecoder":
    """The decoder of a graph with these outputs; raises ModelMismatch where they do not fit."""
    options = options_of(DetrOptions, table)
    form, bound = _find_outputs(outputs, options.form, options.outputs)
    if form == "rf_detr":
        intake.check_stretched(outputs)
    columns = dict(bound["logits"].axes)["C"] or 0
    classes = _classes_of_columns(columns, form, categories, options.classes, outputs)
    least = options.score_threshold
    least = _SCORE_THRESHOLDS[form] if least is None else least
    return DetrDecoder(form, bound, classes, np.float32(least))


def _find_outputs(outputs: Tensors, form: Form | None, named: Named) -> tuple[Form, Outputs]:
    """By the card's names, then by those of the first form that has both logits and masks here.

    Other outputs are let be: exporters add hidden states and auxiliary ones.
    """
    here = {tensor.name for tensor in outputs}
    for each in _NAMES if form is None else (form,):
        wanted: dict[Head, tuple[str, ...]] = _NAMES[each] | {r: (n,) for r, n in named.items()}
        names = {head: name for head, some in wanted.items() for name in some if name in here}
        own = form is not None or any(names[h] in _NAMES[each].get(h, ()) for h in names)
        if own and {"logits", "masks", *named} <= names.keys():
            roles = [Role(head, [_PATTERNS[head]]) for head in names]
            return each, find_roles(outputs, roles, names)
    known = [" and ".join(some[0] for some in names.values()) for names in _NAMES.values()]
    raise ModelMismatch("no form has outputs of these names", [*named.values(), *known], outputs)


def _classes_of_columns(
    columns: int, form: Form, category_count: int, kind: Classes | None, outputs: Tensors
) -> Indices:
    """(C,) the category of each class column, -1 where there is none, as for no object.

    The last column is that of no object; of RF-DETR it is a class of the published weights, and
    beside a user's own classes one that nothing trains.
    """
    coco = [each.id for each in coco80()]
    last = form != "rf_detr"
    if kind is None:
        sparse = category_count == len(coco) and columns - last in _SPARSE
        kind = "sparse" if sparse else "direct"
        exact = sparse or columns in (category_count + 1, category_count + last)
    else:
        exact = columns - last >= (coco[-1] + 1 if kind == "sparse" else category_count)
    if not exact or (kind == "sparse" and category_count != len(coco)):
        reason = f"{columns} class columns are neither its categories nor COCO's sparse ids"
        raise ModelMismatch(reason, [f"{category_count + last} columns"], outputs)
    classes = np.full(columns, -1)
    classes[coco if kind == "sparse" else slice(category_count)] = np.arange(category_count)
    return classes


class DetrDecoder(NamedTuple):
    form: Form
    outputs: Outputs
    classes: Indices  # (C,) the category of each class column, or -1
    least: np.float32

    def __call__(self, raw: Raw, frame: Frame, wanted: Wanted = ALL) -> Detections:
        """The detections of one image. A box that has no area in the image or is not finite is
        left out; a mask that is empty counts as dropped."""
        heads = read(raw, self.outputs)  # logits (Q, C), masks (Q, P, R), boxes (Q, 4)
        planes, grid = heads["masks"], self._grid(heads["masks"], frame)
        scores = self._scores(heads["logits"])
        passing = self._passing(scores, wanted)
        if self.form == "mask2former":  # a mask only lowers a score
            sure = np.ones((len(scores), 1), dtype=np.float32)
            for place in np.flatnonzero(passing.any(axis=1)):
                sure[place] = _certainty(planes[place])
            scores = np.where(passing, scores, 0) * sure
            passing &= self._passing(scores, wanted)
        query, column = np.nonzero(passing)
        # Without boxes the limit takes the lower class and query among equal scores.
        boxes = np.zeros((len(query), 4))
        found = Candidates(boxes, scores[query, column], self.classes[column], query)

        def masks_of(kept: Candidates) -> list[Rle]:
            queries, back = np.unique(kept.rows, return_inverse=True)
            masks = surface_masks([planes[each] for each in queries], grid)
            return [masks[each] for each in back]

        limit = wanted.max_detections
        if "boxes" in heads:
            boxes = _to_image(heads["boxes"][query], frame)
            return finished(found, boxes, frame, masks_of, limit)
        best = found.at(total_order(*found[:3])[:limit])
        masks = masks_of(best)
        best = best._replace(rows=np.arange(len(masks)))
        return finished(best, _filled(masks), frame, lambda kept: [masks[at] for at in kept.rows])

    def _scores(self, logits: Float32s) -> Float32s:
        """(Q, C): of each query its best class, or the best Q of all; minus infinity elsewhere.

        What a logit that is not finite makes of its score, or its query's, is none.
        """
        if self.form == "rf_detr":
            scores = np.where(np.isfinite(logits), _sigmoid(logits), -np.inf)
        else:
            scores = _softmax(logits)
            scores[:, -1] = -np.inf
        if self.form == "detr":
            best = scores.argmax(axis=1) + np.arange(len(scores)) * scores.shape[1]
        else:
            best = np.argsort(-scores, axis=None, kind="stable")[: len(scores)]
        those = np.full(scores.shape, -np.inf, dtype=np.float32)
        those.flat[best] = scores.flat[best]
        return those

    def _passing(self, scores: Float32s, wanted: Wanted) -> Bools:
        # RF-DETR keeps what is over its threshold, Mask2Former what is not under it.
        over = scores > self.least if self.form == "rf_detr" else scores >= self.least
        return over & wanted.passing(scores, self.classes)

    def _grid(self, planes: Float32s, frame: Frame) -> Grid:
        """Where the image's pixels fall on the planes: from a side in between by nearest, but for
        RF-DETR."""
        axes = (
            (frame.top, frame.content_height, frame.input_height, frame.image_height),
            (frame.left, frame.content_width, frame.input_width, frame.image_width),
        )
        places = []
        for cells, (start, length, whole, pixels) in zip(planes.shape[1:], axes, strict=True):
            if self.form == "rf_detr":
                places.append(half_pixel(cells, pixels))
                continue
            side = _MASK2FORMER_SIDE if self.form == "mask2former" else whole
            start, length = round(start * side / whole), max(round(length * side / whole), 1)
            inside = np.minimum(start + _nearest(length, pixels), side - 1)
            places.append(half_pixel(cells, side)[inside])
        return Grid(*places)


def _filled(masks: Sequence[Rle]) -> Float64s:
    """(N, 4) xyxy of what masks fill; the first pixel of an empty one, which is dropped later."""
    x, y, width, height = np.array([mask.box for mask in masks], np.float64).reshape(-1, 4).T
    return np.stack([x, y, x + np.maximum(width, 1), y + np.maximum(height, 1)], axis=1)


def _nearest(length: int, pixels: int) -> Ints:
    """(pixels,) the nearest of the places on a side, in float32, as PyTorch rounds it."""
    step = np.float32(length) / np.float32(pixels)
    places = np.floor(np.arange(pixels, dtype=np.float32) * step)
    return np.asarray(np.minimum(places, length - 1), np.int64)


def _certainty(plane: Float32s) -> float:
    """The mean probability of a plane's pixels that are on, at Mask2Former's size."""
    size = (_MASK2FORMER_SIDE, _MASK2FORMER_SIDE)
    finite = np.where(np.isfinite(plane), plane, np.float32(0))
    surface: Float32s = np.asarray(cv2.resize(finite, size), dtype=np.float32)  # bilinear
    on = surface[surface > 0]
    return float(_sigmoid(on).sum(dtype=np.float64)) / (on.size + 1e-6)


def _to_image(boxes: Float32s, frame: Frame) -> Float64s:
    """(N, 4) centre x, centre y, width, height as parts of the picture, to xyxy pixels; without an
    area where they are not finite."""
    parts = np.where(np.isfinite(boxes).all(axis=1, keepdims=True), boxes, 0)
    size = np.array([frame.image_width, frame.image_height], dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        centre, sides = parts[:, :2] * size, parts[:, 2:] * size
        return np.hstack([centre - sides / 2, centre + sides / 2])


def _softmax(logits: Float32s) -> Float32s:
    with np.errstate(invalid="ignore"):
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        parts = raised / raised.sum(axis=1, keepdims=True)
    return np.where(np.isfinite(parts), parts, -np.inf).astype(np.float32)


def _sigmoid(logits: Float32s) -> Float32s:
    with np.errstate(over="ignore"):
        parts: Float32s = np.reciprocal(1 + np.exp(-logits))
    return parts
