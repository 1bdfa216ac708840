"""Plain paths and `file://`: durable writes by temporary file, fsync and one atomic step."""

import errno
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from storage import Entry, Opened, errors
from storage.uris import Location, as_folder, join, storable

_TEMPORARY = ".maskmill-tmp-"

_NO_FILE = "is refused: it is a device, a socket or a pipe"


def open_versioned(
    location: Location, start: int = 0, version: str = "", _: int | None = None
) -> Opened:
    with translating(location.uri):
        file = _MappedFile(location.uri, location.path, "rb", opener=_at_once)
    facts = os.fstat(file.fileno())
    if not stat.S_ISREG(facts.st_mode):
        file.close()
        raise errors.Refused(location.uri, _NO_FILE)
    stream, found = io.BufferedReader(file), _version_of(facts)
    return Opened(stream, facts.st_size, found, stream.seek(start if found == version else 0))


def _at_once(path: str, flags: int) -> int:
    """Without O_NONBLOCK the open of a FIFO would wait for a writer for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def put(location: Location, data: bytes, create_only: bool) -> None:
    with open_write(location, only_new=create_only) as stream:
        stream.write(data)


def delete(location: Location) -> None:
    with translating(location.uri, writing=True), suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(location.path)


@contextmanager
def open_write(location: Location, only_new: bool = False) -> Iterator[BinaryIO]:
    """A stream into a temporary file, which gets its name once all of it is on the disk."""
    with translating(location.uri, writing=True):
        _make_folders(location.path)
        folder = os.path.dirname(location.path)
        temporary = os.path.join(folder, _TEMPORARY + secrets.token_hex(8))
        stream = io.BufferedWriter(_MappedFile(location.uri, temporary, "xb"), 1 << 17)
    try:
        yield stream
        stream.close()
        with translating(location.uri, writing=True):
            _sync(temporary)
            if only_new:
                _link(temporary, location)
            else:
                os.replace(temporary, location.path)
            _sync(folder or ".")
    finally:
        with suppress(OSError, errors.StorageError):  # a full disk fails the flush once more
            stream.close()
        with translating(location.uri, writing=True), suppress(FileNotFoundError):
            os.unlink(temporary)


def _version_of(facts: os.stat_result) -> str:
    return f"{facts.st_size}-{facts.st_mtime_ns}"


def _link(temporary: str, location: Location) -> None:
    """FAT and some network file systems have no hard links: look first, then rename.

    Of two writers at once the last one wins there.
    """
    try:
        os.link(temporary, location.path)
    except FileExistsError as error:
        raise errors.Exists(location.uri) from error
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if os.path.lexists(location.path):
            raise errors.Exists(location.uri) from error
        os.replace(temporary, location.path)


def _make_folders(path: str) -> None:
    """Those that hold `path`, durably, where they are missing."""
    for folder in reversed([each for each in Path(path).parents if not os.path.isdir(each)]):
        with suppress(FileExistsError):
            os.mkdir(folder)
        _sync(folder.parent)


def _sync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def list_entries(location: Location, starting: str) -> Iterator[Entry]:
    """A folder's files, recursively, in the UTF-8 order of their whole paths, one folder in memory.

    Links to files and folders are followed, except a link to a folder that holds it, which would
    never end. A link to nothing is listed with version "absent", so that it becomes a failed input
    and does not vanish.
    """
    top = as_folder(location.path)
    # One level per open folder: what is left in it, and where it really is.
    levels = [(iter(_names(location, "", starting)), os.path.realpath(top))]
    while levels:
        path = next(levels[-1][0], None)
        if path is None:
            levels.pop()
        elif not path.endswith("/"):
            yield from _entry(location, top, path)
        elif (real := os.path.realpath(top + path)) not in [above for _, above in levels]:
            levels.append((iter(_names(location, path, starting)), real))


def _names(location: Location, folder: str, starting: str) -> list[str]:
    """Paths below the top of what is in `folder`; folders end in a slash, which sorts them."""
    with translating(join(location.uri, folder) if folder else location.uri):
        try:
            with os.scandir(as_folder(location.path) + folder) as found:
                paths = [folder + item.name + ("/" if item.is_dir() else "") for item in found]
        except (FileNotFoundError, NotADirectoryError):
            return []
    wanted = [path for path in paths if _may_match(path, starting)]
    return sorted(wanted, key=os.fsencode)


def _may_match(path: str, starting: str) -> bool:
    if path.rpartition("/")[2].startswith(_TEMPORARY):
        return False
    return path.startswith(starting) or (path.endswith("/") and starting.startswith(path))


def _entry(location: Location, top: str, path: str) -> Iterator[Entry]:
    uri = storable(join(location.uri, path))
    try:
        facts = os.stat(top + path)
    except OSError:
        if os.path.lexists(top + path):
            yield Entry(uri, 0, "absent")
        return
    if stat.S_ISREG(facts.st_mode):
        yield Entry(uri, facts.st_size, _version_of(facts))


@contextmanager
def translating(uri: str, *, writing: bool = False) -> Iterator[None]:
    try:
        yield
    except errors.StorageError:
        raise
    except OSError as error:
        raise _translated(uri, error, writing) from error


def _translated(uri: str, error: OSError, writing: bool) -> errors.StorageError:
    code = error.errno
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return errors.Full(uri)
    if code in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EILSEQ):
        return errors.BadUri(uri, "is not a usable path: too long, or links in a circle")
    if writing and code in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY):
        return errors.NotWritable(uri, "may not be written: a folder or a file is in the way")
    if code == errno.EISDIR:
        return errors.NotFound(uri, "is a folder, not a file")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY):
        return errors.NotWritable(uri) if writing else errors.Denied(uri)
    if code in (errno.ENOENT, errno.ENOTDIR):
        return errors.NotFound(uri)
    if code == errno.ENXIO:
        return errors.Refused(uri, _NO_FILE)
    verb, name = "written" if writing else "read", errno.errorcode.get(code or 0, "no error code")
    return errors.Unavailable(uri, f"could not be {verb}: the system says {name}")


class _MappedFile(io.FileIO):
    """A raw file whose errors are ours, since they come up in code that only knows a stream."""

    def __init__(self, uri: str, *file: Any, **options: Any) -> None:
        super().__init__(*file, **options)
        self._uri = uri

    def write(self, data: Any) -> int:
        with translating(self._uri, writing=True):
            return super().write(data)

    def readinto(self, buffer: Any) -> int:
        with translating(self._uri):
            return super().readinto(buffer)
