"""What every decoder gives: the detections of one image, in its pixels."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.cards import ModelError
from worker.nms import total_order
from worker.rle import Bools, Float32s, Float64s, Indices, Rle

Raw = Mapping[str, NDArray[np.floating]]  # what a graph put out, by name


class ModelMismatch(ModelError):
    """A model that does not fit its card, in one sentence with the tensors expected and found."""

    def __init__(self, reason: str, expected: Iterable[object], found: Iterable[object]) -> None:
        self.expected = tuple(map(str, expected))
        self.found = tuple(map(str, found))
        super().__init__(
            f"the model does not fit its card: {reason}; expected {', '.join(self.expected)}; "
            f"found {', '.join(self.found) or 'nothing'}"
        )


class Frame(NamedTuple):
    """Where the network's input came from: the upright image, at the size that its file says.

    The picture, resized to content_height × content_width, has its corner at (left, top) of the
    input. scale_y and scale_x are input pixels per image pixel as the family's authors undo them:
    their fit rounds the content to whole pixels, and not all of them take that into account.
    """

    image_height: int
    image_width: int
    input_height: int
    input_width: int
    content_height: int
    content_width: int
    scale_y: float
    scale_x: float
    top: int = 0
    left: int = 0

    def to_image(self, boxes_input: NDArray[np.floating]) -> NDArray[np.float64]:
        """Boxes (N, 4) xyxy in pixels of the input as pixels of the image, unclipped."""
        boxes = boxes_input.astype(np.float64).reshape(-1, 4)
        corner = np.array([self.left, self.top] * 2, np.float64)
        return (boxes - corner) / np.array([self.scale_x, self.scale_y] * 2, np.float64)


class Wanted(NamedTuple):
    """What is asked for of an answer: it is left as if the rest were filtered from it.

    threshold: leaves out what scores below it. keep_classes: indices of the classes that may take
    one of the `max_detections` places.
    """

    threshold: float | None = None
    max_detections: int | None = None
    keep_classes: frozenset[int] | None = None

    def passing(self, scores: NDArray[np.floating], classes: NDArray[np.integer]) -> Bools:
        """Which may be in the answer; no score that is not finite, and no class below 0."""
        passing: Bools = np.isfinite(scores) & (classes >= 0)
        if self.threshold is not None:
            passing &= scores.astype(np.float64) >= self.threshold
        if self.keep_classes is not None:
            passing &= np.isin(classes, list(self.keep_classes))
        return passing

    def rows_over(self, scores: Float32s, least: np.float32) -> tuple[Indices, Float32s]:
        """Of (N, C) scores the rows with one over `least` that may pass, and their (R, C) scores;
        one that is not finite counts as none: it is minus infinity there."""
        level = least if self.threshold is None else max(np.float32(self.threshold), least)
        rows = np.flatnonzero((scores >= level).any(axis=1))
        some = np.where(np.isfinite(scores[rows]), scores[rows], -np.inf)
        over = some.max(axis=1, initial=-np.inf) > least
        return rows[over], some[over]


ALL = Wanted()


class Candidates(NamedTuple):
    """N boxes in parallel: what a decoder has before it has masks."""

    boxes: NDArray[Any]  # (N, 4) xyxy, in the unit that the family's masks are made in
    scores: NDArray[np.floating]
    classes: NDArray[np.integer]
    rows: Indices  # of the graph's outputs

    def at(self, places: Indices) -> "Candidates":
        return Candidates._make(each[places] for each in self)


@dataclass(frozen=True, eq=False)
class Detections:
    """Parallel arrays of N detections in total order: score, coordinates, class, index.

    boxes:   (N, 4) float64, xyxy in image pixels, inside the image and not empty
    scores:  (N,) float64
    classes: (N,) int64, indices into the card's categories
    masks:   N masks of the whole image, none empty
    dropped: how many more there were whose mask came out empty, or too small
    """

    boxes: Float64s
    scores: Float64s
    classes: NDArray[np.int64]
    masks: tuple[Rle, ...]
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.scores)

    def masked(self, masks: Sequence[Rle], least: int = 1) -> "Detections":
        """With these masks, one for each; of those with fewer pixels than `least` none is left."""
        kept = [place for place, mask in enumerate(masks) if mask.area >= least]
        return Detections(
            self.boxes[kept],
            self.scores[kept],
            self.classes[kept],
            tuple(masks[place] for place in kept),
            self.dropped + len(masks) - len(kept),
        )


def finished(
    found: Candidates,
    boxes: Float64s,
    frame: Frame,
    masks_of: Callable[[Candidates], Sequence[Rle]],
    limit: int | None = None,
) -> Detections:
    """The best `limit` whose box has an area in the image, in total order, without empty masks.

    boxes: (N, 4) xyxy, the found ones in pixels of the image, unclipped. masks_of: of some of them.
    """
    height, width = frame.image_height, frame.image_width
    boxes = np.clip(boxes, 0, [width, height, width, height])
    solid = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    order = solid[total_order(boxes[solid], found.scores[solid], found.classes[solid])][:limit]
    best = found.at(order)
    known = best.scores.astype(np.float64), best.classes.astype(np.int64)
    return Detections(boxes[order], *known, ()).masked(masks_of(best))
