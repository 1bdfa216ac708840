"""Byte streams shared by the stores."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import BinaryIO

from storage.errors import TooLarge, Unavailable

CHUNK = 1 << 20


@dataclass(frozen=True)
class Opened:
    """An object open for reading, with its size where the store tells it, and its version."""

    stream: BinaryIO
    size: int | None
    version: str


def read_all(opened: Opened, uri: str, max_bytes: int | None) -> tuple[bytes, str]:
    """All bytes with their version; `TooLarge` by the announced size, else while reading."""
    with opened.stream as stream:
        if max_bytes is not None and (opened.size or 0) > max_bytes:
            raise too_large(uri, max_bytes)
        chunks: list[bytes] = []
        count = 0
        while chunk := stream.read(CHUNK):
            count += len(chunk)
            if max_bytes is not None and count > max_bytes:
                raise too_large(uri, max_bytes)
            chunks.append(chunk)
    if opened.size is not None and count < opened.size:
        raise Unavailable(uri, "became shorter while it was read")
    return b"".join(chunks), opened.version


def too_large(uri: str, max_bytes: int) -> TooLarge:
    return TooLarge(uri, f"is larger than the limit of {max_bytes} bytes")


def backoff(attempt: int) -> float:
    """Seconds to wait after the given attempt (from 0), with full jitter."""
    return random.uniform(0.05, min(5.0, 0.2 * 2**attempt))
