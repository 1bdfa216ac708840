"""Where bytes live: plain paths, S3, HTTP and memory behind one small protocol."""

from storage.entries import Entry
from storage.verbs import (
    delete,
    get,
    get_versioned,
    head,
    list_entries,
    open_from,
    open_read,
    open_write,
    put,
)

__all__ = [
    "Entry",
    "delete",
    "get",
    "get_versioned",
    "head",
    "list_entries",
    "open_from",
    "open_read",
    "open_write",
    "put",
]
