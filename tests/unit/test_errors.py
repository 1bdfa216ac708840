"""The kinds of storage errors, which stand in stored records."""

from __future__ import annotations

from storage import errors
from storage.http_requests import Interrupted


def test_kinds_are_what_stored_records_say() -> None:
    found = {each.kind for each in errors.StorageError.__subclasses__()}
    assert found == {
        "bad-setting",
        "bad-uri",
        "denied",
        "exists",
        "expired",
        "full",
        "no-bucket",
        "no-credentials",
        "not-found",
        "not-writable",
        "refused",
        "too-large",
        "unavailable",
        "unreachable",
    }
    assert Interrupted.kind == "unreachable"
