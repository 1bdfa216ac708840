"""The operating system's errors as ours."""

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from storage import errors

LINK_UNSUPPORTED = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})

NO_FILE = "is refused: it is a device, a socket or a pipe"

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_UNUSABLE = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EILSEQ})


@contextmanager
def translating(uri: str, *, writing: bool = False) -> Iterator[None]:
    try:
        yield
    except errors.StorageError:
        raise
    except OSError as error:
        raise translated(uri, error, writing) from error


def translated(uri: str, error: OSError, writing: bool) -> errors.StorageError:
    code = error.errno
    if code in _FULL:
        return errors.Full(uri)
    if code in _UNUSABLE:
        return errors.BadUri(uri, "is not a usable path: too long, or links in a circle")
    if writing and code in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY):
        return errors.NotWritable(uri, "may not be written: a folder or a file is in the way")
    if code == errno.EISDIR:
        return errors.NotFound(uri, "is a folder, not a file")
    if code in _DENIED:
        return errors.NotWritable(uri) if writing else errors.Denied(uri)
    if code in _ABSENT:
        return errors.NotFound(uri)
    if code == errno.ENXIO:
        return errors.Refused(uri, NO_FILE)
    verb, name = "written" if writing else "read", errno.errorcode.get(code or 0, "no error code")
    return errors.Unavailable(uri, f"could not be {verb}: the system says {name}")


class MappedFile(io.FileIO):
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
