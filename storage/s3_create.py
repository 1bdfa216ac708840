"""Create-only writes to S3, on stores with conditional writes and on those without.

The first create-only write to a bucket is also the probe: it is sent twice, and a store that has
conditional writes refuses the second. That leaves nothing behind and needs no other permission.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from botocore.exceptions import ClientError

from storage.errors import Denied, Exists, NotFound, Unavailable
from storage.s3_clients import client_for
from storage.s3_errors import status_of, translating
from storage.s3_reads import open_object
from storage.streams import backoff, read_all
from storage.uris import Location

logger = logging.getLogger(__name__)

_ROUNDS = 10

_conditional: dict[tuple[str, str], bool] = {}
"""Endpoint and bucket → whether it honours If-None-Match."""


def create(location: Location, data: bytes) -> None:
    """Write unless the key is taken; taken by equal content is success, by other is `Exists`."""
    client = client_for(location)
    target = (client.meta.endpoint_url, location.host)
    if _conditional.get(target):
        _write_if_absent(client, location, data, probing=False)
        return
    known = target in _conditional
    try:
        if _holds(location, data):
            return
    except Denied:
        # Without the right to list, AWS answers 403 for what does not exist.
        if known:
            raise
    if known:
        write(location, data)
    else:
        _conditional[target] = _probe(client, location, data)


def write(location: Location, data: bytes) -> None:
    with translating(location, writing=True):
        client_for(location).put_object(Bucket=location.host, Key=location.path, Body=data)


def _probe(client: Any, location: Location, data: bytes) -> bool:
    try:
        for _ in range(2):
            if not _write_if_absent(client, location, data, probing=True):
                return True
    except _NotSupported:
        write(location, data)
    logger.warning(
        "s3://%s has no conditional writes: of two writers at once the last one wins",
        location.host,
    )
    return False


def _write_if_absent(client: Any, location: Location, data: bytes, *, probing: bool) -> bool:
    """Whether this call wrote the object; False where it was there already with equal content.

    The latter is also what a lost reply to our own write looks like, since botocore tries again.
    """
    for attempt in range(_ROUNDS):
        try:
            with translating(location, writing=True):
                _conditional_put(client, location, data, probing)
            return True
        except _Taken as error:
            if _holds(location, data, error):
                return False
        except _Conflict:
            time.sleep(backoff(attempt))
    raise Unavailable(location.uri, "could not be written: other writers keep getting in the way")


class _NotSupported(Exception):
    """The probe's conditional write is refused as such."""


class _Taken(Exception):
    """412: the key exists, with unknown content."""


class _Conflict(Exception):
    """409: another conditional write to the key is under way."""


def _conditional_put(client: Any, location: Location, data: bytes, probing: bool) -> None:
    try:
        client.put_object(Bucket=location.host, Key=location.path, Body=data, IfNoneMatch="*")
    except ClientError as error:
        status = status_of(error)
        if status == 412:
            raise _Taken from error
        if status == 409:
            raise _Conflict from error
        if probing and status in (400, 501):
            raise _NotSupported from error
        raise


def _holds(location: Location, data: bytes, cause: Exception | None = None) -> bool:
    """Whether the key holds `data`; False where it is absent, `Exists` for other content."""
    try:
        opened = open_object(location)
        if opened.size == len(data) and read_all(opened, location.uri, None)[0] == data:
            return True
    except NotFound:
        return False
    opened.stream.close()
    raise Exists(location.uri) from cause
