"""Large results to S3: a multipart upload with one part in memory, unseen until it is complete."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from botocore.exceptions import ClientError

from storage.errors import StorageError
from storage.s3_clients import client_for
from storage.s3_create import write
from storage.s3_errors import code_of, translating
from storage.s3_reads import version_of
from storage.uris import Location

logger = logging.getLogger(__name__)

PART_BYTES = 16 << 20  # S3 takes 10,000 parts, so up to 160 GB


@contextmanager
def open_write(location: Location) -> Iterator[BinaryIO]:
    upload = _Upload(location)
    stream = io.BufferedWriter(upload, 1 << 20)
    try:
        yield stream
        stream.close()
        upload.finish()
    finally:
        upload.abort()
        stream.close()


class _Upload(io.RawIOBase):
    """Sends a part whenever one is full; what fits into one part is a single put."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._client = client_for(location)
        self._names = {"Bucket": location.host, "Key": location.path}
        self._part = bytearray()
        self._upload_id: str | None = None
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
        if self._upload_id is None:
            write(self._location, bytes(self._part))
        else:
            if self._part:
                self._send_part()
            self._complete(self._upload_id)
        self._is_over = True

    def abort(self) -> None:
        """Drop what was sent, unless finished. What a lost connection leaves, the bucket's own
        rule for incomplete uploads removes."""
        if self._upload_id is not None and not self._is_over:
            try:
                with translating(self._location, writing=True):
                    self._client.abort_multipart_upload(**self._names, UploadId=self._upload_id)
            except StorageError as error:
                logger.warning("an incomplete upload stays behind: %s", error)
        self._is_over = True

    def _send_part(self) -> None:
        with translating(self._location, writing=True):
            if self._upload_id is None:
                answer = self._client.create_multipart_upload(**self._names)
                self._upload_id = answer["UploadId"]
            number = len(self._sent) + 1
            answer = self._client.upload_part(
                **self._names, UploadId=self._upload_id, PartNumber=number, Body=bytes(self._part)
            )
        self._sent.append({"PartNumber": number, "ETag": answer["ETag"]})
        self._part = bytearray()

    def _complete(self, upload_id: str) -> None:
        with translating(self._location, writing=True):
            try:
                self._client.complete_multipart_upload(
                    **self._names, UploadId=upload_id, MultipartUpload={"Parts": self._sent}
                )
            except ClientError as error:
                # The reply to our own completion may have been lost and the request repeated.
                if code_of(error) != "NoSuchUpload" or not self._is_stored():
                    raise

    def _is_stored(self) -> bool:
        stored = version_of(self._client.head_object(**self._names))
        return stored == _etag_of_parts([version_of(part) for part in self._sent])


def _etag_of_parts(etags: list[str]) -> str | None:
    """The ETag of an upload: the MD5 of its parts' MD5s and their number; None if opaque."""
    try:
        joined = bytes.fromhex("".join(etags))
    except ValueError:
        return None
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(etags)}"
