"""What the stores share: what they say of an object, and reading it whole."""

import random
import re
import sys
from typing import BinaryIO, NamedTuple

from storage.errors import TooLarge, Unavailable

CHUNK = 1 << 20

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Entry(NamedTuple):
    """`version` changes when the content does: an ETag, or "size-mtime_ns" for files."""

    uri: str
    size: int
    version: str


class Opened(NamedTuple):
    """An object open for reading, with its whole size where the store tells it, and its version."""

    stream: BinaryIO
    size: int | None
    version: str
    start: int = 0  # the first byte that `stream` gives
    end: int | None = None  # the byte before which it ends; None: with the object


def read_all(opened: Opened, uri: str, max_bytes: int | None) -> tuple[bytes, str]:
    """All bytes with their version; `TooLarge` by the announced size, else while reading."""
    most = sys.maxsize if max_bytes is None else max_bytes
    size, count = opened.size or 0, 0
    chunks: list[bytes] = []
    with opened.stream as stream:
        while max(size, count) <= most and (chunk := stream.read(CHUNK)):
            chunks.append(chunk)
            count += len(chunk)
    if max(size, count) > most:
        raise TooLarge(uri, f"is larger than the limit of {max_bytes} bytes")
    if count < size:
        raise Unavailable(uri, "became shorter while it was read")
    return b"".join(chunks), opened.version


def range_asked(start: int, end: int | None) -> str:
    """The value of a Range header for the bytes from `start` to before `end`."""
    return f"bytes={start}-{'' if end is None else end - 1}"


def range_given(header: str) -> tuple[int, int, int] | None:
    """Of a Content-Range header the first byte, the one behind the last, and the whole size."""
    found = _CONTENT_RANGE.fullmatch(header)
    return (int(found[1]), int(found[2]) + 1, int(found[3])) if found else None


def backoff(attempt: int) -> float:
    """Seconds to wait after the given attempt (from 0), with full jitter."""
    return random.uniform(0.05, min(5.0, 0.2 * 2**attempt))
