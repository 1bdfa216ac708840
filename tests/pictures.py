"""Pictures that tests make: coloured, seeded, small."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 96, height: int = 72) -> Image.Image:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(seed: int, width: int = 96, height: int = 72) -> bytes:
    file = io.BytesIO()
    picture(seed, width, height).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_folder(folder: Path, count: int, first: int = 0) -> Path:
    """`count` JPEGs of varied sizes, some in a folder below."""
    for number in range(first, first + count):
        below = folder / ("deep" if number % 3 == 0 else ".")
        below.mkdir(parents=True, exist_ok=True)
        data = jpeg(number, 80 + 7 * (number % 5), 60 + 11 * (number % 4))
        (below / f"picture {number:04d}.jpg").write_bytes(data)
    return folder
