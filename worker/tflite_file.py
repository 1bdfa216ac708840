"""Whether the bytes of a .tflite file are all there: tflite-runtime does not look, and crashes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

# Of the table Model in TFLite's schema the lists of operator codes, subgraphs and buffers, and what
# each of these has of bytes: the code of a custom operator, the name, the data.
_BYTES_OF = {1: 1, 2: 4, 4: 0}


def check_whole(content: bytes) -> None:
    """Follow the file's offsets; raises ValueError where one leads out of it."""
    if content[4:8] != b"TFL3":
        raise ValueError("it is no .tflite file")
    try:
        (model,) = struct.unpack_from("<I", content)
        for part, of_bytes in _BYTES_OF.items():
            for table in _tables(content, _field(content, model, part)):
                field = _field(content, table, of_bytes)
                if field:
                    _vector(content, field, 1)
    except struct.error:
        raise ValueError("it is not whole: some of its end is missing") from None


def _field(content: bytes, table: int, number: int) -> int:
    """Where a field of a table is; 0 where the table does not have it."""
    (back,) = struct.unpack_from("<i", content, table)
    size, width = struct.unpack_from("<HH", content, table - back)
    struct.unpack_from("0s", content, table + width)
    place = 4 + 2 * number
    (offset,) = struct.unpack_from("<H", content, table - back + place) if place < size else (0,)
    return table + offset if offset else 0


def _vector(content: bytes, field: int, width: int) -> tuple[int, int]:
    """The start and the number of elements of a vector of elements of `width` bytes."""
    (offset,) = struct.unpack_from("<I", content, field)
    (count,) = struct.unpack_from("<I", content, field + offset)
    start = field + offset + 4
    struct.unpack_from("0s", content, start + count * width)
    return start, count


def _tables(content: bytes, field: int) -> Iterator[int]:
    if field:
        start, count = _vector(content, field, 4)
        for place in range(start, start + 4 * count, 4):
            yield place + struct.unpack_from("<I", content, place)[0]
