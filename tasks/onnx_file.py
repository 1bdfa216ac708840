"""The parts of an .onnx that say what it is, read field by field; its weights never are."""

import os
from collections.abc import Iterator
from typing import Any, BinaryIO

# What is read of each message of onnx.proto: by a field's number its name and what it holds, in
# brackets where it repeats. All else is skipped.
Parts = dict[int, tuple[str, Any]]
_PAIR: Parts = {1: ("key", str), 2: ("value", str)}
_WEIGHT: Parts = {8: ("name", str), 13: ("external_data", [_PAIR]), 14: ("data_location", int)}
_SHAPE: Parts = {1: ("dim", [{1: ("dim_value", int)}])}
_TYPE: Parts = {1: ("tensor_type", {1: ("elem_type", int), 2: ("shape", _SHAPE)})}
_VALUE: Parts = {1: ("name", str), 2: ("type", _TYPE)}
_GRAPH: Parts = {5: ("initializer", [_WEIGHT]), 11: ("input", [_VALUE]), 12: ("output", [_VALUE])}
_MODEL: Parts = {7: ("graph", _GRAPH), 14: ("metadata_props", [_PAIR])}

# More than any network has: what has more means to keep us busy.
_MOST_FIELDS = 300_000
_MOST_TEXT = 16 << 20  # bytes of one name, or of one text of its metadata

_VARINT, _BYTES = 0, 2  # how protobuf writes a number, and a text or message
_FIXED = {1: 8, 5: 4}  # bytes

Message = dict[str, Any]


def read_model(file: BinaryIO) -> Message:
    """A ModelProto, whose absent fields are empty; ValueError where the file holds none."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return _message(file, size, _MODEL, iter(range(_MOST_FIELDS)))


def _message(file: BinaryIO, end: int, parts: Parts, left: Iterator[int]) -> Message:
    found = {name: _empty(kind) for name, kind in parts.values()}
    while file.tell() < end:
        if next(left, None) is None:
            raise ValueError("it has more parts than any network")
        key = _varint(file, end)
        if key < 8:  # no field has the number 0
            raise _damaged(file)
        name, kind = parts.get(key >> 3, ("", None))
        repeats = isinstance(kind, list)
        value = _value(file, end, key, kind[0] if repeats else kind, left)
        if value is not None and repeats:
            found[name].append(value)
        elif value is not None:
            found[name] = value  # the last one stands for all
    return found


def _empty(kind: Any) -> Any:
    if isinstance(kind, dict):
        return {name: _empty(each) for name, each in kind.values()}
    return [] if isinstance(kind, list) else kind()


def _value(file: BinaryIO, end: int, key: int, kind: Any, left: Iterator[int]) -> Any:
    """What a field holds; None of one that nobody asks for, or that is written in another way."""
    wire = key & 7
    if wire == _VARINT:
        number = _varint(file, end)
        return number if kind is int else None
    length = _varint(file, end) if wire == _BYTES else _FIXED.get(wire, -1)
    stop = file.tell() + length
    if length < 0 or stop > end:
        raise _damaged(file)
    if wire == _BYTES and isinstance(kind, dict):
        return _message(file, stop, kind, left)
    if wire == _BYTES and kind is str:
        if length > _MOST_TEXT:
            raise ValueError("it has more text than any network")
        return file.read(length).decode("utf-8")
    file.seek(stop)
    return None


def _varint(file: BinaryIO, end: int) -> int:
    """A signed 64-bit number."""
    value = 0
    for place in range(0, 70, 7):
        if file.tell() >= end:
            break
        byte = file.read(1)[0]
        value |= (byte & 0x7F) << place
        if byte < 0x80:
            value &= (1 << 64) - 1
            return value - (1 << 64 if value >> 63 else 0)
    raise _damaged(file)


def _damaged(file: BinaryIO) -> ValueError:
    return ValueError(f"it ends early or is damaged near byte {file.tell()}")
