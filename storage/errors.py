"""What can go wrong with stored bytes: one class per cause, whose name is its stable `kind`.

Every message is one sentence of ours that starts with the URI, named as it is in all messages and
records: without the secrets that it may carry. The error of the library underneath is its
`__cause__`, never its wording.
"""

import re
from typing import Any

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


class StorageError(Exception):
    """`uri` is safe to show, and `why` goes on from it. The kind of `NotFound` is "not-found"."""

    kind: str
    why = "cannot be used"

    def __init_subclass__(cls) -> None:
        cls.kind = cls.__dict__.get("kind") or re.sub(r"\B(?=[A-Z])", "-", cls.__name__).lower()

    def __init__(self, uri: str, why: str | None = None) -> None:
        self.uri = shown(uri)
        self.why = why or type(self).why
        super().__init__(f"{self.uri} {self.why}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.uri, self.why)


class OfOneInput(StorageError):
    """Wrong with one input; any other is wrong with its store, and with all in it."""


class NotFound(OfOneInput, FileNotFoundError):
    why = "does not exist"


class Denied(OfOneInput, PermissionError):
    why = "may not be read: access was denied"


class Exists(StorageError, FileExistsError):
    why = "exists already, with other content"


class TooLarge(OfOneInput):
    """More bytes than whoever reads or stores them takes."""


class Expired(OfOneInput):
    why = "is a presigned URL that has expired"


class Unreachable(OfOneInput):
    """An HTTP input that gives no answer: a matter of that input, not of a store."""


class Interrupted(Unreachable):
    """What may pass: worth another attempt."""

    kind = "unreachable"


class Unavailable(StorageError):
    """A store that stays away after all retries: no fault of the object asked for."""

    why = "could not be reached: its store does not answer"


class NoBucket(StorageError):
    why = "is a bucket that does not exist"


class NoCredentials(StorageError):
    why = "needs credentials, and none were found"


class Full(StorageError):
    why = "could not be written: the disk or the quota is full"


class NotWritable(StorageError, PermissionError):
    why = "may not be written"


class Refused(OfOneInput):
    """What is not read on principle: a device, an inner address."""


class BadUri(OfOneInput, ValueError):
    """What no store could take."""


class BadSetting(StorageError, ValueError):
    """An environment variable that does not validate; `uri` is its name."""
