"""Telling that a presigned URL has expired from any other refusal."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qs

_PHRASES = (b"expired", b"not valid in the specified time frame", b"signed expiry time")


def has_expired(query: str, body: bytes, now: datetime) -> bool:
    """By what the server says, or by the time in the query of a refused URL.

    Knows the queries of AWS and Google (…-Date with …-Expires), Azure (se) and CloudFront
    (Expires).
    """
    if any(phrase in body.lower() for phrase in _PHRASES):
        return True
    end = _end_of(parse_qs(query))
    return end is not None and end < now


def _end_of(query: dict[str, list[str]]) -> datetime | None:
    try:
        for maker in ("X-Amz", "X-Goog"):
            if f"{maker}-Expires" in query:
                start = datetime.strptime(query[f"{maker}-Date"][0], "%Y%m%dT%H%M%SZ")
                seconds = int(query[f"{maker}-Expires"][0])
                return start.replace(tzinfo=timezone.utc) + timedelta(seconds=seconds)
        if "Expires" in query:
            return datetime.fromtimestamp(int(query["Expires"][0]), timezone.utc)
        if "se" in query:
            end = datetime.fromisoformat(query["se"][0].replace("Z", "+00:00"))
            return end if end.tzinfo else end.replace(tzinfo=timezone.utc)
    except (KeyError, ValueError, OverflowError):
        return None
    return None
