"""Bytes to pixels: what an image file says of itself, and its pixels as RGB, upright.

Formats are told by content. ICC profiles are not applied and alpha is dropped, as in the pipelines
that the networks were trained with. Of a file with several frames or pages the first is read.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from tasks.records import ItemError

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB

MAX_PIXELS = 100_000_000

# Pillow's remarks on odd metadata are no news to anybody: what matters ends in an ItemError.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # the limit is ours

# By format the part of Pillow that a build of it may lack, and how a file begins.
_FORMATS = {
    "JPEG": ("jpg", rb"\xff\xd8\xff"),
    "PNG": ("zlib", rb"\x89PNG\r\n\x1a\n"),
    "WebP": ("webp", rb"RIFF.{4}WEBP"),
    "BMP": ("pil", rb"BM.{12}[\x0c\x10(48@l|]"),  # sizes of its header
    "TIFF": ("pil", rb"II[*+]\0|MM\0[*+]"),
    "AVIF": ("avif", rb".{4}ftyp(.{4}){0,60}avi[fs]"),
}
_UNREAD = {"GIF": rb"GIF8", "HEIC": rb".{4}ftyp(.{4}){0,60}(he(i[cmsx]|v[cx])|m[is]f1)"}
_NOT_READ = {"I", "F", "LAB", "HSV"}  # of 32-bit samples is not said what is white
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientations as PIL.Image.Transpose
_BITS_PER_SAMPLE = 258


class Header(NamedTuple):
    """What the file says before any pixel is decoded. Width and height are those when upright."""

    format: str
    width: int
    height: int
    orientation: int  # EXIF, 1…8, as the file has it


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Read sizes, orientation and sample type; refuse what is too large or cannot be decoded."""
    format = _detect(data)
    # The canvas of this form of WebP may be vast, and is allocated as soon as it is opened.
    if format == "WebP" and data[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        check_pixels(width, height, max_pixels)
    image = _open(data, format)
    width, height = image.size
    check_pixels(width, height, max_pixels)
    if image.mode in _NOT_READ:
        raise ItemError(
            "decode", "unsupported", f"The {format} has samples of a kind that is not read."
        )
    orientation = _orientation(image)
    if orientation > 4 and format != "TIFF":  # Pillow turns that by itself
        width, height = height, width
    return Header(format, width, height, orientation)


def decode(data: bytes, header: Header, minimum: tuple[int, int] | None = None) -> Pixels:
    """Decode to upright RGB, (H, W, 3) uint8, possibly read-only.

    With `minimum` (height, width) a JPEG is decoded at the smallest of 1/2, 1/4, 1/8 of its size
    that is no smaller than that; the pixels then are fewer than the header says.

    Measured with twice the network's input as minimum, on 8 photographs of 480 to 600 rows and
    inputs of 24 to 150: against the full decode that input differs in the mean by up to 17, 20 and
    24 of 255 levels at 1/2, 1/4 and 1/8 (8, 11 and 15 at the median); on the same photographs
    enlarged to 2 to 24 megapixels, and so softer, by 0.4 to 8 for inputs of 192 to 550. In each
    case it is nearer to the average of the pixels that a value of the input stands for.
    """
    image = _open(data, header.format)
    # Zeros in place of the end are what a broken-off download leaves; they decode to grey.
    if header.format == "JPEG" and data.endswith(bytes(16)) and _has_no_end(data):
        raise _broken("JPEG")
    scale = reduction(header, minimum)
    with _broken_if_refused(header.format):
        if scale > 1:
            image.draft(image.mode, (image.width // scale, image.height // scale))
        image.load()
        if header.orientation > 1 and header.format != "TIFF":  # Pillow turns that by itself
            image = image.transpose(_TURNS[header.orientation])
        return _to_rgb(image)


def reduction(header: Header, minimum: tuple[int, int] | None) -> int:
    """By what a JPEG's sides are divided in decoding: 1, 2, 4 or 8."""
    if minimum is None or header.format != "JPEG":
        return 1
    height, width = minimum
    fits = (s for s in (8, 4, 2) if header.height >= s * height and header.width >= s * width)
    return next(fits, 1)


def supported_formats() -> dict[str, bool]:
    """Which formats this machine's Pillow reads."""
    here = {name: bool(features.check(part)) for name, (part, _) in _FORMATS.items()}
    return here | {"HEIC": False}


def _detect(data: bytes) -> str:
    if not data:
        raise ItemError("decode", "empty", "The file is empty.")
    looks = {name: begins for name, (_, begins) in _FORMATS.items()} | _UNREAD
    format = next((name for name in looks if re.match(looks[name], data, re.DOTALL)), "")
    if format in _FORMATS and features.check(_FORMATS[format][0]):
        return format
    known = ", ".join(_FORMATS)
    if format:
        raise ItemError("decode", "unsupported", f"{format} files are not read here, only {known}.")
    raise ItemError(
        "decode",
        "not-an-image",
        f"The file is not an image that is read here: it begins like none of {known}.",
    )


def _open(data: bytes, format: str) -> Any:
    with _broken_if_refused(format):
        return Image.open(io.BytesIO(data), formats=[format])


@contextmanager
def _broken_if_refused(format: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as exc:
        raise _broken(format) from exc


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Of an image or of a video's frames."""
    if width < 1 or height < 1:
        raise ItemError(
            "decode", "corrupt", f"The picture says that it has {width}×{height} pixels."
        )
    if width * height > max_pixels:
        raise ItemError(
            "decode",
            "too-many-pixels",
            f"The picture has {width}×{height} pixels, more than the limit of {max_pixels:,}.",
        )


def _orientation(image: Any) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001 - broken EXIF says nothing; the pixels may well be sound
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Any) -> Pixels:
    if image.mode.startswith("I;16"):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,)) if image.format == "TIFF" else (16,)
        grey = (np.asarray(image) >> (bits[0] - 8)).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _broken(format: str) -> ItemError:
    what = "is damaged or cut off, or of a variant not read here"
    return ItemError("decode", "corrupt", f"The {format} {what}.")


def _has_no_end(data: bytes) -> bool:
    """Whether a JPEG's last scan has no end mark; a whole file may have more after it."""
    return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
