"""`http(s)://` inputs, read only."""

import io
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any, BinaryIO, NoReturn

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from storage import CHUNK, Entry, Opened, range_asked, range_given
from storage.errors import BadUri, Denied, Expired, Interrupted, NotFound, NotWritable, Unreachable
from storage.http_requests import follow, hang_up_after
from storage.settings import http_settings
from storage.uris import Location

_ERROR_BYTES = 4096
_EXPIRED = (b"expired", b"not valid in the specified time frame", b"signed expiry time")
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


def open_versioned(
    location: Location, start: int = 0, version: str = "", end: int | None = None
) -> Opened:
    """What is asked for of an object that is still of `version`; else all of it, from 0."""
    asked = _part(start, version, end)
    answer = follow(location, asked)
    body: BinaryIO = io.BufferedReader(_Body(location.uri, answer), CHUNK)
    found = answer.headers.get("ETag", "").strip('"') or answer.headers.get("Last-Modified", "")
    if answer.status == 200:
        size = answer.headers.get("Content-Length", "")
        return Opened(body, int(size) if size.isdigit() else None, found)
    given = range_given(answer.headers.get("Content-Range", ""))
    if asked and answer.status == 206 and given and given[0] == start:
        if end is not None:  # in memory, so that one that breaks off is asked for once more
            with body:
                body = io.BytesIO(body.read(min(given[1], end) - start))
        return Opened(body, given[2], version or found, start, given[1])
    with closing(body):
        if not asked:
            raise _refusal(location, answer)
    return open_versioned(location)


def list_entries(location: Location, starting: str) -> Iterator[Entry]:
    raise BadUri(location.uri, "cannot be listed: HTTP knows no folders")


def put(location: Location, *_: object) -> NoReturn:
    raise NotWritable(location.uri, "may not be written: HTTP is for inputs only")


delete = open_write = put


def _part(start: int, version: str, end: int | None) -> dict[str, str]:
    """The headers that ask for a part, where those of two versions cannot be mixed up."""
    if version.startswith("W/") or not (start or end):  # a weak ETag does not mean equal bytes
        return {}
    unless = version if version.endswith(" GMT") else f'"{version}"'
    return {"Range": range_asked(start, end)} | ({"If-Range": unless} if version else {})


def _refusal(location: Location, answer: BaseHTTPResponse) -> Exception:
    uri, status = location.uri, answer.status
    if status in (404, 410):
        return NotFound(uri)
    if status in _TRY_AGAIN:
        return Interrupted(uri, "could not be read: its server is out of order or overloaded")
    if status in (400, 401, 403):
        with suppress(HTTPError):
            said = answer.read(_ERROR_BYTES).lower()
            if any(phrase in said for phrase in _EXPIRED):
                return Expired(uri)
    if status in (401, 403, 407, 451):
        return Denied(uri)
    return Unreachable(uri, f"could not be read: its server answered with status {status}")


class _Body(io.RawIOBase):
    """A response's body under a deadline: no server can hold a worker by dripping bytes."""

    def __init__(self, uri: str, answer: BaseHTTPResponse) -> None:
        self._uri = uri
        self._answer = answer
        seconds = http_settings().deadline
        self._deadline = time.monotonic() + seconds
        self._timer = hang_up_after(seconds, answer.connection)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            chunk = self._answer.read1(len(buffer))
        except (HTTPError, OSError) as error:
            raise self._broken() from error
        if time.monotonic() > self._deadline:
            raise self._broken()
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def _broken(self) -> Unreachable:
        if time.monotonic() > self._deadline:
            return Unreachable(self._uri, "could not be read within the time limit")
        return Interrupted(self._uri, "could not be read: the connection broke off")

    def close(self) -> None:
        self._timer.cancel()
        self._answer.close()
        super().close()
