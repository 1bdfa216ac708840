"""Whether an image file that failed to decode is shorter than it says."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TIFF_DATA = {273: 279, 324: 325}  # where the strips or tiles begin: how long they are


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
    try:
        return max(_tiff_ends(data)) > len(data)
    except struct.error:  # not even the directory is whole
        return True


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


def _tiff_ends(data: bytes) -> Iterator[int]:
    """Where the first directory ends, what it points at, and the pixels; struct.error if cut."""
    order = "<" if data[:1] == b"I" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    end = start + 2 + 12 * count
    yield end
    entries = {}
    for tag, kind, number, place in struct.iter_unpack(order + "HHII", data[start + 2 : end]):
        size = _TIFF_SIZES.get(kind, 1) * number
        entries[tag] = (kind, number, place)
        if size > 4:
            yield place + size
    for offsets, lengths in _TIFF_DATA.items():
        if offsets in entries and lengths in entries:
            starts = _tiff_numbers(data, order, *entries[offsets])
            sizes = _tiff_numbers(data, order, *entries[lengths])
            yield from map(int.__add__, starts, sizes)


def _tiff_numbers(data: bytes, order: str, kind: int, number: int, place: int) -> tuple[int, ...]:
    letter = "H" if kind == 3 else "I"
    if struct.calcsize(letter) * number > 4:
        number = min(number, len(data))  # a count may be anything in a damaged file
        return struct.unpack_from(f"{order}{number}{letter}", data, place)
    packed = struct.pack(order + "I", place)
    return struct.unpack_from(f"{order}{number}{letter}", packed)
