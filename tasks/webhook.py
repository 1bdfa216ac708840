"""Telling a receiver how a run stands."""

from storage.errors import Unreachable
from storage.http_requests import post


def tell_receiver(url: str, body: bytes, key: str) -> None:
    """Raises a StorageError unless the receiver took it. It may come twice, under one key."""
    status = post(url, body, {"Content-Type": "application/json", "Idempotency-Key": key})
    if not 200 <= status < 300:
        raise Unreachable(url, f"was not told of {key}: it answered with status {status}")
