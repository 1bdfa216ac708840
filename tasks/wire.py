"""Protobuf's wire format, walked field by field in a file; what nobody asks for is never read."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

# More than any network has, at the levels that are walked: what has more means to keep us busy.
_MOST_FIELDS = 300_000
_MOST_TEXT = 64 << 20  # bytes of all names, metadata and lists of sizes together
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """Bytes that are no protobuf message, or not a whole one."""


class Field(NamedTuple):
    start: int  # where its bytes are in the file
    end: int
    value: int | None  # of a varint, signed


Message = defaultdict[int, list[Field]]  # by field number


class Wire:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._fields_left, self._text_left = _MOST_FIELDS, _MOST_TEXT

    def message(self, field: Field | None = None) -> Message:
        """A message's fields; without one, those of the whole file."""
        at, end, _ = field or (0, self.size, None)
        found: Message = defaultdict(list)
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise WireError("it has more parts than any network")
            (key, after), begun = self._varint(at, end), at
            field = self._field(key & 7, after, end)
            if key < 8 or field.end > end:
                raise WireError(f"it ends early or is damaged near byte {begun}")
            found[key >> 3].append(field)
            at = field.end
        return found

    def number(self, fields: Sequence[Field]) -> int:
        """The last one's: protobuf lets it stand for all."""
        return (fields[-1].value or 0) if fields else 0

    def text(self, fields: Sequence[Field]) -> str:
        return self._bytes(fields[-1]).decode("utf-8") if fields else ""

    def numbers(self, fields: Sequence[Field]) -> list[int]:
        """A repeated number's values, of which a field holds one or a packed list."""
        found = []
        for field in fields:
            at = field.start if field.value is None else field.end
            self._count_text(field.end - at)
            found += [] if field.value is None else [field.value]
            while at < field.end:
                value, at = self._varint(at, field.end)
                found.append(value)
        return found

    def _field(self, kind: int, at: int, end: int) -> Field:
        if kind == _VARINT:
            value, after = self._varint(at, end)
            return Field(after, after, value)
        if kind == _BYTES:
            length, after = self._varint(at, end)
            return Field(after, after + length if length >= 0 else end + 1, None)
        if kind in (_FIXED64, _FIXED32):
            return Field(at, at + (8 if kind == _FIXED64 else 4), None)
        raise WireError(f"it is damaged near byte {at}")

    def _bytes(self, field: Field) -> bytes:
        self._count_text(field.end - field.start)
        self._file.seek(field.start)
        return self._file.read(field.end - field.start)

    def _count_text(self, length: int) -> None:
        self._text_left -= length
        if self._text_left < 0:
            raise WireError("it has more text than any network")

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
