"""Create-only writes to S3, on stores with conditional writes and on those without.

The first create-only write to a bucket is also the probe: it is sent twice, and a store that has
conditional writes refuses the second. That leaves nothing behind and needs no other permission.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from botocore.exceptions import ClientError

from storage.errors import Denied, Exists, NotFound, StorageError, Unavailable
from storage.s3_clients import client_for
from storage.s3_errors import status_of, translating
from storage.s3_reads import open_versioned
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
        _write_if_absent(client, location, data)
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
            if not _write_if_absent(client, location, data):
                return True
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, ClientError) or status_of(cause) not in (400, 501):
            raise
        write(location, data)  # conditions are refused as such
    logger.warning(
        "s3://%s has no conditional writes: of two writers at once the last one wins", location.host
    )
    return False


def _write_if_absent(client: Any, location: Location, data: bytes) -> bool:
    """Whether this call wrote the object; False where it was there already with equal content.

    The latter is also what a lost reply to our own write looks like, since botocore tries again.
    """
    for attempt in range(_ROUNDS):
        status = _conditional_put(client, location, data)
        if status == 200:
            return True
        if status == 412 and _holds(location, data):
            return False
        time.sleep(backoff(attempt))
    raise Unavailable(location.uri, "could not be written: other writers keep getting in the way")


def _conditional_put(client: Any, location: Location, data: bytes) -> int:
    """200; 412 where the key exists, with unknown content; 409 while another such write runs."""
    with translating(location, writing=True):
        try:
            client.put_object(Bucket=location.host, Key=location.path, Body=data, IfNoneMatch="*")
        except ClientError as error:
            if status_of(error) not in (409, 412):
                raise
            return status_of(error)
    return 200


def _holds(location: Location, data: bytes) -> bool:
    """Whether the key holds `data`; False where it is absent, `Exists` for other content."""
    try:
        opened = open_versioned(location)
        if opened.size == len(data) and read_all(opened, location.uri, None)[0] == data:
            return True
    except NotFound:
        return False
    opened.stream.close()
    raise Exists(location.uri)
