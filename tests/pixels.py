"""Masks as their pixels, to and from run lengths."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from worker.rle import Bools, Rle, encode


def decode(rle: Rle) -> Bools:
    """The mask, height × width, as pycocotools has it."""
    known = {"size": [rle.height, rle.width], "counts": rle.counts.encode("ascii")}
    mask: Bools = coco.decode(known).astype(np.bool_)
    return mask


def encode_whole(mask: Bools) -> Rle:
    return encode(mask, 0, 0, *mask.shape)
