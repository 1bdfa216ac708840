"""Patterns in URIs: `*`, `?` and `[…]` stay inside one path part, `**` as a whole part crosses.

An HTTP URI holds no pattern: its question mark starts the query. A file may be called `a[1].jpg`,
so whoever reads patterns looks first whether the URI exists as it stands.
"""

import fnmatch
import glob
import os
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from storage import Entry, list_entries
from storage.uris import parse, relative

_MAGIC = re.compile(r"[*?]|\[[^/]+\]")
_PERCENT_ENCODED = re.compile(r"(?:%[0-9A-Fa-f]{2})+")


class Glob(NamedTuple):
    """`root` is the folder to list, `start` how every matching path below it begins."""

    root: str
    start: str
    parts: tuple[str, ...]

    def matches(self, relative_path: str) -> bool:
        """By how many names the pattern so far may have taken up: never in exponential time."""
        names = relative_path.split("/")
        taken = {0}
        for part in self.parts:
            if part == "**":
                taken = set(range(min(taken, default=len(names) + 1), len(names) + 1))
            else:
                followed = (n for n in taken if n < len(names))
                taken = {n + 1 for n in followed if fnmatch.fnmatchcase(names[n], part)}
        return len(names) in taken


def is_glob(uri: str) -> bool:
    return parse(uri).scheme not in ("http", "https") and _MAGIC.search(uri) is not None


def parse_glob(uri: str) -> Glob:
    """Split a pattern into the folder before it and the pattern of the paths below."""
    magic = _MAGIC.search(uri)
    cut = uri.rfind("/", 0, magic.start() if magic else len(uri)) + 1
    root, pattern = uri[:cut] or "./", uri[cut:]
    if uri[: len("file://")].lower() == "file://":
        pattern = _PERCENT_ENCODED.sub(_literal, pattern)
    first = _MAGIC.search(pattern)
    return Glob(root, pattern[: first.start() if first else None], tuple(pattern.split("/")))


def _literal(encoded: re.Match[str]) -> str:
    return glob.escape(os.fsdecode(unquote_to_bytes(encoded[0])))


def expand(uri: str) -> Iterator[Entry]:
    """The entries that match, streaming, in UTF-8 key order."""
    pattern = parse_glob(uri)
    for entry in list_entries(pattern.root, starting=pattern.start):
        if pattern.matches(relative(entry.uri, pattern.root)):
            yield entry
