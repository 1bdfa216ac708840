"""Reading and listing S3 objects, through broken connections too."""

import io
import time
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import BotoCoreError

from storage.errors import StorageError, Unavailable
from storage.s3_clients import ask, client_for, max_attempts
from storage.s3_errors import status_of, translating
from storage.streams import CHUNK, Entry, Opened, backoff, range_asked, range_given, read_all
from storage.uris import Location, as_folder, join


def open_versioned(
    location: Location, start: int = 0, version: str = "", end: int | None = None
) -> Opened:
    part: dict[str, Any] = {"Range": range_asked(start, end)} if start or end else {}
    part |= {"IfMatch": f'"{version}"'} if version else {}
    try:
        answer = ask(location, "get_object", **part)
    except StorageError as error:
        if part and status_of(error.__cause__) in (412, 416):  # it changed, or is empty
            return open_versioned(location)
        raise
    reader = _Reader(location, answer)
    stream = io.BufferedReader(reader, CHUNK)
    return Opened(stream, reader.size, version_of(answer), reader.start, reader.end)


def get_versioned(location: Location, max_bytes: int | None) -> tuple[bytes, str]:
    return read_all(open_versioned(location), location.uri, max_bytes)


def list_entries(location: Location, starting: str) -> Iterator[Entry]:
    """Keys that end in a slash are folders made by a console, not objects."""
    folder = as_folder(location.path)
    listing = client_for(location).get_paginator("list_objects_v2")
    with translating(location):
        for page in listing.paginate(Bucket=location.host, Prefix=folder + starting):
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):
                    uri = join(location.uri, found["Key"][len(folder) :])
                    yield Entry(uri, int(found["Size"]), version_of(found))


def version_of(answer: dict[str, Any]) -> str:
    """An ETag without its quotes, as listings and answers may differ in them."""
    return str(answer.get("ETag", "")).strip('"')


class _Reader(io.RawIOBase):
    """An object's body, asked for again from where it broke off, a bounded number of times.

    botocore retries requests but not bodies. `IfMatch` keeps two versions from being mixed.
    """

    def __init__(self, location: Location, answer: dict[str, Any]) -> None:
        self._location = location
        self._body = answer["Body"]
        self._same = {"IfMatch": answer["ETag"]} if "ETag" in answer else {}
        length = int(answer["ContentLength"]) if "ContentLength" in answer else None
        part = range_given(answer.get("ContentRange", ""))
        self.start, self.end, self.size = part or (0, length, length)
        self._position = self.start
        self._breaks = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            cause: Exception | None = None
            try:
                chunk = self._body.read(len(buffer))
                if chunk or not buffer or self._position == (self.end or self._position):
                    buffer[: len(chunk)] = chunk
                    self._position += len(chunk)
                    return len(chunk)
            except (BotoCoreError, OSError) as error:
                cause = error
            self._open_again(cause)

    def _open_again(self, cause: Exception | None) -> None:
        self._body.close()
        self._breaks += 1
        if self._breaks >= max_attempts():
            raise Unavailable(
                self._location.uri, "could not be read: the connection breaks off again and again"
            ) from cause
        time.sleep(backoff(self._breaks))
        rest = range_asked(self._position, self.end)
        self._body = ask(self._location, "get_object", Range=rest, **self._same)["Body"]

    def close(self) -> None:
        self._body.close()
        super().close()
