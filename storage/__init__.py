"""Where bytes live: plain paths, S3 and HTTP behind verbs over URIs. The scheme names the store.

Errors are those of `storage.errors` only. Stores are imported when first used, so that importing
this package stays cheap.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module
from typing import Any, BinaryIO, Protocol, TypeVar, cast

from storage.errors import Exists, Interrupted, NotFound
from storage.streams import Entry as Entry
from storage.streams import Opened, backoff, read_all
from storage.uris import Location, parse

Result = TypeVar("Result")

_ATTEMPTS = 4


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
    return _insist(lambda: read_all(store.open_versioned(location), uri, max_bytes))


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
