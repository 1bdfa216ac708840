"""Whether the bytes of a .tflite file are all there: tflite-runtime does not look, and crashes."""

from struct import error, unpack_from

# Of the table Model in TFLite's schema the lists of operator codes, subgraphs and buffers, and what
# each of these has of bytes: the code of a custom operator, the name, the data.
_BYTES_OF = {1: 1, 2: 4, 4: 0}


def check_whole(content: bytes) -> None:
    """Follow the file's offsets; raises ValueError where one leads out of it."""
    if content[4:8] != b"TFL3":
        raise ValueError("it is no .tflite file")
    try:
        (model,) = unpack_from("<I", content)
        for part, of_bytes in _BYTES_OF.items():
            for place in _vector(content, model, part, 4):
                (offset,) = unpack_from("<I", content, place)
                _vector(content, place + offset, of_bytes, 1)
    except error:
        raise ValueError("it is not whole: some of its end is missing") from None


def _vector(content: bytes, table: int, number: int, width: int) -> range:
    """The places of the elements of a table's field; none where the table does not have it."""
    (back,) = unpack_from("<i", content, table)
    known, length = unpack_from("<HH", content, table - back)
    unpack_from("0s", content, table + length)
    entry = 4 + 2 * number
    (field,) = unpack_from("<H", content, table - back + entry) if entry < known else (0,)
    if not field:
        return range(0)
    (offset,) = unpack_from("<I", content, table + field)
    (count,) = unpack_from("<I", content, table + field + offset)
    start = table + field + offset + 4
    unpack_from("0s", content, start + count * width)
    return range(start, start + count * width, width)
