"""Which pictures calibrate, and how the network sees them: as maskmill itself would show them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tasks.cards import InputSpec
from tasks.records import ItemError
from worker.images import decode, read_header
from worker.preprocess import preprocess, to_frame

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


class PicturesError(Exception):
    """Why there is nothing to calibrate with, in one sentence."""


def choose(folder: Path | None, coco: Path | None, count: int, seed: int) -> list[Path]:
    """`count` images of a folder, or of a COCO file whose images lie there or beside it.

    The same seed chooses the same ones of the same names, whatever the order of the folder.
    """
    if coco is not None:
        try:
            records = json.loads(coco.read_text("utf-8"))["images"]
            names = [str(each["file_name"]) for each in records]
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise PicturesError(f"{coco} cannot be read as a COCO file: {exc!r}") from exc
        found = [(folder or coco.parent) / name for name in names]
    elif folder is not None and folder.is_dir():
        found = [each for each in folder.rglob("*") if each.suffix.lower() in SUFFIXES]
    else:
        raise PicturesError(f"{folder} is no folder of images")
    if len(found) < count:
        raise PicturesError(
            f"{coco or folder} has {len(found)} images, --count asks for {count}: add images or "
            "ask for fewer (fewer than 100 calibrate worse)"
        )
    return sorted(random.Random(seed).sample(sorted(found), count))


def levels(paths: list[Path], spec: InputSpec, input_hw: tuple[int, int]) -> Iterator[np.ndarray]:
    """Each picture as float32 levels (H, W, 3) in the card's size, fit and colour order.

    The first one's corner is black and white: the range of the input is then 0..255 exactly, a
    level is one step, and quantising a picture loses nothing.
    """
    plain = InputSpec(fit=spec.fit, size=spec.size, multiple=spec.multiple, color=spec.color)
    for number, path in enumerate(paths):
        try:
            data = path.read_bytes()
            header = read_header(data)
            pixels = decode(data, header)
        except (OSError, ItemError) as exc:
            raise PicturesError(f"{path} cannot be read: {exc}") from exc
        frame = to_frame(header.height, header.width, plain, input_hw)
        picture = preprocess(pixels, plain, "nhwc", frame)[0]
        if not number:
            picture[0, 0], picture[0, 1] = 0, 255
        yield picture
