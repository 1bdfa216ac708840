"""How a URI is named in messages and records: without the secrets that it may carry."""

import re

_LOGIN = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")
_OVER_HTTP = re.compile(r"(?i)^(https?://[^?#]*)\?[^#]*")
_SECRET = re.compile(r"(:\\*/\\*/)[^\s\"/\\?#]*@")
# In JSON a backslash and what follows go together.
_QUERY = re.compile(r"(?i)(https?:\\*/(?:\\.|[^\"'\\?])*)\?(?:\\.|[^\s\"\\])*")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


def without_query(uri: str) -> str:
    """The URI without user:password and, over HTTP, without the query of a presigned URL.

    A question mark in an S3 key or a file name is a part of the name and stays.
    """
    return _OVER_HTTP.sub(r"\1", _LOGIN.sub(r"\1", uri))


def without_queries(text: str) -> str:
    """JSON or other text with the URLs in it cut as `without_query` does it, or more."""
    return _QUERY.sub(r"\1", _SECRET.sub(r"\1", text))


def shown(uri: str) -> str:
    """`without_query`, printable on one line: no control characters, no undecodable bytes."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", without_query(uri))
