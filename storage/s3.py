"""`s3://bucket/key` on AWS and on stores that speak its protocol; here what is written."""

import io
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, cast

from storage.errors import Denied, Exists, NotFound, StorageError
from storage.s3_clients import ask, client_for
from storage.s3_errors import code_of, status_of
from storage.s3_reads import get_versioned as get_versioned
from storage.s3_reads import list_entries as list_entries
from storage.s3_reads import open_versioned as open_versioned
from storage.uris import Location

logger = logging.getLogger(__name__)

PART_BYTES = 16 << 20  # S3 takes 10,000 parts, so up to 160 GB
_UPLOAD = "maskmill-upload"  # user metadata: which upload made the object

_conditional: dict[tuple[str, str], bool] = {}
"""Endpoint and bucket → whether it honours If-None-Match."""


def put(location: Location, data: bytes, create_only: bool) -> None:
    if create_only:
        _create(location, data)
    else:
        _write(location, data)


def delete(location: Location) -> None:
    ask(location, "delete_object", writing=True)


@contextmanager
def open_write(location: Location) -> Iterator[BinaryIO]:
    """A multipart upload with one part in memory, unseen until it is complete."""
    upload = _Upload(location)
    try:
        yield cast(BinaryIO, upload)
        upload.finish()
    except BaseException:
        upload.abort()
        raise


def _write(location: Location, data: bytes | bytearray, **conditions: str) -> None:
    ask(location, "put_object", writing=True, Body=data, **conditions)


def _create(location: Location, data: bytes) -> None:
    """Write unless the key is taken.

    The first such write to a bucket is also the probe: it is sent twice, and a store that has
    conditional writes refuses the second. That leaves nothing behind and needs no other permission.
    """
    target = (client_for(location).meta.endpoint_url, location.host)
    if _conditional.get(target):
        _write(location, data, IfNoneMatch="*")
        return
    # Without the right to list, AWS answers 403 for what does not exist.
    with suppress(NotFound, *([] if target in _conditional else [Denied])):
        open_versioned(location, end=1).stream.close()
        raise Exists(location.uri)
    if target in _conditional:
        _write(location, data)
    else:
        _conditional[target] = _probe(location, data)


def _probe(location: Location, data: bytes) -> bool:
    for is_there in (False, True):
        try:
            _write(location, data, IfNoneMatch="*")
        except Exists:
            if is_there:
                return True
            raise
        except StorageError as error:
            if status_of(error.__cause__) not in (400, 501):
                raise
            _write(location, data)  # conditions are refused as such
            break
    logger.warning(
        "s3://%s has no conditional writes: of two writers at once the last one wins", location.host
    )
    return False


class _Upload(io.RawIOBase):
    """Sends a part whenever one is full; what fits into one part is a single put."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._mark = secrets.token_hex(8)
        self._begun: dict[str, str] = {}  # which upload it is, from the first part on
        self._part = bytearray()
        self._sent: list[dict[str, Any]] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._part += data
        while len(self._part) >= PART_BYTES:
            self._send_part()
        return memoryview(data).nbytes

    def finish(self) -> None:
        if not self._begun:
            _write(self._location, self._part)
            return
        if self._part:
            self._send_part()
        try:
            self._ask("complete_multipart_upload", MultipartUpload={"Parts": self._sent})
        except StorageError as error:
            # The reply to our own completion may have been lost and the request repeated.
            if code_of(error.__cause__) != "NoSuchUpload" or not self._is_stored():
                raise

    def abort(self) -> None:
        """Drop what was sent. What a lost connection leaves, the bucket's own rule for incomplete
        uploads removes."""
        if self._begun:
            try:
                self._ask("abort_multipart_upload")
            except StorageError as error:
                logger.warning("an incomplete upload stays behind: %s", error)

    def _send_part(self) -> None:
        if not self._begun:
            begun = self._ask("create_multipart_upload", Metadata={_UPLOAD: self._mark})
            self._begun = {"UploadId": begun["UploadId"]}
        part = {"PartNumber": len(self._sent) + 1}
        answer = self._ask("upload_part", Body=self._part[:PART_BYTES], **part)
        self._sent.append(part | {"ETag": answer["ETag"]})
        del self._part[:PART_BYTES]

    def _is_stored(self) -> bool:
        stored = ask(self._location, "head_object")
        return bool(stored["Metadata"].get(_UPLOAD) == self._mark)

    def _ask(self, operation: str, **arguments: Any) -> Any:
        return ask(self._location, operation, writing=True, **self._begun, **arguments)
