"""`s3://bucket/key` on AWS and on stores that speak its protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from storage.errors import NoBucket
from storage.s3_clients import client_for
from storage.s3_create import create, write
from storage.s3_errors import status_of, translating
from storage.s3_reads import open_versioned as open_versioned
from storage.s3_reads import version_of
from storage.s3_upload import open_write as open_write
from storage.streams import Entry, read_all
from storage.uris import Location, as_folder, join

_buckets_seen: set[tuple[str, str]] = set()


def get_versioned(location: Location, max_bytes: int | None) -> tuple[bytes, str]:
    return read_all(open_versioned(location), location.uri, max_bytes)


def head(location: Location) -> Entry:
    client = client_for(location)
    with translating(location):
        try:
            answer = client.head_object(Bucket=location.host, Key=location.path)
        except ClientError as error:
            if status_of(error) == 404:
                _require_bucket(client, location)
            raise
    return Entry(location.uri, int(answer["ContentLength"]), version_of(answer))


def list_entries(location: Location, starting: str) -> Iterator[Entry]:
    """Keys that end in a slash are folders made by a console, not objects."""
    folder = as_folder(location.path)
    pages = (
        client_for(location)
        .get_paginator("list_objects_v2")
        .paginate(Bucket=location.host, Prefix=folder + starting)
    )
    for page in _translated(location, iter(pages)):
        for found in page.get("Contents", ()):
            if not found["Key"].endswith("/"):
                uri = join(location.uri, found["Key"][len(folder) :])
                yield Entry(uri, int(found["Size"]), version_of(found))


def put(location: Location, data: bytes, create_only: bool) -> None:
    store = create if create_only else write
    store(location, data)


def delete(location: Location) -> None:
    with translating(location, writing=True):
        client_for(location).delete_object(Bucket=location.host, Key=location.path)


def _require_bucket(client: Any, location: Location) -> None:
    """A HEAD has no body, so a missing key and a missing bucket look the same: ask once."""
    target = (client.meta.endpoint_url, location.host)
    if target in _buckets_seen:
        return
    try:
        client.list_objects_v2(Bucket=location.host, MaxKeys=1)
    except client.exceptions.NoSuchBucket as error:
        raise NoBucket(f"s3://{location.host}") from error
    except ClientError:
        return  # not allowed to look: as far as anyone can tell, it is the key that is missing
    _buckets_seen.add(target)


def _translated(location: Location, pages: Iterator[Any]) -> Iterator[Any]:
    """The pages, with the errors of fetching one, but not those of whoever consumes them."""
    while True:
        with translating(location):
            page = next(pages, None)
        if page is None:
            return
        yield page
