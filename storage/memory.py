"""A store in this process's memory, for tests and for embedding."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from storage.errors import Exists, NotFound
from storage.streams import Entry, Opened, read_all
from storage.uris import Location, as_folder, join

_objects: dict[tuple[str, str], bytes] = {}
_lock = threading.Lock()


def open_versioned(location: Location) -> Opened:
    data = _stored(location)
    return Opened(io.BytesIO(data), len(data), _version(data))


def get_versioned(location: Location, max_bytes: int | None) -> tuple[bytes, str]:
    return read_all(open_versioned(location), location.uri, max_bytes)


def head(location: Location) -> Entry:
    data = _stored(location)
    return Entry(location.uri, len(data), _version(data))


def list_entries(location: Location, starting: str) -> Iterator[Entry]:
    folder = as_folder(location.path)
    with _lock:
        found = sorted(
            (key, data)
            for (name, key), data in _objects.items()
            if name == location.host and key.startswith(folder + starting)
        )
    for key, data in found:
        yield Entry(join(location.uri, key[len(folder) :]), len(data), _version(data))


def put(location: Location, data: bytes, create_only: bool) -> None:
    key = (location.host, location.path)
    with _lock:
        if create_only and _objects.get(key, data) != data:
            raise Exists(location.uri)
        _objects[key] = bytes(data)


def delete(location: Location) -> None:
    with _lock:
        _objects.pop((location.host, location.path), None)


@contextmanager
def open_write(location: Location) -> Iterator[BinaryIO]:
    stream = _Kept()
    yield stream
    stream.close()
    put(location, stream.kept, create_only=False)


class _Kept(io.BytesIO):
    """Keeps its bytes when it is closed, by a wrapper or by us."""

    kept = b""

    def close(self) -> None:
        if not self.closed:
            self.kept = self.getvalue()
        super().close()


def _stored(location: Location) -> bytes:
    with _lock:
        data = _objects.get((location.host, location.path))
    if data is None:
        raise NotFound(location.uri)
    return data


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
