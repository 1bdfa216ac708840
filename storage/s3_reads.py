"""Reading S3 objects through broken connections."""

from __future__ import annotations

import io
import time
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from storage.errors import Unavailable
from storage.s3_clients import client_for
from storage.s3_errors import status_of, translating
from storage.settings import s3_settings
from storage.streams import CHUNK, Opened, backoff
from storage.uris import Location


def open_versioned(location: Location) -> Opened:
    with translating(location):
        answer = client_for(location).get_object(Bucket=location.host, Key=location.path)
    reader = _Reader(location, answer)
    return Opened(io.BufferedReader(reader, CHUNK), reader.size, version_of(answer))


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
        self._etag = answer.get("ETag")
        self.size = int(answer["ContentLength"]) if "ContentLength" in answer else None
        self._position = 0
        self._breaks = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            cause: Exception | None = None
            try:
                chunk = self._body.read(len(buffer))
                if chunk or not buffer or self._position == (self.size or self._position):
                    buffer[: len(chunk)] = chunk
                    self._position += len(chunk)
                    return len(chunk)
            except (BotoCoreError, OSError) as error:
                cause = error
            self._open_again(cause)

    def _open_again(self, cause: Exception | None) -> None:
        self._body.close()
        self._breaks += 1
        if self._breaks >= s3_settings().max_attempts:
            raise Unavailable(
                self._location.uri, "could not be read: the connection breaks off again and again"
            ) from cause
        time.sleep(backoff(self._breaks))
        with translating(self._location):
            try:
                self._body = client_for(self._location).get_object(
                    Bucket=self._location.host,
                    Key=self._location.path,
                    Range=f"bytes={self._position}-",
                    **({"IfMatch": self._etag} if self._etag else {}),
                )["Body"]
            except ClientError as error:
                if status_of(error) != 412:
                    raise
                raise Unavailable(self._location.uri, "changed while it was read") from error

    def close(self) -> None:
        self._body.close()
        super().close()
