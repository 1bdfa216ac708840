"""Plain paths and `file://`: durable writes by temporary file, fsync and one atomic step."""

from __future__ import annotations

import errno
import io
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import BinaryIO

from storage.disk_errors import LINK_UNSUPPORTED, NO_FILE, MappedFile, translating
from storage.disk_listing import TEMPORARY, version_of, walk
from storage.entries import Entry
from storage.errors import Exists, NotFound, Refused
from storage.streams import Opened, read_all
from storage.uris import Location, shown

logger = logging.getLogger(__name__)


def open_versioned(location: Location) -> Opened:
    with translating(location.uri):
        # Without O_NONBLOCK the open of a FIFO would wait for a writer for ever.
        descriptor = os.open(location.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    facts = os.fstat(descriptor)
    try:
        _require_file(location.uri, facts)
    except BaseException:
        os.close(descriptor)
        raise
    stream = io.BufferedReader(MappedFile(location.uri, descriptor, "rb"))
    return Opened(stream, facts.st_size, version_of(facts))


def get_versioned(location: Location, max_bytes: int | None) -> tuple[bytes, str]:
    return read_all(open_versioned(location), location.uri, max_bytes)


def head(location: Location) -> Entry:
    with translating(location.uri):
        facts = os.stat(location.path)
    _require_file(location.uri, facts)
    return Entry(location.uri, facts.st_size, version_of(facts))


def list_entries(location: Location, starting: str) -> Iterator[Entry]:
    return walk(location, starting)


def put(location: Location, data: bytes, create_only: bool) -> None:
    with translating(location.uri, writing=True):
        temporary = _temporary_beside(location.path)
        try:
            _write_durably(temporary, data)
            if create_only:
                _create(location, temporary, data)
            else:
                os.replace(temporary, location.path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        _sync(os.path.dirname(location.path) or ".")


def delete(location: Location) -> None:
    with translating(location.uri, writing=True), suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(location.path)


@contextmanager
def open_write(location: Location) -> Iterator[BinaryIO]:
    with translating(location.uri, writing=True):
        temporary = _temporary_beside(location.path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    stream = io.BufferedWriter(MappedFile(location.uri, descriptor, "wb"), 1 << 20)
    try:
        yield stream
        stream.close()
        with translating(location.uri, writing=True):
            _sync(temporary)
            os.replace(temporary, location.path)
            _sync(os.path.dirname(location.path) or ".")
    finally:
        _discard(stream, temporary)


def _require_file(uri: str, facts: os.stat_result) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise NotFound(uri, "is a folder, not a file")
    if not stat.S_ISREG(facts.st_mode):
        raise Refused(uri, NO_FILE)


def _create(location: Location, temporary: str, data: bytes) -> None:
    """Give `temporary` its final name unless that is taken; taken by equal content is well."""
    try:
        os.link(temporary, location.path)
    except FileExistsError as error:
        _require_equal(location, data, error)
    except OSError as error:
        if error.errno not in LINK_UNSUPPORTED:
            raise
        _create_without_links(location, temporary, data)


def _create_without_links(location: Location, temporary: str, data: bytes) -> None:
    """FAT and some network file systems have no hard links: look first, then rename."""
    _warn_of_races(os.path.dirname(location.path))
    if os.path.lexists(location.path):
        _require_equal(location, data, None)
    else:
        os.replace(temporary, location.path)


@lru_cache
def _warn_of_races(folder: str) -> None:
    logger.warning(
        "%s is on a file system without hard links: of two writers at once the last one wins",
        shown(folder),
    )


def _require_equal(location: Location, data: bytes, cause: Exception | None) -> None:
    if head(location).size != len(data) or get_versioned(location, None)[0] != data:
        raise Exists(location.uri) from cause


def _temporary_beside(path: str) -> str:
    """A new name in the folder of `path`, which is made, durably, where it is missing."""
    folder = os.path.dirname(path) or "."
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder) or "."
    for folder in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(folder)
        _sync(os.path.dirname(folder) or ".")
    return os.path.join(os.path.dirname(path), TEMPORARY + secrets.token_hex(8))


def _write_durably(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _discard(stream: BinaryIO, temporary: str) -> None:
    """Close and remove what a failed write left; a full disk fails the flush once more."""
    with suppress(OSError):
        stream.close()
    with suppress(FileNotFoundError):
        os.unlink(temporary)
