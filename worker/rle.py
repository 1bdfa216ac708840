"""Masks as COCO run-length encodings, made from where a mask flips instead of from its pixels.

A position counts pixels down the columns, left to right (`x * height + y`), as COCO does. A mask
is known from its flips: the positions at which it turns on or off. Two flips at one position
cancel, so flips may come in any order and from any cutting-up of the mask.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from tasks.records import RleMask

Ints = NDArray[np.int64]
Indices = NDArray[np.intp]
Bools = NDArray[np.bool_]
Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]


class Rle(NamedTuple):
    """One mask of a whole image; `counts` is COCO's compressed string, `area` its pixel count."""

    height: int
    width: int
    counts: str
    area: int

    def record(self) -> RleMask:
        return RleMask((self.height, self.width), self.counts)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The tight x, y, width, height; zeros for an empty mask."""
        known = {"size": [self.height, self.width], "counts": self.counts.encode("ascii")}
        x, y, width, height = coco.toBbox(known)
        return int(x), int(y), int(width), int(height)


def from_flips(keys: Ints, count: int, height: int, width: int) -> list[Rle]:
    """`count` masks from their flips; a key is `mask * (height * width + 1) + position`."""
    if height < 1 or width < 1:
        raise ValueError(f"an image of {width}×{height} pixels has no mask")
    size = height * width
    starts = np.arange(count, dtype=np.int64) * (size + 1)
    # Each mask runs from its start to its end even if it flips nowhere, or at its first pixel.
    marks = np.sort(np.concatenate([_uncancelled(keys), starts, starts + size]))
    runs = np.diff(marks)
    first = np.searchsorted(marks, starts)
    last = np.append(first, len(marks))[1:] - 1
    pieces = [runs[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]
    return _compressed([p[:-1] if p[-1] == 0 else p for p in pieces], height, width)


def encode(crop: Bools, x0: int, y0: int, height: int, width: int) -> Rle:
    """A mask that is `crop` with its corner at (x0, y0) of a height × width image, else empty."""
    rows, columns = crop.shape
    if x0 < 0 or y0 < 0 or x0 + columns > width or y0 + rows > height:
        raise ValueError(f"a crop {crop.shape} at ({x0}, {y0}) leaves the {width}×{height} image")
    flips = np.zeros((rows + 1, columns), dtype=np.bool_)
    flips[:-1] = crop
    flips[1:] ^= crop
    y, x = np.divmod(np.flatnonzero(flips), max(columns, 1))
    return from_flips((x + x0) * height + (y + y0), 1, height, width)[0]


def cropped(rle: Rle) -> tuple[Bools, int, int]:
    """The mask within its box, without decoding the columns beside it, and the box's x and y."""
    x, y, width, height = rle.box
    first, last = x * rle.height, (x + width) * rle.height
    ends = np.clip(np.cumsum(runs_of(rle.counts)), first, last)
    columns = np.repeat(np.arange(len(ends)) % 2 == 1, np.diff(ends, prepend=first))
    crop: Bools = columns.reshape(width, rle.height).T[y : y + height]
    return crop, x, y


def runs_of(counts: str) -> Ints:
    """The run lengths behind a compressed string: off, on, off, …"""
    # Each number is little-endian groups of 5 bits; 32 says that more follow, 16 in the last is
    # the sign. From the fourth on, a number is the difference to the one two before it.
    runs: list[int] = []
    value = shift = 0
    for letter in counts.encode("ascii"):
        code = letter - 48
        if not 0 <= code < 64 or shift > 30:
            raise ValueError("counts is no compressed run-length string, or holds over 32 bits")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) >> 4 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or not runs:
        raise ValueError("counts is no whole compressed run-length string")
    return np.array(runs, dtype=np.int64)


def is_canonical(rle: Rle) -> bool:
    """Whether this is byte for byte what COCO's encoder makes of the mask, with its true area."""
    try:
        runs = runs_of(rle.counts)
    except ValueError:
        return False
    if runs[0] < 0 or (runs[1:] < 1).any() or runs.sum() != rle.height * rle.width:
        return False
    return _compressed([runs], rle.height, rle.width) == [rle]


def _uncancelled(keys: Ints) -> Ints:
    """Sorted, without the keys that occur an even number of times."""
    keys = np.sort(keys)
    if not (keys[1:] == keys[:-1]).any():
        return keys
    unique, times = np.unique(keys, return_counts=True)
    return np.compress(times % 2 == 1, unique)


def _compressed(runs: list[Ints], height: int, width: int) -> list[Rle]:
    if not runs:
        return []
    plain = [{"size": [height, width], "counts": one} for one in runs]
    strings = (made["counts"].decode("ascii") for made in coco.frPyObjects(plain, height, width))
    areas = (int(one[1::2].sum()) for one in runs)
    return [Rle(height, width, *made) for made in zip(strings, areas, strict=True)]
