"""Whether an image file that failed to decode is shorter than it says."""

import io

from PIL.TiffImagePlugin import ImageFileDirectory_v2

_PIXELS = ((273, 279), (324, 325))  # TIFF: where the strips or tiles begin, how long they are


def ends_early(data: bytes, format: str) -> bool:
    """Asked only of broken files: a whole one may lack its end mark, or have more after it."""
    if format == "JPEG":
        return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
    if format == "PNG":
        return b"IEND" not in data[-64:]
    if format in ("WebP", "BMP"):
        at, extra = (4, 8) if format == "WebP" else (2, 0)
        return int.from_bytes(data[at : at + 4], "little") + extra > len(data)
    if format == "AVIF":
        return _boxes_end_early(data)
    return _tiff_ends_early(data)


def _boxes_end_early(data: bytes) -> bool:
    """Whether an ISO file ends within a box, or before the one with the pixels."""
    at, kinds = 0, set()
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kinds.add(data[at + 4 : at + 8])
        if size < 8:  # 0: up to the end of the file; 1: a 64-bit size, of files beyond 4 GiB
            return False
        at += size
    return at != len(data) or b"mdat" not in kinds


def _tiff_ends_early(data: bytes) -> bool:
    """Whether the first directory, what it points at, or the pixels go beyond the end."""
    file = io.BytesIO(data)
    try:
        directory = ImageFileDirectory_v2(data[: 16 if data[2] == 43 else 8])  # 43: 64-bit places
        place = directory.next
        file.seek(place)
        directory.load(file)
        is_whole = directory.next != place  # that of another directory, read after this one
        pixels = [(directory[at], directory[size]) for at, size in _PIXELS if at in directory]
        ends = (sum(piece) for each in pixels for piece in zip(*each, strict=False))
        return not is_whole or max(ends, default=0) > len(data)
    except Exception:  # noqa: BLE001 - not even the directory can be read
        return True
