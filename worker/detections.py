"""What every decoder gives: the detections of one image, in its pixels, checked once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.nms import total_order
from worker.rle import Rle


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
