"""`s3://bucket/key` on AWS and on stores that speak its protocol; here what is written."""

import io
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from botocore.exceptions import ClientError

from storage.errors import Denied, Exists, NotFound, StorageError, Unavailable
from storage.s3_clients import client_for
from storage.s3_errors import code_of, status_of, translating
from storage.s3_reads import get_versioned as get_versioned
from storage.s3_reads import list_entries as list_entries
from storage.s3_reads import open_versioned as open_versioned
from storage.s3_reads import require as require
from storage.streams import backoff, holds
from storage.uris import Location

logger = logging.getLogger(__name__)

PART_BYTES = 16 << 20  # S3 takes 10,000 parts, so up to 160 GB
_ROUNDS = 10
_UPLOAD = "maskmill-upload"  # user metadata: which upload made the object

_conditional: dict[tuple[str, str], bool] = {}
"""Endpoint and bucket → whether it honours If-None-Match."""


def put(location: Location, data: bytes, create_only: bool) -> None:
    if create_only:
        _create(location, data)
    else:
        _write(location, data)


def delete(location: Location) -> None:
    with translating(location, writing=True):
        client_for(location).delete_object(Bucket=location.host, Key=location.path)


@contextmanager
def open_write(location: Location) -> Iterator[BinaryIO]:
    """A multipart upload with one part in memory, unseen until it is complete."""
    upload = _Upload(location)
    stream = io.BufferedWriter(upload, 1 << 20)
    try:
        yield stream
        stream.close()
        upload.finish()
    finally:
        upload.abort()
        stream.close()


def _write(location: Location, data: bytes, **conditions: str) -> None:
    with translating(location, writing=True):
        client_for(location).put_object(
            Bucket=location.host, Key=location.path, Body=data, **conditions
        )


def _create(location: Location, data: bytes) -> None:
    """Write unless the key is taken; taken by equal content is success, by other is `Exists`.

    The first such write to a bucket is also the probe: it is sent twice, and a store that has
    conditional writes refuses the second. That leaves nothing behind and needs no other permission.
    """
    target = (client_for(location).meta.endpoint_url, location.host)
    if _conditional.get(target):
        _write_if_absent(location, data)
        return
    try:
        if _is_there(location, data):
            return
    except Denied:
        # Without the right to list, AWS answers 403 for what does not exist.
        if target in _conditional:
            raise
    if target in _conditional:
        _write(location, data)
    else:
        _conditional[target] = _probe(location, data)


def _probe(location: Location, data: bytes) -> bool:
    try:
        if not (_write_if_absent(location, data) and _write_if_absent(location, data)):
            return True
    except StorageError as error:
        if status_of(error.__cause__) not in (400, 501):
            raise
        _write(location, data)  # conditions are refused as such
    logger.warning(
        "s3://%s has no conditional writes: of two writers at once the last one wins", location.host
    )
    return False


def _write_if_absent(location: Location, data: bytes) -> bool:
    """Whether this call wrote the object; False where it was there already with equal content.

    The latter is also what a lost reply to our own write looks like, since botocore tries again.
    """
    for attempt in range(_ROUNDS):
        try:
            _write(location, data, IfNoneMatch="*")
            return True
        except StorageError as error:
            # 412: the key exists, with unknown content; 409: another such write is under way
            status = status_of(error.__cause__)
            if status not in (409, 412):
                raise
            if status == 412 and _is_there(location, data):
                return False
        time.sleep(backoff(attempt))
    raise Unavailable(location.uri, "could not be written: other writers keep getting in the way")


def _is_there(location: Location, data: bytes) -> bool:
    """Whether the key holds `data`; False where it is absent, `Exists` for other content."""
    try:
        if holds(open_versioned(location), data):
            return True
    except NotFound:
        return False
    raise Exists(location.uri)


class _Upload(io.RawIOBase):
    """Sends a part whenever one is full; what fits into one part is a single put."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._client = client_for(location)
        self._names = {"Bucket": location.host, "Key": location.path}
        self._mark = secrets.token_hex(8)
        self._upload: dict[str, str] | None = None
        self._part = bytearray()
        self._sent: list[dict[str, Any]] = []
        self._is_over = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        while view and not self._is_over:
            taken = min(len(view), PART_BYTES - len(self._part))
            self._part += view[:taken]
            view = view[taken:]
            if len(self._part) == PART_BYTES:
                self._send_part()
        return memoryview(data).nbytes

    def finish(self) -> None:
        if self._upload is None:
            _write(self._location, bytes(self._part))
        else:
            if self._part:
                self._send_part()
            with translating(self._location, writing=True):
                self._complete(self._upload)
        self._is_over = True

    def abort(self) -> None:
        """Drop what was sent, unless finished. What a lost connection leaves, the bucket's own
        rule for incomplete uploads removes."""
        if self._upload is not None and not self._is_over:
            try:
                with translating(self._location, writing=True):
                    self._client.abort_multipart_upload(**self._upload)
            except StorageError as error:
                logger.warning("an incomplete upload stays behind: %s", error)
        self._is_over = True

    def _send_part(self) -> None:
        with translating(self._location, writing=True):
            if self._upload is None:
                begun = self._client.create_multipart_upload(
                    **self._names, Metadata={_UPLOAD: self._mark}
                )
                self._upload = self._names | {"UploadId": begun["UploadId"]}
            number = len(self._sent) + 1
            answer = self._client.upload_part(
                **self._upload, PartNumber=number, Body=bytes(self._part)
            )
        self._sent.append({"PartNumber": number, "ETag": answer["ETag"]})
        self._part.clear()

    def _complete(self, upload: dict[str, str]) -> None:
        try:
            self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": self._sent})
        except ClientError as error:
            # The reply to our own completion may have been lost and the request repeated.
            if code_of(error) != "NoSuchUpload":
                raise
            stored = self._client.head_object(**self._names)
            if stored["Metadata"].get(_UPLOAD) != self._mark:
                raise
