"""`s3://bucket/key` on AWS and on stores that speak its protocol."""

import io
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from botocore.exceptions import BotoCoreError
from s3transfer.manager import TransferManager

from storage import CHUNK, Entry, Opened, backoff, disk, range_asked, range_given
from storage.errors import Denied, Exists, NotFound, StorageError, Unavailable
from storage.s3_clients import answered, ask, client_for, max_attempts, translating
from storage.uris import Location, as_folder, join, parse

logger = logging.getLogger(__name__)

# Endpoint and bucket → whether it honours If-None-Match.
_conditional: dict[tuple[str, str], bool] = {}


def open_versioned(
    location: Location, start: int = 0, version: str = "", end: int | None = None
) -> Opened:
    part: dict[str, Any] = {"Range": range_asked(start, end)} if start or end else {}
    part |= {"IfMatch": f'"{version}"'} if version else {}
    try:
        answer = ask(location, "get_object", **part)
    except StorageError as error:
        if part and answered(error.__cause__)[1] in (412, 416):  # it changed, or is empty
            return open_versioned(location)
        raise
    reader = _Reader(location, answer)
    stream = io.BufferedReader(reader, CHUNK)
    return Opened(stream, reader.size, version_of(answer), reader.start, reader.end)


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


def delete(location: Location) -> None:
    ask(location, "delete_object", writing=True)


@contextmanager
def open_write(location: Location) -> Iterator[BinaryIO]:
    """A temporary file, sent once it is whole; a large one in parts, unseen until all are there."""
    with disk.translating("TMPDIR", writing=True):
        made = tempfile.TemporaryDirectory(prefix="maskmill-upload-")
    with made as folder:
        path = os.path.join(folder, "whole")
        with disk.open_write(parse(path)) as stream:
            yield stream
        try:
            _upload(location, path)
        except StorageError as error:
            # The reply to our own completion may have been lost and the request repeated.
            if answered(error.__cause__)[0] != "NoSuchUpload":
                raise
            _upload(location, path)


def _upload(location: Location, path: str) -> None:
    with translating(location, writing=True), TransferManager(client_for(location)) as transfers:
        transfers.upload(path, location.host, location.path).result()


def _write(location: Location, data: bytes, **conditions: str) -> None:
    ask(location, "put_object", writing=True, Body=data, **conditions)


def put(location: Location, data: bytes, create_only: bool) -> None:
    """With `create_only` a key that is taken is left as it is.

    The first such write to a bucket is also the probe: it is sent twice, and a store that has
    conditional writes refuses the second. That leaves nothing behind and needs no other permission.
    """
    target = (client_for(location).meta.endpoint_url, location.host)
    if not create_only or _conditional.get(target):
        _write(location, data, **({"IfNoneMatch": "*"} if create_only else {}))
        return
    # Without the right to list, AWS answers 403 for what does not exist.
    with suppress(NotFound, *([] if target in _conditional else [Denied])):
        open_versioned(location, end=1).stream.close()
        raise Exists(location.uri)
    if target in _conditional:
        _write(location, data)
    else:
        _probe(location, data, target)


def _probe(location: Location, data: bytes, target: tuple[str, str]) -> None:
    """Raises Exists where conditions are honoured, and so for what it has written itself too."""
    try:
        _write(location, data, IfNoneMatch="*")
        _write(location, data, IfNoneMatch="*")
    except Exists:
        _conditional[target] = True
        raise
    except StorageError as error:
        if answered(error.__cause__)[1] not in (400, 501):
            raise
        _write(location, data)  # conditions are refused as such
    _conditional[target] = False
    logger.warning("s3://%s has no conditional writes: the last writer wins", location.host)


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
            try:
                chunk = self._body.read(len(buffer))  # it counts, and raises for an early end
                break
            except (BotoCoreError, OSError) as error:
                self._open_again(error)
        buffer[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)

    def _open_again(self, cause: Exception) -> None:
        self._body.close()
        self._breaks += 1
        if self._breaks >= max_attempts():
            raise Unavailable(self._location.uri, "breaks off again and again") from cause
        time.sleep(backoff(self._breaks))
        rest = range_asked(self._position, self.end)
        self._body = ask(self._location, "get_object", Range=rest, **self._same)["Body"]

    def close(self) -> None:
        self._body.close()
        super().close()
