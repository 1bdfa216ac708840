"""The kinds of storage errors, which stand in stored records."""

from __future__ import annotations

from storage import errors


def test_kinds_are_what_stored_records_say() -> None:
    assert {each.kind for each in errors.OfOneInput.__subclasses__()} == {
        "bad-uri",
        "denied",
        "expired",
        "not-found",
        "refused",
        "too-large",
        "unreachable",
    }
    of_a_store = {*errors.StorageError.__subclasses__()} - {errors.OfOneInput}
    assert {each.kind for each in of_a_store} == {
        "bad-setting",
        "exists",
        "full",
        "no-bucket",
        "no-credentials",
        "not-writable",
        "unavailable",
    }
    assert errors.Interrupted.kind == "unreachable"
