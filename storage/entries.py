"""What a listing says of one stored object."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """`version` changes when the content does: an ETag, or "size-mtime_ns" for files.

    `size` is -1 where an HTTP server does not tell it.
    """

    uri: str
    size: int
    version: str
