"""What every decoder gives: the detections of one image, in its pixels, checked once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.nms import total_order
from worker.preprocess import Frame
from worker.rle import Bools, Rle

Indices = NDArray[np.intp]
Raw = Mapping[str, NDArray[np.floating]]  # what a graph put out, by name


class ModelMismatch(Exception):
    """A model that does not fit its card, in one sentence with the tensors expected and found."""

    def __init__(self, reason: str, expected: Sequence[str], found: Sequence[str]) -> None:
        self.expected = tuple(expected)
        self.found = tuple(found)
        super().__init__(
            f"the model does not fit its card: {reason}; expected {', '.join(expected)}; "
            f"found {', '.join(found) or 'nothing'}"
        )


@dataclass(frozen=True, eq=False)
class Detections:
    """Parallel arrays of N detections in total order: score, coordinates, class, index.

    boxes:   (N, 4) float64, xyxy in image pixels, inside the image and not empty
    scores:  (N,) float64
    classes: (N,) int64, indices into the card's categories
    masks:   N masks of the whole image, none empty
    dropped: how many more there were whose mask came out empty
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]
    masks: tuple[Rle, ...]
    height: int
    width: int
    dropped: int = 0

    def __post_init__(self) -> None:
        problem = self._misshapen() or self._outside() or self._unordered()
        if problem:
            raise ValueError(f"these are no detections: {problem}")

    def __len__(self) -> int:
        return len(self.scores)

    def _misshapen(self) -> str | None:
        count = len(self.masks)
        for name, shape, kind in (
            ("boxes", (count, 4), np.float64),
            ("scores", (count,), np.float64),
            ("classes", (count,), np.int64),
        ):
            array = getattr(self, name)
            if array.shape != shape or array.dtype != kind:
                return f"{name} is {array.dtype} {array.shape}, not {kind.__name__} {shape}"
        return None

    def _outside(self) -> str | None:
        x1, y1, x2, y2 = self.boxes.T
        fits = (x1 >= 0) & (x1 < x2) & (x2 <= self.width)
        fits &= (y1 >= 0) & (y1 < y2) & (y2 <= self.height)
        if not fits.all():
            return f"box {np.flatnonzero(~fits)[0]} is empty or leaves the image"
        if not np.isfinite(self.scores).all():
            return "a score is not finite"
        if (self.classes < 0).any():
            return "a class is negative"
        if any((m.height, m.width) != (self.height, self.width) for m in self.masks):
            return "a mask has another size than the image"
        if any(m.area < 1 for m in self.masks):
            return "a mask is empty"
        return None

    def _unordered(self) -> str | None:
        order = total_order(self.boxes, self.scores, self.classes)
        return None if (order == np.arange(len(self))).all() else "they are not in total order"


def chosen(
    scores: NDArray[np.floating],
    classes: NDArray[np.integer],
    threshold: float | None,
    keep_classes: frozenset[int] | None,
) -> Bools:
    """Which of them may be in the answer: finite scores from the threshold on, of a class that is
    kept. A class below 0 is none."""
    passing: Bools = np.isfinite(scores) & (classes >= 0)
    if threshold is not None:
        passing &= scores.astype(np.float64) >= threshold
    if keep_classes is not None:
        passing &= np.isin(classes, list(keep_classes))
    return passing


def finished(
    boxes: NDArray[np.float64],
    scores: NDArray[np.floating],
    classes: NDArray[np.integer],
    frame: Frame,
    masks_of: Callable[[Indices], Sequence[Rle]],
    limit: int | None = None,
) -> Detections:
    """The best `limit` whose box has an area in the image, in total order, without empty masks.

    boxes: (N, 4) xyxy in pixels of the image, unclipped. masks_of: the masks of some of the N.
    """
    height, width = frame.image_height, frame.image_width
    boxes = np.clip(boxes, 0, [width, height, width, height])
    solid = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    order = solid[total_order(boxes[solid], scores[solid], classes[solid])][:limit]
    masks = masks_of(order)
    seen = [place for place, mask in enumerate(masks) if mask.area]
    kept = order[seen]
    return Detections(
        boxes=boxes[kept],
        scores=scores[kept].astype(np.float64),
        classes=classes[kept].astype(np.int64),
        masks=tuple(masks[place] for place in seen),
        height=height,
        width=width,
        dropped=len(order) - len(kept),
    )
