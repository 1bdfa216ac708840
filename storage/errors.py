"""What can go wrong with stored bytes: one class and one stable `kind` per cause.

Every message is one sentence of ours that starts with the URI, without query and password. The
error of the library underneath is its `__cause__`, never its wording.
"""

from typing import Any

from storage.redact import shown


class StorageError(Exception):
    """`uri` is safe to show, and `why` goes on from it."""

    kind = "storage"
    why = "cannot be used"

    def __init__(self, uri: str, why: str | None = None) -> None:
        self.uri = shown(uri)
        self.why = why or type(self).why
        super().__init__(f"{self.uri} {self.why}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.uri, self.why)


class NotFound(StorageError, FileNotFoundError):
    kind = "not-found"
    why = "does not exist"


class Denied(StorageError, PermissionError):
    kind = "denied"
    why = "may not be read: access was denied"


class Exists(StorageError, FileExistsError):
    kind = "exists"
    why = "exists already, with other content"


class TooLarge(StorageError):
    kind = "too-large"


class Expired(StorageError):
    kind = "expired"
    why = "is a presigned URL that has expired"


class Unreachable(StorageError):
    """An HTTP input that gives no answer: a matter of that input, not of a store."""

    kind = "unreachable"


class Unavailable(StorageError):
    """A store that stays away after all retries: no fault of the object asked for."""

    kind = "unavailable"
    why = "could not be reached: its store does not answer"


class NoBucket(StorageError):
    kind = "no-bucket"
    why = "is a bucket that does not exist"


class NoCredentials(StorageError):
    kind = "no-credentials"
    why = "needs credentials, and none were found"


class Full(StorageError):
    kind = "full"
    why = "could not be written: the disk or the quota is full"


class NotWritable(StorageError, PermissionError):
    kind = "not-writable"
    why = "may not be written"


class Refused(StorageError):
    kind = "refused"


class BadUri(StorageError, ValueError):
    kind = "bad-uri"


class BadSetting(StorageError, ValueError):
    """An environment variable that does not validate; `uri` is its name."""

    kind = "bad-setting"
