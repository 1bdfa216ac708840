"""Protobuf's wire format, walked field by field in a file; what nobody asks for is never read."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

# More than any network has, at the levels that are walked: what has more means to keep us busy.
_MOST_FIELDS = 300_000
_MOST_TEXT = 64 << 20  # bytes of all names, metadata and lists of sizes together
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}  # bytes


class WireError(ValueError):
    """Bytes that are no protobuf message, or not a whole one."""


class Field(NamedTuple):
    start: int  # where its bytes are in the file
    end: int
    value: int | None = None  # of a varint, signed


Message = defaultdict[int, list[Field]]  # by field number


class Wire:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._fields, self._text = 0, 0

    def message(self, field: Field | None = None) -> Message:
        """A message's fields; without one, those of the whole file."""
        at, end, _ = field or Field(0, self.size)
        found: Message = defaultdict(list)
        while at < end:
            key, after = self._varint(at, end)
            part = self._field(key & 7, after, end)
            if key < 8 or part.end > end:
                raise WireError(f"it ends early or is damaged near byte {at}")
            found[key >> 3].append(part)
            self._count(fields=1)
            at = part.end
        return found

    def number(self, fields: Sequence[Field]) -> int:
        """The last one's: protobuf lets it stand for all."""
        return (fields[-1].value or 0) if fields else 0

    def text(self, fields: Sequence[Field]) -> str:
        start, end, _ = fields[-1] if fields else Field(0, 0)
        self._count(text=end - start)
        self._file.seek(start)
        return self._file.read(end - start).decode("utf-8")

    def numbers(self, fields: Sequence[Field]) -> list[int]:
        """A repeated number's values, of which a field holds one or a packed list."""
        found = []
        for at, end, value in fields:
            self._count(text=end - at)
            found += [] if value is None else [value]
            while at < end:
                value, at = self._varint(at, end)
                found.append(value)
        return found

    def _field(self, kind: int, at: int, end: int) -> Field:
        if kind == _VARINT:
            value, at = self._varint(at, end)
            return Field(at, at, value)
        if kind == _BYTES:
            length, at = self._varint(at, end)
            return Field(at, at + length if length >= 0 else end + 1)
        if kind in _FIXED:
            return Field(at, at + _FIXED[kind])
        raise WireError(f"it is damaged near byte {at}")

    def _count(self, fields: int = 0, text: int = 0) -> None:
        self._fields += fields
        self._text += text
        if self._fields > _MOST_FIELDS or self._text > _MOST_TEXT:
            raise WireError("it has more parts or text than any network")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A signed 64-bit number and where it ends."""
        self._file.seek(at)
        value = 0
        for place, byte in enumerate(self._file.read(min(10, end - at))):
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                value &= (1 << 64) - 1
                return value - (1 << 64 if value >> 63 else 0), at + place + 1
        raise WireError(f"it ends early or is damaged near byte {at}")
