"""`http(s)://` inputs, read only."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from storage.errors import BadUri, Denied, Expired, NotFound, NotWritable, Unreachable
from storage.http_connections import hang_up_after
from storage.http_requests import Interrupted, follow
from storage.presigned import has_expired
from storage.settings import http_settings
from storage.streams import CHUNK, Entry, Opened, backoff, read_all
from storage.uris import Location

Result = TypeVar("Result")

_ATTEMPTS = 4
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_ERROR_BYTES = 4096
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


def open_versioned(location: Location) -> Opened:
    deadline = time.monotonic() + http_settings().deadline
    return _insist(lambda: _open(location, deadline))


def open_from(location: Location, start: int, version: str) -> tuple[int, Opened]:
    """The rest of an object that is still of `version`, from `start`; else all of it, from 0."""
    deadline = time.monotonic() + http_settings().deadline
    if start and version and not version.startswith("W/"):  # a weak ETag does not mean equal bytes
        is_date = version.endswith(" GMT")
        unless = {"Range": f"bytes={start}-", "If-Range": version if is_date else f'"{version}"'}
        answer = _insist(lambda: follow(location, unless))
        said = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if answer.status == 206 and said is not None and int(said[1]) == start:
            body = _Body(location.uri, answer, deadline)
            return start, Opened(io.BufferedReader(body, CHUNK), int(said[2]), version)
        answer.close()
    return 0, _insist(lambda: _open(location, deadline))


def get_versioned(location: Location, max_bytes: int | None) -> tuple[bytes, str]:
    deadline = time.monotonic() + http_settings().deadline
    return _insist(lambda: read_all(_open(location, deadline), location.uri, max_bytes))


def require(location: Location) -> None:
    """By a GET whose body is not read, for a presigned URL is good for one method only."""
    open_versioned(location).stream.close()


def list_entries(location: Location, starting: str) -> Iterator[Entry]:
    raise BadUri(location.uri, "cannot be listed: HTTP knows no folders")


def put(location: Location, *_: object) -> NoReturn:
    raise NotWritable(location.uri, "may not be written: HTTP is for inputs only")


delete = open_write = put


def _insist(action: Callable[[], Result]) -> Result:
    """Try again after what may pass, a bounded number of times."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return action()
        except Interrupted:
            time.sleep(backoff(attempt))
    return action()


def _open(location: Location, deadline: float) -> Opened:
    answer = follow(location)
    if answer.status != 200:
        try:
            raise _refusal(location, answer)
        finally:
            answer.close()
    size = answer.headers.get("Content-Length", "")
    version = answer.headers.get("ETag", "").strip('"') or answer.headers.get("Last-Modified", "")
    body = _Body(location.uri, answer, deadline)
    return Opened(io.BufferedReader(body, CHUNK), int(size) if size.isdigit() else None, version)


def _refusal(location: Location, answer: BaseHTTPResponse) -> Exception:
    uri, status = location.uri, answer.status
    if status in (404, 410):
        return NotFound(uri)
    if status in _TRY_AGAIN:
        return Interrupted(uri, "could not be read: its server is out of order or overloaded")
    if status in (400, 401, 403):
        try:
            body = answer.read(_ERROR_BYTES)
        except HTTPError:
            body = b""
        if has_expired(urlsplit(uri).query, body, datetime.now(timezone.utc)):
            return Expired(uri)
    if status in (401, 403, 407, 451):
        return Denied(uri)
    return Unreachable(uri, f"could not be read: its server answered with status {status}")


class _Body(io.RawIOBase):
    """A response's body under a deadline: no server can hold a worker by dripping bytes."""

    def __init__(self, uri: str, answer: BaseHTTPResponse, deadline: float) -> None:
        self._uri = uri
        self._answer = answer
        self._deadline = deadline
        self._missing = answer.length_remaining
        left = max(0.0, deadline - time.monotonic())
        self._timer = hang_up_after(left, answer.connection)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            chunk = self._answer.read1(len(buffer))
        except (HTTPError, OSError) as error:
            raise self._broken() from error
        if self._missing is not None:
            self._missing -= len(chunk)
            if not chunk and self._missing > 0:
                raise self._broken()
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
