"""Where bytes live: plain paths, S3 and HTTP behind verbs over URIs. The scheme names the store.

Errors are those of `storage.errors` only. Stores are imported when first used, so that importing
this package stays cheap.
"""

import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar, cast

from storage.errors import *  # noqa: F403 - the face of the package: places and what goes wrong
from storage.errors import Exists, Interrupted, NotFound, TooLarge, Unavailable
from storage.ordered import *  # noqa: F403
from storage.uris import *  # noqa: F403
from storage.uris import Location, parse, parse_glob, relative

Result = TypeVar("Result")

CHUNK = 1 << 20

_ATTEMPTS = 4
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


class Store(Protocol):
    """What a store module offers; a read-only one raises `NotWritable` in the verbs that write.

    What `open_versioned` is asked for beside the place is that of `open_from`, or nothing.
    """

    def open_versioned(self, location: Location, *part: Any) -> Opened: ...
    def list_entries(self, location: Location, starting: str) -> Iterator[Entry]: ...
    def put(self, location: Location, data: bytes, create_only: bool) -> None: ...
    def delete(self, location: Location) -> None: ...
    def open_write(self, location: Location) -> AbstractContextManager[BinaryIO]: ...


_STORES = {
    "file": "storage.disk",
    "s3": "storage.s3",
    "http": "storage.http",
    "https": "storage.http",
}


def _resolve(uri: str) -> tuple[Store, Location]:
    location = parse(uri)
    return cast(Store, import_module(_STORES[location.scheme])), location


def _insist(action: Callable[[], Result]) -> Result:
    """Try again after what may pass, a bounded number of times."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return action()
        except Interrupted:
            time.sleep(backoff(attempt))
    return action()


def get(uri: str, *, max_bytes: int | None = None) -> bytes:
    """All bytes of one object; `TooLarge` before more than `max_bytes` are in memory."""
    return get_versioned(uri, max_bytes=max_bytes)[0]


def get_versioned(uri: str, *, max_bytes: int | None = None) -> tuple[bytes, str]:
    """The bytes and the version that they have, from one request."""
    store, location = _resolve(uri)
    return _insist(lambda: _read_all(store.open_versioned(location), uri, max_bytes))


def _read_all(opened: Opened, uri: str, max_bytes: int | None) -> tuple[bytes, str]:
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


def put(uri: str, data: bytes, *, create_only: bool = False) -> None:
    """Store bytes atomically and durably, making folders as needed.

    With `create_only` an object with other content stays as it is and `Exists` is raised; equal
    content is success, whoever wrote it.
    """
    store, location = _resolve(uri)
    try:
        store.put(location, data, create_only)
    except Exists:  # whatever it holds: it may be ours, after a lost reply
        if get(uri) != data:
            raise


def list_entries(uri_prefix: str, *, starting: str = "") -> Iterator[Entry]:
    """All objects below a folder, in UTF-8 order of their keys; `starting` begins their paths.

    A prefix without objects and a folder that is not there yield nothing; a missing bucket is
    `NoBucket`, raised while iterating.
    """
    store, location = _resolve(uri_prefix)
    return store.list_entries(location, starting)


def expand(uri: str) -> tuple[str, Iterator[Entry]]:
    """The folder before a pattern, and what matches below, streaming, in UTF-8 key order."""
    pattern = parse_glob(uri)
    found = list_entries(pattern.root, starting=pattern.start)
    return pattern.root, (e for e in found if pattern.matches(relative(e.uri, pattern.root)))


def exists(uri: str) -> bool:
    """Whether there is an object of this name, by its first byte."""
    with suppress(NotFound), open_from(uri, 0, "", 1).stream as stream:
        stream.read(1)
        return True
    return False


def delete(uri: str) -> None:
    """Remove an object; one that is absent already is no error."""
    store, location = _resolve(uri)
    store.delete(location)


def open_write(uri: str) -> AbstractContextManager[BinaryIO]:
    """A stream for a large result, which replaces the object at once on leaving without an error.

    After an error the object is what it was before. The stream is that of a local file, and its
    name is the path, for who writes by paths.
    """
    store, location = _resolve(uri)
    return store.open_write(location)


def open_from(uri: str, start: int, version: str, end: int | None = None) -> Opened:
    """An object from byte `start` to before `end` if it is still of `version`; all of it where it
    has changed, or its store gives no part. An unknown version, "", is any to which a part from
    byte 0 belongs; local files are open to their end."""
    store, location = _resolve(uri)
    part = start if version else 0, version, end
    return _insist(lambda: store.open_versioned(location, *part))


@contextmanager
def open_read(uri: str) -> Iterator[BinaryIO]:
    """A stream over one object's bytes."""
    with open_from(uri, 0, "").stream as stream:
        yield stream


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
