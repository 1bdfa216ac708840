"""Masks tidied up after the model: holes filled, specks and small instances dropped, as asked."""

import cv2
import numpy as np

from tasks.records import Settings
from worker.detections import Detections
from worker.rle import Bools, Rle, cropped, encode


def refine(found: Detections, settings: Settings) -> Detections:
    """Boxes stay the network's. What has no pixel left, or too few, is counted as dropped."""
    masks = found.masks
    if settings.fill_holes or settings.drop_specks:
        masks = tuple(_tidied(mask, settings.fill_holes, settings.drop_specks) for mask in masks)
    return found.masked(masks, max(settings.min_area, 1))


def _tidied(mask: Rle, holes_below: int, specks_below: int) -> Rle:
    """Parts hang together over corners, holes do not: as an outline is drawn."""
    crop, x, y = cropped(mask)
    if specks_below:
        crop = crop & ~_small(crop, specks_below, connectivity=8)
    if holes_below:
        # A rim of outside, so that what opens to the edge of the box is no hole.
        rim = np.pad(~crop, 1, constant_values=True)
        crop = crop | _small(rim, holes_below, connectivity=4, but_first=True)[1:-1, 1:-1]
    return encode(np.ascontiguousarray(crop), x, y, mask.height, mask.width)


def _small(on: Bools, below: int, *, connectivity: int, but_first: bool = False) -> Bools:
    """The parts of fewer pixels than `below`; `but_first` spares the part of the first pixel."""
    _, labels, facts, _ = cv2.connectedComponentsWithStats(
        on.astype(np.uint8), connectivity=connectivity
    )
    small = facts[:, cv2.CC_STAT_AREA] < below
    small[0] = False  # what is off
    if but_first:
        small[labels[0, 0]] = False
    chosen: Bools = small[labels]
    return chosen
